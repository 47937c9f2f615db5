"""What kind of callable an object is (plain, async, generator), for defining, binding and fingerprinting."""

import functools
import inspect
import types
from typing import Any

_NOT_PLAIN = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE | inspect.CO_ASYNC_GENERATOR


KEPT_CODEC = "__bide_step__"
"""The function attribute in which `_steps.py` caches the codec of a step. It is not the user's state."""


def call_method(obj: object) -> Any:  # noqa: ANN401 - a function, a slot wrapper, or None
    """Return the `__call__` that calling `obj` runs, as its class defines it; None if it is not callable."""
    return getattr(type(obj), "__call__", None)  # noqa: B004 - for the method itself, not whether there is one


def is_plain(fn: object) -> bool:
    """Return whether this is an ordinary function: no generator or coroutine, and without attributes."""
    return type(fn) is types.FunctionType and not fn.__dict__ and not fn.__code__.co_flags & _NOT_PLAIN


def is_async(fn: object) -> bool:
    """Return whether calling it returns a coroutine: an `async def`, a partial of one, or an async `__call__`."""
    return any(map(inspect.iscoroutinefunction, _bodies(fn)))


def is_generator(fn: object) -> bool:
    """Return whether calling it returns a generator, async or not."""
    return any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in _bodies(fn))


def _bodies(fn: object) -> tuple[object, ...]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isroutine(fn) or isinstance(fn, type):
        return (fn,)
    return (fn, call_method(fn))
