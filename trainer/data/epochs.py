"""The steps of an epoch, computed from the number of examples and the batch size alone.

An epoch ends with the step that completes it, also if that step begins the next one.
"""

import dataclasses

from trainer import config as configuration
from trainer.data import order


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

    def total_steps(self, run: configuration.Run) -> int:
        """Returns the last step of a run: --steps, or else the end of --epochs."""
        return run.steps or self.end(run.epochs)
