"""A network that is cut between workers, each in its own network namespace behind a router.

The tests need root and iproute2 with the right to make namespaces. The training process is that of
`fake_gang`.
"""

import os
import shutil
import subprocess
import time

import pytest

from tests.gang.supervisor_test import Job


def ip(*words) -> None:
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True)


def cannot() -> str:
    """Returns why namespaces cannot be made here; "" if they can."""
    if os.getuid():
        return "needs root, to make network namespaces"
    if not shutil.which("ip"):
        return "needs ip(8) of iproute2, to make network namespaces"
    probe = f"rnn-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return f"cannot make network namespaces: {made.stderr.strip()}" if made.returncode else ""


class Network:
    """Three namespaces: worker 0 at 10.93.0.2, worker 1 at 10.93.1.2, and a router between them."""

    def __init__(self):
        self.workers = [f"rnn-{os.getpid()}-worker{index}" for index in range(2)]
        self.router = f"rnn-{os.getpid()}-router"

    def open(self) -> None:
        for name in (*self.workers, self.router):
            ip("netns", "add", name)
        for index, name in enumerate(self.workers):
            ip(
                "link",
                "add",
                "wire",
                "netns",
                name,
                "type",
                "veth",
                "peer",
                "name",
                f"down{index}",
                "netns",
                self.router,
            )
            ip("-n", self.router, "address", "add", f"10.93.{index}.1/24", "dev", f"down{index}")
            ip("-n", self.router, "link", "set", f"down{index}", "up")
            ip("-n", name, "address", "add", f"10.93.{index}.2/24", "dev", "wire")
            for device in ("lo", "wire"):
                ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "route", "add", "default", "via", f"10.93.{index}.1")
        self._forward(True)

    def cut(self, seconds: float) -> None:
        """Silently drops every packet for `seconds`."""
        self._forward(False)
        time.sleep(seconds)
        self._forward(True)

    def _forward(self, on: bool) -> None:
        ip(
            "netns",
            "exec",
            self.router,
            "sh",
            "-c",
            f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward",
        )

    def close(self) -> None:
        for name in (*self.workers, self.router):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def network():
    reason = cannot()
    if reason:
        pytest.skip(reason)
    made = Network()
    try:
        made.open()
        yield made
    finally:
        made.close()


@pytest.fixture
def job(network, tmp_path):
    """Two workers that train, each in its namespace."""
    made = Job(
        tmp_path,
        2,
        hosts="10.93.0.2:2222,10.93.1.2:2222",
        steps=1_000_000,
        save_steps=10,
        rejoin_seconds=120,
    )
    for index, name in enumerate(network.workers):
        made.prefix = ["ip", "netns", "exec", name]
        made.start(index)
    made.until_step(20)
    yield made
    made.close()
    made.until(lambda: not made.children())


def stopped(job) -> dict[int, int]:
    job.processes[1].terminate()
    return job.end()


def test_a_cut_of_five_seconds_costs_nothing(network, job):
    network.cut(5)
    time.sleep(3)  # Longer than TCP waits before it sends lost packets again.
    assert not job.events("lost"), job.log()
    assert stopped(job) == {0: 143, 1: 143}
    assert len(job.events("rendezvous")) == 1


@pytest.mark.slow
def test_a_cut_of_a_minute_costs_a_restart(network, job):
    network.cut(60)
    job.child(1, generation=2)
    assert stopped(job) == {0: 143, 1: 143}, job.log()
    assert [event["members"] for event in job.events("rendezvous")] == [[0, 1], [0, 1]]
    # Each side leads its remaining part of the gang and reports the other as lost.
    assert {(event["worker"], event["index"], event["reason"]) for event in job.events("lost")} == {
        (0, 1, "silent for 10 s"),
        (1, 0, "silent for 10 s"),
    }
