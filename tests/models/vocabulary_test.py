"""Cross-entropies in slices: NumPy's values and derivatives, for any number of slices."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_recurrence
from trainer.models import vocabulary

BATCH, TIME, WIDTH, WORDS = 3, 7, 4, 11
LENGTHS = np.array([7, 0, 4])  # a full row, one without a step, one with padding


@pytest.fixture(params=["whole", "sliced"])
def cut(request, monkeypatch):
    """Cuts the problem below into four slices of two steps, one of them to spare; or not."""
    if request.param == "sliced":
        monkeypatch.setattr(vocabulary, "_FEWEST_ROWS", 1)
        monkeypatch.setattr(vocabulary, "_BYTES_OF_A_SLICE", 2 * BATCH * 4 * WORDS)
    assert (
        vocabulary.slices(BATCH, TIME, WORDS) == {"whole": (1, 7), "sliced": (4, 2)}[request.param]
    )


def problem():
    """Returns states, table and bias, targets and which steps count, all in NumPy."""
    rng = np.random.default_rng(0)
    floats = [rng.normal(size=shape) for shape in ((BATCH, TIME, WIDTH), (WORDS, WIDTH), (WORDS,))]
    targets = rng.integers(0, WORDS, (BATCH, TIME)).astype("int32")
    return floats, targets, np.arange(TIME) < LENGTHS[:, None]


def numpy_losses(states, table, bias, targets, smoothing=0.0):
    """Returns the losses [batch, time] as the cross-entropy reads; takes complex numbers."""
    values = states @ table.T + bias
    log_p = values - np.log(np.sum(np.exp(values), axis=-1, keepdims=True))
    wanted = (1 - smoothing) * np.eye(WORDS)[targets] + smoothing / WORDS
    return -np.sum(wanted * log_p, axis=-1)


def numpy_right(states, table, bias, targets):
    return np.argmax(states @ table.T + bias, axis=-1) == targets


def sums_and_gradients(states, table, bias, targets, counted, **options):
    watched = [states, table, bias]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        loss_sum, correct = vocabulary.training_sums(*watched, targets, counted, **options)
        scaled = 3 * loss_sum
    return loss_sum, correct, tape.gradient(scaled, watched)


def traced(function, how, dtype=tf.float64):
    """Returns `function` as a step is traced: once, for any batch and time."""
    signature = [
        tf.TensorSpec([None, None, WIDTH], dtype),
        tf.TensorSpec([WORDS, WIDTH], dtype),
        tf.TensorSpec([WORDS], dtype),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None, None], tf.bool),
    ]
    if how == "eager":
        return function
    return tf.function(
        function,
        autograph=False,
        jit_compile=how == "xla",
        input_signature=None if how == "xla, known shapes" else signature,
    )


@pytest.mark.parametrize("how", ["eager", "graph", "xla", "xla, known shapes"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sums_and_gradients_are_those_of_numpy(cut, how, smoothing):
    floats, targets, counted = problem()
    function = traced(functools.partial(sums_and_gradients, smoothing=smoothing), how)
    loss_sum, correct, gradients = function(*map(tf.constant, (*floats, targets, counted)))

    def truth(*arrays):
        return np.sum(numpy_losses(*arrays, targets, smoothing) * counted)

    np.testing.assert_allclose(loss_sum, truth(*floats), rtol=1e-12)
    assert correct == np.sum(numpy_right(*floats, targets) & counted)
    for value, true in zip(gradients, numpy_recurrence.gradients(truth, floats), strict=True):
        np.testing.assert_allclose(value, 3 * true, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_outcomes_are_the_sums_of_each_row(cut, how):
    floats, targets, counted = problem()
    function = traced(vocabulary.outcomes, how)
    losses, correct = function(*map(tf.constant, (*floats, targets, counted)))
    true = np.sum(numpy_losses(*floats, targets) * counted, axis=1)
    np.testing.assert_allclose(losses, true, rtol=1e-12)
    np.testing.assert_array_equal(correct, np.sum(numpy_right(*floats, targets) & counted, axis=1))
    assert losses[1] == 0  # the row without a step


def test_one_trace_serves_every_shape(cut):
    function = traced(sums_and_gradients, "xla")
    (states, table, bias), targets, counted = problem()
    for batch, time in ((3, 7), (1, 7), (2, 1), (3, 6)):
        rows = [array[:batch, :time] for array in (states, targets, counted)]
        loss_sum, _, gradients = function(
            *map(tf.constant, (rows[0], table, bias, rows[1], rows[2]))
        )
        true = np.sum(numpy_losses(rows[0], table, bias, rows[1]) * rows[2])
        np.testing.assert_allclose(loss_sum, true, rtol=1e-12)
        assert gradients[0].shape == (batch, time, WIDTH)
    assert function.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("rows, steps", [(0, 5), (3, 0)])
def test_a_batch_without_steps_adds_nothing(cut, rows, steps):
    (_, table, bias), _, _ = problem()
    nothing = [tf.zeros([rows, steps, WIDTH], tf.float64), table, bias]
    loss_sum, correct, gradients = sums_and_gradients(
        *map(tf.constant, nothing), tf.zeros([rows, steps], tf.int32), tf.ones([rows, steps], bool)
    )
    assert loss_sum == 0 and correct == 0 and not np.any(gradients[1])


def test_a_kernel_gives_what_its_transpose_gives(cut):
    (states, table, bias), targets, counted = problem()
    tensors = list(map(tf.constant, (states, table, bias, targets, counted)))
    kernels = [tensors[0], tf.transpose(tensors[1]), *tensors[2:]]
    loss_sum, correct, gradients = sums_and_gradients(*tensors)
    other_sum, other_correct, others = sums_and_gradients(*kernels, transposed=True)
    np.testing.assert_allclose(other_sum, loss_sum, rtol=1e-12)
    assert other_correct == correct
    others[1] = tf.transpose(others[1])
    for other, gradient in zip(others, gradients):
        np.testing.assert_allclose(other, gradient, rtol=1e-12, atol=1e-12)
    rows = vocabulary.outcomes(*kernels, transposed=True)
    for other, row in zip(rows, vocabulary.outcomes(*tensors)):
        np.testing.assert_allclose(other, row, rtol=1e-12)


@pytest.mark.parametrize("how", ["graph", "xla"])
def test_the_gradients_of_a_tied_table_add_up(cut, how):
    (_, table, bias), targets, counted = problem()
    tokens = np.random.default_rng(1).integers(0, WORDS, (BATCH, TIME))

    @tf.function(autograph=False, jit_compile=how == "xla")
    def gradient(table):
        with tf.GradientTape() as tape:
            tape.watch(table)
            states = tf.gather(table, tokens)
            loss_sum, _ = vocabulary.training_sums(
                states, table, tf.constant(bias), tf.constant(targets), tf.constant(counted)
            )
        return tf.convert_to_tensor(tape.gradient(loss_sum, table))

    def truth(table):
        return np.sum(numpy_losses(table[tokens], table, bias, targets) * counted)

    [true] = numpy_recurrence.gradients(truth, [table])
    np.testing.assert_allclose(gradient(tf.constant(table)), true, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-6), ("bfloat16", 0.02), ("float16", 2e-3)])
@pytest.mark.parametrize("how", ["graph", "xla"])
def test_sums_of_short_floats_have_32_bits(cut, how, dtype, bound):
    floats, targets, counted = problem()
    integers = [tf.constant(targets), tf.constant(counted)]
    true_sum, _, truth = sums_and_gradients(*map(tf.constant, floats), *integers)
    function = traced(sums_and_gradients, how, dtype)
    shorts = [tf.cast(array, dtype) for array in floats]
    loss_sum, correct, gradients = function(*shorts, *integers)
    assert loss_sum.dtype == correct.dtype == tf.float32
    np.testing.assert_allclose(loss_sum, true_sum, rtol=bound)
    for gradient, true, tensor in zip(gradients, truth, shorts):
        assert gradient.dtype == tensor.dtype
        difference = tf.cast(gradient, tf.float64) - true
        assert np.max(np.abs(difference)) < bound * np.max(np.abs(true))
    rows = vocabulary.outcomes(*shorts, *integers)
    assert rows[0].dtype == rows[1].dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(rows[0]), true_sum, rtol=bound)


def test_a_float32_table_keeps_its_32_bits_beside_bfloat16_states():
    floats, targets, counted = problem()
    states, table, bias = (tf.constant(array, tf.float32) for array in floats)
    _, _, gradients = sums_and_gradients(
        tf.cast(states, tf.bfloat16), table, bias, tf.constant(targets), tf.constant(counted)
    )
    assert [gradient.dtype for gradient in gradients] == [tf.bfloat16, tf.float32, tf.float32]


def test_a_step_is_right_if_no_score_is_higher():
    states = tf.constant([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    table = tf.constant([[2.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    targets = tf.constant([[0, 1, 2]])  # ties for the highest, is second, ties
    counted = tf.constant([[True, True, True]])
    arguments = (states, table, tf.zeros([3]), targets, counted)
    assert vocabulary.training_sums(*arguments)[1] == 2
    assert vocabulary.outcomes(*arguments)[1] == [2]


def test_the_scores_of_a_step_are_its_product_with_the_table():
    (states, table, bias), _, _ = problem()
    true = states[:, 0] @ table.T + bias
    rows = tf.constant(states[:, 0])
    np.testing.assert_allclose(vocabulary.scores(rows, table, bias), true, rtol=1e-12)
    np.testing.assert_allclose(
        vocabulary.scores(rows, table.T, bias, transposed=True), true, rtol=1e-12
    )
    assert vocabulary.scores(tf.cast(rows, tf.bfloat16), table, bias).dtype == tf.float32


@pytest.mark.parametrize(
    "rows, steps, words, count, size",
    [
        (64, 64, 4096, 1, 64),  # exactly 64 MB
        (64, 65, 4096, 2, 33),  # one step more
        (64, 64, 20_000, 5, 13),
        (64, 200, 20_000, 16, 13),  # 13 steps fit
        (64, 64, 50_000, 13, 5),
        (64, 64, 1_000_000, 16, 4),  # 4 steps are 256 rows
        (100, 8, 1_000_000, 2, 4),  # 3 steps would be enough rows, 2 not
        (100, 5, 1_000_000, 1, 5),  # two slices would have 250 rows
        (1000, 3, 1_000_000, 3, 1),  # never less than a step
        (8, 20, 10_000_000, 1, 20),  # fewer rows than a slice must have
        (1, 1, 2, 1, 1),
        (0, 9, 20_000, 1, 9),
        (9, 0, 20_000, 1, 1),
    ],
)
def test_slices_are_as_few_as_the_memory_allows(rows, steps, words, count, size):
    assert vocabulary.slices(rows, steps, words) == (count, size)
    tensors = vocabulary.slices(tf.constant(rows), tf.constant(steps), words)
    assert tuple(map(int, tensors)) == (count, size)


def test_less_than_a_step_per_slice_is_to_spare():
    rng = np.random.default_rng(0)
    for rows, steps, words in rng.integers(1, [2000, 500, 200_000], (2000, 3)).tolist():
        count, size = vocabulary.slices(rows, steps, words)
        assert 0 <= count * size - steps < count
        assert count == 1 or rows * size >= 256
        assert (
            count == 1 or rows * size * words * 4 <= 2**26 or size == 1 or rows * size < 512 + rows
        )


MEMORY = r"""
import re, sys
import tensorflow as tf
from trainer.models import vocabulary

