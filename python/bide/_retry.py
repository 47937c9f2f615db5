"""`Retry`: when a failed task is tried again. The core computes and stores the delays."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, cast

import msgspec

from bide._callables import is_async
from bide._duration import count, number, seconds
from bide._errors import (
    BideError,
    CallbackRejected,
    DefinitionError,
    SerializationError,
    Skip,
    TaskTimeout,
    WaitTimeout,
)

ONLY_IF_NAMED = (WaitTimeout, SerializationError, CallbackRejected)
"""Errors that another attempt seldom fixes: `on=(Exception,)` does not include them."""


class Retry(msgspec.Struct, frozen=True):
    """Try a failed task again: at most `attempts` in all, after `delay` seconds times `backoff` each time.

    With `attempts=None` it is tried until it succeeds. The delay is at most `max_delay` and varies by `jitter` (0.25 is
    up to a quarter more or less).

    `on` is exception classes, or a function that gets the exception and returns whether to try again. Of the classes,
    `WaitTimeout`, `SerializationError` and `CallbackRejected` count only if they are named themselves; a function
    decides about these too. About `TaskTimeout` it is asked once, when the workflow is made.

    A new attempt keeps the journal without the failed entries at its end; `fresh=True` drops all of it.
    """

    attempts: int | None = 3
    delay: float | timedelta = 1.0
    backoff: float = 2.0
    max_delay: float | timedelta = 60.0
    jitter: float = 0.25
    on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] = (Exception,)
    fresh: bool = False

    def __post_init__(self) -> None:
        """Check every field, and turn durations into seconds."""
        put = partial(msgspec.structs.force_setattr, self)
        if self.attempts is not None:
            put("attempts", count(self.attempts, "Retry(attempts=)"))
        put("delay", seconds(self.delay, "Retry(delay=)", zero=True))
        put("backoff", number(self.backoff, "Retry(backoff=)", 1.0, inf))
        put("max_delay", seconds(self.max_delay, "Retry(max_delay=)", zero=True))
        put("jitter", number(self.jitter, "Retry(jitter=)", 0.0, 1.0))
        put("on", _checked(self.on))
        if not isinstance(self.fresh, bool):
            msg = f"Retry(fresh=) must be True or False, not {self.fresh!r}"
            raise DefinitionError(msg)

    def _parts(
        self,
        has_timeout: bool,  # noqa: FBT001 - called by Rust, by position
    ) -> tuple[int | None, float, float, float, float, bool, Callable[[BaseException], bool], bool]:
        """Return all of it as Rust reads it, by position (`rust/py/src/workflow.rs`)."""
        delay, max_delay = seconds(self.delay, "delay", zero=True), seconds(self.max_delay, "max_delay", zero=True)
        retries_timeout = has_timeout and self._covers_timeout()
        return (self.attempts, delay, self.backoff, max_delay, self.jitter, self.fresh, self.matches, retries_timeout)

    def matches(self, exc: BaseException) -> bool:
        """Whether an attempt that raised this exception is retried; a `BideError` if `on` is a function and raises."""
        # By type: `isinstance` also reads the exception's `__class__`, which may be a property that raises.
        raised, on = type(exc), self.on
        if not isinstance(on, tuple):
            return issubclass(raised, Exception) and not issubclass(raised, Skip) and _asked(on, exc)  # type: ignore[arg-type]
        if issubclass(raised, Skip) or not issubclass(raised, on):
            return False
        for cls in ONLY_IF_NAMED:
            if issubclass(raised, cls):
                return any(issubclass(one, cls) and issubclass(raised, one) for one in on)
        return True

    def _covers_timeout(self) -> bool:
        try:
            return self.matches(TaskTimeout("the attempt was not done in time"))
        except BideError:
            return False  # a function that reads what only its own exceptions have


def _checked(on: object) -> tuple[type[Exception], ...] | Callable[[Exception], bool]:
    """Return exception classes as a tuple, or a function as it is."""
    if callable(on) and not isinstance(on, type):
        if is_async(on):
            msg = f"Retry(on=) is {on!r}, a coroutine function: it must return True or False at once"
            raise DefinitionError(msg)
        return cast("Callable[[Exception], bool]", on)
    classes: list[type[Exception]] = []
    for cls in on if isinstance(on, tuple) else (on,):
        if not isinstance(cls, type) or not issubclass(cls, Exception):
            msg = f"Retry(on=) takes exception classes, or a function of an exception that returns a bool, not {cls!r}"
            raise DefinitionError(msg)
        classes.append(cls)
    return tuple(classes)


def _asked(on: Callable[[Any], bool], exc: BaseException) -> bool:
    """Return what the user's function says about an exception."""
    try:
        return bool(on(exc))
    except Exception as problem:
        name = getattr(on, "__qualname__", None) or repr(on)
        msg = (
            f"Retry(on={name}) raised {type(problem).__name__} ({problem}) when it was asked about "
            f"{type(exc).__name__}: let it return True or False for every exception"
        )
        raise BideError(msg) from problem
