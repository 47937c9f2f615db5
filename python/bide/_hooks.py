"""What JSON does not know: Path, numpy scalars, pydantic models, and the types that `bide.codec` registers.

`to_json` and `from_json` are msgspec's hooks; `unsupported` finds, when an annotation is compiled, the first
type in it that neither msgspec nor this file knows. Nothing is imported for it: who has no numpy pays nothing.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, get_origin

import msgspec
from msgspec import inspect as shapes

from bide._errors import DefinitionError


@dataclass(frozen=True, slots=True)
class Hook:
    """How one registered type is carried."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_registered: dict[type, Hook] = {}


def register(cls: type, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
    """Register a type for `bide.codec`."""
    if not isinstance(cls, type):
        msg = f"bide.codec takes a class first, not {cls!r}"
        raise DefinitionError(msg)
    for what, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            msg = f"bide.codec({cls.__qualname__}): {what} must be callable, not {function!r}"
            raise DefinitionError(msg)
    if not isinstance(shapes.type_info(cls), shapes.CustomType):
        msg = f"bide.codec({cls.__qualname__}): bide stores this type already, field by field or as JSON"
        raise DefinitionError(msg)
    _registered[cls] = Hook(encode, decode)


def registered(cls: type) -> Hook | None:
    """Return the hook of a registered type."""
    return _registered.get(cls)


def to_json(value: Any) -> Any:  # noqa: ANN401 - msgspec asks with anything
    """Return something that JSON can carry for a value that it cannot."""
    cls = type(value)
    hook = _registered.get(cls)
    if hook is not None:
        return hook.encode(value)
    if isinstance(value, PurePath):
        return str(value)
    if is_numpy(cls):
        plain = value.item()
        if type(plain) is not cls:
            return plain
    if is_pydantic(cls):
        return msgspec.Raw(value.model_dump_json(by_alias=True, round_trip=True).encode())
    remedy = ": store a path, or .tolist()" if hasattr(value, "tolist") else f": register it with {_call(cls)}"
    msg = f"bide does not know the type {cls.__module__}.{cls.__qualname__}{remedy}"
    raise TypeError(msg)


def from_json(cls: type, value: Any) -> Any:  # noqa: ANN401 - msgspec asks with anything
    """Return a value of `cls` for what `to_json` gave."""
    cls = get_origin(cls) or cls
    hook = _registered.get(cls)
    if hook is not None:
        return hook.decode(value)
    if issubclass(cls, PurePath):
        if not isinstance(value, str):
            msg = f"Expected `str` for a {cls.__name__}, got `{type(value).__name__}`"
            raise ValueError(msg)  # noqa: TRY004 - what msgspec expects of a value that does not fit
        return cls(value)
    if is_numpy(cls):
        if value is None:
            msg = f"Expected a value for {cls.__name__}, got `null` (NaN and infinity cannot be stored)"
            raise ValueError(msg)
        return cls(value)
    if is_pydantic(cls):
        model: Any = cls
        return model.model_validate_json(msgspec.json.encode(value))
    if cls is object:
        return value
    msg = f"bide does not know the type {cls.__module__}.{cls.__qualname__}: register it with {_call(cls)}"
    raise TypeError(msg)


def is_numpy(cls: type) -> bool:
    """Whether this is a class of numpy scalars."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(cls, numpy.generic)


def is_pydantic(cls: type) -> bool:
    """Whether this is a pydantic model."""
    return hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_validate_json")


def unsupported(annotation: object) -> object | None:
    """Return the first type inside an annotation that can be neither encoded nor decoded; None if all can."""
    for node in _nodes(shapes.type_info(annotation), set()):
        if isinstance(node, shapes.CustomType):
            cls = get_origin(node.cls) or node.cls
            known = isinstance(cls, type) and (
                cls in _registered or cls is object or issubclass(cls, PurePath) or is_numpy(cls) or is_pydantic(cls)
            )
            if not known:
                return cls
    return None


def has_sets(annotation: object) -> bool:
    """Whether an annotation has sets inside, which have no order of their own."""
    nodes = _nodes(shapes.type_info(annotation), set())
    return any(isinstance(node, (shapes.SetType, shapes.FrozenSetType)) for node in nodes)


def _nodes(node: object, seen: set[int]) -> Iterator[object]:
    """Walk msgspec's description of a type; recursive types refer to themselves."""
    if isinstance(node, tuple):
        for item in node:
            yield from _nodes(item, seen)
    elif isinstance(node, msgspec.Struct) and id(node) not in seen:
        seen.add(id(node))
        yield node
        for name in node.__struct_fields__:
            yield from _nodes(getattr(node, name), seen)


def _call(cls: type) -> str:
    return f"bide.codec({cls.__name__}, encode, decode)"
