"""Parts of a batch."""

import numpy as np
import pytest
import tensorflow as tf

from tests.steps import runs
from trainer.data import fields, pipeline
from trainer.devices import placement
from trainer.flags.run import Input
from trainer.steps.parts import part_of, put_part


@pytest.mark.parametrize("rows, parts", [(14, 3), (14, 1), (2, 5)])
def test_uneven_parts_have_the_bounds_of_a_placement(rows, parts):
    batch = pipeline.blank(4, rows, fields.Form())
    for part, (first, end) in enumerate(placement.bounds(rows, parts)):
        found = part_of(batch, part, parts)
        np.testing.assert_array_equal(found.rows, range(first, end))
        assert found.inputs.shape == (end - first, 4)


@pytest.mark.parametrize("rows, parts", [(14, 2), (14, 7), (12, 4)])
def test_the_size_of_a_part_is_known_before_its_number_is(rows, parts):
    """Each replica of a TPU takes its rows this way: XLA compiles only arrays of known size."""
    whole = runs.batches_of(runs.a_split(), Input()).batch(0)
    batch = tf.nest.map_structure(lambda array: tf.constant(array[:rows]), whole)
    compiled = tf.function(lambda part: part_of(batch, part, parts), jit_compile=True)
    for part, (first, end) in enumerate(placement.bounds(rows, parts)):
        found = compiled(tf.constant(part))
        assert found.rows.shape == (rows // parts,)
        for ours, array in zip(found, batch, strict=True):
            np.testing.assert_array_equal(ours, array[first:end])


@pytest.mark.parametrize("rows, parts", [(14, 3), (14, 1), (2, 5)])
def test_parts_that_are_put_back_make_the_whole(rows, parts):
    whole = {"a": np.arange(3.0 * rows).reshape(rows, 3), "b": np.arange(rows)}
    found = {name: tf.zeros_like(values) for name, values in whole.items()}
    for part in range(parts):
        found = put_part(found, part_of(whole, part, parts), tf.constant(part), parts)
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values)
