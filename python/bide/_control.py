"""Control of runs: `cancel`, `pause`, `resume`, `retry`, and an operator's hand on single tasks.

A request is a committed row, with who has asked and why. It works from any process, on runs that nobody executes, and
across crashes: whoever executes the run acts on it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from bide._codec import Codec
from bide._duration import moment, seconds
from bide._errors import BideError, DefinitionError
from bide._result import RunResult
from bide._status import RunStatus
from bide._text import check_text, is_text

if TYPE_CHECKING:
    from bide._run_handle import RunHandle
    from bide._runner import Runner
    from bide._waits import Duration
    from bide._workflow import Workflow

    Run: TypeAlias = str | RunHandle | RunResult
    Chosen: TypeAlias = Workflow | str | None
    Since: TypeAlias = datetime | timedelta | None

ENDED = (RunStatus.Completed, RunStatus.Failed, RunStatus.Cancelled)
UNENDED = (RunStatus.Pending, RunStatus.Running, RunStatus.Paused)

_VALUES = Codec(where="the value of a wait", root="value")


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


def ask_one(runner: "Runner", run: str, request: Asked) -> None:
    """Ask something of a run."""
    outcome, details = runner._core.ask(run, request)
    if outcome == "no run":
        msg = f"no run has the id {run!r}"
        raise KeyError(msg)
    if outcome != "ended":
        return
    status = RunStatus(details[0])
    if request.what == "cancel" and status is RunStatus.Cancelled:
        return
    raise BideError(_too_late(run, request.what, status))


def _too_late(run: str, what: str, status: RunStatus) -> str:
    if what == "retry":
        return f"run {run} has completed: only a run that failed or was cancelled can be retried"
    again = "; runner.retry(run) continues it" if status is not RunStatus.Completed else ""
    return f"run {run} has ended ({status}): {what} comes too late{again}"


def check_retry(runner: "Runner", run: str, task: str | None) -> None:
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


class Controls:
    """What a `Runner` can ask of runs. Each method takes one run, or a filter that chooses some."""

    def cancel(  # noqa: PLR0913 - a filter has several parts
        self,
        run: "Run | None" = None,
        *,
        workflow: "Chosen" = None,
        by: str | None = None,
        reason: str | None = None,
        force: bool = False,
        status: RunStatus | str | None = None,
        since: "Since" = None,
        all: bool = False,  # noqa: A002 - the designed name
    ) -> int:
        """Cancel a run, or all runs that a filter chooses, and return how many.

        Nothing new starts, but for tasks with `run_if="done"`. A body that waits gets `bide.Cancelled` out of its wait,
        one that executes at its next handle call; it is raised once, so that `except` and `finally` can undo remote
        work with steps and waits. The run ends as Cancelled when its bodies have. Unfinished child runs are cancelled
        too. `force=True` ends it at once, without clean-up. Raises a `BideError` if the run has completed or failed.
        """
        request = asked("cancel", by=by, reason=reason, flag=bool(force))
        return self._ask(request, UNENDED, run, workflow, status, since, every=all)

    def pause(  # noqa: PLR0913 - as above
        self,
        run: "Run | None" = None,
        *,
        workflow: "Chosen" = None,
        by: str | None = None,
        reason: str | None = None,
        status: RunStatus | str | None = None,
        since: "Since" = None,
        all: bool = False,  # noqa: A002 - the designed name
    ) -> int:
        """Pause a run, or all runs that a filter chooses, and return how many.

        No body starts or resumes until `resume`. A body that executes goes on until its next wait; what is waited for
        is recorded meanwhile, deadlines go on, and signals queue.
        """
        request = asked("pause", by=by, reason=reason)
        possible = (RunStatus.Pending, RunStatus.Running)
        return self._ask(request, possible, run, workflow, status, since, every=all)

    def resume(  # noqa: PLR0913 - as above
        self,
        run: "Run | None" = None,
        *,
        workflow: "Chosen" = None,
        by: str | None = None,
        reason: str | None = None,
        status: RunStatus | str | None = None,
        since: "Since" = None,
        all: bool = False,  # noqa: A002 - the designed name
    ) -> int:
        """Continue a paused run, or all that a filter chooses, and return how many.

        That is also how a run continues that was paused by a `ReplayMismatch`, once the code fits its record again, or
        because processes died of it.
        """
        request = asked("resume", by=by, reason=reason)
        return self._ask(request, (RunStatus.Paused,), run, workflow, status, since, every=all)

    def retry(  # noqa: PLR0913 - as above
        self,
        run: "Run | None" = None,
        *,
        workflow: "Chosen" = None,
        from_task: str | None = None,
        fresh: bool = False,
        by: str | None = None,
        reason: str | None = None,
        status: RunStatus | str | None = None,
        since: "Since" = None,
        all: bool = False,  # noqa: A002 - the designed name
    ) -> int:
        """Continue a failed or cancelled run, or all that a filter chooses, and return how many.

        Its failed and cancelled tasks and all that depends on them are done again, under the same id; what completed
        stays. What their bodies have recorded is kept, as by a retry of the task; `fresh=True` drops it. `from_task`
        goes back to that task, also in a run that is paused by a `ReplayMismatch`.
        """
        if run is not None:
            check_retry(cast("Runner", self), self._found(run, workflow), from_task)
        elif from_task is not None:
            msg = "retry: from_task= needs a run: runs that a filter chooses are retried from what has failed"
            raise DefinitionError(msg)
        request = asked("retry", by=by, reason=reason, task=from_task, flag=bool(fresh))
        possible = (RunStatus.Failed, RunStatus.Cancelled)
        return self._ask(request, possible, run, workflow, status, since, every=all)

    def satisfy(  # noqa: PLR0913 - who and why
        self,
        run: "Run",
        task: str,
        value: object = None,
        *,
        workflow: "Chosen" = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Satisfy what a task waits for, its gate or its body's oldest wait, with this value."""
        encoded = _VALUES.encode(value)
        self._by_hand(run, task, workflow, asked("satisfy", by=by, reason=reason, task=task, value=encoded))

    def extend(  # noqa: PLR0913 - as above
        self,
        run: "Run",
        task: str,
        more: "Duration",
        *,
        workflow: "Chosen" = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Give what a task waits for more time: move its deadline by `more`, seconds or a `timedelta`."""
        span = seconds(more, "extend: more")
        self._by_hand(run, task, workflow, asked("extend", by=by, reason=reason, task=task, seconds=span))

    def poll_now(
        self,
        run: "Run",
        task: str,
        *,
        workflow: "Chosen" = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Ask the condition that a task waits for now, whenever its next poll would be."""
        self._by_hand(run, task, workflow, asked("poll_now", by=by, reason=reason, task=task))

    def skip(
        self,
        run: "Run",
        task: str,
        *,
        workflow: "Chosen" = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Skip a task that has not ended, and what depends on it; what its body still does changes nothing."""
        self._by_hand(run, task, workflow, asked("skip", by=by, reason=reason, task=task))

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _found(self, run: "Run", workflow: "Chosen") -> str:
        return cast("Runner", self)._find_run(run, workflow)

    def _by_hand(self, run: "Run", task: str, workflow: "Chosen", request: Asked) -> None:
        runner, found = cast("Runner", self), self._found(run, workflow)
        state = RunResult(runner._snapshot(found))
        check_task(state, task)
        ended = state.tasks[task].ended_at
        if state.status in ENDED or ended is not None:
            what = f"task {task!r} of run {found}" if ended is not None else f"run {found}"
            msg = f"{what} has ended ({state.tasks[task].status}): {request.what} comes too late"
            raise BideError(msg)
        ask_one(runner, found, request)

    def _ask(  # noqa: PLR0913 - as above
        self,
        request: Asked,
        possible: tuple[RunStatus, ...],
        run: "Run | None",
        workflow: "Chosen",
        status: RunStatus | str | None,
        since: "Since",
        *,
        every: bool,
    ) -> int:
        runner = cast("Runner", self)
        if run is not None:
            if status is not None or since is not None or every:
                msg = f"{request.what} takes a run or a filter (status=, workflow=, since=, all=), not both"
                raise DefinitionError(msg)
            ask_one(runner, self._found(run, workflow), request)
            return 1
        return each(runner, request.what, possible, workflow, status, since, every, lambda one: ask_one(runner, one, request))


def each(  # noqa: PLR0913 - as above
    runner: "Runner",
    what: str,
    possible: tuple[RunStatus, ...],
    workflow: "Chosen",
    status: RunStatus | str | None,
    since: "Since",
    every: bool,
    do: Callable[[str], object],
) -> int:
    """Do something to each run that a filter chooses, and return how many. One that has changed meanwhile is left."""
    if status is None and workflow is None and since is None and not every:
        msg = (
            f"{what} of every run in the store needs all=True: or name a run, or a filter (status=, workflow=, since=)"
        )
        raise DefinitionError(msg)
    if since is not None and not isinstance(since, timedelta):
        moment(since, "since")
    done = 0
    for found in runner.runs(status=status, workflow=workflow, since=since):
        if found.status in possible:
            try:
                do(found.id)
            except BideError:
                continue
            done += 1
    return done
