"""Whether a condition is provably the same wait as the one that was recorded: `fingerprint`, `proof_of`.

A proof covers everything that a condition can read by its own code: its code (nested code too), what it captured
(closure cells, defaults, arguments of a partial, a bound object), its attributes, and the globals that its code names.
Functions, classes and modules are covered by qualified name, with those of their attributes that the code names; all
else by value. What a called function reads in turn is not seen.

An object has a proof only if it is of a kind whose values are known to be nothing but their fields, and has nothing
beside them. If any part has no proof there is none, and the condition is asked again, which is always right.

The proof is the same in every process: no hash, id or address enters it, and sets are put in order. It differs between
Python versions, whose code differs. Its first byte is its version; one of the first version has 16 bytes.
"""

import builtins
import dataclasses
import functools
import struct
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from bide import _code, _hooks, _models
from bide._callables import KEPT_CODEC, call_method
from bide._canonical import is_handle
from bide._context import Context
from bide._sink import SIZE as DIGEST
from bide._sink import Sink, Unstable, is_of_python, no_form, plain_base, state_of
from bide._state import is_library
from bide._text import escape_surrogates

VERSION = b"\x02"
SIZE = len(VERSION) + DIGEST
LARGEST = 4 * 1024 * 1024
"""The most bytes that a proof covers. A condition that captured more is asked again, which is cheaper than hashing."""


def fingerprint(condition: Callable[..., Any]) -> tuple[str, bytes | None]:
    """Return a condition's name for the journal, and its proof (None if it cannot be proved the same)."""
    return name_of(condition), proof_of(condition)


def proof_of(condition: Callable[..., Any]) -> bytes | None:
    """Return what proves a condition to be the same; None if nothing can."""
    try:
        proof = _Proof(LARGEST)
        proof.callable(condition, whole=True)
        proof.attributes()
    except Exception:  # noqa: BLE001 - captured objects may raise anything; then it is asked again
        return None
    return VERSION + proof.digest()


def name_of(condition: object) -> str:
    """Return a stable, readable name for any callable: its `__qualname__`, else its class's."""
    while isinstance(condition, functools.partial):
        condition = condition.func
    owner = getattr(condition, "__self__", None)
    if isinstance(condition, types.BuiltinMethodType) and owner is not None and not isinstance(owner, types.ModuleType):
        cls = owner if isinstance(owner, type) else type(owner)
        return f"{cls.__qualname__}.{condition.__name__}"
    name = getattr(condition, "__qualname__", None)
    return escape_surrogates(name if name and isinstance(name, str) else str(type(condition).__qualname__))


