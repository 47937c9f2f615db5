"""Checks that a value comes back the same from the store: compares the original with the decoded value.

Types must be the same at every place and leaves equal, except an exact int where a float is annotated. Dataclasses,
attrs classes, structs and pydantic models are compared by field and by the attributes that are no fields
(`_state.py`); types of `bide.codec` and classes without an `__eq__` by encoding both again. This module also finds
the part of a value that cannot be encoded at all. Paths are written as in Python: ``["a"][3].x``.
"""

import math
from collections.abc import Callable, Iterator
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec

from bide import _hooks, _models, _moments, _state
from bide._text import shown

SCALARS = frozenset({type(None), bool, int, float, str})

_FEW = 32

TOO_DEEP = f"refers to itself, or is nested too deeply (more than {_hooks.MAX_DEPTH} levels)"

ZONES = "a zone is kept if it is a zoneinfo.ZoneInfo or a datetime.timezone, but not within a pydantic model"

_encode = msgspec.json.Encoder(enc_hook=_hooks.to_json).encode


class Difference(msgspec.Struct, frozen=True):
    """Where and how a decoded value differs from the original."""

    path: str
    value: object
    reason: str

    def under(self, step: str) -> "Difference":
        """Return the same difference as seen from one level up, so that only a difference builds a path."""
        return Difference(step + self.path, self.value, self.reason)


def compare(a: object, b: object, depth: int = 0) -> Difference | None:
    """Return the first difference between the original `a` and the decoded `b`."""
    kind = type(a)
    if kind is float and not math.isfinite(a):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        return Difference("", a, "cannot be stored: JSON has no such number")
    if type(b) is not kind:
        if kind is int and type(b) is float:
            return None if a == b else Difference("", a, "is an integer that no float represents")
        return Difference("", a, f"is {_name(kind)} and would come back as {_name(type(b))}")
    if kind in SCALARS:
        return None if a == b and (a or repr(a) == repr(b)) else Difference("", a, f"would come back as {b!r}")
    if a is b and (isinstance(a, Enum) or a is msgspec.UNSET):
        return None
    if depth >= _hooks.MAX_DEPTH:
        return Difference("", a, TOO_DEEP)
    return _compare_parts(a, b, depth + 1)


def step(key: object) -> str:
    """Return the step of a path that leads into a mapping: `["a"]`."""
    if isinstance(key, str):
        quoted = key.replace("\\", "\\\\").replace('"', '\\"')
        return f'["{shown(quoted)}"]'
    return f"[{show(key)}]"


def show(value: object) -> str:
    """Return a value's `repr` in one line; its type if that raises."""
    try:
        text = shown(repr(value))
    except Exception:  # noqa: BLE001 - a broken __repr__, endless recursion, an int of too many digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004 - a line's worth


def fields(value: object) -> list[str] | None:
    """Return the names of a value's fields; None if it is not made of fields."""
    cls: Any = type(value)
    if hasattr(cls, "__dataclass_fields__"):
        import dataclasses  # noqa: PLC0415 - defining one has imported it

        return [field.name for field in dataclasses.fields(cls)]
    if isinstance(value, msgspec.Struct):
        return list(cls.__struct_fields__)
    if hasattr(cls, "__attrs_attrs__"):
        return [attribute.name for attribute in cls.__attrs_attrs__]
    if _models.is_model(cls):
        return [*cls.model_fields, *(getattr(value, "__pydantic_extra__", None) or ())]
    return None


def children(value: object) -> Iterator[tuple[str, object]]:
    """Yield the parts of a value, each with its step of the path."""
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


def parts(value: object) -> Iterator[tuple[int | str, object]]:
    """Yield the parts of a value by attribute or position; members of a set have neither."""
    if isinstance(value, dict):
        yield from enumerate(value.values())
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif type(value) not in SCALARS:
        for name in fields(value) or ():
            yield name, getattr(value, name, None)


