"""The recurrences in NumPy, step by step as their equations read, and exact derivatives.

Everything takes complex numbers, so that a derivative needs no backward pass.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simple_rnn(weights, x, state):
    kernel, recurrent_kernel, bias = weights
    [hidden] = state
    return [np.tanh(x @ kernel + hidden @ recurrent_kernel + bias)]


def lstm(weights, x, state):
    kernel, recurrent_kernel, bias = weights
    hidden, memory = state
    i, f, c, o = np.split(x @ kernel + hidden @ recurrent_kernel + bias, 4, axis=1)
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(c)
    return [sigmoid(o) * np.tanh(memory), memory]


def gru(weights, x, state):
    kernel, recurrent_kernel, bias = weights
    [hidden] = state
    xz, xr, xh = np.split(x @ kernel + bias[0], 3, axis=1)
    hz, hr, hh = np.split(hidden @ recurrent_kernel + bias[1], 3, axis=1)
    z = sigmoid(xz + hz)
    return [z * hidden + (1 - z) * np.tanh(xh + sigmoid(xr + hr) * hh)]


# For each cell its step, (weights, x [batch, in], state) -> state, and how many parts a state has.
CELLS = {"simple_rnn": (simple_rnn, 1), "lstm": (lstm, 2), "gru": (gru, 1)}


def run(cell, weights, inputs, reverse=False, state=None):
    """Returns (hidden states [batch, time, units], final state), as `recurrent.Recurrence` does."""
    step, parts = CELLS[cell]
    if state is None:
        state = parts * [np.zeros([inputs.shape[0], weights[1].shape[0]])]
    hidden = {}
    for t in range(inputs.shape[1])[:: -1 if reverse else 1]:
        state = step(weights, inputs[:, t], state)
        hidden[t] = state[0]
    return np.stack([hidden[t] for t in range(inputs.shape[1])], axis=1), state


def gradients(function, arrays):
    """Returns the derivatives of a real scalar function by each of its arrays.

    They are exact to rounding: Im f(x + ih) / h needs no difference of neighbours (Squire and Trapp
    1998, doi 10.1137/S003614459631241X).
    """
    found = [np.zeros_like(array) for array in arrays]
    for k, array in enumerate(arrays):
        for place in np.ndindex(array.shape):
            moved = [other.astype(complex) for other in arrays]
            moved[k][place] += 1e-30j
            found[k][place] = function(*moved).imag / 1e-30
    return found
