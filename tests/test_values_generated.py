"""Any value of any annotation comes back as it was, or its writer gets an error: never another value, never late.

The values are of every kind that bide stores, nested in one another, with edge cases that a store may lose.
`form` defines "as it was" independently of the codec.
"""

import dataclasses
import enum
import time as clock
import zoneinfo
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bide
from bide._codec import Codec

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
ZONES = [BERLIN, zoneinfo.ZoneInfo("UTC"), zoneinfo.ZoneInfo("America/New_York"), zoneinfo.ZoneInfo("Asia/Kathmandu")]
OFFSETS = [UTC, timezone(timedelta(hours=1)), timezone(timedelta(hours=-9, minutes=-30))]
NAMED = [
    timezone(timedelta(hours=1), "CET"),
    timezone(timedelta(0), "WET"),
    timezone(timedelta(hours=1), "a]b"),
    timezone(timedelta(0), ""),
    timezone(timedelta(hours=-1, seconds=5), "[_name=é]"),
]
EDGES = [
    datetime(2026, 10, 25, 2, 30),  # noqa: DTZ001 - the repeated hour in Berlin, once it has a zone
    datetime(2026, 3, 29, 2, 30),  # noqa: DTZ001 - the missing hour
    datetime(2026, 11, 1, 1, 30),  # noqa: DTZ001 - New York's
    datetime(1850, 1, 1),  # noqa: DTZ001 - local mean time: an offset with seconds
    datetime(2026, 7, 1, 12, 0, 0, 5),  # noqa: DTZ001
]


class Mixed(enum.Enum):
    LOW = "low"
    HIGH = 2
    PAIR = (1, 2)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Label(str):
    __slots__ = ()


class Count(int):
    pass


class Stack(list):  # type: ignore[type-arg]
    pass


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees


@dataclasses.dataclass
class Seeded:
    x: int
    seed: dataclasses.InitVar[int] = 3


@dataclasses.dataclass
class Padded:
    x: int

    def __post_init__(self) -> None:
        self.x += 1


@dataclasses.dataclass
class Either:
    """A field that msgspec cannot decode."""

    where: Path | str


def padded(data: int) -> Padded:
    one = Padded(0)
    one.x = data
    return one


bide.codec(Mixed, lambda it: it.name, lambda name: Mixed[name])
bide.codec(Label, str, Label)
bide.codec(Count, int, Count)
bide.codec(Stack, list, Stack)
bide.codec(OrderedDict, lambda it: list(map(list, it.items())), lambda pairs: OrderedDict(map(tuple, pairs)))
bide.codec(Celsius, lambda it: it.degrees, Celsius)
bide.codec(Seeded, lambda it: it.x, Seeded)
bide.codec(Padded, lambda it: it.x, padded)
bide.codec(Either, lambda it: [isinstance(it.where, Path), str(it.where)], lambda it: Either((str, Path)[it[0]](it[1])))


class Patch(pydantic.BaseModel):
    name: str | None = None
    tags: set[str] = set()
    pairs: frozenset[frozenset[int]] = frozenset()
    more: "list[Patch]" = []
    at: datetime | None = None
    made: UUID = pydantic.Field(default_factory=lambda: UUID(int=7))


def patch(given: Any) -> Patch:
    return Patch(**given)


def moments() -> st.SearchStrategy[datetime]:
    zones = st.sampled_from([None, *ZONES, *OFFSETS, *NAMED])
    return st.builds(
        lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold),
        st.sampled_from(EDGES) | st.datetimes(),
        zones,
        st.sampled_from([0, 0, 1]),
    )


def times() -> st.SearchStrategy[time]:
    zones = st.sampled_from([None, *ZONES, *OFFSETS, *NAMED])
    return st.builds(
        lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.times(), zones, st.sampled_from([0, 0, 1])
    )


def models() -> st.SearchStrategy[Patch]:
    fields = {
        "name": st.none() | st.text(max_size=3),
        "tags": st.sets(st.text(max_size=3), max_size=4),
        "pairs": st.frozensets(st.frozensets(st.integers(0, 5), max_size=3), max_size=3),
        "at": st.none() | moments(),
        "made": st.uuids(),
    }
    return st.recursive(
        st.fixed_dictionaries({}, optional=fields).map(patch),
        lambda inner: st.fixed_dictionaries({"more": st.lists(inner, max_size=2)}, optional=fields).map(patch),
        max_leaves=3,
    )


