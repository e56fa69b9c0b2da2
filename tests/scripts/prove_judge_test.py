"""What the device proof concludes from logs, journals, profiles and nvidia-smi: tables of cases."""

import json

import pytest

from scripts.prove import command, judge, report
from scripts.prove.checks import CHECKS
from scripts.prove.programs import watch

A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    "output, expected",
    [
        (f"epoch 1 step 5 loss 1.0\ndone step=10 state_digest={A}\n", A),
        (f"done step=1 state_digest={A}\nx: (_Arg): y\ndone step=2 state_digest={B}\n", B),
        (f"stopped step=5 state_digest={A}\n", None),
        (f"chatter done step=5 state_digest={A}\n", None),
        ("", None),
    ],
)
def test_the_digest_is_that_of_the_last_done_line(output, expected):
    assert judge.digest(output) == expected


@pytest.mark.parametrize(
    "ours, theirs, expected",
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([1.0], [1.0, 2.0], float("inf")),
        ([], [], float("inf")),
        ([1.0, float("nan")], [1.0, 2.0], float("inf")),
        ([1.0, 2.0], [float("nan"), 2.0], float("inf")),
    ],
)
def test_losses_that_are_missing_or_not_finite_differ_infinitely(ours, theirs, expected):
    assert judge.largest_difference(ours, theirs) == pytest.approx(expected)


def event(name, second, **fields):
    return {"event": name, "time": f"2026-01-01T00:00:{second:02}+00:00", "attempt": 1, **fields}


def loop(second, steps, seconds=1.0, waited=0.0, **fields):
    return event("loop", second, steps=steps, seconds=seconds, input_seconds=waited, **fields)


def test_the_pace_leaves_out_the_first_line_and_the_compilations():
    events = [
        event("compile", 1, seconds=9.0, program="loop"),
        loop(2, 1, seconds=7.0, waited=5.0),
        event("compile", 3, seconds=9.0, length=16),
        loop(4, 10, seconds=2.0, waited=0.5),
        loop(6, 30, seconds=2.0, waited=0.3),
    ]
    pace = judge.pace(events)
    assert (pace.steps, pace.ms_per_step, pace.input_ms) == (40, 100.0, 20.0)
    assert judge.compile_seconds(events) == {"loop": 9.0, "16": 9.0}
    assert judge.pace(events[:2]) is None and judge.pace([]) is None
    begin, end = judge.training_window(events)
    assert end - begin == 4.0 and judge.training_window(events[:2]) is None


def test_recovery_is_the_first_step_of_a_later_attempt():
    events = [loop(1, 5), loop(9, 5, attempt=2), loop(12, 5, attempt=2)]
    kill = judge.since_epoch(loop(3, 0))
    assert judge.first_step(events, kill, 1) == 6.0
    assert judge.first_step(events, kill, 2) is None


LOG = """\
I0000 00:17 12 placer.cc:162] while/AddN: (AddN): /job:localhost/replica:0/task:0/device:CPU:0
while/body/lstm/CudnnRNNV3: (CudnnRNNV3): /job:localhost/replica:0/task:0/device:GPU:0
AddN: (AddN): /job:localhost/replica:0/task:0/device:CPU:0
while/body/AddN_1: (AddN): /job:worker/replica:0/task:1/device:GPU:1
03:52:21 rnn_0: ours of lstm: compiled by XLA for CPU
x: (_Arg): /job:localhost/replica:0/task:0
"""


def test_nodes_and_their_devices_are_found_among_other_lines():
    placed = judge.placements(LOG)
    assert [(each.operation, each.device) for each in placed] == [
        ("AddN", "CPU:0"),
        ("CudnnRNNV3", "GPU:0"),
        ("AddN", "CPU:0"),
        ("AddN", "GPU:1"),
    ]
    assert judge.devices_of(placed, "AddN") == {"CPU:0": 2, "GPU:1": 1}
    assert judge.sums_on_cpu(placed) == ["while/AddN"]


@pytest.mark.parametrize(
    "judgement, text, expected",
    [
        (judge.uses_nccl, "host:1:2 [0] NCCL INFO Bootstrap : Using eth0", True),
        (judge.uses_nccl, "RING collectives", False),
        (judge.out_of_memory, "RESOURCE_EXHAUSTED: failed to allocate memory", True),
        (judge.out_of_memory, "failed to alloc: CUDA_ERROR_OUT_OF_MEMORY: out of memory", True),
        (judge.out_of_memory, "restored step 20", False),
        (judge.kills, f"kill 1 saving, at\nkill 2 training\nundisturbed {A}", 2),
        (judge.kills, "fault 1 kill_worker worker 0", 1),
        (judge.kills, f"undisturbed {A}", 0),
        (judge.gpus_listed, "GPU 0: NVIDIA L4 (UUID: x)\nGPU 1: NVIDIA L4 (UUID: y)\n", 2),
        (judge.gpus_listed, "", 0),
    ],
)
def test_a_text_is_judged(judgement, text, expected):
    assert judgement(text) == expected


