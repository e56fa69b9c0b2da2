"""SIGKILL at any system call that changes files costs nothing: the same command again succeeds.

strace kills a training run, a prepare and an export at each of these calls in turn, those of
TensorFlow's own file system included. Then the same command must end as one never disturbed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests import commands
from tests.faults import failing_storage_test
from tests.faults.failing_storage_test import result_of

made = failing_storage_test.made

# A ? lets strace pass over a call that the machine does not have.
CALLS = ",".join(
    f"?{name}"
    for name in """
        write pwrite64 writev rename renameat renameat2 link linkat unlink unlinkat mkdir mkdirat
        rmdir fsync fdatasync ftruncate
    """.split()
)
STRACE = ("strace", "--quiet=all", "--follow-forks", "--decode-fds=path", "-e", "signal=none")
# Importing TensorFlow takes seconds, and before its first operation it has no threads: so every
# run is a fork of this program. It begins when strace has attached itself.
FORKING = """
import json, os, pathlib, sys, time
from trainer.main import main
os.dup2(2, 1)  # Answers go elsewhere.
main(["--help"])
import tensorflow
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        while "TracerPid:\\t0" in pathlib.Path("/proc/self/status").read_text():
            time.sleep(0.005)
        sys.exit(main(request["arguments"]))
    os.write(int(sys.argv[1]), b"%d\\n" % child)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(int(sys.argv[1]), b"%d\\n" % ended)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="needs strace: apt-get install strace"
    ),
]


class Runs:
    """Runs commands under strace, each in a process that a fork has made."""

    def __init__(self, folder):
        self.log, self._output = folder / "calls", folder / "output"
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKING, str(writing)],
            cwd=commands.PROJECT,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)
        self._answers = open(reading)

    def run(self, arguments, *options) -> tuple[int, str]:
        """Returns how a command ended and what it printed; strace writes its calls to `log`."""
        request = {"arguments": arguments, "output": str(self._output)}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        child = self._answers.readline().strip()
        tracing = subprocess.Popen(
            [*STRACE, "-e", f"trace={CALLS}", f"--output={self.log}", *options, f"--attach={child}"]
        )
        code = int(self._answers.readline())
        tracing.wait(commands.SECONDS)
        return code, self._output.read_text()

    def close(self) -> None:
        """Ends the program that forks."""
        self._process.communicate()
        self._answers.close()


@pytest.fixture
def runs(tmp_path):
    made = Runs(tmp_path)
    yield made
    made.close()


def moments(log, folder) -> list[tuple[str, int]]:
    """Returns (call, n) for each n-th call of a thread that is the first to get there.

    strace counts the calls of each thread by themselves. Only calls on files in `folder` count.
    """
    counts, first = {}, {}
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\d+) +(\w+)\(", line)
        if match:
            thread, call = match.groups()
            counts[thread, call] = counts.get((thread, call), 0) + 1
            first.setdefault((call, counts[thread, call]), str(folder) in line)
    return [moment for moment, inside in first.items() if inside]


@pytest.mark.parametrize("command", ["prepare", "train", "export"])
def test_a_kill_at_each_call_that_changes_files_costs_nothing(made, runs, command, tmp_path):
    flag, arguments, before, undisturbed, _ = made[command]
    place = tmp_path / "traced" / "place"
    place.parent.mkdir()
    code, output = runs.run([command, f"--{flag}={place}", *arguments])
    assert code == 0, output
    assert result_of(command, place) == result_of(command, before)
    kills = 0
    for call, count in moments(runs.log, place.parent):
        place = tmp_path / f"{call}-{count}" / "place"
        place.parent.mkdir()
        full = [command, f"--{flag}={place}", *arguments]
        code, output = runs.run(full, "-e", f"inject={call}:signal=KILL:when={count}")
        about = f"{command}, killed at {call} {count}: {code}\n{output}"
        # Threads may have shared their calls otherwise than when the moments were counted.
        assert code in (0, -signal.SIGKILL), about
        kills += code != 0
        again = commands.call(*full, patches={"trainer.durable._OLD_ENOUGH": 0})
        about = f"{about}\nagain: {again.code}\n{again.err}"
        assert again.code == 0, about
        assert result_of(command, place) == result_of(command, before), about
        if command == "train":
            assert again.lines[-1] == undisturbed.lines[-1], about
        left = [path for path in place.parent.rglob("*") if "tmp" in path.name]
        assert not left, f"{about}\nleft behind: {left}"
        print(f"{command} at {call} {count}: {code}", flush=True)
        shutil.rmtree(place.parent)
    print(f"{command}: {kills} kills", flush=True)
    assert kills > 10
