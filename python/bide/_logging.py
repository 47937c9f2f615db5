"""Run, task and attempt on log records made within a body: `LogFilter`, `install_log_record_factory`.

Both read the current body from a slot of the executing thread, and a coroutine from its contextvars. The executor fills
that slot only once one of the two is in use (`enabled()`), so that a body pays nothing otherwise. Nothing is captured
into the store.
"""

import logging
from typing import Any

from bide import _log_slot
from bide._here import place_here
from bide._text import shown


def _stamp(record: logging.LogRecord) -> None:
    body = _log_slot.current
    run, task, attempt = body.run, body.task, body.attempt
    if run is None and (place := place_here()) is not None:
        coroutine = place[0]
        run, task, attempt = coroutine.run_id, shown(coroutine.task_name), coroutine.attempt
    # A record's own value wins: a user's `extra={"task": …}` is what the user meant.
    for name, value in (("run", run), ("task", task), ("attempt", attempt)):
        record.__dict__.setdefault(name, value)


class LogFilter(logging.Filter):
    """Add `run`, `task` and `attempt` to each record of a handler (None outside of a body).

    A handler's filter runs on the thread that logs; if a `QueueHandler` is used, add the filter to that one.
    """

    def __init__(self, name: str = "") -> None:
        """Filter like `logging.Filter(name)`, and have the executor fill the slot from now on."""
        super().__init__(name)
        _log_slot.in_use.append("filter")

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the three attributes."""
        _stamp(record)
        return bool(super().filter(record))


def install_log_record_factory() -> None:
    """Add `run`, `task` and `attempt` to every log record of this process. Calling it again changes nothing.

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
    _log_slot.in_use.append("factory")
