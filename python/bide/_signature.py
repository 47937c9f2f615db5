"""What a callable's signature says: its parameters and return annotation, and annotations with their names evaluated.

A plain function is read from its code object, which is several times faster than `inspect.signature`; a workflow may
have ten thousand of them. Every other callable goes through `inspect`.
"""

import functools
import sys
import types
import typing
from collections.abc import Callable
from inspect import CO_VARARGS, Parameter, signature
from typing import Any, get_args

import msgspec

from bide._callables import call_method
from bide._codec import REMEDY_NAME
from bide._errors import DefinitionError

MISSING: Any = Parameter.empty
"""The default or annotation of a parameter that has none."""


class Param(msgspec.Struct, frozen=True):
    """One parameter."""

    name: str
    default: Any = MISSING
    annotation: Any = MISSING
    by_keyword: bool = False
    """It can be passed by keyword only."""


class Signature(msgspec.Struct, frozen=True):
    """The parameters in order, and the annotation of what is returned."""

    params: tuple[Param, ...]
    returns: Any


def read(fn: Callable[..., Any], where: str) -> Signature:
    """Return the signature of a callable, less its `**kwargs`; `where` is the subject of errors.

    A `DefinitionError` if it takes `*args`, if Python cannot read it, or if an annotation cannot be evaluated.
    """
    try:
        if type(fn) is types.FunctionType and not _is_dressed_up(fn):
            return _of_function(fn, where)
        return _of_callable(fn, where)
    except NameError as problem:
        msg = f"{where}: an annotation uses a name that does not exist at run time: {problem}. {REMEDY_NAME}"
        raise DefinitionError(msg) from None
    except (ValueError, TypeError) as problem:
        if isinstance(problem, DefinitionError):
            raise
        msg = f"{where}: {fn!r} has no signature that Python can read: wrap it in a function of your own"
        raise DefinitionError(msg) from None


def _is_dressed_up(fn: types.FunctionType) -> bool:
    """Whether a function says that it has the signature of another one."""
    return "__wrapped__" in fn.__dict__ or "__signature__" in fn.__dict__


def _of_function(fn: types.FunctionType, where: str) -> Signature:
    code, annotations = fn.__code__, fn.__annotations__
    returns = annotations.get("return", MISSING) if annotations else MISSING
    if code.co_flags & CO_VARARGS:
        raise _takes_any(where, code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
    count = code.co_argcount
    if not count and not code.co_kwonlyargcount:
        return Signature((), returns)
    names = code.co_varnames
    defaults = fn.__defaults__ or ()
    first = count - len(defaults)
    params = [
        Param(name, defaults[at - first] if at >= first else MISSING, annotations.get(name, MISSING))
        for at, name in enumerate(names[:count])
    ]
    keyword_defaults = fn.__kwdefaults__ or {}
    params.extend(
        Param(name, keyword_defaults.get(name, MISSING), annotations.get(name, MISSING), by_keyword=True)
        for name in names[count : count + code.co_kwonlyargcount]
    )
    return Signature(tuple(params), returns)


def _of_callable(fn: Callable[..., Any], where: str) -> Signature:
    found = signature(fn)
    params: list[Param] = []
    for one in found.parameters.values():
        if one.kind is one.VAR_POSITIONAL:
            raise _takes_any(where, one.name)
        if one.kind is not one.VAR_KEYWORD:
            params.append(Param(one.name, one.default, one.annotation, one.kind is one.KEYWORD_ONLY))
    return Signature(tuple(params), found.return_annotation)


def _takes_any(where: str, name: str) -> DefinitionError:
    return DefinitionError(f"{where} takes *{name}: bide binds by name, so name each parameter")


class Names:
    """The names that a callable's annotations may use: its module's, what it closes over, its type parameters."""

    __slots__ = ("_fn", "_globals", "_locals")

    def __init__(self, fn: Callable[..., Any]) -> None:
        """Remember the callable; most annotations are classes and need no names."""
        self._fn = fn
        self._globals: dict[str, Any] | None = None
        self._locals: dict[str, Any] = {}

    def resolve(self, annotation: Any, where: str, what: str) -> Any:  # noqa: ANN401 - annotations are anything
        """Return an annotation with every string in it evaluated."""
        if annotation is MISSING or (isinstance(annotation, type) and not get_args(annotation)):
            return annotation
        if self._globals is None:
            self._globals = self._look_up()
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            return typing.get_type_hints(holder, self._globals, self._locals, include_extras=True)["it"]
        except Exception as problem:  # noqa: BLE001 - an annotation is any expression
            msg = f"{where}: the annotation of {what}, {annotation!r}, cannot be evaluated: {problem}. {REMEDY_NAME}"
            raise DefinitionError(msg) from None

    def _look_up(self) -> dict[str, Any]:
        inner: Any = self._fn
        while True:
            if isinstance(inner, functools.partial):
                inner = inner.func
            elif isinstance(inner, types.MethodType):
                inner = inner.__func__
            elif hasattr(inner, "__wrapped__") and not hasattr(inner, "__signature__"):
                inner = inner.__wrapped__
            else:
                break
        if isinstance(inner, type):
            inner = inner.__init__ if isinstance(inner.__init__, types.FunctionType) else inner.__new__  # type: ignore[misc]
        elif not isinstance(inner, types.FunctionType):
            inner = call_method(inner) or inner
        self._locals = {p.__name__: p for p in getattr(inner, "__type_params__", ())}
        free = getattr(getattr(inner, "__code__", None), "co_freevars", ())
        for name, cell in zip(free, getattr(inner, "__closure__", None) or (), strict=False):
            try:
                self._locals[name] = cell.cell_contents
            except ValueError:  # not filled in yet
                continue
        module = sys.modules.get(getattr(inner, "__module__", None) or "")
        return getattr(inner, "__globals__", None) or vars(module or typing)
