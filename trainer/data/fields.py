"""Targets: what a model learns to tell about an example, on disk and in a batch.

The input of every example is a sequence of tokens; a dataset has one kind of target beside it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of target.

    kind: its name in dataset.json. array: the name of its array below a split, "" if the tokens
    themselves are the target. per_step: whether there is one for each token (the array is int32
    [total], parallel to the tokens) or one for each example (int32 [examples]). Its values are
    classes, lines of labels.txt; those of the next token are ids.
    """

    kind: str
    array: str
    per_step: bool


LABEL = Target("label", "labels", per_step=False)
TAGS = Target("tags", "tags", per_step=True)
NEXT_TOKEN = Target("next_token", "", per_step=True)
TARGETS = {target.kind: target for target in (LABEL, TAGS, NEXT_TOKEN)}

# How steps meet the examples of a dataset: each by itself in a keyed order, or all of them end to
# end as one long text that is read in parallel streams.
SHUFFLED, STREAMS = ORDERS = ("shuffled", "streams")
