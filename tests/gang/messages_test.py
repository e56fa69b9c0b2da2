"""The messages between supervisors: what passes, and what does not."""

import json

import pytest

from trainer.gang import messages

STATUS = {
    "kind": "status",
    "state": "ready",
    "address": "a:1",
    "remaining": 1.5,
    "generation": 0,
    "restarts": 0,
    "saved": 0,
    "cause": "",
}
FORM = {
    "kind": "form",
    "generation": 1,
    "members": [[0, "a:1"], [1, "b:1"]],
    "threads": 2,
    "shards": 1,
    "restarts": 0,
    "saved": 0,
}
GOOD = [
    {"kind": "beat"},
    STATUS,
    FORM,
    {"kind": "lost", "generation": 1, "reason": "r", "code": None, "lines": []},
    {"kind": "lost", "generation": 1, "reason": "r", "code": -9, "lines": ["ü\n\u2028"]},
    {"kind": "abort", "generation": 1, "cause": "c"},
    {"kind": "reform", "generation": 1, "cause": "c"},
    {"kind": "stop", "signal": 2, "trained": True, "at_once": False},
    {"kind": "finished", "generation": 1, "code": 0},
    {"kind": "failed", "generation": 1, "code": 3, "reason": "r", "lines": ["l"]},
    {"kind": "found", "reason": "r"},
    {"kind": "end", "code": 0, "reason": "r", "line": ""},
    {
        "kind": "hello",
        "to": 0,
        "index": -1,
        "instance": "i",
        "job": "j",
        "identity": {"a": "b"},
        "ip": "10.0.0.1",
    },
    {"kind": "known", "ips": [[1, "10.0.0.1"], [2, "fd00::1"]]},
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message["kind"])
def test_a_message_arrives_as_it_was_sent_on_one_line(message):
    assert b"\n" not in messages.line(message)
    assert messages.parse(messages.line(message)) == message


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message["kind"])
def test_a_message_needs_each_of_its_fields_in_the_right_type(message):
    for field in message:
        rest = {name: value for name, value in message.items() if name != field}
        for wrong in (rest, *({**rest, field: value} for value in (1.5j, [{}], {"a": 1}))):
            body = json.dumps(wrong, default=lambda value: [[]]).encode()
            with pytest.raises(ValueError):
                messages.parse(body)


def test_fields_of_a_later_version_are_left_out():
    assert messages.parse(b'{"kind": "beat", "more": [1]}') == {"kind": "beat"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"beat"',
        b"{}",
        b'{"kind": "x"}',
        b'{"kind": ["beat"]}',
        b'{"kind": {}}',
        b'{"kind": "beat"} {}',
        b'{"kind": "beat", "kind": "beat"}',
        b'["' * 100_000,
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"kind": "found", "reason": "\\ud800"}',
        b'{"kind": "found", "reason": "\xff"}',
        b'{"kind": "found", "reason": 1}',
        b'{"kind": "end", "code": 1e999, "reason": "", "line": ""}',
        b'{"kind": "end", "code": 1.0, "reason": "", "line": ""}',
        b'{"kind": "end", "code": true, "reason": "", "line": ""}',
        b'{"kind": "end", "code": 256, "reason": "", "line": ""}',
        b'{"kind": "end", "code": ' + b"9" * 10_000 + b', "reason": "", "line": ""}',
        b'{"kind": "finished", "generation": NaN, "code": 0}',
        b'{"kind": "finished", "generation": Infinity, "code": 0}',
        b'{"kind": "finished", "generation": -1, "code": 0}',
        b'{"kind": "stop", "signal": 9, "trained": true, "at_once": true}',
        b'{"kind": "stop", "signal": 2.0, "trained": true, "at_once": true}',
        b'{"kind": "stop", "signal": [2], "trained": true, "at_once": true}',
        b'\xef\xbb\xbf{"kind": "beat"}',
        b'{"kind": "beat"}'.decode().encode("utf-16"),
    ],
    ids=lambda body: repr(body[:30]),
)
def test_everything_else_is_refused(body):
    with pytest.raises(ValueError):
        messages.parse(body)


@pytest.mark.parametrize("remaining", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_is_finite(remaining):
    body = json.dumps({**STATUS, "remaining": 7}).replace("7", remaining).encode()
    with pytest.raises(ValueError):
        messages.parse(body)


def test_half_a_character_of_a_path_becomes_a_question_mark_on_both_sides():
    path = b"model-\xff".decode("utf-8", "surrogateescape")
    sent = messages.line({"kind": "found", "reason": path})
    assert messages.parse(sent)["reason"] == messages.plain(path) == "model-?"
