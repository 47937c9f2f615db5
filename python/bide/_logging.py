"""Run, task and attempt on log records made within a body: `LogFilter`, `install_log_record_factory`.

Both read the current body from a slot of the executing thread. The executor fills that slot only once one of
the two is in use (`enabled()`), so that a body pays nothing otherwise. Nothing is captured into the store.
"""

import logging
import threading
from typing import Any

from bide._text import shown


class _Current(threading.local):
    """The body that this thread executes; empty outside of one."""

    run: str | None = None
    task: str | None = None
    attempt: int | None = None


_current = _Current()
_in_use: list[str] = []


def enabled() -> bool:
    """Whether anybody reads the slot."""
    return bool(_in_use)


def enter(run: str, task: str, attempt: int) -> None:
    """Say which body this thread executes from now on. The task's name is escaped, so that a log line stays one."""
    _current.run, _current.task, _current.attempt = run, shown(task), attempt


def leave() -> None:
    """Say that this thread executes no body any more."""
    _current.run = _current.task = _current.attempt = None


def _stamp(record: logging.LogRecord) -> None:
    # A record's own value wins: a user's `extra={"task": …}` is what the user meant.
    for name in ("run", "task", "attempt"):
        record.__dict__.setdefault(name, getattr(_current, name))


class LogFilter(logging.Filter):
    """Put on a handler, adds `run`, `task` and `attempt` to each record (None outside of a body).

    A handler's filter runs on the thread that logs; behind a `QueueHandler` put it on that one.
    """

    def __init__(self, name: str = "") -> None:
        """Filter like `logging.Filter(name)`, and have the slot filled from now on."""
        super().__init__(name)
        _in_use.append("filter")

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the three attributes."""
        _stamp(record)
        return bool(super().filter(record))


def install_log_record_factory() -> None:
    """Have every record of this process carry `run`, `task` and `attempt`; twice is fine.

    `logging` refuses an `extra=` that names an attribute which the factory has already set: where a library
    logs `extra={"task": …}`, use `LogFilter` instead.
    """
    inner = logging.getLogRecordFactory()
    if getattr(inner, "__bide__", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401 - passes on whatever logging passes
        record = inner(*args, **kwargs)
        _stamp(record)
        return record

    factory.__bide__ = True  # type: ignore[attr-defined] # pyright: ignore[reportFunctionMemberAccess]
    logging.setLogRecordFactory(factory)
    _in_use.append("factory")
