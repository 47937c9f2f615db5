"""What continues runs otherwise than they were begun: `fork`, and `adopt` by changed code.

A fork is a new run that begins with recorded outcomes of another one. What it keeps is decided in Rust
(`core/src/run/fork.rs`); here values are encoded as the tasks would have.
"""

import contextvars
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from bide._codec import Codec
from bide._compiled import CompiledWorkflow
from bide._errors import BideError, DefinitionError, no_run
from bide._in_thread import twin
from bide._run_handle import RunHandle
from bide._text import check_text, is_text, listed

if TYPE_CHECKING:
    from bide._access import StoreAccess
    from bide._control import Chosen, Run
    from bide._core import Snapshot
    from bide._workflow import Workflow

    Encoded = list[tuple[str, bytes]]


class Forking(msgspec.Struct, frozen=True):
    """A fork, as the executor takes it."""

    run: str
    start_at: list[str]
    edit: "Encoded"
    inputs: "Encoded | None"
    """All inputs of the new run; None if they are those of the other one."""
    changed: list[tuple[str, str]]
    """The inputs that differ, each with a task that reads it."""
    by: str | None
    reason: str | None


class Repairs:
    """What a `Runner` can do for runs that cannot, or should not, continue as they are."""

    def fork(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        run: "Run",
        *,
        start_at: str | Iterable[str],
        inputs: Mapping[str, Any] | None = None,
        edit: Mapping[str, Any] | None = None,
        workflow: "Chosen" = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> RunHandle:
        """Start a new run that has the recorded outcomes of another one, and return a handle of it.

        The task `start_at` (or each of several) and all that depends on it are done again; so is what the other run
        has not ended. Every other task keeps what it came to. `edit` replaces outputs that are kept, by name; `inputs`
        replaces inputs, which only tasks that are done again may read. Tags and priority are copied; journals,
        signals, child runs and the key are not. The other run stays as it is, in whatever state. The workflow has to be
        known here: registered, or passed as `workflow`. The new run of a client begins where a runner has its workflow.
        """
        runner = cast("StoreAccess", self)
        found = runner._find_run(run, workflow)
        snapshot = runner._snapshot(found)
        code = _code(runner, snapshot, workflow)
        compiled = code._compiled()
        by = None if by is None else check_text(by, "by")
        reason = None if reason is None else check_text(reason, "reason")
        outputs = _outputs(compiled, edit)
        merged, changed = (None, []) if inputs is None else _inputs(compiled, snapshot, inputs)
        asked = Forking(found, _names(start_at), outputs, merged, changed, by, reason)
        core = runner._core_workflow(code)
        return runner._handle(runner._core.fork(core, asked, contextvars.copy_context()), None)

    def adopt(
        self,
        run: "Run",
        workflow: "Workflow",
        *,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Have a run continue with a workflow that does not fit it, because you vouch for that.

        For a run that no deployed code fits, or that failed or was cancelled and is to be retried with changed code.
        Its tasks are found by their names, and what they have recorded is kept; what is recorded of tasks that the
        workflow does not have is deleted. Refused if a runner executes the run, and if the workflow lacks a task that
        has not ended. Who and why stand in the history.
        """
        runner = cast("StoreAccess", self)
        found = runner._find_run(run, None)
        by = None if by is None else check_text(by, "by")
        reason = None if reason is None else check_text(reason, "reason")
        outcome, tasks = runner._core.adopt(runner._core_workflow(workflow), found, by, reason)
        if outcome == "no run":
            raise KeyError(no_run(found))
        if outcome != "adopted":
            raise BideError(_not_adopted(found, workflow, outcome, tasks))

    fork_async = twin(fork)
    adopt_async = twin(adopt)


def _not_adopted(run: str, workflow: "Workflow", outcome: str, tasks: list[str]) -> str:
    if outcome == "completed":
        return f"run {run} has completed: there is nothing to continue; runner.fork(run, start_at=...) begins a new one"
    if outcome == "executed":
        return f"run {run} is executed by a runner, whose code it fits: adopt it after that one was closed"
    if outcome == "key taken":
        return f"another run of workflow {workflow.name!r} has the key of run {run}"
    names = listed(tasks)
    return (
        f"workflow {workflow.name!r} cannot continue run {run}: it lacks {names}, or maps otherwise what has not ended"
        ": add that again, say by renamed= what it is called now, or end the run by runner.cancel(run, force=True)"
    )


def _code(runner: "StoreAccess", snapshot: "Snapshot", workflow: "Chosen") -> "Workflow":
    if workflow is not None and not isinstance(workflow, str):
        return workflow
    known = runner._workflows.get(snapshot.workflow)
    if known is None:
        msg = (
            f"run {snapshot.id} is of workflow {snapshot.workflow!r}, which this {type(runner).__name__.lower()} does "
            "not have: pass it, fork(run, workflow=..., start_at=...)"
        )
        raise BideError(msg)
    return known[0]


def _names(start_at: str | Iterable[str]) -> list[str]:
    names = [start_at] if isinstance(start_at, str) or not isinstance(start_at, Iterable) else list(start_at)
    for name in names:
        if not isinstance(name, str) or not is_text(name):
            msg = f"fork: start_at is the name of a task, or a list of names, not {name!r}"
            raise DefinitionError(msg)
    if not names:
        msg = "fork: start_at names no task: say from where the new run is to be done again"
        raise DefinitionError(msg)
    return names


def _outputs(compiled: CompiledWorkflow, edit: Mapping[str, Any] | None) -> "Encoded":
    """Return outputs as their tasks would have stored them."""
    if edit is None:
        return []
    if not isinstance(edit, Mapping):
        msg = f"fork: edit is a dict of outputs by the names of their tasks, not {edit!r}"
        raise DefinitionError(msg)
    tasks = {one.name: one for one in compiled.tasks}
    encoded: Encoded = []
    for name, value in edit.items():
        if not isinstance(name, str) or not is_text(name):
            msg = f"fork: edit has outputs by the names of their tasks, not by {name!r}"
            raise DefinitionError(msg)
        task = tasks.get(name)
        if task is None:
            task = tasks.get(name.rpartition("[")[0])
        elif task.map is not None:
            task = None  # refused for that
        codec = Codec(where=f"edit of {name!r}", root="value") if task is None else task.returns
        encoded.append((name, codec.encode(None if task is None else value)))
    return encoded


def _inputs(
    compiled: CompiledWorkflow, snapshot: "Snapshot", given: Mapping[str, Any]
) -> "tuple[Encoded, list[tuple[str, str]]]":
    """Return all inputs of the new run, and those that differ, each with every task that reads it."""
    recorded = {name: data for name, data in snapshot.inputs() if name in compiled.inputs or compiled.wants_context}
    compiled.check_names({**dict.fromkeys(recorded), **given} if isinstance(given, Mapping) else given)
    new = {name: compiled.plan(name).encode(value) for name, value in given.items()}
    changed: list[tuple[str, str]] = []
    for name, data in new.items():
        if name not in recorded or not compiled.plan(name).same(recorded[name], data):
            changed += [(name, task) for task in compiled.readers(name)]
    return list({**recorded, **new}.items()), changed
