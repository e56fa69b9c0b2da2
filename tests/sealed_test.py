"""Documents that cover themselves."""

import hashlib
import json

import pytest

from trainer import sealed

DOCUMENT = {"b": [1, 2.5, None], "a": {"name": "ü\ud800", "yes": True}, "c": float("inf")}
OLDER = ("a", "b", "c")


def test_the_seal_is_the_sha256_of_the_other_keys_sorted_without_white_space():
    text = '{"a":{"name":"\\u00fc\\ud800","yes":true},"b":[1,2.5,null],"c":Infinity}'
    found = sealed.seal(DOCUMENT)
    assert list(found) == ["b", "a", "c", "sha256"]
    assert found["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert sealed.seal(found) == found


@pytest.mark.parametrize("indent", [None, 1])
def test_a_sealed_document_is_read_however_it_is_printed(indent):
    written = sealed.seal(DOCUMENT)
    assert sealed.read(json.dumps(written, indent=indent).encode(), ()) == written


def test_a_document_from_before_there_were_seals_is_read():
    assert sealed.read(json.dumps(DOCUMENT).encode(), OLDER) == DOCUMENT


def test_without_a_seal_only_the_keys_of_that_time_are_read():
    with pytest.raises(ValueError, match="it has no sha256, but 'c'"):
        sealed.read(json.dumps(DOCUMENT).encode(), ("a", "b"))


def test_every_flipped_bit_is_found_or_changes_nothing():
    text = json.dumps(sealed.seal(DOCUMENT), indent=1).encode()
    harmless = 0
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert sealed.read(bytes(flipped), OLDER) == sealed.seal(DOCUMENT)
            harmless += 1
        except ValueError:
            pass
    assert harmless < len(text)  # White space that became other white space.


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "Expecting value"),
        (b"\xff", "codec can't decode"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
        (b'{"a": 1, "a": 2}', "a name twice"),
        (b'{"b": {"a": 1, "a": 1}}', "a name twice"),
        (b'{"a": ' + b"1" * 5000 + b"}", "limit"),
        (b'{"a": 1} {}', "Extra data"),
        (b'{"a": 1, "sha256": null}', "not the one of its own sha256"),
    ],
)
def test_whatever_is_not_such_a_document_is_refused(content, reason):
    with pytest.raises(ValueError, match=reason):
        sealed.read(content, OLDER)
