"""Writes what answers to raw input as a SavedModel, which holds what reads it and weights."""

import pathlib

import tensorflow as tf

from trainer.data import store
from trainer.flags.use import Export
from trainer.tasks.serving import Served


def reads_raw_input(dataset: store.Dataset) -> bool:
    """Returns whether raw input can be read: texts if there are words, or frames.

    A dataset made from ids alone has no words.
    """
    return dataset.input.numbers or dataset.tokenizer["name"] != "none"


def save(served: Served, path: pathlib.Path, options: Export) -> None:
    """Writes a SavedModel with the signatures of `served`, which was made with `compiled=False`.

    options: what of the answers is fixed in the file.

    Raises OSError if it cannot.
    """
    try:
        tf.saved_model.save(served, str(path), served.signatures(options))
    except tf.errors.OpError as problem:
        raise OSError(problem.message) from problem
