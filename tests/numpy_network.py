"""The network again, in NumPy, as its definition reads: row by row, without batch or mask.

Everything takes complex numbers and leading axes, so gradients are exact to the last digits without
a backward pass: the derivative of an analytic f at x is Im f(x + ih) / h, with h so small that
nothing is lost (Squire and Trapp, Using Complex Variables to Estimate Derivatives of Real
Functions, SIAM Review 40, 1998).
"""

import numpy as np

H = 1e-30
DIRECTIONS = ("forward", "backward")
# The parts of a cell's state.
PARTS = {"simple_rnn": ["hidden"], "lstm": ["hidden", "memory"], "gru": ["hidden"]}


def logits(settings, weights, tokens, lengths, masks=None, frame=()):
    """Returns the scores of the classes, [..., batch, classes].

    Args:
      settings: config.Model.
      weights: {logical name: array [..., *shape]}.
      tokens: int [batch, length]; or frames of the shape `frame`, float [batch, length, features].
      lengths: int [batch].
      masks: factors of dropout by place, {"embedding", "rnn_1", ...: [batch, time, width],
        "logits": [batch, width]}.
    """
    rows = range(len(tokens))
    return np.stack(
        [
            _row(
                settings,
                weights,
                tokens[row, : lengths[row]],
                {place: mask[row] for place, mask in (masks or {}).items()},
                frame,
            )
            for row in rows
        ],
        axis=-2,
    )


def step_scores(settings, weights, tokens, carry=None):
    """Returns (the scores of each step [..., batch, length, outputs], the carry after the last).

    carry: {"rnn_0/hidden": [batch, units], ...} before the first step, None for zero; what is
    returned has the same names. The other arguments are those of `logits`.
    """
    names = [
        f"rnn_{layer}/{part}"
        for layer in range(len(settings.units))
        for part in PARTS[settings.cell]
    ]
    scores, after = [], {name: [] for name in names}
    for row, of_row in enumerate(tokens):
        states = [weights["embedding/embeddings"][..., token, :] for token in of_row]
        for layer in range(len(settings.units)):
            name = f"rnn_{layer}"
            start = None
            if carry:
                start = [carry[f"{name}/{part}"][row] for part in PARTS[settings.cell]]
            states, final = _run(settings.cell, weights, name, states, start)
            for part, values in zip(PARTS[settings.cell], final):
                after[f"{name}/{part}"].append(values)
        scores.append([_step_scores(settings, weights, state) for state in states])
    stacked = np.stack([np.stack(of_row, axis=-2) for of_row in scores], axis=-3)
    return stacked, {name: np.stack(rows, axis=-2) for name, rows in after.items()}


def _step_scores(settings, weights, state):
    if not settings.tied_embedding:
        return _product(state, weights["logits/kernel"]) + weights["logits/bias"]
    if "projection/kernel" in weights:
        state = _product(state, weights["projection/kernel"])
    turned = np.swapaxes(weights["embedding/embeddings"], -1, -2)
    return _product(state, turned) + weights["logits/bias"]


def loss_sum(scores, labels, smoothing=0.0, class_weights=None):
    """Returns the sum of the cross-entropies of scores [..., batch, classes]."""
    shifted = scores - scores.real.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    target = (1 - smoothing) * np.eye(scores.shape[-1])[labels] + smoothing / scores.shape[-1]
    losses = -(target * log_p).sum(axis=-1)
    return (losses * (1 if class_weights is None else np.asarray(class_weights)[labels])).sum(
        axis=-1
    )


def gradients(function, weights):
    """Returns {name: the derivative of `function(weights)`, a real scalar, by that weight}."""
    found = {}
    for name, weight in weights.items():
        moved = weight + 1j * H * np.eye(weight.size).reshape(weight.size, *weight.shape)
        found[name] = (function({**weights, name: moved}).imag / H).reshape(weight.shape)
    return found


def encoded(settings, weights, values, frame):
    """Returns what the first recurrent layer reads of one frame, float [features]."""
    if settings.frame_encoder == "convolution":
        values = values.reshape((*frame, 1)[:2] + (-1,))
        for layer in range(2):
            name = f"frame_convolution_{layer}"
            values = _convolved(values, weights[f"{name}/kernel"], weights[f"{name}/bias"])
        values = values.reshape(*values.shape[:-3], -1)
    if settings.frame_encoder == "none":
        return values
    return _relu(_product(values, weights["frame_dense/kernel"]) + weights["frame_dense/bias"])


