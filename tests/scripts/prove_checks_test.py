"""What the checks of a GPU expect, told by reports as a GPU would give them: a fault at a time."""

import copy
import json

import pytest

from scripts.prove import judge
from scripts.prove.checks import placement, replicas, versions
from scripts.prove.report import Found

CUDNN = judge.Placed("while/CudnnRNNV3", "CudnnRNNV3", "GPU:0")
SEEN = {
    "planes": {
        "/device:GPU:0": {
            "events": {"MemcpyD2H": 22, "MemcpyH2D": 40, "gemm": 900},
            "operations": {"CudnnRNNV3": 10, "CudnnRNNBackpropV3": 10},
            "busy": 0.8,
        },
        "/host:CPU": {"events": {}, "operations": {}, "busy": 0.1},
    },
    "memory": {"grows": True, "current": 1000, "peak": 2000},
}


@pytest.fixture
def found(tmp_path):
    return Found(tmp_path / "found.json")


def test_a_gpu_that_does_all_right_has_no_problem_and_its_figures_are_on_disk(found, tmp_path):
    placement.on_gpu(SEEN, [CUDNN], 10, found)
    assert found.problems == []
    assert found.figures["copies to the host per step"] == 2.2
    assert found.figures["kernels launched per step"] == 90
    assert json.loads((tmp_path / "found.json").read_text())["figures"] == found.figures


@pytest.mark.parametrize(
    "placed, events, grows, problem",
    [
        ([], {}, True, "CudnnRNNV3 is not on the GPU alone: it is nowhere"),
        ([CUDNN, CUDNN._replace(device="CPU:0")], {}, True, "'CPU:0': 1"),
        ([CUDNN], {"MemcpyD2H": 23}, True, "23 copies to the host in 10 steps"),
        ([CUDNN], {"gemm": 0}, True, "no kernel on a GPU"),
        ([CUDNN], {}, False, "all memory of the GPU"),
    ],
)
def test_a_fault_of_the_placement_is_one_problem(placed, events, grows, problem, found):
    seen = copy.deepcopy(SEEN)
    seen["planes"]["/device:GPU:0"]["events"].update(events)
    seen["memory"]["grows"] = grows
    placement.on_gpu(seen, placed, 10, found)
    assert len(found.problems) == 1 and problem in found.problems[0]


NCCL = "node:1:2 [0] NCCL INFO comm 0x1 rank 0 nranks 2\n"
SUM = "while/AddN: (AddN): /job:localhost/replica:0/task:0/device:CPU:0\n"


@pytest.mark.parametrize(
    "log, problems", [(NCCL, []), ("", ["no NCCL"]), (NCCL + SUM, ["added on a CPU"])]
)
def test_gpus_of_one_process_must_add_by_nccl(log, problems, found):
    replicas.on_gpus(found, 2, log)
    assert len(found.problems) == len(problems)
    assert all(part in text for part, text in zip(problems, found.problems))


@pytest.mark.parametrize(
    "gpus, problem",
    [
        ([], "sees no GPU"),
        ([{"name": "NVIDIA L4", "capability": [8, 9]}], ""),
        ([{"name": "NVIDIA B200", "capability": [10, 0]}], ""),  # By the intermediate code.
        ([{"name": "Tesla K80", "capability": [3, 7]}], "no kernels for capability 3.7"),
    ],
)
def test_tensorflow_must_have_kernels_for_the_gpu(gpus, problem, found):
    seen = {
        "build": {},
        "built_for": ["sm_60", "sm_80", "sm_89", "compute_90"],
        "gpus": gpus,
        **dict.fromkeys(("libcuda", "cudnn", "nccl"), ""),
    }
    versions.on_gpu(seen, found)
    assert [problem in text for text in found.problems] == ([True] if problem else [])
    assert found.device == ", ".join(gpu["name"] for gpu in gpus)
