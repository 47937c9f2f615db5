"""`runner.why` and `runner.waiting`: what holds the tasks of a run, and what waits in all runs."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from bide._errors import DefinitionError, TaskFailed
from bide._status import RunStatus, TaskStatus
from bide._text import shown

if TYPE_CHECKING:
    from bide import _core
    from bide._core import _ShownTask, _ShownWait

LEVELS = 10
"""How many levels of child runs are explained."""

CHILDREN = 20
"""How many child runs are explained in all."""

NAMES = 10
"""How many names of tasks a line shows."""


class WaitKind(StrEnum):
    """What a wait is for. `Step`: a step that has failed is tried again."""

    Condition = "condition"
    Time = "time"
    Signal = "signal"
    Request = "request"
    Callback = "callback"
    Child = "child"
    Any = "any"
    All = "all"
    Step = "step"


class HeldBy(StrEnum):
    """What holds a run or a task.

    A run: `Pause`, `NoRunner` (no runner has it), `OtherRunner` (another runner executes it). A task: `Dependency` (or
    an element, of a mapped task), `Gate`, `Wait`, `Retry` (the delay before its next attempt), `Slot`, `NoRunner`; and
    `Nothing`, if it executes.
    """

    Pause = "pause"
    NoRunner = "no runner"
    OtherRunner = "other runner"
    Dependency = "dependency"
    Gate = "gate"
    Wait = "wait"
    Retry = "retry"
    Slot = "slot"
    Nothing = "nothing"


class OpenWait(msgspec.Struct, frozen=True, gc=False):
    """An open wait of a task: what it waits for, and since when. Times are datetimes in UTC.

    `due` is when its time is reached, `deadline` when it times out. `polls` (how many so far) and `next_poll` are known
    if this process executes the run; `error` is what its condition raised last. `child` is the id of the run that it
    waits for, `members` names the waits that it combines, and `others` the tasks of the run that wait for the same
    message, the one that gets the next one first. `cursor` is for `waiting(after=)`.
    """

    run: str
    key: str | None
    workflow: str
    task: str
    kind: WaitKind
    name: str
    since: datetime
    due: datetime | None
    deadline: datetime | None
    polls: int | None
    next_poll: datetime | None
    error: str | None
    child: str | None = None
    members: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    cursor: str | None = None

    def __str__(self) -> str:
        """Describe it in a line."""
        key = "" if self.key is None else f" (key {self.key!r})"
        where = f"task {shown(self.task)!r} in run {self.run}{key} of {shown(self.workflow)!r}"
        return f"{where} waits for {self._described()}"

    def _described(self) -> str:
        name = shown(self.name)
        if self.kind is WaitKind.Step:
            what = f"its next try of step {name}"
        elif self.kind in {WaitKind.Any, WaitKind.All}:
            which = "the first of" if self.kind is WaitKind.Any else "all of"
            what = f"{name} ({which} {_names(self.members)})"
        elif self.kind is WaitKind.Child:
            what = f"{name} (child run {self.child})"
        else:
            what = f"{name} ({self.kind})"
        return "; ".join([f"{what} since {_time(self.since)}", *self._details()])

    def _details(self) -> Iterator[str]:
        if self.due is not None:
            yield f"due {_time(self.due)}"
        if self.polls is not None:
            next_poll = "" if self.next_poll is None else f", the next one {_time(self.next_poll)}"
            yield f"{self.polls} polls so far{next_poll}"
        if self.error is not None:
            yield f"its condition last raised {shown(self.error)}"
        if self.deadline is not None:
            yield f"times out {_time(self.deadline)}"
        if self.others:
            yield f"for the same waits {_names(self.others)}"


class HeldTask(msgspec.Struct, frozen=True, gc=False):
    """A task that has not ended, and what holds it.

    `waits` are its open waits, `needs` the tasks (or, of a mapped task, its elements) that have to end before it,
    `retry_at` is when its next attempt starts, `error` how its last attempt failed, and `blocked_by` what a
    `TaskResult` says about it.
    """

    name: str
    status: TaskStatus
    held_by: HeldBy
    attempts: int
    started_at: datetime | None
    retry_at: datetime | None
    error: TaskFailed | None
    blocked_by: str | None
    needs: tuple[str, ...]
    waits: tuple[OpenWait, ...]

    def __str__(self) -> str:
        """Describe it in a line, or one for each of its waits."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        name = f"task {shown(self.name)!r}"
        if self.waits:
            yield from (f"{name} waits for {wait._described()}" for wait in self.waits)
            return
        error = "" if self.error is None else f"; its last attempt failed: {shown(str(self.error))}"
        if self.held_by is HeldBy.Dependency:
            yield f"{name} waits for {_names(self.needs)}{error}"
        elif self.held_by is HeldBy.Retry:
            at = "" if self.retry_at is None else f" until {_time(self.retry_at)}"
            yield f"{name} waits for its attempt {self.attempts + 1}{at}{error}"
        elif self.held_by is HeldBy.Nothing:
            since = "" if self.started_at is None else f" since {_time(self.started_at)}"
            yield f"{name} executes{since}{error}"
        elif self.held_by is HeldBy.NoRunner:
            yield f"{name} waits for a runner{error}"
        else:
            yield f"{name} {shown(self.blocked_by or '')}{error}"


