"""Exported models are tried in a process that cannot import this package."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from trainer.export import readback

ROOT = pathlib.Path(__file__).resolve().parents[2]


@keras.saving.register_keras_serializable(package="trainer")
class OfOurs(keras.layers.Layer):
    """A layer that a process without this file does not know."""

    def call(self, inputs):
        return inputs


def test_a_keras_file_that_needs_code_of_its_maker_is_found_out(tmp_path):
    keras.Sequential([keras.Input([2]), OfOurs()]).save(tmp_path / "model.keras")
    with pytest.raises(RuntimeError, match="OfOurs"):
        call = readback.Call("", {"ids": np.zeros([1, 2], np.int32)})
        readback.answers({str(tmp_path / "model.keras"): [call]})


def test_where_exported_models_are_tried_no_module_of_ours_can_be_imported(tmp_path):
    probe = tmp_path / "trainer" / "export" / "readback.py"
    probe.parent.mkdir(parents=True)
    attempts = "".join(
        f"    try:\n        import {name}; print('imported')\n    except ImportError:\n        "
        "pass\n"
        for name in ("trainer", "trainer.flags", "exit_codes", "command")
    )
    probe.write_text(pathlib.Path(readback.__file__).read_text() + attempts)
    request = json.dumps({"modules": [str(ROOT), *sys.path], "calls": {}})
    answer = subprocess.run(
        [sys.executable, "-I", probe], input=request, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["{}"]


@pytest.mark.parametrize(
    "array",
    [
        np.array(7, np.int64),
        np.array([[0.1, np.inf]], np.float32),
        np.zeros([0, 3], np.float32),
        np.array([[b"a\0", b"\xff"], [b"", b"\n"]], object),
        np.zeros([0], object),
    ],
)
def test_arrays_come_back_as_they_were_sent(array):
    back = readback._array(json.loads(json.dumps(array, default=readback._plain)))
    assert (back.dtype, back.shape, back.tolist()) == (array.dtype, array.shape, array.tolist())