powers = st.sampled_from([100, 4299, 4300, 5000]).map(lambda digits: 10**digits)  # hypothesis prints what it samples
numbers = st.integers() | st.sampled_from([2**53 + 1, -(2**63), 0, -1]) | powers | powers.map(int.__neg__)
floats = st.floats() | st.sampled_from([0.0, -0.0, 1e16, 5e-324])
texts = st.text(max_size=5) | st.sampled_from(["2026-03-28T12:00:00+01:00[Europe/Berlin]", "\ud800", "abcd", "]"])
decimals = st.decimals() | st.sampled_from(list(map(Decimal, ["-0", "0", "0.0", "sNaN", "NaN", "Infinity", "1E+3"])))
units = st.sampled_from(["Y", "M", "D", "h", "s", "ms", "us", "ns", ("s", 10), "W"])

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Any, st.none() | st.booleans() | numbers | floats | texts),
    (None, st.none()),
    (bool, st.booleans()),
    (int, numbers | st.booleans() | floats),
    (float, floats | st.booleans()),
    (str, texts | st.binary(max_size=3)),
    (bytes, st.binary(max_size=5) | texts),
    (Decimal, decimals),
    (UUID, st.uuids()),
    (date, st.dates()),
    (datetime, moments()),
    (time, times()),
    (timedelta, st.timedeltas()),
    (Path, st.sampled_from([Path("a/b"), Path(), PurePosixPath("x")])),
    (Colour, st.sampled_from(Colour)),
    (Mixed, st.sampled_from(Mixed)),
    (Label, st.builds(Label, st.text(max_size=3))),
    (Count, st.builds(Count, st.integers())),
    (Stack, st.builds(Stack, st.lists(st.integers(), max_size=3))),
    (OrderedDict, st.dictionaries(st.text(max_size=2), st.integers(), max_size=3).map(OrderedDict)),
    (Celsius, st.builds(Celsius, st.floats(allow_nan=False, allow_infinity=False))),
    (Seeded, st.builds(Seeded, st.integers())),
    (Padded, st.builds(Padded, st.integers())),
    (Either, st.builds(Either, st.sampled_from([Path("a"), "a"]))),
    (Patch, models()),
    (np.float32, st.floats(width=32).map(np.float32)),
    (np.int16, st.integers(-(2**15), 2**15 - 1).map(np.int16)),
    (np.datetime64, st.builds(np.datetime64, st.integers(0, 9999), units) | st.just(np.datetime64("NaT", "s"))),
    (np.timedelta64, st.builds(np.timedelta64, st.integers(-5, 5), units)),
]
HASHABLE = [
    leaf
    for leaf in LEAVES
    if leaf[0] not in {Stack, OrderedDict, Seeded, Padded, Either, Patch, Celsius, Any, np.timedelta64}
]


namedtuple: Any = NamedTuple
typed_dict: Any = TypedDict
GENERIC: dict[Any, Any] = {kind: kind for kind in (list, tuple, set, dict)}
"""The same, where a type checker would expect a type within the brackets."""


def holder(kind: str, annotation: Any) -> Any:
    """Return a class with one field of this annotation, and one with a default."""
    hints: dict[str, Any] = {"it": annotation, "n": int}
    if kind == "dataclass":
        return dataclasses.make_dataclass("Holder", [("it", annotation), ("n", int, 3)])
    if kind == "frozen":
        return dataclasses.make_dataclass("Holder", [("it", annotation), ("n", int, 3)], frozen=True, slots=True)
    if kind == "attrs":
        made = attrs.make_class("Holder", {"it": attrs.field(type=annotation), "_n": attrs.field(type=int, default=3)})
        made.__annotations__ = {"it": annotation, "_n": int}
        return made
    if kind == "struct":
        return msgspec.defstruct("Holder", [("it", annotation), ("n", int, 3)], rename="camel", tag=True)
    if kind == "array":
        return msgspec.defstruct("Holder", [("it", annotation), ("n", int, 3)], array_like=True)
    if kind == "namedtuple":
        return namedtuple("Holder", list(hints.items()))
    return typed_dict("Holder", hints)


KINDS = ["dataclass", "frozen", "attrs", "struct", "array", "namedtuple", "typeddict"]


