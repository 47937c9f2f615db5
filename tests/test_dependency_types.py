"""A parameter that can read nothing of what its task returns is refused when the workflow is built, and no other."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings

import bide
from bide._codec import Codec
from bide._fits import never_fit
from test_values_generated import LEAVES, Celsius, Count, annotated

T = TypeVar("T")
UserId = NewType("UserId", int)


class Shade(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Lenient(enum.Enum):
    """It takes any number."""

    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> "Lenient":
        return cls.ONE


@dataclasses.dataclass
class Rows:
    it: int
    n: int = 0


@dataclasses.dataclass
class RowsOfText:
    it: str


@dataclasses.dataclass
class Table:
    columns: list[str]


@dataclasses.dataclass
class WithMore:
    """An attribute that is no field, and a field that has a default."""

    it: int
    other: str = ""

    def __post_init__(self) -> None:
        self.columns = ["a"]


@dataclasses.dataclass
class Box(Generic[T]):
    it: T


@dataclasses.dataclass
class Chain:
    it: int
    next: "Chain | None"


@dataclasses.dataclass
class OtherChain:
    it: int
    next: "OtherChain | None"


@dataclasses.dataclass
class Registered:
    it: int


@attrs.define(slots=False)
class Loose:
    """It is written with all its attributes."""

    it: int

    def __attrs_post_init__(self) -> None:
        self.columns = ["a"]


@attrs.define(slots=False)
class LooseBox(Generic[T]):
    it: T


@dataclasses.dataclass
class RegisteredBox(Generic[T]):
    it: T


@attrs.define
class Tight:
    columns: list[str]


class Tagged(msgspec.Struct, tag="t", tag_field="kind"):
    it: int


class Kind(TypedDict):
    kind: str


class Maybe(TypedDict):
    columns: NotRequired[list[str]]


class Camel(msgspec.Struct, rename="camel"):
    column_count: int


class CamelToo(msgspec.Struct, rename="camel"):
    column_count: int


class Snake(msgspec.Struct):
    column_count: int


class Place(msgspec.Struct, array_like=True):
    it: int


class Pair(NamedTuple):
    it: int
    n: int = 0


class Model(pydantic.BaseModel):
    it: int


class Anything(pydantic.RootModel[Any]):
    pass


bide.codec(RegisteredBox, lambda it: it.it, RegisteredBox)
bide.codec(Registered, lambda it: str(it.it), lambda text: Registered(int(text)))

NEVER: list[tuple[Any, Any]] = [
    (int, str),
    (str, int),
    (str, float),
    (str, bytes),
    (Path, bytes),
    (bool, int),
    (float, bool),
    (None, int),
    (int, None),
    (int | None, str),
    (int, str | None),
    (datetime, float),
    (Decimal, float),
    (UserId, str),
    (Annotated[int, msgspec.Meta(ge=1)], str),
    (Annotated[int, msgspec.Meta(title="n")], str),
    (Literal["a", "b"], int),
    (Shade, Level),
    (Level, Shade),
    (str, Lenient),
    (list[int], int),
    (list[int], dict[str, int]),
    (dict[str, int], list[int]),
    (set[int], str),
    (Sequence[int], Mapping[str, int]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, str], tuple[int, str, str]),
    (tuple[int, str], list[int]),
    (tuple[int, tuple[str, int]], tuple[int, tuple[str, str]]),
    (Rows, list[int]),
    (Rows, int),
    (str, Rows),
    (Rows, Table),
    (Rows, RowsOfText),
    (WithMore, Table),
    (RowsOfText, Tight),
    (Box[int], Box[str]),
    (Box[int], Box[list[int]]),
    (Chain, Table),
    (Tagged, Table),
    (Camel, Snake),
    (Place, Rows),
    (Pair, Rows),
    (Kind, Table),
    (str, int | bytes),
]
MAY: list[tuple[Any, Any]] = [
    (int, float),
    (float, int),  # a float's writer may return an int
    (float, Decimal),
    (int, Any),
    (Any, int),
    (object, int),
    (int, object),
    (int, UserId),
    (Level, int),
    (int, Level),
    (float, Level),
    (int, Lenient),
    (Path, str),
    (str, PurePath),
    (str, datetime),
    (datetime, date),
    (datetime, str),
    (bytes, str),
    (bytes | int, str | None),
    (str, UUID),
    (str, Literal["a"]),
    (Shade, str),
    (int | str, str | list[int]),
    (Celsius | int, list[Count]),  # of unions with such classes nothing is assumed
    (int | None, int),
    (int | None, str | None),
    (list[int], list[str]),  # both take the empty list
    (list[int], set[str]),
    (dict[str, int], dict[str, str]),
    (dict[str, Any], Rows),
    (Rows, dict[str, int]),
    (list[int], tuple[int, int]),
    (tuple[int, int], list[float]),
    (tuple[int, int], set[int]),
    (list[int], Pair),
    (Pair, tuple[int, int]),
    (Pair, Place),
    (Rows, Box[int]),
    (Rows, WithMore),
    (Box[T], Box[str]),  # type: ignore[valid-type]
    (Box[Any], Box[str]),
    (Chain, OtherChain),
    (Tagged, Kind),
    (Maybe, Table),
    (Rows, Maybe),
    (Loose, Table),
    (LooseBox[int], Table),
    (Camel, dict[str, int]),
    (Camel, CamelToo),
    (Rows, Model),
    (Model, Rows),
    (str, Anything),
    (str, Registered),
    (Registered, int),
    (Rows, Registered),
    (RegisteredBox[int], int),
    (int, RegisteredBox[int]),
    (list[Registered], list[int]),
    (str, Count),
    (Celsius, int),
    (str, np.float32),
    (np.int16, str),
    (int, Annotated[str, bide.Pickle]),
    (Annotated[int, bide.Pickle], Annotated[str, bide.Pickle]),
]


def built(returns: Any, takes: Any, **settings: Any) -> bide.Workflow:
    def load() -> None: ...

    def clean(rows: Any) -> None: ...

    load.__annotations__["return"] = returns
    clean.__annotations__["rows"] = Annotated[takes, bide.From("load")]
    return bide.Workflow("w", [load, bide.task(clean, **settings)])


def name(case: Any) -> str:
    return str(getattr(case, "__name__", case))


@pytest.mark.parametrize(("returns", "takes"), NEVER, ids=name)
def test_types_that_never_fit_are_refused_with_both_tasks_and_types(returns: Any, takes: Any) -> None:
    with pytest.raises(bide.DefinitionError) as refused:
        built(returns, takes)
    codecs = Codec(returns), Codec(takes)
    assert str(refused.value) == (
        f"task 'clean': parameter 'rows' is annotated {codecs[1].shown}, but task 'load' returns {codecs[0].shown}, "
        "which can never be read as that: change one of the two annotations"
    )


@pytest.mark.parametrize(("returns", "takes"), MAY, ids=name)
def test_types_that_may_fit_are_accepted(returns: Any, takes: Any) -> None:
    built(returns, takes)


def test_the_message_shows_types_as_they_are_written() -> None:
    @bide.task
    def load() -> dict[str, int]:
        return {}

    @bide.task
    def clean(load: "Path | None") -> None: ...

    with pytest.raises(bide.DefinitionError, match=r"annotated pathlib\.Path \| None, but .* returns dict\[str, int\]"):
        bide.Workflow("w", [load, clean])


def test_a_default_of_none_does_not_make_types_fit() -> None:
    @bide.task
    def load() -> int:
        return 1

    def clean(load: str = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    with pytest.raises(bide.DefinitionError, match=r"'load' is annotated str \| None, but task 'load' returns int"):
        bide.Workflow("w", [load, clean])


def test_a_gates_condition_is_checked_too() -> None:
    def load() -> int:
        return 1

    def ready(load: str) -> bool:
        return bool(load)

    @bide.task(gate=bide.until(ready))
    def clean() -> None: ...

    with pytest.raises(bide.DefinitionError, match="the gate of task 'clean': parameter 'load' is annotated str"):
        bide.Workflow("w", [load, clean])


@pytest.mark.parametrize(
    ("takes", "which"),
    [
        (list[str], "a value in parameter 'square'"),
        (bide.Mapped[str], "a value in parameter 'square'"),
        (Annotated[dict[str, str], bide.From(["numbers_too"])], "a value in parameter 'square'"),
        (Annotated[str, bide.Each("square")], "parameter 'square'"),
    ],
    ids=["list", "mapped", "named", "same element"],
)
def test_values_of_mapped_and_gathered_tasks_are_checked_too(takes: Any, which: str) -> None:
    def numbers() -> list[int]:
        return [1]

    def numbers_too() -> int:
        return 1

    def square(number: Annotated[int, bide.Each("numbers")]) -> int:
        return number

    def report(square: Any) -> None: ...

    report.__annotations__["square"] = takes
    with pytest.raises(bide.DefinitionError, match=rf"task 'report': {which} is annotated str, but .* returns int"):
        bide.Workflow("w", [numbers, numbers_too, square, report])


def test_a_task_that_runs_after_a_failure_may_say_that_it_gets_nothing(runner: bide.Runner) -> None:
    def load() -> int:
        raise ValueError

    @bide.task(run_if="failed")
    def alert(load: None = None) -> str:
        return f"got {load}"

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [load, alert]))
    assert failed.value.result[alert] == "got None"


def test_where_one_side_is_not_annotated_nothing_is_refused() -> None:
    def load():  # type: ignore[no-untyped-def]  # noqa: ANN202
        return 1

    def named() -> str:
        return ""

    def clean(load: str, named) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

    bide.Workflow("w", [load, named, clean])


READERS = [
    Codec(annotation)
    for annotation in dict.fromkeys([*(leaf for leaf, _ in LEAVES), *(one for pair in (*NEVER, *MAY) for one in pair)])
]
VALUES: list[tuple[Any, Any]] = [
    (Rows, Rows(1)),
    (WithMore, WithMore(1)),
    (Loose, Loose(1)),
    (Tagged, Tagged(1)),
    (Chain, Chain(1, Chain(2, None))),
    (Maybe, {}),
    (Maybe, {"columns": ["a"]}),
    (Kind, {"kind": "t"}),
    (Camel, Camel(1)),
    (Place, Place(1)),
    (Pair, Pair(1)),
    (Box[int], Box(1)),
    (Box[str], Box("a")),
    (Registered, Registered(1)),
    (Anything, Anything(["a"])),
    (float, 1),
    (str, "red"),
    (str, "2026-01-01"),
    (datetime, datetime(2026, 1, 1, tzinfo=UTC)),
    (timedelta, timedelta(1)),
    (Decimal, Decimal(1)),
    (list[str], []),
    (Literal["a", 1], 1),
    (Level, Level.LOW),
    (tuple[int, str], (1, "a")),
]


def check(returns: Any, value: Any) -> int:
    """Have every reader read a value: none that can was refused. Return how many can."""
    try:
        writer = Codec(returns)
        data = writer.encode(value)
    except bide.BideError:
        return 0
    count = 0
    for reader in READERS:
        try:
            reader.for_writer(writer).decode(data)
        except bide.SerializationError:
            continue
        if not (writer.pickled or reader.pickled):
            count += 1
            assert not never_fit(writer, reader), f"{reader} reads {value!r} of {writer}"
    return count


@pytest.mark.parametrize(("returns", "value"), VALUES, ids=name)
def test_no_reader_of_an_edge_case_is_refused(returns: Any, value: Any) -> None:
    assert check(returns, value) > 1


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(annotated())
def test_whatever_is_read_at_run_time_is_not_refused_when_built(case: tuple[Any, Any]) -> None:
    check(*case)
