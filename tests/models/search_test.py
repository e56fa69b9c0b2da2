"""Search: the best of all texts of a small language, and greedy as a plain loop."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from trainer.models import search

PADDING, END, UNKNOWN, WORDS = 0, 1, 2, 7
BANNED = (PADDING, UNKNOWN)


def random_table(rows, seed=0):
    """Returns the scores of a language of each row: of the next token after a token."""
    return 1.5 * np.random.default_rng(seed).normal(size=(rows, WORDS, WORDS)).astype("float32")


def found(table, *, size, limits, length=None, penalty=1.0, jit=False):
    """Returns (ids [rows, size, length], scores [rows, size]) of a search in `random_table`."""

    def step(ids, state):
        row, last = state
        # The state says what came before: it must follow its hypothesis.
        return tf.gather_nd(table, tf.stack([row, ids], 1)) + 0 * last[:, None], (
            row,
            tf.cast(ids, tf.float32),
        )

    @tf.function(autograph=False, jit_compile=jit)
    def program(limits):
        rows = tf.repeat(tf.range(len(table)), size)
        return search.likeliest(
            step,
            (rows, tf.zeros_like(rows, tf.float32)),
            size=size,
            limits=limits,
            length=length or max(limits_given),
            start=END,
            ends_with=END,
            banned=BANNED,
            penalty=penalty,
        )

    limits_given = np.broadcast_to(limits, len(table)).tolist()
    ids, scores = program(tf.constant(limits_given, tf.int32))
    return ids.numpy(), scores.numpy()


def log_probabilities(table):
    """Returns the logarithms of the probabilities of a row's language; no banned id is likely."""
    weights = np.exp(table.astype("float64"))
    with np.errstate(divide="ignore"):
        log_p = np.log(weights / weights.sum(axis=1, keepdims=True))
    log_p[:, BANNED] = -np.inf
    return log_p


def score(log_p, text, penalty):
    total = sum(log_p[before, word] for before, word in zip([END, *text], text))
    return total / ((5 + len(text)) / 6) ** penalty


def all_texts(log_p, limit, penalty):
    """Returns [(score, ids)] of every text that ends within the limit, the best first."""
    middle = [word for word in range(WORDS) if word not in (*BANNED, END)]
    texts = [[*words, END] for n in range(limit) for words in itertools.product(middle, repeat=n)]
    return sorted(((score(log_p, text, penalty), text) for text in texts), reverse=True)


def without_padding(ids):
    return [int(word) for word in ids if word != PADDING]


@pytest.mark.parametrize(("penalty", "jit"), [(0.0, False), (1.0, True)])
def test_a_wide_beam_finds_the_best_of_all_texts(penalty, jit):
    table = random_table(5, seed=3)
    ids, scores = found(table, size=40, limits=4, penalty=penalty, jit=jit)
    for row in range(5):
        best, text = all_texts(log_probabilities(table[row]), 4, penalty)[0]
        assert without_padding(ids[row, 0]) == text
        np.testing.assert_allclose(scores[row, 0], best, rtol=1e-5)


def test_every_hypothesis_has_the_score_of_its_text():
    table = random_table(6)
    ids, scores = found(table, size=4, limits=6, penalty=0.7)
    for row, hypothesis in itertools.product(range(6), range(4)):
        if np.isfinite(scores[row, hypothesis]):
            truth = score(log_probabilities(table[row]), without_padding(ids[row, hypothesis]), 0.7)
            np.testing.assert_allclose(scores[row, hypothesis], truth, rtol=1e-5)
        else:
            assert not ids[row, hypothesis].any()
    assert (np.sort(-scores, axis=1) == -scores).all()
    assert np.isfinite(scores).sum() > 12  # Most of a row's places are taken.


def test_no_hypothesis_is_found_twice():
    ids, scores = found(random_table(8, seed=1), size=5, limits=5)
    for row in range(8):
        texts = [tuple(text) for text in ids[row, np.isfinite(scores[row])]]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("jit", [False, True])
