"""User classes: each can be registered with `bide.codec`, and the advice in each message works."""

import dataclasses
import enum
import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path, PosixPath
from typing import Annotated, Any, NamedTuple

import attrs
import msgspec
import numpy as np
import pydantic
import pytest

import bide
from bide import _hooks
from bide._codec import Codec


def round_trip(annotation: Any, value: Any) -> Any:
    codec = Codec(annotation, "task 'make'")
    return codec.decode(codec.encode(value))


@attrs.frozen
class Private:
    _y: int = 1
    z: int = attrs.field(init=False, default=2)


def test_a_private_attribute_of_an_attrs_class_comes_back() -> None:
    assert round_trip(Private, Private(5)) == Private(5)
    assert round_trip(dict[str, list[Private]], {"k": [Private(5)]}) == {"k": [Private(5)]}


class Level(enum.Enum):
    LOW = "low"
    HIGH = 2


class Name(str):
    __slots__ = ()


class Items(dict):  # type: ignore[type-arg]
    pass


@dataclasses.dataclass
class Own:
    x: int


class OwnStruct(msgspec.Struct):
    x: int


@attrs.define
class OwnAttrs:
    x: int


class OwnModel(pydantic.BaseModel):
    x: int


class OwnTuple(NamedTuple):
    x: int


class OwnPath(PosixPath):
    pass


@dataclasses.dataclass
class Seeded:
    x: int
    seed: dataclasses.InitVar[int] = 3


@dataclasses.dataclass
class Either:
    where: Path | str


OWN: list[tuple[Any, Callable[[Any], Any], Callable[[Any], Any], Any]] = [
    (Level, lambda it: it.name, lambda name: Level[name], Level.HIGH),
    (Name, lambda it: [str(it)], lambda items: Name(items[0]), Name("n")),
    (Items, lambda it: [[k, v] for k, v in it.items()], lambda pairs: Items((k, v) for k, v in pairs), Items(b=1, a=2)),
    (Own, lambda it: [it.x], lambda items: Own(*items), Own(1)),
    (OwnStruct, lambda it: [it.x], lambda items: OwnStruct(*items), OwnStruct(1)),
    (OwnAttrs, lambda it: [it.x], lambda items: OwnAttrs(*items), OwnAttrs(1)),
    (OwnModel, lambda it: [it.x], lambda items: OwnModel(x=items[0]), OwnModel(x=1)),
    (OwnTuple, lambda it: {"own": it.x}, lambda found: OwnTuple(found["own"]), OwnTuple(1)),
    (OwnPath, lambda it: [str(it)], lambda items: OwnPath(items[0]), OwnPath("a")),
    (Seeded, lambda it: [it.x], lambda items: Seeded(items[0]), Seeded(1)),
    (Either, lambda it: [str(it.where)], lambda items: Either(items[0]), Either("a")),
    (
        OrderedDict,
        lambda it: [[k, v] for k, v in it.items()],
        lambda pairs: OrderedDict(map(tuple, pairs)),
        OrderedDict(b=1),
    ),
]


@pytest.mark.parametrize(("cls", "encode", "decode", "value"), OWN, ids=lambda one: getattr(one, "__name__", ""))
def test_every_user_class_can_be_registered(
    cls: Any, encode: Callable[[Any], Any], decode: Callable[[Any], Any], value: Any
) -> None:
    calls: list[Any] = []
    bide.codec(cls, lambda it: calls.append(it) or encode(it), decode)  # type: ignore[func-returns-value]
    holder: Any = dataclasses.make_dataclass("Holder", [("one", cls), ("many", list[cls]), ("n", set[int], None)])
    struct: Any = msgspec.defstruct("Struct", [("one", cls | None, None), ("n", int, 0)])
    for annotation, wrapped in (
        (cls, value),
        (list[cls], [value, value]),
        (dict[str, cls], {"k": value}),
        (tuple[int, cls], (1, value)),
        (cls | None, value),
        (cls | None, None),
        (cls | bool, True),
        (Annotated[cls, "a note"], value),
        (holder, holder(value, [value], {2, 1})),
        (list[holder], [holder(value, [], set())]),
        (struct, struct(value, 3)),
        (struct, struct()),
    ):
        calls.clear()
        back = round_trip(annotation, wrapped)
        assert back == wrapped
        assert type(back) is type(wrapped)
        assert bool(calls) is (wrapped not in (None, True, struct()))


