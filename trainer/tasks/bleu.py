"""BLEU and chrF of translations, computed by sacrebleu, an optional package.

Papineni et al., BLEU, 2002; Popović, chrF, 2015; Post, A Call for Clarity in Reporting BLEU Scores,
2018, which is why the signature belongs to the number.
"""

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

from trainer.exit_codes import UsageError
from trainer.flags.tasks import OF_TRANSLATIONS

INSTALL = "pip install 'sacrebleu>=2.4'"

METRICS = OF_TRANSLATIONS


class Quality(NamedTuple):
    """How well translations match references. bleu, chrf: from 0 to 100.

    signature, chrf_signature: how sacrebleu computed them, in its own words.
    """

    bleu: float
    chrf: float
    signature: str
    chrf_signature: str


def is_installed() -> bool:
    """Returns whether sacrebleu is there."""
    return importlib.util.find_spec("sacrebleu") is not None


def require(reason: str) -> None:
    """Raises UsageError, which begins with `reason`, if sacrebleu is not installed."""
    if not is_installed():
        raise UsageError(
            f"{reason}: BLEU and chrF come from the package sacrebleu, which is not installed "
            f"here. Run: {INSTALL}"
        )


def quality(translations: Sequence[str], references: Sequence[str], lowercase: bool) -> Quality:
    """Returns how well whole texts match one reference each.

    lowercase: compare them in lower case. There is at least one text. sacrebleu must be installed.
    """
    from sacrebleu.metrics import BLEU, CHRF

    # A text that ends in " ." is none that was left in tokens: a tokenizer here puts texts back
    # together as they were. Without `force` it would be warned of.
    bleu, chrf = BLEU(lowercase=lowercase, force=True), CHRF(lowercase=lowercase)
    scores = [
        metric.corpus_score(list(translations), [list(references)]).score for metric in (bleu, chrf)
    ]
    return Quality(*scores, *(str(metric.get_signature()) for metric in (bleu, chrf)))
