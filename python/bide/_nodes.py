"""The parts of an annotation, as a `Plan` has them (`_shapes.py`): how each kind writes a value and reads it back.

A part is *hard* if a registered class is in it: then the node builds the value. All else is soft: only what is
special in it is swapped for ready objects, and msgspec converts the rest, so that its rules stay the rules.
"""

from collections.abc import Callable
from datetime import date, time, timedelta, timezone
from decimal import Decimal
from functools import partial, reduce
from operator import or_
from types import NoneType
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from bide import _compare, _hooks, _moments

Data: TypeAlias = Any
"""An annotation, a value, or decoded JSON: whatever a user has made it."""

_PLAIN = frozenset({int, str, float, bytes})
_SORTED_BY_VALUE = (int, str, float, bytes, Decimal, UUID, date, time, timedelta)

_encode = msgspec.json.Encoder(enc_hook=_hooks.to_json).encode


def convert(data: object, annotation: Data) -> Data:
    """Return decoded JSON, perhaps with ready objects in it, as msgspec reads it by an annotation."""
    return msgspec.convert(data, annotation, dec_hook=_hooks.from_json, str_keys=True)


class Node:
    """A part of an annotation in which nothing is special; the others derive from it."""

    trait = ""
    """What is special here, if anything is."""

    def __init__(self, annotation: Data) -> None:
        self.annotation = annotation
        self.parts: list[Node] = []
        self.active = False
        """Whether anything in here is special."""
        self.hard = False
        """Whether a registered class is in here."""

    def write(self, value: Data) -> Data:
        """Return what msgspec's encoder is to write for a value."""
        return value

    def swap(self, data: Data) -> Data:
        """Return decoded JSON with ready objects where msgspec would not make the right ones. Soft parts only."""
        return data

    def build(self, data: Data) -> Data:
        """Return the value for decoded JSON. Hard parts only."""
        raise NotImplementedError

    def takes(self, value: object) -> bool:  # noqa: ARG002 - a leaf looks at nothing
        """Whether a value is of this part of a union."""
        return False

    def fits(self, data: object) -> bool:  # noqa: ARG002 - likewise
        """Whether decoded JSON is of this part of a union."""
        return False

    def read(self, data: Data) -> Data:
        """Return the value for decoded JSON."""
        if self.hard:
            return self.build(data)
        return convert(self.swap(data) if self.active else data, self.annotation)


class Hook(Node):
    """A class that `bide.codec` registered."""

    trait = "hook"

    def write(self, value: Data) -> Data:
        return _untyped(value) if type(value) is self.annotation else value

    def build(self, data: Data) -> Data:
        return _hooks.decoded(self.annotation, data)

    def takes(self, value: object) -> bool:
        return type(value) is self.annotation


class Moment(Node):
    """A datetime or a time."""

    trait = "moment"

    def write(self, value: Data) -> Data:
        return _moments.written(value) if type(value) is self.annotation else value

    def swap(self, data: Data) -> Data:
        return (_moments.parsed(data, self.annotation) or data) if type(data) is str else data

    def takes(self, value: object) -> bool:
        return type(value) is self.annotation

    def fits(self, data: object) -> bool:
        return type(data) is str


