"""`Runner(on_event=)`: what happens to runs, as it is committed."""

import contextvars
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from bide import _core
from bide._status import RunStatus, TaskStatus
from bide._why import WaitKind


class RunEventKind(StrEnum):
    """What has happened. `RunEnded` is also sent for a run that is paused."""

    TaskEnded = "task ended"
    RunEnded = "run ended"
    WaitOpened = "wait opened"
    WaitClosed = "wait closed"
    StepEnded = "step ended"
    Retry = "retry"


class RunEvent(msgspec.Struct, frozen=True):
    """Something that has happened to a run, and is committed: see `Runner(on_event=)`.

    `status` is that of the task or run that has ended; `wait` and `wait_kind` are of a wait or step, `use` counts the
    uses of that name, and `outcome` is how it was closed: "satisfied", "failed", or "lost" if another of several waits
    came first. `error` says how a task, run, wait or step has failed, and why a task is retried. `since` is when that
    began which has ended: the run, the attempt, the wait or the step. `until` is when a task is retried, when a wait
    times out, or, once it is closed, the time that it has waited for. `polls` is how often this process has asked the
    condition of a wait that is closed. Of a run that has ended, `version` is that of
    its workflow and `parent` the run whose body has started it.
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
    since: datetime | None = None
    use: int | None = None
    version: str | None = None
    parent: str | None = None
    polls: int | None = None


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_KINDS = {kind.value: kind for kind in RunEventKind}
_TASK_STATUSES = {status.value: status for status in TaskStatus}


def observe(runner: _core.Runner, on_event: Callable[[RunEvent], object]) -> None:
    """Have `on_event` called with what happens to the runs of a runner from here on.

    One of `bide.otel` also gets the runner, and how long each of its commits takes. It takes events as they come: with
    times in microseconds since 1970.
    """
    commits, take = getattr(on_event, "_commits", None), getattr(on_event, "_take", None)
    runner.observe(observer(take or on_event, raw=take is not None), commits and commits(runner), take is not None)


def observer(on_event: Callable[[Any], object], *, raw: bool = False) -> Callable[[tuple[Any, ...]], None]:
    """Return what the notifier's thread calls: an exception of `on_event` is logged, and changes nothing."""

    def observe(event: tuple[Any, ...]) -> None:
        try:
            on_event(event if raw else event_of(event))
        except Exception:
            logging.getLogger("bide").exception("on_event raised for %s", event[:3])

    return observe


def event_of(event: tuple[Any, ...]) -> RunEvent:
    """Make an event of what the extension says."""
    kind, run, workflow, key, task, attempt, status, wait, wait_kind, at, error, rest = event
    until, since, use, polls, of_run = rest
    parent, version, _ = of_run or (None, None, None)
    what, outcome = _KINDS[kind], None
    if status is not None:
        if what is RunEventKind.TaskEnded:
            status = _TASK_STATUSES[status]
        elif what is RunEventKind.RunEnded:
            status = RunStatus(status)
        else:
            status, outcome = None, status
    if wait_kind is not None:
        wait_kind = WaitKind(wait_kind)
    # In the order of the fields, which is twice as fast as by name.
    return RunEvent(
        what, run, workflow, key, at, task, attempt, status, wait, wait_kind, outcome, error, until, since, use,
        version, parent, polls,
    )  # fmt: skip


def dated(event: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return an event with datetimes in place of microseconds since 1970."""
    *before, at, error, (until, since, use, polls, of_run) = event
    return *before, _time(at), error, (_time(until), _time(since), use, polls, of_run)


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else EPOCH + timedelta(microseconds=micros)


def context_of(event: tuple[Any, ...]) -> contextvars.Context | None:
    """Return a copy of the contextvars with which the run was submitted here, for its end."""
    of_run = event[-1][-1]
    found: contextvars.Context | None = None if of_run is None else of_run[2]
    return found
