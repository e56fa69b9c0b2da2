"""Jobs under Slurm: the batch script, and what a real Slurm on this machine does with it."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from trainer import main
from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.flags.submit import Submit
from trainer.launch import slurm

SUBMIT = {"target": "slurm", "name": "words", "python": "/opt/bin/python"}
TRAIN = {"data_dir": "/shared/d", "model_dir": "/shared/m", "batch_size": 64}


def job(submit=(), train=()) -> slurm.SlurmJob:
    return slurm.SlurmJob.of(
        Submit(**{**SUBMIT, **dict(submit)}), configuration.from_flat({**TRAIN, **dict(train)})
    )


# --- The script -----------------------------------------------------------------------------------


def test_a_job_asks_for_what_its_workers_need():
    assert job().options == [
        "--job-name=words",
        "--nodes=1",
        "--ntasks=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=2",
        "--mem=4096M",
        "--signal=B:TERM@45",
        "--requeue",
        "--open-mode=append",
        "--output=words-%j.out",
    ]
    large = job(
        {
            "workers": 8,
            "tasks_per_node": 4,
            "cpu": "6",
            "memory": "1.5G",
            "gpus": 2,
            "partition": "a100",
            "account": "nlp",
            "time_limit": "12:00:00",
            "sbatch": ("--constraint=nvlink",),
        },
        {"grace_seconds": 60.5},
    )
    assert large.options == [
        "--job-name=words",
        "--nodes=2",
        "--ntasks=8",
        "--ntasks-per-node=4",
        "--cpus-per-task=6",
        "--mem=5723M",  # 4 x 1.5e9 bytes, of a node.
        "--gpus-per-task=2",
        "--partition=a100",
        "--account=nlp",
        "--time=12:00:00",
        "--signal=B:TERM@76",
        "--requeue",
        "--open-mode=append",
        "--output=words-%j.out",
        "--constraint=nvlink",
    ]
    assert large.command == [
        "/opt/bin/python",
        "-m",
        "trainer",
        "train",
        "--data_dir=/shared/d",
        "--model_dir=/shared/m",
        "--batch_size=64",
        "--accelerator=gpu",
        "--devices=2",
        "--threads=6",
        "--grace_seconds=60.5",
    ]


def test_one_worker_meets_no_other_and_a_token_of_the_user_s_own_is_kept():
    alone, several = slurm.render(job()), slurm.render(job({"workers": 2}))
    own = slurm.render(job({"workers": 2}, {"gang_token_file": "/home/u/token"}))
    assert "--worker_index" not in alone and "token" not in alone
    assert '--num_workers=2 --hosts="$hosts" --worker_index="$SLURM_PROCID"' in several
    assert '--gang_token_file="$token"' in several
    assert "$token" not in own and "--gang_token_file=/home/u/token" in own


def test_a_script_names_the_same_places_wherever_it_is_sent_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = {
        "data_dir": "d",
        "model_dir": "./runs/../m",
        "init_from": "source",
        "gang_token_file": "token",
    }
    made = job({"workers": 2, "python": "venv/bin/python"}, relative)
    assert made.command[:6] == [
        f"{tmp_path}/venv/bin/python",
        "-m",
        "trainer",
        "train",
        f"--data_dir={tmp_path}/d",
        f"--model_dir={tmp_path}/m",
    ]
    text = slurm.render(made)
    for line in (f"model={tmp_path}/m\n", f"--init_from={tmp_path}/source ", f"={tmp_path}/token"):
        assert line in text
    assert job({"python": "python3.11"}).command[0] == "python3.11"  # Of the PATH.


@pytest.mark.parametrize("shape", [{}, {"workers": 2}, {"workers": 4, "tasks_per_node": 2}])
def test_the_script_is_shell_and_no_hole_is_left(shape):
    text = slurm.render(job(shape, {"model_dir": "/shared/it's a model"}))
    assert "%{" not in text
    assert subprocess.run(["sh", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize(
    "submit, train, told",
    [
        ({"name": ""}, {}, "--name=: must be letters"),
        ({"name": "a b"}, {}, "--name=a b: must be letters"),
        ({"cpu": "500m"}, {}, "--cpu=500m: must be whole CPUs"),
        ({"cpu": "two"}, {}, "--cpu=two: must be a number of CPUs"),
        ({"memory": "lots"}, {}, "--memory=lots: must be a size"),
        ({"workers": 3, "tasks_per_node": 2}, {}, "--tasks_per_node=2: must divide --workers=3"),
        ({"tasks_per_node": 2}, {}, "--tasks_per_node=2: must divide --workers=1"),
        ({"time_limit": "soon"}, {}, "--time_limit=soon: must be a time as sbatch writes it"),
        (
            {"time_limit": "5"},
            {"grace_seconds": 300},
            "--time_limit=5: is 5 minute(s), and an attempt needs 495 s: 120 s for its start, 315 "
            "s for its stop with --grace_seconds=300, and 60 s because Slurm may signal so much "
            "earlier. Set --time_limit=9 or more",
        ),
        ({"time_limit": "1"}, {}, "Set --time_limit=4 or more"),
        ({"sbatch": ("--x\nrm",)}, {}, "must be one option of sbatch"),
        ({"sbatch": ("constraint=a",)}, {}, "--sbatch=constraint=a: must be one option"),
        ({"partition": "a b"}, {}, "--partition=a b: must be a name without spaces"),
        ({}, {"hosts": "a:1"}, "--hosts and --chief_address: submit sets them for each worker"),
        ({}, {"accelerator": "gpu"}, "--accelerator=gpu: each worker gets --gpus=0"),
        ({"workers": 65}, {}, "--batch_size=64: is split among 65 worker(s)"),
    ],
)
def test_a_job_that_cannot_work_is_refused(submit, train, told):
    with pytest.raises(UsageError) as problem:
        job(submit, train)
    assert told in str(problem.value)


@pytest.mark.parametrize(
    "text, minutes",
    [
        ("", 0),
        ("0", 0),  # No limit.
        ("90", 90),
        ("90:00", 90),
        ("4:01", 5),  # Slurm rounds up.
        ("0:30", 1),
        ("12:00:00", 720),
        ("0:04:30", 5),
        ("2-0", 2880),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("1-12:30:01", 2191),
    ],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(text, minutes):
    assert slurm.limit_minutes(text) == minutes
    job({"time_limit": text if minutes >= 4 else "4"})


@pytest.mark.parametrize("text", ["soon", "-1", "1:2:3:4", "1-", ":30", "1-2-3", "4m"])
def test_what_is_no_time_of_sbatch_is_refused(text):
    with pytest.raises(UsageError, match="must be a time as sbatch writes it: MINUTES, MINUTES:"):
        job({"time_limit": text})


def program(path, does: str) -> None:
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)


def stand_in(tmp_path, srun: str, flags: dict) -> tuple[dict, str]:
    """Programs in the place of Slurm's; returns the environment of the script, and the script."""
    for name, does in [
        (
            "scontrol",
            f'[ "$1" = requeue ] && echo "$2" >>{tmp_path}/requeued || printf "n1\\nn2\\n"',
        ),
        ("srun", srun),
        ("squeue", "echo RUNNING"),
    ]:
        program(tmp_path / name, does)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "601",
        "SLURM_JOB_NODELIST": "n[1-2]",
    }
    text = slurm.render(
        job({"workers": 4, "tasks_per_node": 2}, {"model_dir": str(tmp_path / "m"), **flags})
    )
    return environ, text