def test_an_instance_within_what_encode_gives_is_encoded_too() -> None:
    class Tree:
        def __init__(self, level: Level, children: "list[Tree]") -> None:
            self.level, self.children = level, children

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Tree) and (self.level, self.children) == (other.level, other.children)

        __hash__ = None  # type: ignore[assignment]

    bide.codec(Level, lambda it: it.name, lambda name: Level[name])
    bide.codec(Tree, lambda it: [it.level, it.children], lambda it: make(*it))

    def make(level: str, children: list[Any]) -> Tree:
        return Tree(Level[level], [make(*child) for child in children])

    value = Tree(Level.HIGH, [Tree(Level.LOW, [])])
    assert Codec(Tree).encode(value) == b'j["HIGH",[["LOW",[]]]]'
    assert round_trip(Tree, value) == value


class Bag:
    def __init__(self, items: Any) -> None:
        self.items = items


@pytest.mark.parametrize(
    ("given", "back"),
    [
        ([datetime(2026, 1, 1)], list),  # noqa: DTZ001 - a naive time on purpose
        ((1, 2), list),
        ([(1, 2)], list),
        ({1: "a"}, dict),
        ([Path("a")], list),
        ([b"a"], list),
    ],
)
def test_a_decode_that_leaves_a_value_as_json_has_it_is_reported(given: Any, back: Callable[[Any], Any]) -> None:
    bide.codec(Bag, lambda it: it.items, lambda data: Bag(back(data)))
    with pytest.raises(bide.SerializationError, match=r"task 'make': result = .*would come back as"):
        Codec(Bag, "task 'make'").encode(Bag(given))


def test_a_set_that_encode_gives_may_come_back_in_another_order() -> None:
    bide.codec(Bag, lambda it: it.items, lambda data: Bag(set(data)))
    for items in ({8, 0, 16}, {16, 8, 0}):
        assert round_trip(Bag, Bag(items)).items == items


@pytest.mark.parametrize("kind", [np.complex64, np.complex128, np.bytes_, np.void, np.longdouble])
def test_numpy_scalars_that_json_cannot_hold_can_be_registered(kind: Any) -> None:
    value = kind(b"ab") if kind in {np.bytes_, np.void} else kind(1.5)
    with pytest.raises(bide.DefinitionError, match=rf"bide\.codec\({kind.__name__}, encode, decode\)"):
        Codec(kind, "task 'make'")
    _hooks.register(
        kind, lambda it: it.tobytes().hex(), lambda data: np.frombuffer(bytes.fromhex(data), value.dtype)[0]
    )
    try:
        assert round_trip(list[kind], [value]) == [value]
    finally:
        del _hooks._fixed[kind]


def test_a_registered_class_is_not_kept_alive() -> None:
    gone = registered_for_a_moment()
    gc.collect()
    assert gone() is None


def registered_for_a_moment() -> weakref.ref[type]:
    class Local:
        pass

    def encode(it: Local) -> int:
        return 1

    def decode(data: int) -> Local:
        return Local()

    bide.codec(Local, encode, decode)
    round_trip(list[Local], [Local()])
    return weakref.ref(Local)


class Unregistered(enum.Enum):
    A = "a"
    B = 2


@pytest.mark.parametrize(
    ("cls", "value"),
    [(Unregistered, Unregistered.A), (type("Unknown", (), {}), None), (type("Queue", (list,), {}), None)],
    ids=["enum", "class", "list"],
)
def test_the_advice_of_a_message_works(cls: Any, value: Any) -> None:
    value = cls() if value is None else value
    with pytest.raises(bide.SerializationError) as without:
        Codec(Any, "task 'make'").encode([value])
    assert "annotat" in str(without.value)
    with pytest.raises(bide.DefinitionError) as unknown:
        Codec(list[cls], "task 'make'")
    assert f"bide.codec({cls.__name__}, encode, decode)" in str(unknown.value)
    bide.codec(cls, lambda it: "it", lambda _: value)
    assert round_trip(list[cls], [value]) == [value]
