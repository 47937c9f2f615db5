"""What an object has beside its fields: attributes in its `__dict__` and in slots of its base classes."""

import functools
import inspect
import sys
from typing import Any

MISSING: Any = object()

_NOT_STATE = frozenset({"__dict__", "__weakref__"})


def get(value: object, name: str) -> Any:  # noqa: ANN401 - an attribute
    """Return an attribute, `MISSING` if it has no value or cannot be had."""
    try:
        return getattr(value, name)
    except Exception:  # noqa: BLE001 - a property or a cached property may raise anything
        return MISSING


def beside(value: object, names: list[str]) -> list[str]:
    """Return the names of the attributes that are no fields; exact builtins and classes of libraries have none."""
    found: set[str] = set(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        slots: Any = cls.__dict__.get("__slots__", ())
        if slots and not _is_library(cls):
            names_of = (_mangled(cls, slot) for slot in ((slots,) if isinstance(slots, str) else slots))
            found.update(name for name in names_of if _is_set(value, cls, name))
    return sorted(name for name in found.difference(names, _NOT_STATE) if not name.startswith("__pydantic_"))


def is_cached(cls: type, name: str) -> bool:
    """Whether an attribute is a `cached_property`, which can be computed again."""
    return isinstance(inspect.getattr_static(cls, name, None), functools.cached_property)


def is_plain_object(value: object) -> bool:
    """Whether an object, such as a connection, is equal to itself alone."""
    eq: Any = type(value).__eq__
    return eq is object.__eq__


def _is_library(cls: type) -> bool:
    top = (cls.__module__ or "").partition(".")[0]
    return (top in sys.stdlib_module_names and top != "__main__") or top in {"numpy", "msgspec", "pydantic"}


def _is_set(value: object, cls: type, name: str) -> bool:
    """Whether a slot has a value; asked of the slot itself, since a `__getattr__` may compute one."""
    try:
        cls.__dict__[name].__get__(value, cls)
    except (AttributeError, KeyError):
        return False
    return True


def _mangled(cls: type, slot: str) -> str:
    private = slot.startswith("__") and not slot.endswith("__")
    return f"_{cls.__name__.lstrip('_')}{slot}" if private else slot