class RunnerInfo(msgspec.Struct, frozen=True):
    """The process of another runner: its id and its machine."""

    pid: int
    host: str


class Why(msgspec.Struct, frozen=True):
    """What holds a run and each of its unfinished tasks; `str()` says it in words.

    `held_by` is what holds the run as a whole (None: nothing does, this process executes it), `reason` says why, and
    `runner` is who else has it. `tasks` are those that have not ended. `children` explains the child runs that its
    tasks wait for, by id.
    """

    run: str
    workflow: str
    key: str | None
    status: RunStatus
    parent: str | None
    held_by: HeldBy | None
    reason: str | None
    runner: RunnerInfo | None
    tasks: tuple[HeldTask, ...]
    children: dict[str, "Why"]

    def __str__(self) -> str:
        """Say in words what holds the run."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        key = "" if self.key is None else f" (key {self.key!r})"
        reason = "" if self.reason is None else f": {shown(self.reason)}"
        yield f"run {self.run}{key} of {shown(self.workflow)!r} is {self.status}{reason}"
        behind = _behind(self.tasks)
        for task in self.tasks:
            if task.held_by is HeldBy.Dependency and not task.waits:
                continue
            for line in task._lines():
                yield f"  {line}"
            if then := behind(task.name):
                yield f"    then: {_names(then)}"
            for wait in task.waits:
                if wait.child in self.children:
                    yield from (f"    {line}" for line in self.children[wait.child]._lines())


def _behind(tasks: tuple[HeldTask, ...]) -> Callable[[str], tuple[str, ...]]:
    """Return a function that names the tasks that wait for one, directly or not, as far as a line shows them."""
    next_ones: dict[str, list[str]] = {}
    for task in tasks:
        for name in task.needs:
            next_ones.setdefault(name, []).append(task.name)

    def behind(name: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        last = [name]
        while last and len(found) <= NAMES:
            last = [one for before in last for one in next_ones.get(before, ()) if one not in found]
            found.update(dict.fromkeys(last))
        return tuple(found)

    return behind


def why(core: "_core.Runner", run: str) -> Why:
    """Explain a run, and the child runs that it waits for."""
    explained = _explained(core, run, LEVELS, [CHILDREN])
    if explained is None:
        msg = f"run {run} is not in the store any more: it was deleted, or its retention is over"
        raise KeyError(msg)
    return explained


def _explained(core: "_core.Runner", run: str, levels: int, left: list[int]) -> Why | None:
    found = core.explain(run)
    if found is None:
        return None
    run_id, workflow, key, status, parent, paused, (owner, pid, host), not_here, rows = found
    is_unowned = owner in {"gone", "nobody"}
    tasks = tuple(_task(row, (run_id, key, workflow), owner) for row in rows)
    tasks = _with_others(tasks)
    held_by, reason, runner = None, paused, None
    if RunStatus(status) is RunStatus.Paused:
        held_by = HeldBy.Pause
    elif rows and is_unowned:
        held_by = HeldBy.NoRunner
        reason = f"no runner has it: {not_here}" if not_here else f"no runner has it that has registered {workflow!r}"
    elif rows and owner == "other":
        held_by = HeldBy.OtherRunner
        runner = RunnerInfo(pid or 0, host or "")
        on = f" on {host}" if host else ""
        reason = f"process {pid}{on} executes it"
    children: dict[str, Why] = {}
    for child in dict.fromkeys(wait.child for task in tasks for wait in task.waits if wait.child is not None):
        if levels == 0 or left[0] == 0:
            break
        left[0] -= 1
        below = _explained(core, child, levels - 1, left)
        if below is not None:
            children[child] = below
    return Why(run_id, workflow, key, RunStatus(status), parent, held_by, reason, runner, tasks, children)


def _task(row: "_ShownTask", run: tuple[str, str | None, str], owner: str) -> HeldTask:
    name, status, sub_status, attempts, started_at, retry_at, blocked_by, failure, needs, waits = row
    status = TaskStatus(status)
    open_waits = tuple(_wait(wait, run, name) for wait in waits)
    if open_waits:
        held_by = HeldBy.Wait if status is TaskStatus.Running else HeldBy.Gate
    elif needs:
        held_by = HeldBy.Dependency
    elif retry_at is not None and status is TaskStatus.Pending:
        held_by = HeldBy.Retry
    elif owner in {"gone", "nobody"}:
        held_by = HeldBy.NoRunner
    elif status is TaskStatus.Running and sub_status != "Deferred":
        held_by = HeldBy.Nothing
    else:
        held_by = HeldBy.Slot
    if held_by is HeldBy.Slot and blocked_by is None:
        # Another process shows the start of a body only after a while.
        blocked_by = "waits for a slot" if owner == "here" else "waits for a slot, or has just started"
    error = None
    if failure is not None:
        from bide._stored_errors import task_failed  # noqa: PLC0415 - few tasks have failed

        error = task_failed(failure, name)
    return HeldTask(name, status, held_by, attempts, started_at, retry_at, error, blocked_by, tuple(needs), open_waits)


def _wait(wait: "_ShownWait", run: tuple[str, str | None, str], task: str, cursor: str | None = None) -> OpenWait:
    kind, name, since, due, deadline, polls, next_poll, error, child, members, message = wait
    others = () if message is None else (message,)  # replaced by the tasks that wait for it
    return OpenWait(
        *run,
        task,
        WaitKind(kind),
        name,
        since,
        due,
        deadline,
        polls,
        next_poll,
        error,
        child,
        tuple(members),
        others,
        cursor,
    )


def _with_others(tasks: tuple[HeldTask, ...]) -> tuple[HeldTask, ...]:
    """Name with each wait for a message the other tasks that wait for it, the oldest wait first."""
    waiting: dict[tuple[WaitKind, str], list[tuple[datetime, str]]] = {}
    for task in tasks:
        for wait in task.waits:
            if wait.others:
                waiting.setdefault((wait.kind, wait.others[0]), []).append((wait.since, task.name))
    if not waiting:
        return tasks
    for same in waiting.values():
        same.sort(key=lambda one: one[0])

    def named(wait: OpenWait, task: str) -> OpenWait:
        if not wait.others:
            return wait
        same = waiting[wait.kind, wait.others[0]]
        return msgspec.structs.replace(wait, others=tuple(name for _, name in same if name != task))

    return tuple(
        msgspec.structs.replace(task, waits=tuple(named(wait, task.name) for wait in task.waits))
        if task.waits
        else task
        for task in tasks
    )


def waiting(core: "_core.Runner", limit: int, after: OpenWait | str | None) -> list[OpenWait]:
    """Return a page of open waits."""
    page = core.open_waits(_position(after), limit)
    return [
        msgspec.structs.replace(_wait(wait, (run, key, workflow), task, ".".join(map(str, position))), others=())
        for run, key, workflow, task, position, wait in page
    ]


def _position(after: OpenWait | str | None) -> tuple[int, int, int, int, int] | None:
    if after is None:
        return None
    cursor = after.cursor if isinstance(after, OpenWait) else after
    try:
        opened_at, run, task, mapped, seq = map(int, str(cursor).split("."))
    except ValueError:
        msg = f"waiting: after must be a wait that waiting() has returned, or its cursor, not {after!r}"
        raise DefinitionError(msg) from None
    return opened_at, run, task, mapped, seq


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(shown(name) for name in names[:NAMES]) + more


def _time(when: datetime) -> str:
    """Return a time as text, with how far it is from now."""
    span = when - datetime.now(UTC)
    ago = span < timedelta()
    whole = round(abs(span).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if whole >= 2 * size:
            text = f"{whole // size} {unit}"
            break
    else:
        text = f"{whole} s"
    return f"{when:%Y-%m-%d %H:%M:%S} UTC ({text} ago)" if ago else f"{when:%Y-%m-%d %H:%M:%S} UTC (in {text})"
