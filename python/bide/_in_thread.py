"""Calls that block, made on a worker thread of the caller's event loop; and the methods `<name>_async` that do so."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


async def in_thread(method: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a method that blocks, without blocking the event loop."""
    import asyncio  # noqa: PLC0415 - the caller has imported it

    return await asyncio.to_thread(method, *args, **kwargs)


def twin(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Return the awaitable twin of a method, with its parameters."""

    @functools.wraps(method)
    async def awaitable(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await in_thread(method, self, *args, **kwargs)

    name = method.__name__
    awaitable.__name__, awaitable.__qualname__ = f"{name}_async", f"{method.__qualname__}_async"
    awaitable.__doc__ = f"Do the same as `{name}`, without blocking the event loop."
    return awaitable
