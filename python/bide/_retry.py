"""`Retry`: when a failed task is tried again. The core computes and stores the delays."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from math import inf

import msgspec

from bide._duration import count, number, seconds
from bide._errors import CallbackRejected, DefinitionError, SerializationError, Skip, TaskTimeout, WaitTimeout

ONLY_IF_NAMED = (WaitTimeout, SerializationError, CallbackRejected)
"""Errors that another attempt seldom fixes: `on=(Exception,)` does not include them."""


class Retry(msgspec.Struct, frozen=True):
    """Try a failed task again: at most `attempts` in all, after `delay` seconds times `backoff` each time.

    The delay is at most `max_delay` and varies by `jitter` (0.25 is up to a quarter more or less). Only the
    exceptions in `on` are retried, `WaitTimeout`, `SerializationError` and `CallbackRejected` only if they are named
    there.
    A new attempt keeps the journal without the failed entries at its end; `fresh=True` drops all of it.
    """

    attempts: int = 3
    delay: float | timedelta = 1.0
    backoff: float = 2.0
    max_delay: float | timedelta = 60.0
    jitter: float = 0.25
    on: type[Exception] | tuple[type[Exception], ...] = (Exception,)
    fresh: bool = False

    def __post_init__(self) -> None:
        """Check every field, and turn durations into seconds."""
        put = partial(msgspec.structs.force_setattr, self)
        put("attempts", count(self.attempts, "Retry(attempts=)"))
        put("delay", seconds(self.delay, "Retry(delay=)", zero=True))
        put("backoff", number(self.backoff, "Retry(backoff=)", 1.0, inf))
        put("max_delay", seconds(self.max_delay, "Retry(max_delay=)", zero=True))
        put("jitter", number(self.jitter, "Retry(jitter=)", 0.0, 1.0))
        named = self.on if isinstance(self.on, tuple) else (self.on,)
        for cls in named:
            if not isinstance(cls, type) or not issubclass(cls, Exception):
                msg = f"Retry(on=) takes exception classes, not {cls!r}"
                raise DefinitionError(msg)
        put("on", named)
        if not isinstance(self.fresh, bool):
            msg = f"Retry(fresh=) must be True or False, not {self.fresh!r}"
            raise DefinitionError(msg)

    def _parts(self) -> tuple[int, float, float, float, float, bool, Callable[[BaseException], bool], bool]:
        """Return all of it as Rust reads it, by position (`rust/py/src/workflow.rs`)."""
        delay, max_delay = seconds(self.delay, "delay", zero=True), seconds(self.max_delay, "max_delay", zero=True)
        retries_timeout = self.matches(TaskTimeout())
        return (self.attempts, delay, self.backoff, max_delay, self.jitter, self.fresh, self.matches, retries_timeout)

    def matches(self, exc: BaseException) -> bool:
        """Whether an attempt that raised this exception is retried."""
        # By type: `isinstance` also reads the exception's `__class__`, which may be a property that raises.
        raised = type(exc)
        if issubclass(raised, Skip) or not issubclass(raised, self.on):
            return False
        for cls in ONLY_IF_NAMED:
            if issubclass(raised, cls):
                named = self.on if isinstance(self.on, tuple) else (self.on,)
                return any(issubclass(one, cls) and issubclass(raised, one) for one in named)
        return True
