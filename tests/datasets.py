"""Writes small prepared datasets for tests, from arrays."""

import math

import numpy as np

from trainer.data import fields, store, text
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


def write_text(
    data_dir, splits, *, vocabulary_size=0, order="streams", words=(), tokenizer="spaces"
):
    """Writes a dataset of a language model and returns it open; `splits`: {name: [documents]}.

    A document is a sequence of ids without its START. words: the vocabulary from FIRST_ID on, else
    w4, w5, ...
    """
    columns = {
        name: {"tokens": [np.concatenate([[1], document]) for document in documents]}
        for name, documents in splits.items()
    }
    words = list(words) or [f"w{i}" for i in range(4, vocabulary_size)]
    description = {"task": "language_model", "target": "next_token", "order": order}
    return _write_sequences(data_dir, columns, words, tokenizer, description)


def write_tagged(data_dir, splits, *, words, labels):
    """Writes a dataset of tagging and returns it open; `splits`: {name: [(ids, tags)]}."""
    columns = {
        name: {"tokens": [ids for ids, _ in sentences], "tags": [tags for _, tags in sentences]}
        for name, sentences in splits.items()
    }
    description = {"task": "tagging", "target": "tags", "order": "shuffled"}
    return _write_sequences(data_dir, columns, list(words), "spaces", description, labels)


def write_pairs(data_dir, splits, *, words, target_words=None, tokenizer="spaces"):
    """Writes a dataset of translation and returns it open; `splits`: {name: [(ids, target ids)]}.

    Both are sequences of ids without their START. words, target_words: the vocabularies from
    FIRST_ID on; without target_words the targets share the first one.
    """
    entries = RESERVED + list(words if target_words is None else target_words)
    columns, texts = {}, {}
    for name, pairs in splits.items():
        columns[name] = {
            part: [np.concatenate([[1], pair[side]]) for pair in pairs]
            for side, part in enumerate(("tokens", "target_tokens"))
        }
        texts[name] = [" ".join(entries[i] for i in target) for _, target in pairs]
    description = {"task": "translation", "target": "text", "order": "shuffled"}
    return _write_sequences(
        data_dir, columns, list(words), tokenizer, description, (), texts, target_words
    )


def random_pairs(seed=0, *, vocabulary_size=30, train=50, test=17, longest=12):
    """Returns {split: [(ids, target ids)]} that a model can learn: the target is the source
    backwards, each id one higher.
    """
    generator = np.random.default_rng(seed)
    splits = {}
    for name, size in (("train", train), ("test", test)):
        lengths = generator.integers(1, longest, size)
        sources = [generator.integers(0, vocabulary_size - 4, length) for length in lengths]
        splits[name] = [(4 + ids, 4 + (ids[::-1] + 1) % (vocabulary_size - 4)) for ids in sources]
    return splits


def _write_sequences(
    data_dir, splits, words, tokenizer, description, labels=(), texts=(), target_words=None
):
    """Writes a dataset of format 2; `splits`: {name: {array: [sequences]}}, `tokens` first.

    texts: {name: the target of each example}, if it is a text.
    """
    with store.new_folder(data_dir) as folder:
        files, described = {}, {}
        for name, columns in splits.items():
            (folder / name).mkdir()
            rows = columns["tokens"]
            arrays = {
                array: np.concatenate(sequences).astype(np.int32)
                for array, sequences in columns.items()
            }
            arrays["offsets"] = np.cumsum([0, *map(len, rows)]).astype(np.int64)
            described[name] = {"examples": len(rows), "tokens": len(arrays["tokens"])}
            if texts:
                lengths = list(map(len, columns["target_tokens"]))
                arrays["target_offsets"] = np.cumsum([0, *lengths]).astype(np.int64)
                files[f"{name}/target_texts.txt"] = store.write_lines(
                    folder / name / "target_texts.txt", map(store.escape, texts[name])
                )
                described[name]["target_tokens"] = len(arrays["target_tokens"])
            for part, values in arrays.items():
                writer = store.ArrayWriter(
                    folder / name / f"{part}.npy", store.ARRAYS[part], len(values)
                )
                writer.write(values)
                files[f"{name}/{part}.npy"] = writer.close()
        vocabularies = {"vocabulary.txt": words, "target_vocabulary.txt": target_words}
        for name, listed in vocabularies.items():
            if listed is not None:
                entries = [store.escape(entry) for entry in RESERVED + list(listed)]
                files[name] = store.write_lines(folder / name, entries)
        if labels:
            files["labels.txt"] = store.write_lines(folder / "labels.txt", labels)
        parts = {
            "input": {"kind": "tokens"},
            "tokenizer": text.settings(tokenizer),
            "splits": described,
            "files": files,
        }
        return store.publish(folder, {**description, **parts}, data_dir)