def peak():
    # Not getrusage: its peak includes that of the process that started this one.
    status = open("/proc/self/status").read()
    return int(re.search("VmHWM: *([0-9]+) kB", status.replace("\t", " ")).group(1)) * 1024

@tf.function(jit_compile=True, autograph=False)
def step(states, table, bias, targets, counted):
    with tf.GradientTape() as tape:
        tape.watch([states, table, bias])
        loss_sum, _ = vocabulary.training_sums(states, table, bias, targets, counted)
    return tape.gradient(loss_sum, [states, table, bias])

def run(words):
    arguments = (tf.ones([64, 64, 256]), tf.ones([words, 256]), tf.ones([words]),
                 tf.zeros([64, 64], tf.int32), tf.ones([64, 64], tf.bool))
    return step(*arguments)

run(2)  # what TensorFlow and XLA take for themselves
before = peak()
run(int(sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.slow
def test_ten_times_the_words_take_no_more_memory_for_scores():
    def growth(words):
        command = [sys.executable, "-c", MEMORY, str(words)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    few, many = growth(5_000), growth(50_000)
    # Weights, their gradient, and the part of it that a slice adds. All scores would be 819 MB.
    tables = 3 * 50_000 * 257 * 4
    print(f"{few / 1e6:.0f} MB for 5,000 words, {many / 1e6:.0f} MB for 50,000")
    assert many < 1.5 * few + tables
