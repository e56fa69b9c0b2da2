"""Padding and batches: the step alone determines them, whichever rows a worker asks for."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.data.plans_test import random_split, settings, split_of, text_of
from tests.steps import runs
from trainer.data import fields, pipeline, plans
from trainer.data.store import Dataset, Split
from trainer.devices.placement import bounds


def of_step(split, seed=3, **changes):
    plan = plans.ShuffledPlan(split, settings(**changes), seed)
    return pipeline.TrainingBatches(split, settings(**changes), plan)


# --- Cutting and filling up -----------------------------------------------------------------------

ROWS = [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 5]]


def padded_tokens(split, examples, length, settings):
    return pipeline.batch_of(split, examples, length, settings).inputs


@pytest.mark.parametrize(
    "truncate, padding, length, expected",
    [
        ("end", "post", 3, [[1, 0, 0], [1, 2, 0], [1, 2, 3], [1, 2, 3]]),
        ("end", "pre", 3, [[0, 0, 1], [0, 1, 2], [1, 2, 3], [1, 2, 3]]),
        ("start", "post", 3, [[1, 0, 0], [1, 2, 0], [1, 2, 3], [3, 4, 5]]),
        ("start", "pre", 3, [[0, 0, 1], [0, 1, 2], [1, 2, 3], [3, 4, 5]]),
        ("start", "post", 1, [[1], [2], [3], [5]]),
        ("end", "pre", 1, [[1], [1], [1], [1]]),
        ("end", "post", 5, [[1, 0, 0, 0, 0], [1, 2, 0, 0, 0], [1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]),
        (
            "start",
            "pre",
            6,
            [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]],
        ),
    ],
)
def test_sides_of_truncation_and_padding(truncate, padding, length, expected):
    padded = padded_tokens(
        split_of(ROWS), np.arange(4), length, settings(truncate=truncate, padding=padding)
    )
    assert padded.tolist() == expected
    assert padded.dtype == np.int32


@pytest.mark.parametrize("truncate, expected", [("end", [1, 2, 0, 0]), ("start", [4, 5, 0, 0])])
def test_what_is_longer_than_max_length_is_cut_however_wide_the_batch_is(truncate, expected):
    padded = padded_tokens(
        split_of(ROWS), np.array([3]), 4, settings(truncate=truncate, max_length=2)
    )
    assert padded.tolist() == [expected]


@pytest.mark.parametrize("truncate", ["start", "end"])
@pytest.mark.parametrize("padding", ["pre", "post"])
def test_padding_is_that_of_keras(truncate, padding):
    generator = np.random.default_rng(1)
    sequences = [generator.integers(1, 90, generator.integers(1, 20)) for _ in range(60)]
    examples = generator.permutation(60)[:45]
    ours = padded_tokens(
        split_of(sequences), examples, 11, settings(truncate=truncate, padding=padding)
    )
    theirs = keras.utils.pad_sequences(
        [sequences[i] for i in examples],
        11,
        padding=padding,
        truncating={"start": "pre", "end": "post"}[truncate],
    )
    np.testing.assert_array_equal(ours, theirs)


# --- The batch of a step --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"bucket": False}, {"padding": "pre"}, {"max_length": 13, "truncate": "start"}]
)
def test_a_batch_holds_the_rows_of_its_examples(changes):
    split = random_split(100)
    batches = of_step(split, **changes)
    chosen = settings(**changes)
    for step in range(30):
        examples = batches.plan.examples(step)
        rows, tokens, lengths, labels = batches.batch(step)
        assert rows.tolist() == list(range(8))
        assert labels.tolist() == split.targets[examples].tolist()
        assert tokens.shape[1] == batches.plan.padded_length(step) in batches.plan.lengths
        for row, example in enumerate(examples):
            full = split.inputs[split.offsets[example] : split.offsets[example + 1]]
            kept = (
                full[-chosen.max_length :]
                if chosen.truncate == "start"
                else full[: chosen.max_length]
            )
            padding = [0] * (tokens.shape[1] - len(kept))
            if chosen.padding == "pre":
                # Padding in front counts as tokens.
                assert (
                    tokens[row].tolist() == padding + kept.tolist()
                    and lengths[row] == 40 == tokens.shape[1]
                )
            else:
                assert tokens[row].tolist() == kept.tolist() + padding and lengths[row] == len(kept)


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 8, 11])
@pytest.mark.parametrize(
    "changes", [{"batch_size": 8}, {"batch_size": 11}, {"batch_size": 11, "padding": "pre"}]
)
def test_any_split_over_replicas_gives_the_same_rows(replicas, changes):
    batches = of_step(random_split(60), **changes)
    for step in range(20):
        whole = batches.batch(step)
        parts = [batches.batch(step, *edges) for edges in bounds(changes["batch_size"], replicas)]
        for name, joined in zip(whole._fields, zip(*parts)):
            # Of one width: all are padded like the whole batch.
            np.testing.assert_array_equal(np.concatenate(joined), getattr(whole, name))


@pytest.mark.parametrize("bucket", [False, True])
def test_the_step_alone_determines_its_batch(bucket):
    split = random_split(150)
    one = of_step(split, bucket=bucket)
    whole = [one.batch(step) for step in range(100)]
    for step in np.random.default_rng(0).permutation(100):
        other = of_step(split, bucket=bucket)
        for ours, theirs in zip(other.batch(int(step)), whole[step]):
            np.testing.assert_array_equal(ours, theirs)


def test_padding_in_front_always_pads_to_max_length():
    batches = of_step(random_split(100, longest=5), padding="pre", max_length=30)
    assert batches.plan.lengths == [30]
    assert {batches.batch(step).inputs.shape for step in range(20)} == {(8, 30)}


MADE_AHEAD = """
import sys, time
import numpy as np, tensorflow as tf
from tests.steps import runs
from trainer.flags.run import Input
tf.config.experimental.enable_op_determinism()
batches, made = runs.batches_of(runs.a_split(), Input(batch_size=4)), []
batch = batches.batch
batches.batch = lambda step, *rows: made.append(step) or batch(step, *rows)
iterator, taken = iter(batches.dataset(3)), 20
for _ in range(taken):  # It makes more of them ahead once the reader has had to wait.
    next(iterator)
