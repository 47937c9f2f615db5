"""Whether a value comes back the same from the store: original and decoded side by side.

Same type at every place and equal leaves; dataclasses, attrs classes, structs and pydantic models by field;
types of `bide.codec` and classes without an `__eq__` by encoding both again. It also finds the place inside a
value that cannot be encoded at all. Paths read like Python: ``["a"][3].x``.
"""

import dataclasses
import functools
import inspect
import json
import math
from collections.abc import Callable, Iterator
from datetime import datetime, time
from typing import Any, NamedTuple

import msgspec

from bide import _hooks

SCALARS = frozenset({type(None), bool, int, float, str})


class Difference(NamedTuple):
    """Where and how a decoded value differs from the original."""

    path: str
    value: object
    reason: str

    def under(self, way: str) -> "Difference":
        """Return the same difference as seen from one level up; paths are made only for what differs."""
        return self._replace(path=way + self.path)


def compare(a: object, b: object) -> Difference | None:
    """Return the first difference between the original `a` and the decoded `b`."""
    kind = type(a)
    if kind is float and not math.isfinite(a):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        return Difference("", a, "cannot be stored: JSON has no such number")
    if type(b) is not kind:
        return Difference("", a, f"is {_name(kind)} and would come back as {_name(type(b))}")
    if kind in SCALARS:
        return None if a == b else Difference("", a, f"would come back as {b!r}")
    hook = _hooks.registered(kind)
    if hook is not None:
        return _compare_again(hook.encode(a), hook.encode(b), a)
    if isinstance(a, (list, tuple)):
        return _compare_items(a, b)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    if isinstance(a, dict):
        return _compare_mapping(a, b)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    if isinstance(a, (set, frozenset)):
        return _compare_sets(a, b)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    names = fields(a)
    if names is not None:
        return _compare_fields(a, b, names)
    return _compare_leaf(a, b)


def step(key: object) -> str:
    """Return one step of a path, into a mapping: `["a"]`."""
    return f"[{json.dumps(key, ensure_ascii=False)}]" if isinstance(key, str) else f"[{key!r}]"


def fields(value: object) -> list[str] | None:
    """Return the names of a value's fields; None if it is not made of fields."""
    cls: Any = type(value)
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    if isinstance(value, msgspec.Struct):
        return list(cls.__struct_fields__)
    if hasattr(cls, "__attrs_attrs__"):
        return [attribute.name for attribute in cls.__attrs_attrs__]
    if _hooks.is_pydantic(cls):
        return [*cls.model_fields, *(getattr(value, "__pydantic_extra__", None) or ())]
    return None


def children(value: object) -> Iterator[tuple[str, object]]:
    """Yield the parts of a value with their step of the path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield step(key), item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in value:
            yield "{...}", item
    else:
        for name in fields(value) or ():
            yield f".{name}", getattr(value, name, None)


def find_culprit(value: object, fails: Callable[[object], str | None]) -> tuple[str, object, str | None]:
    """Return path, part and reason of the innermost part of `value` that `fails` to be encoded by itself."""
    path, reason, above = "", fails(value), {id(value)}
    while True:
        for way, part in children(value):
            why = fails(part)
            if why is None:
                continue
            path, value, reason = path + way, part, why
            if id(part) in above:
                return path, value, "refers to itself"
            above.add(id(part))
            break
        else:
            return path, value, reason


def find_number(value: object, path: str = "", depth: int = 64) -> tuple[str, object] | None:
    """Return path and value of the first NaN or infinity."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, value)
    if depth:
        for way, part in children(value):
            found = find_number(part, path + way, depth - 1)
            if found is not None:
                return found
    return None


def _compare_items(a: list[Any] | tuple[Any, ...], b: list[Any] | tuple[Any, ...]) -> Difference | None:
    kinds = list(map(type, a))
    if SCALARS.issuperset(kinds) and kinds == list(map(type, b)) and a == b:
        return None  # at the speed of C; a NaN is equal to nothing, so it is never missed
    if len(a) != len(b):
        return Difference("", a, f"has {len(a)} items and would come back with {len(b)}")
    for index, (one, other) in enumerate(zip(a, b, strict=True)):
        difference = compare(one, other)
        if difference is not None:
            return difference.under(f"[{index}]")
    return None


def _compare_mapping(a: dict[Any, Any], b: dict[Any, Any]) -> Difference | None:
    """Compare by key; the order may differ, as it does beside sets, which are written in order."""
    twins = {key: key for key in b}
    places = zip(a, b, strict=False) if len(a) == len(b) else ((key, key) for key in a)
    for key, beside in places:
        twin = twins.get(key, beside)
        if type(key) is not type(twin):
            reason = f"is {_name(type(key))} as a key and would come back as {_name(type(twin))}"
            return Difference(step(key), key, reason)
        if key not in twins:
            return Difference(step(key), a[key], "would not come back")
        difference = (None if type(key) is str else compare(key, twin)) or compare(a[key], b[key])
        if difference is not None:
            return difference.under(step(key))
    if len(a) != len(b):
        return Difference("", a, f"has {len(a)} keys and would come back with {len(b)}")
    return None


def _compare_sets(a: set[Any] | frozenset[Any], b: set[Any] | frozenset[Any]) -> Difference | None:
    if a != b:
        return Difference("", a, f"would come back as {b!r}")
    twins = {item: item for item in b}
    for item in a:
        difference = compare(item, twins[item])
        if difference is not None:
            return difference.under("{...}")
    return None


def _compare_fields(a: object, b: object, names: list[str]) -> Difference | None:
    for name in (*names, *_beside(a, names)):
        there = hasattr(a, name), hasattr(b, name)
        if there == (False, False):
            continue
        if there != (True, True):
            return Difference(f".{name}", getattr(a, name, None), "would not come back")
        difference = compare(getattr(a, name), getattr(b, name))
        if difference is not None:
            return difference.under(f".{name}")
    if getattr(a, "__pydantic_private__", None) != getattr(b, "__pydantic_private__", None):
        return Difference("", a, "has private attributes that would not come back")
    return None


def _beside(value: object, names: list[str]) -> list[str]:
    """Return the attributes that are no fields, which come back only if building the value sets them again."""
    others = getattr(value, "__dict__", {}).keys() - names
    return [name for name in sorted(others) if not _is_cached(type(value), name)]


def _is_cached(cls: type, name: str) -> bool:
    """Whether an attribute is a `cached_property`, which can be computed again."""
    return isinstance(inspect.getattr_static(cls, name, None), functools.cached_property)


def _compare_leaf(a: object, b: object) -> Difference | None:
    if type(a).__eq__ is object.__eq__:
        return _compare_again(a, b, a)
    if isinstance(a, (datetime, time)) and (a.fold != b.fold or a.utcoffset() != b.utcoffset()):  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
        return Difference("", a, f"would come back as {b!r}")
    return None if bool(a == b) else Difference("", a, f"would come back as {b!r}")


def _compare_again(a: object, b: object, original: object) -> Difference | None:
    """Compare by encoding: for what has no equality of its own, the stored form is the identity."""
    encode = msgspec.json.Encoder(enc_hook=_hooks.to_json).encode
    return None if encode(a) == encode(b) else Difference("", original, f"would come back as {b!r}")


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
