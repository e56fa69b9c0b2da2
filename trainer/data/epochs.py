"""The steps of an epoch, computed from the number of examples and the batch size alone.

An epoch ends with the step that completes it, also if that step begins the next one.
"""

import dataclasses

from trainer.data import fields, order
from trainer.flags.run import Input, Run


@dataclasses.dataclass(frozen=True)
class Epochs:
    """The epochs of a run over `size` examples; steps and epochs are counted from 1.

    With 50 examples and batch_size 8 they end after steps 7, 13, 19, 25, ...
    """

    size: int
    batch_size: int

    def of(self, step: int) -> int:
        """Returns the epoch that `step` counts for."""
        return order.epoch_of(step, self.size, self.batch_size)

    def end(self, epoch: int) -> int:
        """Returns the last step of an epoch."""
        return order.epoch_end(epoch, self.size, self.batch_size)

    def end_with(self, step: int) -> bool:
        """Returns whether `step` is the last one of an epoch; False for 0, before the first."""
        return step > 0 and self.of(step + 1) > self.of(step)

    def total_steps(self, run: Run) -> int:
        """Returns the last step of a run: --steps, or else the end of --epochs."""
        return run.steps or self.end(run.epochs)


def chunks(tokens: int, settings: Input) -> int:
    """Returns the whole chunks of max_length tokens in each of batch_size streams of a text."""
    return tokens // settings.batch_size // settings.max_length


def of_split(order_of_rows: str, examples: int, tokens: int, settings: Input) -> Epochs:
    """Returns the epochs of a run over a training split.

    order_of_rows: one of `fields.ORDERS`. An epoch of a text in streams has a row for each of their
    chunks, else a row for each example.
    """
    if order_of_rows == fields.STREAMS:
        examples = settings.batch_size * chunks(tokens, settings)
    return Epochs(examples, settings.batch_size)
