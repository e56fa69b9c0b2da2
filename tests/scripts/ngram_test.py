"""The 3-gram that language models are compared with: its probabilities from their definition."""

import collections

import numpy as np
import pytest

from scripts.ngram import KneserNey

VOCABULARY = 7
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY - 1, 60)  # The last id never occurs.


@pytest.fixture(scope="module")
def model():
    return KneserNey(TOKENS, VOCABULARY)


def by_definition(tokens):
    """P(w | u, v) as nested loops over dictionaries."""
    trigrams = collections.Counter(zip(tokens, tokens[1:], tokens[2:]))
    bigrams = collections.Counter((v, w) for _, v, w in trigrams)
    unigrams = collections.Counter(w for _, w in bigrams)

    def discount(counts):
        once, twice = (list(counts.values()).count(times) for times in (1, 2))
        return max(0.1, once / max(1, once + 2 * twice))

    def level(counts, context, w, lower):
        inside = {key: count for key, count in counts.items() if key[:-1] == context}
        if not inside:
            return lower
        left = max(counts[(*context, w)] - discount(counts), 0)
        return (left + discount(counts) * len(inside) * lower) / sum(inside.values())

    singles = collections.Counter({(w,): count for w, count in unigrams.items()})

    def probability(u, v, w):
        lower = level(singles, (), w, 1 / VOCABULARY)
        return level(trigrams, (u, v), w, level(bigrams, (v,), w, lower))

    return probability


def test_its_probabilities_are_those_of_the_definition_and_add_up_to_one(model):
    expected = by_definition(TOKENS.tolist())
    ids = np.arange(VOCABULARY)
    for u in range(VOCABULARY):
        for v in range(VOCABULARY):
            found = model.probabilities(np.full(VOCABULARY, u), np.full(VOCABULARY, v), ids)
            np.testing.assert_allclose(
                found, [expected(u, v, w) for w in range(VOCABULARY)], rtol=1e-12
            )
            assert found.sum() == pytest.approx(1) and found.min() > 0


def test_a_text_has_the_perplexity_of_its_tokens(model):
    u, v, w = np.array([1, 3]), np.array([3, 2]), np.array([2, 5])
    expected = np.exp(-np.log(model.probabilities(u, v, w)).mean())
    assert model.perplexity(np.array([3, 2, 5])) == pytest.approx(expected)
