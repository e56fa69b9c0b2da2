"""Loads and calls exported models in a process that has TensorFlow and Keras but not this package.

`answers` runs this very file as a program of its own, so it must import nothing of the package.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Call(NamedTuple):
    """A call of an exported model.

    signature: of a SavedModel; "" calls a Keras model with the arguments in their order. arguments:
    {name: array}; strings are arrays of bytes objects.
    """

    signature: str
    arguments: Mapping[str, np.ndarray]


Answer = dict[str, np.ndarray]  # {name of an output: array}, strings as in `Call`.


def answers(calls: Mapping[str, Sequence[Call]]) -> dict[str, list[Answer]]:
    """Loads exported models in a fresh process and calls each.

    Args:
      calls: {path: calls}. A folder is a SavedModel, a file is a Keras model.

    Returns:
      {path: the answer to each call}.

    Raises:
      RuntimeError: a model could not be loaded or called; the message is what the process said.
    """
    # Isolated, or the modules beside this file could be imported by their bare names. That also
    # hides where PYTHONPATH and the user's own site have TensorFlow, so this process says where it
    # looks for modules.
    request = json.dumps({"modules": sys.path, "calls": calls}, default=_plain)
    # On the CPU: a GPU multiplies float32 with fewer bits than a comparison allows for.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
    process = subprocess.run(
        [sys.executable, "-I", __file__],
        input=request,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}\n{process.stderr.strip()}")
    found = json.loads(process.stdout.splitlines()[-1])  # Libraries may have printed before.
    return {
        path: [{name: _array(value) for name, value in one.items()} for one in of_path]
        for path, of_path in found.items()
    }


def _plain(array: np.ndarray) -> dict:
    """Returns an array as JSON can hold it; bytes become characters 0 to 255."""
    if array.dtype == object:
        strings = [value.decode("latin-1") for value in array.ravel()]
        return {"shape": array.shape, "strings": strings}
    values = base64.b64encode(array.tobytes()).decode()
    return {"shape": array.shape, "dtype": array.dtype.str, "values": values}


def _array(plain: Mapping) -> np.ndarray:
    """Returns the array that `_plain` was given."""
    if "strings" in plain:
        array = np.empty(len(plain["strings"]), object)
        array[:] = [value.encode("latin-1") for value in plain["strings"]]
    else:
        array = np.frombuffer(base64.b64decode(plain["values"]), plain["dtype"])
    return array.reshape(plain["shape"])


# --- In the fresh process -------------------------------------------------------------------------


def _answer_request() -> None:
    request = json.load(sys.stdin)
    sys.path[:] = request["modules"]
    # To import the package fails, wherever it is installed.
    sys.modules[pathlib.Path(__file__).parents[1].name] = None
    found = {}
    for path, calls in request["calls"].items():
        call = _saved_model(path) if os.path.isdir(path) else _keras_model(path)
        found[path] = [
            call(signature, {name: _array(value) for name, value in arguments.items()})
            for signature, arguments in calls
        ]
    print("\n" + json.dumps(found, default=_plain))


def _saved_model(path):
    import tensorflow as tf

    signatures = tf.saved_model.load(path).signatures

    def call(signature, arguments):
        given = {
            name: tf.constant(value.ravel().tolist(), tf.string, value.shape)
            if value.dtype == object
            else tf.constant(value)
            for name, value in arguments.items()
        }
        return {name: value.numpy() for name, value in signatures[signature](**given).items()}

    return call


def _keras_model(path):
    import keras

    model = keras.models.load_model(path)
    [output] = model.output_names

    def call(signature, arguments):
        given = list(arguments.values())
        return {output: model(given if len(given) > 1 else given[0]).numpy()}

    return call


if __name__ == "__main__":
    _answer_request()
