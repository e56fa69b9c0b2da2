"""A field of a dataclass as a flag: its rule, and how a value is written."""

import dataclasses

import pytest

from trainer.exit_codes import UsageError
from trainer.flags.knobs import Checked, Rule, as_given, as_text, at_least, knob, one_of, within


@pytest.mark.parametrize("value, text", [((64, 8), "64,8"), (0.5, "0.5"), ("", ""), (True, "True")])
def test_values_are_shown_as_on_the_command_line(value, text):
    assert as_text(value) == text


@pytest.mark.parametrize(
    "value, flags",
    [
        (True, "--it"),
        (False, "--noit"),
        ("a b", "--it=a b"),
        (0.5, "--it=0.5"),
        (("a", "b"), "--it=a --it=b"),
        ((), ""),
    ],
)
def test_a_flag_is_shown_as_a_user_writes_it(value, flags):
    assert as_given("it", value) == flags


@pytest.mark.parametrize(
    "rule, held, broken",
    [
        (at_least(2), (2, 3), (1,)),
        (within(0, 1), (0, 0.5), (-0.1, 1)),
        (one_of("a", "b"), ("a", "b"), ("", "c")),
    ],
)
def test_a_rule_holds_for_what_its_words_say(rule, held, broken):
    assert all(map(rule.holds, held)) and not any(map(rule.holds, broken))


@dataclasses.dataclass(frozen=True)
class Kitchen(Checked):
    pots: int = knob(1, "How many.", at_least(1))
    dish: str = knob(
        "soup",
        "What.",
        Rule("must be no sweet", lambda dish: dish != "cake", lambda dish: f"No {dish}: say soup."),
    )


@pytest.mark.parametrize(
    "values, message",
    [
        ({"pots": 0}, "--pots=0: must be at least 1. Default: 1."),
        ({"dish": "cake"}, "--dish=cake: must be no sweet. No cake: say soup."),
    ],
)
def test_an_object_that_breaks_a_rule_is_not_made(values, message):
    Kitchen()
    with pytest.raises(UsageError) as refusal:
        Kitchen(**values)
    assert str(refusal.value) == message
