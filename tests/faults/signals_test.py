"""Ctrl-C on a local gang saves, in whatever order it reaches launcher and supervisors.

The launcher and the supervisors are real; the training process is that of `tests.gang.fake_gang`.
`tests/gang/member_test.py` has every order of signals in a simulated world.
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests import commands
from tests.gang.supervisor_test import Job
from trainer import stopping

LAUNCHER = """
import sys
from trainer import main
from trainer.flags import parsing, run
from trainer.launch import local
local.PROGRAM = (sys.executable, "-m", "tests.gang.fake_gang", "supervise", "10")
main._log_to_stderr()
sections = {"train": tuple(run.TRAIN_SECTIONS.values())}
settings = run.from_flat(parsing.parse("train", sys.argv[1:], sections).values)
try:
    code = local.run(settings, 2, sys.argv[1:])
except KeyboardInterrupt:
    code = 130
sys.exit(code)
"""


class Gang:
    """A launcher with two workers, in the middle of a run that has saved nothing yet."""

    def __init__(self, folder):
        # It writes the dataset and reads what the training processes leave.
        self.job = Job(folder, 1, steps=1_000_000, save_steps=1_000_000)
        flags = {name: value for name, value in self.job.flags.items() if name != "supervise"}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                LAUNCHER,
                *(f"--{name}={value}" for name, value in flags.items()),
                f"--local_network={commands.local_network()}",
            ],
            cwd=commands.PROJECT,
            env=self.job.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.children = [self.job.child(index) for index in (0, 1)]
        self.supervisors = [
            int(re.search(r"\nPPid:\t(\d+)", open(f"/proc/{pid}/status").read())[1])
            for pid in self.children
        ]

    def signal(self, who: str, number: int) -> None:
        pid = {"launcher": self.process.pid, "0": self.supervisors[0], "1": self.supervisors[1]}
        try:
            os.kill(pid[who], number)
        except ProcessLookupError:
            pass  # It has stopped already.

    def saved(self) -> int:
        """Returns the step of the newest checkpoint, 0 if there is none."""
        found = (self.job.model / "checkpoints").glob("step-*/MANIFEST.json")
        return max((json.loads(path.read_text())["step"] for path in found), default=0)

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.job.model.glob("logs/*")))


@pytest.fixture
def gang(tmp_path):
    made = Gang(tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()
    made.job.until(lambda: not made.job.children())


ORDERS = [
    order
    for size in (1, 2, 3)
    for order in itertools.permutations(("launcher", "0", "1"), size)
    if "launcher" in order
]
CASES = [(order, gap, again) for order in ORDERS for gap in (0.0, 0.05) for again in (1, 2)]
EVERY_DAY = [CASES[0], CASES[-1]]


@pytest.mark.parametrize(
    "order, gap, again",
    [pytest.param(*case, marks=() if case in EVERY_DAY else pytest.mark.slow) for case in CASES],
)
def test_one_press_of_ctrl_c_saves_the_step_that_was_reached(gang, order, gap, again):
    time.sleep(random.Random(str((order, gap, again))).uniform(0.2, 0.5))  # Anywhere in the loop.
    for who in order:
        for _ in range(again):  # The same press may arrive twice.
            gang.signal(who, signal.SIGINT)
        time.sleep(gap)
    answer = commands.finish(gang.process)
    assert answer.code == 130, answer.err
    assert gang.saved() > 0, gang.log()
    assert f"stopped step={gang.saved()} " in answer.out + gang.log()


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param((signal.SIGHUP, signal.SIGTERM)),
        pytest.param((signal.SIGTERM, signal.SIGINT), marks=pytest.mark.slow),
        pytest.param((signal.SIGINT, signal.SIGHUP), marks=pytest.mark.slow),
    ],
)
def test_any_other_signal_to_the_supervisors_saves_too(gang, numbers):
    time.sleep(0.3)
    for who, number in zip("01", numbers, strict=True):
        gang.signal(who, number)
    gang.job.until(lambda: gang.saved() > 0)


def test_a_second_press_ends_fast_and_saves_nothing(gang):
    # A child that is frozen does not stop, so nothing is saved before the second press.
    for child in gang.children:
        os.kill(child, signal.SIGSTOP)
    gang.signal("launcher", signal.SIGINT)
    time.sleep(1.5 * stopping.PRESS_SECONDS)
    gang.signal("launcher", signal.SIGINT)
    assert commands.finish(gang.process).code == 130
    assert gang.saved() == 0
