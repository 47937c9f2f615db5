"""What commands print of runs, tasks, waits and events: the fields of `-o json`, which programs rely on."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from bide._codec import Codec
from bide._errors import BideError, TaskFailed
from bide._hooks import to_json
from bide._result import RunResult, TaskResult

if TYPE_CHECKING:
    from bide._cli._output import Item
    from bide._events import Event
    from bide._history import HistoryEntry
    from bide._why import HeldTask, OpenWait, Why

_STORED = Codec(where="a record", root="value")


def run_item(run: RunResult) -> "Item":
    """Return what a listing shows of a run."""
    return {
        "id": run.id,
        "workflow": run.workflow,
        "key": run.key,
        "status": str(run.status),
        "tags": run.tags,
        "parent": run.parent,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "blocked_by": run.blocked_by,
    }


def full_item(run: RunResult) -> "Item":
    """Return all that is known of a run, with its tasks."""
    context = attempt(lambda: dict(run.context))
    return {
        **run_item(run),
        "inputs": attempt(lambda: run.inputs),
        "error": error_item(run.error),
        "tasks": [task_item(run, task) for task in run.tasks.values()],
        "context": context,
    }


def task_item(run: RunResult, task: TaskResult) -> "Item":
    """Return what is known of a task of a run."""
    progress = task.progress
    return {
        "name": task.name,
        "status": str(task.status),
        "sub_status": None if task.sub_status is None else str(task.sub_status),
        "attempts": task.attempts,
        "first_started_at": task.first_started_at,
        "started_at": task.started_at,
        "ended_at": task.ended_at,
        "waited": task.waited,
        "blocked_by": task.blocked_by,
        "error": error_item(task.error),
        "progress": None
        if progress is None
        else {"done": progress.done, "total": progress.total, "message": progress.message, "time": progress.time},
        "output": attempt(lambda: run[task.name]),
    }


def error_item(error: TaskFailed | None) -> "Item | None":
    """Return what is kept of an exception."""
    if error is None:
        return None
    return {"task": error.task, "type": error.type, "message": error.message, "traceback": error.traceback}


def wait_item(wait: "OpenWait") -> "Item":
    """Return what is known of an open wait."""
    return {
        "run": wait.run,
        "key": wait.key,
        "workflow": wait.workflow,
        "task": wait.task,
        "kind": str(wait.kind),
        "name": wait.name,
        "since": wait.since,
        "due": wait.due,
        "deadline": wait.deadline,
        "polls": wait.polls,
        "next_poll": wait.next_poll,
        "error": wait.error,
        "child": wait.child,
        "members": list(wait.members),
        "others": list(wait.others),
        "cursor": wait.cursor,
    }


def why_item(why: "Why") -> "Item":
    """Return what holds a run and its tasks."""
    runner = why.runner
    return {
        "run": why.run,
        "workflow": why.workflow,
        "key": why.key,
        "status": str(why.status),
        "parent": why.parent,
        "held_by": None if why.held_by is None else str(why.held_by),
        "reason": why.reason,
        "by": why.by,
        "runner": None if runner is None else {"pid": runner.pid, "host": runner.host},
        "start_at": why.start_at,
        "tasks": [_held_item(task) for task in why.tasks],
        "children": {run: why_item(child) for run, child in why.children.items()},
        "requests": [history_item(request) for request in why.requests],
    }


def _held_item(task: "HeldTask") -> "Item":
    return {
        "name": task.name,
        "status": str(task.status),
        "held_by": str(task.held_by),
        "attempts": task.attempts,
        "started_at": task.started_at,
        "retry_at": task.retry_at,
        "error": error_item(task.error),
        "blocked_by": task.blocked_by,
        "needs": list(task.needs),
        "waits": [wait_item(wait) for wait in task.waits],
    }


def history_item(entry: "HistoryEntry") -> "Item":
    """Return something that has happened."""
    return {
        "at": entry.at,
        "what": entry.what,
        "task": entry.task,
        "name": entry.name,
        "by": entry.by,
        "reason": entry.reason,
    }


def event_item(event: "Event[Any]") -> "Item":
    """Return an event of a channel."""
    return {
        "offset": event.offset,
        "time": event.time,
        "task": event.task,
        "attempt": event.attempt,
        "entry": event.entry,
        "value": plain(event.value),
    }


def journal_item(entry: tuple[Any, ...]) -> "Item":
    """Return a recorded wait or step of a task, as the extension gives it."""
    task, name, use, kind, state, (opened_at, closed_at), (due, deadline), value, failure = entry
    if state == "open":
        value = None  # how far a step has come
    elif value is not None and value[:1] == b"r":
        value = value[9:]  # of a request, after its number
    return {
        "task": task,
        "name": name,
        "use": use,
        "kind": kind,
        "state": state,
        "opened_at": opened_at,
        "closed_at": closed_at,
        "due": due,
        "deadline": deadline,
        "value": None if value is None else attempt(lambda: _STORED.decode(value)),
        "failure": None if failure is None else msgspec.Raw(failure),
    }


def attempt(read: Callable[[], Any]) -> Any:
    """Return a stored value as JSON has it; None if there is none, and of one that does not read back the reason."""
    try:
        return plain(read())
    except KeyError:
        return None
    except BideError as error:
        return {"unreadable": str(error)}


def plain(value: object) -> Any:
    """Return a value as JSON has it, or the text of one that JSON does not have."""
    try:
        return msgspec.to_builtins(value, enc_hook=to_json, str_keys=True, builtin_types=(datetime,))
    except (TypeError, ValueError, RecursionError):
        return repr(value)