def test_greedy_takes_the_likeliest_token_each_time(jit):
    table, limit = random_table(12, seed=2), 6
    ids, scores = found(table, size=1, limits=limit, jit=jit)
    for row in range(12):
        log_p, text = log_probabilities(table[row]), [END]
        while len(text) <= limit and (len(text) == 1 or text[-1] != END):
            text.append(int(log_p[text[-1]].argmax()))
        assert without_padding(ids[row, 0]) == text[1:]
        np.testing.assert_allclose(scores[row, 0], score(log_p, text[1:], 1.0), rtol=1e-5)


def test_greedy_takes_the_first_of_ties():
    ids, _ = found(np.zeros((1, WORDS, WORDS), "float32"), size=1, limits=3)
    assert ids[0, 0].tolist() == [END, PADDING, PADDING]


@pytest.mark.parametrize("size", [1, 3])
def test_a_text_depends_on_no_other_row(size):
    table, limits = random_table(6, seed=5), np.array([2, 9, 4, 0, 7, 9])
    together, scores = found(table, size=size, limits=limits)
    for row in (0, 3, 4):
        alone, alone_scores = found(table[row : row + 1], size=size, limits=limits[row], length=9)
        np.testing.assert_array_equal(alone[0], together[row])
        np.testing.assert_allclose(alone_scores[0], scores[row], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 4])
def test_banned_ids_are_never_found(size):
    table = random_table(4)
    table[:, :, BANNED] = 50
    ids, scores = found(table, size=size, limits=5)
    assert np.isfinite(scores[:, 0]).all()
    assert not (ids == UNKNOWN).any()
    ended = np.cumsum(ids == END, axis=-1) > 0
    assert ((ids != PADDING) | ended | (ids.cumsum(-1) == 0)).all()


@pytest.mark.parametrize("size", [1, 4])
def test_a_row_with_the_limit_0_is_empty(size):
    ids, scores = found(random_table(3), size=size, limits=[0, 4, 0])
    assert not ids[[0, 2]].any() and ids[1].any()
    assert scores[[0, 2], 0].tolist() == [0, 0]
    assert np.isneginf(scores[[0, 2], 1:]).all()


@pytest.mark.parametrize("size", [1, 3])
def test_a_text_that_never_ends_is_cut_at_its_limit(size):
    table = random_table(2)
    table[:, :, END] = -np.inf
    ids, scores = found(table, size=size, limits=[3, 5])
    assert np.count_nonzero(ids[0, 0]) == 3 and np.count_nonzero(ids[1, 0]) == 5
    assert np.isfinite(scores).all()
    log_p = log_probabilities(table[1])
    np.testing.assert_allclose(scores[1, 0], score(log_p, ids[1, 0].tolist(), 1.0), rtol=1e-5)


def test_a_vocabulary_may_be_smaller_than_the_beam():
    ids, scores = found(random_table(1), size=30, limits=3)
    best = all_texts(log_probabilities(random_table(1)[0]), 3, 1.0)
    texts = [text for _, text in best]
    assert len(best) == 21
    found_texts = [without_padding(ids[0, i]) for i in range(30) if np.isfinite(scores[0, i])]
    assert found_texts[0] == texts[0]
    assert all(text in texts for text in found_texts)


def test_the_state_follows_its_hypothesis():
    """The scores depend on the token before the last one, which only the state knows."""
    rng = np.random.default_rng(4)
    table = 1.5 * rng.normal(size=(WORDS, WORDS, WORDS)).astype("float32")

    def step(ids, before):
        return tf.gather_nd(table, tf.stack([before, ids], 1)), ids

    size, limit = 40, 4
    ids, scores = search.likeliest(
        step,
        tf.zeros([size], tf.int32),
        size=size,
        limits=tf.constant([limit]),
        length=limit,
        start=END,
        ends_with=END,
        banned=BANNED,
    )
    log_p = np.stack([log_probabilities(table[before]) for before in range(WORDS)])
    middle = [word for word in range(WORDS) if word not in (*BANNED, END)]
    best = max(
        (
            sum(log_p[a, b, c] for a, b, c in zip([0, END, *text], [END, *text], text))
            / ((5 + len(text)) / 6),
            text,
        )
        for n in range(limit)
        for text in ([*words, END] for words in itertools.product(middle, repeat=n))
    )
    assert without_padding(ids[0, 0].numpy()) == best[1]
    np.testing.assert_allclose(scores[0, 0], best[0], rtol=1e-5)
