"""`runner.why` and `runner.waiting`: what holds the tasks of a run, and what waits in all runs."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from bide._control import UNENDED
from bide._errors import DefinitionError, TaskFailed, no_run
from bide._history import HistoryEntry
from bide._limits import HeldBack
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

    A run: `Start` (it begins later), `Pause`, `Cancel` (it was cancelled, and its bodies clean up), `NoRunner` (no
    runner has it), `OtherRunner` (another runner executes it). A task: `Dependency` (or an element, of a mapped task),
    `Gate`, `Wait`, `Retry` (the delay before its next attempt), `Limit`,
    `Slot`; `Start`, `Pause` and `NoRunner`, if nothing but
    that holds it; `Cancel`, if it executes to clean up; and `Nothing`, if it executes.
    """

    Start = "start"
    Pause = "pause"
    Cancel = "cancel"
    NoRunner = "no runner"
    OtherRunner = "other runner"
    Dependency = "dependency"
    Gate = "gate"
    Wait = "wait"
    Retry = "retry"
    Limit = "limit"
    Slot = "slot"
    Nothing = "nothing"


class OpenWait(msgspec.Struct, frozen=True, gc=False):
    """An open wait of a task: what it waits for, and since when. Times are datetimes in UTC.

    `due` is when its time is reached, `deadline` when it times out. `polls` (how many so far) and `next_poll` are known
    if this process executes the run; `error` is what its condition raised last. `child` is the id of the run that it
    waits for, `members` names the waits that it combines, and `others` the tasks of the run that wait for the same
    message, the one that gets the next one first. `body` says where the body of a task with `executor=` is, if this
    process has given it away, as in "executes in process 1234". `cursor` is for `waiting(after=)`. `asked_at` is the
    time of a `bide.testing` clock when this was asked, from which `str()` counts; None: it counts from the present.
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
    asked_at: datetime | None = None
    body: str | None = None

    def __str__(self) -> str:
        """Describe it in a line."""
        key = "" if self.key is None else f" (key {self.key!r})"
        where = f"task {shown(self.task)!r} in run {self.run}{key} of {shown(self.workflow)!r}"
        return f"{where} waits for {self._described()}"

    def _described(self) -> str:
        name = shown(self.name)
        if self.body is not None:
            return f"its body, which {shown(self.body)}; since {_time(self.since, self.asked_at)}"
        if self.kind is WaitKind.Step:
            what = f"its next try of step {name}"
        elif self.kind in {WaitKind.Any, WaitKind.All}:
            which = "the first of" if self.kind is WaitKind.Any else "all of"
            what = f"{name} ({which} {_names(self.members)})"
        elif self.kind is WaitKind.Child:
            what = f"{name} (child run {self.child})"
        else:
            what = f"{name} ({self.kind})"
        return "; ".join([f"{what} since {_time(self.since, self.asked_at)}", *self._details()])

    def _details(self) -> Iterator[str]:
        if self.due is not None:
            yield f"due {_time(self.due, self.asked_at)}"
        if self.polls is not None:
            next_poll = "" if self.next_poll is None else f", the next one {_time(self.next_poll, self.asked_at)}"
            yield f"{self.polls} polls so far{next_poll}"
        if self.error is not None:
            it = "it" if self.kind is WaitKind.Step else "its condition"
            yield f"{it} last raised {shown(self.error)}"
        if self.deadline is not None:
            yield f"times out {_time(self.deadline, self.asked_at)}"
        if self.others:
            yield f"for the same waits {_names(self.others)}"


HELD_BY_RUN = {
    HeldBy.NoRunner: "waits for a runner",
    HeldBy.Pause: "waits until the run is resumed",
    HeldBy.Start: "waits until the run begins",
}
"""What a task that only its run holds waits for."""


class HeldTask(msgspec.Struct, frozen=True, gc=False):
    """A task that has not ended, and what holds it.

    `waits` are its open waits, `needs` the tasks (or, of a mapped task, its elements) that have to end before it,
    `retry_at` is when its next attempt starts, `error` how its last attempt failed, and `blocked_by` what a
    `TaskResult` says about it. `limit` is the limit that holds it back, and `asked_at` as in an `OpenWait`.
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
    limit: HeldBack | None = None
    asked_at: datetime | None = None

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
            at = "" if self.retry_at is None else f" until {_time(self.retry_at, self.asked_at)}"
            yield f"{name} waits for its attempt {self.attempts + 1}{at}{error}"
        elif self.limit is not None:
            yield f"{name} waits for {self.limit}{error}"
        elif self.held_by is HeldBy.Nothing:
            since = "" if self.started_at is None else f" since {_time(self.started_at, self.asked_at)}"
            yield f"{name} executes{since}{error}"
        elif self.held_by is HeldBy.Cancel:
            since = "" if self.started_at is None else f", executing since {_time(self.started_at, self.asked_at)}"
            yield f"{name} cleans up{since}{error}"
        elif self.held_by in HELD_BY_RUN:
            yield f"{name} {HELD_BY_RUN[self.held_by]}{error}"
        else:
            held = shown(self.blocked_by or "")
            yield f"{name} {held if held.startswith('waits ') else f'waits for a slot: {held}'}{error}"


