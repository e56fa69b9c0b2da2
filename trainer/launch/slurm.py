"""A job on a Slurm cluster: its batch script, and the calls that start it, show it and stop it.

Every worker is a task of one `srun`. The model folder and the dataset are on a file system that all
nodes share, as usual there, so nothing is copied. Slurm knows no exit codes: the script
(`templates/slurm.sh`) decides by the table of `exit_codes` whether the job is queued again.

Each option has its reason beside it in `options`, and its page at https://slurm.schedmd.com:
sbatch.html, srun.html, squeue.html, scancel.html, scontrol.html.
"""

import dataclasses
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from trainer.exit_codes import TABLE, UsageError
from trainer.flags import run as configuration
from trainer.flags.places import is_place
from trainer.flags.submit import Submit
from trainer.launch import spec as specs
from trainer.launch.values import check_cpus, check_size, require

TEMPLATE = pathlib.Path(__file__).parent / "templates/slurm.sh"
HOLE = re.compile(r"%\{(\w+)\}")
# Between the trainer's end and the time limit: the script still asks for another attempt.
RESERVE_SECONDS = 15
# Slurm may send a signal so long before its time (sbatch, --signal).
EARLY_SECONDS = 60
# A start takes 20 s until the first hundred steps on an idle node, and so long on a node that is
# busy, reads Python and TensorFlow from a slow disk, or compiles kernels for its GPU.
START_SECONDS = 120
MOST_TASKS_PER_NODE = 16  # Ports of a job: `slurm.sh`.
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,62}")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


@dataclasses.dataclass(frozen=True)
class SlurmJob:
    """A checked job: the run (`train`) and its place (`submit`). Made by `of`."""

    train: configuration.Config
    submit: Submit

    @classmethod
    def of(cls, submit: Submit, train: configuration.Config) -> "SlurmJob":
        """Returns the job, with the devices and threads of its tasks filled into `train`.

        Raises UsageError if the job cannot work.
        """
        _check_text(submit)
        specs.check_gang(submit, train)
        threads = train.run.threads or _whole_cpus(submit.cpu)
        train = specs.on_accelerators(train, submit.gpus, "")
        train = configuration.replace(_at_absolute_places(train), threads=threads)
        job = cls(train, submit)
        _check_time(job)
        specs.check_rows(train, submit.workers, job.replicas)
        return job

    @property
    def nodes(self) -> int:
        return math.ceil(self.submit.workers / self.submit.tasks_per_node)

    @property
    def replicas(self) -> int:
        return self.submit.workers * max(1, self.train.run.devices)

    @property
    def notice_seconds(self) -> int:
        """How long before the time limit the script gets SIGTERM."""
        return math.ceil(self.train.gang.grace_seconds) + RESERVE_SECONDS

    @property
    def options(self) -> list[str]:
        """Options of sbatch."""
        submit = self.submit
        node_memory = _bytes(submit.memory) * submit.tasks_per_node
        return [
            f"--job-name={submit.name}",
            f"--nodes={self.nodes}",
            f"--ntasks={submit.workers}",
            f"--ntasks-per-node={submit.tasks_per_node}",
            f"--cpus-per-task={_whole_cpus(submit.cpu)}",
            f"--mem={math.ceil(node_memory / 1024**2)}M",  # Of a node; M is 1024 x 1024 bytes.
            *([f"--gpus-per-task={submit.gpus}"] if submit.gpus else []),
            *([f"--partition={submit.partition}"] if submit.partition else []),
            *([f"--account={submit.account}"] if submit.account else []),
            *([f"--time={submit.time_limit}"] if submit.time_limit else []),
            # To the script alone (B:), so long before the time limit that a checkpoint fits.
            f"--signal=B:TERM@{self.notice_seconds}",
            "--requeue",  # After a node failed or a higher job took its place.
            "--open-mode=append",  # Or each attempt would empty the log of the one before.
            f"--output={self.output}",
            *submit.sbatch,
        ]

    @property
    def output(self) -> str:
        return f"{self.submit.name}-%j.out"

    @property
    def command(self) -> list[str]:
        """The command of a worker, without what the script knows."""
        grace = f"--grace_seconds={self.train.gang.grace_seconds}"
        flags = configuration.as_flags(self.train, without=("grace_seconds",))
        python = self.submit.python or sys.executable
        if "/" in python:  # Else the PATH of the nodes has it.
            python = os.path.abspath(python)
        return [python, "-m", "trainer", "train", *flags, grace]


def render(job: SlurmJob) -> str:
    """Returns the batch script."""
    several, own = job.submit.workers > 1, job.train.gang.gang_token_file
    token = '"$model/logs/slurm-token"'
    gang = (
        f" --num_workers={job.submit.workers}" + ' --hosts="$hosts" --worker_index="$SLURM_PROCID"'
    )
    gang += "" if own else ' --gang_token_file="$token"'
    values = {
        "name": job.submit.name,
        "output": job.output.replace("%j", "JOB"),
        "options": "\n".join(f"#SBATCH {option}" for option in job.options),
        "model_dir": shlex.quote(job.train.folders.model_dir),
        "tasks_per_node": str(job.submit.tasks_per_node),
        "workers": str(job.submit.workers),
        "cpus": str(_whole_cpus(job.submit.cpu)),
        "gpus": f" --gpus-per-task={job.submit.gpus}" if job.submit.gpus else "",
        "max_restarts": str(job.train.gang.max_restarts),
        "make_token": "# Its holders may take part in the job: it is made anew for each attempt.\n"
        f"token={token}\n"
        'rm -f "$token"\n'
        "(umask 077; od -An -vN32 -tx1 /dev/urandom | tr -d ' \\n' >\"$token\") || exit 74\n"
        "export token"
        if several and not own
        else "",
        "gang": gang if several else "",
        "command": shlex.join(job.command),
        "fail_codes": _pattern("fail the job"),
        "again_codes": _pattern("retry, not counted"),
    }
    return HOLE.sub(lambda hole: values[hole[1]], TEMPLATE.read_text(encoding="utf-8"))


