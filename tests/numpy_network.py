"""The network again, in NumPy, as its definition reads: row by row, without batch or mask.

Everything takes complex numbers and leading axes, so gradients are exact to the last digits without
a backward pass: the derivative of an analytic f at x is Im f(x + ih) / h, with h so small that
nothing is lost (Squire and Trapp, Using Complex Variables to Estimate Derivatives of Real
Functions, SIAM Review 40, 1998).
"""

import numpy as np

H = 1e-30
DIRECTIONS = ("forward", "backward")


def logits(settings, weights, tokens, lengths, masks=None):
    """Returns the scores of the classes, [..., batch, classes].

    Args:
      settings: config.Model.
      weights: {logical name: array [..., *shape]}.
      tokens: int [batch, length].
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
            )
            for row in rows
        ],
        axis=-2,
    )


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


def _row(settings, weights, tokens, masks):
    if settings.one_hot:
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
            forward = _run(settings.cell, weights, f"{name}/forward", states)
            backward = _run(settings.cell, weights, f"{name}/backward", states[::-1])[::-1]
            states = [_join(*pair) for pair in zip(forward, backward)]
        else:
            states = _run(settings.cell, weights, name, states)
    if settings.pooling == "last":
        pooled = _join(forward[-1], backward[0]) if settings.bidirectional else states[-1]
    elif settings.pooling == "mean":
        pooled = sum(states) / len(states)
    else:
        stacked = np.stack(states)
        pooled = np.take_along_axis(stacked, stacked.real.argmax(axis=0)[None], axis=0)[0]
    pooled = pooled * masks.get("logits", 1)
    return _product(pooled, weights["logits/kernel"]) + weights["logits/bias"]


def _run(cell, weights, name, inputs):
    """Returns the states after each step; the first step starts from zero."""
    kernel, recurrent, bias = (
        weights[f"{name}/{part}"] for part in ("kernel", "recurrent_kernel", "bias")
    )
    units = recurrent.shape[-2]
    hidden = memory = np.zeros(units)
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
    return states


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
