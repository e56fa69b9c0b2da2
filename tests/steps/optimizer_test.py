"""Updates against NumPy written from the papers, schedules against closed forms and Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.steps import runs
from trainer.flags.run import Model, Optimizer
from trainer.models.networks import Network
from trainer.steps import optimizer

TOTAL = 20


def settings(**changes):
    return Optimizer(**changes)


# --- The learning rate ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule, warmup, step, factor",
    [
        ("constant", 0, 0, 1),
        ("constant", 0, 999, 1),
        ("constant", 4, 0, 0.25),
        ("constant", 4, 2, 0.75),
        ("constant", 4, 3, 1),
        ("constant", 4, 4, 1),
        ("cosine", 0, 0, 1),
        ("cosine", 0, 10, 0.5),
        ("cosine", 0, 15, 0.5 - 0.5 / np.sqrt(2)),
        ("cosine", 0, 20, 0),
        ("cosine", 4, 1, 0.5),
        ("cosine", 4, 4, 1),
        ("cosine", 4, 12, 0.5),
        ("cosine", 4, 20, 0),
        ("exponential", 0, 10, 0.1),
        ("exponential", 0, 20, 0.01),
        ("exponential", 4, 0, 0.25),
        ("exponential", 4, 12, 0.1),
        ("exponential", 4, 20, 0.01),
        ("cosine", 0, 21, 0),
        ("exponential", 0, 99, 0.01),  # the rate does not rise again after the end
        ("cosine", 30, 19, 20 / 30),  # a warm-up longer than the run
    ],
)
def test_the_learning_rate_of_a_step(schedule, warmup, step, factor):
    chosen = settings(learning_rate=0.4, schedule=schedule, warmup_steps=warmup)
    for dtype, digits in (
        (tf.float64, {"rtol": 1e-14, "atol": 1e-16}),
        (tf.float32, {"rtol": 2e-6, "atol": 1e-8}),
    ):
        found = optimizer.learning_rate(chosen, tf.constant(step, tf.int64), TOTAL, dtype)
        np.testing.assert_allclose(found, 0.4 * factor, **digits)


@pytest.mark.parametrize(
    "schedule, theirs",
    [
        ("cosine", keras.optimizers.schedules.CosineDecay(0.3, TOTAL)),
        ("exponential", keras.optimizers.schedules.ExponentialDecay(0.3, TOTAL, 0.01)),
    ],
)
def test_schedules_are_those_of_keras(schedule, theirs):
    chosen = settings(learning_rate=0.3, schedule=schedule)
    for step in range(TOTAL + 1):
        np.testing.assert_allclose(
            optimizer.learning_rate(chosen, step, TOTAL), theirs(step), rtol=1e-5, atol=1e-8
        )


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential"])
def test_warm_up_rises_and_decay_falls_without_a_jump(schedule):
    chosen = settings(learning_rate=1.0, schedule=schedule, warmup_steps=50)
    rates = [float(optimizer.learning_rate(chosen, step, 1000)) for step in range(1000)]
    assert np.diff(rates[:50]).min() > 0 and np.diff(rates[50:]).max() <= 0
    assert max(np.abs(np.diff(rates))) <= 1 / 50 + 1e-6
    assert max(rates) == rates[49] == 1


# --- Updates --------------------------------------------------------------------------------------


def numpy_updates(chosen, theta, gradients):
    """Returns (theta, m, v, average) after updates by each of `gradients`.

    adam: Kingma and Ba 2015, algorithm 1 in the order of operations at the end of section 2. adamw:
    Loshchilov and Hutter 2019, algorithm 2, the decay multiplied by the learning rate. sgd:
    Sutskever et al. 2013, equations 1 and 2. The average: Kingma and Ba, section 7.2; it starts
    as the first weights instead of correcting its bias.
    """
    m = v = np.zeros_like(theta)
    average = None
    for t, g in enumerate(gradients, start=1):
        rate = float(optimizer.learning_rate(chosen, t - 1, TOTAL, tf.float64))
        if chosen.optimizer == "sgd":
            m = chosen.momentum * m - rate * g
            theta = theta + m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            decay = chosen.weight_decay if chosen.optimizer == "adamw" else 0
            correction = np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            theta = theta - rate * (correction * m / (np.sqrt(v) + 1e-7) + decay * theta)
        average = theta if average is None else chosen.ema * average + (1 - chosen.ema) * theta
    return theta, m, v, average


UPDATES = [
    {"optimizer": "adam"},
    {"optimizer": "adam", "schedule": "cosine", "warmup_steps": 3},
    {"optimizer": "adamw", "weight_decay": 0.3, "schedule": "exponential"},
    {"optimizer": "adamw", "weight_decay": 0.0},
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.0, "warmup_steps": 4},
    {"optimizer": "adam", "ema": 0.7},
    {"optimizer": "sgd", "ema": 0.9, "schedule": "cosine"},
]


def values_of(weights, made):
    """Returns what an optimizer updates, named as in `State.values`, in the weights' shapes."""
    return {
        **{f"model/{name}": tf.convert_to_tensor(weight.value) for name, weight in weights.items()},
        **{
            f"optimizer/{name}": tf.convert_to_tensor(variable)
            for name, variable in made.named().items()
        },
    }


