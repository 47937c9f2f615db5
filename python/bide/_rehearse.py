"""`rehearse`: whether code fits the unfinished runs of a store, found out on a copy of the store."""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bide._errors import DefinitionError, StoreError
from bide._mentions import Mentions, mentions
from bide._result import RunResult, TaskResult
from bide._status import RunStatus, TaskStatus
from bide._test_runner import Runner
from bide._text import shown_store
from bide._workflow import Workflow

COPY = Path(__file__).with_name("_copy_store.py")
RECORDS = {"wait opened", "step recorded", "step failed", "child started"}


class Rehearsed(NamedTuple):
    """What `rehearse` has found out about one unfinished run."""

    run: str
    key: str | None
    workflow: str
    problems: tuple[str, ...]
    """Why the code does not fit it; empty if it does."""
    waits: tuple[str, ...]
    """What its tasks wait for, and ask again."""
    enters: tuple[str, ...]
    """The tasks whose bodies the code would enter at once."""
    doubts: tuple[str, ...]
    """Recorded steps and waits that the code does not seem to mention: what is called otherwise now is done again. Code
    that makes names at run time may use them all the same, so these do not count in `fits`."""

    @property
    def fits(self) -> bool:
        """Whether the code fits."""
        return not self.problems

    def __str__(self) -> str:
        """Show the run and what was found."""
        told = [
            *(f"does not fit: {one}" for one in self.problems),
            *self.doubts,
            *self.waits,
            *(f"enters {one}" for one in self.enters),
        ]
        return f"run {self.run} of {self.workflow!r}: {'; '.join(told) or 'fits'}"


class Rehearsal(NamedTuple):
    """What `rehearse` has found out."""

    runs: tuple[Rehearsed, ...]

    @property
    def fits(self) -> bool:
        """Whether the code fits every unfinished run."""
        return all(run.fits for run in self.runs)

    def __str__(self) -> str:
        """Show each run on a line."""
        return "\n".join(map(str, self.runs)) or "there is no unfinished run"


def rehearse(store: str | os.PathLike[str], workflows: Iterable[Workflow], *, execute: bool = False) -> Rehearsal:
    """Find out whether workflows fit the unfinished runs of a store, on a copy of it; the store is not changed.

    Each run is claimed by its recorded graph, its inputs, outputs and context are decoded, and the arguments of each
    body that would be entered. The names in its journal are looked for in the code. No body and no condition executes,
    unless `execute=True`: then those that would continue at once do, up to their next wait, so that a step which does
    not match its record is found, too. (A body that waits for a message or a time continues when that has come.)
    """
    name = os.fspath(store).removeprefix("sqlite:///")
    path = Path(name)
    if not path.is_file():
        msg = f"rehearse takes the path of a store, and there is no file {shown_store(name)!r}"
        raise DefinitionError(msg)
    chosen = list(workflows)
    with tempfile.TemporaryDirectory(prefix="bide-rehearsal-") as folder:
        copy = Path(folder) / "copy.db"
        copy.touch(mode=0o600)
        done = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-I", COPY, path, copy], capture_output=True, text=True, check=False
        )
        if done.returncode:
            why = done.stderr.strip().rpartition("\n")[2]
            msg = f"the store {str(path)!r} could not be copied: {why}"
            raise StoreError(msg)
        runner = Runner(copy, start=datetime.now(UTC), retention=None)
        try:
            return _rehearse(runner, chosen, execute=execute)
        finally:
            # Nothing of the copy is kept.
            runner.effects.stop()
            runner.crash()


def _rehearse(runner: Runner, workflows: list[Workflow], *, execute: bool) -> Rehearsal:
    unfinished = [run for run in runner.runs() if run.ended_at is None]
    if not execute:
        runner._stubs.put_everywhere("task", _enter)
        runner._stubs.put_everywhere("condition", False)  # noqa: FBT003 - the answer
    for workflow in workflows:
        runner.register(workflow)
    runner.run_until_waiting()
    by_name = {workflow.name: workflow for workflow in workflows}
    return Rehearsal(tuple(_found(runner, run, by_name.get(run.workflow)) for run in reversed(unfinished)))


class _Entered(BaseException):
    """What a body raises that is not to execute."""


def _enter(*_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - those of any body
    raise _Entered


def _is_entered(task: TaskResult) -> bool:
    return task.error is not None and task.error.type.endswith(_Entered.__qualname__)


def _found(runner: Runner, before: RunResult, workflow: Workflow | None) -> Rehearsed:
    now = runner.get(before.id)
    problems = [*_unreadable(before), *_misfits(before, now)]
    waits = tuple(
        f"task {name!r} {task.blocked_by}"
        for name, task in now.tasks.items()
        if task.ended_at is None and task.blocked_by is not None and not _is_entered(task)
    )
    enters = tuple(name for name, task in now.tasks.items() if _is_entered(task))
    doubts = () if workflow is None else tuple(_doubts(runner, now, workflow))
    return Rehearsed(now.id, now.key, now.workflow, tuple(problems), waits, enters, doubts)


def _doubts(runner: Runner, run: RunResult, workflow: Workflow) -> Iterable[str]:
    """Yield the names in the journals of unfinished tasks that the code does not mention."""
    recorded = {
        (entry.task, entry.name): None
        for entry in runner.history(run.id)
        if entry.task is not None and entry.name is not None and entry.what in RECORDS
    }
    read: dict[str, Mentions] = {}
    for task, name in recorded:
        code = workflow.tasks.get(task.partition("[")[0])
        state = run.tasks.get(task)
        if code is None or state is None or (state.ended_at is not None and not _is_entered(state)):
            continue
        found = read.get(task) or read.setdefault(task, mentions(code))
        if not found.may_be(name):
            yield (
                f"task {task!r} has recorded {name!r}, which its code does not mention: if it is called otherwise now, "
                "it is done again"
            )


def _misfits(before: RunResult, now: RunResult) -> Iterable[str]:
    was_paused = before.status is RunStatus.Paused and before.blocked_by == now.blocked_by
    if now.blocked_by is not None and not was_paused:
        yield now.blocked_by
    for name, task in now.tasks.items():
        was = before.tasks.get(name)
        is_new = was is None or was.status is not TaskStatus.Failed
        if task.status is TaskStatus.Failed and is_new and not _is_entered(task):
            yield str(task.error)


def _unreadable(run: RunResult) -> Iterable[str]:
    reads: list[tuple[str, Callable[[], object]]] = [
        ("its inputs", lambda: run.inputs),
        ("its context", lambda: dict(run.context)),
    ]
    # A mapped task of which an element has no output has none either.
    partial = {name.rpartition("[")[0] for name, task in run.tasks.items() if task.status is not TaskStatus.Completed}
    for name, task in run.tasks.items():
        if task.status is TaskStatus.Completed and name not in partial:
            reads.append((f"the output of task {name!r}", functools.partial(run.__getitem__, name)))
    for what, read in reads:
        try:
            read()
        except Exception as error:  # noqa: BLE001 - whatever a class of the user's raises
            yield f"{what} cannot be read: {error}"
