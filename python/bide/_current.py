"""`bide.current()`: the handle of the body that executes here."""

from contextvars import ContextVar

from bide._core import TaskHandle, _current

_last: ContextVar[TaskHandle | None] = ContextVar("bide.current", default=None)
"""The handle that was found before in these contextvars: it tells a thread without a body why it has none."""


def current() -> TaskHandle:
    """Return the handle of the body that executes on this thread, for code that cannot be passed one.

    It works in steps and conditions too. Outside a body it raises a `LookupError`, after the body's end a `BideError`.
    """
    last = _last.get()
    handle = _current(last)
    if handle is not last:
        _last.set(handle)
    return handle