@pytest.mark.parametrize("changes", UPDATES)
@pytest.mark.parametrize("jit", [False, True])
def test_updates_are_those_of_the_papers(changes, jit):
    chosen = settings(learning_rate=0.05, **changes)
    generator = np.random.default_rng(0)
    start = [generator.normal(size=shape) for shape in ((3, 2), (4,))]
    gradients = [[generator.normal(size=weight.shape) for weight in start] for _ in range(6)]
    weights = {
        name: keras.Variable(value, dtype="float64", name=name)
        for name, value in zip(("kernel", "bias"), start)
    }
    made = optimizer.Optimizer(chosen, weights, TOTAL, runs.variable)
    values = values_of(weights, made)
    update = tf.function(lambda values, gradients: made.updated(values, gradients), jit_compile=jit)
    for gradient in gradients:
        values = update(values, dict(zip(weights, map(tf.constant, gradient))))
    slots = {
        name.removeprefix("optimizer/"): value
        for name, value in values.items()
        if name.startswith("optimizer/")
    }
    assert int(slots.pop("iteration")) == 6
    expected = {"iteration"}
    for i, name in enumerate(weights):
        theta, m, v, average = numpy_updates(
            chosen, start[i], [gradient[i] for gradient in gradients]
        )
        np.testing.assert_allclose(values[f"model/{name}"], theta, rtol=1e-13)
        for slot, value in {"m": m, "v": v, "average": average}.items():
            if f"{name}/{slot}" in slots:
                np.testing.assert_allclose(slots[f"{name}/{slot}"], value, rtol=1e-12, atol=1e-16)
                expected.add(f"{name}/{slot}")
    wanted = {"m"} if chosen.optimizer == "sgd" else {"m", "v"}
    wanted -= {"m"} if chosen.optimizer == "sgd" and not chosen.momentum else set()
    wanted |= {"average"} if chosen.ema else set()
    assert expected == {"iteration", *(f"{name}/{slot}" for name in weights for slot in wanted)}


