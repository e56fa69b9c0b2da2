"""The state by its logical names: saved, restored, and refused if it does not fit."""

import numpy as np
import pytest

from tests.steps import runs
from trainer.exit_codes import DataError
from trainer.flags.run import Model, Optimizer
from trainer.models.networks import Network
from trainer.steps import optimizer, state
from trainer.tasks import table


def new(precision="float32", seed=0, model=None, variable=runs.variable, streams=0, **changes):
    settings = Model(**{"units": (3,), "embedding_size": 2, **(model or {})})
    network = Network(settings, 5, 3, seed=seed, precision=precision)
    return state.State(
        network,
        optimizer.Optimizer(Optimizer(**changes), network.weights, 10, variable),
        table.TASKS["classification"],
        variable,
        streams,
    )


def filled(seed=0, **options):
    """Returns a state whose values all differ."""
    made, generator = new(**options), np.random.default_rng(seed)
    for variable in made.named().values():
        variable.assign(
            (100 * generator.normal(size=variable.shape)).astype(variable.dtype.as_numpy_dtype)
        )
    return made


WEIGHTS = [
    "embedding/embeddings",
    "rnn_0/kernel",
    "rnn_0/recurrent_kernel",
    "rnn_0/bias",
    "logits/kernel",
    "logits/bias",
]
ALWAYS = {"optimizer/iteration", "step", "epoch/loss_sum", "epoch/correct", "epoch/count"}


@pytest.mark.parametrize(
    "options, slots, more",
    [
        ({}, ["m", "v"], set()),
        ({"optimizer": "adamw", "ema": 0.9}, ["m", "v", "average"], set()),
        ({"optimizer": "sgd"}, ["m"], set()),
        ({"optimizer": "sgd", "momentum": 0.0}, [], set()),
        ({"precision": "float16"}, ["m", "v"], {"optimizer/loss_scale"}),
        ({"streams": 4}, ["m", "v"], {"carry/rnn_0/hidden", "carry/rnn_0/memory"}),
    ],
)
def test_names_of_everything_that_the_next_step_depends_on(options, slots, more):
    """A later version must read the checkpoints of this one."""
    weights = {f"model/{name}" for name in WEIGHTS}
    of_weights = {f"optimizer/{name}/{slot}" for name in WEIGHTS for slot in slots}
    assert set(new(**options).named()) == weights | of_weights | ALWAYS | more


@pytest.mark.parametrize(
    "precision, dtype",
    [
        ("float32", "float32"),
        ("bfloat16", "float32"),
        ("float16", "float32"),
        ("float64", "float64"),
    ],
)
def test_types_of_the_state(precision, dtype):
    """Weights keep 32 bits under the short types; sums of an epoch are exact or in 64 bits."""
    dtypes = {name: variable.dtype.name for name, variable in new(precision).named().items()}
    assert {
        dtypes[name] for name in dtypes if name.startswith("model/") or name.endswith(("/m", "/v"))
    } == {dtype}
    assert {dtypes[name] for name in ("step", "epoch/count", "epoch/correct")} == {"int64"}
    assert dtypes["epoch/loss_sum"] == "float64"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adamw", "ema": 0.9},
        {"optimizer": "sgd"},
        {"precision": "float16"},
        {"streams": 4},
        {"model": {"cell": "gru", "bidirectional": True}},
    ],
)
def test_a_restored_state_is_the_one_that_was_saved(options):
    saved = filled(**options).snapshot()
    other = new(seed=9, **options)
    other.restore(saved, "here")
    for name, value in other.snapshot().items():
        assert value.dtype == saved[name].dtype
        np.testing.assert_array_equal(value, saved[name], err_msg=name)


def test_a_snapshot_is_not_changed_by_what_follows():
    made = filled()
    before = made.snapshot()
    copies = {name: value.copy() for name, value in before.items()}
    for variable in made.named().values():
        variable.assign_add(variable + 1)
    for name, value in before.items():
        np.testing.assert_array_equal(value, copies[name])


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda tensors: tensors.pop("model/logits/bias"),
            r"there holds other tensors .*missing \['model/logits/bias'\]",
        ),
        (lambda tensors: tensors.update(more=np.zeros(3)), r"unknown \['more'\]"),
        (
            lambda tensors: tensors.update({"model/rnn_0/bias": np.zeros(7, np.float32)}),
            r"there: model/rnn_0/bias has shape \(7,\), .* \(12,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message):
    tensors = filled().snapshot()
    change(tensors)
    with pytest.raises(DataError, match=message):
        new().restore(tensors, "there")


def test_the_sums_of_an_epoch_and_what_streams_carry_begin_at_zero_and_nothing_else_does():
    made = filled(streams=4)
    before = made.snapshot()
    assert all(before[f"carry/rnn_0/{part}"].any() for part in ("hidden", "memory"))
    made.begin_epoch()
    for name, value in made.snapshot().items():
        expected = 0 if name.startswith(("epoch/", "carry/")) else before[name]
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "float64"])
def test_streams_carry_a_row_each_in_the_type_of_the_weights(precision):
    made = new(precision, streams=4)
    for rows in made.carry.values():
        assert rows.shape == (4, 3) and rows.dtype == made.weights["logits/bias"].dtype
        assert not rows.numpy().any()


def test_what_other_streams_carried_is_refused():
    with pytest.raises(
        DataError, match=r"there: carry/rnn_0/hidden has shape \(5, 3\), .*\(4, 3\)"
    ):
        new(streams=4).restore(filled(streams=5).snapshot(), "there")
    with pytest.raises(DataError, match="there holds other tensors .*missing .*carry/rnn_0/hidden"):
        new(streams=4).restore(filled().snapshot(), "there")


@pytest.mark.parametrize("ema, slot", [(0.0, None), (0.9, "average")])
def test_averaged_weights_are_used_if_there_are_any(ema, slot):
    """From the tensors of a checkpoint as from the state itself."""
    made = filled(ema=ema)
    tensors = made.snapshot()
    for found in (state.evaluation_weights(tensors), made.evaluation_weights()):
        assert list(found) == WEIGHTS
        for name, value in found.items():
            np.testing.assert_array_equal(
                value, tensors[f"optimizer/{name}/{slot}" if slot else f"model/{name}"]
            )


def test_only_float16_has_metrics_of_a_loss_scale():
    made = new("float16")
    made.step.assign(9)
    made.optimizer.iteration.assign(7)
    assert made.scaling() == {"loss_scale": 2.0**15, "skipped_steps": 2.0}
    assert new().scaling() == {}
