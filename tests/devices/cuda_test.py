"""The variables that CUDA reads, and the form of the kernels."""

import pathlib

import pytest

from trainer.devices import cuda

LARGEST = "4294967296"


@pytest.mark.parametrize(
    "environ, settings",
    [
        ({}, {"CUDA_CACHE_PATH": "/m/cuda_cache/0", "CUDA_CACHE_MAXSIZE": LARGEST}),
        (
            {"RNN_TRAINER_WORKER": "3"},
            {"CUDA_CACHE_PATH": "/m/cuda_cache/3", "CUDA_CACHE_MAXSIZE": LARGEST},
        ),
        ({"CUDA_CACHE_MAXSIZE": "9"}, {"CUDA_CACHE_PATH": "/m/cuda_cache/0"}),
        (
            {"CUDA_CACHE_DISABLE": "0", "CUDA_CACHE_MAXSIZE": "9"},
            {"CUDA_CACHE_PATH": "/m/cuda_cache/0"},
        ),
        # The user decided.
        ({"CUDA_CACHE_PATH": "/c"}, {}),
        ({"CUDA_CACHE_DISABLE": "1"}, {}),
    ],
)
def test_compiled_kernels_are_kept_beside_the_model_unless_the_user_decided(environ, settings):
    assert cuda.kernel_cache("/m", environ) == settings


def test_a_relative_model_folder_becomes_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = cuda.kernel_cache("model", {})["CUDA_CACHE_PATH"]
    assert path == str(pathlib.Path(tmp_path, "model/cuda_cache/0"))


def test_cublas_has_workspaces_of_one_size():
    """Two sizes, :4096:2:16:8, are the default that does not repeat."""
    assert cuda.REPEATABLE["CUBLAS_WORKSPACE_CONFIG"].count(":") == 2


WHEEL = ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"]  # TensorFlow 2.21


@pytest.mark.parametrize(
    "capability, built_for, form",
    [
        ((8, 0), WHEEL, "native"),
        ((8, 6), WHEEL, "native"),  # that of 8.0
        ((7, 5), WHEEL, "native"),
        ((9, 0), WHEEL, "mixed"),
        ((10, 0), WHEEL, "ptx"),
        ((12, 0), WHEEL, "ptx"),
        ((5, 2), WHEEL, "none"),
        ((9, 0), ["sm_80"], "none"),
        ((8, 0), ["sm_86"], "none"),  # Machine code runs on later minor versions, not on earlier.
        ((9, 0), ["sm_90", "compute_90"], "native"),
        ((12, 0), ["sm_120"], "native"),
        ((9, 0), ["sm_90a"], "none"),
        ((9, 0), [], "none"),
    ],
)
def test_kernels_run_at_once_or_after_the_driver_compiled_them_or_not_at_all(
    capability, built_for, form
):
    assert cuda.form(capability, built_for) == form
