"""The slot of a thread that names the body it executes, for log records; `_logging.py` reads it.

It is a separate module because every runner uses it, and few programs use `_logging.py`.
"""

import threading

from bide._text import shown


class _Current(threading.local):
    """The body that this thread executes; empty outside of one."""

    run: str | None = None
    task: str | None = None
    attempt: int | None = None


current = _Current()
in_use: list[str] = []


def enabled() -> bool:
    """Whether anything reads the slot."""
    return bool(in_use)


def enter(run: str, task: str, attempt: int) -> None:
    """Record which body this thread executes. The task's name is escaped, so that it cannot break a log line."""
    current.run, current.task, current.attempt = run, shown(task), attempt


def leave() -> None:
    """Record that this thread executes no body any more."""
    current.run = current.task = current.attempt = None
