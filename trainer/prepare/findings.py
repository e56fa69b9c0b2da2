"""What `prepare` says at its end: the counts of a dataset, and reasons to doubt it.

Nothing here stops it: data may be odd and right.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence

from trainer import shown
from trainer.data import store
from trainer.flags.prepare import Prepare

log = logging.getLogger(__name__)

# A larger share of unknown tokens in a validation or test split is a warning.
MOST_UNKNOWN = 0.3
# Five characters of Thai, Lao, Burmese, Khmer, Japanese or Chinese: more than most words have.
_LONG_RUN = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{5}")


@dataclasses.dataclass(frozen=True)
class Side:
    """The tokens of one text of each row.

    unknown: unknown tokens of each split. entries: the vocabulary from FIRST_ID on. target: whether
    it is the text that is to be learned.
    """

    unknown: Mapping[str, int]
    entries: Sequence[str]
    target: bool = False

    @property
    def prefix(self) -> str:
        """What the keys of the side in dataset.json begin with."""
        return "target_" if self.target else ""

    @property
    def name(self) -> str:
        """Its tokens in words."""
        return "target tokens" if self.target else "tokens"


def report(
    description: dict, kind: str, starts: int, sides: Sequence[Side], config: Prepare
) -> None:
    """Logs what the dataset holds, and warns if it probably is not what was meant.

    Args:
      description: the content of dataset.json.
      kind: the array of the classes, whose counts are in `description`; "" if there are none.
      starts: ids at the start of an example that stand for no token of it.
      sides: the texts of each row, that of the example first.
    """
    counts = description["counts"]
    for name, split in description["splits"].items():
        classes = split.get(kind, {})
        log.info(
            "%s: %d examples, %s%s",
            name,
            split["examples"],
            ", ".join(
                f"{split[f'{side.prefix}tokens']} {side.name}, "
                f"longest {split[f'{side.prefix}longest']}"
                for side in sides
            ),
            f", {kind} {most(classes)}" if classes else "",
        )
        for side in sides:
            _report_unknown(name, split, starts, side, config)
        if split["empty_texts"]:
            log.warning(
                "%s: %d examples without a token; they hold the start id only",
                name,
                split["empty_texts"],
            )
        report_absent(name, classes)
    report_splits(counts, "texts")
    if counts.get("texts_with_several_targets"):
        log.info(
            "%d texts occur with more than one translation", counts["texts_with_several_targets"]
        )
    if counts.get("empty_pairs"):
        log.warning("%d pairs with no token on one of their sides left out", counts["empty_pairs"])
    if counts.get("long_pairs"):
        log.info("%d pairs that are longer on a side left out", counts["long_pairs"])
    if counts.get("empty_sentences"):
        log.warning("%d sentences without a token left out", counts["empty_sentences"])
    if counts["replaced"]:
        log.warning("%d ill-formed byte sequences replaced by U+FFFD", counts["replaced"])
    log.info("vocabulary: %d ids", description["vocabulary_size"])
    if "target_vocabulary_size" in description:
        log.info("target vocabulary: %d ids", description["target_vocabulary_size"])


def report_absent(name: str, classes: Mapping[str, int]) -> None:
    """Warns of the classes of which a split has no example."""
    if missing := [label for label, count in classes.items() if not count]:
        log.warning("%s: no example of %s", name, shown.names(missing))


def report_splits(counts: Mapping, noun: str) -> None:
    """Logs duplicates, and warns of rows that occur twice; `noun`: what they are called."""
    if counts.get("duplicates_removed"):
        log.info("%d duplicate rows removed before the split", counts["duplicates_removed"])
    if several := counts.get(f"{noun}_with_several_labels"):
        log.warning(
            "%d %s occur with more than one label; all rows of each are in one split", several, noun
        )
    for pair, both in counts.get("overlaps", {}).items():
        log.warning("%d %s occur in both of %s; given splits stay whole", both, noun, pair)


def _report_unknown(name: str, split: dict, starts: int, side: Side, config: Prepare) -> None:
    """Logs how many tokens of a side of a split are unknown, and warns of its tokenizer."""
    tokens = split[f"{side.prefix}tokens"] - starts * split["examples"]
    log.info(
        "%s: %d of %d %s are unknown (%.4g %%)",
        name,
        side.unknown[name],
        tokens,
        side.name,
        100 * side.unknown[name] / max(1, tokens),
    )
    if doubt := _doubt_of_tokenizer(name, split, tokens, side, config):
        log.warning("%s: %s", name, doubt)


def most(classes: dict[str, int]) -> str:
    """Returns in words the most frequent classes with their counts, and how many more there are."""
    if len(classes) <= shown.NAMES:
        return str(classes)
    most = sorted(classes, key=lambda label: -classes[label])[: shown.NAMES]
    rest = f"{len(classes) - len(most):,} more"
    return f"{ ({label: classes[label] for label in most}) } and {rest}"


def _doubt_of_tokenizer(name: str, split: dict, tokens: int, side: Side, config: Prepare) -> str:
    """Returns why the tokenizer probably does not fit the texts of a split; "" if it may."""
    tokenizer = config.with_defaults("tokenizer")
    if tokenizer in ("characters", "bytes"):
        return ""
    unknown, entries = side.unknown[name], side.entries
    # What is to be learned and is unknown is never written.
    if unknown > MOST_UNKNOWN * tokens and (name != store.SPLITS[0] or side.target):
        remedy = "Raise --vocabulary_size or bring more training data"
        if config.vocabulary_from:
            remedy = (
                "Leave out --vocabulary_from, or name a dataset whose texts are more like these"
            )
        elif config.task != "tagging":
            remedy += ", or use --tokenizer=characters"
        if name != store.SPLITS[0] and config.task == "translation":
            remedy += ". Check that texts and translations are not swapped"
        return (
            f"{100 * unknown / tokens:.4g} % of the {side.name} are not in the vocabulary, so that "
            f"a model cannot tell them apart. {remedy}"
        )
    if name != store.SPLITS[0] or config.task == "tagging":
        return ""
    # `lengths` counts lengths of at most 1 and of 2; they include the start id.
    short = sum(split[f"{side.prefix}lengths"].get(str(length), 0) for length in (1, 2))
    if 2 * short > split["examples"]:
        seen = f"{short} of {split['examples']} texts have at most one token"
    elif tokenizer != "spaces" and (long := _unspaced(entries)) > len(entries) / 3:
        seen = f"{long} of {len(entries)} tokens of the vocabulary are longer than words"
    else:
        return ""
    return (
        f"{seen} of --tokenizer={tokenizer}. If the texts are written without spaces, as Chinese "
        "and Japanese are, or are single words, use --tokenizer=characters"
    )


def _unspaced(entries: Sequence[str]) -> int:
    """Returns how many tokens are long runs in a script that puts no spaces between words."""
    return sum(bool(_LONG_RUN.search(entry)) for entry in entries)
