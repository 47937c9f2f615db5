"""The digest of a step's arguments as the first version of bide computed it, for steps that it has recorded.

Imported only where a journal has such a step. It never changes: see `_steps.py` for what is recorded today.
"""

import functools
import hashlib
import struct
import sys
import types
from enum import Enum
from typing import Any, Literal

import msgspec
from msgspec import inspect as shapes

from bide import _hooks, _models
from bide._callables import call_method
from bide._canonical import is_handle
from bide._codec import REFUSE_ABOVE
from bide._context import Context
from bide._sink import Unstable

_DEEPEST = 64


def digest_of_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """Return the digest of a step's arguments; None if the first version refused them."""
    try:
        return _digest_of([list(args), sorted(kwargs.items())])
    except Exception:  # noqa: BLE001 - then no step with these arguments was recorded
        return None


def _digest_of(value: object) -> bytes:
    sink = _Sink()
    sink.value(value)
    return sink.digest()


class _Sink:
    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._size = 0
        self._path: dict[int, int] = {}

    def digest(self) -> bytes:
        return self._hash.digest()

    def put(self, kind: str, data: bytes = b"") -> None:
        self._size += len(data)
        if self._size > REFUSE_ABOVE:
            msg = "too large"
            raise Unstable(msg)
        self._hash.update(f"{kind}:{len(data)}:".encode())
        self._hash.update(data)

    def text(self, kind: str, text: str) -> None:
        self.put(kind, text.encode("utf-8", "surrogatepass"))

    def value(self, value: Any) -> None:  # noqa: ANN401, C901, PLR0912 - an argument may be anything
        kind = type(value)
        if value is None or value is Ellipsis or value is NotImplemented or kind in {bool, range}:
            self.text("constant", repr(value))
        elif kind in {int, str}:
            self.text(kind.__name__, f"{value:x}" if kind is int else value)
        elif kind is float:
            self.put("float", struct.pack("<d", value))
        elif kind is complex:
            self.put("complex", struct.pack("<dd", value.real, value.imag))
        elif kind in {bytes, bytearray}:
            self.put(kind.__name__, bytes(value))
        elif kind in {list, tuple, dict, set, frozenset}:
            self._within(value, self._container)
        elif isinstance(value, types.CodeType):
            self.put("code", _digest_of_code(value))
        elif isinstance(value, types.ModuleType):
            self.text("module", value.__name__)
        elif isinstance(value, Enum):
            self._class(kind)
            self.text("member", value.name)
        elif is_handle(kind):
            self.put("handle")
        elif isinstance(value, Context):
            self.text("context", value.to_json())
        elif isinstance(value, (type, functools.partial)) or callable(value):
            self._callable(value)
        else:
            self._encoded(value)

    def _callable(self, fn: Any, *, whole: bool = False) -> None:  # noqa: ANN401 - any callable
        if isinstance(fn, types.FunctionType):
            if not whole and _is_global(fn):
                self.text("global function", f"{fn.__module__}.{fn.__qualname__}")
            else:
                self._within(fn, self._function)
        elif isinstance(fn, types.MethodType):
            self.put("method")
            self._callable(fn.__func__, whole=whole)
            self.value(fn.__self__)
        elif isinstance(fn, functools.partial):
            self.put("partial")
            self._callable(fn.func, whole=whole)
            self.value(fn.args)
            self.value(fn.keywords)
        elif isinstance(fn, (types.BuiltinFunctionType, types.MethodWrapperType)):
            self.text("builtin", f"{getattr(fn, '__module__', None)}.{fn.__qualname__}")
            self.value(fn.__self__)
        elif isinstance(fn, (types.MethodDescriptorType, types.WrapperDescriptorType)):
            self.text("descriptor", f"{fn.__objclass__.__module__}.{fn.__qualname__}")
        elif isinstance(fn, type):
            self._class(fn)
        elif isinstance(getattr(fn, "__wrapped__", None), types.FunctionType):
            self.text("wrapper", f"{type(fn).__module__}.{type(fn).__qualname__}")
            self._callable(fn.__wrapped__, whole=whole)
        else:
            call = call_method(fn)
            if not isinstance(call, types.FunctionType):
                raise Unstable
            self.put("object")
            self._callable(call, whole=whole)
            self._encoded(fn)

    def _function(self, fn: types.FunctionType) -> None:
        self.text("function", fn.__qualname__)
        self.put("code", _digest_of_code(fn.__code__))
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
        for name in dict.fromkeys(name for code in _nested(fn.__code__) for name in code.co_names):
            if name in fn.__globals__:
                self.text("global", name)
                self.value(fn.__globals__[name])
        wrapped = getattr(fn, "__wrapped__", None)
        if wrapped is not None:
            self.put("wrapped")
            self._callable(wrapped, whole=True)

    def _class(self, cls: type) -> None:
        if not _is_global(cls):
            raise Unstable
        self.text("class", f"{cls.__module__}.{cls.__qualname__}")

    def _container(self, value: Any) -> None:  # noqa: ANN401 - one of five containers
        self.text("container", f"{type(value).__name__} {len(value)}")
        if isinstance(value, (set, frozenset)):
            for digest in sorted(_digest_of(item) for item in value):
                self.put("item", digest)
            return
        for item in value.items() if isinstance(value, dict) else ():
            self.value(item[0])
            self.value(item[1])
        for item in () if isinstance(value, dict) else value:
            self.value(item)

    def _encoded(self, value: object) -> None:
        cls = type(value)
        if not _is_global(cls):
            raise Unstable
        self.text("value of", f"{cls.__module__}.{cls.__qualname__}")
        order: Literal["deterministic"] | None = "deterministic" if _has_sets(shapes.type_info(cls), set()) else None
        self.put("encoded", b"j" + msgspec.json.Encoder(enc_hook=_to_json, order=order).encode(value))

    def _within(self, value: Any, describe: Any) -> None:  # noqa: ANN401 - as in value
        if id(value) in self._path:
            self.text("above", str(len(self._path) - self._path[id(value)]))
            return
        if len(self._path) > _DEEPEST:
            raise Unstable
        self._path[id(value)] = len(self._path)
        describe(value)
        del self._path[id(value)]


