"""The files of a new dataset: opened for each split, and described in dataset.json at the end."""

import pathlib
from collections.abc import Mapping, Sequence

from trainer.data import fields, store, text
from trainer.prepare.layout import Layout


def split_files(
    folder: pathlib.Path, layouts: Sequence[Layout], starts: int, form: fields.Form
) -> dict[int, store.SplitWriter]:
    """Returns a writer for each split that has rows.

    layouts: of each side. starts: ids at the start of an example that stand for no token of it.
    """
    return {
        split: store.SplitWriter(
            folder / store.SPLITS[split],
            layouts[0].example_lengths(split),
            form.target,
            starts,
            *(layout.example_lengths(split) for layout in layouts[1:]),
            form=form,
        )
        for split in range(len(store.SPLITS))
        if (layouts[0].splits == split).any()
    }


def describe(
    folder: pathlib.Path,
    written: Mapping[int, store.SplitWriter],
    vocabularies: Mapping[str, Sequence[str]],
    names: Sequence[str],
) -> dict:
    """Writes vocabularies and names of classes, closes all files.

    Returns:
      Their part of dataset.json.

    Args:
      vocabularies: {name of the file without .txt: what the ids from FIRST_ID on stand for}.
      names: classes by id; empty if the target has none.
    """
    files = {name: entry for each in written.values() for name, entry in each.close().items()}
    described = {"classes": names} if names else {}
    for name, entries in vocabularies.items():
        lines = [*text.RESERVED, *map(store.escape, entries)]
        file = files[f"{name}.txt"] = store.write_lines(folder / f"{name}.txt", lines)
        described |= {f"{name}_size": len(lines), f"{name}_sha256": file["sha256"]}
    if names:
        files["labels.txt"] = store.write_lines(folder / "labels.txt", names)
    return {
        **described,
        "splits": {store.SPLITS[split]: each.described(names) for split, each in written.items()},
        "files": files,
    }
