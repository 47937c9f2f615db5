"""Whether a condition is provably the same wait as the one that was recorded: `fingerprint`.

The digest covers what decides a condition's answer as far as it can be seen: its qualified name, its code (nested
code too), everything it captured (closure cells, defaults, partial arguments, the bound object), and the globals
that its code names: functions, classes and modules by qualified name, all else by value. What a called function
reads in turn is not seen. If any part cannot be encoded there is no digest, and the condition is asked again.

The digest is the same in every process: no hash, id or address enters it, and sets are put in order. It differs
between Python versions, whose code differs: then a condition is asked again, which is always right.
"""

import functools
import hashlib
import struct
import sys
import types
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from bide._callables import call_method
from bide._codec import Codec
from bide._context import Context
from bide._text import written_out

SIZE = 16
LARGEST = 4 * 1024 * 1024
"""A condition that captured more than so many bytes has no digest: asking again is cheaper than hashing it."""

_DEEPEST = 64
_KEPT = 4096


class _Unprovable(Exception):
    """Something has no stable form."""


def _no_form(thing: object) -> str:
    return f"a {type(thing).__qualname__} has no form that is the same in every process"


def fingerprint(condition: Callable[..., Any]) -> tuple[str, bytes | None]:
    """Return a condition's name for the journal, and its digest (None if it cannot be proved the same)."""
    try:
        sink = _Sink()
        sink.callable(condition, whole=True)
        digest = sink.digest()
    except Exception:  # noqa: BLE001 - captured objects may raise anything; then it is asked again
        digest = None
    return name_of(condition), digest


def name_of(condition: object) -> str:
    """Return a stable, readable name for any callable: its `__qualname__`, else its class's."""
    while isinstance(condition, functools.partial):
        condition = condition.func
    owner = getattr(condition, "__self__", None)
    if isinstance(condition, types.BuiltinMethodType) and owner is not None and not isinstance(owner, types.ModuleType):
        cls = owner if isinstance(owner, type) else type(owner)
        return f"{cls.__qualname__}.{condition.__name__}"
    name = getattr(condition, "__qualname__", None)
    return written_out(name if name and isinstance(name, str) else str(type(condition).__qualname__))


