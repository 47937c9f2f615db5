"""What a task can wait for, as plain values: `until`, `after` and `at`, used as gates and by the handle.

Each value checks itself, however it is made; waiting itself is the executor's. Other waits are in `_signals.py` and
`_combine.py`.
"""

import math
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, TypeAlias, TypeVar, overload

import msgspec

from bide._callables import is_async
from bide._duration import LONGEST, as_float, count, moment, number, optional_seconds, seconds
from bide._errors import DefinitionError
from bide._text import check_text

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Duration: TypeAlias = float | timedelta
"""Seconds or a timedelta."""

Computes: TypeAlias = Callable[..., T] | Callable[..., Awaitable[T]]
"""A function that computes it, by `def` or `async def`."""


class Tolerate(msgspec.Struct, frozen=True):
    """Let a condition raise: `n` exceptions in a row end the wait, once `seconds` have passed since the first of them.

    The wait fails with the last exception. A call that does not raise starts the count anew.
    """

    n: int = 5
    seconds: float | timedelta = 0.0

    def __post_init__(self) -> None:
        """Check the number and the span."""
        msgspec.structs.force_setattr(self, "n", count(self.n, "Tolerate(n)"))
        msgspec.structs.force_setattr(self, "seconds", seconds(self.seconds, "Tolerate(seconds=)", zero=True))


OnError: TypeAlias = Tolerate | Literal["raise", "ignore"]
"""What a condition's exceptions do to its wait."""

DEFAULT_ON_ERROR = Tolerate(5, seconds=30)


class WaitBase(msgspec.Struct, Generic[T_co], frozen=True):
    """Anything that a gate or a handle can wait for; `T_co` is the type of its value. Users know it as `bide.Wait`."""

    def __post_init__(self) -> None:
        """Refuse one of no kind."""
        if type(self) is WaitBase:
            msg = "bide.Wait is the type of all waits: make one with bide.until(...), bide.signal(...) or the like"
            raise DefinitionError(msg)


class Until(WaitBase[T_co], Generic[T_co], frozen=True):
    """A condition polled until it is truthy, and then the value of the wait. `until` makes one."""

    condition: Callable[..., T_co | None]
    every: float
    timeout: float | None
    backoff: float
    max_every: float | None
    jitter: float
    on_error: OnError
    name: str | None

    def __post_init__(self) -> None:
        """Check every setting, and turn durations into seconds."""
        condition, on_error = self.condition, self.on_error
        if not callable(condition):
            msg = f"a condition must be callable, not {condition!r}: pass the function itself, without calling it"
            raise DefinitionError(msg)
        if not (isinstance(on_error, Tolerate) or (isinstance(on_error, str) and on_error in {"raise", "ignore"})):
            msg = f'on_error must be bide.Tolerate(n), "raise" or "ignore", not {on_error!r}'
            raise DefinitionError(msg)
        every, longest = seconds(self.every, "every"), optional_seconds(self.max_every, "max_every")
        if longest is not None and longest < every:
            msg = f"max_every ({self.max_every!r}) must be at least every ({self.every!r})"
            raise DefinitionError(msg)
        _keep(self, "every", every)
        _keep(self, "max_every", longest)
        _keep(self, "timeout", optional_seconds(self.timeout, "timeout", zero=True))
        _keep(self, "backoff", number(self.backoff, "backoff", 1.0, math.inf))
        _keep(self, "jitter", number(self.jitter, "jitter", 0.0, 1.0))
        check_name(self.name, "a condition")

    @property
    def tolerance(self) -> tuple[int, float] | None:
        """How many exceptions in a row end the wait, and after how many seconds; None if none does."""
        if isinstance(self.on_error, Tolerate):
            return self.on_error.n, seconds(self.on_error.seconds, "seconds", zero=True)
        return (1, 0.0) if self.on_error == "raise" else None

    def _parts(self) -> tuple[Any, ...]:
        """Return all of it as Rust reads it, by position (`rust/py/src/wait.rs`)."""
        return (
            self.condition,
            self.name,
            self.timeout,
            self.every,
            self.backoff,
            self.max_every,
            self.jitter,
            self.tolerance,
            is_async(self.condition),
        )


class After(WaitBase[None], frozen=True):
    """A time span, or for a gate a function that computes it. `after` makes one."""

    seconds: float | Computes[Duration]

    def __post_init__(self) -> None:
        """Check the span."""
        if not callable(self.seconds):
            _keep(self, "seconds", seconds(self.seconds, "after(seconds)", zero=True))

    @property
    def span(self) -> float:
        """Seconds; a span that is computed has none."""
        if callable(self.seconds):
            raise only_for_gates(self)
        return self.seconds


class At(WaitBase[None], frozen=True):
    """A moment, in UTC, or for a gate a function that computes it. `at` makes one."""

    moment: datetime | Computes[datetime]

    def __post_init__(self) -> None:
        """Check the moment."""
        if not callable(self.moment):
            _keep(self, "moment", moment(self.moment, "at(datetime)"))

    @property
    def timestamp(self) -> float:
        """Seconds since 1970; a moment that is computed has none."""
        if callable(self.moment):
            raise only_for_gates(self)
        return self.moment.timestamp()


Wait: TypeAlias = WaitBase[Any]
"""Anything that a gate or a handle can wait for."""


