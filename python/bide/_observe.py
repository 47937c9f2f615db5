"""`Runner(on_event=)`: what happens to runs, as it is committed."""

import logging
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from bide._status import RunStatus, TaskStatus
from bide._why import WaitKind


class RunEventKind(StrEnum):
    """What has happened. `RunEnded` is also sent for a run that is paused."""

    TaskEnded = "task ended"
    RunEnded = "run ended"
    WaitOpened = "wait opened"
    WaitClosed = "wait closed"
    Retry = "retry"


class RunEvent(msgspec.Struct, frozen=True):
    """Something that has happened to a run, and is committed: see `Runner(on_event=)`.

    `status` is that of the task or run that has ended; `wait` and `wait_kind` are of a wait, and `outcome` is how it
    was closed: "satisfied", "failed", or "lost" if another of several waits came first. `error` says how a task, run or
    wait has failed, and why a task is retried. `until` is when a task is retried, or when a wait times out.
    """

    kind: RunEventKind
    run: str
    workflow: str
    key: str | None
    at: datetime
    task: str | None = None
    attempt: int | None = None
    status: TaskStatus | RunStatus | None = None
    wait: str | None = None
    wait_kind: WaitKind | None = None
    outcome: str | None = None
    error: str | None = None
    until: datetime | None = None


def observer(on_event: Callable[[RunEvent], object]) -> Callable[[tuple[Any, ...]], None]:
    """Return what the notifier's thread calls: an exception of `on_event` is logged, and changes nothing."""

    def observe(event: tuple[Any, ...]) -> None:
        try:
            on_event(_event(event))
        except Exception:
            logging.getLogger("bide").exception("on_event raised for %s", event[:3])

    return observe


def _event(event: tuple[Any, ...]) -> RunEvent:
    kind, run, workflow, key, task, attempt, status, wait, wait_kind, at, error, until = event
    what = RunEventKind(kind)
    closed = what is RunEventKind.WaitClosed
    ended = TaskStatus if what is RunEventKind.TaskEnded else RunStatus
    return RunEvent(
        kind=what,
        run=run,
        workflow=workflow,
        key=key,
        at=at,
        task=task,
        attempt=attempt,
        status=None if status is None or closed else ended(status),
        wait=wait,
        wait_kind=None if wait_kind is None else WaitKind(wait_kind),
        outcome=status if closed else None,
        error=error,
        until=until,
    )