@pytest.mark.parametrize(
    "changes, theirs",
    [
        ({"optimizer": "adam"}, lambda: keras.optimizers.Adam(0.05)),
        (
            {"optimizer": "adamw", "weight_decay": 0.3, "ema": 0.9},
            lambda: keras.optimizers.AdamW(0.05, weight_decay=0.3, use_ema=True, ema_momentum=0.9),
        ),
        ({"optimizer": "sgd"}, lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
    ],
)
def test_updates_are_those_of_keras(changes, theirs):
    generator = np.random.default_rng(0)
    start = generator.normal(size=(5, 3)).astype(np.float32)
    theirs, weight = theirs(), keras.Variable(start, name="kernel")
    theirs.build([weight])
    weights = {"kernel": keras.Variable(start, name="kernel")}
    made = optimizer.Optimizer(
        settings(learning_rate=0.05, **changes), weights, TOTAL, runs.variable
    )
    values = values_of(weights, made)
    for _ in range(5):
        gradient = tf.constant(generator.normal(size=(5, 3)), tf.float32)
        theirs.apply([gradient], [weight])
        values = made.updated(values, {"kernel": gradient})
    np.testing.assert_allclose(values["model/kernel"], weight, rtol=1e-5, atol=1e-6)
    if "ema" in changes:
        [average] = [variable for variable in theirs.variables if "average" in variable.path]
        np.testing.assert_allclose(
            values["optimizer/kernel/average"], average, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("cell", ["simple_rnn", "lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("from_cell", [False, True])
def test_every_slot_has_the_logical_name_of_its_weight(cell, bidirectional, from_cell):
    """No two slots share a name, and each has the shape of its weight."""
    model = {"cell": cell, "bidirectional": bidirectional, "rnn_from_cell": from_cell}
    weights = Network(Model(units=(3, 3), embedding_size=3, **model), 5, 3).weights
    slots = optimizer.Optimizer(settings(ema=0.9), weights, TOTAL, runs.variable).named()
    assert set(slots) == {
        "iteration",
        *(f"{name}/{slot}" for name in weights for slot in ("m", "v", "average")),
    }
    for name, weight in weights.items():
        assert {tuple(slots[f"{name}/{slot}"].shape) for slot in ("m", "v", "average")} == {
            tuple(weight.shape)
        }


# --- Rates per layer, and frozen weights ----------------------------------------------------------

LAYERS = ("embedding/embeddings", "rnn_0/kernel", "rnn_1/kernel", "logits/kernel")
BY_HALVES = dict(zip(LAYERS, (0.125, 0.25, 0.5, 1.0)))


@pytest.mark.parametrize(
    "decay, names, factors",
    [
        (1.0, LAYERS, [1, 1, 1, 1]),
        (0.5, LAYERS, [0.125, 0.25, 0.5, 1]),
        (0.1, LAYERS[-2:], [0.1, 1]),
        (0.5, ["rnn_0/forward/bias", "rnn_0/backward/bias", "logits/bias"], [0.5, 0.5, 1]),
    ],
)
def test_the_rate_decays_from_the_output_down(decay, names, factors):
    found = optimizer.rate_factors(settings(layer_decay=decay), names)
    assert found == pytest.approx(dict(zip(names, factors, strict=True)), rel=1e-15)


def layers(generator) -> dict[str, np.ndarray]:
    return {name: generator.normal(size=(3, 2)) for name in LAYERS}


def updated(made, start, steps) -> list[dict[str, np.ndarray]]:
    """[values after each of `steps`, gradients by weight]."""
    weights = {name: keras.Variable(value, dtype="float64") for name, value in start.items()}
    values, seen = values_of(weights, made), []
    update = tf.function(
        lambda values, gradients: made.updated(values, made.moving(values, gradients))
    )
    for gradients in steps:
        values = update(values, {name: tf.constant(each) for name, each in gradients.items()})
        seen.append({name: value.numpy() for name, value in values.items()})
    return seen


def specs(start):
    return {name: tf.TensorSpec(value.shape, tf.float64) for name, value in start.items()}


ALGORITHMS = [
    {"optimizer": "adam", "schedule": "cosine", "warmup_steps": 2},
    {"optimizer": "adamw", "weight_decay": 0.3, "ema": 0.7},
    {"optimizer": "sgd", "ema": 0.7},
]


@pytest.mark.parametrize("changes", ALGORITHMS)
def test_a_layer_learns_as_a_run_with_its_own_rate_would(changes):
    generator = np.random.default_rng(0)
    start, steps = layers(generator), [layers(generator) for _ in range(6)]
    chosen = settings(learning_rate=0.05, layer_decay=0.5, **changes)
    made = optimizer.Optimizer(chosen, specs(start), TOTAL, runs.variable)
    found = updated(made, start, steps)[-1]
    for name, factor in BY_HALVES.items():
        own = settings(learning_rate=0.05 * factor, **changes)
        theta, *_ = numpy_updates(own, start[name], [gradients[name] for gradients in steps])
        np.testing.assert_allclose(found[f"model/{name}"], theta, rtol=1e-13)


@pytest.mark.parametrize("changes", ALGORITHMS)
def test_frozen_weights_keep_every_bit_and_then_learn_as_if_the_run_began_there(changes):
    generator = np.random.default_rng(0)
    start, steps = layers(generator), [layers(generator) for _ in range(7)]
    frozen, free = LAYERS[:2], LAYERS[2:]
    chosen = settings(learning_rate=0.05, frozen_steps=3, **changes)
    made = optimizer.Optimizer(chosen, specs(start), TOTAL, runs.variable)
    made.freeze(frozen)
    seen = updated(made, start, steps)
    for name in frozen:
        for values in seen[:3]:
            assert values[f"model/{name}"].tobytes() == start[name].tobytes()
            for slot in optimizer.slots(chosen):
                assert not values[f"optimizer/{name}/{slot}"].any()
        assert (seen[3][f"model/{name}"] != start[name]).all()
    for name in free:
        theta, *_ = numpy_updates(chosen, start[name], [gradients[name] for gradients in steps])
        np.testing.assert_allclose(seen[-1][f"model/{name}"], theta, rtol=1e-13)
    if "schedule" in changes:  # The schedule runs over all steps, also over the frozen ones.
        return
    for name in frozen:
        own = [gradients[name] for gradients in steps[3:]]
        theta, m, v, average = numpy_updates(chosen, start[name], own)
        np.testing.assert_allclose(seen[-1][f"model/{name}"], theta, rtol=1e-13)
        if chosen.ema:
            np.testing.assert_allclose(
                seen[-1][f"optimizer/{name}/average"], average, rtol=1e-12, atol=1e-16
            )


def test_frozen_weights_do_not_count_in_the_norm_of_the_gradient():
    chosen = settings(frozen_steps=2)
    made = optimizer.Optimizer(
        chosen, specs(layers(np.random.default_rng(0))), TOTAL, runs.variable
    )
    made.freeze(LAYERS[:2])
    gradients = {name: tf.fill([2], 3.0 if name in LAYERS[:2] else 1.0) for name in LAYERS}
    for iteration, norm in ((0, 2.0), (1, 2.0), (2, np.sqrt(4 * 9 + 4))):
        values = {"optimizer/iteration": tf.constant(iteration, tf.int64)}
        moving = made.moving(values, gradients)
        np.testing.assert_allclose(optimizer.global_norm(list(moving.values())), norm, rtol=1e-6)


def test_weights_cannot_be_frozen_when_the_update_is_traced_already():
    start = layers(np.random.default_rng(0))
    made = optimizer.Optimizer(settings(frozen_steps=2), specs(start), TOTAL, runs.variable)
    updated(made, start, [start])
    with pytest.raises(RuntimeError, match="before the first update"):
        made.freeze(LAYERS)


# --- Clipping and scaling -------------------------------------------------------------------------


@pytest.mark.parametrize("limit, factor", [(0, 1), (26, 1), (13.0, 1), (6.5, 0.5), (1.3, 0.1)])
def test_clipping_scales_all_gradients_to_the_global_norm(limit, factor):
    gradients = [np.array([[3.0, 0.0]]), np.array([4.0, 12.0])]  # of norm 13
    norm = optimizer.global_norm(list(map(tf.constant, gradients)))
    assert float(norm) == 13
    clipped = optimizer.clip(list(map(tf.constant, gradients)), norm, limit)
    for ours, gradient in zip(clipped, gradients):
        np.testing.assert_allclose(ours, factor * gradient, rtol=1e-15)


def test_clipping_is_that_of_tensorflow():
    generator = np.random.default_rng(0)
    gradients = [
        tf.constant(generator.normal(size=shape), tf.float32) for shape in ((5, 7), (3,), ())
    ]
    norm = optimizer.global_norm(gradients)
    theirs, their_norm = tf.clip_by_global_norm(gradients, 0.7)
    np.testing.assert_allclose(norm, their_norm, rtol=1e-6)
    for one, other in zip(optimizer.clip(gradients, norm, 0.7), theirs):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_gradient_of_zero_stays_zero_and_nan_stays_nan():
    zero, nan = ([tf.constant([value, 0.0])] for value in (0.0, np.nan))
    np.testing.assert_array_equal(optimizer.clip(zero, optimizer.global_norm(zero), 1.0)[0], [0, 0])
    assert np.isnan(optimizer.clip(nan, optimizer.global_norm(nan), 1.0)[0]).any()


@pytest.mark.parametrize(
    "scale, fits, step, expected",
    [
        (2.0**10, True, 7, 2.0**10),
        (2.0**10, False, 7, 2.0**9),
        (2.0**10, True, 2000, 2.0**11),
        (2.0**10, False, 2000, 2.0**9),
        (2.0**15, True, 4000, 2.0**15),  # never too large for the gradient of a row
        (1.0, False, 3, 1.0),  # never below a scale of 1
        (1.0, True, 2000, 2.0),
    ],
)
def test_the_loss_scale_falls_at_an_overflow_and_rises_with_time(scale, fits, step, expected):
    found = optimizer.next_loss_scale(
        tf.constant(scale), tf.constant(fits), tf.constant(step, tf.int64)
    )
    assert float(found) == expected