class _Proof(Sink):
    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._names: dict[str, None] = {}
        """What the condition's own code looks up, as a global or as an attribute."""
        self._reads_by_text = False
        """Whether the code may look up attributes whose names it computes."""
        self._functions: dict[int, tuple[types.FunctionType, int]] = {}
        """The functions that were described: another look at one says which it is."""
        self._owners: dict[int, Any] = {}
        """The classes, modules and functions that are covered by name, by id: the code may read their attributes."""

    # --- callables -------------------------------------------------------------------------------------------------

    def callable(self, fn: Any, *, whole: bool = False) -> None:  # noqa: ANN401, C901, PLR0912 - a branch a kind
        """Describe a callable; `whole` for the condition itself, whose code is looked at wherever it was defined."""
        kind = type(fn)
        if kind is types.FunctionType:
            if not whole and _is_global(fn):
                self._by_name("global function", fn)
            elif id(fn) in self._functions:
                self.text("the same function", str(self._functions[id(fn)][1]))
            else:
                self._functions[id(fn)] = fn, len(self._functions)
                self.within(fn, self._function)
        elif kind is types.MethodType:
            self.put("method")
            self.callable(fn.__func__, whole=whole)
            self.value(fn.__self__)
        elif kind is functools.partial:
            _has_nothing_beside(fn)
            self.put("partial")
            self.callable(fn.func, whole=whole)
            self.value(fn.args)
            self.value(fn.keywords)
        elif kind in {types.BuiltinFunctionType, types.MethodWrapperType}:
            self.text("builtin", f"{getattr(fn, '__module__', None)}.{fn.__qualname__}")
            self._reads_by_text |= fn.__name__ in _BY_TEXT
            if not isinstance(fn.__self__, types.ModuleType):
                self.value(fn.__self__)
        elif kind in {types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType}:
            self.text("descriptor", f"{fn.__objclass__.__module__}.{fn.__qualname__}")
            self._reads_by_text |= fn.__name__ in _BY_TEXT
        elif isinstance(fn, type):
            if whole and is_of_python(fn):
                raise no_form(fn)  # to call it executes code of its own, and the instance says whether it is true
            self._class(fn)
        elif kind is _CACHING:
            self._cached(fn, whole=whole)
        else:
            call = call_method(fn)
            if type(call) is not types.FunctionType:
                raise no_form(fn)
            self.put("object")
            self.callable(call, whole=whole)
            self._object(fn)

    def _function(self, fn: types.FunctionType) -> None:  # noqa: C901, PLR0912 - one for each thing that code can read
        code = _code.describe(fn.__code__)
        self._names |= code.words
        if not code.words.keys().isdisjoint(_UNSEEN):
            raise no_form(fn)  # it can read anything
        self._reads_by_text |= not code.words.keys().isdisjoint(_BY_TEXT)
        self.put("function", code.digest + f"{len(fn.__name__)}:{fn.__name__}{fn.__qualname__}".encode())
        for cell in fn.__closure__ or ():
            try:
                captured = cell.cell_contents
            except ValueError:
                self.put("empty")
            else:
                self.value(captured)
        if fn.__defaults__ or fn.__kwdefaults__:
            self.put("defaults")
            self.value(fn.__defaults__)
            self.value(fn.__kwdefaults__)
        scope = fn.__globals__
        for name in code.names:
            if name in scope:
                self.text("global", name)
                self.value(scope[name])
            elif name in _builtins and _builtins[name] is not _STANDARD.get(name, _STANDARD):
                self.text("put into builtins", name)
                self.value(_builtins[name])
        for name in code.imports:
            package = fn.__globals__.get("__package__") or ""
            for module in (name, name.partition(".")[0], package, f"{package}.{name}"):
                if module in sys.modules:
                    self.text("import", module)
                    self.value(sys.modules[module])
        if fn.__doc__ is not None:
            self.put("doc")
            self.value(fn.__doc__)
        if fn.__dict__:
            self._attributes_of(fn)

    def _attributes_of(self, fn: types.FunctionType) -> None:
        for name in sorted(fn.__dict__):
            if name == KEPT_CODEC:
                continue
            self.text("attribute", name)
            if name == "__wrapped__":
                self.callable(fn.__dict__[name], whole=True)
            else:
                self.value(fn.__dict__[name])

    def _cached(self, fn: Any, *, whole: bool) -> None:  # noqa: ANN401 - what functools.lru_cache makes
        if not whole and _is_global(fn):
            self._by_name("global function", fn)
            return
        hits, misses, largest, size = fn.cache_info()
        if size:
            raise no_form(fn)  # nobody sees what is in the cache
        self.text("cached", f"{hits} {misses} {largest} {fn.cache_parameters()['typed']}")
        for name in sorted(fn.__dict__.keys() - _OF_CACHE):
            self.text("attribute", name)
            self.value(fn.__dict__[name])
        self.callable(fn.__wrapped__, whole=whole)

    # --- what is covered by name, and its attributes ---------------------------------------------------------------

    def _by_name(self, kind: str, thing: Any) -> None:  # noqa: ANN401 - a function, class or module
        name = thing.__name__ if isinstance(thing, types.ModuleType) else f"{thing.__module__}.{thing.__qualname__}"
        self.text(kind, name)
        if thing is not builtins and (type(thing) is not types.FunctionType or thing.__dict__):
            self._owners.setdefault(id(thing), thing)

    def _class(self, cls: type) -> None:
        if not is_of_python(cls):
            self.text("class", f"{cls.__module__}.{cls.__qualname__}")
            return
        if not _is_global(cls):
            msg = f"the local class {cls.__qualname__} may have captured what cannot be seen"
            raise Unstable(msg)
        self._by_name("class", cls)

    def attributes(self) -> None:
        """Describe the attributes that the condition's code names, of all that is covered by name."""
        if not self._owners:
            return
        done: set[tuple[int, str]] = set()
        size = (0, 0, False)
        # Each attribute may bring in further names and further owners.
        while size != (size := (len(self._owners), len(self._names), self._reads_by_text)):
            for owner in list(self._owners.values()):
                for holder in _holders(owner):
                    for name in sorted(self._read_of(holder)):
                        if (id(owner), name) not in done:
                            done.add((id(owner), name))
                            self.text("attribute", f"{holder.__name__}.{name}")
                            self.value(_attribute(holder, name))

    def _read_of(self, holder: Any) -> set[str]:  # noqa: ANN401 - a function, class or module
        """Return which attributes the code may read: what it names, and special methods that were replaced."""
        named: set[str] = self._names.keys() & vars(holder).keys()
        if is_library(holder.__name__ if isinstance(holder, types.ModuleType) else holder.__module__):
            return named
        if isinstance(holder, type):
            named |= {name for name, content in vars(holder).items() if _is_put(holder, name, content)}
        if self._reads_by_text:
            named |= {name for name in vars(holder) if not name.startswith(("__", "_abc_"))}
        return named

    # --- values ----------------------------------------------------------------------------------------------------

    def value(self, value: Any) -> None:  # noqa: ANN401 - anything may have been captured: a branch a kind
        """Describe a value, with its type at every level."""
        kind = type(value)
        if kind is types.FunctionType:
            self.callable(value)
        elif self.plain(kind, value):
            if is_of_python(kind):
                _has_nothing_beside(value)
        elif kind in _CONTAINERS:
            self.text("container", kind.__name__)
            _has_nothing_beside(value)
            self.within(value, _CONTAINERS[kind].__get__(self))
        elif kind is types.CodeType:
            self.put("code", _code.describe(value).digest)
        elif isinstance(value, types.ModuleType):
            self._by_name("module", value)
        elif is_handle(kind):
            self.put("handle")  # the body's own; a condition may ask it what it is, which does not change
        elif kind is Context:
            self.text("context", value.to_json())
        elif isinstance(value, type) or kind in _CALLABLES or (callable(value) and _fields(kind) is None):
            self.callable(value)
        else:
            self._object(value)

    def _object(self, value: Any) -> None:  # noqa: ANN401 - as in value
        self.within(value, self._of_fields)

    def _of_fields(self, value: Any) -> None:  # noqa: ANN401 - as in value
        """Describe an object that is nothing but its fields."""
        cls = type(value)
        self._class(cls)
        state = state_of(value)
        hook = _hooks.registered(cls)
        if hook is not None:
            self.value(hook.encode(value))
            known = frozenset(state)
        elif isinstance(value, Enum):
            self.text("member", str(value._name_))
            base = plain_base(cls)
            if base is not None:
                self.plain(base, value)
            known = frozenset(state)
            state = {name: content for name, content in state.items() if name not in _OF_MEMBER}
        else:
            fields = _fields(cls)
            if fields is None:
                raise no_form(value)
            known = fields
        if state.keys() - known or _has_hidden_state(cls):
            raise no_form(value)
        if isinstance(value, tuple):
            self.items(value)
        for name in sorted(state):
            self.text("field", name)
            self.value(state[name])

    def _ordered(self, value: dict[Any, Any]) -> None:
        """Describe a dict in its order, which the code can read."""
        self.put(f"entries {len(value)}")
        for key, item in value.items():
            self.value(key)
            self.value(item)

    def _defaulting(self, value: "defaultdict[Any, Any]") -> None:
        self.value(value.default_factory)
        self._ordered(value)


