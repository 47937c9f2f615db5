"""What `submit` and its relatives take beside the inputs of a run: tags, priority, and when it begins."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from bide._duration import moment, seconds
from bide._errors import DefinitionError
from bide._text import check_text, is_text
from bide._waits import Duration

MOST = 2**31


class Options(msgspec.Struct, frozen=True):
    """They cross into Rust as one value (`rust/py/src/options.rs`)."""

    tags: dict[str, str]
    priority: int
    start_at: int | None
    """Microseconds since 1970."""


def options(
    what: str,
    tags: Mapping[str, str] | None,
    priority: int,
    start_at: datetime | None,
    start_after: Duration | None,
    now: Callable[[], float],
) -> Options | None:
    """Return the options of runs that `what` creates, checked; None for none. `now` is the clock of their runner."""
    if tags is None and priority == 0 and start_at is None and start_after is None:
        return None
    if isinstance(priority, bool) or not isinstance(priority, int) or not -MOST <= priority < MOST:
        msg = f"{what}: priority must be a whole number, higher first, not {priority!r}"
        raise DefinitionError(msg)
    if start_at is not None and start_after is not None:
        msg = f"{what} takes start_at or start_after, not both"
        raise DefinitionError(msg)
    return Options(check_tags(tags, what), int(priority), _start(what, start_at, start_after, now))


def check_tags(tags: Mapping[str, str] | None, what: str) -> dict[str, str]:
    """Return tags as a dict, after checking that names and values are texts."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        msg = f'{what}: tags must be a dict of texts, such as {{"customer": "7"}}, not {tags!r}'
        raise DefinitionError(msg)
    checked: dict[str, str] = {}
    for name, value in tags.items():
        if not isinstance(name, str) or not isinstance(value, str):
            hint = f": write {str(value)!r}" if isinstance(name, str) and isinstance(value, (int, float)) else ""
            msg = f"{what}: names and values of tags are texts, but {name!r} is {value!r}{hint}"
            raise DefinitionError(msg)
        checked[check_text(name, f"{what}: the name of a tag")] = value
        if not is_text(value):
            msg = f"{what}: the tag {name!r} is {value!r}, which has a lone surrogate and is not text"
            raise DefinitionError(msg)
    return checked


def _start(what: str, start_at: datetime | None, start_after: Duration | None, now: Callable[[], float]) -> int | None:
    if start_after is not None:
        after = seconds(start_after, f"{what}: start_after", zero=True)
        return int((now() + after) * 1_000_000) if after > 0 else None
    if start_at is None:
        return None
    since = moment(start_at, f"{what}: start_at") - datetime(1970, 1, 1, tzinfo=UTC)
    return max(since // timedelta(microseconds=1), 0)