def apply(job: SlurmJob) -> str:
    """Sends the job and returns its number. Raises UsageError with Slurm's message if it fails."""
    return _call("sbatch", "--parsable", stdin=render(job)).strip().partition(";")[0]


def status(name: str) -> list[str]:
    """Returns a line for each of the user's jobs of this name. Raises UsageError without one."""
    shown = "%i %T since %S on %R, %M of %l, %D node(s)"
    lines = _call("squeue", "--me", f"--name={name}", "--noheader", f"--format={shown}").split("\n")
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UsageError(
            f"--status={name}: the queue has no such job of yours. If it has ended, see its log "
            f"{name}-JOB.out, and `trainer report` on its model folder."
        )
    return lines


def stop(name: str) -> None:
    """Cancels the user's jobs of this name: SIGTERM, then SIGKILL after KillWait of slurm.conf.

    Raises UsageError if there is none.
    """
    status(name)
    _call("scancel", "--me", f"--name={name}")


def _call(program: str, *arguments: str, stdin: str | None = None) -> str:
    if not shutil.which(program):
        raise UsageError(
            f"{program} is not on the PATH: --target=slurm needs it. Log in to a node of the "
            "cluster, or print the script without --apply."
        )
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{program} {shlex.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _pattern(on_cluster: str) -> str:
    return " | ".join(str(row.code) for row in TABLE if row.on_cluster == on_cluster)


def _check_text(submit: Submit) -> None:
    require(
        _NAME.fullmatch(submit.name),
        "name",
        submit.name,
        "must be letters, digits and any of _ . -, beginning with a letter or digit",
    )
    check_size("memory", submit.memory)
    _whole_cpus(submit.cpu)
    most = min(MOST_TASKS_PER_NODE, submit.workers)
    require(
        submit.tasks_per_node <= most and submit.workers % submit.tasks_per_node == 0,
        "tasks_per_node",
        submit.tasks_per_node,
        f"must divide --workers={submit.workers} and be at most {MOST_TASKS_PER_NODE}, so that "
        "every node has as many workers",
    )
    require(
        not submit.time_limit or _TIME.fullmatch(submit.time_limit),
        "time_limit",
        submit.time_limit,
        "must be a time as sbatch writes it: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, "
        "DAYS-HOURS, DAYS-HOURS:MINUTES or DAYS-HOURS:MINUTES:SECONDS",
    )
    for option in submit.sbatch:
        require(
            re.fullmatch(r"--?[a-zA-Z][\w-]*([= ]\S+)?", option),
            "sbatch",
            option,
            "must be one option of sbatch without spaces in its value, for example "
            "--sbatch=--constraint=a100",
        )
    for name in ("partition", "account"):
        require(
            re.fullmatch(r"[\w.,-]*", getattr(submit, name)),
            name,
            getattr(submit, name),
            "must be a name without spaces",
        )


def _at_absolute_places(train: configuration.Config) -> configuration.Config:
    """Returns `train` with absolute files and folders: sbatch may be called in another folder."""
    values = configuration.to_flat(train)
    names = [name for name, field in configuration.fields().items() if is_place(field)]
    found = {name: os.path.abspath(values[name]) for name in names if values[name]}
    return configuration.replace(train, **found)


def _check_time(job: SlurmJob) -> None:
    """Raises UsageError if an attempt may end before it has computed anything.

    Each would be queued again without a new checkpoint.
    """
    minutes = limit_minutes(job.submit.time_limit)
    needed = job.notice_seconds + EARLY_SECONDS + START_SECONDS
    if minutes and minutes * 60 < needed:
        grace, enough = job.train.gang.grace_seconds, math.ceil(needed / 60)
        raise UsageError(
            f"--time_limit={job.submit.time_limit}: is {minutes} minute(s), and an attempt needs "
            f"{needed} s: {START_SECONDS} s for its start, {job.notice_seconds} s for its stop "
            f"with --grace_seconds={grace:g}, and {EARLY_SECONDS} s because Slurm may signal so "
            f"much earlier. Set --time_limit={enough} or more, or lower --grace_seconds among the "
            "flags of train."
        )


def limit_minutes(text: str) -> int:
    """Returns a time limit of sbatch in minutes, rounded up as Slurm does; 0 if it is no limit.

    text: a value of --time_limit. Its first number is days before a `-`; the others are minutes,
    minutes:seconds or hours:minutes:seconds, and after days hours, hours:minutes or
    hours:minutes:seconds.
    """
    if not text:
        return 0
    found = _TIME.fullmatch(text)
    days, *numbers = found.groups()
    numbers = [int(number) for number in numbers if number]
    if days is None and len(numbers) < 3:
        numbers = [0, *numbers]
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return math.ceil((((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds) / 60)


def _whole_cpus(text: str) -> int:
    check_cpus("cpu", text)
    count = specs.cpus(text)
    require(count == int(count), "cpu", text, "must be whole CPUs, because Slurm gives no parts")
    return int(count)


def _bytes(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\D*)", text).groups()
    return float(number) * _UNITS[unit]