deadline = time.monotonic() + 30
while len(made) < taken + 2 and time.monotonic() < deadline:
    time.sleep(0.01)
assert made == list(range(3, 3 + len(made))), made
print(len(made) - taken)
"""


def test_batches_are_made_ahead_even_if_tensorflow_must_be_deterministic():
    """A GPU would wait for each of them otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", MADE_AHEAD],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2


@pytest.mark.parametrize("first", [0, 5, 70])
def test_the_dataset_carries_the_batches_from_any_step_on(first):
    batches = of_step(random_split(100))
    for step, batch in zip(range(first, first + 6), batches.dataset(first)):
        for tensor, array, spec in zip(
            batch, batches.batch(step), pipeline.signature(fields.Form(fields.LABEL))
        ):
            np.testing.assert_array_equal(tensor.numpy(), array)
            assert spec.is_compatible_with(tensor)


# --- Targets for each step ------------------------------------------------------------------------

LINES = [[1, 7, 8, 9], [1, 5], [1, 6, 4]]


@pytest.mark.parametrize(
    "truncate, length, inputs, targets",
    [
        (
            "end",
            5,
            [[1, 7, 8, 9, 0], [1, 5, 0, 0, 0], [1, 6, 4, 0, 0]],
            # The end of a line is told by the start of the next one, also after the last.
            [[7, 8, 9, 1, 0], [5, 1, 0, 0, 0], [6, 4, 1, 0, 0]],
        ),
        # What is cut off still is the target of the step before it.
        ("end", 2, [[1, 7], [1, 5], [1, 6]], [[7, 8], [5, 1], [6, 4]]),
        ("start", 2, [[8, 9], [1, 5], [6, 4]], [[9, 1], [5, 1], [4, 1]]),
        ("start", 1, [[9], [5], [4]], [[1], [1], [1]]),
        ("end", 1, [[1], [1], [1]], [[7], [5], [6]]),
    ],
)
def test_the_target_of_a_step_is_the_next_token_of_the_line(truncate, length, inputs, targets):
    split = split_of(LINES)
    split = Split(split.inputs, split.offsets)
    batch = pipeline.batch_of(
        split, np.arange(3), length, settings(truncate=truncate), target=fields.NEXT_TOKEN
    )
    assert batch.inputs.tolist() == inputs and batch.targets.tolist() == targets
    assert batch.lengths.tolist() == [min(len(line), length) for line in LINES]
    assert batch.targets.dtype == np.int32


