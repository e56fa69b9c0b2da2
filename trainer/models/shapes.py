"""How large a network and its checkpoints are, from settings alone: before TensorFlow is there."""

from trainer import config as configuration

_GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}
# GRU in the form with reset_after has one for each kernel.
_BIASES = {"simple_rnn": 1, "lstm": 1, "gru": 2}


def parameters(settings: configuration.Model, vocabulary_size: int, classes: int) -> int:
    """Number of trained values: embedding, recurrent layers in one or two directions, logits."""
    width = vocabulary_size if settings.one_hot else settings.embedding_size
    total = 0 if settings.one_hot else vocabulary_size * width
    directions = 2 if settings.bidirectional else 1
    for units in settings.units:
        total += (
            directions * _GATES[settings.cell] * units * (width + units + _BIASES[settings.cell])
        )
        width = directions * units
    return total + (width + 1) * classes


def slots(settings: configuration.Optimizer) -> int:
    """Values that the optimizer keeps for each trained one."""
    moments = {"adam": 2, "adamw": 2, "sgd": 1 if settings.momentum else 0}[settings.optimizer]
    return moments + (1 if settings.ema else 0)


def checkpoint_bytes(config: configuration.Config, vocabulary_size: int, classes: int) -> int:
    """Bytes of one checkpoint, but for a few thousand of names, counters and manifest."""
    size = 8 if config.run.precision == "float64" else 4
    return size * (1 + slots(config.optimizer)) * parameters(config.model, vocabulary_size, classes)
