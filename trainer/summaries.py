"""TensorBoard event files of a run, equal to those of a run that was never stopped.

One event file per attempt, named so that files sort by attempt and not by a clock. What a killed attempt wrote after
the step that is restored never happened: an attempt begins by taking those events out of the older files, and its own
file begins with a SessionLog START that tells the same to readers that have them in memory. (The START alone would
leave text and PR curves twice for `EventAccumulator`, and orphaned points in TensorBoard's default loader.)

For points up to a checkpoint to be there after any kill, call `flush` before that checkpoint is committed.
"""

import io
import os
import pathlib
import socket
import time

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins import projector as projector_plugin
from tensorboard.plugins.hparams import api as hparams_plugin
from tensorboard.plugins.text import summary_v2 as text_plugin
from tensorboard.summary import v1 as tensorboard_v1

from trainer.exit_codes import StorageError


PROJECTOR_ROWS = 10_000


class Summaries:
    """Writes the events of one attempt into `folder` (for example MODEL_DIR/tensorboard/train)."""

    def __init__(self, folder, attempt, restored_step):
        """`attempt`: its number; `restored_step`: step of the checkpoint that was restored, 0 where there was none.

        Events beyond `restored_step` are removed from the folder, all of them where it is 0. Raises StorageError.
        """
        folder = pathlib.Path(folder)
        first = restored_step + 1 if restored_step else 0
        self._path = folder / f"events.out.tfevents.{attempt:08d}.{socket.gethostname()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._written = _forget(folder, first)
            self._file = tf.io.TFRecordWriter(str(self._path))
            self._append(event_pb2.Event(file_version="brain.Event:2"))
            self._append(event_pb2.Event(step=first, session_log=_SESSION_START))
        except (OSError, tf.errors.OpError) as problem:
            raise self._failed(problem) from problem

    def write(self, step, scalars):
        """Writes `scalars` (tag -> number) at the global step `step`."""
        self._add(step, *(summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()))

    def text(self, tag, markdown, step):
        """Writes `markdown` for the text dashboard."""
        self._add(step, *text_plugin.text_pb(tag, markdown).value)

    def image(self, tag, pixels, step):
        """Writes a picture; `pixels`: uint8 [height, width, 3]."""
        height, width, _ = pixels.shape
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, format="png")
        image = summary_pb2.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
        self._add(step, summary_pb2.Summary.Value(tag=tag, image=image))

    def pr_curve(self, tag, labels, scores, step):
        """Writes precision and recall at 201 thresholds; the curve's tag is TAG/pr_curves.

        `labels`: bool [examples], true where the example is of the class; `scores`: float [examples] in [0, 1].
        """
        curve = tensorboard_v1.pr_curve_pb(tag, np.asarray(labels, bool), np.asarray(scores, np.float64))
        self._add(step, *summary_pb2.Summary.FromString(curve.SerializeToString()).value)

    def hparams(self, configuration):
        """Writes the configuration (name -> bool, number or text) as the row of this run in the HParams dashboard.

        TensorBoard takes the metrics of the row from the event files in this folder and below it, and of several
        rows in one folder the first: write it into the folder above train/ and eval/, opened with `restored_step=0`.
        """
        self._add(0, *hparams_plugin.hparams_pb(configuration).value)

    def projector(self, weights, labels):
        """Writes the vectors for the projector dashboard, instead of those from before.

        `weights`: float [rows, size]; `labels`: a text per row. The browser gets the first 10,000 rows: vocabularies
        are sorted by frequency.
        """
        rows = min(len(labels), PROJECTOR_ROWS)
        # Text, although it is long: TensorBoard guesses whether a file is text, and guesses wrong on some binary ones.
        vectors = "".join("\t".join(map("{:.6g}".format, row)) + "\n" for row in np.asarray(weights)[:rows].tolist())
        try:
            _replace(self._path.with_name("projector_vectors.tsv"), vectors.encode())
            _replace(self._path.with_name("projector_labels.tsv"), "".join(map(_label_line, labels[:rows])).encode())
            projector_plugin.visualize_embeddings(str(self._path.parent), projector_plugin.ProjectorConfig(embeddings=[
                projector_plugin.EmbeddingInfo(tensor_name="embedding", tensor_path="projector_vectors.tsv",
                                               metadata_path="projector_labels.tsv")]))
        except (OSError, tf.errors.OpError) as problem:
            raise self._failed(problem) from problem

    def flush(self):
        """Returns when everything written would survive a loss of power. Raises StorageError."""
        try:
            self._file.flush()
            _fsync(self._path)
        except (OSError, tf.errors.OpError) as problem:
            raise self._failed(problem) from problem

    def close(self):
        """Flushes and closes the file; the object cannot be used any more."""
        self.flush()
        self._file.close()

    def _add(self, step, *values):
        """Writes the values that are not there yet and hands them to the kernel, so that a viewer sees them now."""
        values = [value for value in values if (step, value.tag) not in self._written]
        try:
            self._append(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=values)))
            self._file.flush()
        except (OSError, tf.errors.OpError) as problem:
            raise self._failed(problem) from problem

    def _append(self, event):
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())

    def _failed(self, problem):
        return StorageError(f"{self._path} cannot be written: {problem}; the model folder must stay writable; check "
                            f"free space and permissions, then run the same command again")


_SESSION_START = event_pb2.SessionLog(status=event_pb2.SessionLog.START)


def _label_line(label):
    """Returns one line of the projector's labels; what would not be seen or would end the line is shown as `repr`."""
    visible = label.isprintable() and label.strip()
    return (label if visible else repr(label)) + "\n"


def _forget(folder, first):
    """Takes the values of step `first` and later out of the event files.

    Returns what is there of the step before as {(step, tag)}: that much of the restored step need not be written again.
    """
    there = set()
    for path in sorted(folder.glob("events.out.tfevents.*")):
        records = list(_records(path.read_bytes()))
        remaining = [(record, event) for record, event in records if event.step < first or not event.HasField("summary")]
        if not any(event.HasField("summary") for _, event in remaining):
            path.unlink()
        elif len(remaining) < len(records):
            _replace(path, b"".join(record for record, _ in remaining))
        there |= {(event.step, value.tag) for _, event in remaining if event.step == first - 1 for value in event.summary.value}
    return there


def _records(data):
    """Yields (framed record, its event) up to the end or the first damaged record, where every reader stops.

    A record is its length (8 bytes), a checksum of that (4), the event, and a checksum of the event (4):
    https://www.tensorflow.org/tutorials/load_data/tfrecord.
    """
    position = 0
    while position + 12 <= len(data):
        end = position + 16 + int.from_bytes(data[position:position + 8], "little")
        if end > len(data):
            return
        try:
            event = event_pb2.Event.FromString(data[position + 12:end - 4])
        except DecodeError:
            return
        yield data[position:end], event
        position = end


def _replace(path, data):
    """Writes the file anew, whole or not at all; the temporary name is none that TensorBoard reads."""
    temporary = path.with_name("rewriting.tmp")
    temporary.write_bytes(data)
    _fsync(temporary)
    temporary.replace(path)


def _fsync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