def test_the_mark_at_the_end_of_a_line_is_the_start_whatever_stands_next():
    """The last line has no next one; a line of another program may begin with anything."""
    split = split_of([[7, 8], [9]])
    batch = pipeline.batch_of(
        Split(split.inputs, split.offsets), np.array([1, 0]), 3, settings(), 4, fields.NEXT_TOKEN
    )
    assert batch.targets.tolist() == [[1, 0, 0], [8, 1, 0]]
    assert batch.rows.tolist() == [4, 5]


@pytest.mark.parametrize("truncate", ["start", "end"])
@pytest.mark.parametrize("max_length", [40, 9])
def test_tags_are_cut_and_padded_like_their_tokens(truncate, max_length):
    split = random_split(60)
    # A tag that its token determines.
    split = Split(split.inputs, split.offsets, split.inputs % 7 + 1)
    chosen = settings(truncate=truncate, max_length=max_length)
    plan = plans.ShuffledPlan(split, chosen, 3)
    batches = pipeline.TrainingBatches(split, chosen, plan, fields.TAGS)
    for step in range(20):
        batch = batches.batch(step)
        holds = np.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
        np.testing.assert_array_equal(batch.targets, np.where(holds, batch.inputs % 7 + 1, 0))
        assert batch.targets.dtype == np.int32


# --- Streams --------------------------------------------------------------------------------------


def dataset_of(split, order, target=fields.NEXT_TOKEN):
    description = {
        "format": 2,
        "task": "language_model",
        "target": target.kind,
        "order": order,
        "tokenizer": {"name": "spaces"},
    }
    return Dataset(pathlib.Path("text"), description, "", (), (), {"train": split, "test": split})


def streams(size=103, seed=3, **changes):
    chosen = settings(**{"batch_size": 4, "max_length": 5, **changes})
    return pipeline.training_batches(dataset_of(text_of(size), fields.STREAMS), chosen, seed)


@pytest.mark.parametrize("size", [100, 103])
def test_a_chunk_holds_the_tokens_from_its_place_on_and_the_tokens_after_them(size):
    batches = streams(size)
    for step in range(25):
        batch = batches.batch(step)
        places = batches.plan.examples(step)[:, None] + np.arange(5)
        np.testing.assert_array_equal(batch.inputs, places % size)
        # The end of the text is joined to its start.
        np.testing.assert_array_equal(batch.targets, (places + 1) % size)
        assert batch.lengths.tolist() == [5] * 4 and batch.rows.tolist() == [0, 1, 2, 3]
        assert {values.dtype.name for values in batch} == {"int32"}


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_any_split_of_streams_over_replicas_gives_the_same_rows(replicas):
    batches = streams()
    for step in range(12):
        whole = batches.batch(step)
        parts = [batches.batch(step, *edges) for edges in bounds(4, replicas)]
        for name, joined in zip(whole._fields, zip(*parts)):
            np.testing.assert_array_equal(np.concatenate(joined), getattr(whole, name))


