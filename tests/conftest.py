"""Settings of all tests: options, a quiet TensorFlow and four logical CPU devices."""

import importlib.metadata
import os
import signal
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A process that a script starts in the background ignores Ctrl-C, and one under nohup a closed
# terminal; so would all programs that it tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption(
        "--cluster",
        action="store_true",
        help="also run the tests on a Kubernetes cluster of this machine",
    )
    parser.addoption(
        "--cluster_quick",
        action="store_true",
        help="also run a small part of the tests on a cluster; without a cluster they are skipped",
    )
    parser.addoption(
        "--gpu_wheel",
        action="store_true",
        help="also run the tests that read the kernels of TensorFlow's wheel for GPUs",
    )
    parser.addoption(
        "--tpu_compiler", action="store_true", help="also run the tests that compile for TPUs"
    )
    parser.addoption(
        "--record_digests",
        action="store_true",
        help="write this machine's digests into digests.json",
    )


# The files that take longest. They begin first, so that no process ends long after the others.
LONG_FILES = (
    "workers_test.py",
    "resume_test.py",
    "gang/supervisor_test.py",
    "chaos/command_test.py",
    "smoke_test.py",
    "steps/streams_test.py",
    "steps/stepwise_test.py",
)


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(LONG_FILES))
    for name, reason in (
        ("slow", "takes minutes: run with --slow"),
        ("cluster", "needs a cluster: run with --cluster"),
        ("gpu_wheel", "needs TensorFlow's wheel for GPUs: run scripts/test.sh --gpu_wheel"),
        ("tpu_compiler", "needs libtpu: run scripts/test.sh --tpu_compiler"),
    ):
        if not config.getoption(f"--{name}"):
            for item in items:
                quick = config.getoption("--cluster_quick")
                if name == "cluster" and quick and item.get_closest_marker("cluster_quick"):
                    continue
                if item.get_closest_marker(name):
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish():
    """Sets the number of devices, which TensorFlow accepts only before its first operation.

    No test module runs an operation at its import.
    """
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 4
        )


@pytest.fixture
def installed(monkeypatch):
    """A function that makes exactly these distributions installed: {name: version}."""

    def install(versions: dict[str, str]) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(importlib.metadata, "version", version)

    return install
