"""The .ts format of the UEA and UCR archives of time series, and of their regression archive.

    @classLabel true walk run        the classes; or @targetLabel true; or false
    @data
    1.5,2,?:0,0,0:walk               channels between colons, numbers between commas, `?` for a
                                     missing one, the answer last

Header names count in any case; lines that begin with # and blank lines are skipped. Channels are
the features of a frame. Sequences may have unequal lengths, the channels of one sequence may not.
Time stamps are not read: a model sees equal steps.
"""

from collections.abc import Iterator

import numpy as np

from trainer import shown
from trainer.exit_codes import DataError
from trainer.prepare import raw_files
from trainer.prepare.decimals import numbers
from trainer.prepare.rows import at
from trainer.prepare.sequences import One, Reading

_YES, _NO = ("true", "yes"), ("false", "no")


def read(stream: raw_files.Stream, reading: Reading) -> Iterator[One]:
    """Returns the sequences of a file.

    Raises DataError, with file and line, if it is damaged or has time stamps, or if it does not
    have the answers that are wanted.
    """
    header: dict[str, list[str]] = {}
    begun, channels = False, 0
    for number, line in raw_files.lines(stream, reading.max_line_bytes):
        text = line.decode("utf-8", "surrogateescape").strip()
        place = (stream.path, number)
        if not text or text.startswith("#"):
            continue
        if not begun and text.startswith("@"):
            name, *values = text[1:].split()
            header[name.lower()] = values
            begun = name.lower() == "data"
            if begun:
                _check_header(header, place, reading)
            continue
        if not begun:
            raise DataError(
                f"{at(place)}: {shown.value(text, 60)} before the line @data, which must stand "
                "above the sequences. Add it, or copy the file again."
            )
        parts = text.split(":")
        label = None
        if _answered(header):
            label = parts.pop().strip()
        channels = channels or _declared(header) or len(parts)
        if len(parts) != channels:
            raise DataError(
                f"{at(place)}: {len(parts)} channels, but there must be {channels}, as the header "
                "or the first sequence has. Add the channel that is missing, or remove the "
                "sequence."
            )
        if reading.answers:
            label = _answer(label, header, place, reading)
        yield One(place, _frames(parts, place), label)
    if not begun:
        raise DataError(
            f"{stream.path}:1: no line @data, so this is not a .ts file. Name a file of the UEA "
            "and UCR archives, or another --source."
        )


def _yes(header: dict[str, list[str]], name: str) -> bool:
    return (header.get(name) or ["false"])[0].lower() in _YES


def _answered(header: dict[str, list[str]]) -> bool:
    """Returns whether each line ends with an answer."""
    return _yes(header, "classlabel") or _yes(header, "targetlabel")


def _declared(header: dict[str, list[str]]) -> int:
    """Returns the number of channels that the header names; 0 if it names none."""
    if _yes(header, "univariate"):
        return 1
    for name in ("dimensions", "dimension"):
        value = (header.get(name) or [""])[0]
        if value.isdecimal():
            return int(value)
    return 0


def _check_header(header: dict[str, list[str]], place: tuple[str, int], reading: Reading) -> None:
    """Raises DataError if the sequences are not read, or have other answers than are wanted."""
    for name in ("timestamps", "classlabel", "targetlabel", "univariate"):
        value = (header.get(name) or ["false"])[0].lower()
        if value not in _YES + _NO:
            raise DataError(
                f"{at(place)}: the header says @{name} {shown.value(value)}, but it must be true "
                "or false. Correct it."
            )
    if _yes(header, "timestamps"):
        raise DataError(
            f"{at(place)}: the header says @timeStamps true. Time stamps are not read, since a "
            "model sees steps of equal distance: write the values alone, or the time as a channel "
            "of its own."
        )
    wanted = {"labels": "classLabel", "values": "targetLabel"}.get(reading.answers)
    if wanted and not _yes(header, wanted.lower()):
        other = "regression" if wanted == "classLabel" else "classification"
        remedy = "Name a file that has some"
        if _answered(header):
            remedy = f"Use --task={other}"
        raise DataError(
            f"{at(place)}: the header has no @{wanted} true, so the sequences have none of the "
            f"{reading.answers} that are to be learned. {remedy}."
        )


def _answer(
    label: str, header: dict[str, list[str]], place: tuple[str, int], reading: Reading
) -> str | list[str]:
    """Returns the class or the values of a line."""
    if reading.answers == "values":
        return [label]
    known = header["classlabel"][1:]
    if known and label not in known:
        raise DataError(
            f"{at(place)}: the label {shown.value(label)}, but the header's @classLabel has "
            f"{shown.names(known)}. Correct one of them."
        )
    return label


def _frames(parts: list[str], place: tuple[str, int]) -> np.ndarray:
    """Returns the frames of a line, float64 [steps, channels]."""
    channels = []
    for channel, part in enumerate(parts):
        if "(" in part:
            raise DataError(
                f"{at(place)}: channel {channel} (from 0) holds {shown.value(part.strip(), 60)}: "
                "time stamps, which are not read. Write the values alone."
            )
        cells = part.split(",") if part.strip() else []
        channels.append(numbers(cells, place, f"channel {channel}, step {{}} (from 0)"))
    if len(lengths := {len(channel) for channel in channels}) > 1:
        raise DataError(
            f"{at(place)}: its channels have {', '.join(map(str, sorted(lengths)))} steps, but all "
            "channels of a sequence must have the same. Fill the short ones up with ?, and use "
            "--missing."
        )
    return np.stack(channels, axis=1)
