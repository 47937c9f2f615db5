"""Callbacks: `Callback`, which a body hands out and waits for, by a token with which anybody answers it.

The format of tokens is that of all languages: `rust/core/src/token.rs`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bide import _core
from bide._codec import Codec
from bide._errors import DefinitionError, SignalRejected
from bide._text import check_text
from bide._waits import WaitBase

if TYPE_CHECKING:
    from bide._combine import Part

T_co = TypeVar("T_co", covariant=True)


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
        return _core._callback_token(self.run_id, self.secret)

    def __repr__(self) -> str:
        """Show the name: a log is no place for the token."""
        return f"<Callback {self.name!r} of run {self.run_id}>"

    @property
    def codec(self) -> Codec:
        """How its answers are stored."""
        return Codec(self.type, f"the callback {self.name!r}", root="value")

    def _part(self, name: str | None) -> "Part":
        return "answer", name or self.name, None, self.secret

    def _decode(self, value: bytes) -> T_co:
        answer: T_co = self.codec.decode(value)
        return answer


def new(run: str, name: object, type: Any = Any) -> tuple[str, Callable[[str], Callback[Any]]]:  # noqa: A002, ANN401
    """Return the name of a callback, and what makes it of the secret that is recorded."""
    checked = check_text(name, "handle.callback: name")
    made: Callable[[str], Callback[Any]] = partial(Callback, checked, type, run)
    made("").codec  # noqa: B018 - an annotation that cannot be stored is refused here
    return checked, made


def read(token: object, what: str) -> tuple[str, str]:
    """Return the id of the run and the secret of a token; refuse what bide has not made."""
    if not isinstance(token, str):
        msg = f"{what} takes the token of a callback, which is a string, not {token!r}"
        raise DefinitionError(msg)
    known = _core._read_callback_token(token) if token.isascii() else None
    if known is None:
        msg = (
            f"the token {token[:8] + '...'!a} ({len(token)} characters) is no token of bide: it is mistyped or cut off"
        )
        raise SignalRejected(msg)
    return known
