"""Sentences to their translations."""

import tensorflow as tf

from trainer.tasks import serving


class Translator(tf.Module):
    """Sentences to their translations; a `serving.Served`."""

    options = frozenset()
    between = ""

    def __init__(self, network, weights, dataset, settings, compiled=False):
        super().__init__()
        serving._module_state(self, network, weights, dataset, settings)
