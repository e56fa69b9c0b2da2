"""JSON documents that cover themselves: a flipped bit is found without another file.

A sealed document has the key `sha256`: the sha256 (hex) of its other keys as JSON, sorted and
without white space. So a document may be printed in any form, and every change of a value or of a
name is found. Documents from before there were seals have none; `read` takes them only with keys
that they had at that time, so that a damaged name cannot take the seal away.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

KEY = "sha256"


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the document with its seal as the last key."""
    return {**_unsealed(document), KEY: _digest(document)}


def read(content: bytes, older: Collection[str]) -> dict[str, Any]:
    """Returns the document in `content`, its seal included if it has one.

    older: the keys that a document without a seal may have. Raises ValueError with the reason if
    `content` is not one JSON object in UTF-8, or is not what was sealed.
    """
    document = parse(content)
    if KEY in document and document[KEY] != _digest(document):
        raise ValueError(f"its content is not the one of its own {KEY}")
    unknown = sorted(document.keys() - set(older))
    if KEY not in document and unknown:
        raise ValueError(f"it has no {KEY}, but {', '.join(map(repr, unknown[:5]))[:200]}")
    return document


def parse(content: bytes) -> dict[str, Any]:
    """Returns the JSON object in `content`; raises ValueError with the reason if it is not one.

    It must be UTF-8, without a name that comes twice.
    """
    try:
        document = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repetition)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    return document


def _unsealed(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != KEY}


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(_unsealed(document), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object of `pairs`; raises ValueError if a name comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a name twice")
    return found
