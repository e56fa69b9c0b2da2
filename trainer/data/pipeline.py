"""The padded batch of every step: a plan names the examples, this module pads and carries them.

tf.data only carries the arrays: it maps a range of steps to batches ahead of time.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer.data import fields, plans
from trainer.data.plans import Length
from trainer.data.store import Dataset, Split
from trainer.flags.run import Input

START = 1  # `text.START`; this module needs no tokenizer.
# An evaluation's batch is not larger, as far as its rows can be fewer. While it is made, it is in
# memory about three times, and the training batches beside it. 256 rows have 512 KiB each: texts
# of 65,000 tokens and 10,000 steps of 12 channels, but no videos.
EVALUATION_BYTES = 1 << 27


class Sentences(NamedTuple):
    """The targets of pairs: sentences, which are read while they are told.

    tokens: int32 [batch, length] from START on, 0 where padded.
    following: int32 [batch, length], the token after each; START after the last one of a sentence.
    lengths: int32 [batch], steps that count.
    """

    tokens: Any
    following: Any
    lengths: Any


class Batch(NamedTuple):
    """What a step needs of its rows; NumPy arrays, tensors or their types.

    rows: int32 [batch], the row of the global batch; dropout is keyed by it.
    inputs: int32 [batch, length] tokens, or float32 [batch, length, features] normalised frames; 0
      where padded.
    lengths: int32 [batch], steps that count.
    targets: int32 [batch], or [batch, length] if the target is one per step, 0 where padded; or
      `Sentences`, which have a length of their own; or float32 [batch, values], standardised.
    """

    rows: Any
    inputs: Any
    lengths: Any
    targets: Any


def signature(form: fields.Form) -> Batch:
    """Returns the types of a batch, of any number of rows and any length."""
    per_row, per_step = (tf.TensorSpec([None] * rank, tf.int32) for rank in (1, 2))
    inputs = per_step
    if form.features:
        inputs = tf.TensorSpec([None, None, form.features], tf.float32)
    if form.target.sequence:
        targets = Sentences(per_step, per_step, per_row)
    elif form.target.numbers:
        targets = tf.TensorSpec([None, form.values], tf.float32)
    else:
        targets = per_step if form.target.per_step else per_row
    return Batch(per_row, inputs, per_row, targets)


def cut(batch: Batch, length: Length) -> Batch:
    """Returns a batch without the steps beyond `length`."""
    source, target = length if isinstance(length, tuple) else (length, length)

    def shorter(part: Any, steps: int) -> Any:
        return tf.nest.map_structure(
            # Numbers of rank 2 are values: a row has them, and no step.
            lambda values: (
                values[:, :steps]
                if values.shape.rank == 3 or values.shape.rank == 2 and values.dtype.is_integer
                else values
            ),
            part,
        )

    return shorter(batch, source)._replace(targets=shorter(batch.targets, target))


def row_bytes(length: Length, form: fields.Form) -> int:
    """Returns the bytes of a row of a batch that is padded to `length`."""
    with tf.Graph().as_default():  # It takes no memory there.
        row = blank(length, 1, form)
    return sum(values.dtype.size * values.shape.num_elements() for values in tf.nest.flatten(row))


# --- Padding --------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Where the rows of a batch lie in a split.

    places: int64 [rows, length] of tokens, beyond the example where padded. holds: bool [rows,
    length], False where padded. lengths: int32 [rows], steps that count.
    """

    places: np.ndarray
    holds: np.ndarray
    lengths: np.ndarray


def rows_of(split: Split, examples: np.ndarray, length: int, settings: Input) -> Rows:
    """Returns where `examples`, int64 [rows], lie: cut to `length` and padded."""
    starts = split.offsets[examples]
    full = split.offsets[examples + 1] - starts
    kept = np.minimum(full, min(length, settings.max_length))
    if settings.truncate == "start":
        starts = starts + (full - kept)
    place = np.arange(length)[None, :]
    lengths = kept
    if settings.padding == "pre":
        place = place - (length - kept)[:, None]
        # Padding in front counts as tokens: the published programs that use it mask nothing.
        lengths = np.full(len(examples), length)
    holds = (place >= 0) & (place < kept[:, None])
    return Rows(starts[:, None] + place, holds, lengths.astype(np.int32))


