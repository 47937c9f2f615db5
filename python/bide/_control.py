"""Control of runs: `cancel`, `pause`, `resume`, `retry`, and an operator's hand on single tasks.

A request is a committed row, with who has asked and why. It works from any process and across crashes, and on a run
that no process executes at the moment: the next one that does carries it out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from bide._codec import Codec
from bide._duration import moment, seconds
from bide._errors import BideError, DefinitionError, no_run
from bide._in_thread import twin
from bide._result import RunResult
from bide._status import RunStatus, SubStatus, TaskStatus
from bide._text import check_text, is_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bide._access import StoreAccess
    from bide._history import HistoryEntry
    from bide._run_handle import RunHandle
    from bide._waits import Duration
    from bide._workflow import Workflow

    Run: TypeAlias = str | RunHandle | RunResult
    Chosen: TypeAlias = Workflow | str | None
    Since: TypeAlias = datetime | timedelta | None

ENDED = (RunStatus.Completed, RunStatus.Failed, RunStatus.Cancelled)
UNENDED = (RunStatus.Pending, RunStatus.Running, RunStatus.Paused)

_VALUES = Codec(where="the value of a wait", root="value")


class Filter(msgspec.Struct, frozen=True):
    """Which runs of a store are meant."""

    workflow: Any
    status: Any
    since: Any
    tags: Any
    every: bool

    def refuse_run(self, what: str) -> None:
        """Refuse a run together with a filter. The workflow may say which run a key means."""
        if self.status is not None or self.since is not None or self.tags is not None or self.every:
            msg = f"{what} takes a run or a filter (status=, workflow=, since=, tags=, all=), not both"
            raise DefinitionError(msg)

    def chosen(self, runner: StoreAccess, possible: tuple[RunStatus, ...], what: str) -> list[str]:
        """Return the ids of the chosen runs that have one of these statuses."""
        parts = (self.status, self.workflow, self.since, self.tags)
        if all(one is None for one in parts) and not self.every:
            msg = (
                f"{what} of every run in the store needs all=True: or name a run, or a filter (status=, workflow=, "
                "since=, tags=)"
            )
            raise DefinitionError(msg)
        if self.since is not None and not isinstance(self.since, timedelta):
            moment(self.since, "since")
        found = runner.runs(status=self.status, workflow=self.workflow, since=self.since, tags=self.tags)
        return [one.id for one in found if one.status in possible]


class TooLateError(BideError):
    """A request to a run that is not in the state for it, or not any more."""


class Asked(msgspec.Struct, frozen=True):
    """A request, as the executor takes it."""

    what: str
    by: str | None = None
    reason: str | None = None
    task: str | None = None
    value: bytes | None = None
    seconds: float = 0.0
    flag: bool = False


def asked(what: str, *, by: object, reason: object, **more: Any) -> Asked:  # noqa: ANN401 - the fields of Asked
    """Return a request, after checking who asks and why."""
    given = {name: None if text is None else check_text(text, name) for name, text in (("by", by), ("reason", reason))}
    return Asked(what, given["by"], given["reason"], **more)


def ask_one(runner: StoreAccess, run: str, request: Asked) -> None:
    """Ask something of a run."""
    ((outcome, details),) = runner._core.ask([run], request)
    _check_asked(run, request, outcome, details)


def ask_all(runner: StoreAccess, runs: list[str], request: Asked) -> int:
    """Ask something of many runs, and return of how many. One that has changed meanwhile is left out."""
    done = 0
    for run, (outcome, details) in zip(runs, runner._core.ask(runs, request), strict=True):
        try:
            _check_asked(run, request, outcome, details)
        except (TooLateError, KeyError):
            continue
        done += 1
    return done


def _check_asked(run: str, request: Asked, outcome: str, details: list[str]) -> None:
    if outcome == "no run":
        msg = f"no run has the id {run!r}"
        raise KeyError(msg)
    if outcome != "ended":
        return
    status = RunStatus(details[0])
    if request.what == "cancel" and status is RunStatus.Cancelled:
        return
    raise TooLateError(_too_late(run, request.what, status))


def _too_late(run: str, what: str, status: RunStatus) -> str:
    if what == "retry":
        return (
            f"run {run} has completed: only a run that failed or was cancelled can be retried; "
            "runner.fork(run, start_at=...) begins a new one"
        )
    again = "; runner.retry(run) continues it" if status is not RunStatus.Completed else ""
    return f"run {run} has ended ({status}): {what} comes too late{again}"


def check_retry(runner: StoreAccess, run: str, task: str | None) -> None:
    """Refuse to retry a run that is executed, and a task that it does not have."""
    found = RunResult(runner._snapshot(run))
    if found.status not in ENDED and not (found.status is RunStatus.Paused and task is not None):
        msg = f"run {run} is {found.status}: only a run that failed or was cancelled can be retried"
        if found.status is RunStatus.Paused:
            msg += "; runner.resume(run) continues it, and retry(run, from_task=...) goes back to a task"
        raise BideError(msg)
    if task is not None:
        check_task(found, task)


def check_task(found: RunResult, task: str) -> None:
    """Refuse a task that a run does not have."""
    if not is_text(task) or task not in found.tasks:
        msg = f"run {found.id} of workflow {found.workflow!r} has no task {task!r}; it has {', '.join(found.tasks)}"
        raise DefinitionError(msg)


def check_satisfiable(runner: StoreAccess, run: str, task: str) -> None:
    """Refuse to satisfy a wait whose value only a child run or the sender of a request has."""
    from bide._why import WaitKind  # noqa: PLC0415 - as in StoreAccess.why

    waits = [wait for one in runner.why(run).tasks if one.name == task for wait in one.waits]
    if not waits or any(wait.kind not in {WaitKind.Child, WaitKind.Request} for wait in waits):
        return
    if waits[0].kind is WaitKind.Child:
        msg = f"task {task!r} of run {run} waits for its child run {waits[0].child}: act on that one"
    else:
        msg = (
            f"task {task!r} of run {run} waits for a request, whose sender gets an answer: send it, "
            f"runner.request(run, {waits[0].name!r}, value)"
        )
    raise BideError(msg)


class Controls:
    """What a `Runner` or a `Client` can ask of runs. Each method takes one run, or a filter that chooses some."""

    def cancel(  # noqa: PLR0913 - a filter has several parts
        self,
        run: Run | None = None,
        *,
        workflow: Chosen = None,
        by: str | None = None,
        reason: str | None = None,
        force: bool = False,
        status: RunStatus | str | None = None,
        since: Since = None,
        tags: Mapping[str, str] | None = None,
        all: bool = False,  # noqa: A002 - the designed name
    ) -> int:
        """Cancel a run, or all runs that a filter chooses, and return how many.

        Nothing new starts, but for tasks with `run_if="done"`. A body that waits gets `bide.Cancelled` out of its wait,
        one that executes at its next handle call; it is raised once, so that `except` and `finally` can undo remote
        work with steps and waits. The run ends as Cancelled when its bodies have. Unfinished child runs are cancelled
        too. `force=True` ends it at once, without clean-up. Raises a `BideError` if the run has completed or failed.
        """
        request = asked("cancel", by=by, reason=reason, flag=bool(force))
        return self._ask(request, UNENDED, run, Filter(workflow, status, since, tags, bool(all)))

    def pause(  # noqa: PLR0913 - as above
        self,
        run: Run | None = None,
        *,
        workflow: Chosen = None,
        by: str | None = None,
        reason: str | None = None,
        status: RunStatus | str | None = None,
        since: Since = None,
        tags: Mapping[str, str] | None = None,
        all: bool = False,  # noqa: A002 - the designed name
    ) -> int:
        """Pause a run, or all runs that a filter chooses, and return how many.

        No body starts or resumes until `resume`. A body that executes goes on until its next wait; what is waited for
        is recorded meanwhile, deadlines go on, and signals queue.
        """
        request = asked("pause", by=by, reason=reason)
        possible = (RunStatus.Pending, RunStatus.Running)
        return self._ask(request, possible, run, Filter(workflow, status, since, tags, bool(all)))

    def resume(  # noqa: PLR0913 - as above
        self,
        run: Run | None = None,
        *,
        workflow: Chosen = None,
        by: str | None = None,
        reason: str | None = None,
        status: RunStatus | str | None = None,
        since: Since = None,
        tags: Mapping[str, str] | None = None,
        all: bool = False,  # noqa: A002 - the designed name
    ) -> int:
        """Continue a paused run, or all that a filter chooses, and return how many.

        That is also how a run continues that was paused by a `ReplayMismatch`, once the code fits its record again, or
        because processes died of it.
        """
        request = asked("resume", by=by, reason=reason)
        return self._ask(request, (RunStatus.Paused,), run, Filter(workflow, status, since, tags, bool(all)))

    def retry(  # noqa: PLR0913 - as above
        self,
        run: Run | None = None,
        *,
        workflow: Chosen = None,
        from_task: str | None = None,
        fresh: bool = False,
        by: str | None = None,
        reason: str | None = None,
        status: RunStatus | str | None = None,
        since: Since = None,
        tags: Mapping[str, str] | None = None,
        all: bool = False,  # noqa: A002 - the designed name
    ) -> int:
        """Continue a failed or cancelled run, or all that a filter chooses, and return how many.

        Its failed and cancelled tasks and all that depends on them are done again, under the same id; what completed
        stays. What their bodies have recorded is kept, as by a retry of the task; `fresh=True` drops it. `from_task`
        goes back to that task, also in a run that is paused by a `ReplayMismatch`.
        """
        if run is not None:
            check_retry(cast("StoreAccess", self), self._found(run, workflow), from_task)
        elif from_task is not None:
            msg = "retry: from_task= needs a run: runs that a filter chooses are retried from what has failed"
            raise DefinitionError(msg)
        request = asked("retry", by=by, reason=reason, task=from_task, flag=bool(fresh))
        possible = (RunStatus.Failed, RunStatus.Cancelled)
        return self._ask(request, possible, run, Filter(workflow, status, since, tags, bool(all)))

    def satisfy(
        self,
        run: Run,
        task: str,
        value: object = None,
        *,
        workflow: Chosen = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Satisfy what a task waits for, its gate or its body's oldest wait, with this value."""
        encoded = _VALUES.encode(value)
        self._by_hand(run, task, workflow, asked("satisfy", by=by, reason=reason, task=task, value=encoded))

    def extend(
        self,
        run: Run,
        task: str,
        more: Duration,
        *,
        workflow: Chosen = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Give what a task waits for more time: move its deadline by `more`, seconds or a `timedelta`."""
        span = seconds(more, "extend: more")
        self._by_hand(run, task, workflow, asked("extend", by=by, reason=reason, task=task, seconds=span))

    def poll_now(
        self,
        run: Run,
        task: str,
        *,
        workflow: Chosen = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Ask the condition that a task waits for now, whenever its next poll would be."""
        self._by_hand(run, task, workflow, asked("poll_now", by=by, reason=reason, task=task))

    def skip(
        self,
        run: Run,
        task: str,
        *,
        workflow: Chosen = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Skip a task that has not ended, and what depends on it; what its body still does changes nothing."""
        self._by_hand(run, task, workflow, asked("skip", by=by, reason=reason, task=task))

    def delete(  # noqa: PLR0913 - as above
        self,
        run: Run | None = None,
        *,
        workflow: Chosen = None,
        force: bool = False,
        status: RunStatus | str | None = None,
        since: Since = None,
        tags: Mapping[str, str] | None = None,
        all: bool = False,  # noqa: A002 - the designed name
    ) -> int:
        """Delete an ended run, or all ended runs that a filter chooses, and return how many.

        The child runs that its bodies have started go with it; a child itself is kept as long as its parent. With
        `force=True` a run that has not ended is cancelled first, without clean-up.
        """
        runner = cast("StoreAccess", self)
        chosen = Filter(workflow, status, since, tags, bool(all))
        if run is None:
            possible = (*ENDED, *UNENDED) if force else ENDED
            return sum(_is_deleted(runner, one, force=force) for one in chosen.chosen(runner, possible, "delete"))
        chosen.refuse_run("delete")
        delete_one(runner, self._found(run, workflow), force=force)
        return 1

    def history(self, run: Run, *, workflow: Chosen = None) -> list[HistoryEntry]:
        """Return what has happened to a run, oldest first, told from its rows.

        That is: its creation and its end, the start and the end of its tasks, waits and steps as far as their records
        are kept, and all that was asked of it, with who and why.
        """
        found = self._found(run, workflow)
        happened = cast("StoreAccess", self)._core.history(found)
        if happened is None:
            raise KeyError(no_run(found))
        from bide._history import HistoryEntry  # noqa: PLC0415 - few programs look

        return [HistoryEntry(*one) for one in happened]

    cancel_async = twin(cancel)
    pause_async = twin(pause)
    resume_async = twin(resume)
    retry_async = twin(retry)
    satisfy_async = twin(satisfy)
    extend_async = twin(extend)
    poll_now_async = twin(poll_now)
    skip_async = twin(skip)
    delete_async = twin(delete)
    history_async = twin(history)

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _found(self, run: Run, workflow: Chosen) -> str:
        return cast("StoreAccess", self)._find_run(run, workflow)

    def _by_hand(self, run: Run, task: str, workflow: Chosen, request: Asked) -> None:
        runner, found = cast("StoreAccess", self), self._found(run, workflow)
        state = RunResult(runner._snapshot(found))
        check_task(state, task)
        one = state.tasks[task]
        if one.ended_at is not None or state.status in ENDED:
            what = f"task {task!r} of run {found}" if one.ended_at is not None else f"run {found}"
            msg = f"{what} has ended ({one.status}): {request.what} comes too late"
            raise BideError(msg)
        is_gated = one.status is TaskStatus.Pending and one.blocked_by is not None
        waits = is_gated or one.sub_status is SubStatus.Deferred
        if request.what != "skip" and not waits:
            msg = f"task {task!r} of run {found} is {one.status} and waits for nothing: {request.what} has no effect"
            raise BideError(msg)
        if request.what == "satisfy":
            check_satisfiable(runner, found, task)
        ask_one(runner, found, request)

    def _ask(self, request: Asked, possible: tuple[RunStatus, ...], run: Run | None, chosen: Filter) -> int:
        runner = cast("StoreAccess", self)
        if run is None:
            return ask_all(runner, chosen.chosen(runner, possible, request.what), request)
        chosen.refuse_run(request.what)
        ask_one(runner, self._found(run, chosen.workflow), request)
        return 1


def _is_deleted(runner: StoreAccess, run: str, *, force: bool) -> bool:
    try:
        delete_one(runner, run, force=force)
    except (TooLateError, KeyError):
        return False
    return True


def delete_one(runner: StoreAccess, run: str, *, force: bool) -> None:
    """Delete an ended run; with `force` one that has not ended too, which is cancelled first."""
    if force and RunResult(runner._snapshot(run)).status in UNENDED:
        ask_one(runner, run, asked("cancel", by=None, reason=None, flag=True))
    if runner._core.delete(run):
        return
    found = runner._snapshot(run)
    if found.parent is not None:
        msg = f"run {run} is kept as long as run {found.parent}, which has started it: delete that one"
    elif RunResult(found).ended_at is not None:
        msg = f"run {run} has ended, but not all of the child runs that it has started: delete it after them"
    else:
        msg = f"run {run} has not ended: only ended runs can be deleted; "
        msg += "another process executes it and ends it now" if force else "force=True ends it first"
    raise TooLateError(msg)
