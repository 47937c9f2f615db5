"""Values: a stored value comes back the same, or the writer gets an error with its path."""

import dataclasses
import enum
import functools
import logging
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bide
from bide._codec import Codec
from conftest import shown

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


Untyped = namedtuple("Untyped", "a")  # noqa: PYI024 - the untyped kind is under test


class Colour(enum.Enum):
    RED = "red"


class Level(enum.StrEnum):
    HIGH = "high"


@dataclasses.dataclass
class Point:
    x: Any
    y: int = 0


@dataclasses.dataclass
class Point3(Point):
    z: int = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int


@attrs.define
class Box:
    inner: Any
    _secret: int = 1


class Record(msgspec.Struct):
    at: datetime
    tags: set[str] = msgspec.field(default_factory=set)


class Pair(NamedTuple):
    left: int
    right: str


class Row(TypedDict):
    id: int


class Model(pydantic.BaseModel):
    name: str
    when: datetime = pydantic.Field(alias="When")
    inner: "Model | None" = None


class Secretive(pydantic.BaseModel):
    x: float
    _note: str = pydantic.PrivateAttr("")

    def noting(self, note: str) -> "Secretive":
        self._note = note
        return self


class Celsius:
    """A registered class without an __eq__."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees


class Unknown:
    """An unregistered class."""


bide.codec(Celsius, lambda value: value.degrees, Celsius)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def exactly(a: object, b: object) -> bool:
    """Whether types and values are equal at every level; independent of the codec's own comparison."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(exactly, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(exactly(a[key], b[key]) for key in a)
    return a == b


@given(json_values)
def test_any_json_value_comes_back_the_same(value: object) -> None:
    codec = Codec()
    data = codec.encode(value)
    assert exactly(codec.decode(data), value)
    assert codec.encode(codec.decode(data)) == data


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"n"),
        (True, b"t"),
        (False, b"f"),
        (-12, b"i-12"),
        (1.5, b"d1.5"),
        (1e16, b"d1e+16"),
        (-0.0, b"d-0.0"),
        ("é", b"s\xc3\xa9"),
        ("", b"s"),
        ([1, "a", None], b'j[1,"a",null]'),
        ({"b": 1, "a": {}}, b'j{"b":1,"a":{}}'),
    ],
)
def test_the_stored_format_never_changes(value: object, data: bytes) -> None:
    assert Codec().encode(value) == data
    assert exactly(Codec().decode(data), value)


@pytest.mark.parametrize("make", [lambda: 10**30, lambda: -(10**30), lambda: 10**4300 - 1, lambda: -(2**63) - 1])
def test_an_int_of_up_to_4300_digits_comes_back(make: Callable[[], int]) -> None:
    value = make()
    for annotation in (int, Any, int | None):
        codec = Codec(annotation)
        assert codec.decode(codec.encode(value)) == value


ROUND_TRIPS: list[Any] = [  # an annotation and a value of it
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[int, str], {1: "a"}),
    (dict[UUID, int], {UUID(int=5): 5}),
    (bytes, b"\x00\xff"),
    (Decimal, Decimal("1.10")),
    (datetime, datetime(2026, 1, 2, tzinfo=UTC)),
    (datetime, datetime(2026, 1, 2)),  # noqa: DTZ001 - naive values are values like any other
    (timedelta, timedelta(days=1, microseconds=3)),
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (Path, Path("a/b")),
    (Path | None, None),
    (Path | None, Path("a")),
    (list[Path], [Path("a")]),
    (PurePosixPath, PurePosixPath("/a")),
    (Point, Point([1, {"a": None}])),
    (list[Point3], [Point3(1, z=4)]),
    (Box, Box("x")),
    pytest.param(Record, Record(datetime(2026, 1, 1, tzinfo=UTC), {"a", "b"}), id="Record"),
    (Pair, Pair(1, "a")),
    (Row, {"id": 3}),
    (Model, Model(name="a", When=NOON, inner=Model(name="b", When=NOON))),
    (dict[str, Model], {"k": Model(name="a", When=NOON)}),
    (Secretive, Secretive(x=1.5)),
    (Celsius, Celsius(3.5)),
    (list[Celsius], [Celsius(1.0)]),
    (np.float64, np.float64(1.5)),
    (np.int32, np.int32(-4)),
    (list[np.float32], [np.float32(0.1)]),
    (np.bool_, np.bool_(True)),
    (Literal["a", "b"], "a"),
    (NewType("Id", int), 7),
    (Annotated[int, msgspec.Meta(gt=0)], 3),
    (Sequence[int], [1, 2]),
    (object, {"a": 1}),
    (int | str, "x"),
    (list[int] | str, [1]),
    (None, None),
]


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=shown)
def test_a_value_comes_back_by_its_annotation(annotation: object, value: object) -> None:
    codec = Codec(annotation)
    data = codec.encode(value)
    back = codec.decode(data)
    assert type(back) is type(value)
    assert codec.encode(back) == data
    if not isinstance(value, Celsius) and not (isinstance(value, list) and isinstance(value[0], Celsius)):
        assert back == value