@st.composite
def annotated(draw: st.DrawFn, depth: int = 2) -> tuple[Any, Any]:
    """Draw an annotation and, mostly, a value that fits it."""
    shape = (
        draw(st.sampled_from(["leaf", "list", "tuple", "pair", "set", "dict", "optional", "fields"]))
        if depth
        else "leaf"
    )
    if shape == "leaf":
        annotation, values = draw(st.sampled_from(LEAVES))
        return annotation, draw(values)
    if shape in {"set", "dict"}:
        annotation, values = draw(st.sampled_from(HASHABLE))
        try:
            if shape == "set":
                return GENERIC[set][annotation], draw(st.sets(values, max_size=4))
            inner, item = draw(annotated(depth=depth - 1))
            return GENERIC[dict][annotation, inner], dict.fromkeys(draw(st.lists(values, max_size=3)), item)
        except TypeError:  # a signalling NaN has no hash
            return int, 1
    annotation, value = draw(annotated(depth=depth - 1))
    if shape == "list":
        return GENERIC[list][annotation], [value] * draw(st.integers(0, 3))
    if shape == "tuple":
        return GENERIC[tuple][annotation, ...], (value,) * draw(st.integers(0, 3))
    if shape == "pair":
        other, second = draw(annotated(depth=depth - 1))
        return GENERIC[tuple][annotation, other], (value, second)
    if shape == "optional":
        return annotation | None if annotation is not None else None, None if draw(st.booleans()) else value
    cls = holder(draw(st.sampled_from(KINDS)), annotation)
    return cls, cls(value, 5) if hasattr(cls, "__attrs_attrs__") else cls(it=value, n=draw(st.integers(0, 3)))


