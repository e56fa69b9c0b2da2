import logging
import threading

import pytest

from trainer.prepare import reading


def test_results_keep_their_order_while_calls_run_side_by_side():
    together = threading.Barrier(2, timeout=10)

    def call(item):
        together.wait()  # Returns only if two calls run at once.
        return item * 10

    assert list(reading.ahead(call, range(20), threads=2)) == [item * 10 for item in range(20)]


def test_only_a_few_items_are_taken_ahead():
    taken = []
    results = reading.ahead(
        lambda item: item, map(lambda item: taken.append(item) or item, range(100)), threads=2
    )
    assert next(results) == 0 and len(taken) < 10


def test_an_error_in_a_call_is_raised_in_its_turn():
    def call(item):
        if item == 3:
            raise ValueError(item)
        return item

    results = reading.ahead(call, range(20), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)


def test_a_log_file_gets_a_plain_line_every_few_seconds(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(reading.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    with reading.ReadingProgress(total=40_000_000) as progress:
        for _ in range(20):
            now[0] += 1
            progress.advance(2_000_000)
            progress.add_rows(100)
    assert caplog.messages == [
        f"read {10 * i}.0 of 40.0 MB, {500 * i} rows, 2.0 MB/s" for i in range(1, 5)
    ]
