"""Compares the layers of Keras (cuDNN's kernels on a GPU) with our recurrences; prints JSON.

    python -m scripts.prove.programs.recurrences DEVICE CELL [CELL ...]

Random weights and inputs in float32 at the highest precision of products. The line is {cell:
{"hidden", "gradient": largest difference, relative to the largest value; "cudnn": whether the graph
has cuDNN's kernel}}.
"""

import contextlib
import io
import json
import sys

from trainer.main import main as trainer

ROWS, TIME, WIDTH, UNITS = 16, 20, 8, 12
SHAPES = {"simple_rnn": (1, [UNITS]), "lstm": (4, [4 * UNITS]), "gru": (3, [2, 3 * UNITS])}


def compared(cell: str, device: str) -> dict[str, float | bool]:
    """Returns the differences of one cell."""
    import numpy as np
    import tensorflow as tf

    from trainer.models import recurrent

    chance = np.random.default_rng(0)
    gates, bias = SHAPES[cell]
    arrays = [
        chance.normal(size=shape, scale=0.4).astype(np.float32)
        for shape in ([WIDTH, gates * UNITS], [UNITS, gates * UNITS], bias, [ROWS, TIME, WIDTH])
    ]
    found, has_cudnn = [], False
    for implementation in ("keras", "ours"):
        run = recurrent.recurrence(cell, implementation)

        def computed(*tensors, run=run):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                hidden, _ = run(tensors[:3], tensors[3])
                total = tf.reduce_sum(hidden * hidden)
            return [hidden, *tape.gradient(total, tensors)]

        with tf.device(device):
            function = tf.function(computed, jit_compile=implementation == "ours", autograph=False)
            tensors = [tf.constant(array) for array in arrays]
            found.append([value.numpy() for value in function(*tensors)])
            if implementation == "keras":
                graph = function.get_concrete_function(*tensors).graph.as_graph_def()
                names = {node.op for node in graph.node}
                names |= {node.op for each in graph.library.function for node in each.node_def}
                has_cudnn = any(name.startswith("CudnnRNN") for name in names)
    differences = [
        float(np.abs(ours - keras).max() / max(np.abs(keras).max(), 1e-30))
        for keras, ours in zip(*found)
    ]
    return {"hidden": differences[0], "gradient": max(differences[1:]), "cudnn": has_cudnn}


def main() -> None:
    device, *cells = sys.argv[1:]
    # It sets variables of TensorFlow before its import, as every command does.
    with contextlib.redirect_stdout(io.StringIO()):
        trainer(["--help"])
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    print(json.dumps({cell: compared(cell, device) for cell in cells}))


if __name__ == "__main__":
    main()
