"""What every recurrence must satisfy: each entry of RECURRENCES has a NumPy twin and equals it.

A new cell or implementation fails here until it stands in ENTRIES, in `numpy_recurrence.CELLS` and
in the tables of `config` and `shapes`.
"""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_recurrence
from trainer.flags.knobs import one_of
from trainer.flags.run import Model
from trainer.models import recurrent, shapes

# Each entry, and how runs and tests execute it. XLA must not compile "keras".
ENTRIES = {
    ("simple_rnn", "ours"): ("eager", "graph", "xla"),
    ("simple_rnn", "keras"): ("eager", "graph"),
    ("lstm", "ours"): ("eager", "graph", "xla"),
    ("lstm", "keras"): ("eager", "graph"),
    ("gru", "ours"): ("eager", "graph", "xla"),
    ("gru", "keras"): ("eager", "graph"),
}
EVERY_ENTRY = pytest.mark.parametrize("cell, implementation", ENTRIES)
EVERY_WAY = pytest.mark.parametrize(
    "cell, implementation, how", [(*entry, how) for entry, hows in ENTRIES.items() for how in hows]
)
TRACED = pytest.mark.parametrize(
    "cell, implementation, how",
    [(*entry, how) for entry, hows in ENTRIES.items() for how in hows if how != "eager"],
)
BOTH_DIRECTIONS = pytest.mark.parametrize("reverse", [False, True])
# (batch, time, in, units)
SHAPES = [(3, 7, 5, 4), (1, 1, 1, 1), (2, 9, 1, 3), (1, 5, 3, 1), (4, 1, 3, 2)]


def test_every_recurrence_is_tested_here_and_has_a_numpy_twin():
    in_code = {(cell, name) for cell, names in recurrent.RECURRENCES.items() for name in names}
    assert set(ENTRIES) == in_code
    assert set(numpy_recurrence.CELLS) == set(recurrent.RECURRENCES)


def test_the_flag_the_shapes_and_the_recurrences_know_the_same_cells():
    [field] = [field for field in dataclasses.fields(Model) if field.name == "cell"]
    assert field.metadata["rule"].text == one_of(*recurrent.RECURRENCES).text
    assert set(shapes.GATES) == set(recurrent.RECURRENCES)


@dataclasses.dataclass
class Problem:
    """Random numbers for one cell, and a scalar of all its outputs to take gradients of.

    arrays: inputs, the three weights and, if it has one, the parts of the state before the first
    step. factors: one array for the hidden states and one for each part of the final state; the
    scalar is the sum of the products of outputs and factors.
    """

    cell: str
    reverse: bool
    arrays: list
    factors: list

    @classmethod
    def random(cls, cell, *, reverse=False, with_state=True, shape=SHAPES[0]):
        batch, time, width, units = shape
        rng = np.random.default_rng(time)
        state = numpy_recurrence.CELLS[cell][1] * [(batch, units)]
        weights = shapes.recurrent_layer(cell, width, units).values()
        factors = [rng.normal(size=shape) for shape in ((batch, time, units), *state)]
        shape_of_all = [(batch, time, width), *weights, *(state if with_state else ())]
        return cls(cell, reverse, [rng.normal(size=shape) for shape in shape_of_all], factors)

    def truth(self):
        """Returns hidden states, final state, and the gradients by all arrays, from the twin."""

        def outputs(inputs, *rest):
            weights, state = rest[:3], rest[3:] or None
            hidden, final = numpy_recurrence.run(self.cell, weights, inputs, self.reverse, state)
            return [hidden, *final]

        def scalar(*arrays):
            return sum(np.sum(a * b) for a, b in zip(outputs(*arrays), self.factors))

        return [*outputs(*self.arrays), *numpy_recurrence.gradients(scalar, self.arrays)]

    def found(self, run, how="eager"):
        """Returns the same from `run`; its trace knows neither batch nor time."""

        def outputs_and_gradients(factors, arrays):
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                inputs, weights, state = arrays[0], arrays[1:4], tuple(arrays[4:]) or None
                hidden, final = run(weights, inputs, reverse=self.reverse, state=state)
                outputs = [hidden, *final]
                scalar = sum(tf.reduce_sum(a * b) for a, b in zip(outputs, factors))
            return [*outputs, *tape.gradient(scalar, arrays)]

        function = outputs_and_gradients
        if how != "eager":
            weights = [tf.TensorSpec(array.shape, tf.float64) for array in self.arrays[1:4]]
            arrays = [any_batch(self.arrays[0]), *weights, *map(any_batch, self.arrays[4:])]
            signature = [list(map(any_batch, self.factors)), arrays]
            function = tf.function(function, signature, jit_compile=how == "xla")
        return function(*(list(map(tf.constant, each)) for each in (self.factors, self.arrays)))


