"""A gang on this machine, of workers that do what a plan says: the orchestrator's part without any
training.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests import commands
from trainer import exit_codes, stopping
from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.launch import local

# A worker: notes how it was started, then does the next thing that MODEL_DIR/plan.json has for it.
WORKER = """
import json, os, pathlib, re, signal, sys, time
text = " ".join(sys.argv)
folder = pathlib.Path(re.search("--model_dir=([^ ]*)", text)[1])
index = int((re.search("--worker_index=([0-9]+)", text) or [0, 0])[1])
heard = []
def hear(number, frame):
    heard.append(number)
    (folder / f"heard-{index}").write_text(json.dumps(heard))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, hear)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
starts = folder / f"starts-{index}"
while index and not (folder / "starts-0").exists():  # Workers meet first.
    time.sleep(0.01)
with open(starts, "a") as file:
    start = {"pid": os.getpid(), "arguments": sys.argv[1:], "environ": sorted(os.environ),
             "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
             "session": os.getsid(0), "network": os.readlink("/proc/self/ns/net")}
    token = re.search("--gang_token_file=([^ ]*)", text)
    if token:
        content = pathlib.Path(token[1]).read_text()
        start["token"] = [content, oct(os.stat(token[1]).st_mode & 0o777)]
    file.write(json.dumps(start) + chr(10))
plan = json.loads((folder / "plan.json").read_text())[str(index)]
action, _, value = plan[min(len(starts.read_text().splitlines()), len(plan)) - 1].partition(" ")
print(f"worker {index} says {action}", flush=True)
print(f"worker {index} logs {action}", file=sys.stderr, flush=True)
if action == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if action == "save":  # A checkpoint, then the end by a signal.
    with open(folder / "journal.jsonl", "a") as file:
        save = {"event": "save", "step": len(starts.read_text().splitlines())}
        file.write(json.dumps(save) + chr(10))
    os.kill(os.getpid(), signal.SIGKILL)
if action == "after":  # Worker 0 has ended.
    first = json.loads((folder / "starts-0").read_text().splitlines()[0])["pid"]
    try:
        while "State:\tZ" not in pathlib.Path(f"/proc/{first}/status").read_text():
            time.sleep(0.01)
    except (FileNotFoundError, ProcessLookupError):
        pass
if action in ("exit", "after"):
    sys.exit(int(value))
while action == "ignore" or not heard:
    time.sleep(0.01)
time.sleep(0.2)  # Time for a second signal, which must not come.
sys.exit(int(value) if value else {signal.SIGINT: 130, signal.SIGTERM: 143}[heard[0]])
"""
RUN = """
import sys
from trainer import main
from trainer.flags import run
from trainer.launch import local
local.PROGRAM = (sys.executable, sys.argv[1])
main._log_to_stderr()
try:
    flags = {"model_dir": sys.argv[2], "grace_seconds": float(sys.argv[3])}
    flags["local_network"] = sys.argv[4]
    code = local.run(run.from_flat(flags), 2, ["--model_dir=" + sys.argv[2]])
except KeyboardInterrupt:
    code = "interrupted"
sys.exit(code)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Makes `local` start WORKER; returns its path."""
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    monkeypatch.setattr(local, "PROGRAM", (sys.executable, str(path)))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(folder, plan, **flags) -> int:
    """Runs a gang whose worker i does plan[i], a list with an action for each of its starts."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(dict(enumerate(plan))))
    return local.run(
        configuration.from_flat(
            {"model_dir": str(folder), "local_network": commands.local_network(), **flags}
        ),
        len(plan),
        [f"--model_dir={folder}"],
    )


def starts(folder, index) -> list[dict]:
    return [json.loads(line) for line in (folder / f"starts-{index}").read_text().splitlines()]


# --- which GPUs a worker gets ---------------------------------------------------------------------


FOUR = [f"/dev/nvidia{number}" for number in range(4)]
GPU_BUILD = ("tensorflow",)


@pytest.mark.parametrize(
    "flags, workers, environ, files, gpus",
    [
        ({}, 2, {}, FOUR, ["0,1", "2,3"]),
        ({}, 4, {}, FOUR, ["0", "1", "2", "3"]),
        ({}, 3, {}, FOUR, ["0", "1", "2"]),  # An equal number for each; one is left.
        ({"devices": 1}, 2, {}, FOUR, ["0", "1"]),
        ({}, 2, {"CUDA_VISIBLE_DEVICES": "5, 2,GPU-8a,7"}, FOUR, ["5,2", "GPU-8a,7"]),
        ({}, 2, {}, ["/dev/nvidia3", "/dev/nvidia5"], ["0", "1"]),  # a container
        # Nothing is set.
        ({}, 1, {}, FOUR, None),
        ({}, 2, {}, [], None),
        ({}, 9, {"CUDA_VISIBLE_DEVICES": ""}, FOUR, None),
        ({"accelerator": "cpu"}, 9, {}, FOUR, None),
        ({"accelerator": "gpu"}, 2, {}, [], None),  # The workers say what is missing.
        ({}, 2, {}, ["/dev/dxg"], None),
    ],
)
def test_local_workers_share_no_gpu(flags, workers, environ, files, gpus):
    run = configuration.Run(**flags)
    assert local.gpus_of_workers(run, workers, environ, files, GPU_BUILD) == gpus


