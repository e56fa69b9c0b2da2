"""Gangs of two real supervisors, each in a network of its own, recover from a hundred faults.

Workers and training processes are killed, frozen and stopped, and the network between them is cut.
The training process is that of `tests.gang.fake_gang`; `trainer chaos` does the same to real ones
(`tests/chaos/command_test.py`), `tests/gang/member_test.py` to simulated ones.
"""

import os
import random
import re
import signal
import time

import pytest

from tests.gang import network_cut_test
from tests.gang.supervisor_test import Job
from trainer.model_folder import commits

network = network_cut_test.network

FAULTS = ("kill a worker", "kill a training process", "freeze", "stop", "cut")
SILENCE = 10.0  # Seconds after which a peer is lost.
LONGEST = 14.0  # Seconds of a freeze and of a cut.


def start(job, network, *indices) -> None:
    for index in indices:
        job.prefix = ["ip", "netns", "exec", network.workers[index]]
        job.start(index)


def newest(job) -> int:
    found = commits.newest(job.model)
    return found.step if found else 0


def until_saved(job, step) -> None:
    """Returns when the gang trains: it has saved twice after `step`."""
    job.until(lambda: newest(job) > step + 10)


def child_of(job, index) -> int | None:
    """Returns the process id of the training process of a worker, None while it has none."""
    path = f"/proc/{job.processes[index].pid}/task/{job.processes[index].pid}/children"
    with open(path, encoding="ascii") as file:
        return next(map(int, file.read().split()), None)


def stop(job, index) -> None:
    """Stops the gang through one of its workers; no step may be lost."""
    before = newest(job)
    job.processes[index].terminate()
    assert job.end() == {0: 143, 1: 143}, job.log()
    # They count each for itself; that of worker 0 alone saves before a stop.
    step = int(re.fullmatch(r"stopped step=(\d+) state_digest=\w+", job.last_line(0))[1])
    assert before <= step <= newest(job), job.log()


def disturb(job, network, fault, index, seconds) -> None:
    if fault == "kill a worker":
        job.processes[index].kill()
        job.processes[index].wait()
        start(job, network, index)
    elif fault == "stop":
        stop(job, index)
        start(job, network, 0, 1)
    elif fault == "cut":
        network.cut(seconds)
        time.sleep(SILENCE + 2)  # TCP may be slow to send again what was lost.
    else:
        job.until(lambda: child_of(job, index))
        pid = child_of(job, index)
        os.kill(pid, signal.SIGSTOP if fault == "freeze" else signal.SIGKILL)
        if fault == "freeze":
            time.sleep(seconds)
            if child_of(job, index) == pid:
                os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_gang_recovers_from_each_of_five_faults(network, tmp_path, seed):
    chance = random.Random(seed)
    flags = {"steps": 1_000_000, "save_steps": 10, "rejoin_seconds": 120, "max_restarts": 30}
    job = Job(tmp_path, 2, hosts="10.93.0.2:2222,10.93.1.2:2222", **flags)
    try:
        start(job, network, 0, 1)
        for fault in chance.sample(FAULTS, len(FAULTS)):
            until_saved(job, newest(job))
            time.sleep(chance.uniform(0.0, 0.5))
            before, index = newest(job), chance.randrange(2)
            print(f"{fault}, worker {index}, newest checkpoint {before}", flush=True)
            disturb(job, network, fault, index, chance.uniform(0.5, LONGEST))
            until_saved(job, before)
        until_saved(job, newest(job))  # A stop has saved before the gang formed again.
        stop(job, chance.randrange(2))
    finally:
        job.close()
        job.until(lambda: not job.children())