def batch_of(
    split: Split,
    examples: np.ndarray,
    length: Length,
    settings: Input,
    first_row: int = 0,
    target: fields.Target = fields.LABEL,
) -> Batch:
    """Returns the batch of `examples`, int64 [rows], padded to `length`; rows from `first_row`.

    The target is that of the dataset. The next token of an example's last one is START, with which
    the next example begins: so it also marks the end.
    """
    length, target_length = length if isinstance(length, tuple) else (length, 0)
    rows = rows_of(split, examples, length, settings)
    if target is fields.NEXT_TOKEN:
        targets = _following(split, examples, rows)
    elif target.sequence:
        targets = _sentences(split, examples, target_length, settings)
    elif target.per_step:
        targets = _taken(split.targets, rows.places, rows.holds)
    else:
        targets = _scaled(np.asarray(split.targets[examples]), split.standardise)
    return Batch(
        rows=np.arange(first_row, first_row + len(examples), dtype=np.int32),
        inputs=_taken(split.inputs, rows.places, rows.holds, split.normalise),
        lengths=rows.lengths,
        targets=targets,
    )


def _following(split: Split, examples: np.ndarray, rows: Rows) -> np.ndarray:
    """Returns the token after each of `rows`, START after the last one of an example."""
    # The token after the last one of an example is that of the next example, which is START too,
    # except for the last example of all.
    ends = rows.places + 1 == split.offsets[examples + 1][:, None]
    after = _taken(split.inputs, rows.places + 1, rows.holds & ~ends)
    return np.where(rows.holds & ends, START, after).astype(np.int32)


def _sentences(split: Split, examples: np.ndarray, length: int, settings: Input) -> Sentences:
    """Returns the targets of pairs, padded to `length`.

    A longer sentence is cut at its end, and what follows its last step is no end.
    """
    targets = Split(split.targets, split.target_offsets)
    settings = dataclasses.replace(settings, truncate="end")
    rows = rows_of(targets, examples, length, settings)
    tokens = _taken(targets.inputs, rows.places, rows.holds)
    return Sentences(tokens, _following(targets, examples, rows), rows.lengths)


def _taken(
    values: np.ndarray, places: np.ndarray, wanted: np.ndarray, scale: fields.Scale | None = None
) -> np.ndarray:
    """Returns values at `places` where `wanted`, scaled, else 0.

    It has the shape of both, and for frames an axis of their features.
    """
    taken = np.zeros((*wanted.shape, *values.shape[1:]), values.dtype)
    taken[wanted] = _scaled(values[places[wanted]], scale)
    return taken


def _scaled(values: np.ndarray, scale: fields.Scale | None) -> np.ndarray:
    return scale.applied(values) if scale else values


def loose_batch(split: Split, settings: Input, target: fields.Target = fields.LABEL) -> Batch:
    """Returns all examples of a small split in its own order, as one batch: for new texts."""
    length: Length = plans.loose_length(split, settings)
    if target.sequence:
        length = length, plans.loose_length(Split(split.targets, split.target_offsets), settings)
    return batch_of(split, np.arange(len(split)), length, settings, target=target)


def blank(length: Length, rows: int, form: fields.Form) -> Batch:
    """Returns a batch of padding, of `rows` rows: for its shape."""
    length, target_length = length if isinstance(length, tuple) else (length, length)

    def zeros(spec: tf.TensorSpec, steps: int) -> tf.Tensor:
        sizes = [rows, steps, *spec.shape[2:]][: spec.shape.rank]
        return tf.zeros([size or given for size, given in zip(spec.shape, sizes)], spec.dtype)

    types = signature(form)
    ones = tf.ones([rows], tf.int32)
    targets = tf.nest.map_structure(lambda spec: zeros(spec, target_length), types.targets)
    if form.target.sequence:
        targets = targets._replace(lengths=ones)
    return Batch(tf.range(rows), zeros(types.inputs, length), ones, targets)


