"""Proof that a peer holds the token of the job, without sending the token.

Both ends of a connection send a nonce in the open. The key of the connection is the HMAC-SHA256 of
the token over both nonces. After that every line is

    CODE BODY

where CODE is the HMAC-SHA256 of that key over the role of the sender, the number of the line and
BODY. So a line of another connection, a line that is sent twice, left out or changed, and a line
that is sent back to its sender have a wrong code. Bodies are not encrypted.

Without a token file the token is empty: lines have the same form, and prove nothing.
"""

import hmac
import logging
import os
import secrets
import stat

from trainer.exit_codes import UsageError

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 32, 4096  # Characters of a token.
CODE_CHARACTERS = 64
_REMEDY = "Make one with `openssl rand -hex 32 > FILE && chmod 600 FILE`"


def fresh_token() -> str:
    """Returns a new random token of 64 characters."""
    return secrets.token_hex(32)


def fresh_nonce() -> str:
    """Returns a number that is used once, as 32 characters."""
    return secrets.token_hex(16)


class Token:
    """The token of a job, which is read again for every connection.

    So a token may be replaced while the job runs: connections stay, and new ones use the new token.
    """

    def __init__(self, path: str):
        """`path`: --gang_token_file; "" for an empty token. Raises UsageError if it is unusable."""
        self._path = path
        self._known = _read(path) if path else b""

    def read(self) -> bytes:
        """Returns the token in the file; the last one that was there if it cannot be read now."""
        if self._path:
            try:
                self._known = _read(self._path)
            except UsageError as problem:
                log.warning("%s; the token that was read before stays in use", problem)
        return self._known


def _read(path: str) -> bytes:
    flag = f"--gang_token_file={path}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{flag}: must be a file that holds the token. {_REMEDY}.")
            if found.st_mode & 0o007:
                raise UsageError(
                    f"{flag}: its mode is {stat.S_IMODE(found.st_mode):04o}, so every user of this "
                    f"machine may know the token. Make a new one, with mode 0600 (a Secret of "
                    f"Kubernetes: defaultMode 0440). {_REMEDY}."
                )
            token = file.read(LONGEST + 1).strip()
    except OSError as problem:
        raise UsageError(f"{flag}: cannot be read ({problem.strerror}). {_REMEDY}.") from None
    if not SHORTEST <= len(token) <= LONGEST:
        raise UsageError(
            f"{flag}: a token has {SHORTEST} to {LONGEST} characters; this file holds "
            f"{len(token) if len(token) < SHORTEST else 'more'}. {_REMEDY}."
        )
    return token


class Session:
    """One end of a connection: seals the lines that it sends, opens the lines that it gets."""

    def __init__(self, token: bytes, own_nonce: str, other_nonce: str, calls: bool):
        """`calls`: whether this end made the connection, and the other one listened."""
        nonces = (own_nonce, other_nonce) if calls else (other_nonce, own_nonce)
        # With their lengths, so that no two pairs of nonces make the same text.
        text = "rnn-trainer gang " + "".join(f"{len(nonce)}:{nonce}" for nonce in nonces)
        self._key = hmac.digest(token, text.encode(), "sha256")
        self._roles = (b"caller", b"listener") if calls else (b"listener", b"caller")
        self._sent = self._got = 0

    def seal(self, body: bytes) -> bytes:
        """Returns the next line to send, with the line break. `body` has none."""
        code = self._code(self._roles[0], self._sent, body)
        self._sent += 1
        return code + b" " + body + b"\n"

    def opened(self, line: bytes) -> bytes:
        """Returns the body of the next line. Raises ValueError if the other end did not seal it."""
        line = line.removesuffix(b"\n")
        code, body = line[:CODE_CHARACTERS], line[CODE_CHARACTERS + 1 :]
        if not hmac.compare_digest(code, self._code(self._roles[1], self._got, body)):
            raise ValueError("a line that is not sealed with the token of the job")
        self._got += 1
        return body

    def _code(self, role: bytes, number: int, body: bytes) -> bytes:
        text = b"%b %d %b" % (role, number, body)
        return hmac.digest(self._key, text, "sha256").hex().encode()