def form(value: Any) -> Any:
    """Describe a value down to what a store could lose, as plain tuples."""
    cls = type(value)
    name = cls.__name__
    if isinstance(value, (datetime, time)):
        zone = value.tzinfo
        key = getattr(zone, "key", None) or (zone.tzname(None) if isinstance(zone, timezone) else str(zone))
        plain = value.replace(tzinfo=None, fold=0)
        return name, plain.isoformat(), value.fold, value.utcoffset(), key if zone else None
    if isinstance(value, pydantic.BaseModel):
        fields = {key: form(item) for key, item in vars(value).items()}
        if isinstance(fields.get("at"), tuple):
            fields["at"] = fields["at"][:4]  # pydantic has its own class for fixed offsets
        return name, fields, sorted(value.model_fields_set)
    if isinstance(value, dict):
        return name, [(form(key), form(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return name, sorted((form(item) for item in value), key=repr)
    if isinstance(value, np.generic):
        return name, str(value.dtype), repr(value)
    if isinstance(value, (list, tuple)):
        return name, [form(item) for item in value]
    if dataclasses.is_dataclass(value) or attrs.has(cls) or isinstance(value, (msgspec.Struct, Celsius)):
        names = getattr(value, "__struct_fields__", None) or getattr(cls, "__slots__", None) or vars(value)
        return name, [(one, form(getattr(value, one))) for one in names if not one.startswith("__")]
    return name, hex(value) if isinstance(value, int) else repr(value)


def shuffled(value: Any) -> Any:
    """Return an equal value whose sets were filled in another order, as with another hash seed."""
    if isinstance(value, (set, frozenset)):
        items = list(map(shuffled, value))
        return type(value)([*reversed(items)])
    if isinstance(value, Patch):
        other = value.model_copy()
        vars(other).update(tags=shuffled(value.tags), pairs=shuffled(value.pairs), more=shuffled(value.more))
        return other
    if type(value) is list:
        return list(map(shuffled, value))
    return value


@pytest.mark.alone
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(annotated())
def test_a_value_comes_back_unchanged_or_its_writer_gets_an_error(case: tuple[Any, Any]) -> None:
    annotation, value = case
    try:
        codec = Codec(annotation, "task 'make'")
    except bide.DefinitionError:
        return  # a key that JSON cannot have, say
    before = form(value)
    start = clock.perf_counter()
    try:
        data = codec.encode(value)
    except bide.SerializationError as refused:
        problem = str(refused)
    else:
        problem = ""
    assert clock.perf_counter() - start < 1
    if problem:
        assert problem.startswith("task 'make': result")
        return
    assert form(value) == before
    assert form(codec.decode(data)) == before
    assert codec.encode(codec.decode(data)) == data
    assert codec.encode(shuffled(value)) == data


@pytest.mark.parametrize("zone", ZONES, ids=str)
@pytest.mark.parametrize("hours", range(0, 24 * 365, 24 * 30))
def test_an_instant_in_any_zone_keeps_it_wherever_it_lies(zone: zoneinfo.ZoneInfo, hours: int) -> None:
    for minutes in range(0, 24 * 60 * 3, 30):
        at = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hours, minutes=minutes)).astimezone(zone)
        back = Codec(datetime).decode(Codec(datetime).encode(at))
        assert form(back) == form(at)
        assert back + timedelta(days=1) == at + timedelta(days=1)


HOURS = [  # around both changes of Berlin's clocks
    (datetime(2026, day[0], day[1], tzinfo=UTC) + timedelta(minutes=minutes)).astimezone(BERLIN)
    for day in ((10, 25), (3, 29))
    for minutes in range(0, 180, 20)
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["alone", "optional", "list", "key", "value", "set"])
def test_fields_of_every_kind_keep_a_zone_across_clock_changes(kind: str, way: str) -> None:
    ways: dict[str, tuple[Any, Any]] = {
        "alone": (datetime, lambda at: at),
        "optional": (datetime | None, lambda at: at),
        "list": (list[datetime], lambda at: [at]),
        "key": (dict[datetime, int], lambda at: {at: 1}),
        "value": (dict[str, datetime], lambda at: {"a]": at}),
        "set": (set[datetime], lambda at: {at}),
    }
    annotation, wrap = ways[way]
    cls: Any = holder(kind, annotation)
    codec = Codec(cls)
    for at in HOURS:
        value = cls(wrap(at), 1) if kind == "attrs" else cls(it=wrap(at), n=1)
        data = codec.encode(value)
        assert b"[Europe/Berlin]" in data
        assert form(codec.decode(data)) == form(value)


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize(
    "at", [*EDGES[:2], EDGES[0].replace(minute=0), EDGES[1].replace(minute=59, second=59)], ids=str
)
def test_a_wall_clock_time_that_comes_twice_or_never_is_kept(at: datetime, fold: int) -> None:
    value = at.replace(tzinfo=BERLIN, fold=fold)
    assert form(round_trip(datetime, value)) == form(value)
    assert form(round_trip(dict[str, list[datetime | None]], {"k": [value]})) == form({"k": [value]})


def round_trip(annotation: Any, value: Any) -> Any:
    return Codec(annotation).decode(Codec(annotation).encode(value))


@pytest.mark.parametrize("value", [time(12, tzinfo=BERLIN), time(1, 2, 3, 4, tzinfo=NAMED[0]), time(1, tzinfo=UTC)])
def test_a_time_keeps_its_zone(value: time) -> None:
    assert form(Codec(time).decode(Codec(time).encode(value))) == form(value)
    assert form(Codec(list[time]).decode(Codec(list[time]).encode([value]))) == form([value])


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (datetime(2026, 3, 28, 12), b'j"2026-03-28T12:00:00"'),  # noqa: DTZ001
        (datetime(2026, 3, 28, 12, tzinfo=UTC), b'j"2026-03-28T12:00:00Z"'),
        (datetime(2026, 3, 28, 12, tzinfo=OFFSETS[1]), b'j"2026-03-28T12:00:00+01:00"'),
        (datetime(2026, 3, 28, 12, tzinfo=BERLIN), b'j"2026-03-28T12:00:00+01:00[Europe/Berlin]"'),
        (datetime(2026, 3, 28, 12, tzinfo=NAMED[0]), b'j"2026-03-28T12:00:00+01:00[_name=CET]"'),
        (datetime(2026, 10, 25, 2, tzinfo=BERLIN, fold=1), b'j"2026-10-25T02:00:00+01:00[Europe/Berlin]"'),
    ],
)
def test_the_stored_form_of_a_moment_never_changes(value: datetime, data: bytes) -> None:
    assert Codec(datetime).encode(value) == data
    assert form(Codec(datetime).decode(data)) == form(value)


def test_text_that_looks_like_a_moment_is_text() -> None:
    text = "2026-03-28T12:00:00+01:00[Europe/Berlin]"

    @dataclasses.dataclass
    class Both:
        at: datetime
        text: str
        any: Any

    value = Both(datetime(2026, 3, 28, 12, tzinfo=BERLIN), text, [text])
    assert form(Codec(Both).decode(Codec(Both).encode(value))) == form(value)


class OtherZone(zoneinfo.ZoneInfo):
    pass


