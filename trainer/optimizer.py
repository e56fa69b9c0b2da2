"""From the summed gradient to an update: learning rate by step, clipping by global norm, Keras' optimizers."""

from typing import Sequence

import keras
import tensorflow as tf

from trainer import config as configuration

EXPONENTIAL_END = 0.01  # The exponential schedule ends at this share of the learning rate.

# The gradient of a row's loss by its scores is at most 1: times this it fits float16, whose largest number is 65504.
LARGEST_LOSS_SCALE = 2.0**15
SMALLEST_LOSS_SCALE = 1.0
STEPS_PER_DOUBLING = 2_000


def learning_rate(settings: configuration.Optimizer, step, total_steps: int, dtype=tf.float32) -> tf.Tensor:
    """The learning rate of a step (from 0).

    Rises linearly over the warm-up, step w of it using (w + 1) / warmup_steps; then constant, or a half cosine that
    reaches 0 after the last step (Loshchilov and Hutter, SGDR, 2017, equation 5 without restarts), or an exponential
    that reaches a hundredth of it.
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


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """`learning_rate` in the form in which Keras asks for it."""

    def __init__(self, settings: configuration.Optimizer, total_steps: int, dtype):
        self._arguments = settings, total_steps, dtype

    def __call__(self, step):
        settings, total_steps, dtype = self._arguments
        return learning_rate(settings, step, total_steps, dtype)

    def get_config(self):
        raise TypeError("The schedule is made from the run's configuration and is not saved with a model.")


def build(settings: configuration.Optimizer, variables: Sequence[keras.Variable], total_steps: int) -> keras.Optimizer:
    """The Keras optimizer of `settings`, with its variables made for `variables`."""
    schedule = _Schedule(settings, total_steps, variables[0].dtype)
    average = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
    optimizer = {
        "adam": lambda: keras.optimizers.Adam(schedule, name="optimizer", **average),
        "adamw": lambda: keras.optimizers.AdamW(
            schedule, weight_decay=settings.weight_decay, name="optimizer", **average),
        "sgd": lambda: keras.optimizers.SGD(schedule, momentum=settings.momentum, name="optimizer", **average),
    }[settings.optimizer]()
    optimizer.build(list(variables))
    return optimizer


_SLOTS = {"momentum": "m", "velocity": "v", "average": "average"}


def named_variables(optimizer: keras.Optimizer, weights: dict[str, keras.Variable]) -> dict[str, keras.Variable]:
    """{logical name: variable} of everything the next update depends on, from the paths that Keras gives its slots.

    'optimizer/rnn_0_lstm_cell_kernel_momentum' becomes 'rnn_0/kernel/m', the iteration 'iteration'.
    """
    of_path = {weight.path.replace("/", "_"): name for name, weight in weights.items()}
    named = {}
    for variable in optimizer.variables:
        tail = variable.path.removeprefix(f"{optimizer.name}/")
        if tail == "iteration":
            named[tail] = variable
        else:
            path, slot = tail.rsplit("_", 1)
            named[f"{of_path[path]}/{_SLOTS[slot]}"] = variable
    return named


def clip(gradients: Sequence[tf.Tensor], norm: tf.Tensor, limit: float) -> list[tf.Tensor]:
    """Gradients scaled so that their global norm, given as `norm`, is at most `limit`; 0 means as they are.

    Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks, 2013, algorithm 1.
    """
    if not limit:
        return list(gradients)
    limit = tf.constant(limit, norm.dtype)
    factor = limit / tf.maximum(norm, limit)
    return [gradient * factor for gradient in gradients]


def next_loss_scale(scale: tf.Tensor, fits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """The factor by which float16 multiplies the loss of the next step, so that small gradients do not vanish.

    Half of this step's where its gradient overflowed, the double every 2,000 steps, within the bounds above:
    Micikevicius et al., Mixed Precision Training, 2018, section 3.2, with the step as clock and no count to keep.

    Args:
      scale: scalar, this step's; a power of two, so that it changes no digit of a gradient that fits.
      fits: bool scalar, whether this step's gradient is finite.
      step: int64 scalar, updates done after this step.
    """
    doubled = tf.where(step % STEPS_PER_DOUBLING == 0, 2 * scale, scale)
    return tf.clip_by_value(tf.where(fits, doubled, scale / 2), SMALLEST_LOSS_SCALE, LARGEST_LOSS_SCALE)


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """The square root of the sum of all squares, of dense gradients only."""
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
