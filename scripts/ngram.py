#!/usr/bin/env python3
"""The perplexity of a Kneser-Ney 3-gram on a prepared text: what a language model should beat.

    python scripts/ngram.py --data_dir=D [--split=test]

It counts the training split and predicts each token but the first of another split from the two
before it, over the same ids as a model: documents end to end, the start id between them.

Interpolated Kneser-Ney with one discount for each order: Chen and Goodman, An Empirical Study of
Smoothing Techniques for Language Modeling, 1998, section 2.7, equations 24 to 26; the discount is
n1 / (n1 + 2 n2). The unigrams fall back on equal probabilities.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))


class Counts:
    """How often integer keys occur: `counts[keys]`, 0 for others."""

    def __init__(self, keys: np.ndarray):
        self.keys, self.counts = np.unique(keys, return_counts=True)

    def __getitem__(self, keys: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.counts[at], 0)

    @property
    def discount(self) -> float:
        """n1 / (n1 + 2 n2), at least a tenth where no key occurs once."""
        once, twice = ((self.counts == count).sum() for count in (1, 2))
        return max(0.1, once / max(1, once + 2 * twice))


class Sums(Counts):
    """The sum of `values` for each key."""

    def __init__(self, keys: np.ndarray, values: np.ndarray):
        self.keys, place = np.unique(keys, return_inverse=True)
        self.counts = np.bincount(place, values).astype(np.int64)


class KneserNey:
    """A 3-gram of `tokens`, int [n], over ids below `vocabulary`."""

    def __init__(self, tokens: np.ndarray, vocabulary: int):
        self._vocabulary = np.int64(vocabulary)
        u, v, w = (tokens[place : len(tokens) - 2 + place].astype(np.int64) for place in range(3))
        self._trigrams = Counts(self._key(u, v, w))
        self._after_two = self._followers(self._trigrams)
        # In lower orders a token counts once for each context that it is seen in.
        self._bigrams = Counts(self._trigrams.keys % self._vocabulary**2)
        self._after_one = self._followers(self._bigrams)
        self._unigrams = Counts(self._bigrams.keys % self._vocabulary)

    def _key(self, *ids: np.ndarray) -> np.ndarray:
        key = np.int64(0)
        for part in ids:
            key = key * self._vocabulary + part
        return key

    def _followers(self, counts: Counts) -> tuple[Counts, Counts]:
        """Returns, by context, how many tokens follow it and how many different ones."""
        contexts = counts.keys // self._vocabulary
        return Sums(contexts, counts.counts), Counts(contexts)

    def probabilities(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Returns P(w | u, v) for arrays of ids: float64, of their shape."""
        unigram = self._interpolated(
            self._unigrams,
            np.full(np.shape(w), self._unigrams.counts.sum()),
            np.full(np.shape(w), len(self._unigrams.keys)),
            w,
            1 / float(self._vocabulary),
        )
        after, different = self._after_one
        bigram = self._interpolated(self._bigrams, after[v], different[v], self._key(v, w), unigram)
        after, different = self._after_two
        context = self._key(u, v)
        return self._interpolated(
            self._trigrams, after[context], different[context], self._key(u, v, w), bigram
        )

    def _interpolated(self, counts, after, different, key, lower):
        """Returns the discounted share of `key` in its context, and the rest from the lower order.

        Where the context was never seen it is the lower order alone.
        """
        discount, seen = counts.discount, np.maximum(after, 1)
        share = (np.maximum(counts[key] - discount, 0) + discount * different * lower) / seen
        return np.where(after > 0, share, lower)

    def perplexity(self, tokens: np.ndarray) -> float:
        """Returns exp of the mean negative log-probability of all tokens but the first.

        The second token has one token before it; the one before that counts as the start id.
        """
        ids = np.concatenate([[1], tokens]).astype(np.int64)
        log_p = np.log(self.probabilities(ids[:-2], ids[1:-1], ids[2:]))
        return float(np.exp(-log_p.mean()))


def main() -> None:
    from trainer.data import store

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--split", default="test")
    given = parser.parse_args()
    dataset = store.open_dataset(given.data_dir)
    model = KneserNey(dataset.splits["train"].inputs, len(dataset.vocabulary))
    tokens = np.asarray(dataset.splits[given.split].inputs)
    print(f"perplexity {model.perplexity(tokens):.2f} tokens {len(tokens) - 1}")


if __name__ == "__main__":
    main()
