"""Bytes between workers, counted by hand."""

import pytest

from trainer.devices import exchange


@pytest.mark.parametrize(
    "values, workers, expected",
    [
        (1000, 1, 0),
        (1000, 2, 4000),  # each sends half of it twice
        (1000, 4, 6000),  # a quarter, six times
        (0, 4, 0),
    ],
)
def test_in_a_ring_each_worker_sends_almost_twice_its_vector(values, workers, expected):
    assert exchange.all_reduce_bytes(values, workers) == expected


@pytest.mark.parametrize(
    "rows, width, workers, expected",
    [
        (10, 16, 1, 0),
        (10, 16, 2, 720),  # 10 rows of 16 floats and an id
        (10, 16, 4, 2160),  # to three others
    ],
)
def test_gathering_sends_all_rows_to_all_others(rows, width, workers, expected):
    assert exchange.all_gather_bytes(rows, width, workers) == expected


@pytest.mark.parametrize(
    "vocabulary, width, tokens, workers, by_row",
    [
        # the published IMDB program on two workers: 37 kB against 640 kB
        (10_000, 16, 16 * 32, 2, True),
        (20_000, 128, 64 * 200, 2, True),  # 6.7 MB against 10.2 MB
        (20_000, 128, 64 * 200, 4, False),  # 20 MB against 15.4 MB: more workers, more copies
        (100, 16, 16 * 32, 2, False),  # characters
        (10_000, 16, 16 * 32, 1, False),  # no other worker
        (0, 0, 0, 2, False),  # no embedding is trained
    ],
)
def test_the_shorter_form_of_an_embedding_gradient_is_sent(
    vocabulary, width, tokens, workers, by_row
):
    assert (
        exchange.exchange(
            6_000 + vocabulary * width, vocabulary, width, tokens, workers
        ).embedding_by_row
        == by_row
    )


def test_a_step_sends_the_embedding_in_its_shorter_form_and_the_rest_as_a_vector():
    rest = 6_000
    sparse = exchange.exchange(rest + 10_000 * 16, 10_000, 16, 512, 2)
    assert sparse.bytes == exchange.all_reduce_bytes(rest, 2) + exchange.all_gather_bytes(
        512, 16, 2
    )
    assert exchange.exchange(rest + 100 * 16, 100, 16, 512, 2).bytes == exchange.all_reduce_bytes(
        rest + 1_600, 2
    )
