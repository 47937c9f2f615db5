"""What a value could lose in storage: state beside its fields, the set fields of a model, order, units, signs."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cached_property
from pathlib import Path, PosixPath
from typing import Any, NamedTuple

import attrs
import msgspec
import numpy as np
import pydantic
import pytest

import bide
from bide._codec import Codec


def round_trip(annotation: Any, value: Any) -> Any:
    codec = Codec(annotation, "task 'make'")
    return codec.decode(codec.encode(value))


# --- state beside the fields ------------------------------------------------------------------------------------------


class SlotBase:
    __slots__ = ("job",)


class PrivateBase:
    __slots__ = ("__job",)

    def hide(self, job: object) -> None:
        self.__job = job


@dataclasses.dataclass(slots=True)
class Slotted(SlotBase):
    n: int = 0


@dataclasses.dataclass
class Hidden(PrivateBase):
    n: int = 0


@attrs.define
class AttrsSlotted(SlotBase):
    n: int = 0


@attrs.define(slots=False)
class AttrsOpen:
    n: int = 0


class Base(NamedTuple):
    n: int = 0


class Named(Base):
    pass


class MyPath(PosixPath):
    pass


class Open(msgspec.Struct, dict=True):
    n: int = 0


@dataclasses.dataclass
class Lazy:
    n: int = 0
    made: int = dataclasses.field(default=0, init=False)

    @cached_property
    def job(self) -> str:
        return f"computed from {self.n}"

    @cached_property
    def connection(self) -> object:
        return object()


class Loose(pydantic.BaseModel, extra="allow"):
    n: int = 0


STATEFUL: list[Callable[[], Any]] = [
    *(Slotted, Hidden, AttrsSlotted, AttrsOpen, Named, Open, Lazy),
    lambda: MyPath("x"),
]


@pytest.mark.parametrize("make", STATEFUL)
@pytest.mark.parametrize("way", ["alone", "list", "optional", "value"])
def test_state_beside_the_fields_is_refused_wherever_it_lies(make: Callable[[], Any], way: str) -> None:
    value = make()
    cls: Any = type(value)
    ways: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "alone": (cls, lambda it: it),
        "list": (list[cls], lambda it: [it]),
        "optional": (cls | None, lambda it: it),
        "value": (dict[str, cls], lambda it: {"k": it}),
    }
    annotation, wrap = ways[way]
    assert round_trip(annotation, wrap(value)) == wrap(value)
    if isinstance(value, Hidden):
        value.hide("job-1")
    else:
        value.job = "job-1"
    with pytest.raises(bide.SerializationError, match=r"task 'make': result.*job.*'job-1'"):
        Codec(annotation, "task 'make'").encode(wrap(value))


def test_a_cached_value_is_computed_again_unless_it_was_assigned() -> None:
    value = Lazy(3)
    assert value.job == "computed from 3"
    assert value.connection is value.connection
    assert round_trip(Lazy, value).job == "computed from 3"
    value.n = 4  # the cached value is not stored
    with pytest.raises(bide.SerializationError, match=r"result.job = 'computed from 3'"):
        Codec(Lazy).encode(value)


def test_an_attribute_that_a_model_allows_is_a_field() -> None:
    value = Loose.model_validate({"n": 1, "job": "job-1"})
    back = round_trip(Loose, value)
    assert (back, back.model_fields_set) == (value, {"n", "job"})


# --- what pydantic has set ------------------------------------------------------------------------------------------


tokens: Iterator[int] = iter(range(1000))


class Patch(pydantic.BaseModel):
    name: str | None = None
    email: str | None = pydantic.Field(default=None, alias="Email")
    token: int = pydantic.Field(default_factory=lambda: next(tokens))
    inner: "Patch | None" = None
    many: dict[str, "Patch"] = {}


@pytest.mark.parametrize(
    "value",
    [
        Patch(),
        Patch(name="x"),
        Patch.model_validate({"name": None, "Email": "e"}),
        Patch(inner=Patch(name="y"), many={"k]": Patch(token=3), "l": Patch()}),
    ],
)
def test_a_model_knows_what_was_set_on_every_level(value: Patch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Held:
        at: tuple[int, Patch]

    cases: list[tuple[Any, Any, Any]] = [
        (Patch, value, lambda it: it),
        (list[Patch], [Patch(name="first"), value], lambda it: it[1]),
        (dict[int, Patch], {7: value}, lambda it: it[7]),
        (Held, Held((1, value)), lambda it: it.at[1]),
    ]
    for annotation, wrapped, get in cases:
        back = get(round_trip(annotation, wrapped))
        assert back == value
        assert back.model_dump(exclude_unset=True) == value.model_dump(exclude_unset=True)


def test_a_reader_of_another_class_gets_every_field_of_a_model() -> None:
    data = Codec(Patch).encode(Patch(name="x", token=1))
    whole: dict[str, Any] = {"name": "x", "Email": None, "token": 1, "inner": None, "many": {}}
    assert Codec(dict[str, Any]).decode(data) == whole
    assert Codec().decode(data) == whole


SEEDED = """
import sys, bide, pydantic
from typing import Any

