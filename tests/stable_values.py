"""Values for the tests of the canonical digest, built by name so that another process can build the same ones.

As a script it prints the digest of each, and of a step's arguments: as `__main__`, under any CPython.
"""

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import json
import pathlib
import sys
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

NAMES = [f"name {n}" for n in range(20)]


class Mode(enum.StrEnum):
    """An enum."""

    FAST = "fast"
    SLOW = "slow"


class Access(enum.Flag):
    """Flags."""

    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Config:
    """A dataclass with unordered fields."""

    tags: frozenset[str]
    limits: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Slotted:
    """A dataclass with slots."""

    tags: set[str]


class Record(msgspec.Struct):
    """A struct."""

    modes: set[Mode]


class Pair(NamedTuple):
    """A named tuple."""

    left: set[str]
    right: Any


class Own(dict[str, int]):
    """A user's subclass of dict."""


def load(source: object) -> object:
    """A function that is passed as an argument."""
    return source


def capturing(value: object) -> Callable[[], object]:
    """Return a function with a captured value."""
    return lambda: value


VALUES: dict[str, Callable[[], Any]] = {
    "scalars": lambda: [None, True, 1, 1.5, float("nan"), -0.0, 2**200, 1j, "é", b"\xff", ...],
    "a set": lambda: set(NAMES),
    "a set of different things": lambda: {*NAMES, 1, 2.5, None, (1, frozenset(NAMES))},
    "a dict of a set": lambda: dict.fromkeys(set(NAMES), 1),
    "a dict of different keys": lambda: dict.fromkeys({*NAMES, 1, (2, 3)}, 1),
    "nested": lambda: [{"a": [dict.fromkeys(set(NAMES)), {frozenset({name}) for name in NAMES}]}],
    "containers": lambda: [
        Counter(NAMES),
        OrderedDict(a=1, b=2),
        defaultdict(list, a=[1]),
        deque([1], 3),
        Own(b=1, a=2),
    ],
    "a dataclass": lambda: Config(frozenset(NAMES), dict.fromkeys(set(NAMES), 1)),
    "a dataclass with slots": lambda: Slotted(set(NAMES)),
    "a struct": lambda: Record({Mode.FAST, Mode.SLOW}),
    "a named tuple": lambda: Pair(set(NAMES), [Config(frozenset())]),
    "members": lambda: [Mode.FAST, Access.READ | Access.WRITE, Access.READ],
    "paths": lambda: [pathlib.Path("a/b"), pathlib.PurePosixPath("c"), pathlib.PureWindowsPath("d:/e")],
    "times": lambda: [
        dt.datetime(2024, 1, 1, 2, 3, 4, 5, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        dt.date(2024, 2, 29),
        dt.time(1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1), "here")),
        dt.timedelta(1, 2, 3),
    ],
    "numbers": lambda: [decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=5), range(3)],
    "addresses": lambda: [ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8")],
    "a function and a class": lambda: [load, Config, len, pathlib.Path, functools.partial(load, {"a": 1})],
    "a function with a captured set": lambda: capturing(set(NAMES)),
    "a method": lambda: Pair({"a"}, 1).count,
}

if __name__ == "__main__":
    from bide._canonical import canonical
    from bide._steps import describe_step

    digests = {name: canonical(make(), 1 << 20).hex() for name, make in VALUES.items()}
    steps = {name: describe_step(load, (make(),), {}, "step")[1][:17].hex() for name, make in VALUES.items()}
    captured = {name: describe_step(capturing(make()), (), {}, "step")[1][:17].hex() for name, make in VALUES.items()}
    json.dump([digests, steps, captured], sys.stdout)
