"""Names and shapes of a network's weights, from settings alone: no TensorFlow is needed.

Everything that depends on the size of a network is computed from this table: its parameters, the
bytes of a checkpoint, the cost of a step. `networks.Network` builds exactly these weights.
"""

import math
import re
from collections.abc import Iterable

from trainer.exit_codes import UsageError
from trainer.flags.run import Config, Model, Optimizer

DIRECTIONS = ("forward", "backward")
Shapes = dict[str, tuple[int, ...]]

# The layers that read frames before the first recurrent layer. Each convolution looks at KERNEL x
# KERNEL places of a picture, at every STRIDE-th place, and tells FILTERS numbers of it.
FILTERS, KERNEL, STRIDE = (16, 32), 3, 2
FRAME_DENSE = "frame_dense"

# Gates of a cell; each has a column for every unit, in kernel, recurrent kernel and bias.
GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}
# Parts of a cell's state, the hidden one first.
STATE = {"simple_rnn": ("hidden",), "lstm": ("hidden", "memory"), "gru": ("hidden",)}


def weights(
    settings: Model,
    vocabulary_size: int,
    classes: int,
    second: str = "",
    frame: tuple[int, ...] = (),
) -> Shapes:
    """Returns {logical name: shape} of all trained weights, in the order of `Network.weights`.

    second: "" without a second sequence. "own" or "shared" if the network tells one, whose words
    are the `classes`: by their own embedding, or by that of the input. frame: the shape of a frame
    if the inputs are frames, which have no vocabulary.
    """
    if frame:
        found = frame_encoder(settings, frame)
        width = settings.embedding_size if found else math.prod(frame)
    elif settings.one_hot:
        found, width = {}, vocabulary_size  # The identity matrix is not trained.
    else:
        width = settings.embedding_size
        found = {"embedding/embeddings": (vocabulary_size, width)}
    found |= recurrent_layers(settings, width)
    if second:
        found |= decoder(settings, classes, own_embedding=second == "own")
        width = settings.embedding_size
    else:
        width = encoded_width(settings)
    if not settings.tied_embedding:
        found["logits/kernel"] = (width, classes)
    elif width != settings.embedding_size:
        found["projection/kernel"] = (width, settings.embedding_size)
    return found | {"logits/bias": (classes,)}


def frame_encoder(settings: Model, frame: tuple[int, ...]) -> Shapes:
    """Returns the part of `weights` that reads frames of this shape, in the form of Keras 3.

    It is {} if the first recurrent layer reads them as they are. A kernel of a convolution is that
    of a Conv3D over time and picture, of one step of time. Raises UsageError as `picture`.
    """
    if settings.frame_encoder == "none":
        return {}
    found, width = {}, math.prod(frame)
    if settings.frame_encoder == "convolution":
        height, breadth, channels = picture(frame)
        for name, filters in zip(convolutions(), FILTERS):
            found[f"{name}/kernel"] = (1, KERNEL, KERNEL, channels, filters)
            found[f"{name}/bias"] = (filters,)
            height, breadth, channels = places(height), places(breadth), filters
        width = height * breadth * channels
    return found | _dense(FRAME_DENSE, width, settings.embedding_size)


def convolutions() -> list[str]:
    """Returns the names of the convolutions of a frame encoder, from the first to the last."""
    return [f"frame_convolution_{layer}" for layer in range(len(FILTERS))]


