"""The arithmetic of an update: learning rate, clipping, the algorithms, the loss scale."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import tensorflow as tf

from trainer.flags import run as configuration
from trainer.models import shapes

EXPONENTIAL_END = 0.01  # The exponential schedule ends at this share of the learning rate.

# The gradient of a row's loss by its scores is at most 1: times this scale it fits float16, whose
# largest number is 65504.
LARGEST_LOSS_SCALE = 2.0**15
SMALLEST_LOSS_SCALE = 1.0
STEPS_PER_DOUBLING = 2_000


def learning_rate(
    settings: configuration.Optimizer,
    step: int | tf.Tensor,
    total_steps: int,
    dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """Returns the learning rate of a step, from 0: a scalar of type `dtype`.

    It rises linearly over the warm-up, where step w uses (w + 1) / warmup_steps of it. Then it is
    constant, or a half cosine that reaches 0 after the last step (Loshchilov and Hutter, SGDR,
    2017, equation 5 without restarts), or an exponential that reaches a hundredth of it.
    """
    step = tf.cast(step, dtype)
    warm = settings.warmup_steps
    progress = tf.clip_by_value((step - warm) / max(1, total_steps - warm), 0, 1)
    factor = {
        "constant": lambda: tf.ones([], dtype),
        "cosine": lambda: (1 + tf.cos(tf.constant(3.141592653589793, dtype) * progress)) / 2,
        "exponential": lambda: tf.constant(EXPONENTIAL_END, dtype) ** progress,
    }[settings.schedule]()
    return settings.learning_rate * factor * tf.minimum((step + 1) / max(1, warm), 1)


class Optimizer:
    """The algorithm of `settings`, with the variables that it keeps for each weight.

    One pure function of arrays of any shape computes every update, element by element. The caller's
    arrays are flat: XLA on CPU makes vector code along the last axis only, so that an embedding of
    [10000, 16] is updated five times as fast when flat.

    iteration: int64, updates made so far.
    """

    def __init__(
        self,
        settings: configuration.Optimizer,
        weights: Mapping[str, tf.TensorSpec],
        total_steps: int,
        variable: Callable[[tf.Tensor, str], tf.Variable],
    ):
        """Makes the variables, all zero.

        Args:
          weights: {logical name: shape and type}.
          total_steps: the step at which the schedule ends.
          variable: as `Placement.variable`.
        """
        self._settings = settings
        self._total_steps = total_steps
        self._factors = rate_factors(settings, weights)
        self._frozen: frozenset[str] = frozenset()
        self._in_use = False  # What is traced once does not change any more.
        self.iteration = variable(tf.zeros([], tf.int64), "iteration")
        self._slots = {
            f"{name}/{slot}": variable(tf.zeros(weight.shape, weight.dtype), slot)
            for name, weight in weights.items()
            for slot in slots(settings)
        }

    def named(self) -> dict[str, tf.Variable]:
        """Returns {logical name: variable} of all that the next update depends on.

        The names are 'iteration', 'rnn_0/kernel/m', ...
        """
        return {"iteration": self.iteration, **self._slots}

    def freeze(self, weights: Iterable[str]) -> None:
        """Keeps `weights` and their slots as they are during the first --frozen_steps updates."""
        if self._in_use:
            raise RuntimeError("weights must be frozen before the first update is traced")
        self._frozen = frozenset(weights if self._settings.frozen_steps else ())

    def moving(
        self, values: Mapping[str, tf.Tensor], gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns `gradients` with zeros for weights that are frozen: they count in no norm."""
        self._in_use = True
        still = self._still(values["optimizer/iteration"]) if self._frozen else None
        return {
            name: tf.where(still, tf.zeros_like(gradient), gradient)
            if name in self._frozen
            else gradient
            for name, gradient in gradients.items()
        }

    def updated(
        self, values: Mapping[str, tf.Tensor], gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns `values` after one update.

        Args:
          values: {'model/<weight>', 'optimizer/<weight>/<slot>', 'optimizer/iteration': tensor} and
            others, which do not change.
          gradients: {weight: tensor} of the shapes that the weights have in `values`.
        """
        self._in_use = True
        iteration = values["optimizer/iteration"]
        after = {**values, "optimizer/iteration": iteration + 1}
        for name, gradient in gradients.items():
            kept = {slot: values[f"optimizer/{name}/{slot}"] for slot in slots(self._settings)}
            rate = learning_rate(self._settings, iteration, self._total_steps, gradient.dtype)
            if self._factors[name] != 1:
                rate *= self._factors[name]
            own = self._own_iteration(name, iteration)
            weight, kept = update(
                self._settings, rate, own, values[f"model/{name}"], kept, gradient
            )
            changed = {
                f"model/{name}": weight,
                **{f"optimizer/{name}/{slot}": value for slot, value in kept.items()},
            }
            if name in self._frozen:
                still = self._still(iteration)
                changed = {key: tf.where(still, values[key], new) for key, new in changed.items()}
            after |= changed
        return after

    def _still(self, iteration: tf.Tensor) -> tf.Tensor:
        return iteration < self._settings.frozen_steps

    def _own_iteration(self, name: str, iteration: tf.Tensor) -> tf.Tensor:
        """Returns the updates that a weight has made: its moments are as young as its first one."""
        if name not in self._frozen:
            return iteration
        frozen = tf.constant(self._settings.frozen_steps, iteration.dtype)
        return tf.maximum(iteration - frozen, 0)


def rate_factors(settings: configuration.Optimizer, weights: Iterable[str]) -> dict[str, float]:
    """Returns {weight: factor of its learning rate}: --layer_decay once for each layer above it.

    Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, 2018, section
    3.2, where a layer learns 2.6 times as slowly as the one above it.
    """
    return {name: settings.layer_decay**depth for name, depth in shapes.depths(weights).items()}


def slots(settings: configuration.Optimizer) -> tuple[str, ...]:
    """Returns the names of the arrays that an update keeps for each weight; they start at zero."""
    of_algorithm = (
        ("m", "v") if settings.optimizer != "sgd" else ("m",) if settings.momentum else ()
    )
    return of_algorithm + (("average",) if settings.ema else ())


def update(
    settings: configuration.Optimizer,
    rate: tf.Tensor,
    iteration: tf.Tensor,
    weight: tf.Tensor,
    kept: Mapping[str, tf.Tensor],
    gradient: tf.Tensor,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns (weight, kept) after an update, elementwise; `kept` is {slot: array}.

    Args:
      rate: scalar, the learning rate.
      iteration: int64 scalar, updates made before this one.
      weight, kept, gradient: of one shape.

    adam: Kingma and Ba 2015, algorithm 1 in the order of operations at the end of section 2, beta
    0.9 and 0.999, epsilon 1e-7, as in Keras. adamw: Loshchilov and Hutter 2019, algorithm 2, the
    decay multiplied by the learning rate. sgd: Sutskever et al. 2013, equations 1 and 2. The
    average: Kingma and Ba, section 7.2; it starts as the first weights instead of correcting its
    bias.
    """
    after = {}
    if settings.optimizer == "sgd":
        change = -rate * gradient
        if settings.momentum:
            change += settings.momentum * kept["m"]
            after["m"] = change
        weight += change
    else:
        count = tf.cast(iteration + 1, weight.dtype)
        beta_1, beta_2 = 0.9, 0.999
        power_1, power_2 = (tf.constant(beta, weight.dtype) ** count for beta in (beta_1, beta_2))
        if settings.optimizer == "adamw":
            weight -= weight * (settings.weight_decay * rate)
        after["m"] = kept["m"] + (gradient - kept["m"]) * (1 - beta_1)
        after["v"] = kept["v"] + (tf.square(gradient) - kept["v"]) * (1 - beta_2)
        alpha = rate * tf.sqrt(1 - power_2) / (1 - power_1)
        weight -= alpha * after["m"] / (tf.sqrt(after["v"]) + 1e-7)
    if settings.ema:
        decay = tf.where(iteration == 0, tf.zeros([], weight.dtype), settings.ema)
        after["average"] = decay * kept["average"] + (1 - decay) * weight
    return weight, after


def clip(gradients: Sequence[tf.Tensor], norm: tf.Tensor, limit: float) -> list[tf.Tensor]:
    """Returns gradients scaled so that their global norm is at most `limit`; 0 does not scale.

    norm: scalar, their global norm before.

    Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks, 2013,
    algorithm 1.
    """
    if not limit:
        return list(gradients)
    limit = tf.constant(limit, norm.dtype)
    factor = limit / tf.maximum(norm, limit)
    return [gradient * factor for gradient in gradients]


def next_loss_scale(scale: tf.Tensor, fits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Returns the factor by which float16 multiplies the loss of the next step.

    Without it small gradients would vanish. It is half of this step's if the gradient overflowed,
    and doubles every 2,000 steps, within the bounds above: Micikevicius et al., Mixed Precision
    Training, 2018, section 3.2, with the step as clock, so that there is no count to keep.

    Args:
      scale: scalar, this step's; a power of two, so that it changes no digit of a gradient that
        fits.
      fits: bool scalar, whether this step's gradient is finite.
      step: int64 scalar, steps done after this one.
    """
    doubled = tf.where(step % STEPS_PER_DOUBLING == 0, 2 * scale, scale)
    return tf.clip_by_value(
        tf.where(fits, doubled, scale / 2), SMALLEST_LOSS_SCALE, LARGEST_LOSS_SCALE
    )


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the square root of the sum of all squares; the gradients must be dense."""
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
