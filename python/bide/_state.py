"""The attributes of an object that are no fields: in its `__dict__` and in slots of its base classes."""

import functools
import inspect
import sys
import weakref
from collections.abc import Iterator
from typing import Any, cast

MISSING: Any = object()

_slots: "weakref.WeakKeyDictionary[type, tuple[tuple[str, weakref.ref[type]], ...]]" = weakref.WeakKeyDictionary()
"""The slots of each class seen that are no fields, with the class that defines them."""

_NOT_STATE = frozenset({"__dict__", "__weakref__", "__orig_class__"})
"""The last one is set by `typing` on an instance of a generic class when it is created in one way."""


def get(value: object, name: str) -> Any:  # noqa: ANN401 - an attribute
    """Return an attribute; `MISSING` if it has no value or raises."""
    try:
        return getattr(value, name)
    except Exception:  # noqa: BLE001 - a property or a cached property may raise anything
        return MISSING


def beside(value: object, names: list[str]) -> list[str]:
    """Return the names of the attributes that are no fields; builtins and classes of libraries have none."""
    cls = type(value)
    slots = _slots.get(cls)
    if slots is None:
        slots = _slots[cls] = tuple(_slots_beside(cls, names))
    attributes: dict[str, Any] = getattr(value, "__dict__", {})
    if not slots and attributes.keys() <= set(names):
        return []
    found = {name for name, owner in slots if _is_set(value, owner(), name)} | attributes.keys()
    return sorted(name for name in found.difference(names, _NOT_STATE) if not name.startswith("__pydantic_"))


def _slots_beside(cls: type, names: list[str]) -> Iterator[tuple[str, "weakref.ref[type]"]]:
    for base in cls.__mro__:
        slots: Any = base.__dict__.get("__slots__", ())
        if not slots or is_library(base.__module__):
            continue
        for slot in (slots,) if isinstance(slots, str) else slots:
            name = _mangled(base, slot)
            if name not in names and name not in _NOT_STATE:
                yield name, weakref.ref(base)


def is_cached(cls: type, name: str) -> bool:
    """Return whether an attribute is a `cached_property`, which can be computed again."""
    return isinstance(inspect.getattr_static(cls, name, None), functools.cached_property)


def is_plain_object(value: object) -> bool:
    """Return whether an object, such as a connection, is equal only to itself."""
    eq: Any = type(value).__eq__
    return eq is object.__eq__


def is_library(module: str | None) -> bool:
    """Return whether a module is of the standard library or of a library whose classes are known here."""
    top = (module or "").partition(".")[0]
    return (top in sys.stdlib_module_names and top != "__main__") or top in {"numpy", "msgspec", "pydantic"}


def _is_set(value: object, cls: type | None, name: str) -> bool:
    """Return whether a slot has a value. It reads the slot itself, since a `__getattr__` may compute a value."""
    try:
        cast("Any", cls).__dict__[name].__get__(value, cls)
    except (AttributeError, KeyError):
        return False
    return True


def _mangled(cls: type, slot: str) -> str:
    private = slot.startswith("__") and not slot.endswith("__")
    return f"_{cls.__name__.lstrip('_')}{slot}" if private else slot
