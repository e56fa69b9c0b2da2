"""What `prepare` says at its end: the counts of a dataset, and reasons to doubt it.

Nothing here stops it: data may be odd and right.
"""

import logging
import re
from collections.abc import Sequence

from trainer import config as configuration
from trainer import shown
from trainer.data import store

log = logging.getLogger(__name__)

# A larger share of unknown tokens in a validation or test split is a warning.
MOST_UNKNOWN = 0.3
# Five characters of Thai, Lao, Burmese, Khmer, Japanese or Chinese: more than most words have.
_LONG_RUN = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{5}")


def report(
    description: dict,
    kind: str | None,
    starts: int,
    unknown: dict[str, int],
    entries: Sequence[str],
    config: configuration.Prepare,
) -> None:
    """Logs what the dataset holds, and warns if it probably is not what was meant.

    Args:
      description: the content of dataset.json.
      kind: the array of the target, whose counts are in `description`; None if there is none.
      starts: ids at the start of an example that stand for no token of it.
      unknown: unknown tokens of each split.
      entries: the vocabulary from FIRST_ID on.
    """
    counts = description["counts"]
    for name, split in description["splits"].items():
        classes = split.get(kind, {})
        log.info(
            "%s: %d examples, %d tokens, longest %d%s",
            name,
            split["examples"],
            split["tokens"],
            split["longest"],
            f", {kind} {_most(classes)}" if classes else "",
        )
        tokens = split["tokens"] - starts * split["examples"]
        log.info(
            "%s: %d of %d tokens are unknown (%.4g %%)",
            name,
            unknown[name],
            tokens,
            100 * unknown[name] / max(1, tokens),
        )
        if split["empty_texts"]:
            log.warning(
                "%s: %d examples without a token; they hold the start id only",
                name,
                split["empty_texts"],
            )
        if missing := [label for label, count in classes.items() if not count]:
            log.warning("%s: no example of %s", name, shown.names(missing))
        if doubt := _doubt_of_tokenizer(name, split, unknown[name], tokens, entries, config):
            log.warning("%s: %s", name, doubt)
    if counts.get("duplicates_removed"):
        log.info("%d duplicate rows removed before the split", counts["duplicates_removed"])
    if counts.get("texts_with_several_labels"):
        log.warning(
            "%d texts occur with more than one label; all rows of such a text are in one split",
            counts["texts_with_several_labels"],
        )
    if counts.get("empty_sentences"):
        log.warning("%d sentences without a token left out", counts["empty_sentences"])
    for pair, texts in counts.get("overlaps", {}).items():
        log.warning("%d texts occur in both of %s; given splits stay whole", texts, pair)
    if counts["replaced"]:
        log.warning("%d ill-formed byte sequences replaced by U+FFFD", counts["replaced"])
    log.info("vocabulary: %d ids", description["vocabulary_size"])


def _most(classes: dict[str, int]) -> str:
    """Returns the most frequent classes with their counts, and how many more there are."""
    if len(classes) <= shown.NAMES:
        return str(classes)
    most = sorted(classes, key=lambda label: -classes[label])[: shown.NAMES]
    rest = f"{len(classes) - len(most):,} more"
    return f"{ ({label: classes[label] for label in most}) } and {rest}"


def _doubt_of_tokenizer(
    name: str,
    split: dict,
    unknown: int,
    tokens: int,
    entries: Sequence[str],
    config: configuration.Prepare,
) -> str:
    """Returns why the tokenizer probably does not fit the texts of a split; "" if it may."""
    tokenizer = config.with_defaults("tokenizer")
    if tokenizer in ("characters", "bytes"):
        return ""
    if name != store.SPLITS[0]:
        if unknown <= MOST_UNKNOWN * tokens:
            return ""
        remedy = "Raise --vocabulary_size or bring more training data"
        if config.vocabulary_from:
            remedy = (
                "Leave out --vocabulary_from, or name a dataset whose texts are more like these"
            )
        elif config.task != "tagging":
            remedy += ", or use --tokenizer=characters"
        return (
            f"{100 * unknown / tokens:.4g} % of the tokens are not in the vocabulary, so that a "
            f"model cannot tell them apart. {remedy}"
        )
    if config.task == "tagging":
        return ""
    # `lengths` counts lengths of at most 1 and of 2; they include the start id.
    short = sum(split["lengths"].get(str(length), 0) for length in (1, 2))
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