@overload
def until(
    condition: Callable[..., Awaitable[T | None]],
    *,
    every: Duration = 1.0,
    timeout: Duration | None = None,
    backoff: float = 1.0,
    max_every: Duration | None = None,
    jitter: float = 0.0,
    on_error: OnError = ...,
    name: str | None = None,
) -> Until[T]: ...
@overload
def until(
    condition: Callable[..., T | None],
    *,
    every: Duration = 1.0,
    timeout: Duration | None = None,
    backoff: float = 1.0,
    max_every: Duration | None = None,
    jitter: float = 0.0,
    on_error: OnError = ...,
    name: str | None = None,
) -> Until[T]: ...
def until(  # noqa: PLR0913 - each is a setting of its own, all but the first by keyword
    condition: Callable[..., Any],
    *,
    every: Duration = 1.0,
    timeout: Duration | None = None,
    backoff: float = 1.0,
    max_every: Duration | None = None,
    jitter: float = 0.0,
    on_error: OnError = DEFAULT_ON_ERROR,
    name: str | None = None,
) -> Until[Any]:
    """Wait until `condition()` is truthy, polled every `every` seconds (times `backoff`, at most `max_every`)."""
    # It takes each Duration and keeps the seconds.
    return Until(condition, every, timeout, backoff, max_every, jitter, on_error, name)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def from_poll(  # noqa: PLR0913 - the signature of TaskHandle.defer_until, taken over as it is
    condition: Callable[..., T | None],
    poll_interval_ms: float = 1000,
    *,
    timeout: Duration | None = None,
    backoff: float = 1.0,
    max_interval_ms: float | None = None,
    jitter: float = 0.0,
    on_error: OnError = DEFAULT_ON_ERROR,
    name: str | None = None,
) -> Until[T]:
    """Return the wait that `handle.defer_until` means; its two intervals are in milliseconds."""
    every = _from_ms(poll_interval_ms, "poll_interval_ms")
    most = None if max_interval_ms is None else _from_ms(max_interval_ms, "max_interval_ms")
    if most is not None and most < every:
        msg = f"max_interval_ms ({max_interval_ms!r}) must be at least poll_interval_ms ({poll_interval_ms!r})"
        raise DefinitionError(msg)
    # As in `until`.
    return Until(condition, every, timeout, backoff, most, jitter, on_error, name)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


from_poll.__qualname__ = "TaskHandle.defer_until"  # what a misspelt argument's error names


def after(duration: Duration | Computes[Duration]) -> After:
    """Wait for a duration: seconds or a `timedelta`.

    As a gate it also takes a function, by `def` or `async def`, whose parameters are bound like the task's. It is
    called when the gate opens, and what it returns is recorded: `gate=bide.after(lambda order: order.grace)`.
    """
    return After(duration)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]  # as in `until`


def at(when: datetime | Computes[datetime]) -> At:
    """Wait for a moment; the datetime has to know its time zone.

    As a gate it also takes a function, as `after` does: `gate=bide.at(lambda due: due)`.
    """
    return At(when)


def leaves(wait: WaitBase[Any]) -> list[WaitBase[Any]]:
    """Return the waits that are no combinations, in the order in which the plan of a wait has them."""
    members: tuple[WaitBase[Any], ...] = getattr(wait, "waits", ())
    return [leaf for one in members for leaf in leaves(one)] if members else [wait]


def callables(wait: WaitBase[Any]) -> list[Callable[..., Any]]:
    """Return what a gate calls, conditions and times, in the order in which its plan has them (`_combine.py`)."""
    called = [one.condition if isinstance(one, Until) else computes(one) for one in leaves(wait)]
    return [one for one in called if one is not None]


def computes(wait: WaitBase[Any]) -> Callable[..., Any] | None:
    """Return the function that computes a time; None of any other wait."""
    when = wait.seconds if isinstance(wait, After) else wait.moment if isinstance(wait, At) else None
    return when if callable(when) else None


def computed(kind: str, value: object) -> float:
    """Return what the function of a gate has computed, a span or a moment, as seconds."""
    what = f"what the function of bide.{kind} returns"
    if kind == "after":
        return seconds(value, what, zero=True)
    return moment(value, what).timestamp()


def only_for_gates(wait: WaitBase[Any]) -> DefinitionError:
    """Return the error for a computed time that is no gate."""
    kind, value = ("after", "seconds") if isinstance(wait, After) else ("at", "moment")
    calls = "await" if is_async(computes(wait)) else "call"
    return DefinitionError(
        f"bide.{kind}(function) computes its time when a gate opens, and this is no gate: {calls} the function and "
        f"pass what it returns, bide.{kind}({value})"
    )


def _keep(wait: msgspec.Struct, name: str, value: object) -> None:
    """Set a checked field; most are already what the caller gave."""
    if getattr(wait, name) is not value:
        msgspec.structs.force_setattr(wait, name, value)


def check_name(name: object, what: str) -> str | None:
    """Return a wait's or step's `name=` after checking it."""
    return None if name is None else check_text(name, f"{what}: name")


def _from_ms(value: object, what: str) -> float:
    given = as_float(value)
    if given is None or math.isnan(given):
        msg = f"{what} is in milliseconds and must be a number, not {value!r}"
    elif given <= 0:
        msg = f"{what} must be positive, not {value!r}: it is in milliseconds, at least 1"
    elif given < 1:
        msg = f"{what} is in milliseconds and must be at least 1, not {value!r}: a second is 1000"
    elif given > LONGEST * 1000:
        msg = f"{what} is in milliseconds, and {value!r} is more than 100 years"
    else:
        return given / 1000
    raise DefinitionError(msg)
