"""The tasks and their metrics."""

import pytest

from trainer.exit_codes import UsageError
from trainer.flags.run import Run
from trainer.flags.tasks import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_of_a_task_can_choose_the_best_checkpoint(task):
    for metric, better in TASKS[task].items():
        assert better in ("lower", "higher")
        assert Run(best_metric=metric).best_metric == metric


def test_a_metric_of_no_task_is_refused():
    with pytest.raises(UsageError, match="--best_metric=auc: must be one of accuracy | bits | b"):
        Run(best_metric="auc")
