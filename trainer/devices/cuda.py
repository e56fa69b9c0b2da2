"""The environment of CUDA's libraries, to be set before TensorFlow is imported."""

import pathlib
from collections.abc import Mapping

# By default cuBLAS has workspaces of two sizes and takes whichever is free, and the size chooses
# the kernel: two runs of cuDNN's LSTM may differ in their last bits. With one size they do not
# (cuDNN 7.6.5 release notes, "Limitations"; cuBLAS, "Results Reproducibility", which names this
# value and :16:8, and 24 MiB of GPU memory as its price). Without a GPU it has no effect.
REPEATABLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

# The most that CUDA allows. All kernels of TensorFlow that a GPU needs do not fit into the default
# of 1 GiB, and what does not fit is compiled again at every start.
_LARGEST_CACHE = 4 * 2**30


def kernel_cache(model_dir: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that make CUDA keep compiled kernels in MODEL_DIR/cuda_cache/WORKER.

    TensorFlow brings no machine code for some GPUs. Then the driver compiles each kernel at its
    first use and keeps it, by default below HOME, which is lost with a pod. Each worker has a
    folder of its own: the driver locks its cache, and locks of shared storage may fail.

    environ: the environment of the process. Variables that it sets are not returned; {} if it names
    another cache or wants none.
    """
    if "CUDA_CACHE_PATH" in environ or environ.get("CUDA_CACHE_DISABLE", "0") != "0":
        return {}
    worker = environ.get("RNN_TRAINER_WORKER", "0")  # The supervisor sets it.
    settings = {
        # Absolute: what CUDA resolves a relative path against is not documented.
        "CUDA_CACHE_PATH": str(pathlib.Path(model_dir, "cuda_cache", worker).absolute()),
        "CUDA_CACHE_MAXSIZE": str(_LARGEST_CACHE),
    }
    return {name: value for name, value in settings.items() if name not in environ}