def test_a_tensorflow_without_gpus_gets_none():
    run = configuration.Run()
    assert local.gpus_of_workers(run, 9, {}, FOUR, ("tensorflow-cpu",)) is None


@pytest.mark.parametrize(
    "flags, workers, environ, parts",
    [
        (
            {},
            5,
            {},
            [
                "--workers=5: this machine has 4 GPU(s) (/dev/nvidia0, /dev/nvidia1",
                "Lower --workers,",
            ],
        ),
        ({}, 2, {"CUDA_VISIBLE_DEVICES": "3"}, ["has 1 GPU(s) (CUDA_VISIBLE_DEVICES=3)"]),
        (
            {"devices": 3},
            2,
            {},
            [
                "--workers=2 with --devices=3: this machine has 4",
                "Lower --workers or --devices, or",
            ],
        ),
    ],
)
def test_more_local_workers_than_gpus_are_refused(flags, workers, environ, parts):
    with pytest.raises(UsageError) as refusal:
        local.gpus_of_workers(configuration.Run(**flags), workers, environ, FOUR, GPU_BUILD)
    assert all(part in str(refusal.value) for part in [*parts, "--accelerator=cpu"])


def test_each_worker_starts_and_restarts_with_its_gpus(worker, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local.accelerator, "device_files", lambda: FOUR[:2])
    monkeypatch.setattr(local.accelerator, "installed", lambda: GPU_BUILD)
    assert run(tmp_path / "m", [["exit 0"], ["die", "exit 0"]]) == 0
    assert {start["gpus"] for start in starts(tmp_path / "m", 0)} == {"0"}
    assert [start["gpus"] for start in starts(tmp_path / "m", 1)][:2] == ["1", "1"]


# --- what to do with a worker that ended ----------------------------------------------------------


FRESH = {"asked": False, "restarts": 0, "max_restarts": 10, "failures": 0}
DECISIONS = [
    # code, what differs from FRESH, action, code of the job, counts
    (0, {}, "leave", None, False),
    (-9, {}, "start", None, False),
    (-15, {}, "start", None, False),
    (75, {}, "start", None, False),
    (143, {}, "start", None, False),
    (143, {"asked": True}, "leave", None, False),
    (-9, {"asked": True}, "leave", None, False),
    (3, {"asked": True}, "leave", None, False),
    (75, {"restarts": 9}, "start", None, False),
    (75, {"restarts": 10}, "end", 76, False),
    (75, {"restarts": 0, "max_restarts": 0}, "end", 76, False),
    (75, {"failures": 99}, "start", None, False),
    (1, {}, "start", None, True),
    (74, {"restarts": 99}, "start", None, True),
    (1, {"failures": 5}, "start", None, True),
    (1, {"failures": 6}, "end", 1, False),
    (74, {"failures": 6}, "end", 74, False),
    (137, {}, "start", None, True),  # No code of ours.
    (2, {}, "end", 2, False),
    (3, {}, "end", 3, False),
    (4, {}, "end", 4, False),
    (5, {}, "end", 5, False),
    (76, {}, "end", 76, False),
    (130, {}, "end", 130, False),
]


@pytest.mark.parametrize("code, differs, action, of_job, counts", DECISIONS)
def test_decisions(code, differs, action, of_job, counts):
    assert local.decide(code, **{**FRESH, **differs}) == local.Decision(action, of_job, counts)


def test_every_code_of_the_table_is_decided_as_the_table_says():
    expected = {
        "done": ("leave", False),
        "counted retry": ("start", True),
        "fail the job": ("end", False),
        "retry, not counted": ("start", False),
        "-": ("end", False),
    }
    for row in exit_codes.TABLE:
        decision = local.decide(row.code, **FRESH)
        assert (decision.action, decision.counts) == expected[row.on_cluster], row


# --- gangs ----------------------------------------------------------------------------------------


