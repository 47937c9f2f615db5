"""Datetimes and times with a zone, as RFC 9557 text: ``2026-03-28T12:00:00+01:00[Europe/Berlin]``.

msgspec writes the offset only. A moment whose zone is more than a fixed offset, a `ZoneInfo` or a `timezone` with a
name or with seconds, is written with the zone's name in brackets; every other moment is left to msgspec.
"""

import sys
from datetime import datetime, time, timedelta, timezone
from typing import Any, TypeVar, cast

Moment = TypeVar("Moment", datetime, time)

SUFFIX = b']"'
"""Ends the text of a moment with a zone, in JSON: bytes without it need no closer look."""

_MINUTE = timedelta(minutes=1)
"""What msgspec rounds an offset to."""

_NAME = "_name="
"""Marks the name of a fixed offset, in brackets like that of a zone; RFC 9557 keeps `_` for private use."""


def written(moment: datetime | time) -> object:
    """Return the text of a moment with its zone; the moment itself if msgspec's text says everything."""
    zone: Any = moment.tzinfo
    name = None
    if _is_zone(zone):
        name = zone.key
    elif type(zone) is timezone and (_own_name(zone) is not None or zone.utcoffset(None) % _MINUTE):
        name = _NAME + zone.tzname(None)
    if not name:
        return moment  # the comparison with what comes back refuses what is lost
    return f"{moment.isoformat()}[{name}]"


def parsed(text: str, kind: type[Moment]) -> Moment | None:
    """Return the moment of a text with a zone; None for a text without one."""
    if not text.endswith("]"):
        return None
    text, bracket, name = text[:-1].partition("[")
    if not bracket:
        return None
    moment = kind.fromisoformat(text)
    if name.startswith(_NAME):
        offset = moment.utcoffset()
        if offset is None:
            msg = f"{text!r} has a name of an offset, and no offset"
            raise ValueError(msg)
        named = timezone(offset, name.removeprefix(_NAME))
        return moment.replace(tzinfo=named if _own_name(named) is not None else timezone(offset))
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - most processes never need it

    zone = ZoneInfo(name)
    if isinstance(moment, time) or moment.tzinfo is None:
        return moment.replace(tzinfo=zone)
    for fold in (0, 1):  # the offset says which of two equal wall clock times is meant
        local = moment.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == moment.utcoffset():
            return local
    return moment.astimezone(zone)  # the rules of the zone have changed since: the instant stands


def same(a: datetime | time, b: datetime | time) -> bool:
    """Whether two moments agree in wall clock, fold, offset and zone.

    Not by `==`: across zones Python calls moments in the repeated hour unequal whatever they are, and all others
    equal whatever their zones.
    """
    return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and same_zone(a, b)


def same_zone(a: datetime | time, b: datetime | time) -> bool:
    """Whether two moments have one zone, and one offset in it."""
    return a.utcoffset() == b.utcoffset() and _zone(a.tzinfo) == _zone(b.tzinfo)


def _zone(zone: Any) -> object:  # noqa: ANN401 - any tzinfo
    """Return what tells one zone from another."""
    if _is_zone(zone):
        return "zone", zone.key
    if type(zone) is timezone:
        return timezone, zone.utcoffset(None), _own_name(zone)
    if zone is not None and type(zone).__module__.partition(".")[0] == "pydantic_core":  # a fixed offset
        return timezone, cast("timedelta", zone.utcoffset(None)), None
    return zone  # whatever it is, it would come back as another


def _is_zone(zone: Any) -> bool:  # noqa: ANN401 - any tzinfo
    """Whether this is a ZoneInfo; who has none has not imported its module."""
    zoneinfo = sys.modules.get("zoneinfo")
    return zoneinfo is not None and type(zone) is zoneinfo.ZoneInfo and zone.key is not None


def _own_name(zone: timezone) -> str | None:
    """Return the name that a fixed offset was given; None if it goes by its offset."""
    name = zone.tzname(None)
    return None if name == timezone(zone.utcoffset(None)).tzname(None) else name