class Inner(pydantic.BaseModel):
    names: frozenset[str] = frozenset()

class Model(pydantic.BaseModel):
    tags: set[str] = set()
    inner: Inner = Inner()
    order: dict[str, set[str]] = {}
    nested: list[set[frozenset[str]]] = []

words = {"alpha", "beta", "gamma", "delta", "eps"}

@bide.task
def count(m: Model, more: list[Model], plain: dict[str, set[str]]) -> int:
    return len(m.tags)

nested = [{frozenset(words), frozenset()}]
model = Model(tags=words, inner=Inner(names=words), order={"z": words, "a": words}, nested=nested)
with bide.Runner(sys.argv[1]) as runner:
    inputs = {"m": model, "more": [model], "plain": {"b": words, "a": words}}
    print(runner.run(bide.Workflow("w", [count]), inputs, key="k")["count"])
"""


def test_equal_models_are_equal_inputs_in_every_process(tmp_path: Path) -> None:
    for seed in ("1", "2", "3", "4"):
        done = subprocess.run(
            [sys.executable, "-c", SEEDED, str(tmp_path / "b.db")],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "5", done.stderr


# --- order, units, zeros ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Table:
    columns: dict[str, str]
    tags: set[str]


def test_a_set_puts_no_dict_in_another_order() -> None:
    value = Table({"price": "float", "id": "int"}, {"raw", "b"})
    assert list(round_trip(Table, value).columns) == ["price", "id"]
    assert list(round_trip(dict[str, set[int]], {"b": {2, 1}, "a": set()})) == ["b", "a"]


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "as", ("s", 10), ("D", 7)])
def test_units_of_numpy_are_kept(unit: Any) -> None:
    kinds: list[Any] = [np.datetime64, np.timedelta64]
    for kind in kinds:
        value = kind(-3, unit)
        back = round_trip(tuple[kind, ...], (value,))[0]  # type: ignore[valid-type]
        assert (back, back.dtype) == (value, value.dtype)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (np.datetime64, np.datetime64("NaT", "s")),
        (np.timedelta64, np.timedelta64("NaT", "s")),
        (np.timedelta64, np.timedelta64("NaT")),
        (np.float32, np.float32("nan")),
        (Decimal, Decimal("sNaN")),
        (Decimal, Decimal("NaN")),
        (dict[Decimal, int], {Decimal("-0"): 1}),
        (list[list[Decimal]], [[Decimal(1), Decimal("sNaN")]]),
    ],
    ids=str,
)
def test_what_cannot_be_kept_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(bide.SerializationError, match="task 'make': result"):
        Codec(annotation, "task 'make'").encode(value)


@pytest.mark.parametrize(("annotation", "zero"), [(float, -0.0), (Decimal, Decimal("-0")), (Decimal, Decimal("0.00"))])
def test_a_zero_keeps_its_sign_and_digits(annotation: Any, zero: Any) -> None:
    assert str(round_trip(annotation, zero)) == str(zero)
    assert str(round_trip(list[annotation], [zero])) == str([zero])
    if annotation is float:
        assert str(round_trip(dict[float, int], {zero: 1})) == "{-0.0: 1}"
