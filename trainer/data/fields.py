"""Targets: what a model learns to tell about an example, on disk and in a batch.

The input of every example is a sequence of tokens; a dataset has one kind of target beside it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of target.

    kind: its name in dataset.json. array: the name of its array below a split, "" if the tokens
    themselves are the target. per_step: whether there is one for each token (the array is int32
    [total], parallel to the tokens) or one for each example (int32 [examples]). sequence: whether
    it is a sequence of tokens of its own for each example (int32 [total of its tokens], with
    offsets of its own).
    """

    kind: str
    array: str
    per_step: bool
    sequence: bool = False

    @property
    def classes(self) -> bool:
        """Whether its values are classes, lines of labels.txt; else they are ids of tokens."""
        return bool(self.array) and not self.sequence


LABEL = Target("label", "labels", per_step=False)
TAGS = Target("tags", "tags", per_step=True)
NEXT_TOKEN = Target("next_token", "", per_step=True)
TEXT = Target("text", "target_tokens", per_step=False, sequence=True)
TARGETS = {target.kind: target for target in (LABEL, TAGS, NEXT_TOKEN, TEXT)}

# How steps meet the examples of a dataset: each by itself in a keyed order, or all of them end to
# end as one long text that is read in parallel streams.
SHUFFLED, STREAMS = ORDERS = ("shuffled", "streams")
