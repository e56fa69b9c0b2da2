"""A child of the supervisor; small programs take the place of training processes."""

import asyncio
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from trainer import processes
from trainer.gang import child, watchdog

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 60

# A child that sends a beat, which shows that it runs, and then executes `body`.
PROGRAM = """
import faulthandler, os, signal, subprocess, sys, time
from trainer import channel
channel.end_with_supervisor(os.environ)
faulthandler.register(signal.SIGUSR1)
wire = channel.Channel.from_environment(os.environ)
wire.beat("train", 1)
{body}
"""


def program(body: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(body=body)]


def alive(pid: int) -> bool:
    stat = processes.stat(pid)
    return stat is not None and stat.state not in processes.ENDED


def until(condition) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def supervised(body, act=lambda process: None, look=False):
    """Runs a child and calls `act(process)` at its first beat.

    Returns (code, reason, last lines, steps of its beats).
    """

    async def run():
        ended, steps = asyncio.get_running_loop().create_future(), []

        def on_beat(watch):
            steps.append(watch.step)
            if len(steps) == 1:
                act(process)

        process = child.Child(
            program(body), os.environ, 0.0, on_beat, lambda *how: ended.set_result(how)
        )
        while look and not ended.done():
            process.look()
            await asyncio.sleep(0.02)
        return (*await asyncio.wait_for(ended, SECONDS), steps)

    return asyncio.run(run())


def test_a_child_ends_with_its_code_and_all_its_beats_arrive():
    code, reason, lines, steps = supervised("wire.beat('save', 7); sys.exit(3)")
    assert (code, reason, lines, steps[-1]) == (3, "", (), 7)


def test_stderr_passes_through_and_its_last_lines_are_kept(capfdbinary):
    code, _, lines, _ = supervised(
        "for i in range(100): print('line', i, file=sys.stderr)\n"
        "sys.stderr.write('no end')\nprint('x' * 9999)"
    )
    assert lines == (*(f"line {i}" for i in range(81, 100)), "no end")
    captured = capfdbinary.readouterr()
    assert captured.err.startswith(b"line 0\n") and captured.err.endswith(b"line 99\nno end")
    assert captured.out == b"x" * 9999 + b"\n"


def test_only_part_of_an_endless_line_is_kept(capfdbinary):
    _, _, lines, _ = supervised("sys.stderr.write('y' * 1_000_000)")
    assert lines == ("y" * child.LONGEST_LINE,) and len(capfdbinary.readouterr().err) == 1_000_000


def test_a_request_reaches_the_child():
    code, *_ = supervised(
        "while not wire.asked(): time.sleep(0.01)\nsys.exit(wire.asked()['signal'])",
        lambda process: process.ask({"ask": "stop", "signal": 15}),
    )
    assert code == 15


def test_a_request_to_a_child_that_has_ended_is_ignored():
    async def run():
        ended = asyncio.get_running_loop().create_future()
        process = child.Child(
            program("pass"), os.environ, 0.0, lambda watch: None, lambda *how: ended.set_result(how)
        )
        until(lambda: not alive(process.pid))
        process.ask({"ask": "reform"})
        process.kill()
        return (await asyncio.wait_for(ended, SECONDS))[0]

    assert asyncio.run(run()) == 0


