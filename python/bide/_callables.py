"""What kind of callable something is: asked when a task or a condition is defined, bound or fingerprinted."""

import functools
import inspect
import types
from typing import Any

_NOT_PLAIN = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE | inspect.CO_ASYNC_GENERATOR


KEPT_CODEC = "__bide_step__"
"""The attribute of a function in which `_steps.py` keeps its codec. No state of the user's."""


def call_method(obj: object) -> Any:  # noqa: ANN401 - a function, a slot wrapper, or None
    """Return the `__call__` that calling `obj` runs, as its class defines it; None if it is not callable."""
    return getattr(type(obj), "__call__", None)  # noqa: B004 - the method itself is wanted, not whether there is one


def is_plain(fn: object) -> bool:
    """Whether it is an ordinary function whose code says all: no generator, no coroutine, nothing marked on it."""
    return type(fn) is types.FunctionType and not fn.__dict__ and not fn.__code__.co_flags & _NOT_PLAIN


def is_async(fn: object) -> bool:
    """Whether calling it gives a coroutine: an `async def`, a partial of one, an object with an async `__call__`."""
    return any(map(inspect.iscoroutinefunction, _bodies(fn)))


def is_generator(fn: object) -> bool:
    """Whether calling it gives a generator, async or not."""
    return any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in _bodies(fn))


def _bodies(fn: object) -> tuple[object, ...]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isroutine(fn) or isinstance(fn, type):
        return (fn,)
    return (fn, call_method(fn))