async def coroutine() -> None: ...


def unawaited() -> object:
    """Return a coroutine; it is closed, so that no warning says the same."""
    made = coroutine()
    made.close()
    return made


cycle: list[Any] = []
cycle.append({"again": cycle})

REFUSED: list[tuple[object, object, str]] = [
    (Any, {"a": [0, 1, {"x": float("nan")}]}, 'result["a"][2]["x"] = nan cannot be stored'),
    (Any, float("inf"), "result = inf cannot be stored"),
    (float, float("nan"), "result = nan cannot be stored"),
    (list[float], [1.0, float("-inf")], "result[1] = -inf cannot be stored"),
    (float | None, float("nan"), "result = nan cannot be stored"),
    (Any, {"a": (1, 2)}, 'result["a"] = (1, 2) is tuple and would come back as list'),
    (Any, [{1}], "result[0] = {1} is set and would come back as list"),
    (Any, {"a": {1: 2}}, 'result["a"][1] = 1 is int as a key and would come back as str'),
    (Any, {1: "a", "1": "b"}, "result[1] = 1 is int as a key and would come back as str"),
    (Any, {1: "a", 2: "b"}, "result[1] = 1 is int as a key and would come back as str"),
    (Any, OrderedDict(a=1), "OrderedDict"),
    (Any, Path("x"), "PosixPath and would come back as str"),
    (Any, Level.HIGH, "Level and would come back as str"),
    (Any, [Colour.RED], "result[0]"),
    (Any, Point(1), "Point and would come back as dict"),
    (Any, b"abc", "is bytes and would come back as str"),
    (Any, Untyped(1), "would come back as list"),
    (Point, Point3(1, z=2), "Point3 and would come back as"),
    (list[Point], [Point(1), Point((1,))], "result[1].x = (1,) is tuple"),
    (Box, Box([1, Point({"k": (1,)})]), "result.inner[1]"),
    (list[Model], [Model(name="a", When=NOON), 3], "does not fit"),
    (Secretive, Secretive(x=1).noting("n"), "has private attributes"),
    (list[Secretive], [Secretive(x=float("nan"))], "result[0].x = nan cannot be stored"),
    (int, "3", "result does not fit int"),
    (int, True, "result does not fit int"),
    (bool, 1, "result does not fit bool"),
    (float, 2**53 + 1, "result does not fit float"),
    (float, True, "result does not fit float"),
    (None, 3, "result does not fit"),
    (str, None, "result does not fit str"),
    (Literal["a"], "b", "does not fit"),
    (Annotated[int, msgspec.Meta(gt=0)], -1, "does not fit"),
    (Row, {"id": 1, "more": 2}, 'result["more"] = 2 would not come back'),
    (Any, {"a": [Unknown()]}, 'result["a"][0] = <test_codec.Unknown'),
    (Any, [3, Fraction(1, 2)], "result[1] = Fraction(1, 2) cannot be stored"),
    (Any, lambda: 3, "store what it can be created from"),
    (Any, unawaited(), "nobody has awaited it: await it, or pass the `async def` function itself"),
    (Any, "\ud800", "has a lone surrogate"),
    (str, "\udfff", "has a lone surrogate"),
    (Any, [{"a\ud800": 1}], "has a lone surrogate"),
    (Any, cycle, 'result[0]["again"]'),
    (Any, np.float64(1.0), "numpy.float64 and would come back as float"),
    (np.float64, np.float64("nan"), "np.float64(nan) cannot be stored"),
    (Any, np.zeros(3), ".tolist()"),
    (np.float32, np.float64(0.5), "numpy.float64 and would come back as numpy.float32"),
    (np.float32, np.float64(0.1), "float32, which cannot hold 0.1"),
    (datetime, datetime(2026, 10, 25, 2, 30, fold=1), "would come back as"),  # noqa: DTZ001 - the test is about fold
]


