"""`Limit`: how many bodies of some tasks execute, are in flight or start, in all runners of a store; and `limits()`."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from bide._duration import count, seconds
from bide._errors import DefinitionError
from bide._text import check_text, shown

if TYPE_CHECKING:
    from bide import _core

MOST = 2**31 - 1
"""The largest number of a limit."""

LONGEST_RATE = 366 * 86_400.0
"""The longest span of a rate, in seconds."""


class _Named(msgspec.Struct, frozen=True):
    name: str


class Limit(_Named, frozen=True, kw_only=True):
    """Limits the tasks that it is given to by `@bide.task(limit=...)`, in all runners of a store together.

    `executing` is how many of their bodies execute at once, `in_flight` how many attempts are begun and have not ended,
    with those whose bodies wait, and `rate=(100, 60)` how many attempts start in any 60 seconds. With `key`, the name
    of an input or of a task that a limited task depends on, each of its values has a limit of its own.

    Tasks with the same `name` share a limit; if it is defined with other numbers, the newest definition counts. What is
    held back takes no slot, starts by priority and age, and is shown by `why` and `limits`.
    """

    executing: int | None = None
    in_flight: int | None = None
    rate: tuple[int, float | timedelta] | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        """Check every field, and turn the span of the rate into seconds."""
        put = partial(msgspec.structs.force_setattr, self)
        if not isinstance(self.name, str) or not self.name.strip():
            msg = f"Limit takes a name that is not empty, not {self.name!r}"
            raise DefinitionError(msg)
        check_text(self.name, "Limit")
        what = f"Limit({self.name!r})"
        if self.executing is not None:
            put("executing", count(self.executing, f"{what}: executing", MOST))
        if self.in_flight is not None:
            put("in_flight", count(self.in_flight, f"{what}: in_flight", MOST))
        if self.rate is not None:
            put("rate", _rate(self.rate, what))
        if self.executing is None and self.in_flight is None and self.rate is None:
            msg = f"{what} limits nothing: give it executing=, in_flight= or rate="
            raise DefinitionError(msg)
        if self.key is not None and (not isinstance(self.key, str) or not self.key):
            msg = f"{what}: key is the name of an input or of a task, not {self.key!r}"
            raise DefinitionError(msg)

    def _parts(self) -> tuple[str, int | None, int | None, int | None, float | None, str | None]:
        """Return all of it as Rust reads it, by position (`rust/py/src/limits.rs`)."""
        times, span = (None, None) if self.rate is None else self.rate
        return (
            self.name,
            self.executing,
            self.in_flight,
            times,
            None if span is None else seconds(span, "rate"),
            self.key,
        )


def _rate(rate: object, what: str) -> tuple[int, float]:
    if not isinstance(rate, tuple) or len(rate) != 2:  # noqa: PLR2004 - as the message says
        msg = f"{what}: rate is a tuple of a number of starts and seconds, such as (100, 60), not {rate!r}"
        raise DefinitionError(msg)
    span = seconds(rate[1], f"{what}: the span of rate")
    if not 0.001 <= span <= LONGEST_RATE:  # noqa: PLR2004 - as the message says
        msg = f"{what}: the span of rate must be between 0.001 seconds and 366 days, not {rate[1]!r}"
        raise DefinitionError(msg)
    return count(rate[0], f"{what}: the number of rate", MOST), span


class LimitUse(msgspec.Struct, frozen=True):
    """How much of a limit is used, for one value of its key, in all runners of the store.

    `key` is that value as JSON text, None for a limit without a key. `executing` counts bodies, if the limit does,
    `in_flight` attempts, `started` the starts within the span of the rate, and `waiting` what is held back.
    """

    key: str | None
    executing: int
    in_flight: int
    started: int
    waiting: int


class LimitInfo(msgspec.Struct, frozen=True):
    """A limit of a store, as it was defined last, and how much of it is used."""

    limit: Limit
    uses: tuple[LimitUse, ...]

    def __str__(self) -> str:
        """Describe it in a line, and one for each value of its key of which something is used."""
        one = self.limit
        most = {"executing": one.executing, "in_flight": one.in_flight, "started": one.rate and one.rate[0]}
        lines = [f"limit {shown(one.name)!r}{'' if one.key is None else f' by {shown(one.key)!r}'}"]
        for use in self.uses:
            parts = [f"{getattr(use, name)} of {limit} {name}" for name, limit in most.items() if limit is not None]
            where = "" if use.key is None else f"{shown(use.key)}: "
            lines.append(f"  {where}{', '.join(parts)}, {use.waiting} held back")
        return "\n".join(lines)


class HeldBack(msgspec.Struct, frozen=True):
    """The limit that holds a task back: `counts` is what of it is used up, and `place` where the task stands.

    `counts` is "executing", "in_flight" or "rate"; None until the store was asked. `place`, from 1, is among the
    `waiting` tasks of this runner that the limit holds back, for this value of its `key`.
    """

    limit: str
    key: str | None
    counts: str | None
    place: int
    waiting: int

    def __str__(self) -> str:
        """Describe it."""
        key = "" if self.key is None else f" for {shown(self.key)}"
        counts = "" if self.counts is None else f" ({self.counts})"
        return f"limit {shown(self.limit)!r}{key}{counts}, as number {self.place} of {self.waiting}"


def limits(core: _core.Runner) -> list[LimitInfo]:
    """Return the limits of a store."""
    found = []
    for name, executing, in_flight, times, span, key, uses in core.limits():
        rate = None if times is None or span is None else (times, span)
        limit = Limit(name, executing=executing, in_flight=in_flight, rate=rate, key=key)
        shown = [
            LimitUse(value or None, bodies if executing else 0, attempts, started, waiting)
            for value, bodies, attempts, started, waiting in uses
        ]
        found.append(LimitInfo(limit, tuple(shown)))
    return found
