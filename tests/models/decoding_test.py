"""Generated text: drawn from the distributions that NumPy computes, greedy as a plain loop."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_recurrence
from trainer.models import decoding, recurrent, shapes, vocabulary

WORDS, UNITS, WIDTH = 9, 5, 4
BOTH_WAYS = pytest.mark.parametrize("jit", [False, True])


def compiled(step, jit, **static):
    """Returns generation as a program of its tensors, the static options apart."""

    @tf.function(autograph=False, jit_compile=jit)
    def program(first_scores, state, seed, temperature, top_k, top_p):
        return decoding.generate(
            step,
            first_scores,
            state,
            rows=tf.range(tf.shape(first_scores)[0]),
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            **static,
        )

    def call(first_scores, state=(), *, seed=1, temperature=1.0, top_k=0, top_p=1.0):
        scalars = (
            tf.constant(seed, tf.int64),
            tf.constant(temperature),
            tf.constant(top_k),
            tf.constant(top_p),
        )
        return program(tf.constant(first_scores, tf.float32), state, *scalars).numpy()

    call.program = program
    return call


def bigrams(table):
    """Returns the step of a model whose scores depend on the last token alone."""
    table = tf.constant(table, tf.float32)
    return lambda ids, state: (tf.gather(table, ids), state)


def random_scores(*shape, seed=0):
    return 2 * np.random.default_rng(seed).normal(size=shape).astype("float32")


def distribution(scores, temperature=1.0, top_k=0, top_p=1.0):
    """Returns the probability of each id, one after the other in the order of the scores."""
    weights = np.exp((scores.astype("float64") - scores.max()) / temperature)
    order = np.argsort(-scores, kind="stable")
    if top_k:
        weights[scores < scores[order[min(top_k, len(order)) - 1]]] = 0
    probabilities, total, kept = weights / weights.sum(), 0.0, np.zeros(len(scores))
    for word in order:
        if total < top_p:
            kept[word] = probabilities[word]
        total += probabilities[word]
    return kept / kept.sum()


def assert_drawn_from(ids, probabilities):
    """Asserts that counts of ids differ from their expectation as chance does: chi-square."""
    counts = np.bincount(ids, minlength=len(probabilities))
    possible = probabilities > 0
    assert not counts[~possible].any()
    expected = len(ids) * probabilities[possible]
    freedom = max(possible.sum() - 1, 1)
    chi_square = np.sum((counts[possible] - expected) ** 2 / expected)
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)
    assert (counts[possible] > 0)[expected > 20].all()


@BOTH_WAYS
@pytest.mark.parametrize("cell", recurrent.RECURRENCES)
def test_greedy_text_is_that_of_a_plain_loop(cell, jit):
    rng = np.random.default_rng(0)
    weights = [
        rng.normal(size=shape) for shape in shapes.recurrent_layer(cell, WIDTH, UNITS).values()
    ]
    embedding, table, bias = (
        rng.normal(size=shape) for shape in ((WORDS, WIDTH), (WORDS, UNITS), (WORDS,))
    )
    numpy_step, parts = numpy_recurrence.CELLS[cell]
    state = [rng.normal(size=(3, UNITS)) for _ in range(parts)]

    def step(ids, state):
        state = recurrent.one_step(cell)(weights, tf.gather(embedding, ids), state)
        return vocabulary.scores(state[0], table, bias), state

    generate = compiled(step, jit, count=8)
    first = random_scores(3, WORDS)
    text = generate(first, tuple(map(tf.constant, state)), temperature=0.0)
    scores, truth = first, []
    for _ in range(8):
        truth.append(scores.argmax(axis=1))
        state = numpy_step(weights, embedding[truth[-1]], state)
        scores = state[0] @ table.T + bias
    assert text.dtype == "int32" and text.shape == (3, 8)
    np.testing.assert_array_equal(text, np.transpose(truth))


@BOTH_WAYS
def test_one_program_draws_from_every_distribution(jit):
    scores = random_scores(12)
    generate = compiled(bigrams(np.zeros((12, 12))), jit, count=1)
    many = np.tile(scores, (20_000, 1))
    for options in (
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 3},
        {"top_k": 1},
        {"top_k": 12},
        {"top_k": 50},
        {"top_p": 0.7},
        {"top_p": 0.95},
        {"top_p": 1e-6},
        {"temperature": 2.0, "top_k": 5, "top_p": 0.8},
    ):
        assert_drawn_from(generate(many, **options)[:, 0], distribution(scores, **options))
    assert generate.program.experimental_get_tracing_count() == 1


@BOTH_WAYS
def test_later_tokens_are_drawn_from_the_scores_of_the_step(jit):
    table = random_scores(WORDS, WORDS)
    generate = compiled(bigrams(table), jit, count=400)
    text = generate(np.zeros((100, WORDS)))
    for word in range(WORDS):
        assert_drawn_from(text[:, 1:][text[:, :-1] == word], distribution(table[word]))


@BOTH_WAYS
def test_only_the_highest_scores_are_drawn_from_however_near_the_others_are(jit):
    near = np.nextafter(np.float32(0.1), np.float32(1))
    scores = np.array([-5, 0.1, near, near, 0.1, -np.inf, -0.0, 0.0], "float32")
    many = np.tile(scores, (2000, 1))
    generate = compiled(bigrams(np.zeros((8, 8))), jit, count=1)
    # Both of the ties at the end of the highest k are in.
    for top_k, ids in ((1, {2, 3}), (2, {2, 3}), (3, {1, 2, 3, 4}), (5, {1, 2, 3, 4, 6, 7})):
        assert set(generate(many, top_k=top_k).flat) == ids


@BOTH_WAYS
def test_extreme_scores_and_temperatures_choose_a_possible_id(jit):
    scores = np.array([[3e38, -3e38, 1], [-1e30, -1e30, -3e38], [0, 1, 1e-30]], "float32")
    generate = compiled(bigrams(np.zeros((3, 3))), jit, count=1)
    for options in ({}, {"top_k": 2}, {"top_p": 0.5}, {"top_k": 2, "top_p": 0.5}):
        text = generate(scores, temperature=1e-30, **options)[:, 0]
        assert text[0] == 0 and text[1] in (0, 1) and text[2] == 1
    assert set(generate(scores, temperature=1e30)[:, 0]) <= {0, 1, 2}


def test_a_large_vocabulary_is_drawn_from_evenly():
    words = 50_000
    generate = compiled(bigrams(np.zeros((1, words))), True, count=1)
    many = np.zeros((2000, words), "float32")
    ids = generate(many, seed=3)[:, 0]
    assert_drawn_from(ids * 10 // words, np.full(10, 0.1))
    # Half of the ids have no weight: none of them is drawn.
    many[:, ::2] = -np.inf
    assert np.all(generate(many, seed=4) % 2 == 1)


@BOTH_WAYS
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banned_ids_are_never_generated(jit, temperature):
    table = random_scores(WORDS, WORDS)
    table[:, [0, 4]] = 20
    generate = compiled(bigrams(table), jit, count=50, banned=[0, 4])
    text = generate(table, temperature=temperature)
    assert not np.isin(text, [0, 4]).any()
    if temperature:
        assert set(text.flat) == set(range(WORDS)) - {0, 4}


@BOTH_WAYS
def test_padding_follows_the_end_of_a_row(jit):
    table = random_scores(WORDS, WORDS)
    endless = compiled(bigrams(table), jit, count=40, banned=[0])(table)
    ended = compiled(bigrams(table), jit, count=40, banned=[0], ends_with=3)(table)
    assert (endless == 3).any(axis=1).all() and not (endless == 0).any()
    for row, whole in zip(ended, endless):
        end = list(whole).index(3) + 1
        np.testing.assert_array_equal(row, [*whole[:end], *(40 - end) * [decoding.PADDING]])


@BOTH_WAYS
def test_the_seed_and_nothing_else_chooses_the_text(jit):
    table = random_scores(WORDS, WORDS)
    generate = compiled(bigrams(table), jit, count=30)
    text = generate(table, seed=5)
    np.testing.assert_array_equal(generate(table, seed=5), text)
    for seed in (6, 5 + 2**32):
        assert (generate(table, seed=seed) != text).any(axis=1).all()


@BOTH_WAYS
def test_the_text_of_a_row_does_not_depend_on_other_rows(jit):
    table = random_scores(WORDS, WORDS)
    generate = compiled(bigrams(table), jit, count=30, ends_with=3)
    text = generate(table)
    np.testing.assert_array_equal(generate(table[:4]), text[:4])
    others = np.concatenate([table[:2], random_scores(WORDS - 2, WORDS, seed=1)])
    np.testing.assert_array_equal(generate(others)[:2], text[:2])


def test_equal_rows_have_texts_of_their_own():
    text = compiled(bigrams(np.zeros((WORDS, WORDS))), True, count=30)(np.zeros((50, WORDS)))
    assert len(np.unique(text, axis=0)) == 50


@BOTH_WAYS
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_count_may_be_an_argument_of_the_program(jit, count):
    table = random_scores(WORDS, WORDS)

    def program(first_scores, count):
        return decoding.generate(
            bigrams(table),
            first_scores,
            (),
            rows=tf.range(tf.shape(first_scores)[0]),
            count=count,
            seed=1,
            temperature=1.0,
        )

    signature = [tf.TensorSpec([None, WORDS]), tf.TensorSpec([], tf.int32)]
    function = tf.function(program, autograph=False, jit_compile=jit, input_signature=signature)
    text = function(tf.constant(table), tf.constant(count))
    whole = compiled(bigrams(table), jit, count=7)(table)
    np.testing.assert_array_equal(text, whole[:, :count])


def test_a_program_without_a_fixed_count_can_be_saved(tmp_path):
    table = random_scores(WORDS, WORDS)
    module = tf.Module()
    module.generate = tf.function(
        functools.partial(
            decoding.generate, bigrams(table), state=(), seed=1, temperature=1.0, top_k=3
        ),
        autograph=False,
    )
    concrete = module.generate.get_concrete_function(
        first_scores=tf.TensorSpec([None, WORDS]),
        rows=tf.TensorSpec([None], tf.int32),
        count=tf.TensorSpec([], tf.int32),
    )
    tf.saved_model.save(module, str(tmp_path), signatures=concrete)
    [text] = (
        tf.saved_model.load(str(tmp_path))
        .signatures["serving_default"](
            first_scores=tf.constant(table), rows=tf.range(WORDS), count=tf.constant(5)
        )
        .values()
    )
    whole = compiled(bigrams(table), False, count=5)(table, top_k=3)
    np.testing.assert_array_equal(text, whole)
