"""How a proof describes code: by a digest and the names that the code can look up. Cached while the code lives."""

import dis
import types
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from bide._sink import Sink, no_form


class Described(NamedTuple):
    """The description of a code object."""

    digest: bytes
    names: tuple[str, ...]
    """The names that this code and the code within it look up, in order: globals and attributes."""
    imports: tuple[str, ...]
    """The modules that it imports."""
    words: dict[str, None]
    """These names, and the strings in it that could also name an attribute."""


_MOST = 4 * 1024 * 1024
_known: dict[int, tuple["weakref.ref[types.CodeType]", Described]] = {}
"""By id, valid while the weak reference is alive: code objects compare by content, which is slow."""


def describe(code: types.CodeType) -> Described:
    """Return the description of a code object."""
    known = _known.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    names: dict[str, None] = {}
    imports: dict[str, None] = {}
    words: dict[str, None] = {}
    for one in nested(code):
        names |= dict.fromkeys(one.co_names)
        imports |= dict.fromkeys(found.argval for found in dis.get_instructions(one) if found.opname == "IMPORT_NAME")
        words |= dict.fromkeys(word for word in texts(one.co_consts) if word.isidentifier())
        if any(found.opname == "MATCH_CLASS" for found in dis.get_instructions(one)):
            words["__match_args__"] = None
    sink = _Code(_MOST)
    sink.value(code)
    described = Described(sink.digest(), tuple(names), tuple(imports), names | words)
    key = id(code)
    _known[key] = (weakref.ref(code, lambda gone: _forget(key, gone)), described)
    return described


def _forget(key: int, gone: "weakref.ref[types.CodeType]") -> None:
    known = _known.get(key)
    if known is not None and known[0] is gone:
        del _known[key]


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield code and all code within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested(constant)


def texts(constants: tuple[object, ...]) -> Iterator[str]:
    """Yield the strings among constants, also in tuples, where `match` has the names of class patterns."""
    for constant in constants:
        if type(constant) is str:
            yield constant
        elif type(constant) is tuple:
            yield from texts(constant)


class _Code(Sink):
    """Describes code and its constants, but not its position in the file."""

    def value(self, value: Any) -> None:  # noqa: ANN401 - a constant of code
        kind = type(value)
        if self.plain(kind, value):
            return
        if kind is tuple:
            self.items(value)
        elif kind is frozenset:
            self.members(value)
        elif isinstance(value, types.CodeType):
            self.put("code", value.co_code)
            self.put("exceptions", value.co_exceptiontable)
            self.value((value.co_flags, value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount))
            self.value((value.co_qualname, value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars))
            self.items(value.co_consts)
        else:
            raise no_form(value)