def test_workers_get_their_index_and_peers_and_write_a_log_each(
    worker, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("TF_CONFIG", "{}")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "7")
    folder = tmp_path / "model"
    assert run(folder, [["exit 0"]] * 3) == 0
    told = [starts(folder, index) for index in range(3)]
    hosts = {start["arguments"][3] for (start,) in told}
    assert [start["arguments"][:3] for (start,) in told] == [
        [f"--model_dir={folder}", "--num_workers=3", f"--worker_index={index}"]
        for index in range(3)
    ]
    assert len(hosts) == 1
    addresses = hosts.pop().removeprefix("--hosts=").split(",")
    assert len(set(addresses)) == 3 and all(
        address.startswith("127.0.0.1:") for address in addresses
    )
    assert not any(
        {"TF_CONFIG", "JOB_COMPLETION_INDEX"} & set(start["environ"]) for (start,) in told
    )
    # Ctrl-C in our terminal does not reach them by itself.
    assert all(start["session"] == start["pid"] for (start,) in told)
    out, err = capfd.readouterr()
    assert out == "worker 0 says exit\n" and "worker 0 logs exit\n" in err and "worker 1" not in err
    assert [(folder / f"logs/worker-{index}.log").read_text() for index in range(3)] == [
        "worker 0 logs exit\n",
        *(f"worker {index} says exit\nworker {index} logs exit\n" for index in (1, 2)),
    ]


def test_workers_share_a_token_and_a_network_that_nobody_else_is_in(worker, tmp_path, capfd):
    assert run(tmp_path / "model", [["exit 0"], ["die", "exit 0"]]) == 0
    told = [start for index in (0, 1) for start in starts(tmp_path / "model", index)]
    assert len({start["network"] for start in told}) == 1
    ours = os.readlink("/proc/self/ns/net")
    assert (told[0]["network"] == ours) == (commands.local_network() == "host")
    [(token, mode)] = {tuple(start["token"]) for start in told}
    assert len(token) == 64 and mode == "0o600"
    # Only its file holds it, and that is gone.
    assert token not in json.dumps([start["arguments"] for start in told])
    assert token not in "".join(capfd.readouterr())
    [path] = {start["arguments"][4].partition("=")[2] for start in told}
    assert not os.path.exists(path)


def test_a_gang_may_use_the_network_of_the_machine_and_a_token_of_its_user(worker, tmp_path):
    token = tmp_path / "token"
    token.write_text("x" * 32)
    flags = {"local_network": "host", "gang_token_file": str(token)}
    assert run(tmp_path / "model", [["exit 0"], ["exit 0"]], **flags) == 0
    for index in (0, 1):
        [start] = starts(tmp_path / "model", index)
        assert start["network"] == os.readlink("/proc/self/ns/net")
        assert not any("token" in word for word in start["arguments"])  # It is in its flags.


def test_one_worker_is_a_process_with_a_supervisor(worker, tmp_path):
    assert run(tmp_path / "model", [["exit 0"]]) == 0
    assert starts(tmp_path / "model", 0)[0]["arguments"][1:] == ["--supervise=on"]


@pytest.mark.parametrize("action", ["die", "exit 75", "exit 143", "exit 1", "exit 74"])
def test_a_worker_that_is_lost_is_restarted(worker, tmp_path, action):
    assert run(tmp_path / "model", [["exit 0"], [action, action, "exit 0"]]) == 0
    assert len(starts(tmp_path / "model", 1)) == 3


def test_a_worker_that_is_done_is_there_again_for_one_that_has_to_meet_it(worker, tmp_path):
    folder = tmp_path / "model"
    assert run(folder, [["exit 0"], ["after 75", "exit 0"]]) == 0
    assert [len(starts(folder, index)) for index in (0, 1)] == [2, 2]


@pytest.mark.parametrize("code", [2, 3, 4, 5, 76, 130])
def test_a_code_that_says_so_ends_the_job_and_the_other_workers_are_asked_to_stop(
    worker, tmp_path, code
):
    assert run(tmp_path / "model", [["wait"], [f"exit {code}"]]) == code
    assert [len(starts(tmp_path / "model", index)) for index in (0, 1)] == [1, 1]
    assert json.loads((tmp_path / "model/heard-0").read_text()) == [signal.SIGTERM]


def test_restarts_without_a_new_checkpoint_are_bounded(worker, tmp_path):
    assert run(tmp_path / "model", [["wait"], ["die"]], max_restarts=3) == 76
    assert len(starts(tmp_path / "model", 1)) == 1 + 3


def test_restarts_before_a_checkpoint_are_forgotten(worker, tmp_path):
    assert (
        run(
            tmp_path / "model",
            [["wait"], ["die", "die", "save", "die", "die", "die"]],
            max_restarts=2,
        )
        == 76
    )
    assert len(starts(tmp_path / "model", 1)) == 3 + 2


