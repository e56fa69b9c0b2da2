import pytest

from trainer import shown


@pytest.mark.parametrize(
    "seen, text",
    [
        ("a", "'a'"),
        (b"a", "b'a'"),
        (7, "7"),
        (None, "None"),
        ("x" * 200, f"'{'x' * 200}'"),
        ("x" * 201, f"'{'x' * 199}..."),
        ([0] * 1000, f"[{'0, ' * 66}0..."),
        ("a\x1b[2J", r"'a\x1b[2J'"),
    ],
)
def test_a_value_is_its_repr_of_at_most_200_characters(seen, text):
    assert shown.value(seen) == text


def test_a_bare_text_is_short_and_printable():
    assert shown.bare("a\x1b[2J" + "x" * 300) == "a\\x1b[2J" + "x" * 192 + "..."


def test_a_value_that_grows_when_it_is_escaped_is_cut_too():
    assert len(shown.value("\0" * 200)) == 203


@pytest.mark.parametrize(
    "seen, text",
    [
        ([], "nothing"),
        (["a", "b"], "'a', 'b'"),
        ({"a": 1}, "'a'"),
        ([*map(str, range(20))], ", ".join(f"'{i}'" for i in range(20))),
        ([*map(str, range(1022))], ", ".join(f"'{i}'" for i in range(20)) + " and 1,002 more"),
        (["x" * 1000], f"'{'x' * 39}..."),
    ],
)
def test_of_many_names_the_first_twenty_are_shown(seen, text):
    assert shown.names(seen) == text
