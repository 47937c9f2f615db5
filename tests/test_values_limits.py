"""Depth, digits and keys that cannot be stored: reported at once, and never retried."""

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

import bide
from bide._codec import Codec


def round_trip(annotation: Any, value: Any) -> Any:
    codec = Codec(annotation, "task 'make'")
    return codec.decode(codec.encode(value))


@dataclasses.dataclass
class Link:
    next: "Link | None" = None


class Model(pydantic.BaseModel):
    next: "Model | None" = None


def deep(levels: int, wrap: Callable[[Any], Any], value: Any = None) -> Any:
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "list": (Any, lambda it: [it]),
    "dict": (Any, lambda it: {"k": it}),
    "typed": (list, lambda it: [it]),
    "fields": (Link, Link),
    "model": (Model, lambda it: Model.model_construct(next=it)),
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("levels", [201, 300, 500, 900, 990, 1200, 20_000])
def test_a_value_of_more_than_200_levels_is_refused_at_its_place(wrap: str, levels: int) -> None:
    annotation, of = WRAPS[wrap]
    value = deep(levels, of)
    with pytest.raises(bide.SerializationError, match=r"task 'make': result.*nested too deeply") as caught:
        Codec(annotation, "task 'make'").encode(value)
    assert len(str(caught.value)) < 1000
    while value is not None:  # dismantle it: the destructor of a deep value recurses deeply
        value = value["k"] if wrap == "dict" else value.next if wrap in {"fields", "model"} else value[0]


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_value_of_200_levels_comes_back(wrap: str) -> None:
    annotation, of = WRAPS[wrap]
    value = deep(200, of)
    assert round_trip(annotation, value) == value


def test_data_of_earlier_releases_is_read() -> None:
    assert Codec().decode(b"i" + b"7" * 6000) == int("7" * 3000) * 10**3000 + int("7" * 3000)
    assert Codec(int).decode(b"i-" + b"9" * 100_00) == 1 - 10**100_00
    deeper = Codec().decode(b"j" + b"[" * 400 + b"]" * 400)
    assert isinstance(deeper, list)
    with pytest.raises(bide.SerializationError):
        Codec().decode(b"i" + b"7" * 200_000)


@pytest.mark.parametrize("digits", [4301, 100_000, 3_000_000])
@pytest.mark.parametrize(
    ("annotation", "wrap", "place"),
    [
        (int, lambda n: n, "result = "),
        (Any, lambda n: {"a": [1, -n]}, r'result\["a"\]\[1\] = '),
        (dict[int, int], lambda n: {n: 1}, r"result\[<int>\] = "),
        (list[int], lambda n: [0] * 1000 + [n], r"result\[1000\] = "),
    ],
)
def test_an_int_of_too_many_digits_is_refused_at_once(
    digits: int, annotation: Any, wrap: Callable[[int], Any], place: str
) -> None:
    with pytest.raises(bide.SerializationError, match=place + r".*more than 4300 digits"):
        Codec(annotation).encode(wrap(1 << (digits * 10 // 3)))


@pytest.mark.parametrize(
    "key", [None, (1, 2), frozenset({1}), True, Path("x"), int, Decimal(1), b"x", 1, 1.5], ids=repr
)
def test_a_key_that_cannot_be_one_is_named(key: Any) -> None:
    with pytest.raises(bide.SerializationError, match=r'task \'make\': result\["deep"\]\[0\]\[.*\] = .*key'):
        Codec(Any, "task 'make'").encode({"deep": [{key: 1}]})


class Partly(msgspec.Struct):
    x: int | msgspec.UnsetType = msgspec.UNSET
    y: Any = None


def test_an_unset_field_stays_unset_and_nothing_else_may_be() -> None:
    assert round_trip(list[Partly], [Partly(), Partly(3)]) == [Partly(), Partly(3)]
    for annotation, value, place in (
        (Any, {"a": [msgspec.UNSET]}, r'result\["a"\]\[0\]'),
        (Partly, Partly(y=msgspec.UNSET), "result.y"),
    ):
        with pytest.raises(bide.SerializationError, match=place):
            Codec(annotation).encode(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: deep(900, lambda it: [it]),
        lambda: 10**5000,
        lambda: [Decimal("sNaN")],
        lambda: {(1, 2): 3},
        lambda: [msgspec.UNSET],
        lambda: {10**5000: 1},
    ],
)
def test_a_value_that_cannot_be_stored_is_tried_once(runner: bide.Runner, make: Callable[[], Any]) -> None:
    task = bide.task(lambda: make(), name="give", retry=bide.Retry(attempts=3, delay=0))
    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [task]))
    result: Any = failed.value.result
    assert result.error.type == "bide.SerializationError"
    assert "task 'give': result" in result.error.message
    assert result.tasks["give"].attempts == 1
