"""Pydantic models encode and validate themselves; this module adds what their JSON lacks.

Their JSON has sets in the order of this process's hashes: `dump` sorts them. It also has every field, so a model read
from it would count every field as set: `unset` lists those that were not set in a whole value, and `mark` removes
them from the fields that count as set in the models that were read.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import msgspec

Marks: TypeAlias = list[tuple[list[int | str], list[str]]]
"""Places in a value with the fields that were not set there. A place is a list of attributes and positions."""

_encode = msgspec.json.encode
_with_sets: "weakref.WeakKeyDictionary[type, bool]" = weakref.WeakKeyDictionary()


def is_model(cls: type) -> bool:
    """Return whether this is a class of pydantic models."""
    return hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_validate_json")


def dump(model: Any) -> bytes:  # noqa: ANN401 - pydantic may not be installed
    """Return a model's JSON, equal for equal models."""
    cls = type(model)
    if cls not in _with_sets:
        _with_sets[cls] = _mentions_sets(cls.__pydantic_core_schema__, set())
    if not _with_sets[cls]:
        return cast("bytes", model.model_dump_json(by_alias=True, round_trip=True).encode())
    # Both dumps iterate over the same sets in the same order: one says where they are, the other what is written.
    shown = model.model_dump(by_alias=True, round_trip=True)
    return _encode(_in_order(shown, model.model_dump(mode="json", by_alias=True, round_trip=True)))


def fields_set(model: Any) -> set[str]:  # noqa: ANN401 - as above
    """Return the names of the fields that were set."""
    return cast("set[str]", model.model_fields_set)


def unset(value: object, children: Callable[[object], Iterator[tuple[int | str, object]]]) -> Marks:
    """Return the fields that were not set in the models within a value."""
    found: Marks = []
    open_parts: list[tuple[list[int | str], object]] = [([], value)]
    while open_parts:
        place, part = open_parts.pop()
        cls: Any = type(part)
        if is_model(cls):
            missing = cls.model_fields.keys() - fields_set(part)
            if missing:
                found.append((place, sorted(missing)))
        open_parts.extend(([*place, step], inner) for step, inner in children(part))
    return sorted(found, key=_encode)


def mark(value: object, marks: Marks, children: Callable[[object], Iterator[tuple[int | str, object]]]) -> None:
    """Remove the fields that were not set from those that count as set, where the reader has a model too."""
    for place, names in marks:
        part: object = value
        for step in place:
            part = dict(children(part)).get(step)
        if is_model(type(part)):
            fields_set(part).difference_update(names)


def _mentions_sets(schema: object, seen: set[int]) -> bool:
    if id(schema) in seen:
        return False
    seen.add(id(schema))
    if isinstance(schema, Mapping):
        return schema.get("type") in {"set", "frozenset"} or any(_mentions_sets(one, seen) for one in schema.values())
    return isinstance(schema, (list, tuple)) and any(_mentions_sets(one, seen) for one in schema)


def _in_order(shown: Any, written: Any) -> Any:  # noqa: ANN401 - whatever a model holds
    """Return `written` with each list sorted that is a set in `shown`."""
    if isinstance(shown, dict) and isinstance(written, dict) and len(shown) == len(written):
        pairs = zip(written.items(), shown.values(), strict=True)
        return {key: _in_order(inner, item) for (key, item), inner in pairs}
    if isinstance(shown, (list, tuple, set, frozenset)) and isinstance(written, list) and len(shown) == len(written):
        items = [_in_order(inner, item) for inner, item in zip(shown, written, strict=True)]
        return sorted(items, key=_encode) if isinstance(shown, (set, frozenset)) else items
    return written
