"""Steps one after the other: what is compiled, and when."""

import pytest

from tests.steps import runs


@pytest.mark.parametrize(
    "flags, gradients",
    [
        pytest.param({"devices": 1, "shards": 1}, 1, marks=pytest.mark.slow),
        pytest.param({"devices": 1, "shards": 3}, 2, marks=pytest.mark.slow),  # 14 rows: 4, 5 and 5
        ({"devices": 2, "shards": 1}, 2),  # a program for each device
    ],
)
def test_each_shape_is_compiled_once_and_before_it_is_needed(tmp_path, flags, gradients):
    found = runs.compiled(tmp_path, max_length=16, jit="on", **flags)
    assert found["lengths"] == [8, 16]
    assert runs.kinds(found["warm"]) == {"shard_gradient": 2 * gradients}
    assert runs.kinds(found["first"]) == {"shard_gradient": 2 * gradients, "apply": 1}
    assert found["all"] == found["first"]
