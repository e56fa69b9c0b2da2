"""Compares exported files with the trained model, in a process that cannot import this package."""

import logging
import pathlib

import numpy as np

from trainer import trained_model
from trainer.exit_codes import TrainerError
from trainer.export import expected, readback
from trainer.export.expected import Check, Likeliest
from trainer.flags.use import Export
from trainer.reporting.progress import number

log = logging.getLogger(__name__)

# The most that a number may differ, relative to numbers above 1; additions in another order make
# about 1e-7.
BOUND = 1e-5
# {output: another bound}. The rounding of each word of a translation adds up, and a search that
# reads them one by one rounds otherwise than an evaluation.
_BOUNDS = {"score": 1e-4}
# A perplexity is compared by its logarithm, as the log-probability that it comes from is.
_SCALE = {"perplexity": np.log}
# Values in the units of the data are rounded to float32: two right answers may be neighbours, or
# two numbers apart just below a power of 2. If the mean is large, that is more than the bound.
_ROUNDING = 2
TIE = 1e-4  # The most, relative, that probabilities differ if a name may stand for the other.

_REMEDY = (
    "Nothing was published. This is a bug of ours, or of this build of TensorFlow and Keras: try "
    "another build, and report it."
)


def differences(
    model: trained_model.TrainedModel, folder: pathlib.Path, options: Export
) -> dict[str, float]:
    """Returns {file: largest difference of a number from the model's, in float32}.

    options: those that the files were written with.

    Numbers above 1 differ relative to themselves: sums of logarithms are large. Values in the units
    of the data differ in deviations, by as much as rounding to float32 does not explain.

    Raises TrainerError if a file in `folder` cannot be loaded by a process without this package, or
    if it answers something else than the model.
    """
    log.info("computing what the trained model answers to examples and to difficult rows")
    checks = expected.checks(model, options)
    log.info("comparing %s with it, in a process without this package", " and ".join(checks))
    calls = {str(folder / name): [check.call for check in checks[name]] for name in checks}
    try:
        answers = readback.answers(calls)
    except RuntimeError as problem:
        raise TrainerError(
            f"the export cannot be used without this package. {_REMEDY}\n{problem}"
        ) from None
    return {
        name: max(
            _checked(name, check, answer)
            for check, answer in zip(checks[name], answers[str(folder / name)], strict=True)
        )
        for name in checks
    }


def _checked(file: str, check: Check, answer: readback.Answer) -> float:
    """Returns the largest difference of an answer. Raises TrainerError if it is no good."""
    place = f"{file}, {check.call.signature}" if check.call.signature else file
    if answer.keys() != check.expected.keys():
        raise TrainerError(
            f"{place}: the outputs are {sorted(answer)}, and should be {sorted(check.expected)}. "
            f"{_REMEDY}"
        )
    largest = 0.0
    for output, wanted in check.expected.items():
        found = answer[output]
        if isinstance(wanted, Likeliest) or wanted.dtype == object:
            _compare_strings(f"{place}: {output}", found, wanted)
            continue
        scale = check.scale.applied if check.scale else _SCALE.get(output, np.asanyarray)
        rounding: np.ndarray | float = 0.0
        if check.scale:
            rounding = _ROUNDING * np.spacing(np.abs(wanted)) / check.scale.deviation
        difference = np.inf
        if found.shape == wanted.shape:
            difference = _difference(scale(found), scale(wanted), rounding)
        bound = _BOUNDS.get(output, BOUND)
        if not difference <= bound:
            raise TrainerError(
                f"{place}: {output} differs by {number(difference)} from the trained model's, at "
                f"most {bound} is allowed. {_REMEDY}"
            )
        largest = max(largest, difference)
    return largest


def _difference(found: np.ndarray, wanted: np.ndarray, rounding: np.ndarray | float = 0.0) -> float:
    """Returns the largest difference of arrays of one shape, relative to numbers above 1.

    Masked ones are not counted, and of each difference not the part that `rounding` explains.
    """
    with np.errstate(invalid="ignore"):  # Between infinities.
        apart = np.maximum(0, np.abs(found - wanted) - rounding) / np.maximum(1, np.abs(wanted))
    return float(np.ma.filled(np.ma.where(found == wanted, 0, apart), 0).max(initial=0))


def _compare_strings(place: str, found: np.ndarray, wanted: np.ndarray | Likeliest) -> None:
    """Raises TrainerError if strings differ from the wanted ones, or are not as likely."""
    if isinstance(wanted, Likeliest):
        names = np.array(wanted.names, object)[wanted.chosen]
        same = found.shape == names.shape and _as_likely(found, wanted)
    else:
        names = wanted
        same = np.array_equal(found, names)
    if not same:
        apart = [
            (ours, theirs) for ours, theirs in zip(found.ravel(), names.ravel()) if ours != theirs
        ]
        raise TrainerError(
            f"{place} differs from the trained model's: shapes {found.shape} and {names.shape}, "
            f"the first of other strings (exported, trained) {apart[:3]}. {_REMEDY}"
        )


def _as_likely(found: np.ndarray, wanted: Likeliest) -> bool:
    """Returns whether each found name is the chosen one, or equally likely."""
    numbers: dict[bytes, list[int]] = {}
    for place, name in enumerate(wanted.names):
        numbers.setdefault(name, []).append(place)  # A word may have the name of a reserved id.
    if not found.size:
        return True
    probabilities = wanted.probabilities.reshape(-1, len(wanted.names))
    rows = len(probabilities)
    for chances, chosen, names in zip(
        probabilities, wanted.chosen.reshape(rows, -1), found.reshape(rows, -1)
    ):
        for choice, name in zip(chances[chosen], names):
            if not any(abs(chances[i] - choice) <= TIE * choice for i in numbers.get(name, ())):
                return False
    return True
