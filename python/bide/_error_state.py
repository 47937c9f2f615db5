"""What an exception consists of, and whether JSON can represent all of it: `take_apart` and `put_together`.

The parts are the arguments, `__dict__`, the slots, and the members that built-in classes have beside them
(`OSError.filename`, `NameError.name`). They are read and written through the descriptors of the classes that
define them, so no `__init__`, `__getattr__`, `__setattr__` or property of a user's class is executed.

An exception is put together from its parts only if it then has exactly these parts.
"""

import json
import math
from collections.abc import Iterator
from types import (
    BuiltinFunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    WrapperDescriptorType,
)
from typing import Any, TypeAlias, cast

from bide._error_class import MRO, own_names
from bide._text import is_text

Parts: TypeAlias = dict[str, Any]
"""The parts of an exception as JSON values: `args`, `state` (its `__dict__`) and `members`."""

LIMIT = 64 * 1024
"""How many bytes an exception's parts may take to be kept."""

OPT_OUT = "__bide_rebuild__"
"""An exception class that sets this to False is never rebuilt: its arguments and attributes are not stored."""

ARGS, DICT = vars(BaseException)["args"], vars(BaseException)["__dict__"]
DEPTH, WORD, LONGEST_INT = 8, 8, 2000

_MISSING = object()


class _Attributes(dict[str, Any]):
    """The `__dict__` of a rebuilt exception. It also keeps where that was first raised, and its stored form."""

    __slots__ = ("origin", "stored")
    origin: str
    stored: bytes

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Reduce to a plain dict, for a copy or pickle."""
        return dict, (dict(self),)


def remember_origin(exc: BaseException, traceback: str) -> None:
    """Keep the formatted traceback with which an exception was first raised, for when it is stored again."""
    attributes = _Attributes(DICT.__get__(exc))
    attributes.origin = traceback
    DICT.__set__(exc, attributes)


def origin_of(exc: BaseException) -> str:
    """Return what `remember_origin` kept, or an empty string."""
    attributes = DICT.__get__(exc)
    return getattr(attributes, "origin", "") if isinstance(attributes, _Attributes) else ""


def remember_stored(exc: BaseException, stored: bytes) -> None:
    """Keep the form in which an exception of another process is to be stored."""
    attributes = _Attributes(DICT.__get__(exc))
    attributes.stored = stored
    DICT.__set__(exc, attributes)


def stored_of(exc: BaseException) -> bytes | None:
    """Return what `remember_stored` kept."""
    attributes = DICT.__get__(exc)
    return getattr(attributes, "stored", None) if isinstance(attributes, _Attributes) else None


def take_apart(exc: BaseException) -> Parts | None:
    """Return all parts of the exception, or None if JSON cannot represent every part exactly."""
    cls = type(exc)
    if opted_out(cls) or _hides_state(cls):
        return None
    members: dict[str, Any] = {}
    for name, descriptor in _members(cls):
        value = _get(descriptor, exc)
        if value is _MISSING:
            continue
        if name in members:
            return None  # two classes have a slot of this name
        members[name] = value
    state = {name: value for name, value in DICT.__get__(exc).items() if name != "__notes__"}
    parts: Parts = {"args": list(ARGS.__get__(exc)), "state": state, "members": members}
    return parts if _is_plain(parts, [LIMIT], DEPTH + 2) else None


def put_together(cls: type[BaseException], parts: Parts) -> BaseException | None:
    """Return an exception that consists of these parts, or None if it cannot be built safely."""
    try:
        exc = build(cls, parts["args"])
        if exc is None or any(is_dunder(name) for name in parts["state"]):
            return None
        for name, descriptor in _members(cls):
            value = parts["members"].get(name, _MISSING)
            if _same(_get(descriptor, exc), value):
                continue
            if value is _MISSING or not _may_be_set(descriptor):
                return None
            descriptor.__set__(exc, value)
        DICT.__get__(exc).update(parts["state"])
        found = take_apart(exc)
    except Exception:  # noqa: BLE001 - the class's own code may raise anything
        return None
    return exc if found is not None and _same(found, parts) else None


def build(cls: type[BaseException], args: list[Any]) -> BaseException | None:
    """Create an exception by the built-in `__new__` and `__init__` only; None if the class has its own `__new__`."""
    new = next(own_names(base)["__new__"] for base in MRO.__get__(cls) if "__new__" in own_names(base))
    if not isinstance(new, BuiltinFunctionType):
        return None
    # A Python __init__ may take other arguments than it passed to its base; what it set is in the parts.
    inits = (own_names(base).get("__init__") for base in MRO.__get__(cls))
    init = next(init for init in inits if isinstance(init, WrapperDescriptorType))
    exc = new(cls, *args)
    init(exc, *args)
    return exc if type(exc) is cls else None


def opted_out(cls: type) -> bool:
    """Return whether the class, or the nearest base that sets it, has `__bide_rebuild__ = False`."""
    settings = (own_names(base)[OPT_OUT] for base in MRO.__get__(cls) if OPT_OUT in own_names(base))
    return next(settings, True) is False


def is_dunder(name: str) -> bool:
    """Return whether the name is one of Python's own, which a record must not set."""
    return name.startswith("__") and name.endswith("__")


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    for base in MRO.__get__(cls):
        if base is BaseException or base is object:
            continue
        for name, value in own_names(base).items():
            described = isinstance(value, (MemberDescriptorType, GetSetDescriptorType))
            if described and name not in {"__dict__", "__weakref__"} and value.__objclass__ is base:
                yield name, value


def _may_be_set(descriptor: Any) -> bool:  # noqa: ANN401 - a slot or member
    """Return whether any value may be set. C code may rely on its members' types, as that of UnicodeError does."""
    owner = descriptor.__objclass__
    if owner.__module__ == "builtins":
        return not issubclass(owner, UnicodeError)
    return "__slots__" in own_names(owner)


def _get(descriptor: Any, exc: BaseException) -> Any:  # noqa: ANN401 - a slot or member and its value
    try:
        return descriptor.__get__(exc)
    except AttributeError:
        return _MISSING


def _hides_state(cls: type) -> bool:
    """Return whether instances have memory that no descriptor shows, as those of a C extension may."""
    base = cls.__base__
    while base is not None and cls.__module__ != "builtins":
        names = own_names(cls)
        seen = sum(isinstance(value, MemberDescriptorType) for value in names.values())
        seen += ("__dict__" in names) + ("__weakref__" in names)
        if cls.__basicsize__ - base.__basicsize__ > WORD * seen:
            return True
        cls, base = base, base.__base__
    return False


def _same(a: object, b: object) -> bool:
    """Return whether two plain values are the same to the last bit; a missing value is the same only as itself."""
    if a is b or a is _MISSING or b is _MISSING:
        return a is b
    return json.dumps(a) == json.dumps(b)


def _is_plain(value: object, room: list[int], depth: int) -> bool:
    """Return whether JSON represents exactly this value, within the remaining `room`."""
    room[0] -= len(value) + WORD if type(value) in {str, list, dict} else WORD  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    if room[0] < 0 or depth == 0:
        return False
    if value is None or type(value) is bool:
        return True
    if type(value) is int:
        return value.bit_length() <= LONGEST_INT
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is str:
        return is_text(value)
    if type(value) is list:
        return all(_is_plain(item, room, depth - 1) for item in cast("list[object]", value))
    if type(value) is dict:
        items = cast("dict[object, object]", value).items()
        return all(type(k) is str and _is_plain(k, room, depth - 1) and _is_plain(v, room, depth - 1) for k, v in items)
    return False