def _is_global(thing: Any) -> bool:  # noqa: ANN401 - a function or class
    """Whether its qualified name leads back to it: then the name stands for it."""
    found: Any = sys.modules.get(thing.__module__ or "")
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return getattr(found, "__func__", found) is thing


def _has_nothing_beside(value: object) -> None:
    """Raise if something is assigned to an object that its kind does not have."""
    if getattr(value, "__dict__", None):
        raise no_form(value)


def _fields(cls: Any) -> frozenset[str] | None:  # noqa: ANN401 - a class
    """Return the names under which the values of a class keep their fields; None if it is not of a known kind.

    Only a class that is of the kind by itself: a class derived from one may have anything.
    """
    own = cls.__dict__
    if "__dataclass_fields__" in own:
        return frozenset(field.name for field in dataclasses.fields(cls))
    if "__attrs_attrs__" in own:
        return frozenset(attribute.name for attribute in cls.__attrs_attrs__)
    if issubclass(cls, msgspec.Struct):
        return frozenset(cls.__struct_fields__)
    if _models.is_model(cls):
        return frozenset((*cls.model_fields, *_OF_PYDANTIC))
    if "_fields" in own and issubclass(cls, tuple):
        return frozenset()
    return None


def _has_hidden_state(cls: type) -> bool:
    """Whether the values of a class may have state that is in no attribute: that of a base class written in C."""
    if issubclass(cls, (Enum, msgspec.Struct)) or "_fields" in cls.__dict__:
        return False
    slots = sum(
        isinstance(slot, types.MemberDescriptorType)
        for base in cls.__mro__
        if is_of_python(base)
        for slot in base.__dict__.values()
    )
    pointers = slots + (cls.__dictoffset__ > 0) + (cls.__weakrefoffset__ > 0)
    return cls.__itemsize__ > 0 or cls.__basicsize__ > object.__basicsize__ + pointers * _POINTER


