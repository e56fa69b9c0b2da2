"""The token of a job, and lines that only its holders can have sent."""

import hashlib
import hmac
import os

import pytest

from trainer.exit_codes import UsageError
from trainer.gang import proof

TOKEN = b"0123456789abcdef0123456789abcdef"


def ends(token=TOKEN, other=TOKEN, nonces=("a" * 32, "b" * 32)):
    """(the caller's end, the listener's end)"""
    return proof.Session(token, *nonces, calls=True), proof.Session(
        other, *reversed(nonces), calls=False
    )


def test_lines_arrive_in_both_directions():
    caller, listener = ends()
    for number in range(3):
        assert listener.opened(caller.seal(b'{"x": %d}' % number)) == b'{"x": %d}' % number
        assert caller.opened(listener.seal(b"")) == b""


def test_the_code_is_the_hmac_of_both_nonces_the_role_the_number_and_the_body():
    caller, _ = ends(nonces=("n", "mm"))
    key = hmac.new(TOKEN, b"rnn-trainer gang 1:n2:mm", hashlib.sha256).digest()
    caller.seal(b"first")
    wanted = hmac.new(key, b"caller 1 second", hashlib.sha256).hexdigest()
    assert caller.seal(b"second") == f"{wanted} second\n".encode()


def test_a_line_does_not_pass_with_another_token_nonce_number_role_or_body():
    line = ends()[0].seal(b"body")
    for listener in (
        ends(other=b"x" * 32)[1],
        ends(other=b"")[1],
        ends(nonces=("a" * 32, "c" * 32))[1],
        ends(nonces=("b" * 32, "a" * 32))[1],
        ends()[0],  # Sent back to its sender.
    ):
        with pytest.raises(ValueError, match="not sealed with the token"):
            listener.opened(line)
    _, listener = ends()
    assert listener.opened(line) == b"body"
    with pytest.raises(ValueError):  # Once more.
        listener.opened(line)


def test_a_line_that_is_left_out_is_noticed():
    caller, listener = ends()
    caller.seal(b"lost")
    with pytest.raises(ValueError):
        listener.opened(caller.seal(b"next"))


def test_every_changed_bit_is_noticed():
    line = ends()[0].seal(b'{"kind": "end", "code": 0}')
    for place in range(len(line) - 1):
        for bit in range(8):
            changed = bytearray(line)
            changed[place] ^= 1 << bit
            if place == proof.CODE_CHARACTERS:  # The space between code and body says nothing.
                continue
            with pytest.raises(ValueError):
                ends()[1].opened(bytes(changed))


@pytest.mark.parametrize("line", [b"", b"\n", b" \n", b"\xff" * 100, b"0" * 64, b"a b c\n"])
def test_anything_else_does_not_pass(line):
    with pytest.raises(ValueError):
        ends()[1].opened(line)


def test_tokens_and_nonces_are_new_each_time():
    assert len({proof.fresh_token() for _ in range(100)}) == 100
    assert len({proof.fresh_nonce() for _ in range(100)}) == 100
    assert len(proof.fresh_token()) == 64


# --- the file -------------------------------------------------------------------------------------


def written(tmp_path, content, mode=0o600) -> str:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_a_token_is_read_without_the_space_around_it(tmp_path):
    path = written(tmp_path, TOKEN + b"\n")
    assert proof.Token(path).read() == TOKEN
    assert proof.Token("").read() == b""


def test_a_token_that_is_replaced_is_read_again_and_one_that_is_gone_stays_known(tmp_path, caplog):
    token = proof.Token(written(tmp_path, TOKEN))
    path = written(tmp_path, TOKEN[::-1])
    assert token.read() == TOKEN[::-1]
    os.remove(path)
    assert token.read() == TOKEN[::-1] and "stays in use" in caplog.text
    assert TOKEN.decode() not in caplog.text


@pytest.mark.parametrize(
    "content, mode, reason",
    [
        (b"short", 0o600, "32 to 4096 characters; this file holds 5"),
        (b"", 0o600, "this file holds 0"),
        (b"x" * 5000, 0o600, "this file holds more"),
        (TOKEN, 0o604, "its mode is 0604"),
        (TOKEN, 0o666, "its mode is 0666"),
    ],
)
def test_a_file_that_is_no_token_is_refused_with_the_remedy(tmp_path, content, mode, reason):
    path = written(tmp_path, content, mode)
    with pytest.raises(UsageError) as refusal:
        proof.Token(path)
    assert str(refusal.value).startswith(f"--gang_token_file={path}: ")
    assert reason in str(refusal.value) and "openssl rand -hex 32" in str(refusal.value)
    assert TOKEN.decode() not in str(refusal.value)


def test_what_is_not_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    for name in ("fifo", "loop", "absent", "", "x" * 300):
        with pytest.raises(UsageError, match="--gang_token_file="):
            proof.Token(str(tmp_path / name))


def test_the_group_of_a_pod_may_read_the_token(tmp_path):
    assert proof.Token(written(tmp_path, TOKEN, 0o440)).read() == TOKEN