@pytest.mark.parametrize(("annotation", "value", "message"), REFUSED, ids=lambda one: shown(one)[:40])
def test_a_value_that_would_not_come_back_is_refused_by_name(annotation: object, value: object, message: str) -> None:
    with pytest.raises(bide.SerializationError) as caught:
        Codec(annotation, "task 'load'").encode(value)
    assert str(caught.value).startswith("task 'load': ")
    assert message in str(caught.value)


def test_a_value_with_itself_inside_is_named_as_such() -> None:
    with pytest.raises(bide.SerializationError, match="refers to itself"):
        Codec().encode(cycle)


def test_a_broken_repr_does_not_hide_the_place() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(bide.SerializationError, match=r'result\["k"\] = <Broken>'):
        Codec().encode({"k": Broken()})


@pytest.mark.parametrize(
    ("annotation", "culprit"),
    [
        (Path | str, "pathlib.Path | str"),
        (Unknown, "Unknown"),
        (list[Unknown], "Unknown"),
        (dict[str, list[Unknown] | None], "Unknown"),
        (Callable[[], int], "Callable"),
        (Iterator[int], "Iterator"),
        (dict[str, int] | Point, "cannot be stored"),
        ("not a type", "cannot be stored"),
        (3, "cannot be stored"),
    ],
    ids=str,
)
def test_an_annotation_that_cannot_be_decoded_is_a_definition_error(annotation: object, culprit: str) -> None:
    with pytest.raises(bide.DefinitionError) as caught:
        Codec(annotation, "task 'load'", root="parameter 'where'")
    assert str(caught.value).startswith("task 'load': parameter 'where'")
    assert culprit in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "fast"),
    [
        (Any, "ntfids"),
        (object, "ntfids"),
        (int, "i"),
        (bool, "tf"),
        (float, "d"),
        (str, "s"),
        (None, "n"),
        (int | None, "ni"),
        (str | int | None, "nis"),
        (list[int], ""),
        (list[int] | None, ""),
        (Path, ""),
        (Annotated[int, msgspec.Meta(gt=0)], ""),
        (Annotated[int, bide.Pickle], ""),
        (Level, ""),
    ],
    ids=str,
)
def test_the_fast_tags_are_those_the_annotation_cannot_change(annotation: object, fast: str) -> None:
    assert Codec(annotation).fast == fast


def test_a_reader_gets_the_value_by_its_own_annotation() -> None:
    stored = Codec().encode("a/b")
    assert Codec(Path).decode(stored) == Path("a/b")
    assert type(Codec(float).decode(b"i3")) is float
    assert Codec(Point).decode(Codec().encode({"x": 1, "y": 2})) == Point(1, 2)
    with pytest.raises(bide.SerializationError, match="task 'r': parameter 'n' does not fit int"):
        Codec(int, "task 'r'", root="parameter 'n'").decode(b"sx")


@pytest.mark.parametrize("data", [b"", b"?", b"j{", b"ix", b"dx", b"s\xff", b"p\x80"])
def test_corrupted_bytes_are_a_serialization_error(data: bytes) -> None:
    with pytest.raises(bide.SerializationError):
        Codec().decode(data)