def _holders(owner: Any) -> list[Any]:  # noqa: ANN401 - a function, class or module
    """Return what an attribute of it may be found in."""
    if isinstance(owner, type):
        meta: Any = type(owner)
        return [cls for cls in (*owner.__mro__, *meta.__mro__) if is_of_python(cls)]
    return [owner]


def _is_put(cls: type, name: str, content: object) -> bool:
    """Whether a special method of a class is another than its name says."""
    return (
        type(content) is types.FunctionType
        and name.startswith("__")
        and (content.__qualname__ != f"{cls.__qualname__}.{name}" or content.__module__ != cls.__module__)
    )


def _attribute(holder: Any, name: str) -> Any:  # noqa: ANN401 - as in _holders
    """Return what is to be described of an attribute: of one that calls code, that code."""
    content = vars(holder)[name]
    if not isinstance(holder, type):
        return content
    if issubclass(holder, Enum) and name in holder._member_map_:
        return holder._member_map_[name]
    if isinstance(content, (classmethod, staticmethod)):
        return content.__func__
    if isinstance(content, (property, types.DynamicClassAttribute)):
        return content.fget
    if isinstance(content, functools.cached_property):
        return content.func
    if type(content) is _FIELD_OF_NAMED_TUPLE:
        return content.__reduce__()[1]  # which place it reads
    return None if isinstance(content, (types.MemberDescriptorType, types.GetSetDescriptorType)) else content


_FIELD_OF_NAMED_TUPLE: Any = type(vars(_code.Described)["names"])
_builtins = vars(builtins)
_STANDARD = {
    name: thing
    for name, thing in _builtins.items()
    if (thing.__module__ if isinstance(thing, (type, types.BuiltinFunctionType)) else type(thing).__module__)
    in {"builtins", "_io", "io", "_sitebuiltins"}
    and not isinstance(thing, (int, float, str, tuple, list, dict, set))
}
"""What Python itself has put there."""
_CACHING = type(functools.lru_cache(lambda: None))
_CALLABLES = {
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    functools.partial,
    _CACHING,
}
_OF_CACHE = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", "cache_parameters"}
_OF_MEMBER = {"_name_", "__objclass__", "_sort_order_", "_inverted_"}
_OF_PYDANTIC = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
_UNSEEN = frozenset(
    [
        "globals",
        "eval",
        "exec",
        "vars",
        "__import__",
        "import_module",
        "_getframe",
        "__builtins__",
        "__dict__",
        "__globals__",
        "__closure__",
        "__code__",
        "__defaults__",
        "__kwdefaults__",
        "__annotations__",
        "__subclasses__",
    ]
)
"""Code that uses one of these can read what nobody sees."""
_BY_TEXT = frozenset(
    [
        "getattr",
        "hasattr",
        "dir",
        "getattr_static",
        "getmembers",
        "attrgetter",
        "methodcaller",
        "format",
        "format_map",
        "__getattribute__",
    ]
)
"""Code that uses one of these can read attributes whose names stand nowhere in it."""
_POINTER = struct.calcsize("P")

_CONTAINERS: dict[Any, Any] = {
    list: _Proof.items,
    tuple: _Proof.items,
    set: _Proof.members,
    frozenset: _Proof.members,
    dict: _Proof._ordered,
    OrderedDict: _Proof._ordered,
    Counter: _Proof._ordered,
    defaultdict: _Proof._defaulting,
    deque: _Proof.bounded,
}
