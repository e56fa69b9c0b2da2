"""TensorBoard event files of a run, equal to those of a run that was never stopped.

One event file per attempt, named so that files sort by attempt and not by a clock. What a killed
attempt wrote after the step that is restored never happened: an attempt begins by taking those
events out of the older files, and its own file begins with a SessionLog START for readers that
have them in memory already. (The START alone would leave orphaned points in TensorBoard's default
loader, and texts and PR curves twice in `EventAccumulator`.)

Call `flush` before a checkpoint is saved: then the points up to it survive any kill.

Points are no reason to lose a run. If storage fails, a write is tried again; if it fails for good,
that is reported once, the points are lost and training continues.
"""

import contextlib
import functools
import io
import logging
import os
import pathlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins import projector as projector_plugin
from tensorboard.plugins.hparams import api as hparams_plugin
from tensorboard.plugins.text import summary_v2 as text_plugin
from tensorboard.summary import v1 as summary_v1
from tensorboard.summary.writer.record_writer import RecordWriter

from trainer import durable
from trainer.exit_codes import StorageError

log = logging.getLogger(__name__)

PROJECTOR_ROWS = 10_000


class Summaries:
    """Writes the events of one attempt into `folder` (for example MODEL_DIR/tensorboard/train).

    A value is visible to a running TensorBoard when the call returns. A (step, tag) of the restored
    step that the folder already has is not written twice.
    """

    def __init__(self, folder: str | pathlib.Path, attempt: int, restored_step: int):
        """Removes the events beyond `restored_step` from the folder, all of them if it is 0.

        Raises StorageError if the folder cannot be written: no step was made yet.

        attempt: its number. restored_step: step of the restored checkpoint, 0 if there was none.
        """
        folder = pathlib.Path(folder)
        first = restored_step + 1 if restored_step else 0
        self._path = folder / f"events.out.tfevents.{attempt:08d}.{socket.gethostname()}"
        self._failed = False
        self._end = 0  # Bytes of the file; what lies behind them is of a write that failed.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        opening = _record(event_pb2.Event(file_version="brain.Event:2"))
        opening += _record(event_pb2.Event(step=first, session_log=start))

        def begin() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            self._there = _forget(folder, first)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
            self._write(opening)

        try:
            durable.retried(self._path, begin)
        except OSError as problem:
            raise StorageError(
                f"{self._path} cannot be written: {problem}; the model folder must stay writable; "
                "check free space and permissions, then run the same command again"
            ) from problem

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars ({tag: number}) at the global step `step`."""
        values = (
            summary_pb2.Summary.Value(tag=tag, simple_value=float(number))
            for tag, number in scalars.items()
        )
        self._add(step, values)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Writes `markdown` for the text dashboard."""
        self._add(step, text_plugin.text_pb(tag, markdown).value)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Writes a picture: uint8 [height, width, 3]."""
        height, width, _ = pixels.shape
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, format="png")
        image = summary_pb2.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue()
        )
        self._add(step, [summary_pb2.Summary.Value(tag=tag, image=image)])

    def pr_curve(self, tag: str, labels: np.ndarray, scores: np.ndarray, step: int) -> None:
        """Writes precision and recall at 201 thresholds from 0 to 1, under the tag `TAG/pr_curves`.

        labels: bool [examples], true for examples of the class. scores: float [examples] in [0, 1].
        """
        curve = summary_v1.pr_curve_pb(
            tag, np.asarray(labels, bool), np.asarray(scores, np.float64)
        )
        self._add(step, summary_pb2.Summary.FromString(curve.SerializeToString()).value)

    def hparams(self, configuration: Mapping[str, bool | float | str]) -> None:
        """Writes the configuration as the row of this run in the HParams dashboard.

        TensorBoard takes the metrics of the row from the event files in this folder and below it,
        and uses the first row of a folder only: write it into the folder above train/ and eval/,
        opened with `restored_step=0`.
        """
        self._add(0, hparams_plugin.hparams_pb(configuration).value)

    def projector(self, weights: np.ndarray, labels: Sequence[str]) -> None:
        """Writes vectors for the projector dashboard, replacing earlier ones.

        weights: float [rows, size]. labels: a text per row. The browser gets the first 10,000 rows,
        which are the most frequent ones of a vocabulary.
        """
        # TSV and not binary, although it is longer: TensorBoard tries text first and fails on some
        # binary files.
        vectors = (
            "\t".join(map("{:.6g}".format, row))
            for row in np.asarray(weights)[:PROJECTOR_ROWS].tolist()
        )
        config = projector_plugin.ProjectorConfig()
        config.embeddings.add(
            tensor_name="embedding", tensor_path="vectors.tsv", metadata_path="labels.tsv"
        )
        contents = {
            "vectors.tsv": _lines(vectors),
            "labels.tsv": _lines(map(_visible, labels[:PROJECTOR_ROWS])),
            "projector_config.pbtxt": text_format.MessageToString(config).encode(),
        }
        for name, content in contents.items():
            self._store(functools.partial(_replace, self._path.with_name(name), content))

    def flush(self) -> None:
        """Returns when everything written would survive a loss of power."""
        self._store(lambda: durable.sync(self._path))

    def close(self) -> None:
        """Flushes and closes the file; the object cannot be used any more."""
        self.flush()
        os.close(self._file)

    def _add(self, step: int, values: Iterable[summary_pb2.Summary.Value]) -> None:
        values = [value for value in values if (step, value.tag) not in self._there]
        if values:
            summary = summary_pb2.Summary(value=values)
            record = _record(event_pb2.Event(step=step, summary=summary))
            self._store(lambda: self._write(record))

    def _write(self, record: bytes) -> None:
        """Writes a record behind the last one that is whole; may be called again after OSError."""
        written = 0
        while written < len(record):
            written += os.pwrite(self._file, record[written:], self._end + written)
        self._end += written

    def _store(self, action: Callable[[], None]) -> None:
        """Does `action`, and tries again if storage fails; after a failure for good only once."""
        try:
            action() if self._failed else durable.retried(self._path, action)
        except OSError as problem:
            if not self._failed:
                log.warning(
                    "%s cannot be written (%s): training continues, and TensorBoard will lack the "
                    "points that are lost",
                    self._path,
                    problem,
                )
            self._failed = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)  # Readers stop at half a record.


class Nowhere:
    """Accepts the calls of `Summaries` and writes nothing: for workers that are not the chief."""

    def _nothing(self, *_: object) -> None:
        pass

    write = text = image = pr_curve = hparams = projector = flush = close = _nothing


def _record(event: event_pb2.Event) -> bytes:
    """Returns an event of this moment as a record of an event file."""
    event.wall_time = time.time()
    framed = io.BytesIO()
    RecordWriter(framed).write(event.SerializeToString())
    return framed.getvalue()


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def _visible(label: str) -> str:
    """Returns `label`, or its `repr` if it would be invisible or would break the line."""
    return label if label.isprintable() and label.strip() else repr(label)


# --- Older event files --------------------------------------------------------------------------


def _forget(folder: pathlib.Path, first: int) -> set[tuple[int, str]]:
    """Removes the values of step `first` and later from the event files.

    Files without other values are deleted. Returns the (step, tag) pairs of the step before.
    """
    there = set()
    for path in sorted(folder.glob("events.out.tfevents.*")):
        records = list(_records(path.read_bytes()))
        kept = [
            (record, event)
            for record, event in records
            if event.step < first or not event.summary.value
        ]
        values = [(event.step, value.tag) for _, event in kept for value in event.summary.value]
        if not values:
            path.unlink()
        elif len(kept) < len(records):
            _replace(path, b"".join(record for record, _ in kept))
        there.update(value for value in values if value[0] == first - 1)
    return there


def _records(data: bytes) -> Iterator[tuple[bytes, event_pb2.Event]]:
    """Yields (framed record, its event) up to the end, or to a damaged one, where readers stop.

    A record is its length (8 bytes, little-endian), a checksum of that (4), the event, and a
    checksum of the event (4): https://www.tensorflow.org/tutorials/load_data/tfrecord.
    """
    position = 0
    while position + 12 <= len(data):
        end = position + 16 + int.from_bytes(data[position : position + 8], "little")
        if end > len(data):
            return
        try:
            event = event_pb2.Event.FromString(data[position + 12 : end - 4])
        except DecodeError:
            return
        yield data[position:end], event
        position = end


def _replace(path: pathlib.Path, content: bytes) -> None:
    # TensorBoard reads no file of this name.
    with durable.replacing(path, path.with_name("rewriting.tmp")) as file:
        file.write(content)
