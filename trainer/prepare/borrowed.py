"""The tokenizer and vocabulary of another dataset, with --vocabulary_from.

The ids stay the same, so that a model that was trained on that dataset can be trained further on
the new one.
"""

import dataclasses
import os

from trainer import config as configuration
from trainer.data import store, text
from trainer.exit_codes import UsageError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokenizer's entry in dataset.json, and what the ids from FIRST_ID on stand for."""

    tokenizer: dict
    entries: tuple[str, ...]

    def applied(self, config: configuration.Prepare) -> configuration.Prepare:
        """Returns `config` with the tokenizer of this vocabulary."""
        return dataclasses.replace(
            config, tokenizer=self.tokenizer["name"], lowercase=self.tokenizer.get("lowercase")
        )


def of_dataset(config: configuration.Prepare) -> Vocabulary:
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
        text.tokenizer_of(dataset)
    except UsageError as problem:
        raise UsageError(f"--vocabulary_from={folder}: {problem}") from None
    settings = dataset.tokenizer
    asked = {
        "tokenizer": (config.tokenizer or None, settings["name"]),
        "lowercase": (config.lowercase, settings.get("lowercase", settings["name"] == "words")),
        "vocabulary_size": (config.vocabulary_size or None, len(dataset.vocabulary)),
    }
    for flag, (value, there) in asked.items():
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
    return Vocabulary(settings, dataset.vocabulary[text.FIRST_ID :])