def test_workers_of_several_nodes_have_addresses_node_by_node(tmp_path):
    """As srun numbers tasks with --distribution=block; here with stand-ins for Slurm."""
    srun = f'echo "$hosts" >{tmp_path}/hosts; for i in 0 1 2 3; do echo 0 >"$codes/$i"; done'
    environ, text = stand_in(tmp_path, srun, {})
    assert subprocess.run(["sh"], input=text, text=True, env=environ).returncode == 0
    hosts = (tmp_path / "hosts").read_text().strip()
    assert hosts == "n1:20016,n1:20017,n2:20016,n2:20017"


@pytest.mark.parametrize("code", [75, 143])
def test_a_gang_without_progress_is_not_queued_again_for_ever(tmp_path, code):
    """It never meets, or is stopped before its first checkpoint."""
    srun = f'for i in 0 1 2 3; do echo {code} >"$codes/$i"; done'
    environ, text = stand_in(tmp_path, srun, {"max_restarts": 2})

    def attempt() -> int:
        return subprocess.run(["sh"], input=text, text=True, env=environ).returncode

    assert [attempt(), attempt()] == [code, code]
    (tmp_path / "m/checkpoints/step-00000010.tmp-1").mkdir(parents=True)
    assert attempt() == 76  # What was begun is no checkpoint.
    assert (tmp_path / "requeued").read_text().split() == ["601", "601"]