def test_failures_that_count_are_bounded_and_the_job_ends_with_their_code(worker, tmp_path):
    assert run(tmp_path / "model", [["wait"], ["exit 74"]]) == 74
    assert len(starts(tmp_path / "model", 1)) == 1 + local.RETRIES


def test_a_worker_that_ignores_the_end_is_killed_after_the_grace_period(worker, tmp_path):
    assert run(tmp_path / "model", [["ignore"], ["exit 3"]], grace_seconds=0.5) == 3


def test_a_model_folder_that_cannot_be_made_is_named(worker, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--model_dir=.*file cannot be used .* Choose another"):
        local.run(configuration.from_flat({"model_dir": str(tmp_path / "file")}), 1, [])


# --- signals --------------------------------------------------------------------------------------


def start(folder, worker, plan, grace_seconds=30.0) -> subprocess.Popen:
    """A process that runs a gang of two, when both workers are at work."""
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(dict(enumerate(plan))))
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            RUN,
            str(worker),
            str(folder),
            str(grace_seconds),
            commands.local_network(),
        ],
        cwd=commands.PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    commands.wait_for(
        lambda: all(
            (folder / f"logs/worker-{index}.log").exists()
            and "logs" in (folder / f"logs/worker-{index}.log").read_text()
            for index in (0, 1)
        ),
        process,
    )
    return process


def alive(folder) -> list[int]:
    """Those workers that are still there."""
    pids = [start["pid"] for index in (0, 1) for start in starts(folder, index)]
    return [
        pid
        for pid in pids
        if os.path.exists(f"/proc/{pid}")
        and "\nState:\tZ" not in open(f"/proc/{pid}/status").read()
    ]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_passed_once_to_all_and_their_end_waited_for(worker, tmp_path, number, code):
    process = start(tmp_path / "model", worker, [["wait"], ["wait"]])
    process.send_signal(number)
    assert commands.finish(process).code == code
    assert [json.loads((tmp_path / f"model/heard-{index}").read_text()) for index in (0, 1)] == [
        [number]
    ] * 2
    assert alive(tmp_path / "model") == []


@pytest.mark.parametrize(
    "ends, code", [((0, 0), 0), ((0, 143), 143), ((143, 74), 74), ((75, 143), 143)]
)
def test_after_a_signal_the_code_is_that_of_the_workers(worker, tmp_path, ends, code):
    process = start(tmp_path / "model", worker, [[f"wait {end}"] for end in ends])
    process.terminate()
    assert commands.finish(process).code == code
    assert [len(starts(tmp_path / "model", index)) for index in (0, 1)] == [1, 1]


def test_a_stop_that_takes_too_long_is_ended(worker, tmp_path):
    process = start(tmp_path / "model", worker, [["wait"], ["ignore"]], grace_seconds=0.5)
    process.terminate()
    answer = commands.finish(process)
    assert (
        answer.code == 143
        and "--grace_seconds=0.5 are over: killing the workers that are left" in answer.err
    )
    assert alive(tmp_path / "model") == []


def test_a_second_ctrl_c_ends_everything_at_once(worker, tmp_path):
    process = start(tmp_path / "model", worker, [["ignore"], ["ignore"]])
    process.send_signal(signal.SIGINT)
    commands.wait_for(
        lambda: all((tmp_path / f"model/heard-{index}").exists() for index in (0, 1)), process
    )
    time.sleep(1.2 * stopping.PRESS_SECONDS)  # Sooner, it would be the same press.
    process.send_signal(signal.SIGINT)
    assert "interrupted" in commands.finish(process).err
    assert alive(tmp_path / "model") == []


def test_no_worker_outlives_a_gang_that_is_killed(worker, tmp_path):
    process = start(tmp_path / "model", worker, [["ignore"], ["ignore"]])
    process.kill()
    process.communicate()
    deadline = time.monotonic() + commands.SECONDS
    while alive(tmp_path / "model") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert alive(tmp_path / "model") == []


def test_the_log_of_worker_0_is_shown_in_complete_lines(tmp_path, capsys):
    path = tmp_path / "log"
    path.write_text("before\n")
    follow = local._Follow(path, sys.stderr)
    follow.copy()
    assert capsys.readouterr().err == ""
    for added, shown in [
        ("half", ""),
        (" and whole\nnext", "half and whole\n"),
        ("\n", "next\n"),
        ("", ""),
    ]:
        with open(path, "a") as file:
            file.write(added)
        follow.copy()
        assert capsys.readouterr().err == shown