def test_a_kill_ends_all_processes_that_the_child_started(tmp_path):
    body = f"""
inner = subprocess.Popen(["sleep", "1000"], stderr=subprocess.DEVNULL)
open({str(tmp_path / "pid")!r}, "w").write(str(inner.pid))
wire.beat("train", 2)
time.sleep(1000)"""
    code, reason, *_ = supervised(
        body,
        lambda process: (
            until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()),
            process.kill(),
        ),
    )
    assert (code, reason) == (-9, "")
    until(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_processes_that_a_child_leaves_behind_end_with_it(tmp_path):
    supervised(f"""
inner = subprocess.Popen(["sleep", "1000"], stderr=subprocess.DEVNULL)
open({str(tmp_path / "pid")!r}, "w").write(str(inner.pid))""")
    until(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_a_hung_child_shows_its_stacks_before_it_is_killed(monkeypatch):
    monkeypatch.setattr(watchdog, "HANG_SECONDS", 0.2)
    code, reason, lines, _ = supervised(
        "def hanging_here():\n    time.sleep(1000)\nhanging_here()", look=True
    )
    assert code == -9 and reason.startswith("hung: silent for")
    assert any("in hanging_here" in line for line in lines)


def test_a_frozen_child_is_found_and_killed(monkeypatch):
    monkeypatch.setattr(watchdog, "FROZEN_SECONDS", 0.1)
    monkeypatch.setattr(child, "DUMP_SECONDS", 0.05)
    code, reason, *_ = supervised("os.kill(os.getpid(), signal.SIGSTOP)", look=True)
    assert code == -9 and reason.startswith("frozen (stopped by a signal)")


def test_a_kill_reports_that_the_child_was_frozen():
    def act(process):
        until(lambda: processes.stat(process.pid).state == processes.STOPPED)
        process.kill()

    assert supervised("os.kill(os.getpid(), signal.SIGSTOP)", act)[:2] == (
        -9,
        "frozen (stopped by a signal)",
    )


def test_a_program_that_does_not_exist_raises():
    async def run():
        with pytest.raises(FileNotFoundError):
            child.Child(
                ["/no/such/program"], os.environ, 0.0, lambda watch: None, lambda *how: None
            )

    asyncio.run(run())


@pytest.mark.parametrize(
    "body",
    [
        "import time; time.sleep(1000)",
        "import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, {15, 2, 10}); "
        "time.sleep(1000)",
        "while True: pass",  # like a library that holds the interpreter
    ],
)
def test_a_child_dies_with_its_supervisor(body, tmp_path):
    (tmp_path / "child.py").write_text(
        PROGRAM.format(body=f"print(os.getpid(), flush=True)\n{body}")
    )
    supervisor = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"""
import asyncio, os, sys
from trainer.gang import child
async def run():
    command = [sys.executable, {str(tmp_path / "child.py")!r}]
    environ = {{**os.environ, "PYTHONPATH": {str(ROOT)!r}}}
    child.Child(command, environ, 0.0, lambda watch: None, print)
    await asyncio.sleep(1000)
asyncio.run(run())
""",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(supervisor.stdout.readline())
    assert alive(pid)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    until(lambda: not alive(pid))


ORPHANS = """
import os, subprocess, sys, time
from trainer.gang import child
assert os.getpid() == 1
own = subprocess.Popen(["sleep", "1000"])
# A process that leaves its own child to process 1.
subprocess.run(["sh", "-c", "sleep 0.1 & sleep 0.1 & exit 0"], check=True)
def children():
    with open("/proc/1/task/1/children") as file:
        return file.read().split()
deadline = time.monotonic() + 30
while len(children()) > 1 and time.monotonic() < deadline:
    child.reap_orphans(own.pid)
    time.sleep(0.01)
assert children() == [str(own.pid)], children()
own.kill()
os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
child.reap_orphans(own.pid)
assert own.wait() == -9, "our own child was waited for"
child.reap_orphans(None)
print("ok")
"""


def test_process_1_waits_for_orphans_and_leaves_its_own_child_alone():
    if (
        os.getuid()
        or not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "-pf", "--mount-proc", "true"], capture_output=True
        ).returncode
    ):
        pytest.skip("needs root and unshare(1) with the right to make a PID namespace")
    done = subprocess.run(
        ["unshare", "-pf", "--mount-proc", sys.executable, "-c", ORPHANS],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "ok\n", done.stderr


def test_temporary_files_of_a_killed_process_are_removed():
    code, _, lines, _ = supervised(
        "import tempfile; print(tempfile.mkdtemp(), file=sys.stderr, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert code == -signal.SIGKILL and lines
    assert not pathlib.Path(lines[-1]).parent.exists()
