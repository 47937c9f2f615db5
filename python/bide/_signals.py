"""Messages to a run: `bide.signal` and `bide.request` as values, and what a waiting body gets of a request."""

from collections.abc import Iterable
from typing import Any, Generic, TypeVar, overload

from bide._codec import Codec
from bide._errors import DefinitionError
from bide._text import check_text
from bide._waits import WaitBase

T = TypeVar("T")
A = TypeVar("A")


class Signal(WaitBase[T], Generic[T], frozen=True):
    """A named message to a run, with the type of its value. Made by `bide.signal`.

    One value of it serves to send (`runner.signal(run, approved, True)`), to wait (`handle.wait(approved)`), as a gate
    and in combinations.
    """

    name: str
    type: Any

    @property
    def codec(self) -> Codec:
        """How its values are stored."""
        return Codec(self.type, f"the signal {self.name!r}", root="value")


class Request(WaitBase[Any], Generic[T, A], frozen=True):
    """A named message whose sender waits for an answer. Made by `bide.request`."""

    name: str
    type: Any
    answer: Any

    @property
    def codec(self) -> Codec:
        """How its values are stored."""
        return Codec(self.type, f"the request {self.name!r}", root="value")

    @property
    def answer_codec(self) -> Codec:
        """How its answers are stored."""
        return Codec(self.answer, f"the answer to the request {self.name!r}", root="answer")


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