def _convolved(picture, kernel, bias):
    """Returns [..., height / 2, width / 2, filters] of [..., height, width, channels]: 3 x 3 places
    around every second one, zeros beyond the edges, as many before as behind or one fewer.
    """
    height, width = picture.shape[-3:-1]
    rows, columns = -(-height // 2), -(-width // 2)
    before = [
        max(0, 2 * places + 1 - size) // 2 for places, size in ((rows, height), (columns, width))
    ]
    found = np.zeros((*picture.shape[:-3], rows, columns, kernel.shape[-1]), picture.dtype)
    for row, column, y, x in np.ndindex(rows, columns, 3, 3):
        above, left = 2 * row + y - before[0], 2 * column + x - before[1]
        if 0 <= above < height and 0 <= left < width:
            place = picture[..., above, left, :]
            found[..., row, column, :] += _product(place, kernel[..., 0, y, x, :, :])
    return _relu(found + bias)


def _relu(values):
    return np.where(values.real > 0, values, 0)


def _row(settings, weights, tokens, masks, frame=()):
    if frame:
        states = [encoded(settings, weights, values, frame) for values in tokens]
    elif settings.one_hot:
        width = weights["rnn_0/forward/kernel" if settings.bidirectional else "rnn_0/kernel"].shape[
            -2
        ]
        states = [np.eye(width)[token] for token in tokens]
    else:
        states = [weights["embedding/embeddings"][..., token, :] for token in tokens]
    states = _drop(states, masks.get("embedding"))
    for layer in range(len(settings.units)):
        name = f"rnn_{layer}"
        states = _drop(states, masks.get(name))
        if settings.bidirectional:
            forward, _ = _run(settings.cell, weights, f"{name}/forward", states)
            backward, _ = _run(settings.cell, weights, f"{name}/backward", states[::-1])
            backward = backward[::-1]
            states = [_join(*pair) for pair in zip(forward, backward)]
        else:
            states, _ = _run(settings.cell, weights, name, states)
    if settings.pooling == "last":
        pooled = _join(forward[-1], backward[0]) if settings.bidirectional else states[-1]
    elif settings.pooling == "mean":
        pooled = sum(states) / len(states)
    else:
        stacked = np.stack(states)
        pooled = np.take_along_axis(stacked, stacked.real.argmax(axis=0)[None], axis=0)[0]
    pooled = pooled * masks.get("logits", 1)
    return _product(pooled, weights["logits/kernel"]) + weights["logits/bias"]


def _run(cell, weights, name, inputs, start=None):
    """Returns (the hidden state after each step, the parts of the last state).

    start: the parts of the state before the first step, None for zero.
    """
    kernel, recurrent, bias = (
        weights[f"{name}/{part}"] for part in ("kernel", "recurrent_kernel", "bias")
    )
    units = recurrent.shape[-2]
    hidden, *memory = start or [np.zeros(units) for _ in PARTS[cell]]
    memory = memory[0] if memory else None
    states = []
    for x in inputs:
        if cell == "simple_rnn":
            hidden = np.tanh(_product(x, kernel) + _product(hidden, recurrent) + bias)
        elif cell == "lstm":  # i, f, c, o
            i, f, c, o = _gates(_product(x, kernel) + _product(hidden, recurrent) + bias, 4)
            memory = _sigmoid(f) * memory + _sigmoid(i) * np.tanh(c)
            hidden = _sigmoid(o) * np.tanh(memory)
        else:  # z, r, h; the reset gate comes after the recurrent product, as in cuDNN
            xz, xr, xh = _gates(_product(x, kernel) + bias[..., 0, :], 3)
            hz, hr, hh = _gates(_product(hidden, recurrent) + bias[..., 1, :], 3)
            z = _sigmoid(xz + hz)
            hidden = z * hidden + (1 - z) * np.tanh(xh + _sigmoid(xr + hr) * hh)
        states.append(hidden)
    return states, [hidden] if memory is None else [hidden, memory]


def _gates(values, count):
    return np.split(values, count, axis=-1)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _product(vector, matrix):
    return (vector[..., None, :] @ matrix)[..., 0, :]


def _join(one, other):
    leading = np.broadcast_shapes(one.shape[:-1], other.shape[:-1])
    return np.concatenate(
        [np.broadcast_to(half, leading + half.shape[-1:]) for half in (one, other)], axis=-1
    )


def _drop(states, mask):
    return states if mask is None else [state * factors for state, factors in zip(states, mask)]
