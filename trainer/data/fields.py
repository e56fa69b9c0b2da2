"""Fields: what a model reads of an example and what it learns to tell, on disk and in a batch.

Every example of a dataset has an input of one kind, a sequence of tokens or of frames, and beside
it one kind of target.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Input:
    """A kind of input: a sequence of steps.

    kind: its name in dataset.json. array: the name of its array below a split, and of the count of
    its steps in dataset.json. numbers: whether a step is a frame, float32 [features]; else it is
    the id of a token.
    """

    kind: str
    array: str
    numbers: bool = False


TOKENS, FRAMES = Input("tokens", "tokens"), Input("frames", "frames", numbers=True)
INPUTS = {each.kind: each for each in (TOKENS, FRAMES)}


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of target.

    kind: its name in dataset.json. array: the name of its array below a split, "" if the tokens
    themselves are the target. per_step: whether there is one for each token (the array is int32
    [total], parallel to the tokens) or one for each example (int32 [examples]). sequence: whether
    it is a sequence of tokens of its own for each example (int32 [total of its tokens], with
    offsets of its own). numbers: whether it is a row of values for each example (float32
    [examples, values]).
    """

    kind: str
    array: str
    per_step: bool
    sequence: bool = False
    numbers: bool = False

    @property
    def classes(self) -> bool:
        """Whether they are classes, lines of labels.txt; else ids of tokens, or numbers."""
        return bool(self.array) and not self.sequence and not self.numbers


LABEL = Target("label", "labels", per_step=False)
TAGS = Target("tags", "tags", per_step=True)
NEXT_TOKEN = Target("next_token", "", per_step=True)
TEXT = Target("text", "target_tokens", per_step=False, sequence=True)
VALUES = Target("values", "values", per_step=False, numbers=True)
TARGETS = {target.kind: target for target in (LABEL, TAGS, NEXT_TOKEN, TEXT, VALUES)}


@dataclasses.dataclass(frozen=True)
class Form:
    """What a batch of a dataset holds.

    features: numbers of a frame; 0 if the input is tokens. values: numbers of a target of values,
    else 0.
    """

    target: Target = LABEL
    features: int = 0
    values: int = 0


@dataclasses.dataclass(frozen=True)
class Scale:
    """How numbers become numbers of mean 0 and deviation 1; both parts are float32 [numbers]."""

    mean: np.ndarray
    deviation: np.ndarray

    def applied(self, values: np.ndarray) -> np.ndarray:
        """Returns `values`, float32 [..., numbers], without their mean, in deviations."""
        return (values - self.mean) / self.deviation

    def undone(self, values: np.ndarray) -> np.ndarray:
        """Returns what `applied` made `values` of, but for rounding."""
        return values * self.deviation + self.mean


# How steps meet the examples of a dataset: each by itself in a keyed order, or all of them end to
# end as one long text that is read in parallel streams.
SHUFFLED, STREAMS = ORDERS = ("shuffled", "streams")
