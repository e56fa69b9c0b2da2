"""When the next event is due, how long a loop is, and the line that a person reads, word for
word.
"""

import logging
import math

import pytest

from trainer.reporting import progress


@pytest.mark.parametrize(
    "step, every, at, due",
    [
        (10, (4, 25), (11,), 11),
        (10, (4, 25), (), 12),
        (12, (4, 25), (), 16),  # what is due now is over
        (0, (100,), (7, 7813), 7),
        (7, (100,), (7, 7813), 100),
        (0, (0, -1), (5,), 5),  # 0 or less means never
        (99, (0, 100), (100,), 100),
    ],
)
def test_a_loop_ends_at_the_next_event(step, every, at, due):
    assert progress.next_event(step, every, at) == due


def test_a_fixed_loop_stays_as_it_is():
    size = progress.LoopSize(7)
    size.ran(7, 1e-6)
    assert size.steps == 7


def test_a_loop_grows_to_half_a_second_at_most_fourfold_a_time():
    size, seen = progress.LoopSize(0), []
    for _ in range(6):
        seen.append(size.steps)
        size.ran(size.steps, size.steps * 0.002)  # 2 ms a step: 250 fit
    assert seen == [1, 4, 16, 64, 250, 250]


def test_a_loop_shrinks_at_once_when_steps_get_slow():
    size = progress.LoopSize(0)
    for _ in range(5):
        size.ran(size.steps, size.steps * 0.002)
    size.ran(250, 250 * 0.1)
    assert size.steps == 5
    size.ran(5, 50.0)
    assert size.steps == 1


def test_a_loop_is_bounded_and_learns_nothing_from_none():
    size = progress.LoopSize(0)
    for _ in range(20):
        size.ran(size.steps, 1e-9)
    assert size.steps == progress.LARGEST_LOOP
    size.ran(0, 1.0)
    size.ran(3, 0.0)
    assert size.steps == progress.LARGEST_LOOP


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0:00"),
        (9.99, "0:09"),
        (65, "1:05"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (3725, "1:02:05"),
        (360000, "100:00:00"),
    ],
)
def test_seconds_as_a_clock(seconds, text):
    assert progress.as_clock(seconds) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (0.50071, "0.5007"),
        (12345.6, "12346"),
        (1e-3, "0.001000"),
        (0, "0.000"),
        (0.0, "0.000"),
        (1.0, "1.000"),
        (12.3456, "12.35"),
        (-0.25, "-0.2500"),
        (123.45678, "123.5"),
        (999.94, "999.9"),
        (999.96, "1000"),
        (1000, "1000"),
        (1234.5678, "1235"),
        (0.0001, "0.0001000"),
        (0.00001234567, "1.235e-05"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_a_number_has_at_least_four_significant_digits(value, text):
    assert progress.number(value) == text


@pytest.mark.parametrize("value", [1 / 3 * 10.0**exponent for exponent in range(-12, 9)])
def test_a_number_can_be_read_back(value):
    assert float(progress.number(value)) == pytest.approx(value, rel=5e-4)


def test_the_line_word_for_word():
    text = progress.line(
        200, 1000, 1, {"loss": 0.693147, "accuracy": 0.5, "examples_per_second": 3456.7}, 65
    )
    assert (
        text
        == "step 200/1000 epoch 1 loss 0.6931 accuracy 0.5000 examples_per_second 3457 eta 1:05"
    )


@pytest.fixture
def said(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="trainer.reporting.progress")
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    return lambda: [record.message for record in caplog.records]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_plain_line_comes_at_most_every_five_seconds_and_always_at_the_end(said):
    clock = Clock()
    with progress.Progress(0, 100, clock) as shown:
        for step in range(10, 101, 10):
            clock.now = step / 10
            shown.show(step, 1, {"loss": 1.0})
    assert [message.split()[1] for message in said()] == ["10/100", "60/100", "100/100"]


def test_the_time_that_is_left_counts_from_the_restored_step(said):
    clock = Clock()
    with progress.Progress(1000, 1400, clock) as shown:
        clock.now = 50.0
        shown.show(1100, 3, {"loss": 1.0})
    assert said() == ["step 1100/1400 epoch 3 loss 1.000 eta 2:30"]  # 100 steps in 50 s, 300 to go


def test_a_terminal_gets_a_bar_and_no_lines(said, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress.Progress(0, 4) as shown:
        shown.show(2, 1, {"loss": 0.5, "gradient_norm": 7.0})
        shown.show(4, 1, {"loss": 0.25, "gradient_norm": 7.0})
    captured = capsys.readouterr()
    assert (
        "4/4" in captured.err
        and "loss 0.2500" in captured.err
        and "gradient_norm" not in captured.err
    )
    assert captured.out == "" and said() == []


def test_what_a_command_prints_beside_the_bar_goes_to_stdout(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress.Progress(0, 4):
        print("epoch 1 step 4")
    assert capsys.readouterr().out == "epoch 1 step 4\n"
