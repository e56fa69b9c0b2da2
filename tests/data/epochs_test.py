import pytest

from trainer.data.epochs import Epochs
from trainer.flags.run import Run


def test_the_step_that_completes_an_epoch_counts_for_it():
    epochs = Epochs(size=50, batch_size=8)
    assert [epochs.end(epoch) for epoch in (1, 2, 3, 4)] == [7, 13, 19, 25]
    assert [epochs.of(step) for step in (1, 7, 8, 13, 14)] == [1, 1, 2, 2, 3]


def test_an_epoch_ends_with_its_last_step_and_with_no_other():
    epochs = Epochs(size=50, batch_size=8)
    assert [step for step in range(26) if epochs.end_with(step)] == [7, 13, 19, 25]


def test_every_step_ends_an_epoch_of_a_split_smaller_than_a_batch():
    epochs = Epochs(size=5, batch_size=8)
    assert [step for step in range(5) if epochs.end_with(step)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "run, total",
    [
        ({"epochs": 3}, 19),
        ({"epochs": 3, "steps": 5}, 5),  # --steps wins
        ({"steps": 100}, 100),
    ],
)
def test_a_run_has_its_steps_or_those_of_its_epochs(run, total):
    assert Epochs(size=50, batch_size=8).total_steps(Run(**run)) == total