def picture(frame: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns height, width and channels of a frame that convolutions look at.

    Raises UsageError if it is no picture of two or three axes.
    """
    if len(frame) not in (2, 3):
        raise UsageError(
            f"--frame_encoder=convolution: a frame of the dataset has the shape "
            f"{list(frame)}, and a convolution looks at pictures of [height, width] or [height, "
            "width, channels]. Use --frame_encoder=dense, or prepare frames that are pictures."
        )
    height, width, channels = (*frame, 1)[:3]
    return height, width, channels


def places(length: int) -> int:
    """Returns at how many places a convolution looks along a side of this length."""
    return -(-length // STRIDE)


def encoded_width(settings: Model) -> int:
    """Returns the width of what the last recurrent layer says of a step."""
    return settings.units[-1] * (len(DIRECTIONS) if settings.bidirectional else 1)


def decoder(settings: Model, words: int, own_embedding: bool) -> Shapes:
    """Returns the part of `weights` that tells a second sequence, but for the logits.

    Its layers are as wide as those of the encoder in all its directions. Each starts from a dense
    layer over the end of the input. The last state and what it attends to are combined to the width
    of the embedding.
    """
    found = {}
    if own_embedding:
        found["target_embedding/embeddings"] = (words, settings.embedding_size)
    width = settings.embedding_size
    for number, (name, units) in enumerate(decoder_layers(settings).items()):
        found |= _dense(f"start_{number}", encoded_width(settings), units)
        layer = recurrent_layer(settings.cell, width, units)
        found |= {f"{name}/{part}": shape for part, shape in layer.items()}
        width = units
    if settings.attention == "general":
        found["attention/kernel"] = (encoded_width(settings), width)
    if settings.attention != "none":
        width += encoded_width(settings)
    return found | _dense("combine", width, settings.embedding_size)


def decoder_layers(settings: Model) -> dict[str, int]:
    """Returns {name: width} of the recurrent layers of a decoder, from the first to the last."""
    directions = len(DIRECTIONS) if settings.bidirectional else 1
    return {f"decoder_{layer}": directions * units for layer, units in enumerate(settings.units)}


def _dense(name: str, width: int, outputs: int) -> Shapes:
    return {f"{name}/kernel": (width, outputs), f"{name}/bias": (outputs,)}


def carried(settings: Model) -> dict[str, int]:
    """Returns {name: width} of the states that a stream carries from one chunk to the next."""
    return {
        f"{name}/{part}": units
        for name, units in zip(layer_names(settings), settings.units)
        for part in STATE[settings.cell]
    }


def recurrent_layers(settings: Model, width: int) -> Shapes:
    """Returns the part of `weights` that belongs to the recurrent layers, on inputs of `width`."""
    found = {}
    for name, units in zip(layer_names(settings), settings.units):
        places = [f"{name}/{way}" for way in DIRECTIONS] if settings.bidirectional else [name]
        for place in places:
            shapes = recurrent_layer(settings.cell, width, units)
            found |= {f"{place}/{part}": shape for part, shape in shapes.items()}
        width = len(places) * units
    return found


def recurrent_layer(cell: str, width: int, units: int) -> Shapes:
    """Returns {part: shape} of one recurrent layer in one direction, in the form of Keras 3.

    width: features of the inputs; units: width of the state. GRU has the form with `reset_after`,
    which has one bias for each kernel.
    """
    columns = GATES[cell] * units
    return {
        "kernel": (width, columns),
        "recurrent_kernel": (units, columns),
        "bias": (2, columns) if cell == "gru" else (columns,),
    }


def layer_names(settings: Model) -> list[str]:
    """Returns the names of the recurrent layers, from the first to the last."""
    return [f"rnn_{layer}" for layer in range(len(settings.units))]


def depths(names: Iterable[str]) -> dict[str, int]:
    """Returns {weight: how far its layer lies below the output layer}, which has 0.

    The last recurrent layer has 1, the one below it 2, ..., the embedding or the first layer of a
    frame encoder the largest. Every other layer belongs to the output, a decoder too.
    """
    layers = {name: name.partition("/")[0] for name in names}
    recurrent = {layer for layer in layers.values() if re.fullmatch(r"rnn_\d+", layer)}
    of_frames = [name for name in (*convolutions(), FRAME_DENSE) if name in layers.values()]
    upwards = [
        *(of_frames or ["embedding"]),
        *sorted(recurrent, key=lambda layer: int(layer.partition("_")[2])),
    ]
    depth = {layer: len(upwards) - place for place, layer in enumerate(upwards)}
    return {name: depth.get(layer, 0) for name, layer in layers.items()}


def is_output_layer(name: str) -> bool:
    """Returns whether a weight belongs to the output layer itself, which a decoder comes before."""
    return name.partition("/")[0] in ("projection", "logits")


def parameters(
    settings: Model,
    vocabulary_size: int,
    classes: int,
    second: str = "",
    frame: tuple[int, ...] = (),
) -> int:
    """Returns the number of trained values; the arguments are those of `weights`."""
    return sum(map(math.prod, weights(settings, vocabulary_size, classes, second, frame).values()))


def slots(settings: Optimizer) -> int:
    """Returns how many values the optimizer keeps for each trained one."""
    moments = {"adam": 2, "adamw": 2, "sgd": 1 if settings.momentum else 0}[settings.optimizer]
    return moments + (1 if settings.ema else 0)


def checkpoint_bytes(
    config: Config,
    vocabulary_size: int,
    classes: int,
    streams: bool = False,
    second: str = "",
    frame: tuple[int, ...] = (),
) -> int:
    """Returns the bytes of one checkpoint, without the few thousand of names and manifest.

    streams: whether the run carries the states of its streams from chunk to chunk.
    """
    size = 8 if config.run.precision == "float64" else 4
    carry = config.input.batch_size * sum(carried(config.model).values()) if streams else 0
    weights = parameters(config.model, vocabulary_size, classes, second, frame)
    return size * ((1 + slots(config.optimizer)) * weights + carry)