@pytest.mark.parametrize("zone", [OtherZone("Europe/Berlin")])
@pytest.mark.parametrize("annotation", [datetime, datetime | None])
def test_a_zone_that_cannot_be_kept_is_refused(zone: Any, annotation: Any) -> None:
    with pytest.raises(bide.SerializationError, match="would come back as"):
        Codec(annotation).encode(datetime(2026, 3, 28, 12, tzinfo=zone))


# --- integers for floats -------------------------------------------------------------------------------------------


def exact(number: int) -> bool:
    return abs(number) < 10**300 and float(number) == number


@settings(max_examples=100, deadline=None)
@given(numbers, st.sampled_from(["alone", "list", "value", "key", "optional", *KINDS]))
def test_an_integer_for_a_float_is_taken_exactly_or_not_at_all(number: int, way: str) -> None:
    cases: dict[str, tuple[Any, Any, Any]] = {
        "alone": (float, number, lambda back: back),
        "list": (list[float], [1.5, number], lambda back: back[1]),
        "value": (dict[str, float], {"a": number}, lambda back: back["a"]),
        "key": (dict[float, int], {number: 1}, lambda back: next(iter(back))),
        "optional": (float | None, number, lambda back: back),
    }
    annotation, value, got = cases.get(way, (None, None, None))
    if annotation is None:
        annotation = holder(way, float)
        value = annotation(number, 1) if way == "attrs" else annotation(it=number, n=1)
        got = lambda back: back["it"] if way == "typeddict" else back.it  # noqa: E731
    codec = Codec(annotation)
    if exact(number):
        back = got(codec.decode(codec.encode(value)))
        assert type(back) is float
        assert back == number
    else:
        with pytest.raises(bide.SerializationError):
            codec.encode(value)


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**60 + 1, 10**17 + 1])
@pytest.mark.parametrize("reader", [float, list[float], dict[str, float], list[Any]])
def test_a_reader_never_rounds_an_integer(number: int, reader: Any) -> None:
    written = {float: number, list[float]: [0.5, number], dict[str, float]: {"a": number}}.get(reader, [number])
    data = Codec().encode(written)
    if reader == list[Any]:
        assert Codec(reader).decode(data) == written
    else:
        with pytest.raises(bide.SerializationError, match="float"):
            Codec(reader).decode(data)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_floats_of_many_digits_are_no_integers(value: list[float]) -> None:
    assert Codec(list[float]).decode(Codec(list[float]).encode(value)) == value


# --- generic classes -----------------------------------------------------------------------------------------------

T = TypeVar("T")
U = TypeVar("U")


@dataclasses.dataclass
class Box(Generic[T]):
    it: T
    many: list[T]
    more: dict[str, T | None] = dataclasses.field(default_factory=dict)


class Two(msgspec.Struct, Generic[T, U]):
    first: T
    pair: tuple[U, T]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Box[datetime], Box(HOURS[0], HOURS, {"a": HOURS[1], "b": None})),
        (Two[set[int], datetime], Two({3, 1, 20}, (HOURS[2], {5}))),
        (list[Box[Label]], [Box(Label("x"), [Label("y")], {"a": Label("z")})]),
        (Box[Any], Box[Any](1, ["a"])),
        (Box, Box[Any](1, ["a"])),
    ],
    ids=str,
)
def test_generic_classes_are_gone_through(annotation: Any, value: Any) -> None:
    assert form(Codec(annotation).decode(Codec(annotation).encode(value))) == form(value)


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63) - 1, 10**400])
@pytest.mark.parametrize(
    ("annotation", "wrap", "path"),
    [
        (list[float], lambda n: [1.0, n], r"\[1\]"),
        (dict[str, list[float | None]], lambda n: {"a": [n]}, r'\["a"\]\[0\]'),
        (tuple[str, float], lambda n: ("a", n), r"\[1\]"),
        (set[float], lambda n: {n}, r"\{\.\.\.\}"),
        (float | None, lambda n: n, ""),
        (list[Box[float]], lambda n: [Box(1.0, [n], {})], r"\[0\]\.many\[0\]"),
    ],
)
def test_an_integer_that_no_float_holds_is_named_by_its_place(
    annotation: Any, wrap: Any, path: str, number: int
) -> None:
    with pytest.raises(bide.SerializationError, match=f"^task 'make': result{path} = -?[0-9.]+ is an integer that no"):
        Codec(annotation, "task 'make'").encode(wrap(number))


def test_a_generic_class_rounds_no_integer() -> None:
    with pytest.raises(bide.SerializationError, match="no float represents"):
        Codec(Box[float]).decode(b'j{"it":9007199254740993,"many":[]}')
