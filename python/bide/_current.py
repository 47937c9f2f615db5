"""`bide.current()`: the handle of the body that executes here."""

from contextvars import ContextVar
from typing import Any, overload

from bide._async_handle import AsyncTaskHandle
from bide._core import TaskHandle, _current, _executes_here
from bide._errors import BideError
from bide._here import place_here

_last: ContextVar[TaskHandle | None] = ContextVar("bide.current", default=None)
"""The handle that was found before in these contextvars: it tells a thread without a body why it has none."""


@overload
def current() -> TaskHandle: ...
@overload
def current(kind: type[TaskHandle]) -> TaskHandle: ...
@overload
def current(kind: type[AsyncTaskHandle]) -> AsyncTaskHandle: ...
def current(kind: type[Any] | None = None) -> Any:
    """Return the handle of the body that executes here, for code that cannot be passed one.

    That is a body on this thread, or the coroutine whose code this is: also in its steps and conditions, and in the
    asyncio tasks and threads that it starts with its contextvars. In an `async def` body the handle is a
    `bide.AsyncTaskHandle`; `current(bide.AsyncTaskHandle)` says so to a type checker. Outside a body it raises a
    `LookupError`, after the body's end a `BideError`.
    """
    place = place_here()
    handle: TaskHandle | AsyncTaskHandle
    if place is None or _executes_here():
        handle = _of_thread()
    elif place[0].ended:
        msg = f"bide.current(): the body of task {place[0].task_name!r} has ended"
        raise BideError(msg)
    else:
        handle = place[0].handle
    if kind is not None and not isinstance(handle, kind):
        msg = f"bide.current({kind.__name__}): the body that executes here has a {type(handle).__name__}"
        raise LookupError(msg)
    return handle


def _of_thread() -> TaskHandle:
    last = _last.get()
    handle = _current(last)
    if handle is not last:
        _last.set(handle)
    return handle
