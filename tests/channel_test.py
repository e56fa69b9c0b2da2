"""The channel between a supervisor and its training process, over real sockets."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from trainer import channel


@pytest.fixture
def ends():
    """(the child's Channel, the supervisor's socket)"""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    wire = channel.Channel.from_environment({channel.VARIABLE: str(theirs.detach())})
    yield wire, ours
    ours.close()


def test_without_a_supervisor_the_channel_is_silent():
    wire = channel.Channel.from_environment({})
    wire.beat("train", 3)
    assert wire.asked() is None


def test_beats_arrive_in_order_with_phase_and_step(ends):
    wire, ours = ends
    wire.beat("import")
    wire.beat("train", 7)
    beats, rest = channel.beats(ours.recv(1000))
    assert beats == [{"phase": "import", "step": 0}, {"phase": "train", "step": 7}] and rest == b""


def test_a_beat_cut_in_two_is_put_together():
    whole = b'{"phase": "train", "step": 1}\n{"phase": "save", "step": 2}\n'
    for cut in range(len(whole)):
        first, rest = channel.beats(whole[:cut])
        second, rest = channel.beats(rest + whole[cut:])
        assert [beat["step"] for beat in first + second] == [1, 2] and rest == b""


@pytest.mark.parametrize(
    "line",
    [b"garbage", b"[]", b'{"step": 1}', b'{"phase": "train", "step": "x"}', b"\xff\xfe", b""],
)
def test_a_line_that_is_not_a_beat_is_left_out(line):
    assert channel.beats(line + b'\n{"phase": "save"}\n') == ([{"phase": "save", "step": 0}], b"")


def test_beats_never_block_and_stay_whole_lines_if_the_supervisor_does_not_read(ends):
    wire, ours = ends
    for step in range(50_000):
        wire.beat("train", step)
    ours.setblocking(False)
    received = b""
    for _ in range(2):  # The next beat sends what could not be sent before.
        try:
            while True:
                received += ours.recv(1 << 20)
        except BlockingIOError:
            wire.beat("save", 1)
    steps = [beat["step"] for beat in channel.beats(received)[0]]
    assert received.count(b"\n") == len(steps) and steps[:100] == list(range(100))


def test_beats_do_not_raise_when_the_supervisor_is_gone(ends):
    wire, ours = ends
    ours.close()
    wire.beat("train", 1)
    wire.beat("train", 2)


def test_the_newest_request_counts_and_a_stop_stays_a_stop(ends):
    wire, ours = ends
    assert wire.asked() is None
    ours.send(channel.request({"ask": "reform"}))
    assert wire.asked() == {"ask": "reform"} == wire.asked()
    ours.send(channel.request({"ask": "stop", "signal": 2}) + channel.request({"ask": "reform"}))
    assert wire.asked() == {"ask": "stop", "signal": 2} == wire.asked()


def test_half_a_request_waits_for_its_other_half(ends):
    wire, ours = ends
    line = channel.request({"ask": "reform"})
    ours.send(line[:5])
    assert wire.asked() is None
    ours.send(line[5:])
    assert wire.asked() == {"ask": "reform"}


def test_a_lost_supervisor_is_a_request_to_stop(ends):
    wire, ours = ends
    ours.close()
    assert wire.asked() == {"ask": "stop", "signal": 15} == wire.asked()


def test_a_lost_supervisor_does_not_change_its_last_request(ends):
    wire, ours = ends
    ours.send(channel.request({"ask": "stop", "signal": 2}))
    ours.close()
    assert wire.asked() == {"ask": "stop", "signal": 2}


def test_processes_that_the_child_starts_do_not_inherit_the_channel(ends):
    wire, ours = ends
    assert not os.get_inheritable(wire._end.fileno())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_a_child_whose_supervisor_died_before_the_child_was_tied_to_it_is_killed():
    program = (
        "import os; from trainer import channel; channel.end_with_supervisor(os.environ); "
        "print('still here')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, channel.SUPERVISOR: "1234567"},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL and done.stdout == b""
