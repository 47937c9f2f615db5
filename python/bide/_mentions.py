"""Whether code mentions a name: found out without executing it. A name that is made at run time is not known."""

import dis
import functools
import re
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bide._code import nested, texts

_WORD = re.compile(r"[^\W\d]\w*")
_MAKES_TEXT = {"BUILD_STRING", "FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC"}
_MOST = 1000
"""How many functions are read, at most."""


class Mentions(NamedTuple):
    """The words of a function, and of the functions that it can call."""

    words: frozenset[str]
    makes_names: bool
    """Names may be made at run time: by an f-string and the like, or as `key=`."""

    def may_be(self, name: str) -> bool:
        """Whether the code may use a name for a step or a wait."""
        found = _WORD.findall(name.rpartition("<locals>.")[2])
        known = [word in self.words for word in found]
        return (self.makes_names and (any(known) or "key" in self.words)) or all(known)


def mentions(function: Callable[..., Any]) -> Mentions:
    """Read a function, and what it can call: functions of its closure and of its globals, and of theirs."""
    words: set[str] = set()
    makes_names = False
    waiting: list[object] = [function]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        words.update(_own(one))
        code = getattr(one, "__code__", None)
        if isinstance(code, types.CodeType) and isinstance(one, types.FunctionType):
            for within in nested(code):
                words.update(within.co_names, (within.co_name,), *map(_WORD.findall, texts(within.co_consts)))
                makes_names |= any(found.opname in _MAKES_TEXT for found in dis.get_instructions(within))
            waiting += _looked_up(one)
    return Mentions(frozenset(words), makes_names or not words.isdisjoint({"key", "format", "join"}))


def _own(one: object) -> Iterator[str]:
    """Yield the words of an object: of a text, of a function's name, of the name of a signal or a workflow."""
    for text in (one, getattr(one, "__name__", None), getattr(one, "name", None)):
        if isinstance(text, str):
            yield from _WORD.findall(text)


def _looked_up(function: types.FunctionType) -> Iterator[object]:
    """Yield what a function can look up, without what belongs to Python or bide."""
    inner = getattr(function, "__wrapped__", None)
    found = [inner, *(_contents(cell) for cell in function.__closure__ or ())]
    for code in nested(function.__code__):
        found += [function.__globals__.get(name) for name in code.co_names]
    for one in found:
        called = one.func if isinstance(one, functools.partial) else one
        module = getattr(called, "__module__", None)
        if called is None or (isinstance(module, str) and module.partition(".")[0] == "bide" and callable(called)):
            continue
        yield called


def _contents(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None
