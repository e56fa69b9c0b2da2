"""Writes small prepared datasets for tests, from arrays."""

import numpy as np

from trainer.data import fields, store
from trainer.tasks import table

RESERVED = ["[padding]", "[start]", "[unknown]", "[unused]"]


def write(
    data_dir, splits, *, vocabulary_size, classes=0, target=fields.LABEL, order=None, labels=None
):
    """Writes a dataset and returns it open.

    splits: {name: (list of int sequences, targets)}: a label for each sequence, or a tag for each
    token in one list, or None if the next token is the target. order: of format 2, whose task
    follows from the target; None for format 1. labels: names of the classes.
    """
    with store.new_folder(data_dir) as folder:
        files, described = {}, {}
        for name, (sequences, targets) in splits.items():
            (folder / name).mkdir()
            lengths = [len(sequence) for sequence in sequences]
            arrays = {
                "tokens": np.concatenate(sequences).astype(np.int32),
                "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            }
            if target.array:
                arrays[target.array] = np.asarray(targets, np.int32)
            for part, values in arrays.items():
                writer = store.ArrayWriter(
                    folder / name / f"{part}.npy", store.ARRAYS[part], len(values)
                )
                writer.write(values)
                files[f"{name}/{part}.npy"] = writer.close()
            described[name] = {"examples": len(sequences), "tokens": int(sum(lengths))}
        words = RESERVED + [f"w{i}" for i in range(4, vocabulary_size)]
        files["vocabulary.txt"] = store.write_lines(folder / "vocabulary.txt", words)
        if target.array:
            names = labels or [f"class{i}" for i in range(classes)]
            files["labels.txt"] = store.write_lines(folder / "labels.txt", names)
        description = {"tokenizer": {"name": "none"}, "splits": described, "files": files}
        if order:
            [task] = [task.name for task in table.TASKS.values() if task.target is target]
            description |= {"task": task, "target": target.kind, "order": order}
        return store.publish(folder, description, data_dir)


def random_splits(seed=0, *, vocabulary_size=30, classes=3, train=50, test=17, longest=12):
    """Returns {split: (sequences, labels)} that a model can learn: tokens depend on the class."""
    generator = np.random.default_rng(seed)
    splits = {}
    for name, size in (("train", train), ("test", test)):
        labels = generator.integers(0, classes, size)
        sequences = []
        for label in labels:
            length = generator.integers(0, longest)
            words = generator.integers(0, vocabulary_size - 4, length) // classes * classes + label
            sequences.append(np.concatenate([[1], 4 + words % (vocabulary_size - 4)]))
        splits[name] = (sequences, labels)
    return splits