def find_culprit(value: object, fails: Callable[[object], str | None]) -> tuple[str, object, str | None]:
    """Return path, part and reason of the innermost part of `value` that `fails` to be encoded by itself."""
    path, reason, above = "", fails(value), {id(value)}
    while True:
        for way, part in _narrowed(list(children(value)), fails):
            why = fails(part)
            if why is None:
                continue
            path, value, reason = path + way, part, why
            if id(part) in above:
                return path, value, "refers to itself"
            above.add(id(part))
            break
        else:
            for key in value if isinstance(value, dict) else ():
                if not isinstance(key, str) and fails({key: None}) is not None:
                    why = fails(key) if type(key) in SCALARS else None
                    return (
                        path + step(key),
                        key,
                        why or "cannot be a key in JSON: use a str, or a list of pairs",
                    )
            return path, value, reason


def _narrowed(named: list[tuple[str, object]], fails: Callable[[object], str | None]) -> list[tuple[str, object]]:
    """Return a few of many parts, by bisection, one of which fails if any part does."""
    while len(named) > _FEW:
        half = len(named) // 2
        named = named[:half] if fails([part for _, part in named[:half]]) else named[half:]
    return named


def find_depth(value: object) -> tuple[str, object, str] | None:
    """Return path, part and reason of the first part that is nested too deeply, or in itself; None if there is none."""
    path: list[tuple[str, object, Iterator[tuple[str, object]]]] = [("", value, children(value))]
    above = {id(value)}
    while path:
        found = next(path[-1][2], None)
        if found is None:
            above.discard(id(path.pop()[1]))
        elif type(found[1]) not in SCALARS:
            if len(path) >= _hooks.MAX_DEPTH or id(found[1]) in above:
                reason = "refers to itself" if id(found[1]) in above else TOO_DEEP
                return "".join(name for name, _, _ in path) + found[0], found[1], reason
            path.append((*found, children(found[1])))
            above.add(id(found[1]))
    return None


def is_no_number(value: object) -> bool:
    """Return whether this is a NaN or infinity."""
    return isinstance(value, float) and not math.isfinite(value)


def find(value: object, sought: Callable[[object], bool], path: str = "", depth: int = 64) -> tuple[str, object] | None:
    """Return path and value of the first part for which `sought` returns True."""
    if sought(value):
        return path, value
    if depth and type(value) not in SCALARS:
        for way, part in children(value):
            found = find(part, sought, path + way, depth - 1)
            if found is not None:
                return found
    return None


def _compare_parts(a: Any, b: Any, depth: int) -> Difference | None:  # noqa: ANN401 - two values of one type
    """Compare two values of one type that is no scalar."""
    kind = type(a)
    hook = _hooks.registered(kind)
    if hook is not None:
        difference = compare(hook.encode(a), hook.encode(b), depth)
        return None if difference is None else Difference("", a, f"would come back as {show(b)}")
    if isinstance(a, (list, tuple)):
        return _compare_items(a, b, depth) or (None if kind in {list, tuple} else _compare_fields(a, b, [], depth))
    if isinstance(a, dict):
        return _compare_mapping(a, b, depth)
    if isinstance(a, (set, frozenset)):
        return _compare_sets(a, b, depth)
    names = fields(a)
    if names is not None:
        return _compare_fields(a, b, names, depth)
    return _compare_leaf(a, b) or _compare_fields(a, b, [], depth)


def _compare_items(a: list[Any] | tuple[Any, ...], b: list[Any] | tuple[Any, ...], depth: int) -> Difference | None:
    kinds = list(map(type, a))
    if SCALARS.issuperset(kinds) and kinds == list(map(type, b)) and a == b:
        return None  # fast, and never misses a NaN, which is equal to nothing
    if len(a) != len(b):
        return Difference("", a, f"has {len(a)} items and would come back with {len(b)}")
    for index, (one, other) in enumerate(zip(a, b, strict=True)):
        difference = compare(one, other, depth)
        if difference is not None:
            return difference.under(f"[{index}]")
    return None


def _compare_mapping(a: dict[Any, Any], b: dict[Any, Any], depth: int) -> Difference | None:
    """Compare pairs in order; if that fails, find the difference by key, so that the reason names the right key."""
    if len(a) == len(b):
        for (key, one), (twin, other) in zip(a.items(), b.items(), strict=True):
            if key != twin:
                break
            difference = (None if type(key) is str and type(twin) is str else _compare_keys(key, twin, depth)) or (
                compare(one, other, depth)
            )
            if difference is not None:
                return difference.under(step(key))
        else:
            return None
    twins = {key: key for key in b}
    for key, beside in zip(a, [*b, *a], strict=False):
        twin = twins.get(key, beside)
        if type(key) is not type(twin):
            return Difference(
                step(key), key, f"is {_name(type(key))} as a key and would come back as {_name(type(twin))}"
            )
        if key not in twins:
            return Difference(step(key), a[key], "would not come back")
    if len(a) != len(b):
        return Difference("", a, f"has {len(a)} keys and would come back with {len(b)}")
    return Difference("", a, "would come back with its keys in another order")