def write_numbers(
    data_dir, splits, *, shape=(), words=(), labels=(), values=(), normalise=True, names=()
):
    """Writes a dataset whose inputs or targets are numbers and returns it open.

    splits: {name: (sequences, targets)}: frames, float [steps, features] each, or without a `shape`
    ids without their START; a label for each, or a row of values. shape: of a frame. words: the
    vocabulary from FIRST_ID on. labels, values: names of the classes or of the values. names: of
    the features.
    """
    target = fields.VALUES if values else fields.LABEL
    form = fields.Form(target, math.prod(shape) if shape else 0, len(values))
    with store.new_folder(data_dir) as folder:
        files, described = {}, {}
        for name, (sequences, targets) in splits.items():
            if not shape:
                sequences = [np.concatenate([[1], ids]) for ids in sequences]
            lengths = np.array(list(map(len, sequences)))
            writer = store.SplitWriter(folder / name, lengths, target, form=form)
            writer.write(np.concatenate(sequences))
            writer.write_targets(np.asarray(targets))
            files |= writer.close()
            described[name] = writer.described(labels)
        description = {"task": "regression" if values else "classification", "order": "shuffled"}
        inputs, targets = next(iter(splits.values()))
        if shape:
            read = {"kind": "frames", "shape": list(shape)}
            read |= _scale(np.concatenate(inputs)) if normalise else {}
            description |= {"input": read | ({"names": list(names)} if names else {})}
        else:
            entries = RESERVED + list(words)
            files["vocabulary.txt"] = store.write_lines(folder / "vocabulary.txt", entries)
            description |= {"input": {"kind": "tokens"}, "tokenizer": text.settings("spaces")}
        if labels:
            files["labels.txt"] = store.write_lines(folder / "labels.txt", labels)
        else:
            columns = np.asarray(targets, np.float64).T
            description["values"] = [
                {"name": name, "mean": column.mean(), "deviation": column.std()}
                for name, column in zip(values, columns)
            ]
        parts = {"target": target.kind, "splits": described, "files": files}
        return store.publish(folder, {**description, **parts}, data_dir)


def _scale(frames):
    """What dataset.json says of frames [total, features] that are normalised."""
    deviation = frames.std(axis=0, dtype=np.float64)
    deviation = np.where(deviation == 0, 1.0, deviation)
    mean = frames.mean(axis=0, dtype=np.float64)
    return {"mean": mean.tolist(), "deviation": deviation.tolist()}


def random_frames(seed=0, *, features=3, train=40, test=12, longest=6, values=0, classes=3):
    """Returns {split: (sequences, targets)} that a model can learn: targets follow from the mean.

    values: how many values are the target; 0: a label is.
    """
    generator = np.random.default_rng(seed)
    splits = {}
    for name, size in (("train", train), ("test", test)):
        labels = generator.integers(0, classes, size)
        sequences = [
            (label + generator.normal(20, 0.5, (length, features))).astype(np.float32)
            for label, length in zip(labels, generator.integers(1, longest + 1, size))
        ]
        told = labels
        if values:
            means = np.array([sequence.mean() for sequence in sequences])
            told = np.stack([1000 * means, *(means[:, None] - 20).T[:1]], axis=1)[:, :values]
        splits[name] = (sequences, told)
    return splits


def random_text(tokens, seed=0, *, vocabulary_size=30):
    """Returns ids that a model can learn: each is one of two that follow the one before it."""
    generator = np.random.default_rng(seed)
    ids = [0]
    for choice in generator.integers(0, 2, tokens):
        ids.append((3 * ids[-1] + choice + 1) % (vocabulary_size - 4))
    return 4 + np.array(ids[1:])