def test_a_gang_that_saves_before_each_time_limit_is_queued_again_as_often_as_it_takes(tmp_path):
    folder = tmp_path / "m/checkpoints"
    srun = (
        f"mkdir -p {folder}/step-0000001$(ls {folder} 2>/dev/null | wc -l)\n"
        'for i in 0 1 2 3; do echo 143 >"$codes/$i"; done'
    )
    environ, text = stand_in(tmp_path, srun, {"max_restarts": 1})
    for _ in range(4):
        assert subprocess.run(["sh"], input=text, text=True, env=environ).returncode == 143
    assert (tmp_path / "requeued").read_text().split() == ["601"] * 4


def test_a_signal_before_the_workers_start_queues_the_job_again_without_them(tmp_path):
    environ, text = stand_in(tmp_path, f"touch {tmp_path}/started", {})
    program(tmp_path / "mkdir", 'kill -TERM $PPID; exec /bin/mkdir "$@"')
    assert subprocess.run(["sh"], input=text, text=True, env=environ).returncode == 143
    assert (tmp_path / "requeued").read_text().split() == ["601"]
    assert not (tmp_path / "started").exists()


def test_a_signal_while_the_workers_start_reaches_them_when_they_are_there(tmp_path):
    """Before their step exists, scancel ends with 0 and does nothing; then it fails once."""
    srun = (
        f"kill -TERM $PPID; until [ -e {tmp_path}/signalled ]; do sleep 0.1; done\n"
        'for i in 0 1 2 3; do echo 143 >"$codes/$i"; done'
    )
    environ, text = stand_in(tmp_path, srun, {})
    asked, failed = tmp_path / "asked", tmp_path / "failed"
    program(
        tmp_path / "squeue",
        f'case "$*" in *--steps*) [ ! -e {asked} ] || echo 601.0; touch {asked};; '
        "*) echo RUNNING;; esac",
    )
    program(
        tmp_path / "scancel",
        f"[ -e {asked} ] || exit 0; [ -e {failed} ] || {{ touch {failed}; exit 1; }}\n"
        f"touch {tmp_path}/signalled",
    )
    assert subprocess.run(["sh"], input=text, text=True, env=environ, timeout=60).returncode == 143
    assert (tmp_path / "requeued").read_text().split() == ["601"]


