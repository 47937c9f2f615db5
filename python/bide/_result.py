"""`RunResult` and `TaskResult`: the state of a run and of its tasks, to read."""

import copyreg
from collections.abc import Callable, Coroutine, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from bide import _core
from bide._context import Context
from bide._errors import DefinitionError, RunFailed, TaskFailed
from bide._events import Progress
from bide._status import RunStatus, SubStatus, TaskStatus
from bide._task import name_of
from bide._text import is_text, shown

if TYPE_CHECKING:
    from bide._plain_snapshot import PlainSnapshot

R = TypeVar("R")


class TaskResult(msgspec.Struct, frozen=True):
    """The state of one task of a run. Times are datetimes in UTC, `waited` is seconds spent deferred or gated.

    `progress` is what its body said last by `handle.progress`.
    """

    name: str
    status: TaskStatus
    sub_status: SubStatus | None
    attempts: int
    first_started_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    waited: float
    blocked_by: str | None
    error: TaskFailed | None
    progress: Progress | None


def _shown(text: str | None) -> str | None:
    return None if text is None else shown(text)


class _Tasks(Mapping[str, TaskResult]):
    """The tasks by name, each read when it is accessed."""

    __slots__ = ("_names", "_snapshot")

    def __init__(self, snapshot: "_core.Snapshot | PlainSnapshot") -> None:
        self._snapshot = snapshot
        self._names = _with_elements(snapshot)

    def __getitem__(self, name: str) -> TaskResult:
        row = self._snapshot.task(name) if is_text(name) else None
        if row is None:
            raise KeyError(name)
        progress = row.get("progress")  # rows in pickles of older versions have none
        status, failure, sub_status = TaskStatus(row["status"]), row["failure"], row["sub_status"]
        if status in {TaskStatus.Completed, TaskStatus.Skipped}:
            failure = None  # that of an earlier attempt, in rows of older versions
        return TaskResult(
            name=name,
            status=status,
            sub_status=None if sub_status is None else SubStatus(sub_status),
            attempts=row["attempts"],
            first_started_at=row["first_started_at"],
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            waited=row["waited"],
            blocked_by=_shown(row["blocked_by"]),
            error=None if failure is None else _task_failed(failure, name),
            progress=None if progress is None else Progress(*progress),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(dict(self))


class RunResult(Mapping[str, Any]):
    """The state of a run when this was created: `result[process_data]` is what that task returned.

    A task is named by its function, for whose return type type checkers take the value, or by its name.

    Attributes: `id`, `key`, `tags`, `parent`, `workflow`, `inputs`, `status`, `outputs` (by task), `context`, `tasks`
    (by name, see `TaskResult`), `error` (the first failure, or None), `blocked_by`, `started_at`, `ended_at`.
    """

    __slots__ = ("_cause", "_snapshot")

    def __init__(self, snapshot: "_core.Snapshot | PlainSnapshot", cause: BaseException | None = None) -> None:
        """Wrap a snapshot; `cause` is the original exception of the first failure, if available."""
        self._snapshot = snapshot
        self._cause = cause

    @property
    def id(self) -> str:
        """The run's id, a UUIDv7."""
        return self._snapshot.id

    @property
    def key(self) -> str | None:
        """The key that the caller gave."""
        return self._snapshot.key

    @property
    def parent(self) -> str | None:
        """The id of the run whose body has started this one with `handle.start`; None for any other."""
        # A pickle of an older version has none.
        parent: str | None = getattr(self._snapshot, "parent", None)
        return parent

    @property
    def tags(self) -> dict[str, str]:
        """The tags that the caller gave."""
        # A pickle of an older version has none.
        return dict(getattr(self._snapshot, "tags", None) or {})

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs by name, as the workflow's tasks read them."""
        return self._snapshot.decoded_inputs()

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self._snapshot.workflow

    @property
    def status(self) -> RunStatus:
        """The run's status."""
        return RunStatus(self._snapshot.status)

    @property
    def blocked_by(self) -> str | None:
        """Why an unfinished run does not continue; None if it does."""
        return _shown(self._snapshot.blocked_by)

    @property
    def outputs(self) -> dict[str, Any]:
        """What each completed task returned."""
        return {name: self[name] for name in self}

    @property
    def context(self) -> Context:
        """The context after the tasks' changes."""
        return Context._from_encoded(self._snapshot.context_values())

    @property
    def tasks(self) -> Mapping[str, TaskResult]:
        """Each task by name."""
        return _Tasks(self._snapshot)

    @property
    def error(self) -> TaskFailed | None:
        """The first committed failure; None if no task failed."""
        failure = self._snapshot.failure
        return None if failure is None else _task_failed(failure, self._first_failed())

    @property
    def started_at(self) -> datetime:
        """When the run was created."""
        return self._snapshot.started_at

    @property
    def ended_at(self) -> datetime | None:
        """When it ended."""
        return self._snapshot.ended_at

    def raise_for_status(self) -> "RunResult":
        """Raise `RunFailed` if the run failed or was cancelled; return this result otherwise."""
        return self._raise_for_status("")

    def _raise_for_status(self, child: str) -> "RunResult":
        """Do that; `child` names the run as its parent does."""
        status = self.status
        if status is not RunStatus.Failed and status is not RunStatus.Cancelled:
            return self
        errors = {name: task.error for name, task in self.tasks.items() if task.status is TaskStatus.Failed}
        first = self.error
        if status is RunStatus.Cancelled:
            message = f"{child}run {self.id} of workflow {self.workflow!r} was {self.blocked_by or 'cancelled'}"
        else:
            message = f"{child}run {self.id} of workflow {self.workflow!r} failed: {first}"
        failed = RunFailed(
            message, result=self, errors={name: error for name, error in errors.items() if error is not None}
        )
        raise failed from (self._cause or first)

    def _first_failed(self) -> str | None:
        snapshot = self._snapshot
        failure, elements = snapshot.failure, snapshot.elements()
        mapped = {name.rpartition("[")[0] for name in elements}
        # Of a mapped task the element is named, and not one that was allowed to fail: its failure is another.
        rows = [(name, snapshot.task(name)) for name in [*elements, *snapshot.names()]]
        failed = [
            (row["failure"] != failure, name in mapped, row["ended_at"], name)
            for name, row in rows
            if row is not None and row["status"] == TaskStatus.Failed and row["ended_at"]
        ]
        return min(failed)[-1] if failed else None

    @overload
    def __getitem__(self, task: str) -> Any: ...  # noqa: ANN401 - what the task returned
    @overload
    def __getitem__(self, task: Callable[..., Coroutine[Any, Any, R]]) -> R: ...
    @overload
    def __getitem__(self, task: Callable[..., R]) -> R: ...
    def __getitem__(self, task: str | Callable[..., Any]) -> Any:
        """Return what a task returned; raise `KeyError` if there is no such task or it has returned nothing (yet).

        A function stands for the task of its name, as in `depends_on=`.
        """
        name = task if isinstance(task, str) else _name_of(task)
        output = self._snapshot.output(name) if is_text(name) else None
        if name is None or output is None:
            msg = f"workflow {self.workflow!r} has no task {task if name is None else name!r}"
            raise KeyError(msg)
        if not output:
            raise KeyError(self._no_output(name))
        return output[0]

    def _no_output(self, name: str) -> str:
        """Return why a task has no return value."""
        snapshot, status = self._snapshot, self.tasks[name].status
        own = [one for one in snapshot.elements() if one.rpartition("[")[0] == name]
        there = [one for one in own if snapshot.output(one)]
        if status is not TaskStatus.Completed or not there:
            return f"task {name!r} has no return value: it is {status}"
        missing = next(one for one in own if one not in there)
        return (
            f"task {name!r} has no list of its outputs, because {missing} is {self.tasks[missing].status}: "
            f"take them one by one, such as result[{there[0]!r}]"
        )

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the tasks that completed."""
        snapshot = self._snapshot
        if isinstance(snapshot, _core.Snapshot):
            return (name for name in snapshot.names() if snapshot.output(name))
        return snapshot.completed()

    def __len__(self) -> int:
        """Count the tasks that completed."""
        return sum(1 for _ in self)

    def __reduce__(self) -> "tuple[type[RunResult], tuple[_core.Snapshot | PlainSnapshot]]":
        """Reduce to plain values, for a pickle. The original exception stays in its process."""
        return RunResult, (self._snapshot,)

    def __copy__(self) -> "RunResult":
        """Return the result itself: it never changes, and each access decodes its value anew."""
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> "RunResult":
        """Return the result itself, for the same reason."""
        return self

    def __repr__(self) -> str:
        """Show workflow, status and id."""
        return f"<RunResult of {self.workflow!r}: {self.status}, {self.id}>"


def _name_of(task: object) -> str | None:
    """Return the name of the task that a function stands for; None for what can be no task of a workflow."""
    try:
        return name_of(task)
    except DefinitionError:
        return None


def _with_elements(snapshot: "_core.Snapshot | PlainSnapshot") -> list[str]:
    """Return the names of the tasks, after each mapped one those of its elements."""
    names, elements = snapshot.names(), snapshot.elements()
    if not elements:
        return names
    of: dict[str, list[str]] = {}
    for name in elements:
        of.setdefault(name.rpartition("[")[0], []).append(name)
    return [one for name in names for one in (name, *of.get(name, ()))]


def _task_failed(failure: bytes, task: str | None) -> TaskFailed:
    from bide._stored_errors import task_failed  # noqa: PLC0415 - most results have no failure

    return task_failed(failure, task)


def _reduced(snapshot: "_core.Snapshot") -> tuple[Any, ...]:
    from bide._plain_snapshot import reduced  # noqa: PLC0415 - few results are copied or pickled

    return reduced(snapshot)


copyreg.pickle(_core.Snapshot, _reduced)
