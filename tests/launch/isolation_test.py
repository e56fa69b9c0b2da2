"""A network without a way in: what listens there on every address is reached from inside alone."""

import errno
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from trainer import processes
from trainer.exit_codes import UsageError
from trainer.launch import isolation

# Listens on every address, as TensorFlow's server does, until its standard input ends.
SERVER = """
import socket, sys
server = socket.create_server(("0.0.0.0", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""
CALLER = """
import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
"""


@pytest.fixture
def network():
    try:
        made = isolation.Network()
    except UsageError as problem:
        pytest.skip(str(problem))
    with made:
        yield made


def started(*command, network=None, **named) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", *map(str, command)],
        preexec_fn=network.enter if network else None,
        stdin=subprocess.PIPE,
        text=True,
        **named,
    )


def addresses() -> list[str]:
    """Returns the IPv4 addresses of this machine."""
    lines = pathlib.Path("/proc/net/fib_trie").read_text().splitlines()
    found = [
        lines[place - 1].split()[-1]
        for place, line in enumerate(lines)
        if line.strip() == "/32 host LOCAL"
    ]
    return sorted(set(found))


def reached(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 2).close()
    except OSError:
        return False
    return True


@pytest.fixture
def server():
    """Starts a server in a network; returns its port."""
    running = []

    def start(network=None) -> int:
        running.append(started(SERVER, network=network, stdout=subprocess.PIPE))
        return int(running[-1].stdout.readline())

    yield start
    for process in running:
        process.communicate()


def test_a_port_on_every_address_is_reached_from_inside_and_from_nowhere_else(network, server):
    port = server(network)
    assert not any(reached(address, port) for address in addresses())
    inside = started(CALLER, port, network=network, stdout=subprocess.DEVNULL)
    inside.communicate()
    assert inside.returncode == 0
    # The same server in the network of the machine is reached at each of its addresses.
    outside = server()
    assert all(reached(address, outside) for address in addresses())


def test_a_connection_from_another_address_of_this_machine_is_refused(network, server):
    others = [address for address in addresses() if not address.startswith("127.")]
    if not others:
        pytest.skip("this machine has no address but loopback")
    port = server(network)
    with socket.socket() as caller:
        caller.bind((others[0], 0))
        caller.settimeout(5)
        assert caller.connect_ex((others[0], port)) == errno.ECONNREFUSED


def test_a_process_inside_keeps_its_user_and_its_files_and_dies_with_its_parent(network, tmp_path):
    (tmp_path / "file").write_text("x")
    os.chmod(tmp_path / "file", 0o600)
    program = "import os, sys; open(sys.argv[1]).read(); print(os.getuid(), os.getgid())"
    child = started(program, tmp_path / "file", network=network, stdout=subprocess.PIPE)
    assert child.communicate()[0].split() == [str(os.getuid()), str(os.getgid())]
    parent = (
        "import os, subprocess, sys, time\n"
        "from trainer import processes\n"
        "from trainer.launch import isolation\n"
        "network = isolation.Network()\n"
        "tie = processes.tied_to(os.getpid())\n"
        "def prepare():\n"
        "    network.enter()\n"
        "    tie()\n"
        "child = subprocess.Popen(['sleep', '1000'], preexec_fn=prepare)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    made = started(parent, stdout=subprocess.PIPE)
    pid = int(made.stdout.readline())
    made.kill()
    made.communicate()
    deadline = time.monotonic() + 60
    while (stat := processes.stat(pid)) and stat.state not in processes.ENDED:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "program, reason",
    [("print(1)", os.strerror(errno.EPERM)), ("", "the process that makes it ended")],
)
def test_a_machine_that_does_not_allow_it_is_told_why_and_what_to_do(monkeypatch, program, reason):
    monkeypatch.setattr(isolation, "_HOLDER", ("-c", program))
    with pytest.raises(UsageError) as refusal:
        isolation.Network()
    assert str(refusal.value).startswith("--local_network=own: ")
    assert reason in str(refusal.value) and "--local_network=host" in str(refusal.value)