def _has_sets(node: object, seen: set[int]) -> bool:
    """Whether msgspec's description of a type has sets inside; recursive types refer to themselves."""
    if isinstance(node, (shapes.SetType, shapes.FrozenSetType)):
        return True
    if isinstance(node, tuple):
        return any(_has_sets(item, seen) for item in node)
    if isinstance(node, msgspec.Struct) and id(node) not in seen:
        seen.add(id(node))
        return any(_has_sets(getattr(node, name), seen) for name in node.__struct_fields__)
    return False


def _to_json(value: Any) -> Any:  # noqa: ANN401 - what JSON does not know
    cls = type(value)
    hook = _hooks.registered(cls)
    if hook is not None:
        return hook.encode(value)
    if _hooks.is_path(cls):
        return str(value)
    if _hooks.is_numpy(cls):
        return value.item()
    if _models.is_model(cls):
        return msgspec.Raw(value.model_dump_json(by_alias=True, round_trip=True).encode())
    raise Unstable


def _is_global(thing: Any) -> bool:  # noqa: ANN401 - a function or class
    found: Any = sys.modules.get(thing.__module__ or "")
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return getattr(found, "__func__", found) is thing


def _digest_of_code(code: types.CodeType) -> bytes:
    sink = _Sink()
    sink.put("bytes", code.co_code)
    sink.put("exceptions", code.co_exceptiontable)
    sink.value(code.co_names)
    sink.value(code.co_freevars)
    sink.value((code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount))
    sink.value(code.co_consts)
    return sink.digest()


def _nested(code: types.CodeType) -> list[types.CodeType]:
    within = [_nested(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return [code, *(one for several in within for one in several)]