class RunnerInfo(msgspec.Struct, frozen=True):
    """The process of another runner: its id and its machine."""

    pid: int
    host: str


class Why(msgspec.Struct, frozen=True):
    """What holds a run and each of its unfinished tasks; `str()` says it in words.

    `held_by` is what holds the run as a whole (None: nothing does, this process executes it, or it has ended), `reason`
    says why, or how it has failed, `by`
    is who has paused or cancelled it, and `runner` is who else has it. `start_at` is when it begins, if that is later.
    `tasks` are those that have not ended. `children` explains the child runs that its tasks wait for, by id. `requests`
    is what was asked of it: cancel, pause, resume and retry of the run, and of a task satisfy, extend, poll_now and
    skip, with who and why. `asked_at` is as in an `OpenWait`.
    """

    run: str
    workflow: str
    key: str | None
    status: RunStatus
    parent: str | None
    held_by: HeldBy | None
    reason: str | None
    by: str | None
    runner: RunnerInfo | None
    start_at: datetime | None
    tasks: tuple[HeldTask, ...]
    children: dict[str, "Why"]
    requests: tuple[HistoryEntry, ...]
    asked_at: datetime | None = None

    def __str__(self) -> str:
        """Say in words what holds the run."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        key = "" if self.key is None else f" (key {self.key!r})"
        reason = "" if self.reason is None else f": {shown(self.reason)}"
        yield f"run {self.run}{key} of {shown(self.workflow)!r} is {self.status}{reason}"
        for asked in self.requests if self.tasks else ():
            if asked.task is not None:
                said = "" if asked.reason is None else f": {shown(asked.reason)}"
                by = "" if asked.by is None else f" by {shown(asked.by)}"
                yield f"  task {shown(asked.task)!r}: {asked.what}{by} {_time(asked.at, self.asked_at)}{said}"
        behind = _next_ones(self.tasks)
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


def _next_ones(tasks: tuple[HeldTask, ...]) -> Callable[[str], tuple[str, ...]]:
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


def why(core: "_core.Runner", run: str, now: datetime | None) -> Why:
    """Explain a run, and the child runs that it waits for. `now` is the time of a test's clock."""
    explained = _explained(core, run, now, LEVELS, [CHILDREN])
    if explained is None:
        raise KeyError(no_run(run))
    return explained


def _explained(core: "_core.Runner", run: str, now: datetime | None, levels: int, left: list[int]) -> Why | None:
    found = core.explain(run)
    if found is None:
        return None
    run_id, workflow, key, status, parent, _, has, _, rows, cancel, start_at, asked = found
    requests = tuple(HistoryEntry(at, what, task, None, by, why) for at, what, task, by, why in asked)
    owner, pid, host = has
    runner = RunnerInfo(pid or 0, host or "") if status in UNENDED and owner == "other" else None
    held_by, reason, by = _held(found, requests, _error(core, run, status), now)
    # What holds a task that nothing else holds.
    of_run = held_by if held_by in HELD_BY_RUN else None
    executes = HeldBy.Nothing if cancel is None else HeldBy.Cancel
    stopped = _stopped(core, found, requests) if held_by is HeldBy.Pause else frozenset()
    slot = "waits for a slot" if owner == "here" else "waits for a slot, or has just started"
    run_of = (run_id, key, workflow)
    tasks = _with_others(
        tuple(
            [
                _behind(*row)
                if len(row) == 2  # noqa: PLR2004
                else _task(row, run_of, of_run, HeldBy.Pause if row[0] in stopped else executes, slot, now)
                for row in rows
            ]
        )
    )
    children: dict[str, Why] = {}
    for child in dict.fromkeys(wait.child for task in tasks for wait in task.waits if wait.child is not None):
        if levels == 0 or left[0] == 0:
            break
        left[0] -= 1
        below = _explained(core, child, now, levels - 1, left)
        if below is not None:
            children[child] = below
    standing = RunStatus(status)
    return Why(
        run_id, workflow, key, standing, parent, held_by, reason, by, runner, start_at, tasks, children, requests, now
    )


def _error(core: "_core.Runner", run: str, status: str) -> str | None:
    """Return how a run has failed, if it has."""
    if status != RunStatus.Failed:
        return None
    from bide._result import RunResult  # noqa: PLC0415 - few runs have failed

    found = core.snapshot(run)
    error = None if found is None else RunResult(found).error
    return None if error is None else str(error)


