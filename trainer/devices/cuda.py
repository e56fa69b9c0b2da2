"""What CUDA is told before TensorFlow is imported, and how TensorFlow's kernels reach a GPU."""

import pathlib
import re
from collections.abc import Mapping, Sequence

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


FORMS = ("none", "ptx", "mixed", "native")


def form(capability: tuple[int, int], built_for: Sequence[str]) -> str:
    """Returns in which form a build of TensorFlow has its kernels for a GPU: one of FORMS.

    native: machine code, which runs at once. ptx: intermediate code, which the driver compiles at
    the first use of each kernel. mixed: machine code for some kernels, intermediate code for all.
    none: the kernels cannot run.

    The name of an architecture is `sm_XY` for machine code, and `compute_XY` for intermediate code.
    Machine code runs on X.Y and later minor versions of X, intermediate code on all later GPUs. A
    build for `compute_XY` also has machine code for X.Y of the kernels that its C++ compiler made,
    and not of those that its kernel generator made: in the wheel of TensorFlow 2.21, 289 of 1,438
    groups of kernels for compute_90.

    Args:
      capability: of the GPU: (9, 0).
      built_for: as `tf.sysconfig.get_build_info` has them: ["sm_80", "compute_90"].
    """
    found = {"none"}
    for name in built_for:
        parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)", name)
        if not parts:
            continue  # sm_90a and the like: code that runs on one version only.
        major, minor = int(parts[2]), int(parts[3])
        runs = major == capability[0] and minor <= capability[1]
        if runs:
            found.add("native" if parts[1] == "sm" else "mixed")
        elif parts[1] == "compute" and (major, minor) < capability:
            found.add("ptx")
    return max(found, key=FORMS.index)
