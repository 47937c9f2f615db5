"""Datetimes and times with a zone, as RFC 9557 text: ``2026-03-28T12:00:00+01:00[Europe/Berlin]``.

msgspec writes the offset only. A moment whose zone is more than a fixed offset, a `ZoneInfo` or a `timezone` with a
name or with seconds, is written with the zone's name in brackets; msgspec writes every other moment.
"""

import sys
from datetime import datetime, time, timedelta, timezone
from typing import Any, TypeVar, cast

Moment = TypeVar("Moment", datetime, time)

SUFFIX = b']"'
"""The end of a moment with a zone, in JSON: bytes without it contain no such moment."""

_MINUTE = timedelta(minutes=1)
"""The unit that msgspec rounds an offset to."""

_NAME = "_name="
"""The prefix of a fixed offset's name, which stands in brackets like that of a zone; `_` is for private use."""


def written(moment: datetime | time) -> object:
    """Return the text of a moment with its zone; the moment itself if msgspec's text has everything."""
    zone: Any = moment.tzinfo
    name = None
    if _is_zone(zone):
        name = zone.key
    elif type(zone) is timezone and (_own_name(zone) is not None or zone.utcoffset(None) % _MINUTE):
        name = _NAME + zone.tzname(None)
    if not name:
        return moment  # if that loses something, the comparison with the decoded value refuses it
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
    for fold in (0, 1):  # the offset decides between two equal wall clock times
        local = moment.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == moment.utcoffset():
            return local
    return moment.astimezone(zone)  # the rules of the zone have changed since: keep the instant


def same(a: datetime | time, b: datetime | time) -> bool:
    """Return whether two moments agree in wall clock, fold, offset and zone.

    `==` does not say so: between zones, Python calls moments in a repeated hour always unequal, and compares all other
    moments without their zones.
    """
    return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and same_zone(a, b)


def same_zone(a: datetime | time, b: datetime | time) -> bool:
    """Return whether two moments have the same zone and the same offset in it."""
    return a.utcoffset() == b.utcoffset() and _zone(a.tzinfo) == _zone(b.tzinfo)


def _zone(zone: Any) -> object:  # noqa: ANN401 - any tzinfo
    """Return what distinguishes this zone from others."""
    if _is_zone(zone):
        return "zone", zone.key
    if type(zone) is timezone:
        return timezone, zone.utcoffset(None), _own_name(zone)
    if zone is not None and type(zone).__module__.partition(".")[0] == "pydantic_core":  # a fixed offset
        return timezone, cast("timedelta", zone.utcoffset(None)), None
    return zone  # of another kind, which would not come back the same


def _is_zone(zone: Any) -> bool:  # noqa: ANN401 - any tzinfo
    """Return whether this is a named ZoneInfo, without importing `zoneinfo`: creating one has imported it."""
    cls = getattr(sys.modules.get("zoneinfo"), "ZoneInfo", None)
    return cls is not None and type(zone) is cls and zone.key is not None


def _own_name(zone: timezone) -> str | None:
    """Return the name that a fixed offset was given; None if it has none."""
    name = zone.tzname(None)
    return None if name == timezone(zone.utcoffset(None)).tzname(None) else name
