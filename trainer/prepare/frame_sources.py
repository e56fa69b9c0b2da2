"""Where sequences of numbers come from: what each value of --source reads of them."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

from trainer.exit_codes import UsageError
from trainer.flags import numbers
from trainer.flags.prepare import Prepare
from trainer.prepare import arrays, digits, folders, raw_files, sources, steps_csv, ts, wav
from trainer.prepare.sequences import One, Reading, Sequences, Source, batches


def are_read(config: Prepare) -> bool:
    """Returns whether the source has sequences of numbers; looks into folders.

    Raises UsageError if a flag does not apply to what is in them.
    """
    if config.source != "folder":
        return numbers.are_read(config)
    recordings = wav.are_in(config.raw_data)
    if recordings:
        numbers.check(config, recordings=True)
        if config.task != "classification":
            raise UsageError(
                f"--task={config.task}: --raw_data={config.raw_data} holds recordings, of which a "
                "model learns --task=classification. Use that."
            )
    else:
        numbers.check_texts(config)
    return recordings


def open_source(config: Prepare, reading: Reading) -> tuple[Source, Reading]:
    """Returns the source that the flags name, and how new data is read as it is.

    Raises UsageError if files are missing; DataError if one that is opened at once is damaged.
    """
    if config.source == "arrays":
        return _arrays(config, reading)
    if config.source == "folder":
        return _recordings(config, reading)
    if config.source == "digits":
        return _digits(config, reading)
    paths = {
        split: raw_files.expand(globs, flag) for split, flag, globs in sources.given_data(config)
    }

    def read(advance: Callable[[int], None]) -> Iterator[Sequences]:
        for split, files in paths.items():
            for path in files:
                ones = lines(path, reading, config.max_expansion, advance)
                yield from batches(ones, None if reading.split_column else split)

    return Source(paths, read), reading


def lines(
    path: str, reading: Reading, max_expansion: int, advance: Callable[[int], None] = lambda _: None
) -> Iterator[One]:
    """Returns the sequences of a file of lines."""
    read = {"ts": ts.read, "csv": steps_csv.read}[reading.source]
    with raw_files.Stream(path, max_expansion, advance) as stream:
        yield from read(stream, reading)


def _digits(config: Prepare, reading: Reading) -> tuple[Source, Reading]:
    """A built-in set; new digits are read from arrays."""
    sources.refuse_splits_of_a_built_in_set(config)
    file = sources.package_file(*digits.FILE)
    read = functools.partial(digits.read, file, config.max_expansion)
    return Source({"train": [str(file)]}, read), dataclasses.replace(reading, source="arrays")


def _arrays(config: Prepare, reading: Reading) -> tuple[Source, Reading]:
    """Archives, or folders of arrays."""
    parts = []
    for split, flag, place in sources.given_data(config):
        files = [place] if os.path.isdir(place) else raw_files.expand(place, flag)
        for path in files:
            for of, names in arrays.splits_in(path, split, reading).items():
                if of != split and flag != "raw_data":
                    raise UsageError(
                        f"--{flag}={place}: {path} holds {names.x}, which is the {of} split. Name "
                        "it with --raw_data, or take the array out."
                    )
                parts.append((of, path, names))
    paths = {}
    for of, path, _ in parts:
        paths.setdefault(of, []).append(path)

    def read(advance: Callable[[int], None]) -> Iterator[Sequences]:
        for of, path, names in parts:
            yield from arrays.read(path, of, names, reading, advance)

    ragged = any(names.lengths for _, _, names in parts)
    return Source(paths, read), reading.with_settings(
        lengths_array=reading.settings["lengths_array"] if ragged else ""
    )


def _recordings(config: Prepare, reading: Reading) -> tuple[Source, Reading]:
    """Folders of recordings, with a class for each."""
    parts = [
        part
        for split, flag, folder in sources.given_data(config)
        for part in folders.find(folder, split, flag)
    ]
    paths = {}
    for part in parts:
        wav.check_names(part.paths)
        paths.setdefault(part.split, []).extend(part.paths)
    maker = wav.LogMel(reading.settings)
    maker.open(parts[0].paths[0])

    def read(advance: Callable[[int], None]) -> Iterator[Sequences]:
        for part in parts:
            yield from batches(
                map(functools.partial(one, part.label, advance), part.paths), part.split
            )

    def one(label: str, advance: Callable[[int], None], path: str) -> One:
        frames = maker.frames(path)
        advance(os.path.getsize(path))
        return One((path, 1), frames, label)

    return Source(paths, read), reading.with_settings(sample_rate=maker.rate)