class NoFloat(ValueError):
    """An integer was read for a float that would be another number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{_compare.show(number)} is an integer that no float represents")
        self.number = number


def _is_float(number: int) -> bool:
    try:
        return float(number) == number
    except OverflowError:
        return False


class Float(Node):
    """A float, which may be written as an integer."""

    trait = "float"

    def swap(self, data: Data) -> Data:
        if type(data) is int and not _is_float(data):
            raise NoFloat(data)
        return data

    def fits(self, data: object) -> bool:
        return type(data) is int


class Bytes(Node):
    """Bytes whose writer wrote no bytes: text is text then, though base64 is text too."""

    trait = "bytes"

    def swap(self, data: Data) -> Data:
        if type(data) is str:
            msg = f"Expected `{self.annotation.__name__}`, got `str`"
            raise ValueError(msg)
        return data

    def fits(self, data: object) -> bool:
        return type(data) is str


class Model(Node):
    """A pydantic model, which encodes itself."""

    trait = "model"


class Sequence(Node):
    """A list, a set, or a tuple of one type."""

    def __init__(self, annotation: Data, kind: type) -> None:
        super().__init__(annotation)
        self.kind = kind
        self.trait = "set" if kind in {set, frozenset} else ""

    def write(self, value: Data) -> Data:
        if not self.takes(value):
            return value
        if self.trait:
            return _in_order(value, self.parts[0].write)
        return list(map(self.parts[0].write, value))

    def swap(self, data: Data) -> Data:
        return list(map(self.parts[0].swap, data)) if type(data) is list else data

    def build(self, data: Data) -> Data:
        return self.kind(map(self.parts[0].read, _expected(data, list, "array")))

    def takes(self, value: object) -> bool:
        return type(value) is self.kind

    def fits(self, data: object) -> bool:
        return type(data) is list


class Tuple(Node):
    """A tuple with a type for each place."""

    def write(self, value: Data) -> Data:
        if type(value) is not tuple or len(value) != len(self.parts):
            return value
        return [part.write(item) for part, item in zip(self.parts, value, strict=True)]

    def swap(self, data: Data) -> Data:
        if type(data) is not list or len(data) != len(self.parts):
            return data
        return [part.swap(item) for part, item in zip(self.parts, data, strict=True)]

    def build(self, data: Data) -> Data:
        if len(_expected(data, list, "array")) != len(self.parts):
            msg = f"Expected `array` of length {len(self.parts)}, got {len(data)}"
            raise ValueError(msg)
        return tuple(part.read(item) for part, item in zip(self.parts, data, strict=True))

    def takes(self, value: object) -> bool:
        return type(value) is tuple

    def fits(self, data: object) -> bool:
        return type(data) is list


class Mapping(Node):
    """A dict: `parts` are its keys and its values."""

    def write(self, value: Data) -> Data:
        if type(value) is not dict:
            return value
        key, item = self.parts
        written = {key.write(one): item.write(other) for one, other in value.items()}
        if len(written) != len(value):
            msg = "two of its keys are written alike"
            raise ValueError(msg)
        return written

    def swap(self, data: Data) -> Data:
        if type(data) is not dict:
            return data
        key, item = self.parts
        return {key.swap(one): item.swap(other) for one, other in data.items()}

    def build(self, data: Data) -> Data:
        key, item = self.parts
        _expected(data, dict, "object")
        if key.hard:
            keys = map(key.read, data)
        else:  # msgspec reads other keys than text only within a dict
            keys = iter(convert({key.swap(one): None for one in data}, dict[key.annotation, None]))  # type: ignore[name-defined]
        return dict(zip(keys, map(item.read, data.values()), strict=True))

    def takes(self, value: object) -> bool:
        return type(value) is dict

    def fits(self, data: object) -> bool:
        return type(data) is dict


class Union(Node):
    """A union, or one part under another name."""

    def write(self, value: Data) -> Data:
        return next((part.write(value) for part in self.parts if part.takes(value)), value)

    def swap(self, data: Data) -> Data:
        if type(data) is int and any(part.annotation is int for part in self.parts):
            return data
        return next((part.swap(data) for part in self.parts if part.fits(data)), data)

    def build(self, data: Data) -> Data:
        """Try registered classes in the order of the union, then what is plain; the writer has checked which it is."""
        if data is None and any(part.annotation in {None, type(None)} for part in self.parts):
            return None
        problem: Exception = ValueError(f"is none of {self.annotation}")
        for part in self.parts:
            if part.hard and (part.trait == "hook" or part.fits(data)):
                try:
                    return part.build(data)
                except Exception as other:  # noqa: BLE001 - a user's decode may raise anything: it was not meant
                    problem = other
        soft = [part for part in self.parts if not part.hard]
        if not soft:
            raise problem
        return convert(next((part.swap(data) for part in soft if part.fits(data)), data), self.rest)

    def takes(self, value: object) -> bool:
        return any(part.takes(value) for part in self.parts)

    def fits(self, data: object) -> bool:
        return any(part.fits(data) for part in self.parts)

    @property
    def rest(self) -> Data:
        """What msgspec has to read of a union with registered classes."""
        return reduce(or_, (part.annotation for part in self.parts if not part.hard))


class Default(msgspec.Struct, frozen=True):
    """What a field is that JSON does not have."""

    make: Callable[..., Data] | None = None
    takes_self: bool = False
    value: Data = None

    def made(self, owner: object) -> Data:
        """Return it, for an object that is being built."""
        if self.make is None:
            return self.value
        return self.make(owner) if self.takes_self else self.make()


class Fields(Node):
    """A class with fields: `names` are those of the attributes, `keys` those in JSON, beside their parts."""

    def __init__(self, cls: type, kind: str, annotation: Data) -> None:
        super().__init__(annotation)
        self.cls = cls
        self.kind = kind
        self.names: list[str] = []
        self.keys: list[str] = []
        self.defaults: dict[str, Default] = {}
        config = getattr(cls, "__struct_config__", None) if kind == "struct" else None
        self.tag = None if config is None or config.tag is None else (config.tag_field, config.tag)
        self.as_list = kind == "namedtuple" or (config is not None and config.array_like)

    def add(self, name: str, key: str, part: Node, default: Default | None) -> None:
        """Add a field."""
        if default is not None:
            self.defaults[name] = default
        self.names.append(name)
        self.keys.append(key)
        self.parts.append(part)
        if self.kind == "attrs" and name.startswith("_"):
            self.trait = "private"  # msgspec leaves them out

    def write(self, value: Data) -> Data:
        if not self.takes(value):
            return value
        if self.kind == "typeddict":
            parts = dict(zip(self.keys, self.parts, strict=True))
            return {key: parts[key].write(item) if key in parts else item for key, item in value.items()}
        if self.kind == "namedtuple":
            return [part.write(item) for part, item in zip(self.parts, value, strict=True)]
        found = [
            (key, part.write(item))
            for name, key, part in zip(self.names, self.keys, self.parts, strict=True)
            if (item := getattr(value, name, msgspec.UNSET)) is not msgspec.UNSET
        ]
        if self.as_list:
            if len(found) < len(self.names):
                msg = "has a field that is not set, which has no place in an array"
                raise ValueError(msg)
            return [*([self.tag[1]] if self.tag else ()), *(item for _, item in found)]
        return dict([self.tag, *found] if self.tag else found)

    def swap(self, data: Data) -> Data:
        if type(data) is dict:
            parts = dict(zip(self.keys, self.parts, strict=True))
            return {key: parts[key].swap(item) if key in parts else item for key, item in data.items()}
        if type(data) is list and self.as_list:
            start = 1 if self.tag else 0
            ready = [part.swap(item) for part, item in zip(self.parts, data[start:], strict=False)]
            return [*data[:start], *ready, *data[start + len(ready) :]]
        return data

    def build(self, data: Data) -> Data:
        if self.as_list:
            found = dict(zip(self.keys, _expected(data, list, "array")[1 if self.tag else 0 :], strict=False))
        else:
            found = _expected(data, dict, "object")
        values = {
            name: part.read(found[key])
            for name, key, part in zip(self.names, self.keys, self.parts, strict=True)
            if key in found
        }
        cls: Data = self.cls
        if self.kind == "typeddict":
            if not cls.__required_keys__ <= values.keys():
                msg = f"Object missing required field `{min(cls.__required_keys__ - values.keys())}`"
                raise ValueError(msg)
            return values
        if self.kind in {"struct", "namedtuple"}:
            return cls(**values)
        built = object.__new__(cls)  # as msgspec does: fields are set, not passed
        _call(built, "__attrs_pre_init__")
        for name in self.names:
            if name not in values and name not in self.defaults:
                msg = f"Object missing required field `{name}`"
                raise ValueError(msg)
            object.__setattr__(built, name, values[name] if name in values else self.defaults[name].made(built))
        _call(built, "__post_init__" if self.kind == "dataclass" else "__attrs_post_init__")
        return built

    def takes(self, value: object) -> bool:
        return type(value) is (dict if self.kind == "typeddict" else self.cls)

    def fits(self, data: object) -> bool:
        if self.tag and not self.as_list:
            return isinstance(data, dict) and data.get(self.tag[0]) == self.tag[1]
        if self.tag:
            return isinstance(data, list) and data[:1] == [self.tag[1]]
        return type(data) is (list if self.as_list else dict)


def _call(built: object, name: str) -> None:
    method = getattr(built, name, None)
    if method is not None:
        method()


def _expected(data: Data, kind: type, name: str) -> Data:
    if type(data) is not kind:
        msg = f"Expected `{name}`, got `{type(data).__name__}`"
        raise ValueError(msg)
    return data


def _untyped(value: Data, depth: int = 0) -> Data:
    """Return what is written of a registered class's instance: what its encode gives, other instances in it too."""
    if depth > _hooks.MAX_DEPTH:
        raise RecursionError
    hook = _hooks.registered(type(value))
    if hook is not None:
        return _untyped(hook.encode(value), depth + 1)
    write = partial(_untyped, depth=depth + 1)
    if type(value) in {list, tuple}:
        return list(map(write, value))
    if type(value) is dict:
        return {write(key): write(item) for key, item in value.items()}
    if type(value) in {set, frozenset}:
        return _in_order(value, write)
    return value


def _in_order(values: Data, write: Callable[[Data], Data]) -> list[Data]:
    """Return a set's elements as written, in an order that depends on nothing but them."""
    if _PLAIN.issuperset(map(type, values)) or all(map(_has_order, values)):
        try:
            return list(map(write, sorted(values)))
        except TypeError:  # of several kinds, or naive beside aware
            pass
    return sorted(map(write, values), key=_encode)


def _has_order(value: Data) -> bool:
    """Whether `<` puts values like this in one order and no other; across zones it may not."""
    if type(value) is tuple:
        return all(map(_has_order, value))
    return isinstance(value, _SORTED_BY_VALUE) and type(getattr(value, "tzinfo", None)) in {NoneType, timezone}
