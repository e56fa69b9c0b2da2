"""BLEU and chrF: by arithmetic, and what a user reads who lacks sacrebleu."""

import importlib.util

import numpy as np
import pytest

from trainer.exit_codes import UsageError
from trainer.tasks import bleu

needs_sacrebleu = pytest.mark.skipif(not bleu.is_installed(), reason=bleu.INSTALL)


def f2(precision, recall):
    return 5 * precision * recall / (4 * precision + recall)


@needs_sacrebleu
def test_bleu_is_the_geometric_mean_of_the_precisions_of_one_to_four_words():
    # Of 6 words 5 are in the reference, of 5 pairs 3, of 4 triples 2, of 3 quadruples 1.
    found = bleu.quality(["the cat sat on the mat"], ["the cat sat on a mat"], lowercase=False)
    precisions = [5 / 6, 3 / 5, 2 / 4, 1 / 3]
    np.testing.assert_allclose(found.bleu, 100 * np.prod(precisions) ** 0.25)


@needs_sacrebleu
def test_a_short_translation_has_a_penalty():
    words = "one two three four five six seven eight nine ten".split()
    found = bleu.quality([" ".join(words[:8])], [" ".join(words)], lowercase=False)
    np.testing.assert_allclose(found.bleu, 100 * np.exp(1 - 10 / 8))


@needs_sacrebleu
def test_counts_of_all_texts_are_added_before_they_are_divided():
    words = "one two three four five".split()
    found = bleu.quality(
        [" ".join(words), "one two three four six"], [" ".join(words)] * 2, lowercase=False
    )
    precisions = [9 / 10, 7 / 8, 5 / 6, 3 / 4]
    np.testing.assert_allclose(found.bleu, 100 * np.prod(precisions) ** 0.25)


@needs_sacrebleu
def test_chrf_is_the_f2_of_one_to_six_characters():
    # abcdefg against abcdefh: all n-grams but the last of each are in both.
    found = bleu.quality(["abcdefg"], ["abcdefh"], lowercase=False)
    each = [(7 - n) / (8 - n) for n in range(1, 7)]
    np.testing.assert_allclose(found.chrf, 100 * f2(np.mean(each), np.mean(each)))


@needs_sacrebleu
def test_case_counts_unless_it_is_told_not_to():
    texts, references = ["A small DOG runs"], ["a small dog runs"]
    exact = bleu.quality(texts, references, lowercase=False)
    lower = bleu.quality(texts, references, lowercase=True)
    assert exact.bleu < 100 and exact.chrf < 100
    assert (round(lower.bleu, 6), round(lower.chrf, 6)) == (100, 100)
    assert "case:mixed" in exact.signature and "case:mixed" in exact.chrf_signature
    assert "case:lc" in lower.signature and "case:lc" in lower.chrf_signature
    assert "tok:13a" in lower.signature and "nc:6" in lower.chrf_signature


@needs_sacrebleu
def test_empty_translations_are_worth_nothing():
    found = bleu.quality(["", ""], ["a dog", "a cat"], lowercase=False)
    assert (found.bleu, found.chrf) == (0, 0)


def test_without_sacrebleu_a_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as refused:
        bleu.require("--best_metric=bleu")
    assert str(refused.value).startswith("--best_metric=bleu: ")
    assert bleu.INSTALL in str(refused.value)