def stream_batch(split: Split, starts: np.ndarray, length: int, first_row: int = 0) -> Batch:
    """Returns chunks of `length` tokens of the text of a split, whose end is joined to its start.

    starts: int64 [rows], the place of each row's first token. A target is the token after it.
    """
    places = (starts[:, None] + np.arange(length + 1)[None, :]) % len(split.inputs)
    tokens = np.asarray(split.inputs[places.ravel()]).reshape(places.shape)
    return Batch(
        rows=np.arange(first_row, first_row + len(starts), dtype=np.int32),
        inputs=np.ascontiguousarray(tokens[:, :-1]),
        lengths=np.full(len(starts), length, np.int32),
        targets=np.ascontiguousarray(tokens[:, 1:]),
    )


# --- Training -------------------------------------------------------------------------------------


class TrainingBatches:
    """The padded batch of every step of `plan`; steps are counted from 0 here."""

    def __init__(
        self, split: Split, settings: Input, plan: plans.Plan, target: fields.Target = fields.LABEL
    ):
        self.plan = plan
        self.target = target
        self.form = _form(split, target)
        self._split = split
        self._settings = settings

    def batch(self, step: int, first_row: int = 0, end_row: int | None = None) -> Batch:
        """Returns rows [first_row, end_row) of a step's global batch.

        They are padded like the whole batch, whichever rows are asked for.
        """
        return self._of_rows(
            self.plan.examples(step)[first_row:end_row], self.plan.padded_length(step), first_row
        )

    def _of_rows(self, examples: np.ndarray, length: Length, first_row: int = 0) -> Batch:
        """Returns the batch of rows that a plan names, int64 [rows]."""
        return batch_of(self._split, examples, length, self._settings, first_row, self.target)

    def dataset(self, first_step: int, rows: tuple[int, int | None] = (0, None)) -> tf.data.Dataset:
        """Returns the batches from `first_step` on, without end, made ahead of time.

        rows: [first, end) of the global batch.
        """

        types = signature(self.form)

        def load(step: tf.Tensor) -> Batch:
            arrays = tf.numpy_function(
                lambda step: tf.nest.flatten(self.batch(int(step), *rows)),
                [step],
                [spec.dtype for spec in tf.nest.flatten(types)],
                # A pure function of the step. If it had a state, tf.data would make no batch ahead
                # of time while TensorFlow must be deterministic, and a GPU would wait for each.
                stateful=False,
            )
            return tf.nest.map_structure(
                lambda array, spec: tf.ensure_shape(array, spec.shape),
                tf.nest.pack_sequence_as(types, arrays),
                types,
            )

        options = tf.data.Options()
        # One batch at a time: Python makes them, and threads of it would only disturb each other.
        options.experimental_optimization.map_parallelization = False
        steps = tf.data.Dataset.range(first_step, 2**62)
        return steps.map(load).prefetch(tf.data.AUTOTUNE).with_options(options)

    def stack(self, step: int, most: int, mixed: bool = False) -> tuple[Batch, int]:
        """Returns (the batches of the next steps, how many they are).

        They are the steps from `step` on, `most` at most. Every array of the batch has an axis of
        `most` steps before its own; it is zero beyond the steps that there are.

        mixed: all `most` steps, padded to the longest length of the plan; otherwise only as many as
          have one padded length.
        """
        length, count = self.plan.padded_length(step), 1
        if mixed:
            length, count = max(self.plan.lengths), most
        while count < most and self.plan.padded_length(step + count) == length:
            count += 1
        size = self.plan.batch_size
        examples = np.concatenate([self.plan.examples(step + i) for i in range(count)])
        flat = self._of_rows(examples, length)
        flat = flat._replace(rows=flat.rows % size)
        return tf.nest.map_structure(
            lambda values: _filled(values.reshape(count, size, *values.shape[1:]), most), flat
        ), count

    def stacks(self, first_step: int, most: int, mixed: bool = False) -> tf.data.Dataset:
        """Returns the batches from `first_step` on in stacks, without end, made ahead of time.

        An element: (batches, int32 [most] their padded lengths as numbers of `plan.lengths`, how
        many they are).
        """
        numbers = {length: number for number, length in enumerate(self.plan.lengths)}

        def made() -> Iterator[tuple[Batch, np.ndarray, int]]:
            step = first_step
            while True:
                stack, count = self.stack(step, most, mixed)
                lengths = [numbers[self.plan.padded_length(step + i)] for i in range(count)]
                yield stack, _filled(np.array(lengths, np.int32), most), count
                step += count

        types = tf.nest.map_structure(
            lambda spec: tf.TensorSpec([most, *spec.shape], spec.dtype), signature(self.form)
        )
        return tf.data.Dataset.from_generator(
            made,
            output_signature=(types, tf.TensorSpec([most], tf.int32), tf.TensorSpec([], tf.int32)),
        ).prefetch(2)