# --- The calls ------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Programs of Slurm alone on the PATH: they record their arguments and print a file."""
    for name in ("sbatch", "squeue", "scancel"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\n'
            f"[ {name} != sbatch ] || /bin/cat >{tmp_path}/script\n"
            f"[ ! -e {tmp_path}/{name} ] || exec /bin/cat {tmp_path}/{name}\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


START = ["submit", "--target=slurm", "--name=words", "--", "train"]
FOLDERS = ["--data_dir=/shared/d", "--model_dir=/shared/m"]


def test_a_job_is_printed_or_sent(fake, capsys):
    assert main.main([*START, *FOLDERS]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("#!/bin/sh\n") and f"{sys.executable} -m trainer train" in printed
    assert not (fake / "calls").exists()
    (fake / "sbatch").write_text("17;cluster\n")
    assert main.main([*START[:3], "--apply", *START[3:], *FOLDERS]) == 0
    assert (fake / "script").read_text() == printed
    assert (fake / "calls").read_text() == "sbatch --parsable\n"
    told = capsys.readouterr().out
    assert "job 17 is queued" in told and "tail -F words-17.out" in told


def test_a_job_is_shown_and_cancelled_by_its_name(fake, capsys):
    (fake / "squeue").write_text("17 RUNNING since 2026-01-02T03:04:05\n")
    assert main.main(["submit", "--target=slurm", "--status=words"]) == 0
    assert "17 RUNNING" in capsys.readouterr().out
    assert main.main(["submit", "--target=slurm", "--stop=words"]) == 0
    assert (fake / "calls").read_text().splitlines()[-1] == "scancel --me --name=words"


def test_a_job_that_is_not_there_is_neither_shown_nor_cancelled(fake, capsys):
    for verb in ("status", "stop"):
        assert main.main(["submit", "--target=slurm", f"--{verb}=words"]) == 2
        assert "the queue has no such job of yours" in capsys.readouterr().err
    assert "scancel" not in (fake / "calls").read_text()


def test_without_slurm_the_script_can_still_be_printed(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main.main([*START, *FOLDERS]) == 0
    assert main.main([*START[:3], "--apply", *START[3:], *FOLDERS]) == 2
    assert "sbatch is not on the PATH" in capsys.readouterr().err


# --- A real Slurm ---------------------------------------------------------------------------------

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={port}
SlurmdPort={other_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=localhost CPUs=8 RealMemory=1000000
PartitionName=main Nodes=localhost Default=YES State=UP
"""
# In the place of Python with the trainer: `plan` says what each worker does in each attempt.
WORKER = """\
#!{python} -IS
import os, pathlib, signal, sys, time
assert sys.argv[1:4] == ["-m", "trainer", "train"], sys.argv
flags = dict(word[2:].partition("=")[::2] for word in sys.argv[4:])
folder, rank = pathlib.Path(flags["model_dir"]), flags["worker_index"]
attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
token = pathlib.Path(flags["gang_token_file"])
assert token.stat().st_mode & 0o077 == 0 and len(token.read_text()) == 64
(folder / f"hosts.{{rank}}.{{attempt}}").write_text(flags["hosts"])
def stop(number, frame):
    time.sleep(2)  # A checkpoint.
    (folder / f"saved.{{rank}}.{{attempt}}").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
does = (folder / "plan").read_text().split()[int(attempt)].split(",")[int(rank)]
if does == "train":
    (folder / f"trains.{{rank}}.{{attempt}}").touch()
    time.sleep(300)
sys.exit(int(does))
"""


def eventually(what: str, holds, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Slurm of one node in a folder of its own, whose daemons end with the tests."""
    missing = [name for name in (*DAEMONS, "srun") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no Slurm here: {', '.join(missing)} (Debian: slurmctld slurmd munge)")
    if os.geteuid():
        pytest.skip("no Slurm here: only root can start its daemons")
    folder = tmp_path_factory.mktemp("slurm")
    port = 20_000 + os.getpid() % 5_000 * 2
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(folder=folder, port=port, other_port=port + 1)
    )
    (folder / "key").write_bytes(os.urandom(32))
    (folder / "key").chmod(0o600)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    munge = ["key-file=key", "pid-file=munge/pid", "seed-file=munge/seed", "log-file=munge/log"]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket"]
        + [f"--{flag.replace('=', f'={folder}/')}" for flag in munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "localhost"],
    ]
    environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with contextlib.ExitStack() as ends:
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = environ["SLURM_CONF"]
        ends.callback(
            lambda: os.environ.pop("SLURM_CONF") and before and os.environ.update(SLURM_CONF=before)
        )
        for index, command in enumerate(commands):
            log = ends.enter_context(open(folder / f"{command[0]}.log", "wb"))
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
            ends.callback(_end, process)
            if not index:
                eventually("munge", (folder / "munge.socket").exists)
        try:
            eventually(
                "a node that is idle",
                lambda: (
                    "idle"
                    in subprocess.run(
                        ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True
                    ).stdout
                ),
                30,
            )
        except AssertionError as problem:
            logs = "".join((folder / f"{name}.log").read_text()[-500:] for name in DAEMONS)
            pytest.skip(f"Slurm does not start here ({problem}): {logs}")
        yield folder


def _end(process: subprocess.Popen) -> None:
    """Ends a daemon; slurmd may miss a SIGTERM while it waits for a step."""
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Gang:
    """A job of two workers on the cluster."""

    def __init__(self, cluster: pathlib.Path, folder: pathlib.Path, monkeypatch, plan: str):
        self.folder = folder
        (folder / "plan").write_text(plan)
        python = folder / "python"
        python.write_text(WORKER.format(python=sys.executable))
        python.chmod(0o755)
        monkeypatch.chdir(folder)
        flags = {"workers": 2, "tasks_per_node": 2, "cpu": "1", "memory": "50Mi"}
        self.number = slurm.apply(job({**flags, "python": str(python)}, {"model_dir": str(folder)}))

    def there(self, name: str) -> bool:
        return all((self.folder / f"{name.replace('*', rank)}").exists() for rank in "01")

    def shown(self) -> str:
        call = ["scontrol", "show", "job", self.number]
        return subprocess.run(call, capture_output=True, text=True).stdout

    def queued_again(self, times: int) -> None:
        """Waits until it is queued again, and makes it start soon instead of in two minutes."""

        def has(*words: str) -> bool:
            return all(word in self.shown() for word in (f"Restarts={times} ", *words))

        def started() -> bool:
            call = ["scontrol", "update", f"JobId={self.number}", "StartTime=now"]
            if has("JobState=PENDING"):
                subprocess.run(call, stderr=subprocess.DEVNULL)
            return has("JobState=RUNNING") or has("JobState=COMPLETED")

        try:
            eventually("another attempt", lambda: has("JobState=PENDING"))
            time.sleep(3)  # A node refuses a job that it ended in the same moment.
            eventually("its start", started)
        except AssertionError as problem:
            raise AssertionError(f"{problem}: {self.told()}") from None

    def told(self) -> str:
        """What Slurm says about the job, and its log."""
        log = self.folder / f"words-{self.number}.out"
        return self.shown() + (log.read_text() if log.exists() else "")

    def ends(self, state: str, code: int) -> None:
        eventually(state, lambda: f"JobState={state} " in self.shown())
        assert f"ExitCode={code}:0" in self.told(), self.told()


def test_a_lost_peer_and_a_time_limit_queue_the_job_again_and_its_workers_save(
    cluster, tmp_path, monkeypatch
):
    gang = Gang(cluster, tmp_path, monkeypatch, "75,0 train,train 0,0")
    gang.queued_again(1)
    eventually("two workers that train", lambda: gang.there("trains.*.1"))
    assert "RUNNING" in "".join(slurm.status("words"))
    # What `--signal=B:TERM@...` sends, to the script alone.
    subprocess.run(["scancel", "--signal=TERM", "--batch", gang.number], check=True)
    gang.queued_again(2)
    assert gang.there("saved.*.1")
    gang.ends("COMPLETED", 0)
    hosts = {path.read_text() for path in tmp_path.glob("hosts.*.2")}
    port = 20_000 + int(gang.number) % 600 * 16
    assert hosts == {f"localhost:{port},localhost:{port + 1}"}
    # One log of all attempts, and nothing is left of the codes.
    assert (tmp_path / f"words-{gang.number}.out").read_text().count("ended with exit code") == 3
    assert not list((tmp_path / "logs").glob("slurm-codes.*"))


def test_a_stopped_job_saves_and_is_not_queued_again(cluster, tmp_path, monkeypatch):
    gang = Gang(cluster, tmp_path, monkeypatch, "train,train")
    eventually("two workers that train", lambda: gang.there("trains.*.0"))
    slurm.stop("words")
    eventually("the checkpoint", lambda: gang.there("saved.*.0"))
    gang.ends("CANCELLED", 143)


@pytest.mark.parametrize("plan, code", [("2,75", 2), ("75,74", 74)])
def test_a_failure_that_another_attempt_does_not_mend_ends_the_job(
    cluster, tmp_path, monkeypatch, plan, code
):
    """srun alone would say 75, the highest one."""
    Gang(cluster, tmp_path, monkeypatch, plan).ends("FAILED", code)
