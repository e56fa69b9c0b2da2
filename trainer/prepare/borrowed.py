"""The tokenizer and vocabulary of another dataset, with --vocabulary_from.

The ids stay the same, so that a model that was trained on that dataset can be trained further on
the new one.
"""

import dataclasses
import os

from trainer.data import store, text
from trainer.exit_codes import UsageError
from trainer.flags.prepare import Prepare


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokenizer's entry in dataset.json, and what the ids from FIRST_ID on stand for.

    entries: for each side of the rows. shared: whether both have the same.
    """

    tokenizer: dict
    entries: tuple[tuple[str, ...], ...]
    shared: bool = False

    def applied(self, config: Prepare) -> Prepare:
        """Returns `config` with the tokenizer of this vocabulary."""
        return dataclasses.replace(
            config,
            tokenizer=self.tokenizer["name"],
            lowercase=self.tokenizer.get("lowercase"),
            shared_vocabulary=self.shared,
        )


def of_dataset(config: Prepare) -> Vocabulary:
    """Returns the vocabulary of the dataset that `config` names.

    Raises:
      UsageError: another flag asks for a different tokenizer or vocabulary, the folder is not a
        dataset, or it has no words.
      DataError: the dataset is damaged.
    """
    folder = config.vocabulary_from
    if os.path.abspath(folder) == os.path.abspath(config.data_dir):
        raise UsageError(
            f"--vocabulary_from={folder}: is --data_dir too. Name a dataset that is prepared "
            "already, and another folder for the new one."
        )
    try:
        dataset = store.open_dataset(folder)
        if dataset.input.numbers:
            raise UsageError(
                "it holds sequences of numbers and no text. Name a dataset of texts, or leave out "
                "the flag."
            )
        text.tokenizer_of(dataset)
        vocabularies = _vocabularies(dataset, config)
    except UsageError as problem:
        raise UsageError(f"--vocabulary_from={folder}: {problem}") from None
    settings = dataset.tokenizer
    asked = [
        ("tokenizer", config.tokenizer or None, settings["name"]),
        ("lowercase", config.lowercase, settings.get("lowercase", settings["name"] == "words")),
        *(("vocabulary_size", config.vocabulary_size or None, len(ids)) for ids in vocabularies),
    ]
    for flag, value, there in asked:
        if value is not None and value != there:
            raise UsageError(
                f"--{flag}={value}: the dataset of --vocabulary_from={folder} has {there}, and its "
                f"ids are kept. Leave out --{flag}, or --vocabulary_from."
            )
    if config.task == "tagging" and settings["name"] != "spaces":
        raise UsageError(
            f"--vocabulary_from={folder}: its tokenizer is {settings['name']}, but the tokens of "
            "--task=tagging are split already, which is --tokenizer=spaces. Name a dataset that "
            "was prepared with it."
        )
    entries = tuple(ids[text.FIRST_ID :] for ids in vocabularies)
    return Vocabulary(settings, entries, len(entries) > 1 and dataset.shared_vocabulary)


def _vocabularies(dataset: store.Dataset, config: Prepare) -> tuple[tuple[str, ...], ...]:
    """Returns the vocabulary of each side that the task has.

    Raises UsageError if the dataset has no target vocabulary, or one of its own although
    `config` shares one.
    """
    if config.task != "translation":
        return (dataset.vocabulary,)
    if not dataset.target_vocabulary:
        raise UsageError(
            f"it was prepared for --task={dataset.task}, so it has no vocabulary of translations. "
            "Name a dataset of --task=translation, or leave out the flag."
        )
    if config.shared_vocabulary and not dataset.shared_vocabulary:
        raise UsageError(
            "it has two vocabularies, and its ids are kept. Leave out --shared_vocabulary, or "
            "--vocabulary_from."
        )
    return dataset.vocabulary, dataset.target_vocabulary
