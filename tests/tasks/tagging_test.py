"""Tags of steps and the spans that they stand for, on cases by hand and against brute force."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data.pipeline import Batch
from trainer.models.heads import StepOutputs
from trainer.tasks import classification, tagging

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ID = {label: number for number, label in enumerate(LABELS)}


def bio_spans(tags):
    """The spans of a sentence by the rules of conlleval.pl, one pair of neighbours at a time.

    `start_of_chunk`: B, or another kind than before, or after O. `end_of_chunk`: before B, O or
    another kind.
    """
    found, begin = set(), None
    pairs = zip(["O", *tags], [*tags, "O"])
    for step, (before, now) in enumerate(pairs):
        other = before[2:] != now[2:]
        if begin is not None and (now == "O" or now[0] == "B" or other):
            found.add((before[2:], begin, step))
            begin = None
        if now != "O" and (now[0] == "B" or before == "O" or other):
            begin = step
    return found


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("", []),
        ("O O", []),
        ("O B-PER I-PER O", [("PER", 1, 3)]),
        ("B-PER", [("PER", 0, 1)]),
        ("O B-PER I-PER", [("PER", 1, 3)]),  # at the end of the sentence
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),  # B after B
        ("B-PER I-PER B-PER", [("PER", 0, 2), ("PER", 2, 3)]),
        ("I-PER I-PER O", [("PER", 0, 2)]),  # I without its B
        ("O I-LOC", [("LOC", 1, 2)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),  # I of another kind
        ("I-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER O I-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("B-a-b I-a-b I-a", [("a-b", 0, 2), ("a", 2, 3)]),  # a kind with a hyphen
    ],
)
def test_spans_of_a_sentence_by_hand(tags, expected):
    assert tagging.spans(tags.split()) == set(expected)


def test_spans_are_those_of_conlleval_in_every_sentence_of_five_steps():
    for length in range(6):
        for tags in itertools.product(LABELS, repeat=length):
            assert tagging.spans(tags) == bio_spans(tags), tags


def test_every_step_that_is_not_outside_lies_in_exactly_one_span():
    generator = np.random.default_rng(1)
    for _ in range(200):
        tags = [LABELS[tag] for tag in generator.integers(0, 5, 12)]
        covered = sorted(
            step for _, first, end in tagging.spans(tags) for step in range(first, end)
        )
        assert covered == [step for step, tag in enumerate(tags) if tag != "O"]


@pytest.mark.parametrize(
    "labels, expected",
    [
        (LABELS, True),
        (("B-PER", "I-PER"), True),
        (("O",), False),
        ((), False),
        (("noun", "verb"), False),
        (("O", "B-PER", "E-PER"), False),
        (("O", "B-"), False),
        (("O", "B"), False),
        (("O", "b-per"), False),
    ],
)
def test_which_tags_stand_for_spans(labels, expected):
    assert tagging.has_spans(labels) == expected


# --- Metrics --------------------------------------------------------------------------------------


def metrics_of(true, predicted, labels=LABELS, losses=None):
    """The metrics of sentences in words; what is padded is wrong on purpose."""
    numbers = {label: number for number, label in enumerate(labels)}
    sentences = [[numbers[tag] for tag in row.split()] for row in true]
    guesses = [[numbers[tag] for tag in row.split()] for row in predicted]
    lengths = np.array([len(row) for row in sentences], np.int32)
    width = max(lengths) + 2
    targets = np.array([row + [0] * (width - len(row)) for row in sentences], np.int32)
    answers = np.array([row + [1] * (width - len(row)) for row in guesses], np.float32)
    batch = Batch(np.arange(len(true)), np.ones_like(targets), lengths, targets)
    losses = np.zeros(len(true)) if losses is None else np.asarray(losses)
    return tagging.Metrics.of(losses, answers, batch, labels)


def test_the_metrics_of_three_sentences_by_hand():
    found = metrics_of(
        ["O B-PER I-PER", "B-LOC O", "B-PER B-LOC"],
        ["O B-PER O", "B-LOC O", "I-PER I-LOC"],
        losses=[3.0, 1.0, 3.0],
    )
    confusion = np.zeros((5, 5), int)
    for true, predicted in (
        ("O", "O"),
        ("B-PER", "B-PER"),
        ("I-PER", "O"),
        ("B-LOC", "B-LOC"),
        ("O", "O"),
        ("B-PER", "I-PER"),
        ("B-LOC", "I-LOC"),
    ):
        confusion[ID[true], ID[predicted]] += 1
    np.testing.assert_array_equal(found.steps.confusion, confusion)
    # PER: one span too short, one right although its first tag is an I. LOC: both right.
    assert {kind: counts.tolist() for kind, counts in found.spans.items()} == {
        "PER": [1, 2, 2],
        "LOC": [2, 2, 2],
    }
    assert found.metrics() == pytest.approx(
        {
            "loss": 7 / 7,
            "accuracy": 4 / 7,
            # O 4/5; B-PER 2/3; I-PER 0; B-LOC 2/3; I-LOC 0.
            "macro_f1": (4 / 5 + 2 / 3 + 0 + 2 / 3 + 0) / 5,
            "span_f1": 2 * 3 / (4 + 4),
        },
        rel=1e-14,
    )


def test_a_span_is_right_only_with_both_ends_and_its_kind():
    found = metrics_of(
        ["B-PER I-PER O", "B-PER I-PER O", "B-PER I-PER O", "B-PER I-PER O"],
        ["B-PER I-PER O", "B-PER I-PER I-PER", "O B-PER O", "B-LOC I-LOC O"],
    )
    assert found.spans["PER"].tolist() == [1, 3, 4] and found.spans["LOC"].tolist() == [0, 1, 0]
    assert found.span_f1 == pytest.approx(2 * 1 / (4 + 4))


def test_spans_of_many_sentences_are_those_of_brute_force():
    generator = np.random.default_rng(2)
    rows = [
        [" ".join(LABELS[tag] for tag in generator.integers(0, 5, length)) for _ in range(2)]
        for length in generator.integers(1, 9, 60)
    ]
    true, predicted = zip(*rows)
    there, guessed = (
        {(row, *span) for row, tags in enumerate(side) for span in bio_spans(tags.split())}
        for side in (true, predicted)
    )
    found, right = metrics_of(true, predicted), len(there & guessed)
    precision, recall = right / len(guessed), right / len(there)
    assert found.span_f1 == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-12)
    halves = [metrics_of(true[rows], predicted[rows]) for rows in (slice(0, 17), slice(17, 60))]
    assert (halves[0] + halves[1]).report(LABELS) == found.report(LABELS)


def test_tags_that_are_not_bio_have_no_spans():
    found = metrics_of(["noun verb noun"], ["noun noun verb"], labels=("noun", "verb"))
    assert found.spans == {} and found.metrics()["span_f1"] == 0
    report = found.report(("noun", "verb"))
    assert "spans" not in report
    assert (report["examples"], report["tokens"]) == (1, 3)


def test_sentences_without_any_span_have_the_f1_zero():
    assert metrics_of(["O O"], ["O O"]).metrics()["span_f1"] == 0


def test_a_report_has_a_row_for_each_tag_and_each_kind_of_span():
    report = metrics_of(["O B-PER I-PER", "B-LOC O"], ["O B-PER O", "B-LOC O"]).report(LABELS)
    assert (report["examples"], report["tokens"]) == (2, 5)
    assert list(report["tags"]) == list(LABELS)
    assert report["tags"]["O"] == pytest.approx(
        {"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "tokens": 2}
    )
    assert report["tags"]["I-LOC"] == {"precision": 0, "recall": 0, "f1": 0, "tokens": 0}
    assert list(report["spans"]) == ["LOC", "PER"]
    assert report["spans"]["LOC"] == {"precision": 1, "recall": 1, "f1": 1, "spans": 1}
    assert report["spans"]["PER"] == {"precision": 0, "recall": 0, "f1": 0, "spans": 1}


# --- Losses ---------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(0)
STATES, KERNEL = GENERATOR.normal(size=(4, 6, 3)), GENERATOR.normal(size=(3, 5))
BIAS = GENERATOR.normal(size=5)
TARGETS = GENERATOR.integers(0, 5, (4, 6)).astype(np.int32)
LENGTHS = np.array([6, 1, 3, 2], np.int32)
BATCH = Batch(np.arange(4, dtype=np.int32), np.ones_like(TARGETS), LENGTHS, TARGETS)
OUTPUTS = StepOutputs(STATES, KERNEL, BIAS, transposed=True)


def losses_of_steps():
    """float64 [4, 6], of Keras; 0 where padded."""
    losses = keras.losses.sparse_categorical_crossentropy(
        TARGETS, STATES @ KERNEL + BIAS, from_logits=True
    )
    return np.where(np.arange(6) < LENGTHS[:, None], losses, 0)


def test_class_weights_multiply_the_losses_of_steps_and_not_their_counts():
    weights = np.array([0.5, 2.0, 0.0, 1.0, 3.0])
    sums = tagging.training_sums(OUTPUTS, BATCH, class_weights=tuple(weights))
    np.testing.assert_allclose(
        sums["loss_sum"], (losses_of_steps() * weights[TARGETS]).sum(), rtol=1e-12
    )
    assert float(sums["count"]) == LENGTHS.sum()


def test_outcomes_are_the_loss_of_each_row_and_the_likeliest_tag_of_each_step():
    losses, tags = tagging.outcomes(OUTPUTS, BATCH)
    np.testing.assert_allclose(losses, losses_of_steps().sum(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(tags, (STATES @ KERNEL + BIAS).argmax(axis=-1))


def test_rows_of_one_step_are_classification():
    """The same sums as of a batch of texts with a label each."""
    one = BATCH._replace(
        inputs=BATCH.inputs[:, :1], targets=TARGETS[:, :1], lengths=np.ones(4, np.int32)
    )
    ours = tagging.training_sums(
        OUTPUTS._replace(states=OUTPUTS.states[:, :1]), one, 0.1, (1.0, 2.0, 3.0, 4.0, 5.0)
    )
    theirs = classification.training_sums(
        tf.constant(STATES[:, 0] @ KERNEL + BIAS),
        one._replace(targets=TARGETS[:, 0]),
        0.1,
        (1.0, 2.0, 3.0, 4.0, 5.0),
    )
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-12)
