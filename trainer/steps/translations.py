"""Translations of a split and their quality, computed by the replicas of a placement.

A replica translates blocks of sentences. Which sentences share a block, and what it is padded to,
does not depend on the number of replicas, so neither do the translations.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import pipeline, plans, store, text
from trainer.flags.run import Input
from trainer.steps.evaluation import EvaluationStep
from trainer.steps.parts import part_of
from trainer.steps.programs import function
from trainer.tasks import bleu, translator

ROWS = 64  # Sentences of a block.
LENGTHS = 4  # Blocks are padded to one of so many lengths, for each of which XLA compiles once.


class Translations:
    """What a model makes of the sources of a split."""

    def __init__(
        self,
        step: EvaluationStep,
        dataset: store.Dataset,
        split: str,
        settings: Input,
        *,
        beam: int,
        penalty: float,
        examples: int | None = None,
    ):
        """
        Args:
          step: of the network and the placement. dataset: one of translation.
          settings: how sources are cut.
          beam, penalty: `size` and `penalty` of `search.likeliest`.
          examples: only so many of the split, the first ones; None for all.

        Raises DataError if the references cannot be read.
        """
        self._step, self._dataset, self._settings = step, dataset, settings
        self._split = dataset.splits[split]
        self._references = dataset.target_texts(split)[:examples]
        self._search = {"size": beam, "penalty": penalty}
        self._tokenizer = text.target_tokenizer_of(dataset)
        self._best = function(self._best_of_block, jit_compile=step.compiled, reduce_retracing=True)
        self._replicas = function(self._best_of_replicas, reduce_retracing=True)

    def quality(
        self, weights: Mapping[str, tf.Tensor], abandon: Callable[[], bool] = lambda: False
    ) -> bleu.Quality | None:
        """Returns how well the translations match their references; sacrebleu must be installed.

        weights: {logical name: tensor}. None if `abandon()` returned true between two blocks.
        """
        found = self.texts(weights, abandon)
        if found is None:
            return None
        return bleu.quality(found, self._references, text.lowers(self._dataset.tokenizer))

    def texts(
        self, weights: Mapping[str, tf.Tensor], abandon: Callable[[], bool] = lambda: False
    ) -> list[str] | None:
        """Returns the translation of each source, as `quality`.

        Each worker translates its own blocks, and all workers get all translations.
        """
        weights = self._step.placed(weights)
        found: list[np.ndarray] = [np.zeros(0, np.int32)] * len(self._references)
        for length, blocks in self._blocks():
            if abandon():
                return None
            examples = np.concatenate(blocks)
            for example, ids in zip(examples, self._translated(weights, blocks, length)):
                if example >= 0:
                    found[example] = ids
        ids = tf.ragged.constant([row.tolist() for row in found], tf.int32, ragged_rank=1)
        real = tf.logical_and(ids != text.PADDING, ids != text.START)
        texts = self._tokenizer.decode(tf.ragged.boolean_mask(ids, real))
        return [words.decode("utf-8", "replace") for words in texts.numpy()]

    def _blocks(self) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yields (length, a block for each replica of all workers).

        A block is int64 [ROWS], the numbers of examples that are padded to `length`; -1 if empty.
        """
        placement = self._step.placement
        replicas = placement.replicas * placement.workers
        lengths = plans.cut_lengths(self._split, self._settings.max_length)
        lengths = lengths[: len(self._references)]
        by_length = np.argsort(lengths, kind="stable")
        least = 0
        for length in plans.padded_lengths(lengths, self._settings.max_length, LENGTHS).tolist():
            fitting = by_length[(lengths[by_length] > least) & (lengths[by_length] <= length)]
            least = length
            size = ROWS * replicas
            for first in range(0, len(fitting), size):
                some = fitting[first : first + size]
                filled = np.concatenate([some, np.full(size - len(some), -1)])
                yield length, np.split(filled, replicas)

    def _translated(
        self, weights: Mapping[str, Any], blocks: list[np.ndarray], length: int
    ) -> np.ndarray:
        """Returns the ids of the translation of each row of the blocks: [rows, any length]."""
        placement, examples = self._step.placement, np.concatenate(blocks)
        first, end = placement.rows(len(examples))
        batch = pipeline.batch_of(
            store.Split(
                self._split.inputs, self._split.offsets, np.zeros(len(self._split), np.int32)
            ),
            np.maximum(examples[first:end], 0),
            length,
            self._settings,
        )
        is_real = examples[first:end] >= 0
        tokens = np.where(is_real[:, None], batch.inputs, text.PADDING)
        per_replica = self._replicas(weights, tokens, np.where(is_real, batch.lengths, 1))
        own = np.concatenate(placement.strategy.experimental_local_results(per_replica))
        # Ids as float64, in which workers exchange numbers; those of other workers are 0.
        found = np.zeros((len(examples), own.shape[1]))
        found[first:end] = own
        return placement.sum_over_workers(found).astype(np.int32)

    def _best_of_replicas(
        self, weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, lengths: tf.Tensor
    ) -> tf.Tensor:
        placement = self._step.placement

        def replica(
            weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, lengths: tf.Tensor
        ) -> tf.Tensor:
            number = placement.local_replica()
            return self._best(weights, *part_of((tokens, lengths), number, placement.replicas))

        return placement.strategy.run(replica, args=(weights, tokens, lengths))

    def _best_of_block(
        self, weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, lengths: tf.Tensor
    ) -> tf.Tensor:
        found = translator.hypotheses(
            self._step.network, weights, self._dataset, tokens, lengths, **self._search
        )
        return found.ids[:, 0]