class _Sink:
    """Takes the parts of a condition in a fixed order, each with its kind and length, into one digest."""

    def __init__(self, most: int = LARGEST) -> None:
        self._most = most
        self._hash = hashlib.blake2b(digest_size=SIZE)
        self._size = 0
        self._depth = 0
        self._path: dict[int, int] = {}
        """The objects being described, by id, with their depth: a cycle becomes "so many levels up"."""

    def digest(self) -> bytes:
        return self._hash.digest()

    def put(self, kind: str, data: bytes = b"") -> None:
        self._size += len(data)
        if self._size > self._most:
            msg = f"more than {self._most >> 20} MiB"
            raise _Unprovable(msg)
        self._hash.update(f"{kind}:{len(data)}:".encode())
        self._hash.update(data)

    def text(self, kind: str, text: str) -> None:
        self.put(kind, text.encode("utf-8", "surrogatepass"))

    # --- callables -------------------------------------------------------------------------------------------------

    def callable(self, fn: object, *, whole: bool = False) -> None:
        """Describe a callable; `whole` for the condition itself, whose code is looked at wherever it was defined."""
        if isinstance(fn, types.FunctionType):
            if not whole and _is_global(fn):
                self.text("global function", f"{fn.__module__}.{fn.__qualname__}")
            else:
                self._within(fn, self._function)
        elif isinstance(fn, types.MethodType):
            self.put("method")
            self.callable(fn.__func__, whole=whole)
            self.value(fn.__self__)
        elif isinstance(fn, functools.partial):
            self.put("partial")
            self.callable(fn.func, whole=whole)
            self.value(fn.args)
            self.value(fn.keywords)
        elif isinstance(fn, (types.BuiltinFunctionType, types.MethodWrapperType)):
            self.text("builtin", f"{getattr(fn, '__module__', None)}.{fn.__qualname__}")
            self.value(fn.__self__)
        elif isinstance(fn, (types.MethodDescriptorType, types.WrapperDescriptorType)):
            self.text("descriptor", f"{fn.__objclass__.__module__}.{fn.__qualname__}")
        elif isinstance(fn, type):
            self._class(fn)
        elif isinstance(getattr(fn, "__wrapped__", None), types.FunctionType):  # such as functools.lru_cache
            self.text("wrapper", f"{type(fn).__module__}.{type(fn).__qualname__}")
            self.callable(fn.__wrapped__, whole=whole)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
        else:
            call = call_method(fn)
            if not isinstance(call, types.FunctionType):
                raise _Unprovable(_no_form(fn))
            self.put("object")
            self.callable(call, whole=whole)
            self._encoded(fn)

    def _function(self, fn: types.FunctionType) -> None:
        self.text("function", fn.__qualname__)
        self.put("code", _code_digest(fn.__code__))
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
        for name in _global_names(fn.__code__):
            if name in fn.__globals__:
                self.text("global", name)
                self.value(fn.__globals__[name])
        wrapped = getattr(fn, "__wrapped__", None)
        if wrapped is not None:
            self.put("wrapped")
            self.callable(wrapped, whole=True)

    def _class(self, cls: type) -> None:
        if not _is_global(cls):
            raise _Unprovable(_no_form(cls))  # what a local class captured cannot be seen
        self.text("class", f"{cls.__module__}.{cls.__qualname__}")

    # --- values ----------------------------------------------------------------------------------------------------

    def value(self, value: Any) -> None:  # noqa: ANN401, C901, PLR0912 - anything may have been captured: a branch a kind
        """Describe a value, with its type at every level."""
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
            self.put("code", _code_digest(value))
        elif isinstance(value, types.ModuleType):
            self.text("module", value.__name__)
        elif isinstance(value, Enum):
            self._class(kind)
            self.text("member", value.name)
        elif _is_handle(kind):
            self.put("handle")  # the body's own; a condition may ask it what it is, which does not change
        elif isinstance(value, Context):
            self.text("context", value.to_json())
        elif isinstance(value, (type, functools.partial)) or callable(value):
            self.callable(value)
        else:
            self._encoded(value)

    def _container(self, value: Any) -> None:  # noqa: ANN401 - one of five containers
        self.text("container", f"{type(value).__name__} {len(value)}")
        if isinstance(value, (set, frozenset)):
            for digest in sorted(digest_of(item) for item in value):
                self.put("item", digest)
            return
        for item in value.items() if isinstance(value, dict) else ():
            self.value(item[0])
            self.value(item[1])
        for item in () if isinstance(value, dict) else value:
            self.value(item)

    def _encoded(self, value: object) -> None:
        cls: Any = type(value)
        if not _is_global(cls):
            raise _Unprovable(_no_form(value))
        self.text("value of", f"{cls.__module__}.{cls.__qualname__}")
        self.put("encoded", _codec_for(cls).encode(value))

    def _within(self, value: Any, describe: Callable[[Any], None]) -> None:  # noqa: ANN401 - as in value
        """Describe something that may refer to itself."""
        if id(value) in self._path:
            self.text("above", str(self._depth - self._path[id(value)]))
            return
        if self._depth > _DEEPEST:
            msg = "nested too deeply"
            raise _Unprovable(msg)
        self._path[id(value)] = self._depth
        self._depth += 1
        describe(value)
        self._depth -= 1
        del self._path[id(value)]


def digest_of(value: object, most: int = LARGEST) -> bytes:
    """Return the digest of a value alone; raises if it has no stable form, or takes more than so many bytes."""
    sink = _Sink(most)
    sink.value(value)
    return sink.digest()


def _is_global(thing: Any) -> bool:  # noqa: ANN401 - a function or class
    """Whether its qualified name leads back to it: then the name stands for it."""
    found: Any = sys.modules.get(thing.__module__ or "")
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return getattr(found, "__func__", found) is thing


def _is_handle(cls: type) -> bool:
    return cls.__name__ in {"TaskHandle", "AsyncTaskHandle"} and (cls.__module__ or "").split(".")[0] == "bide"


@functools.lru_cache(maxsize=_KEPT)
def _codec_for(cls: object) -> Codec:
    return Codec(cls, "a condition")


# --- code ----------------------------------------------------------------------------------------------------------

_codes: dict[int, tuple[types.CodeType, bytes, tuple[str, ...]]] = {}
"""By id, beside the code object itself so that the id stays its own. Dropped as a whole when it is full."""


def _code_digest(code: types.CodeType) -> bytes:
    return _described(code)[1]


def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that this code and the code nested in it look up, in order; attributes are among them."""
    return _described(code)[2]


def _described(code: types.CodeType) -> tuple[types.CodeType, bytes, tuple[str, ...]]:
    found = _codes.get(id(code))
    if found is None:
        if len(_codes) >= _KEPT:
            _codes.clear()
        names = dict.fromkeys(name for one in _nested(code) for name in one.co_names)
        found = _codes[id(code)] = (code, _digest_code(code), tuple(names))
    return found


def _digest_code(code: types.CodeType) -> bytes:
    sink = _Sink()
    sink.put("bytes", code.co_code)
    sink.put("exceptions", code.co_exceptiontable)
    sink.value(code.co_names)
    sink.value(code.co_freevars)
    sink.value((code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount))
    sink.value(code.co_consts)
    return sink.digest()


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)
