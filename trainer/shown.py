"""How messages show what was seen: short enough to read, whatever it is.

A value may be a line of a megabyte and a list may have 100,000 names. A message that prints all of
it hides the rule and the remedy that come after it.
"""

import itertools
from collections.abc import Collection
from typing import Any

VALUE_CHARACTERS = 200
NAME_CHARACTERS = 40
NAMES = 20


def bare(text: str) -> str:
    """Returns a text without quotes: control characters escaped, 200 characters at most."""
    seen = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return seen if len(seen) <= VALUE_CHARACTERS else f"{seen[:VALUE_CHARACTERS]}..."


def value(seen: Any, characters: int = VALUE_CHARACTERS) -> str:
    """Returns `repr(seen)`, cut after some characters."""
    text = repr(seen[: characters + 1] if isinstance(seen, str | bytes) else seen)
    return text if len(text) <= characters + 2 else f"{text[:characters]}..."


def names(seen: Collection[Any]) -> str:
    """Returns the first 20 of some names, each as a `value`, and how many more there are."""
    listed = ", ".join(value(name, NAME_CHARACTERS) for name in itertools.islice(seen, NAMES))
    more = len(seen) - NAMES
    return f"{listed} and {more:,} more" if more > 0 else listed or "nothing"
