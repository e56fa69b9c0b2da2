"""Rows in slices, and values of replicas and workers put together."""

import concurrent.futures
import threading

import numpy as np
import pytest
import tensorflow as tf

from trainer.devices.placement import Placement, bounds


@pytest.mark.parametrize(
    "rows, parts, expected",
    [
        (6, 3, [(0, 2), (2, 4), (4, 6)]),
        (5, 2, [(0, 2), (2, 5)]),
        (7, 3, [(0, 2), (2, 4), (4, 7)]),
        (3, 3, [(0, 1), (1, 2), (2, 3)]),
        (9, 1, [(0, 9)]),
    ],
)
def test_rows_are_split_into_slices(rows, parts, expected):
    assert bounds(rows, parts) == expected


@pytest.mark.parametrize("rows", range(1, 30))
def test_slices_hold_every_row_once_and_differ_by_at_most_one(rows):
    for parts in range(1, rows + 1):
        edges = bounds(rows, parts)
        assert [row for first, end in edges for row in range(first, end)] == list(range(rows))
        sizes = {end - first for first, end in edges}
        assert max(sizes) - min(sizes) <= 1


def test_a_worker_computes_its_slice_of_the_batch_and_the_first_one_writes():
    workers = [Placement(None, "CPU", ("CPU:0", "CPU:1"), worker, 3) for worker in range(3)]
    assert [worker.rows(7) for worker in workers] == bounds(7, 3)
    assert [worker.is_chief for worker in workers] == [True, False, False]
    assert {worker.replicas for worker in workers} == {2}


@pytest.fixture(scope="module")
def three() -> Placement:
    """One worker with three replicas on logical devices."""
    devices = tuple(f"/device:CPU:{index}" for index in range(3))
    return Placement(tf.distribute.MirroredStrategy(devices), "CPU", devices)


def test_values_of_replicas_are_added_and_joined_in_their_order_for_each_of_them(three):
    @tf.function
    def computed():
        numbers = three.strategy.run(lambda: 10 + three.local_replica()[None])
        return [
            three.strategy.experimental_local_results(values)
            for values in (three.total(numbers), three.gathered(numbers))
        ]

    totals, joined = computed()
    assert [total.numpy().tolist() for total in totals] == [[33]] * 3
    assert [each.numpy().tolist() for each in joined] == [[10, 11, 12]] * 3


def test_the_sum_that_stays_on_the_devices_has_the_bits_of_the_one_that_tensorflow_takes_away(
    three,
):
    values = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)

    @tf.function
    def computed():
        own = three.strategy.run(lambda: tf.constant(values)[three.local_replica()])
        return three.first(three.total(own)), three.strategy.reduce("SUM", own, axis=None)

    ours, theirs = computed()
    assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    np.testing.assert_allclose(ours, values.sum(axis=0), rtol=1e-4)


def test_each_replica_changes_its_own_copy_of_a_variable_and_the_rest_changes_all(three):
    variable = three.variable(tf.constant([1, 2]), "numbers")
    assert variable.numpy().tolist() == [1, 2]

    @tf.function
    def changed():
        three.strategy.run(lambda: variable.assign(variable + 10 * three.index_of_replica()))

    def copies():
        parts = three.strategy.experimental_local_results(variable)
        return [part.numpy().tolist() for part in parts]

    changed()
    assert copies() == [[1, 2], [11, 12], [21, 22]]
    assert variable.numpy().tolist() == [1, 2]
    variable.assign([7, 7])
    assert copies() == [[7, 7]] * 3


def test_a_replica_that_is_alone_has_a_plain_variable():
    alone = Placement(None, "CPU", ("CPU:0",))
    variable = alone.variable(tf.constant(3.0), "number")
    assert variable.assign_add(1).numpy() == 4 and not variable.trainable


def test_every_worker_brings_its_values_once_however_many_replicas_it_has(three):
    values = np.array([[1.5, 2.0], [3.0, 4.0]])
    assert three._sum_over_workers(tf.constant(values)).numpy().tolist() == values.tolist()


def test_a_worker_alone_has_the_table_of_its_own_values(three):
    assert three.everyones([1, 2.5]).tolist() == [[1.0, 2.5]]
    assert three.all_have("ab" * 32) and three.all_have(None)


class Connected(Placement):
    """One of several workers that add up their arrays in this process."""

    def sum_over_workers(self, values):
        self.strategy.brought[self.worker] = values
        self.strategy.all_are_here.wait(10)
        return sum(self.strategy.brought)


class Meeting:
    def __init__(self, workers):
        self.brought, self.all_are_here = [None] * workers, threading.Barrier(workers)


def on_each_worker(ask, questions) -> list:
    """[answer]: `ask(placement, question)` on as many workers as there are questions."""
    meeting = Meeting(len(questions))
    workers = [
        Connected(meeting, "CPU", ("CPU:0",), worker, len(questions))
        for worker in range(len(questions))
    ]
    with concurrent.futures.ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(ask, workers, questions))


def test_all_workers_get_the_numbers_of_each():
    tables = on_each_worker(Connected.everyones, [[1, 2], [3, 4], [5, 6]])
    assert [table.tolist() for table in tables] == [[[1, 2], [3, 4], [5, 6]]] * 3


@pytest.mark.parametrize(
    "digests, equal",
    [
        (["ab" * 32, "ab" * 32], True),
        (["ab" * 32, "ab" * 31 + "ac"], False),
        (["ab" * 32, None], False),
        ([None, None], True),
        (["ff" * 32, "ff" * 32, "00" * 32], False),
    ],
)
def test_all_workers_agree_whether_their_digests_are_equal(digests, equal):
    assert on_each_worker(Connected.all_have, digests) == [equal] * len(digests)
