"""Messages to a run: `bide.signal` and `bide.request` as values, and what a waiting body gets of a request."""

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from bide._codec import Codec
from bide._errors import DefinitionError, SerializationError
from bide._text import check_text, escape_surrogates
from bide._waits import WaitBase

if TYPE_CHECKING:
    from bide._core import TaskHandle

T = TypeVar("T")
A = TypeVar("A")


class Signal(WaitBase[T], Generic[T], frozen=True, dict=True):
    """A named message to a run, with the type of its value. Made by `bide.signal`.

    One value of it serves to send (`runner.signal(run, approved, True)`), to wait (`handle.wait(approved)`), as a gate
    and in combinations.
    """

    name: str
    type: Any

    @cached_property
    def codec(self) -> Codec:
        """How its values are stored."""
        remedy = f"give the signal a type by bide.signal({self.name!r}, type)"
        return Codec(self.type, f"the signal {self.name!r}", root="value", remedy=remedy)


class Received(Generic[T, A]):
    """A request that a body has taken, and has to answer: what a wait for a `bide.request` gives.

    The answer is recorded: it is given once, also across a crash. A request without one when its task ends is refused.
    """

    __slots__ = ("_handle", "_number", "_request", "value")

    def __init__(self, request: "Request[T, A]", number: int, value: T, handle: "TaskHandle") -> None:
        """Keep what was sent, and what the answer needs."""
        self._request = request
        self._number = number
        self._handle = handle
        self.value = value

    def reply(self, answer: A) -> None:
        """Answer the request: `answer` is what `runner.request` returns."""
        encoded = self._request.answer_codec.encode_by_class(answer)
        self._handle._reply(self._request.name, self._number, encoded, "")

    def refuse(self, reason: str) -> None:
        """Refuse the request: `runner.request` raises `RequestRefused` with this reason."""
        self._handle._reply(self._request.name, self._number, None, check_reason(reason, "refuse"))

    def __repr__(self) -> str:
        """Show the request and its value."""
        return f"<Received request {self._request.name!r}: {self.value!r}>"


class AsyncReceived(Received[T, A]):
    """The same for an `async def` body, which awaits its answer."""

    __slots__ = ()

    async def reply(self, answer: A) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        """Answer the request: `answer` is what `runner.request` returns."""
        encoded = self._request.answer_codec.encode(answer)
        await self._handle._send_reply(self._request.name, self._number, encoded, "")  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]

    async def refuse(self, reason: str) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        """Refuse the request: `runner.request` raises `RequestRefused` with this reason."""
        checked = check_reason(reason, "refuse")
        await self._handle._send_reply(self._request.name, self._number, None, checked)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


def check_reason(reason: object, what: str) -> str:
    """Return the reason that somebody gives, as text."""
    if not isinstance(reason, str):
        msg = f"{what}: the reason must be a string, not {reason!r}"
        raise DefinitionError(msg)
    return escape_surrogates(reason)


class Request(WaitBase[Received[T, A]], Generic[T, A], frozen=True, dict=True):
    """A named message whose sender waits for an answer. Made by `bide.request`."""

    name: str
    type: Any
    answer: Any

    @cached_property
    def codec(self) -> Codec:
        """How its values are stored."""
        return Codec(self.type, f"the request {self.name!r}", root="value", remedy=self._remedy)

    @cached_property
    def answer_codec(self) -> Codec:
        """How its answers are stored."""
        return Codec(self.answer, f"the answer to the request {self.name!r}", root="answer", remedy=self._remedy)

    @property
    def _remedy(self) -> str:
        return f"give the request its types by bide.request({self.name!r}, type, answer)"

    def _received(self, stored: bytes, handle: "TaskHandle") -> Received[T, A]:
        """Return what a wait for it gives: stored are a tag, the number in eight bytes, and the value."""
        number = int.from_bytes(stored[1:9])
        try:
            value: T = self.codec.decode(stored[9:])
        except SerializationError as error:
            # Nobody can answer it.
            handle._reply(self.name, number, None, str(error))
            raise
        kind: type[Received[T, A]] = AsyncReceived if hasattr(handle, "_send_reply") else Received
        return kind(self, number, value, handle)


@overload
def signal(name: str) -> Signal[Any]: ...
@overload
def signal(name: str, type: type[T]) -> Signal[T]: ...
def signal(name: str, type: Any = Any) -> Signal[Any]:  # noqa: A002 - the designed signature
    """Name a signal, and the type of its values.

    Example::

        approved = bide.signal("approved", bool)

        @bide.task
        def publish(draft: str, handle: bide.TaskHandle) -> str:
            return draft if handle.wait(approved) else "rejected"

        runner.signal(run, approved, True)

    Raises `DefinitionError` for a name that is no text or a type that cannot be stored.
    """
    made: Signal[Any] = Signal(check_text(name, "signal: name"), type)
    _ = made.codec  # an annotation that cannot be stored is refused here
    return made


@overload
def request(name: str) -> Request[Any, Any]: ...
@overload
def request(name: str, type: type[T]) -> Request[T, Any]: ...
@overload
def request(name: str, type: type[T], answer: type[A]) -> Request[T, A]: ...
def request(name: str, type: Any = Any, answer: Any = Any) -> Request[Any, Any]:  # noqa: A002 - as above
    """Name a request, with the types of its values and of its answers.

    Example::

        quote = bide.request("quote", str, int)

        @bide.task
        def seller(handle: bide.TaskHandle) -> None:
            asked = handle.wait(quote)
            asked.reply(7 if asked.value == "nuts" else 0)

        runner.request(run, quote, "nuts", timeout=10)  # returns 7

    Raises `DefinitionError` for a name that is no text or a type that cannot be stored.
    """
    made: Request[Any, Any] = Request(check_text(name, "request: name"), type, answer)
    _ = made.codec, made.answer_codec  # as in `signal`
    return made


def as_signal(one: object, what: str) -> "Signal[Any] | Request[Any, Any]":
    """Return the signal that a name or a `bide.signal` value means."""
    if isinstance(one, (Signal, Request)):
        return one
    return Signal(check_text(one, f"{what}: the name of a signal"), Any)


def declared(signals: object, what: str) -> tuple["Signal[Any] | Request[Any, Any]", ...]:
    """Return what a workflow declares, each name once."""
    if isinstance(signals, (str, Signal, Request)) or not isinstance(signals, Iterable):
        msg = f"{what}: signals must be a list of names and bide.signal(...) values, not {signals!r}"
        raise DefinitionError(msg)
    found: dict[str, Signal[Any] | Request[Any, Any]] = {}
    for one in signals:
        made = as_signal(one, what)
        if made.name in found:
            msg = f"{what}: signals has {made.name!r} twice"
            raise DefinitionError(msg)
        found[made.name] = made
    return tuple(found.values())
