"""Types that JSON does not have: Path, numpy scalars, pydantic models, and those registered by `bide.codec`.

`to_json` and `from_json` are msgspec's hooks; `unsupported` finds, when an annotation is compiled, the first
type in it that neither msgspec nor this module supports. A program without numpy or pydantic imports neither.
"""

import builtins
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from enum import Enum
from typing import Any, get_args, get_origin, is_typeddict

import msgspec
from msgspec import inspect as shapes

from bide._errors import DefinitionError
from bide._models import dump, is_model


class Hook(msgspec.Struct, frozen=True):
    """The functions that convert a registered type."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


MAX_DEPTH = 200
"""How many levels a value may have."""

_ATTRIBUTE = "__bide_codec__"
"""The attribute in which a class keeps its hook, so that nothing here keeps the class alive."""

_fixed: dict[type, Hook] = {}
"""The hooks of classes that allow no attributes: those written in C, which live as long as the process."""


def register(cls: type, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
    """Register a type for `bide.codec`."""
    if not isinstance(cls, type):
        msg = f"bide.codec takes a class first, not {cls!r}"
        raise DefinitionError(msg)
    what = f"bide.codec({cls.__qualname__})"
    for name, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            msg = f"{what}: {name} must be callable, not {function!r}"
            raise DefinitionError(msg)
    if is_typeddict(cls):
        msg = f"{what}: a TypedDict has no instances of its own, they are plain dicts: register a class"
        raise DefinitionError(msg)
    if _is_ours(cls):
        msg = f"{what}: bide already stores this type, which other code uses too: register a subclass"
        raise DefinitionError(msg)
    try:
        setattr(cls, _ATTRIBUTE, Hook(encode, decode))
    except (AttributeError, TypeError):
        _fixed[cls] = Hook(encode, decode)


def _is_ours(cls: type) -> bool:
    """Return whether this is a class of the standard library or numpy that is stored without being registered."""
    if _is_stored_numpy(cls):
        return True
    if (cls.__module__ or "").partition(".")[0] not in sys.stdlib_module_names or cls.__module__ == "__main__":
        return False
    return is_path(cls) or issubclass(cls, Enum) or not isinstance(shapes.type_info(cls), shapes.CustomType)


def registered(cls: type) -> Hook | None:
    """Return the hook of a registered type."""
    return cls.__dict__.get(_ATTRIBUTE) or _fixed.get(cls)


def decoded(cls: type, data: Any) -> Any:  # noqa: ANN401 - what encode gave
    """Return the instance of a registered class that its decode returns for `data`."""
    if type(data) is cls:
        return data
    hook = registered(cls)
    value = data if hook is None else hook.decode(data)
    if not isinstance(value, cls):
        msg = f"the decode of bide.codec({cls.__qualname__}) returned a {type(value).__qualname__}"
        raise ValueError(msg)  # noqa: TRY004 - like every value that does not fit
    return value


def to_json(value: Any) -> Any:  # noqa: ANN401 - msgspec asks with anything
    """Return a form that JSON has of a value that JSON does not have."""
    cls = type(value)
    hook = registered(cls)
    if hook is not None:
        return hook.encode(value)
    if is_path(cls):
        return str(value)
    if _is_stored_numpy(cls):
        return _plain_number(value, cls)
    if is_model(cls):
        return msgspec.Raw(dump(value))
    msg = f"bide does not know the type {cls.__module__}.{cls.__qualname__}{_remedy(value)}"
    raise TypeError(msg)


def from_json(cls: type, value: Any) -> Any:  # noqa: ANN401 - msgspec asks with anything
    """Return the value of `cls` from what `to_json` returned."""
    cls = get_origin(cls) or cls
    if registered(cls) is not None:
        return decoded(cls, value)
    if is_path(cls):
        if not isinstance(value, str):
            msg = f"Expected `str` for a {cls.__name__}, got `{type(value).__name__}`"
            raise ValueError(msg)
        return cls(value)
    if _is_stored_numpy(cls):
        return _number(cls, value)
    if is_model(cls):
        model: Any = cls
        return model.model_validate_json(msgspec.json.encode(value))
    if cls is object:
        return value
    msg = f"bide does not know the type {cls.__module__}.{cls.__qualname__}: register it with {call(cls)}"
    raise TypeError(msg)


def is_path(cls: type) -> bool:
    """Whether this is a class of paths."""
    return _is_subclass(cls, "pathlib", "PurePath")


def is_numpy(cls: type) -> bool:
    """Whether this is a class of numpy scalars."""
    return _is_subclass(cls, "numpy", "generic")


def _is_subclass(cls: type, module: str, name: str) -> bool:
    """Whether `cls` is derived from `module.name`, without importing the module: a subclass has imported it.

    While another thread imports the module, the name may not be there yet.
    """
    base: Any = getattr(sys.modules.get(module), name, None)
    return base is not None and issubclass(cls, base)


def _is_stored_numpy(cls: type) -> bool:
    """Return whether these numpy scalars can be stored: no complex number, bytes, record or long double."""
    if not is_numpy(cls):
        return False
    numpy: Any = sys.modules["numpy"]
    stored = (numpy.bool_, numpy.number, numpy.str_, numpy.datetime64, numpy.timedelta64)
    return issubclass(cls, stored) and not issubclass(cls, (numpy.complexfloating, numpy.longdouble))


def _plain_number(value: Any, cls: type) -> Any:  # noqa: ANN401 - a numpy scalar
    numpy: Any = sys.modules["numpy"]
    if issubclass(cls, numpy.datetime64):
        text = str(value)  # as many digits as its unit has
        if cls(text).dtype == value.dtype:
            return text
    elif not issubclass(cls, numpy.timedelta64):
        return value.item()
    unit, multiple = numpy.datetime_data(value.dtype)
    return [int(value.astype("int64")), f"{multiple}{unit}" if unit != "generic" else unit]


def _number(cls: Any, value: Any) -> Any:  # noqa: ANN401 - a class of numpy scalars
    numpy: Any = sys.modules["numpy"]
    if value is None:
        msg = f"Expected a value for {cls.__name__}, got `null` (NaN and infinity cannot be stored)"
        raise ValueError(msg)
    if issubclass(cls, (numpy.datetime64, numpy.timedelta64)):
        return cls(*value) if isinstance(value, list) else cls(value)
    number = cls(value)
    plain = number.item()
    if (type(plain) is bool) != (type(value) is bool) or plain != value:
        msg = f"Expected a value for {cls.__name__}, which cannot hold {value!r}"
        raise ValueError(msg)
    return number


def unsupported(annotation: object) -> object | None:
    """Return the first type in an annotation that cannot be encoded and decoded; None if all can."""
    for node in _nodes(shapes.type_info(annotation), set()):
        if isinstance(node, shapes.CustomType):
            cls = get_origin(node.cls) or node.cls
            known = isinstance(cls, type) and (
                registered(cls) or cls is object or is_path(cls) or _is_stored_numpy(cls) or is_model(cls)
            )
            if not known:
                return cls
    return None


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


def culprit(annotation: object) -> tuple[type, str] | None:
    """Return the innermost class in an annotation that msgspec should support and does not, and why."""
    found = None
    open_parts: list[Any] = [annotation]
    seen: list[Any] = []
    while open_parts:
        part = open_parts.pop(0)
        if part in seen:
            continue
        seen.append(part)
        open_parts.extend(get_args(part))
        if isinstance(part, type) and not get_args(part):
            try:
                shapes.type_info(part)
            except Exception as problem:  # noqa: BLE001 - this is the search
                found = part, str(problem)
                open_parts.extend(getattr(part, "__annotations__", {}).values())
    return found


def _remedy(value: object) -> str:
    if hasattr(value, "tolist") and not is_numpy(type(value)):
        return ": store a path, or .tolist()"
    if value is msgspec.UNSET:
        return ": only a field annotated with it may be unset"
    if isinstance(value, Awaitable):
        return ": nobody has awaited it: await it, or pass the `async def` function itself instead of a call of it"
    if gives_items(type(value)):
        return ": store a list, such as list(...) of it"
    if type(value).__module__ == "builtins" and not hasattr(builtins, type(value).__name__):
        return ": store what it can be created from, such as a name"
    return f": register it with {call(type(value))}, and name it in the annotation"


def gives_items(cls: object) -> bool:
    """Whether this is Python's own class of what has items, or gives them, and is no collection that is stored."""
    modules = {"builtins", "itertools", "collections.abc"}
    return isinstance(cls, type) and cls.__module__ in modules and issubclass(cls, Iterable)


def call(cls: type) -> str:
    """Return the call that registers a class, as a user writes it."""
    return f"bide.codec({cls.__name__}, encode, decode)"