@pytest.mark.parametrize("first", [0, 3, 70])
def test_the_dataset_carries_streams_from_any_step_on(first):
    batches = streams()
    for step, batch in zip(range(first, first + 6), batches.dataset(first, (1, 3))):
        for tensor, array, spec in zip(
            batch, batches.batch(step, 1, 3), pipeline.signature(fields.Form(fields.NEXT_TOKEN))
        ):
            np.testing.assert_array_equal(tensor.numpy(), array)
            assert spec.is_compatible_with(tensor)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(
    "order, target",
    [
        *((fields.SHUFFLED, target) for target in fields.TARGETS.values() if not target.sequence),
        (fields.STREAMS, fields.NEXT_TOKEN),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_stack_holds_the_batches_of_its_steps(order, target, mixed):
    split = random_split(60)
    targets = {
        "label": split.targets,
        "tags": split.inputs % 7,
        "next_token": None,
        "values": np.stack([split.targets, -split.targets], axis=1).astype(np.float32),
    }[target.kind]
    split = Split(split.inputs, split.offsets, targets)
    dataset = dataset_of(split, order, target)
    batches = pipeline.training_batches(dataset, settings(batch_size=4), 3)
    step = 2
    for stack, lengths, count in batches.stacks(step, 5, mixed):
        for at in range(int(count)):
            batch = batches.batch(step + at)
            length = batches.plan.padded_length(step + at)
            assert batches.plan.lengths[lengths[at]] == length
            for name, values in zip(batch._fields, batch):
                entry = getattr(stack, name)[at].numpy()
                if values.ndim == 2:
                    assert not entry[:, length:].any()
                    entry = entry[:, :length]
                np.testing.assert_array_equal(entry, values, err_msg=name)
        for values in stack:
            assert not values[int(count) :].numpy().any()
        step += int(count)
        if step > 30:
            break


def test_the_order_of_a_dataset_chooses_how_it_is_read():
    split = text_of(100)
    for order, training, evaluation in (
        (fields.SHUFFLED, pipeline.TrainingBatches, pipeline.EvaluationBatches),
        (fields.STREAMS, pipeline.StreamBatches, pipeline.StreamEvaluationBatches),
    ):
        dataset = dataset_of(split, order)
        chosen = settings(batch_size=4, max_length=5)
        trains = pipeline.training_batches(dataset, chosen, 3)
        evaluates = pipeline.evaluation_batches(dataset, "test", chosen, 7)
        assert (type(trains), type(evaluates)) == (training, evaluation)
        assert trains.target is evaluates.target is fields.NEXT_TOKEN


@pytest.mark.parametrize("size", [2, 5, 17, 18, 100, 1000, 1041])
def test_the_chunks_of_an_evaluation_hold_their_tokens_and_zeros(size):
    split = Split(np.arange(1, size + 1, dtype=np.int32), np.array([0, size], np.int64))
    told = []
    for batch, places, rows in pipeline.StreamEvaluationBatches(split):
        assert rows == len(places) == len(batch.rows) == plans.EVALUATION_PARTS
        holds = np.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
        expected = np.where(holds, places[:, None] + np.arange(batch.inputs.shape[1]) + 1, 0)
        np.testing.assert_array_equal(batch.inputs, expected)
        np.testing.assert_array_equal(batch.targets, np.where(holds, expected + 1, 0))
        assert {values.dtype.name for values in batch} == {"int32"}
        told += batch.targets[holds].tolist()
    assert sorted(told) == list(range(2, size + 1))


# --- Evaluation and loose texts -------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, batch", [(1, 1), (1, 4), (4, 4), (5, 4), (16, 4), (31, 8), (3, 100)]
)
@pytest.mark.parametrize("padding", ["pre", "post"])
def test_evaluation_holds_each_example_once(size, batch, padding):
    split = random_split(size)
    seen = []
    for padded, examples, real in pipeline.EvaluationBatches(
        split, settings(padding=padding), batch
    ):
        # The last too, so that one shape is compiled.
        assert len(padded.inputs) == len(padded.rows) == batch
        assert real == len(examples)
        np.testing.assert_array_equal(padded.targets[:real], split.targets[examples])
        first = np.argmax(padded.inputs[:real] >= 1000, axis=1)
        np.testing.assert_array_equal(padded.inputs[np.arange(real), first] - 1000, examples)
        seen += examples.tolist()
    assert sorted(seen) == list(range(size))


@pytest.mark.parametrize(
    "steps, features, least, rows",
    [
        (28, 28, 1, 256),
        (10_000, 12, 1, 256),
        (1000, 131, 1, 256),
        (1000, 132, 1, 128),
        (100, 64 * 64, 1, 64),
        (100, 128 * 128, 1, 16),
        (100, 128 * 128, 24, 32),  # A row for each of 24 replicas.
        (100, 128 * 128, 300, 256),
        (40, 1 << 20, 1, 1),
    ],
)
def test_an_evaluation_has_fewer_rows_if_they_are_large(steps, features, least, rows):
    # All frames are one, so they need no memory.
    frames = np.broadcast_to(np.zeros(features, np.float32), (2 * steps, features))
    split = Split(frames, np.array([0, steps, 2 * steps]), np.zeros(2, np.int32))
    chosen = settings(max_length=steps)
    assert pipeline.EvaluationBatches(split, chosen, 256, least=least).plan.batch_size == rows


def test_texts_are_evaluated_with_all_rows():
    split = split_of([np.ones(60_000, np.int32)])
    batches = pipeline.EvaluationBatches(split, settings(max_length=60_000), 256)
    assert batches.plan.batch_size == 256


def test_evaluation_sees_what_training_sees_of_an_example():
    split = random_split(40)
    chosen = settings(max_length=9, truncate="start")
    of_example = {}
    for padded, examples, _ in pipeline.EvaluationBatches(split, chosen, 16):
        for row, example in enumerate(examples):
            of_example[example] = padded.inputs[row, : padded.lengths[row]].tolist()
    training = of_step(split, 0, max_length=9, truncate="start")
    for step in range(20):
        batch = training.batch(step)
        for row, example in enumerate(training.plan.examples(step)):
            assert batch.inputs[row, : batch.lengths[row]].tolist() == of_example[example]


@pytest.mark.parametrize(
    "lengths, max_length, padding, expected",
    [
        ([1], 40, "post", 16),
        ([16], 40, "post", 16),
        ([17, 3], 40, "post", 32),
        ([33], 40, "post", 40),  # no power of two beyond max_length
        ([90], 40, "post", 40),
        ([3], 5, "post", 5),
        ([3], 40, "pre", 40),
    ],
)
def test_loose_texts_are_padded_to_a_power_of_two(lengths, max_length, padding, expected):
    split = split_of([1 + np.arange(length) for length in lengths])
    batch = pipeline.loose_batch(split, settings(max_length=max_length, padding=padding))
    assert batch.inputs.shape == (len(lengths), expected)
    assert batch.lengths.tolist() == [
        expected if padding == "pre" else min(length, max_length) for length in lengths
    ]


def test_loose_texts_stay_in_their_order():
    split = random_split(20)
    assert pipeline.loose_batch(split, settings()).inputs[:, 0].tolist() == [
        1000 + i for i in range(20)
    ]


# --- Pairs ----------------------------------------------------------------------------------------


def pairs_of(sources, targets):
    source, target = split_of(sources), split_of(targets)
    return Split(source.inputs, source.offsets, target.inputs, target.offsets)


def test_a_target_is_read_from_its_start_and_told_up_to_its_end():
    pairs = pairs_of([[1, 4], [1, 5, 6, 7]], [[1, 8, 9], [1]])
    batch = pipeline.batch_of(pairs, np.array([1, 0]), (5, 4), settings(), target=fields.TEXT)
    assert batch.inputs.tolist() == [[1, 5, 6, 7, 0], [1, 4, 0, 0, 0]]
    assert batch.lengths.tolist() == [4, 2]
    tokens, following, lengths = batch.targets
    assert tokens.tolist() == [[1, 0, 0, 0], [1, 8, 9, 0]]
    assert following.tolist() == [[pipeline.START, 0, 0, 0], [8, 9, pipeline.START, 0]]
    assert lengths.tolist() == [1, 3]


@pytest.mark.parametrize("truncate", ["start", "end"])
def test_a_target_that_is_cut_has_no_end(truncate):
    pairs = pairs_of([[1, 4, 5, 6]], [[1, 7, 8, 9]])
    chosen = settings(max_length=3, truncate=truncate)
    batch = pipeline.batch_of(pairs, np.array([0]), (3, 3), chosen, target=fields.TEXT)
    assert batch.inputs.tolist() == [[4, 5, 6] if truncate == "start" else [1, 4, 5]]
    assert batch.targets.tokens.tolist() == [[1, 7, 8]]
    assert batch.targets.following.tolist() == [[7, 8, 9]]


def test_batches_of_pairs_have_the_signature_of_their_target_and_are_cut_on_each_side():
    batch = pipeline.blank((5, 7), 3, fields.Form(fields.TEXT))
    types = pipeline.signature(fields.Form(fields.TEXT))
    tf.nest.map_structure(
        lambda values, spec: spec.shape.assert_is_compatible_with(values.shape), batch, types
    )
    shorter = pipeline.cut(batch, (2, 4))
    assert shorter.inputs.shape == (3, 2) and shorter.targets.tokens.shape == (3, 4)
    assert shorter.targets.lengths.shape == shorter.lengths.shape == (3,)
    assert pipeline.row_bytes((5, 7), fields.Form(fields.TEXT)) == 4 * (1 + 5 + 1 + 7 + 7 + 1)


@pytest.mark.parametrize("target, steps", [(fields.LABEL, 1), (fields.TAGS, 5)])
def test_a_batch_of_texts_is_cut_as_its_rows_are(target, steps):
    shorter = pipeline.cut(pipeline.blank(9, 3, fields.Form(target)), 5)
    assert shorter.inputs.shape == (3, 5)
    assert shorter.targets.shape == ((3, 5) if target.per_step else (3,))
    assert pipeline.row_bytes(5, fields.Form(target)) == 4 * (1 + 5 + 1 + steps)


def test_stacks_of_pairs_hold_the_batches_of_their_steps():
    generator = np.random.default_rng(0)
    sources, targets = (
        [[1, *generator.integers(4, 9, generator.integers(0, 9))] for _ in range(60)]
        for _ in range(2)
    )
    pairs = pairs_of(sources, targets)
    plan = plans.ShuffledPlan(pairs, settings(), 3)
    batches = pipeline.TrainingBatches(pairs, settings(), plan, fields.TEXT)
    for mixed in (False, True):
        stack, count = batches.stack(4, 8, mixed)
        for step in range(count):
            batch = batches.batch(4 + step)
            source, target = plan.padded_length(4 + step)
            np.testing.assert_array_equal(stack.inputs[step][:, :source], batch.inputs)
            found = stack.targets.following[step]
            np.testing.assert_array_equal(found[:, :target], batch.targets.following)
            assert not found[:, target:].any()
    [first, second] = list(batches.dataset(0).take(2))
    np.testing.assert_array_equal(second.targets.tokens, batches.batch(1).targets.tokens)
    assert first.rows.shape == (8,)


# --- frames and values ----------------------------------------------------------------------------

FRAMES = np.arange(10, dtype=np.float32).reshape(5, 2) ** 2
SCALE = fields.Scale(np.float32([1, 2]), np.float32([4, 0.5]))


def frames_of(targets, **scales):
    """Two examples, of three and of two frames of two features."""
    return Split(FRAMES, np.array([0, 3, 5], np.int64), np.asarray(targets), **scales)


@pytest.mark.parametrize("padding", ["post", "pre"])
@pytest.mark.parametrize("truncate", ["end", "start"])
def test_frames_are_normalised_cut_and_padded_with_zeros(padding, truncate):
    chosen = settings(max_length=2, padding=padding, truncate=truncate)
    split = frames_of(np.int32([0, 1]), normalise=SCALE)
    batch = pipeline.batch_of(split, np.array([1, 0]), 3, chosen)
    seen = (FRAMES - [1, 2]) / [4, 0.5]
    rows = [seen[3:5], seen[:2] if truncate == "end" else seen[1:3]]
    zero = np.zeros((1, 2))
    rows = [np.concatenate([zero, row] if padding == "pre" else [row, zero]) for row in rows]
    np.testing.assert_allclose(batch.inputs, rows, rtol=1e-6)
    assert batch.inputs.dtype == np.float32 and batch.targets.tolist() == [1, 0]


def test_values_are_standardised():
    split = frames_of(np.float32([[5, 2.5], [1, 3]]), standardise=SCALE)
    batch = pipeline.batch_of(split, np.array([1, 0]), 3, settings(), target=fields.VALUES)
    assert batch.targets.tolist() == [[0, 2], [1, 1]]


@pytest.mark.parametrize(
    "form", [fields.Form(features=2), fields.Form(fields.VALUES, features=2, values=3)]
)
def test_batches_of_frames_have_the_signature_of_their_form_and_keep_their_values_when_cut(form):
    blank = pipeline.blank(9, 4, form)
    tf.nest.map_structure(
        lambda values, spec: spec.shape.assert_is_compatible_with(values.shape),
        blank,
        pipeline.signature(form),
    )
    shorter = pipeline.cut(blank, 2)
    assert shorter.inputs.shape == (4, 2, 2)
    assert shorter.targets.shape == blank.targets.shape
    assert pipeline.row_bytes(5, form) == 4 * (1 + 5 * 2 + 1 + (form.values or 1))


def test_training_batches_of_frames_are_carried_as_they_are_made():
    split = frames_of(np.float32([[5], [1]]))
    plan = plans.training_plan(split, fields.SHUFFLED, settings(batch_size=2), seed=0)
    batches = pipeline.TrainingBatches(split, settings(batch_size=2), plan, fields.VALUES)
    for step, batch in zip(range(3), batches.dataset(0)):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, batches.batch(step))
        assert sorted(batch.targets.numpy()[:, 0].tolist()) == [1, 5]