def _compare_keys(key: object, twin: object, depth: int) -> Difference | None:
    if type(key) is not type(twin) and not (type(key) is int and type(twin) is float):
        return Difference("", key, f"is {_name(type(key))} as a key and would come back as {_name(type(twin))}")
    return compare(key, twin, depth)


def _compare_sets(a: set[Any] | frozenset[Any], b: set[Any] | frozenset[Any], depth: int) -> Difference | None:
    if a != b:
        return Difference("", a, f"would come back as {show(b)}")
    twins = {item: item for item in b}
    for item in a:
        difference = compare(item, twins[item], depth)
        if difference is not None:
            return difference.under("{...}")
    return None


def _compare_fields(a: object, b: object, names: list[str], depth: int) -> Difference | None:
    """Compare the fields, and the other attributes, which come back only if creating the object sets them again."""
    for name in names:
        mine, other = getattr(a, name, _state.MISSING), getattr(b, name, _state.MISSING)
        if mine is other is _state.MISSING:
            continue
        difference = compare(mine, other, depth)
        if difference is not None:
            return _missing(name, mine, other) or difference.under(f".{name}")
    return _compare_beside(a, b, names, depth) or (_compare_model(a, b) if _models.is_model(type(a)) else None)


def _compare_beside(a: object, b: object, names: list[str], depth: int) -> Difference | None:
    for name in _state.beside(a, names):
        mine, other = _state.get(a, name), _state.get(b, name)
        if _state.is_cached(type(a), name) and type(mine) is type(other) and _state.is_plain_object(mine):
            continue  # it is computed again
        lost = _missing(name, mine, other)
        if lost is not None:
            return lost
        difference = compare(mine, other, depth)
        if difference is not None:
            return difference.under(f".{name}")
    return None


def _missing(name: str, mine: object, other: object) -> Difference | None:
    if mine is _state.MISSING or other is _state.MISSING:
        return Difference(f".{name}", None if mine is _state.MISSING else mine, "would not come back")
    return None


def _compare_model(a: Any, b: Any) -> Difference | None:  # noqa: ANN401 - a pydantic model
    if getattr(a, "__pydantic_private__", None) != getattr(b, "__pydantic_private__", None):
        return Difference("", a, "has private attributes that would not come back")
    if _models.fields_set(a) != _models.fields_set(b):
        return Difference("", a, f"has other fields set than would come back ({sorted(_models.fields_set(b))})")
    return None


def _compare_leaf(a: Any, b: Any) -> Difference | None:  # noqa: ANN401 - two of a type
    if isinstance(a, (datetime, time)):
        if _moments.same(a, b):
            return None
        zone = "" if _moments.same_zone(a, b) else f": {ZONES}"
        return Difference("", a, f"would come back as {show(b)}{zone}")
    if isinstance(a, Decimal):
        if a.is_nan():
            return Difference("", a, "cannot be stored: it is not a number")
        return None if a.as_tuple() == b.as_tuple() else Difference("", a, f"would come back as {b!r}")
    if _state.is_plain_object(a):
        return _compare_again(a, b, a)
    if _hooks.is_numpy(type(a)):
        if a != a:  # noqa: PLR0124 - NaN and NaT
            return Difference("", a, "cannot be stored: it is not a number or time")
        alike = a.dtype == b.dtype and a.tobytes() == b.tobytes()
    else:
        alike = bool(a == b)
    return None if alike else Difference("", a, f"would come back as {show(b)}")


def _compare_again(a: object, b: object, original: object) -> Difference | None:
    """Compare the encoded forms, for objects whose class defines no equality."""
    return None if _encode(a) == _encode(b) else Difference("", original, f"would come back as {show(b)}")


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
