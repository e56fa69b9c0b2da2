"""Values that are to be learned: one or several finite numbers for each row."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer import shown
from trainer.exit_codes import DataError
from trainer.flags.prepare import Prepare
from trainer.prepare import layout, rows, splits
from trainer.prepare.decimals import parsed
from trainer.prepare.moments import Moments
from trainer.prepare.spool import Spool


class Values:
    """Reads the values of a source; a `targets.Reader`."""

    def __init__(self, config: Prepare):
        self._named: list[str] = []
        self._flag = "--y_array" if config.source == "arrays" else "--label_column"
        if config.source not in ("arrays", "ts"):
            self._named = list(config.answer_columns)
        self._name = config.y_array if config.source == "arrays" else "target"
        self._moments = Moments()

    def add(self, batch: rows.Rows, given: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the values, and a hash of those of each row.

        Raises DataError if one is missing, not finite, no number or too large for float32, or if
        their count changes.
        """
        if not self._named:
            count = len(batch.labels[0])
            several = [f"{self._name}_{position}" for position in range(count)]
            self._named = [self._name] if count == 1 else several
        if isinstance(batch.labels, np.ndarray) and batch.labels.shape[1] == len(self._named):
            read = batch.labels.astype(np.float64)
        else:
            read = np.array(
                [self._numbers(row, place) for row, place in zip(batch.labels, batch.label_places)]
            )
        with np.errstate(over="ignore"):
            found = read.astype(np.float32)
        if not np.isfinite(found).all():
            row, column = np.argwhere(~np.isfinite(found))[0]
            raise self._wrong(read[row, column], column, batch.label_places[row])
        found += np.float32(0)
        return {
            "values": found,
            "value_keys": splits.keys((row.tobytes() for row in found), seed=0)[:, 0],
        }

    def _numbers(self, row: Sequence[Any], place: rows.Place) -> list[float]:
        if len(row) != len(self._named):
            raise DataError(
                f"{rows.at(place)}: {len(row)} values, but the rows before have "
                f"{len(self._named)}. All rows must have the same: correct the data."
            )
        found = []
        for column, value in enumerate(row):
            number = parsed(value) if isinstance(value, str) else value
            if isinstance(number, bool) or not isinstance(number, int | float | np.number):
                raise self._wrong(value, column, place)
            try:
                found.append(float(number))
            except OverflowError:
                raise self._wrong(value, column, place) from None
        return found

    def _wrong(self, value: Any, column: int, place: rows.Place) -> DataError:
        seen = shown.value(value if isinstance(value, str) else str(value), 60)
        return DataError(
            f"{rows.at(place)}: the value {seen} of {shown.value(self._named[column])}: must be a "
            "finite number that float32 can hold. Correct it, or remove the row."
        )

    @property
    def values(self) -> int:
        return len(self._named)

    def ranked(self) -> list[str]:
        return []

    def written(self, answers: np.ndarray, split: int) -> np.ndarray:
        if split == splits.TRAIN:
            self._moments.add(answers)
        return answers

    def answers(self, spool: Spool) -> np.ndarray:
        return spool.read("value_keys")

    def check(self, found: layout.Layout, source: rows.Source) -> None:
        """Any row will do."""

    def described(self) -> dict:
        """Returns name, mean and deviation over the training split of each of the values.

        Raises DataError if all training rows have the same.
        """
        mean, deviation = self._moments.scale()
        for name, value, constant in zip(self._named, mean, self._moments.constant):
            if constant:
                raise DataError(
                    f"every training row has {value:g} as its {shown.value(name)}, so there is "
                    f"nothing to learn. Check {self._flag} and the data."
                )
        return {
            "values": [
                {"name": name, "mean": center, "deviation": spread}
                for name, center, spread in zip(self._named, mean, deviation)
            ]
        }
