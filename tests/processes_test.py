"""Processes of this machine, looked at and tied to their parents."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from trainer import processes

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 60

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc and prctl(2)")


def until(condition) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "content, expected",
    [
        ("12 (python) S 1 12 12", ("S", 1)),
        ("12 (python) T 34 12 12", ("T", 34)),
        ("12 (a) T (b) R 1 12 12", ("R", 1)),  # a program may have any name
        ("12 (a) R) T 1", ("T", 1)),
        ("12 (python) t 1 12", ("t", 1)),
    ],
)
def test_state_and_parent_follow_the_name_of_the_program(content, expected):
    assert processes.parse_stat(content) == expected


def test_a_process_shows_its_parent_and_whether_it_is_stopped_or_has_ended():
    child = subprocess.Popen(["sleep", "1000"])
    try:
        assert processes.stat(child.pid).parent == os.getpid()
        child.send_signal(signal.SIGSTOP)
        until(lambda: processes.stat(child.pid).state == processes.STOPPED)
        child.kill()
        until(lambda: processes.stat(child.pid).state in processes.ENDED)
    finally:
        child.kill()
        child.wait()
    assert processes.stat(child.pid) is None


def test_a_tied_process_dies_with_its_parent():
    program = """
import os, subprocess, time
from trainer import processes
child = subprocess.Popen(["sleep", "1000"], preexec_fn=processes.tied_to(os.getpid()))
print(child.pid, flush=True)
time.sleep(1000)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert processes.stat(pid).parent == parent.pid
        parent.kill()
    until(lambda: (found := processes.stat(pid)) is None or found.state in processes.ENDED)


def test_a_process_whose_parent_has_ended_before_is_killed_at_once():
    tie = processes.tied_to(os.getppid())  # the parent of this process, not of the new one
    assert subprocess.run(["true"], preexec_fn=tie).returncode == -signal.SIGKILL