def _held(
    found: "_core._Shown", requests: tuple[HistoryEntry, ...], error: str | None, now: datetime | None
) -> tuple[HeldBy | None, str | None, str | None]:
    """Return what holds a run as a whole, why in words, and who has paused or cancelled it."""
    _, workflow, _, status, _, paused, (owner, pid, host), not_here, _, cancel, start_at, _ = found
    if status not in UNENDED:
        return None, error, None
    reasons: list[str] = []
    held_by, by = None, None
    has_runner = owner in {"here", "other"}
    if cancel is not None:
        held_by, by = HeldBy.Cancel if has_runner else HeldBy.NoRunner, cancel[0]
        reasons.append(f"{cancel[2]}; it ends once its bodies have cleaned up")
    elif paused is not None:
        text, on_request = paused
        held_by = HeldBy.Pause
        reasons.append(text)
        by = next((one.by for one in reversed(requests) if on_request and one.what == "pause"), None)
        has_runner = has_runner or not on_request  # which nobody is to have
    elif start_at is not None:
        held_by = HeldBy.Start
        reasons.append(f"it begins {_time(start_at, now)}")
    elif not has_runner:
        held_by = HeldBy.NoRunner
    elif owner == "other":
        held_by = HeldBy.OtherRunner
    if not has_runner:
        reasons.append(f"no runner has it{f': {not_here}' if not_here else f' that has registered {workflow!r}'}")
    if owner == "other":
        reasons.append(f"process {pid}{f' on {host}' if host else ''} executes it")
    return held_by, "; ".join(reasons) or None, by


def _stopped(core: "_core.Runner", found: "_core._Shown", requests: tuple[HistoryEntry, ...]) -> frozenset[str]:
    """Return the tasks of a paused run that have begun, and continue only when it is resumed."""
    run, _, _, _, _, paused, (owner, _, _), _, rows, _, _, _ = found
    begun = frozenset(row[0] for row in rows if len(row) > 2 and row[1] == TaskStatus.Running and not row[9])  # noqa: PLR2004
    if paused is None or not paused[1] or owner not in {"here", "other"}:
        return begun  # nobody executes them
    since = max((one.at for one in requests if one.what == "pause"), default=None)
    if since is None or not begun:
        return frozenset()
    # A body that executes when its run is paused continues until its next wait, and stays there when that ends.
    ends = {"wait satisfied", "wait failed"}
    happened = core.history(run) or ()
    return begun & {task for at, what, task, *_ in happened if task is not None and what in ends and at >= since}


def _behind(name: str, needs: tuple[str, ...]) -> HeldTask:
    """Return a task of which there is nothing to say but what it waits for."""
    return HeldTask(name, TaskStatus.Pending, HeldBy.Dependency, 0, None, None, None, None, needs, ())


def _task(
    row: "_ShownTask",
    run: tuple[str, str | None, str],
    of_run: HeldBy | None,
    executes: HeldBy,
    slot: str,
    now: datetime | None,
) -> HeldTask:
    name, word, sub_status, attempts, started_at, retry_at, blocked_by, failure, needs, waits, held_back = row
    status = TaskStatus(word)
    open_waits = tuple([_wait(wait, run, name, now) for wait in waits])
    if open_waits:
        held_by = HeldBy.Wait if status is TaskStatus.Running else HeldBy.Gate
    elif needs:
        held_by = HeldBy.Dependency
    elif held_back is not None and of_run is None:
        held_by = HeldBy.Limit
    elif (
        retry_at is not None
        and status is TaskStatus.Pending
        and (of_run is None or retry_at > (now or datetime.now(UTC)))
    ):
        held_by = HeldBy.Retry
    elif status is TaskStatus.Running and sub_status != "Deferred" and of_run is not HeldBy.NoRunner:
        held_by = executes
    else:
        held_by = of_run or HeldBy.Slot
    if held_by is HeldBy.Slot and blocked_by is None:
        # Another process shows the start of a body only after a while.
        blocked_by = slot
    error = None
    if failure is not None:
        from bide._stored_errors import task_failed  # noqa: PLC0415 - few tasks have failed

        error = task_failed(failure, name)
    limit = None if held_back is None else HeldBack(*held_back)
    return HeldTask(
        name, status, held_by, attempts, started_at, retry_at, error, blocked_by, needs, open_waits, limit, now
    )


def _wait(
    wait: "_ShownWait",
    run: tuple[str, str | None, str],
    task: str,
    now: datetime | None,
    cursor: str | None = None,
) -> OpenWait:
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
        now,
        _body(run[0], task, name),
    )


def _body(run: str, task: str, wait: str) -> str | None:
    """Say where the body of a task is that this process has given to an executor."""
    remote: Any = sys.modules.get("bide._remote")
    if remote is None or wait != remote.WAIT:
        return None
    where: str | None = remote.where(run, task)
    return where


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


def waiting(core: "_core.Runner", limit: int, after: OpenWait | str | None, now: datetime | None) -> list[OpenWait]:
    """Return a page of open waits."""
    page = core.open_waits(_position(after), limit)
    return [
        msgspec.structs.replace(_wait(wait, (run, key, workflow), task, now, ".".join(map(str, position))), others=())
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


def _time(when: datetime, now: datetime | None) -> str:
    """Return a time as text, with how far it is from now."""
    span = when - (now or datetime.now(UTC))
    ago = span < timedelta()
    whole = round(abs(span).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if whole >= 2 * size:
            text = f"{whole // size} {unit}"
            break
    else:
        text = f"{whole} s"
    return f"{when:%Y-%m-%d %H:%M:%S} UTC ({text} ago)" if ago else f"{when:%Y-%m-%d %H:%M:%S} UTC (in {text})"
