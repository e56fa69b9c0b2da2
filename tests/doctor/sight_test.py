"""The program that imports TensorFlow for the doctor, called as a function and as a process."""

import json
import os
import subprocess
import sys
import types

import pytest
import tensorflow as tf

from tests import commands
from trainer.doctor import sight


@pytest.mark.parametrize(
    "cell, jit, implementation", [("lstm", "auto", "ours"), ("gru", "off", "keras")]
)
def test_tensorflow_reports_what_it_sees_and_which_implementation_it_would_use(
    cell, jit, implementation
):
    seen = sight.look("auto", "auto", cell, jit)
    assert (
        seen["visible"]["CPU"] >= 1
        and seen["backend"] == "tensorflow"
        and seen["implementation"][0] == implementation
    )


def test_as_a_program_it_prints_the_same_as_one_line_of_json():
    command = [sys.executable, "-m", "trainer.doctor.sight", "cpu", "auto", "lstm", "auto"]
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=commands.PROJECT,
        env={**os.environ, "PYTHONPATH": str(commands.PROJECT)},
        timeout=commands.SECONDS,
    )
    assert answer.returncode == 0, answer.stderr
    seen = json.loads(answer.stdout.splitlines()[-1])
    assert set(seen) == {"visible", "problem", "backend", "implementation", "gpus", "built_for"}
    assert set(seen["visible"]) == {"CPU", "GPU", "TPU"} and len(seen["implementation"]) == 2


def test_a_gpu_is_named_with_its_capability(monkeypatch):
    gpu = types.SimpleNamespace(name="/physical_device:GPU:0", device_type="GPU")
    details = {"device_name": "NVIDIA L4", "compute_capability": (8, 9)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu] * (kind == "GPU"))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    monkeypatch.setattr(
        tf.sysconfig, "get_build_info", lambda: {"cuda_compute_capabilities": ["sm_89"]}
    )
    seen = sight.look("auto", "auto", "lstm", "auto")
    assert seen["gpus"] == [("NVIDIA L4", (8, 9))] and seen["built_for"] == ["sm_89"]
    assert seen["implementation"][0] == "keras"


@pytest.mark.parametrize("cores, problem", [(8, ""), (0, "TPU in use")])
def test_tpus_are_counted_after_their_initialisation(cores, problem, monkeypatch):
    """The list of physical devices may be empty before."""
    initialised = []

    def connect(address):
        if problem:
            raise tf.errors.NotFoundError(None, None, f"{problem}\n[more]")
        initialised.append(address)

    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    monkeypatch.setattr(resolver, "connect", staticmethod(connect))
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind: [kind] * (cores if initialised else 0)
    )
    seen = sight.look("auto", "tpu", "lstm", "auto")
    assert (seen["visible"]["TPU"], seen["problem"]) == (cores, problem)
    assert seen["implementation"][0] == "ours"
