"""Durations and moments as users write them, turned into plain numbers.

One place decides what counts as a duration (seconds or a `timedelta`) and as a moment (a `datetime` that
knows its time zone), so that every refusal reads the same. Nothing here looks at a clock.
"""

import math
from datetime import UTC, datetime, timedelta
from numbers import Real
from typing import Any

from bide._errors import DefinitionError

LONGEST = 100 * 365.25 * 86400.0
"""Longest accepted duration, 100 years: more is a slip of units, and it keeps every deadline representable."""


def seconds(value: object, what: str, *, zero: bool = False) -> float:
    """Return `value` as seconds; `what` names it in an error, and `zero` says whether 0 is meaningful."""
    number = value.total_seconds() if isinstance(value, timedelta) else as_float(value)
    if number is None:
        msg = f"{what} must be seconds (a number) or a timedelta, not {value!r}"
        raise DefinitionError(msg)
    if math.isnan(number):
        msg = f"{what} must be a number of seconds, not NaN"
        raise DefinitionError(msg)
    if number < 0 or (number == 0 and not zero):
        msg = f"{what} must be {'zero or more' if zero else 'positive'}, not {value!r}"
        raise DefinitionError(msg)
    if number > LONGEST:
        msg = f"{what} is {value!r}, more than 100 years: durations are in seconds"
        raise DefinitionError(msg)
    return number


def as_float(value: Any) -> float | None:  # noqa: ANN401 - anything
    """Return a number as a float, infinite if it is too large for one; None if it is no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, 1 if abs(value) == value else -1)  # type checkers cannot compare a Real with 0
    except TypeError:
        return None  # numpy.timedelta64, which numpy counts among the whole numbers


def optional_seconds(value: object, what: str, *, zero: bool = False) -> float | None:
    """Like `seconds`, with None for "no limit"."""
    return None if value is None else seconds(value, what, zero=zero)


def moment(value: object, what: str) -> datetime:
    """Return an aware datetime in UTC; a naive one is refused, because it means another time on another machine."""
    if not isinstance(value, datetime):
        msg = f"{what} must be a datetime, not {value!r}"
        raise DefinitionError(msg)
    if value.utcoffset() is None:
        msg = f"{what} must know its time zone, but {value!r} is naive: use datetime.now(UTC), or .astimezone()"
        raise DefinitionError(msg)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        msg = f"{what} is {value!r}, which has no equal in UTC"
        raise DefinitionError(msg) from None


def number(value: object, what: str, low: float, high: float) -> float:
    """Return a plain factor within `low` and `high`, such as a backoff or a jitter."""
    given = as_float(value)
    if given is None or not low <= given <= high:
        limits = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
        msg = f"{what} must be a number of {limits}, not {value!r}"
        raise DefinitionError(msg)
    if math.isinf(given):
        msg = f"{what} must be finite"
        raise DefinitionError(msg)
    return given


def count(value: object, what: str, most: int = 2**31 - 1) -> int:
    """Return a whole number of at least one, such as a number of attempts."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{what} must be a whole number of at least 1, not {value!r}"
        raise DefinitionError(msg)
    if value > most:
        msg = f"{what} is {value!r}, more than {most:,}"
        raise DefinitionError(msg)
    return int(value)
