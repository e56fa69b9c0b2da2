"""Signals as requests to stop, and the codes that a process exits with after them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from trainer import processes, stopping
from trainer.stopping import StopRequest

ROOT = pathlib.Path(__file__).resolve().parents[1]


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def stop():
    """A request that listens to the signals of this process; afterwards they are as they were."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield StopRequest.on_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_is_asked_before_a_signal(stop):
    assert not stop.asked


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)]
)
def test_a_signal_asks_to_stop_and_determines_the_exit_code(stop, number, code):
    signal.raise_signal(number)
    assert stop.asked and stop.exit_code == code


TAKEN = """
import os, signal, threading, time
from trainer import stopping

stop = stopping.StopRequest.on_signals()
early = threading.Event()
with stopping.sigterm_blocked():
    threading.Thread(target=early.wait, daemon=True).start()
assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
stop.take_sigterm()
taken_away = []
signal.signal(signal.SIGTERM, lambda *_: taken_away.append(1))  # as TensorFlow does
threading.Thread(target=early.wait, daemon=True).start()
for _ in range(2):
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 20
    while not stop.asked and time.monotonic() < deadline:
        time.sleep(0.001)
print(stop.signal.name, stop.exit_code, taken_away)
"""


def test_a_sigterm_is_not_lost_though_somebody_else_replaces_the_handler():
    """TensorFlow did, and a worker that was stopped while it met the others trained on."""
    done = subprocess.run(
        [sys.executable, "-c", TAKEN], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["SIGTERM", "143", "[]"], done.stderr


def test_a_signal_that_the_parent_process_has_blocked_is_heard_nevertheless():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with stopping.sigterm_blocked():
        stop = StopRequest.on_signals()
        signal.raise_signal(signal.SIGTERM)
    for number, handler in before.items():
        signal.signal(number, handler)
    assert stop.asked


def test_a_sigterm_waits_for_the_end_of_a_block(stop):
    with stopping.sigterm_blocked():
        signal.raise_signal(signal.SIGTERM)
        assert not stop.asked
    assert stop.asked


@pytest.mark.parametrize(
    "numbers, code",
    [
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGTERM, signal.SIGINT), 143),
        ((signal.SIGINT, signal.SIGTERM), 130),
    ],
)
def test_the_first_signal_determines_the_exit_code(stop, numbers, code):
    for number in numbers:
        signal.raise_signal(number)
    assert stop.exit_code == code


@pytest.mark.parametrize(
    "before", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]
)
def test_only_a_second_ctrl_c_stops_at_once(stop, before):
    for number in before:
        signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    # A third one ends the process at once.
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_the_log_explains_what_a_second_ctrl_c_does(stop, monkeypatch):
    said = []
    monkeypatch.setattr(stopping.log, "info", lambda text, *values: said.append(text % values))
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert said == [
        "SIGTERM: stopping after the current loop, with a checkpoint",
        "SIGINT: stopping after the current loop, with a checkpoint; press Ctrl-C again to stop "
        "without one",
    ]


class Supervisor:
    """A channel whose supervisor has made `request`."""

    def __init__(self, request=None):
        self.request = request

    def asked(self):
        return self.request


@pytest.mark.parametrize(
    "request_, code",
    [
        ({"ask": "stop", "signal": 15}, 143),
        ({"ask": "stop", "signal": 2}, 130),
        ({"ask": "reform"}, 75),
    ],
)
def test_a_supervisor_asks_in_the_place_of_a_signal(request_, code):
    stop = StopRequest(Supervisor(request_))
    assert stop.asked and stop.exit_code == code


def test_a_stop_replaces_the_request_to_meet_again():
    channel = Supervisor({"ask": "reform"})
    stop = StopRequest(channel)
    assert stop.asked and stop.signal == stopping.MEET_AGAIN
    channel.request = {"ask": "stop", "signal": 15}
    assert stop.asked and stop.exit_code == 143


def test_a_closed_terminal_is_no_request_to_meet_again(stop):
    """MEET_AGAIN has the number of SIGHUP."""
    signal.raise_signal(signal.SIGHUP)
    assert stop.agree(lambda own: [own, 0]) and stop.signal == signal.SIGTERM


def test_under_nohup_a_closed_terminal_stops_nothing():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest.on_signals()
        stopping.unwind_on_sigterm()
        signal.raise_signal(signal.SIGHUP)
        assert not stop.asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


PAUSED = """
import os, signal, subprocess, sys, time
from trainer import stopping

other = subprocess.Popen(["sleep", "100"], start_new_session=True)
stopping.pause_together(
    lambda: other.send_signal(signal.SIGSTOP), lambda: other.send_signal(signal.SIGCONT)
)
print(other.pid, flush=True)
sys.stdin.read(1)
other.kill()
other.wait()
"""


def test_ctrl_z_pauses_a_process_of_another_session_too():
    first = subprocess.Popen(
        [sys.executable, "-c", PAUSED],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    other = int(first.stdout.readline())
    for number, states in ((signal.SIGTSTP, "TT"), (signal.SIGCONT, "SS")):
        os.kill(first.pid, number)
        deadline = time.monotonic() + 60
        while (seen := state(first.pid) + state(other)) != states and time.monotonic() < deadline:
            time.sleep(0.01)
        assert seen == states
    first.communicate("x", timeout=60)
    assert first.returncode == 0


def state(pid: int) -> str:
    return processes.stat(pid).state


@pytest.mark.parametrize(
    "numbers, code",
    [
        ((0, 15), 143),
        ((0, 2, 15), 143),  # SIGTERM wins over SIGINT,
        ((1, 2), 130),  # and both over meeting again
        ((0, 1), 75),
    ],
)
def test_all_workers_agree_on_the_strongest_request(numbers, code):
    stops = [StopRequest() for _ in numbers]
    for stop, number in zip(stops, numbers):
        stop.signal = signal.Signals(number) if number else None
    sent = [stop.signal or 0 for stop in stops]
    assert [stop.agree(lambda own: sent) for stop in stops] == [True] * len(numbers)
    assert {stop.exit_code for stop in stops} == {code}


def test_workers_continue_while_none_is_asked_to_stop():
    stop = StopRequest()
    assert not stop.agree(lambda own: [own, 0]) and not stop.agreed and not stop.asked


def test_an_agreement_is_not_changed_by_later_requests():
    stop = StopRequest()
    assert stop.agree(lambda own: [own, 2]) and stop.agree(lambda own: [own, 15])
    assert stop.exit_code == 130


# `stop` restores the handlers.
def test_sigterm_unwinds_a_short_command_so_that_it_cleans_up(stop):
    stopping.unwind_on_sigterm()
    cleaned = []
    with pytest.raises(SystemExit) as ended:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)
    assert ended.value.code == 143 and cleaned