class StreamBatches(TrainingBatches):
    """The chunks of every step of a `plans.StreamsPlan`."""

    def _of_rows(self, examples: np.ndarray, length: int, first_row: int = 0) -> Batch:
        return stream_batch(self._split, examples, length, first_row)


def training_batches(dataset: Dataset, settings: Input, seed: int) -> TrainingBatches:
    """Returns the batches of a run over the training split. Raises as `plans.training_plan`."""
    split = dataset.splits["train"]
    plan = plans.training_plan(split, dataset.order, settings, seed)
    makes = {fields.SHUFFLED: TrainingBatches, fields.STREAMS: StreamBatches}
    return makes[dataset.order](split, settings, plan, dataset.target)


def _form(split: Split, target: fields.Target) -> fields.Form:
    """Returns what the batches of a split hold."""
    features = split.inputs.shape[1] if split.inputs.ndim > 1 else 0
    return fields.Form(target, features, split.targets.shape[1] if target.numbers else 0)


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    """Returns `values` with zeros after them, `count` entries in all."""
    return np.concatenate(
        [values, np.zeros((count - len(values), *values.shape[1:]), values.dtype)]
    )


# --- Evaluation -----------------------------------------------------------------------------------


class EvaluationBatches:
    """The padded batches of an evaluation: every example of a split once."""

    def __init__(
        self,
        split: Split,
        settings: Input,
        batch_size: int,
        target: fields.Target = fields.LABEL,
        least: int = 1,
    ):
        """
        Args:
          batch_size: rows of a batch. They are halved while a batch is larger than
            EVALUATION_BYTES, as long as there are `least` of them.
        """
        lengths = plans.lengths_of(split, settings)
        of_row = row_bytes(max(lengths.padded), _form(split, target))
        while batch_size * of_row > EVALUATION_BYTES and batch_size // 2 >= least:
            batch_size //= 2  # Replicas, mostly a power of 2, still share them evenly.
        self.plan = plans.EvaluationPlan(lengths, batch_size)
        self.target = target
        self._split = split
        self._settings = settings

    def __iter__(self) -> Iterator[tuple[Batch, np.ndarray, int]]:
        """Yields (batch, examples int64 [real], real): the first `real` rows count."""
        for examples, real, length in self.plan:
            batch = batch_of(self._split, examples, length, self._settings, target=self.target)
            yield batch, examples[:real], real


class StreamEvaluationBatches:
    """The chunks of an evaluation of a text: every token but the first is a target once.

    The text is read in `plans.EVALUATION_PARTS` parts side by side, one in each row, and a chunk
    goes on where the chunk before it ended.
    """

    def __init__(self, split: Split, target: fields.Target = fields.NEXT_TOKEN):
        self.plan = plans.StreamEvaluationPlan(split)
        self.target = target
        self._split = split

    def __iter__(self) -> Iterator[tuple[Batch, np.ndarray, int]]:
        """Yields (batch, int64 [rows] the place of each row's first token, rows)."""
        for starts, lengths, length in self.plan:
            batch = stream_batch(self._split, starts, length)
            holds = np.arange(length)[None, :] < lengths[:, None]
            yield (
                batch._replace(
                    inputs=np.where(holds, batch.inputs, 0),
                    targets=np.where(holds, batch.targets, 0),
                    lengths=lengths,
                ),
                starts,
                len(starts),
            )


def evaluation_batches(
    dataset: Dataset, split: str, settings: Input, batch_size: int, least: int = 1
) -> EvaluationBatches | StreamEvaluationBatches:
    """Returns the batches that read a split once: `EvaluationBatches`, or the chunks of a text.

    The rows of a batch depend on the arguments alone, so all workers have the same.
    """
    if dataset.order == fields.STREAMS:
        return StreamEvaluationBatches(dataset.splits[split], dataset.target)
    return EvaluationBatches(dataset.splits[split], settings, batch_size, dataset.target, least)
