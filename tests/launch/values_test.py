import pytest

from trainer.exit_codes import UsageError
from trainer.launch import values


@pytest.mark.parametrize(
    "text, number",
    [("3", 3), ("1500m", 1.5), ("2k", 2000), ("1Gi", 2**30), ("2.5G", 2.5e9), ("0", 0)],
)
def test_quantities_are_read_as_kubernetes_writes_them(text, number):
    assert values.quantity(text) == number


@pytest.mark.parametrize(
    "sizes, total",
    [
        (["4Gi"], "4Gi"),
        (["4Gi", "10Gi"], "14336Mi"),
        (["1.5Gi", "1M"], "1537Mi"),  # 1,000,000 bytes are a little less than 1 Mi.
    ],
)
def test_sizes_are_added_and_rounded_up(sizes, total):
    assert values.total(sizes) == total


def test_a_broken_rule_shows_the_value_cut_to_a_readable_length():
    values.require(True, "flag", "value", "must be more")
    with pytest.raises(UsageError, match=r"^--flag=x{200}\.\.\.: must be less\.$"):
        values.require(False, "flag", "x" * 300, "must be less")
