"""Loads and calls exported models in a process that has TensorFlow and Keras but not this package.

`answers` runs this very file as a program of its own, so it must import nothing of the package.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Answer(NamedTuple):
    """probabilities: float32 [rows, classes]; labels: one for each row, none from a Keras model."""

    probabilities: np.ndarray
    labels: list[str]


def answers(groups: Mapping[str, Sequence]) -> dict[str, list[Answer]]:
    """Loads exported models in a fresh process and calls each with each of its groups.

    Args:
      groups: {path: inputs of each call}. A folder is a SavedModel: an input is a list of texts
        (bytes). A file is a Keras model: an input is int32 [rows, length].

    Returns:
      {path: an answer for each group}.

    Raises:
      RuntimeError: a model could not be loaded or called; the message is what the process said.
    """
    # Isolated, or the modules beside this file could be imported by their bare names. That also
    # hides where PYTHONPATH and the user's own site have TensorFlow, so this process says where it
    # looks for modules.
    request = json.dumps({"modules": sys.path, "groups": groups}, default=_plain)
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
        path: [Answer(_array(probabilities, np.float32), labels) for probabilities, labels in calls]
        for path, calls in found.items()
    }


def _plain(value):
    """What JSON lacks: bytes, which become characters 0 to 255, and arrays, which keep their shape
    without rows.
    """
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return {"shape": value.shape, "values": value.ravel().tolist()}


def _array(plain, dtype) -> np.ndarray:
    return np.array(plain["values"], dtype).reshape(plain["shape"])


# --- In the fresh process -------------------------------------------------------------------------


def _answer_request() -> None:
    request = json.load(sys.stdin)
    sys.path[:] = request["modules"]
    # To import the package fails, wherever it is installed.
    sys.modules[pathlib.Path(__file__).parents[1].name] = None
    found = {}
    for path, groups in request["groups"].items():
        call = _saved_model(path) if os.path.isdir(path) else _keras_model(path)
        found[path] = [call(group) for group in groups]
    print("\n" + json.dumps(found, default=_plain))


def _saved_model(path):
    import tensorflow as tf

    classify = tf.saved_model.load(path).signatures["serving_default"]

    def call(texts):
        answer = classify(
            text=tf.constant([text.encode("latin-1") for text in texts], tf.string, [len(texts)])
        )
        return answer["probabilities"].numpy(), [
            label.decode() for label in answer["label"].numpy()
        ]

    return call


def _keras_model(path):
    import keras

    model = keras.models.load_model(path)
    return lambda ids: (model(_array(ids, np.int32)).numpy(), [])


if __name__ == "__main__":
    _answer_request()
