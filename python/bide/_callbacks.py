"""Callbacks: `Callback`, which a body hands out and waits for, and the token by which anybody answers it.

A token is the run's id (16 bytes), a secret of 128 random bits and a checksum (4 bytes), in URL-safe base64: 48
characters. The checksum tells a mistyped token from a foreign one. The secret is recorded in the body's journal.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bide._codec import Codec
from bide._errors import DefinitionError, SignalRejected
from bide._text import check_text
from bide._waits import WaitBase

if TYPE_CHECKING:
    from bide._combine import Part

T_co = TypeVar("T_co", covariant=True)

_TOKEN = re.compile(r"[A-Za-z0-9_-]{48}")
_ID = 16


class Callback(WaitBase[T_co], Generic[T_co], frozen=True):
    """A wait for an answer from outside, of which the body knows the token. `handle.callback` makes one.

    It can be waited for several times, and as one of several waits: the answer is kept.
    """

    name: str
    type: Any
    run_id: str
    secret: str

    @property
    def token(self) -> str:
        """What answers it: `runner.resolve(token, value)`. A secret, safe in a URL, the same after a re-entry."""
        payload = bytes.fromhex(self.run_id.replace("-", "")) + bytes.fromhex(self.secret)
        return base64.urlsafe_b64encode(payload + _checksum(payload)).decode()

    def __repr__(self) -> str:
        """Show the name: a log is no place for the token."""
        return f"<Callback {self.name!r} of run {self.run_id}>"

    @property
    def codec(self) -> Codec:
        """How its answers are stored."""
        return Codec(self.type, f"the callback {self.name!r}", root="value")

    def _part(self, name: str | None) -> "Part":
        from bide._combine import Part  # noqa: PLC0415 - it imports every kind of wait

        return Part("answer", name or self.name, None, self.secret)

    def _decode(self, value: bytes) -> T_co:
        answer: T_co = self.codec.decode(value)
        return answer


def new(run: str, name: object, type: Any = Any) -> tuple[str, str, Callable[[str], Callback[Any]]]:  # noqa: A002, ANN401
    """Return the name of a new callback, its secret, and what makes the callback of the secret that is recorded."""
    checked = check_text(name, "handle.callback: name")
    made: Callable[[str], Callback[Any]] = partial(Callback, checked, type, run)
    secret = secrets.token_hex(16)
    made(secret).codec  # noqa: B018 - an annotation that cannot be stored is refused here
    return checked, secret, made


def read(token: object, what: str) -> tuple[str, str]:
    """Return the id of the run and the secret of a token; refuse what bide has not made."""
    if not isinstance(token, str):
        msg = f"{what} takes the token of a callback, which is a string, not {token!r}"
        raise DefinitionError(msg)
    payload = base64.urlsafe_b64decode(token) if _TOKEN.fullmatch(token) else b""
    if _checksum(payload[:-4]) != payload[-4:]:
        msg = (
            f"the token {token[:8] + '...'!a} ({len(token)} characters) is no token of bide: it is mistyped or cut off"
        )
        raise SignalRejected(msg)
    digits = payload[:_ID].hex()
    run = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return run, payload[_ID:-4].hex()


def _checksum(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=4, person=b"bide token").digest()
