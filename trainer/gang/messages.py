"""The messages between supervisors: the fields of each, and their form as a line of JSON.

Every message is checked here before any other code sees it, because it may come from a stranger: a
program that is not a worker of the job.
"""

import ipaddress
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

_LARGEST = 2**53


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _index(value: Any) -> bool:
    return type(value) is int and -_LARGEST < value < _LARGEST


def _code(value: Any) -> bool:
    return type(value) is int and -256 < value < 256


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _flag(value: Any) -> bool:
    return type(value) is bool


def _text(value: Any) -> bool:
    # JSON can hold half of a character (a lone surrogate), which no log and no journal can.
    return type(value) is str and value == plain(value)


def _lines(value: Any) -> bool:
    return type(value) is list and all(map(_text, value))


def _texts(value: Any) -> bool:
    return type(value) is dict and all(map(_text, value)) and all(map(_text, value.values()))


def _members(value: Any) -> bool:
    return (
        type(value) is list
        and bool(value)
        and all(
            type(one) is list and len(one) == 2 and _count(one[0]) and _text(one[1])
            for one in value
        )
    )


def _ip(value: Any) -> bool:
    try:
        return value == "" or type(value) is str and str(ipaddress.ip_address(value)) == value
    except ValueError:
        return False


def _ips(value: Any) -> bool:
    return _members(value) and all(_ip(ip) for _, ip in value)


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: type(value) in map(type, choices) and value in choices


_FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    # In this order at the start of a connection.
    "greet": {"program": _text, "protocol": _count, "nonce": _text},
    "prove": {},
    "hello": {
        "to": _index,
        "index": _index,
        "instance": _text,
        "job": _text,
        "identity": _texts,
        "ip": _ip,
    },
    "refuse": {"reason": _text, "final": _flag},
    # After that. Of these two `links` takes care,
    "beat": {},
    "known": {"ips": _ips},
    # and `member` says what the others mean.
    "status": {
        "state": _one_of("ready", "busy", "running"),
        "address": _text,
        "remaining": _number,
        "generation": _count,
        "restarts": _count,
        "saved": _count,
        "cause": _text,
    },
    "form": {
        "generation": _count,
        "members": _members,
        "threads": _count,
        "shards": _count,
        "restarts": _count,
        "saved": _count,
    },
    "lost": {
        "generation": _count,
        "reason": _text,
        "code": lambda value: value is None or _code(value),
        "lines": _lines,
    },
    "abort": {"generation": _count, "cause": _text},
    "reform": {"generation": _count, "cause": _text},
    "stop": {"signal": _one_of(2, 15), "trained": _flag, "at_once": _flag},
    "finished": {"generation": _count, "code": _code},
    "failed": {"generation": _count, "code": _code, "reason": _text, "lines": _lines},
    "found": {"reason": _text},
    "end": {"code": _code, "reason": _text, "line": _text},
}


def line(message: Mapping[str, Any]) -> bytes:
    """Returns `message` as JSON without a line break. A lone surrogate becomes a question mark."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def plain(text: str) -> str:
    """Returns `text` as it arrives at a peer: with lone surrogates, as in some paths, replaced."""
    return text.encode("utf-8", "replace").decode()


def parse(body: bytes) -> dict[str, Any]:
    """Returns the message in `body`: "kind" and the fields of that kind, all of the right type.

    Raises ValueError for everything else.
    """
    try:
        found = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    kind = found.get("kind") if type(found) is dict else None
    if type(kind) is not str or kind not in _FIELDS:
        raise ValueError("it is not a message of this program")
    for field, fits in _FIELDS[kind].items():
        if field not in found or not fits(found[field]):
            raise ValueError(f"its field {field} is missing or wrong")
    return {"kind": kind, **{field: found[field] for field in _FIELDS[kind]}}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands twice")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")
