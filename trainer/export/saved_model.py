"""Builds what goes into the SavedModel: texts in, probabilities and labels out.

It holds the dataset's own tokenizer and the function of the weights that training computes, traced
without XLA.

"""

import pathlib
from collections.abc import Mapping, Sequence

import tensorflow as tf

from trainer import config as configuration
from trainer.data import store, text
from trainer.models.networks import Network


def has_words(dataset: store.Dataset) -> bool:
    """Returns whether texts can be encoded: a dataset made from ids alone has no words."""
    return dataset.tokenizer["name"] != "none"


def save(classifier: "TextClassifier", path: pathlib.Path) -> None:
    """Writes a SavedModel with one signature, `serving_default`. Raises OSError if it cannot."""
    try:
        tf.saved_model.save(classifier, str(path), {"serving_default": classifier.classify})
    except tf.errors.OpError as problem:
        raise OSError(problem.message) from problem


class TextClassifier(tf.Module):
    """Tokenizer, weights, and one function from texts to probabilities and labels."""

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, tf.Tensor],
        tokenizer: text.Tokenizer,
        settings: configuration.Input,
        labels: Sequence[str],
    ):
        super().__init__()
        self.tokenizer = tokenizer
        self.weights = {
            name: tf.Variable(weight, trainable=False) for name, weight in weights.items()
        }
        self._network, self._settings, self._labels = network, settings, tuple(labels)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def classify(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns {"probabilities": float32 [N, classes], "label": string [N]} of string [N]."""
        tokens, lengths = pad_ragged(self.tokenizer.encode(texts), self._settings)
        probabilities = tf.nn.softmax(self._network.logits(self.weights, tokens, lengths))
        labels = tf.gather(tf.constant(self._labels), tf.argmax(probabilities, axis=1))
        return {"probabilities": probabilities, "label": labels}


def pad_ragged(ids: tf.RaggedTensor, settings: configuration.Input) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts and pads ids as training batches are, with TensorFlow ops.

    Args:
      ids: int32 [N, tokens].

    Returns:
      int32 [N, length] and int32 [N], how many of them count in each row. The length is that of the
      longest row, at least 1, or max_length with padding=pre.
    """
    most = settings.max_length
    ids = ids[:, -most:] if settings.truncate == "start" else ids[:, :most]
    if settings.padding == "pre":
        turned = ids[:, ::-1].to_tensor(text.PADDING, shape=[None, most])
        return tf.reverse(turned, axis=[1]), tf.fill([ids.nrows(tf.int32)], most)
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    # The largest of no lengths is the smallest integer.
    longest = tf.maximum(tf.reduce_max(lengths), 1)
    return ids.to_tensor(text.PADDING, shape=tf.stack([-1, longest])), lengths
