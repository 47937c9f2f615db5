"""The digest of a value by which it is compared with what was recorded: `canonical`. Equal values have equal digests.

The order of dict keys and of sets does not count, at any depth; models are walked by their fields and not by how they
encode themselves. Of a class or function only the qualified name counts, not the module: the same file is `__main__`
as a script and has a name when it is imported. The digest is the same in every process and under every CPython. Types
count: 1, True and 1.0 differ.

What a function is asked to do are also the immutable plain values that it has captured: see `captures`.
"""

import functools
import inspect
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, tzinfo
from enum import Enum, Flag
from numbers import Number
from typing import Any
from uuid import UUID

import msgspec

from bide import _hooks, _models
from bide._context import Context
from bide._core import TaskHandle
from bide._sink import Sink, no_form, plain_base, state_of


def canonical(value: object, most: int) -> bytes:
    """Return the digest of a value; raises if it has no stable form, or takes more than `most` bytes."""
    sink = Canonical(most)
    sink.value(value)
    return sink.digest()


def captures(fn: object) -> Iterator[tuple[str, Any]]:
    """Yield name and value of what a function made within a body has captured, as far as it is immutable and plain.

    A plain value that a method is bound to, such as a path, counts too. Captured objects and containers are how
    something is done, not what is asked; so is None, which often stands for an object that is not there yet. The
    defaults of a function count if it was made within another one: those of a global function are code.
    """
    seen: set[int] = set()
    while id(fn) not in seen:
        seen.add(id(fn))
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            yield from _bound_to(fn.__self__)
            fn = fn.__func__
        else:
            if isinstance(fn, (types.BuiltinFunctionType, types.MethodWrapperType)):
                yield from _bound_to(fn.__self__)
            if isinstance(fn, types.FunctionType):
                yield from _captured_by(fn)
            fn = getattr(fn, "__dict__", {}).get("__wrapped__", fn)


def _bound_to(owner: object) -> Iterator[tuple[str, Any]]:
    if _is_plain_value(owner):
        yield "self", owner


def _captured_by(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    is_local = "<locals>" in fn.__qualname__
    if not is_local and fn.__name__ != "<lambda>":
        return
    code = fn.__code__
    found: list[tuple[str, Any]] = []
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found.append((name, cell.cell_contents))
        except ValueError:  # nothing is assigned yet
            continue
    if is_local and fn.__defaults__:
        last = code.co_argcount
        found += zip(code.co_varnames[last - len(fn.__defaults__) : last], fn.__defaults__, strict=True)
    if is_local and fn.__kwdefaults__:
        found += sorted(fn.__kwdefaults__.items())
    yield from ((name, value) for name, value in found if _is_plain_value(value))


_PLAIN = (Number, str, bytes, date, time, timedelta, tzinfo, UUID, Enum)


def _is_plain_value(value: object) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(item is None or _is_plain_value(item) for item in value)
    return isinstance(value, _PLAIN) or _hooks.is_path(type(value)) or _hooks.is_numpy(type(value))


class Canonical(Sink):
    """Describes values, equal ones alike."""

    def value(self, value: Any) -> None:  # noqa: ANN401 - an argument may be anything
        """Describe a value by its type and its content."""
        kind = type(value)
        if self.plain(kind, value):
            return
        if kind in _CONTAINERS:
            self.text("container", kind.__name__)
            self.within(value, _CONTAINERS[kind].__get__(self))
        elif isinstance(value, Enum):
            self.text("member of", kind.__qualname__)
            self.value(value._value_ if isinstance(value, Flag) else value.name)
        elif isinstance(value, type):
            self.text("class", value.__qualname__)
        elif isinstance(value, types.ModuleType):
            self.text("module", value.__name__)
        elif is_handle(kind):
            self.put("handle")
        elif isinstance(value, Context):
            self.put("context")
            self.value(value.to_dict())
        elif (hook := _hooks.registered(kind)) is not None:
            self.text("encoded", kind.__qualname__)
            self.value(hook.encode(value))
        elif not self._callable(value):
            self.within(value, self._object)

    def other_zone(self, zone: tzinfo, moment: Any) -> None:  # noqa: ANN401 - a datetime or time
        """Describe a time zone of another library by what it says of this moment."""
        when = moment if isinstance(moment, datetime) else None
        self.text("other zone", f"{type(zone).__qualname__} {zone.utcoffset(when)} {zone.tzname(when)}")

    def _object(self, value: Any) -> None:  # noqa: ANN401 - as in value
        cls = type(value)
        state = state_of(value)
        base: Any = next((base for base in cls.__mro__ if base in _CONTAINERS), None) or plain_base(cls)
        if base is None and not _has_fields(cls):
            raise no_form(value)
        self.text("value of", cls.__qualname__)
        if base in _CONTAINERS:
            _CONTAINERS[base](self, value)
        elif base is not None:
            self.plain(base, value)
        # What can be computed again is not part of a value, nor is typing's note on how it was created.
        computed = [name for name in state if isinstance(inspect.getattr_static(cls, name, None), _COMPUTED)]
        self.entries({name: state[name] for name in state.keys() - {*computed, "__orig_class__"}})

    def _callable(self, fn: Any) -> bool:  # noqa: ANN401 - as in value
        """Describe a function as an argument, by name and by all that it has captured; False if it is none."""
        if isinstance(fn, types.FunctionType):
            self.within(fn, self._function)
        elif isinstance(fn, types.MethodType):
            self.put("method")
            self.value(fn.__func__)
            self.value(fn.__self__)
        elif isinstance(fn, functools.partial):
            self.put("partial")
            self.value((fn.func, fn.args, fn.keywords))
        elif isinstance(fn, _BUILTINS):
            self.text("builtin", fn.__qualname__)
            owner = getattr(fn, "__self__", None)
            if not isinstance(owner, (types.ModuleType, type(None))):
                self.value(owner)
        elif callable(fn) and "__wrapped__" in getattr(fn, "__dict__", ()) and not _has_fields(type(fn)):
            self.text("wrapper", type(fn).__qualname__)
            self.value(vars(fn)["__wrapped__"])
        else:
            return False
        return True

    def _function(self, fn: types.FunctionType) -> None:
        self.text("function", fn.__qualname__)
        if "<locals>" not in fn.__qualname__ and fn.__name__ != "<lambda>":
            return
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            self.text("cell", name)
            try:
                captured = cell.cell_contents
            except ValueError:
                self.put("empty")
            else:
                self.value(captured)
        self.value(fn.__defaults__)
        self.value(fn.__kwdefaults__)

    def _ordered(self, value: "OrderedDict[Any, Any]") -> None:
        for item in value.items():
            self.items(item)

    def _defaulting(self, value: "defaultdict[Any, Any]") -> None:
        self.value(value.default_factory)
        self.entries(value)


def _has_fields(cls: type) -> bool:
    """Whether a class says what its values are made of."""
    return (
        hasattr(cls, "__dataclass_fields__")
        or issubclass(cls, msgspec.Struct)
        or hasattr(cls, "__attrs_attrs__")
        or _models.is_model(cls)
    )


def is_handle(cls: type) -> bool:
    """Whether this is the class of a body's own handle, which does not change while the body lives."""
    return cls is TaskHandle


_COMPUTED = (functools.cached_property,)
_BUILTINS = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)
_CONTAINERS: dict[Any, Any] = {
    list: Canonical.items,
    tuple: Canonical.items,
    set: Canonical.members,
    frozenset: Canonical.members,
    OrderedDict: Canonical._ordered,
    defaultdict: Canonical._defaulting,
    deque: Canonical.bounded,
    dict: Canonical.entries,
}
