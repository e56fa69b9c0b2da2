"""Gangs of real supervisors on this machine, with a training process that needs no TensorFlow
(`fake_gang`).
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.gang.child_test import alive
from tests.gang.links_test import free_addresses
from trainer import resuming
from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.gang import member, supervisor
from trainer.model_folder import journal

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 90


def describe(folder, splits) -> None:
    """Writes the dataset.json of a dataset of labels; a supervisor opens no other file."""
    names = ["vocabulary.txt", "labels.txt"]
    names += [
        f"{split}/{array}.npy" for split in splits for array in ("tokens", "offsets", "labels")
    ]
    files = {name: {"size": 0, "sha256": ""} for name in names}
    description = {"format": 1, "tokenizer": {"name": "none"}, "splits": splits, "files": files}
    (folder / "dataset.json").write_text(json.dumps(description))


class Job:
    """A gang of supervisors.

    plan: {"WORKER.GENERATION": {moment: what}} of `fake_gang`. flags: those of train.
    """

    def __init__(self, folder, workers, plan=None, prefix=(), silence=10.0, **flags):
        self.folder, self.model = folder, folder / "model"
        (folder / "data").mkdir(exist_ok=True)
        describe(folder / "data", {"train": {"examples": 30, "tokens": 300}})
        hosts = (
            {"num_workers": workers, "hosts": ",".join(free_addresses(workers))}
            if workers > 1
            else {"supervise": "on"}
        )
        self.flags = {
            "data_dir": folder / "data",
            "model_dir": self.model,
            "steps": 30,
            "save_steps": 5,
            **hosts,
            **flags,
        }
        self.environment = {**os.environ, "FAKE_PLAN": json.dumps(plan or {})}
        self.silence, self.prefix = silence, prefix
        self.processes: dict[int, subprocess.Popen] = {}
        self.starts: list[subprocess.Popen] = []

    def start(self, *indices, **flags):
        for index in indices:
            given = {**self.flags, "worker_index": index, **flags}
            command = [
                *self.prefix,
                sys.executable,
                "-m",
                "tests.gang.fake_gang",
                "supervise",
                str(self.silence),
                *(f"--{name}={value}" for name, value in given.items()),
            ]
            number = len(self.starts)
            with (
                open(self.folder / f"{index}.{number}.out", "wb") as out,
                open(self.folder / f"{index}.{number}.err", "wb") as err,
            ):
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )
            process.out, process.err = (
                self.folder / f"{index}.{number}.out",
                self.folder / f"{index}.{number}.err",
            )
            self.processes[index] = process
            self.starts.append(process)
        return self

    def end(self) -> dict[int, int]:
        """{index: exit code}, when all have ended."""
        deadline = time.monotonic() + SECONDS
        for index, process in self.processes.items():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"worker {index} is still there\n{self.log()}") from None
        return {index: process.returncode for index, process in sorted(self.processes.items())}

    def close(self):
        for process in self.starts:
            process.kill()
            process.wait()

    def until(self, condition):
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.005)

    def child(self, index, generation=1) -> int:
        """Returns the id of the training process, once it has been started."""
        path = self.model / "started" / f"{index}.{generation}"
        self.until(lambda: path.exists() and path.read_text())
        return json.loads(path.read_text())["pid"]

    def until_step(self, step):
        self.until(
            lambda: (self.model / "checkpoints" / f"step-{step:08d}" / "MANIFEST.json").exists()
        )

    def started(self, index, generation) -> dict:
        return json.loads((self.model / "started" / f"{index}.{generation}").read_text())

    def last_line(self, index) -> str:
        return ([""] + self.processes[index].out.read_text().splitlines())[-1]

    def log(self) -> str:
        return "\n".join(
            f"== {process.err.name}\n{process.err.read_text()}" for process in self.starts
        )

    def events(self, name):
        return [
            event for event in journal.read(self.model / "journal.jsonl") if event["event"] == name
        ]

    def children(self) -> list[int]:
        """Returns the ids of the training processes of this job that are still there."""
        started = [
            json.loads(path.read_text())["pid"]
            for path in (self.model / "started").glob("?.*")
            if path.suffix != ".tmp"
        ]
        return [pid for pid in started if alive(pid)]


@pytest.fixture
def job(tmp_path):
    """Makes jobs. Every test ends with a check that no process of them is left."""
    jobs = []

    def make(workers, **options):
        jobs.append(Job(tmp_path, workers, **options))
        return jobs[-1]

    yield make
    for made in jobs:
        made.close()
        made.until(lambda made=made: not made.children())


DONE = f"done step=30 state_digest={30:064x}"


# --- an undisturbed job ---------------------------------------------------------------------------


def test_a_gang_trains_to_its_end(job):
    three = job(3).start(2, 0, 1)
    assert three.end() == {0: 0, 1: 0, 2: 0}
    assert [three.last_line(index) for index in range(3)] == [DONE] * 3
    configs = [json.loads(three.started(index, 1)["tf_config"]) for index in range(3)]
    assert [found["task"] for found in configs] == [
        {"type": "worker", "index": rank} for rank in range(3)
    ]
    addresses = configs[0]["cluster"]["worker"]
    assert (
        all(found["cluster"] == {"worker": addresses} for found in configs)
        and len(set(addresses)) == 3
    )
    assert not set(addresses) & set(three.flags["hosts"].split(","))
    arguments = three.started(0, 1)["arguments"]
    assert {"--supervise=off", "--steps=30"} < set(arguments) and not any(
        "worker" in word or "hosts" in word for word in arguments
    )
    [met], [end] = three.events("rendezvous"), three.events("gang_end")
    assert (met["generation"], met["members"], met["worker"], met["attempt"]) == (
        1,
        [0, 1, 2],
        0,
        0,
    ) and end["code"] == 0


def test_a_worker_alone_can_be_supervised(job):
    one = job(1).start(0)
    assert one.end() == {0: 0} and one.last_line(0) == DONE
    assert one.started(0, 1)["tf_config"] is None


def test_a_resumed_gang_takes_threads_and_shards_from_the_run(job):
    two = job(2, threads=0)
    written = {
        **configuration.to_flat(
            configuration.Config(*(section() for section in configuration.TRAIN_SECTIONS.values()))
        ),
        "threads": 7,
        "shards": 3,
    }
    place = two.model / "checkpoints" / "step-00000005"
    place.mkdir(parents=True)
    (place / "MANIFEST.json").write_text(json.dumps({"step": 5, "state_digest": f"{5:064x}"}))
    (two.model / "config.json").write_text(resuming.to_json(configuration.from_flat(written)))
    two.start(0, 1)
    assert two.end() == {0: 0, 1: 0}
    for index in (0, 1):
        assert {"--threads=7", "--shards=3"} < set(two.started(index, 1)["arguments"])


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_after_a_killed_training_process_all_are_started_again(job, index):
    two = job(2).start(0, 1)
    two.until_step(10)
    os.kill(two.child(index), signal.SIGKILL)
    assert two.end() == {0: 0, 1: 0}, two.log()
    assert [two.last_line(index) for index in range(2)] == [DONE] * 2
    [lost], [restart] = two.events("lost"), two.events("restart")
    assert (lost["index"], lost["code"]) == (index, -9) and restart["generation"] == 2
    assert not set(json.loads(two.started(0, 1)["tf_config"])["cluster"]["worker"]) & set(
        json.loads(two.started(0, 2)["tf_config"])["cluster"]["worker"]
    )


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_gang_waits_for_a_killed_worker_whose_training_process_dies_with_it(job, index):
    three = job(3, steps=60).start(0, 1, 2)
    three.until_step(10)
    orphan = three.child(index)
    three.processes[index].kill()
    three.until(lambda: not alive(orphan))
    three.start(index)
    assert three.end() == {0: 0, 1: 0, 2: 0}, three.log()
    assert three.events("rendezvous")[-1]["members"] == [0, 1, 2]
    assert [event["index"] for event in three.events("lost")] == [index]


def test_a_hung_training_process_is_killed_and_shows_its_stacks(job):
    two = job(
        2, plan={"1.1": {"step 7": "sleep"}, "0.1": {"step 7": "sleep"}}, hang_seconds=1
    ).start(0, 1)
    assert two.end() == {0: 0, 1: 0}, two.log()
    assert "in _at" in two.log() and "hung: silent for" in two.events("lost")[0]["reason"]


@pytest.mark.slow
def test_a_frozen_training_process_is_named(job):
    two = job(2, plan={"1.1": {"step 7": "SIGSTOP"}, "0.1": {"step 7": "sleep"}}).start(0, 1)
    assert two.end() == {0: 0, 1: 0}, two.log()
    assert [(event["index"], event["reason"][:6]) for event in two.events("lost")] == [
        (1, "frozen")
    ]


def test_a_frozen_supervisor_is_lost_and_returns_when_it_continues(job):
    two = job(2, silence=1.5, steps=200).start(0, 1)
    two.until_step(5)
    two.processes[1].send_signal(signal.SIGSTOP)
    two.until(lambda: two.events("lost"))
    two.processes[1].send_signal(signal.SIGCONT)
    assert two.end() == {0: 0, 1: 0}, two.log()
    assert "silent for 1.5 s" in two.events("lost")[0]["reason"]


def test_a_gang_continues_without_a_lost_worker_and_takes_it_in_when_it_returns(job):
    three = job(3, min_workers=2, rejoin_seconds=1, steps=1_000_000).start(0, 1, 2)
    three.until_step(10)
    three.processes[0].kill()
    three.child(1, generation=2)
    three.start(0)
    three.child(0, generation=3)
    three.until(lambda: len(three.events("rendezvous")) == 3)
    three.processes[2].terminate()
    assert three.end() == {0: 143, 1: 143, 2: 143}, three.log()
    assert [event["members"] for event in three.events("rendezvous")] == [
        [0, 1, 2],
        [1, 2],
        [0, 1, 2],
    ]
    assert three.events("restart")[-1]["reason"] == "worker 0 joined"


def test_restarts_without_a_new_checkpoint_are_limited(job):
    two = job(
        2, plan={"1.*": {"compile": "SIGSEGV"}, "0.*": {"compile": "sleep"}}, max_restarts=2
    ).start(0, 1)
    assert two.end() == {0: 76, 1: 76}
    assert {path.name for path in (two.model / "started").glob("1.?")} == {"1.1", "1.2", "1.3"}
    assert "3 restarts without a new checkpoint" in two.log() and "ended by signal 11" in two.log()


# --- who may take part ----------------------------------------------------------------------------


def test_a_worker_that_never_starts_is_named_with_the_last_error(job):
    three = job(3, rendezvous_seconds=1.5).start(1, 2)
    assert three.end() == {1: 75, 2: 75}
    for process in three.starts:
        assert (
            f"worker 0 ({three.flags['hosts'].split(',')[0]}, connection refused)"
            in process.err.read_text()
        )
    assert not (three.model / "started").exists()


def test_an_unexpected_error_ends_the_supervisor_and_is_shown(job):
    """`prepare` never writes a dataset.json without splits. They are used when the wait is over."""
    two = job(2, rendezvous_seconds=0.5)
    describe(two.folder / "data", {})
    assert two.start(0).end() == {0: 1}
    assert "KeyError: 'train'" in two.starts[0].err.read_text()


@pytest.mark.parametrize(
    "different, message",
    [
        ({"units": "8,8"}, "--units: 64 on worker 0, 8,8 on worker 1"),
        ({"data_dir": "other"}, "dataset digest: "),
    ],
)
def test_a_worker_that_differs_ends_the_job_before_anything_is_written(
    job, tmp_path, different, message
):
    if "data_dir" in different:
        different = {"data_dir": tmp_path / "other"}
        different["data_dir"].mkdir()
        describe(different["data_dir"], {})
    three = job(3).start(0).start(1, **different)
    assert three.end() == {0: 2, 1: 2}
    assert all(message in process.err.read_text() for process in three.starts), three.log()
    assert not three.model.exists()


@pytest.mark.parametrize(
    "environ, host",
    [({}, "w-1.w:"), ({"POD_IP": "10.1.2.3"}, "10.1.2.3:"), ({"POD_IP": "::2"}, "[::2]:")],
)
def test_tensorflow_listens_at_the_own_address_of_the_worker_if_it_knows_one(
    tmp_path, environ, host
):
    describe(tmp_path, {"train": {"examples": 30, "tokens": 300}})
    config = configuration.from_flat(
        {
            "data_dir": str(tmp_path),
            "model_dir": str(tmp_path / "model"),
            "num_workers": 2,
            "worker_index": 1,
            "hosts": "w-{index}.w:2222",
        }
    )
    found = [supervisor.Supervisor(config, environ)._fresh_address() for _ in range(2)]
    assert all(address.startswith(host) for address in found)
    assert found[0] != found[1]


def token_file(folder, name, content) -> pathlib.Path:
    path = folder / name
    path.write_text(content)
    path.chmod(0o600)
    return path


def test_a_token_stays_in_its_file(job, tmp_path):
    token = "0123456789abcdef" * 4
    path = token_file(tmp_path, "token", token)
    two = job(2, gang_token_file=path).start(0, 1)
    assert two.end() == {0: 0, 1: 0}, two.log()
    holding = [
        found
        for found in tmp_path.rglob("*")
        if found.is_file() and token.encode() in found.read_bytes()
    ]
    assert holding == [path] and "without --gang_token_file" not in two.log()
    # The training process does not need it.
    assert not any("--gang_token_file" in word for word in two.started(0, 1)["arguments"])


def test_a_worker_with_another_token_is_a_stranger(job, tmp_path):
    paths = [token_file(tmp_path, name, name * 32) for name in "ab"]
    two = job(2, gang_token_file=paths[0], rendezvous_seconds=3, units=8).start(0)
    two.start(1, gang_token_file=paths[1], units=9)
    assert two.end() == {0: 75, 1: 75}, two.log()
    assert "did not accept our proof. Give all workers of a job the same" in two.log()
    assert "worker 1 differs" not in two.log() and "--units" not in two.log()


def test_a_worker_that_differs_cannot_disturb_a_gang_at_work(job):
    two = job(2, min_workers=1, rendezvous_seconds=0.5, steps=200).start(0)
    two.until_step(5)
    two.start(1, units="8,8")
    assert two.end() == {0: 0, 1: 2}
    assert "--units: 64 on worker 0, 8,8 on worker 1" in two.processes[1].err.read_text()


def test_a_run_with_another_configuration_is_refused_before_a_training_process_starts(job):
    two = job(2)
    (two.model / "checkpoints" / "step-00000005").mkdir(parents=True)
    (two.model / "config.json").write_text(
        resuming.to_json(configuration.from_flat({"units": (8,), "threads": 1, "shards": 1}))
    )
    two.start(0, 1)
    assert two.end() == {0: 2, 1: 2}
    assert all("--units: was 8, now 64" in process.err.read_text() for process in two.starts)
    assert not (two.model / "started").exists()


@pytest.mark.parametrize("code", [1, 4])
def test_a_failure_of_one_worker_ends_all_with_its_code_and_its_last_lines(job, code):
    two = job(2, plan={"1.1": {"train": f"exit {code}"}, "0.1": {"train": "sleep"}}).start(0, 1)
    assert two.end() == {0: code, 1: code}
    for process in two.starts:
        assert (
            f"worker 1: training ended with exit code {code}; its last lines:\n  | fake child: "
            f"exit {code}" in process.err.read_text()
        )


# --- stops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index, number, code", [(0, signal.SIGINT, 130), (1, signal.SIGTERM, 143)])
def test_a_stop_of_one_worker_stops_all_with_a_checkpoint(job, index, number, code):
    two = job(2, steps=10_000, save_steps=10_000).start(0, 1)
    two.child(0), two.child(1)
    two.until(lambda: "generation 1" in two.starts[0].err.read_text())
    time.sleep(0.4)  # Anywhere in the loop.
    two.processes[index].send_signal(number)
    assert two.end() == {0: code, 1: code}, two.log()
    assert "stopping: " in two.log() and two.last_line(index).startswith("stopped step=")


@pytest.mark.parametrize(
    "phase",
    [
        "import",
        pytest.param("meet", marks=pytest.mark.slow),
        pytest.param("restore", marks=pytest.mark.slow),
        "compile",
    ],
)
def test_a_stop_before_training_ends_at_once_and_names_the_newest_checkpoint(job, phase):
    two = job(2, plan={"0.1": {phase: "sleep"}, "1.1": {phase: "sleep"}}).start(0, 1)
    two.until(lambda: two.log().count(f"fake child: sleep at {phase}") == 2)
    two.processes[1].send_signal(signal.SIGTERM)
    assert two.end() == {0: 143, 1: 143}
    assert [two.last_line(index) for index in (0, 1)] == ["stopped step=0 state_digest=none"] * 2


def test_a_stop_during_the_wait_for_others_ends_at_once(job):
    three = job(3).start(0, 2)
    three.until(lambda: three.log().count("meeting the others") == 2)
    time.sleep(0.5)
    three.processes[2].send_signal(signal.SIGTERM)
    assert three.end() == {0: 143, 2: 143}, three.log()
    assert three.last_line(0) == "stopped step=0 state_digest=none"


def test_a_stop_after_the_last_step_changes_nothing(job):
    one = job(1, plan={"0.1": {"end": "SIGSTOP"}}).start(0)
    one.until(lambda: "SIGSTOP at end" in one.log())
    one.processes[0].send_signal(signal.SIGTERM)
    os.kill(one.child(0), signal.SIGCONT)
    assert one.end() == {0: 0} and one.last_line(0) == DONE


def test_a_stop_that_does_not_succeed_names_the_lost_steps(job):
    two = job(2, plan={"0.1": {"stop": "sleep"}}, steps=10_000, grace_seconds=6).start(0, 1)
    two.until_step(10)
    two.processes[1].send_signal(signal.SIGTERM)
    assert two.end() == {0: 75, 1: 75}
    assert "are lost and will be computed again" in two.log()


def test_ctrl_c_in_a_terminal_reaches_the_supervisor_alone(job):
    one = job(1, steps=10_000, prefix=["setsid"]).start(0)
    one.until_step(5)
    os.killpg(os.getpgid(one.processes[0].pid), signal.SIGINT)
    assert one.end() == {0: 130} and one.last_line(0).startswith("stopped step=")


def test_process_1_passes_on_signals(job):
    if (
        os.getuid()
        or not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "-pf", "--mount-proc", "true"], capture_output=True
        ).returncode
    ):
        pytest.skip("needs root and unshare(1) with the right to make a PID namespace")
    one = job(
        1, steps=10_000, supervise="auto", prefix=["unshare", "-pf", "--kill-child", "--mount-proc"]
    ).start(0)
    one.until_step(5)
    [inner] = (
        pathlib.Path(f"/proc/{one.processes[0].pid}/task/{one.processes[0].pid}/children")
        .read_text()
        .split()
    )
    os.kill(int(inner), signal.SIGTERM)
    assert one.end() == {0: 143} and one.last_line(0).startswith("stopped step=")
    shutil.rmtree(one.model / "started")  # Its process ids belong to another namespace.


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_stop_at_any_moment_is_in_time_and_reported_truthfully(job, seed):
    chance = random.Random(seed)
    two = job(2, steps=10_000, save_steps=10_000).start(0, 1)
    two.until(lambda: "meeting the others" in two.log())
    time.sleep(chance.uniform(0, 2))
    two.processes[chance.randrange(2)].send_signal(signal.SIGTERM)
    codes = two.end()
    assert set(codes.values()) <= {143, 75, -15}, two.log()
    for index, code in codes.items():
        assert code != 143 or two.last_line(index).startswith("stopped step=")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_job_completes_whatever_is_killed(job, seed):
    chance = random.Random(seed)
    three = job(3, steps=300, save_steps=5, max_restarts=30).start(0, 1, 2)
    for _ in range(6):
        time.sleep(chance.uniform(0.1, 1.5))
        index = chance.randrange(3)
        if three.processes[index].poll() == 0:
            break
        if chance.random() < 0.5:
            three.processes[index].kill()
            three.processes[index].wait()
            three.start(index)
        else:
            for pid in three.children():
                os.kill(pid, signal.SIGKILL)
                break
    assert three.end() == {0: 0, 1: 0, 2: 0}, three.log()


# --- parts ----------------------------------------------------------------------------------------


SEVERAL = {"num_workers": 2, "worker_index": 0, "hosts": "a:1,b:1"}


@pytest.mark.parametrize(
    "flags, pid, expected",
    [
        ({}, 4711, False),
        ({}, 1, True),
        (SEVERAL, 4711, True),
        ({"supervise": "on"}, 4711, True),
        ({"supervise": "off"}, 1, False),
        ({"num_workers": 1}, 4711, False),
    ],
)
def test_runs_of_several_workers_and_of_process_1_are_supervised(flags, pid, expected):
    assert supervisor.wanted(configuration.from_flat(flags), {}, pid) is expected


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"num_workers": 2}, "--num_workers=2: several workers need --hosts"),
        (
            {**SEVERAL, "supervise": "off"},
            "--supervise=off: --num_workers=2 would have no effect, because workers meet through",
        ),
    ],
)
def test_contradicting_flags_are_refused_before_anything_starts(flags, message):
    with pytest.raises(UsageError, match=message):
        supervisor.wanted(configuration.from_flat(flags), {}, 4711)


def test_the_training_process_gets_the_same_flags_and_no_gang():
    config = configuration.from_flat(
        {
            **SEVERAL,
            "units": (8, 8),
            "bucket": False,
            "learning_rate": 0.5,
            "model_dir": "m",
            "min_workers": 1,
        }
    )
    start = member.Start(1, ("a:9", "b:9"), 1, 4, 2)
    command = supervisor.train_command(config, start)
    assert command[:4] == [sys.executable, "-m", "trainer", "train"]
    assert sorted(command[4:]) == [
        "--bucket=False",
        "--learning_rate=0.5",
        "--model_dir=m",
        "--shards=2",
        "--supervise=off",
        "--threads=4",
        "--units=8,8",
    ]


@pytest.mark.parametrize(
    "members, expected",
    [
        (
            ("a:9", "b:9"),
            {"cluster": {"worker": ["a:9", "b:9"]}, "task": {"type": "worker", "index": 1}},
        ),
        (("b:9",), None),
    ],
)
def test_the_training_process_finds_its_peers_in_tf_config(members, expected):
    environ = supervisor.child_environment(
        {"TF_CONFIG": "old", "HOME": "h"}, 3, member.Start(1, members, len(members) - 1, 1, 1)
    )
    assert (environ["HOME"], environ["RNN_TRAINER_WORKER"]) == ("h", "3")
    assert (json.loads(environ["TF_CONFIG"]) if "TF_CONFIG" in environ else None) == expected