def test_a_pickle_is_used_only_on_request() -> None:
    codec = Codec(Annotated[Fraction, bide.Pickle])
    data = codec.encode(Fraction(1, 3))
    assert data[:1] == b"p"
    assert codec.decode(data) == Fraction(1, 3)
    assert codec.encode(4) == b"i4"
    assert codec.decode(b"i4") == 4
    for reader in (Codec(), Codec(list[int])):
        with pytest.raises(bide.SerializationError, match=r"Annotated\[T, bide.Pickle\]"):
            reader.decode(data)
    with pytest.raises(bide.SerializationError, match="cannot be pickled"):
        codec.encode(lambda: 3)


def test_a_large_value_warns_and_a_huge_one_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bide"):
        Codec(where="task 'big'").encode("x" * (1024 * 1024 + 1))
        assert "task 'big': result takes 1.0 MiB" in caplog.text
        caplog.clear()
        Codec().encode("x" * (1024 * 1024 - 1))
        assert not caplog.records
    with pytest.raises(bide.SerializationError, match="store a path"):
        Codec().encode("x" * (64 * 1024 * 1024))


def test_codec_refuses_what_it_cannot_register() -> None:
    with pytest.raises(bide.DefinitionError, match="takes a class"):
        bide.codec("Unknown", str, str)  # type: ignore[arg-type]
    with pytest.raises(bide.DefinitionError, match="decode must be callable"):
        bide.codec(Unknown, str, None)  # type: ignore[arg-type]
    with pytest.raises(bide.DefinitionError, match="no instances of its own"):
        bide.codec(Row, str, str)
    for cls in (int, str, dict, set, datetime, Decimal, UUID, Path, enum.Enum, np.float64):
        with pytest.raises(bide.DefinitionError, match="already stores this type"):
            bide.codec(cls, str, str)


def test_a_registered_type_is_compared_by_encoding_again() -> None:
    class Lossy:
        def __init__(self, value: int) -> None:
            self.value = value

    bide.codec(Lossy, lambda one: one.value, lambda plain: Lossy(plain + 1))
    with pytest.raises(bide.SerializationError, match=r"result\[0\].* would come back as"):
        Codec(list[Lossy]).encode([Lossy(1)])


def test_equal_sets_have_equal_bytes() -> None:
    one = {"b": {f"x{n}" for n in range(50)}, "a": {"y"}}
    two = {"b": {f"x{n}" for n in reversed(range(50))}, "a": {"y"}}
    codec = Codec(dict[str, set[str]])
    assert codec.encode(one) == codec.encode(two)
    assert codec.encode({"a": {"c", "b"}}) == b'j{"a":["b","c"]}'
    assert codec.decode(codec.encode(one)) == one
    assert Codec(list[set[Frozen]]).encode([{Frozen(2), Frozen(1)}]) == b'j[[{"x":1},{"x":2}]]'


@dataclasses.dataclass
class Counted:
    items: list[int]
    total: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.size = len(self.items)

    @functools.cached_property
    def doubled(self) -> list[int]:
        return [2 * item for item in self.items]


def test_state_beside_the_fields_comes_back_or_is_refused() -> None:
    codec = Codec(Counted)
    one = Counted([1, 2])
    assert one.doubled == [2, 4]
    back = codec.decode(codec.encode(one))
    assert (back, back.size, back.doubled) == (one, 2, [2, 4])
    one.size = 3
    with pytest.raises(bide.SerializationError, match=r"result.size = 3 would come back as 2"):
        codec.encode(one)
    one.size = 2
    one.extra = "lost"  # type: ignore[attr-defined]
    with pytest.raises(bide.SerializationError, match=r"result.extra = 'lost' would not come back"):
        codec.encode(one)
    del one.extra  # type: ignore[attr-defined]
    one.total = 5
    assert codec.decode(codec.encode(one)).total == 5