def any_batch(array):
    """Returns the signature of [batch, width] or [batch, time, width] that fixes the width only."""
    return tf.TensorSpec([None] * (array.ndim - 1) + [array.shape[-1]], tf.float64)


def assert_equal(found, truth, **tolerance):
    for one, other in zip(found, truth, strict=True):
        np.testing.assert_allclose(one, other, **(tolerance or {"rtol": 1e-12, "atol": 1e-12}))


@BOTH_DIRECTIONS
@EVERY_ENTRY
def test_from_zero_states_and_gradients_equal_the_equations(cell, implementation, reverse):
    for shape in SHAPES:
        problem = Problem.random(cell, reverse=reverse, with_state=False, shape=shape)
        assert_equal(problem.found(recurrent.recurrence(cell, implementation)), problem.truth())


@BOTH_DIRECTIONS
@EVERY_WAY
def test_from_a_state_states_and_gradients_equal_the_equations(cell, implementation, how, reverse):
    for shape in SHAPES if how == "eager" else SHAPES[:1]:
        problem = Problem.random(cell, reverse=reverse, shape=shape)
        run = recurrent.recurrence(cell, implementation)
        assert_equal(problem.found(run, how), problem.truth())


@BOTH_DIRECTIONS
@EVERY_ENTRY
def test_two_pieces_that_carry_the_state_equal_the_whole(cell, implementation, reverse):
    """In their states, and in gradients that flow from the second piece through the first."""
    run = recurrent.recurrence(cell, implementation)

    def in_pieces(weights, inputs, reverse, state):
        pieces = [inputs[:, :3], inputs[:, 3:]]
        if reverse:
            later, state = run(weights, pieces[1], reverse=True, state=state)
            earlier, state = run(weights, pieces[0], reverse=True, state=state)
        else:
            earlier, state = run(weights, pieces[0], state=state)
            later, state = run(weights, pieces[1], state=state)
        return tf.concat([earlier, later], axis=1), state

    problem = Problem.random(cell, reverse=reverse)
    assert_equal(problem.found(in_pieces), problem.truth())


@TRACED
def test_one_trace_serves_every_batch_and_length(cell, implementation, how):
    run, traces = recurrent.recurrence(cell, implementation), []
    _, *weights = map(tf.constant, Problem.random(cell, with_state=False).arrays)

    @functools.partial(tf.function, jit_compile=how == "xla")
    def traced(inputs):
        traces.append(inputs)
        # The trace knows the one row of this state, but not the rows of the inputs.
        one = tuple(tf.ones([1, 4], tf.float64) for _ in range(numpy_recurrence.CELLS[cell][1]))
        return run(weights, inputs), run(weights, inputs[:1], state=one)

    traced = traced.get_concrete_function(tf.TensorSpec([None, None, 5], tf.float64))
    for batch, time in ((1, 4), (5, 2), (2, 1)):
        (hidden, final), (first, _) = traced(tf.zeros([batch, time, 5], tf.float64))
        assert hidden.shape == (batch, time, 4) and first.shape == (1, time, 4)
        assert {tuple(part.shape) for part in final} == {(batch, 4)}
    assert len(traces) == 1


@BOTH_DIRECTIONS
@EVERY_ENTRY
def test_float32_is_near_the_equations(cell, implementation, reverse):
    problem = Problem.random(cell, reverse=reverse, shape=(3, 8, 2, 5))
    inputs, *rest = (tf.constant(array, tf.float32) for array in problem.arrays)
    run = recurrent.recurrence(cell, implementation)
    hidden, final = run(rest[:3], inputs, reverse=reverse, state=tuple(rest[3:]))
    outputs = [hidden, *final]
    assert {output.dtype for output in outputs} == {tf.float32}
    assert_equal(outputs, problem.truth()[: len(outputs)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@EVERY_ENTRY
def test_a_state_has_at_least_float32(cell, implementation, dtype):
    problem = Problem.random(cell)
    inputs, *rest = (tf.constant(array, tf.float32) for array in problem.arrays)
    run = recurrent.recurrence(cell, implementation)
    hidden, final = run(rest[:3], tf.cast(inputs, dtype), state=tuple(rest[3:]))
    assert hidden.dtype == dtype and {part.dtype for part in final} == {tf.float32}
    hidden, again = run(rest[:3], tf.cast(inputs, dtype), state=final)
    assert hidden.dtype == dtype and {part.dtype for part in again} == {tf.float32}