@pytest.mark.parametrize(
    "listed, variable, expected",
    [(4, None, 4), (4, "0,1", 2), (4, "", 0), (4, "-1", 0), (4, "2,-1,3", 1), (1, "0,1", 1)],
)
def test_gpus_that_cuda_hides_do_not_count(listed, variable, expected):
    assert judge.visible_gpus(listed, variable) == expected


def test_the_gpu_is_as_busy_as_the_median_sample_inside_the_window():
    samples = [(1.0, "0\n"), (5.0, "90\n"), (6.0, "80\n100\n"), (7.0, "20"), (8.0, ""), (99.0, "5")]
    assert judge.busy(samples, (4.0, 9.0)) == 90
    assert judge.busy(samples, (200.0, 300.0)) is None


PROFILE = {
    "/device:GPU:0": {
        "events": {"MemcpyD2H": 4, "MemcpyH2D": 9, "Memset": 1, "gemm": 30},
        "operations": {"CudnnRNNV3": 10},
    },
    "/device:GPU:1": {"events": {"MemcpyD2H": 1, "gemm": 5}, "operations": {}},
    "/host:CPU": {"events": {"MemcpyD2H": 100, "TransferToDevice": 7}, "operations": {}},
}


def test_copies_and_kernels_of_a_profile_are_those_on_the_gpus():
    assert judge.copies_to_host(PROFILE) == 5
    assert judge.launches(PROFILE) == 35
    assert judge.on_gpus(PROFILE, "operations") == {"CudnnRNNV3": 10}
    assert judge.transfers(PROFILE) == {"MemcpyD2H": 105, "MemcpyH2D": 9, "TransferToDevice": 7}


@pytest.mark.parametrize(
    "spans, expected",
    [([], 0.0), ([(0, 10)], 1.0), ([(0, 4), (2, 6), (8, 10)], 0.8), ([(0, 10), (2, 3)], 1.0)],
)
def test_time_that_several_streams_share_is_busy_once(spans, expected):
    assert watch._busy(spans) == expected


# --- The report -----------------------------------------------------------------------------------


def result(outcome, reason=""):
    return report.Result("repeats", "c", "equal bits", outcome, reason, {"digests": [A[:4]]}, 3.0)


HEADER = {"statement": "Ran.", "seconds": 5.0, "version": "rnn-trainer 1", "missing": []}


@pytest.mark.parametrize(
    "outcomes, missing, expected",
    [
        (["passed", "skipped"], [], True),
        (["passed", "failed"], [], False),
        (["skipped"], [], False),
        ([], [], False),
        (["passed"], ["kills"], False),
    ],
)
def test_a_proof_passes_if_something_passed_and_nothing_failed_or_is_missing(
    outcomes, missing, expected
):
    text = report.as_json(list(map(result, outcomes)), **{**HEADER, "missing": missing})
    assert json.loads(text)["passed"] is expected


def test_the_page_has_a_row_per_check_and_its_figures_and_survives_pipes():
    page = report.as_page([result("failed", "a | b\nc")], **HEADER)
    assert "| c | equal bits (`repeats`) | failed | 3 | a \\| b c |" in page
    assert "0 passed, 1 failed, 0 skipped, in 5 s." in page and "| digests | aaaa |" in page


@pytest.mark.parametrize(
    "value, text",
    [(True, "yes"), (0.123456, "0.1235"), (12, "12"), ({"a": 1.0}, "a: 1"), ([], "none")],
)
def test_a_figure_in_words(value, text):
    assert report.in_words(value) == text


def test_only_the_proof_on_an_accelerator_claims_something_about_it():
    assert "proves nothing about a GPU" in report.statement("cpu", "EPYC", quick=True)
    assert report.statement("gpu", "NVIDIA L4", quick=False) == "Ran on NVIDIA L4 (GPU)."


@pytest.mark.parametrize(
    "only, expected",
    [
        ("", list(CHECKS)),
        ("c", ["repeats", "kills", "cells"]),
        ("losses, a", ["versions", "losses"]),
    ],
)
def test_checks_are_named_by_letter_or_name_and_keep_their_order(only, expected):
    assert command.selected(only) == expected


def test_a_check_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match="--only=x: must be letters .* repeats"):
        command.selected("a,x")
