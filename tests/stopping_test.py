import signal

import pytest

from trainer import stopping
from trainer.stopping import StopRequest


@pytest.fixture
def stop():
    """A request that listens to the signals of this process; afterwards they are as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield StopRequest.on_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_is_asked_before_a_signal(stop):
    assert not stop.asked


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_asks_and_decides_the_exit_code(stop, number, code):
    signal.raise_signal(number)
    assert stop.asked and stop.exit_code == code


@pytest.mark.parametrize(
    "numbers, code",
    [
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGTERM, signal.SIGINT), 143),
        ((signal.SIGINT, signal.SIGTERM), 130),
    ],
)
def test_the_first_signal_decides(stop, numbers, code):
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


def test_the_log_says_what_a_second_ctrl_c_does(stop, monkeypatch):
    said = []
    monkeypatch.setattr(stopping.log, "info", lambda text, *values: said.append(text % values))
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert said == [
        "SIGTERM: stopping after the current loop, with a checkpoint",
        "SIGINT: stopping after the current loop, with a checkpoint; once more to stop without one",
    ]


# `stop` puts the handlers back.
def test_sigterm_unwinds_a_short_command_so_that_it_cleans_up(stop):
    stopping.unwind_on_sigterm()
    cleaned = []
    with pytest.raises(SystemExit) as ended:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)
    assert ended.value.code == 143 and cleaned
