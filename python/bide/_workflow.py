"""`Workflow`: a named, validated graph of tasks.

A workflow is compiled (`_compiled.py`) when it is made from tasks, so that a mistake shows where it was made, again
after `@workflow.task` has added one, and frozen at its first use. Its order and its version are the core's
(`_core.Workflow`); how it is drawn is in `_draw.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

from bide._compiled import CompiledWorkflow, compile_workflow
from bide._duration import optional_seconds
from bide._errors import DefinitionError, not_picklable
from bide._signals import declared
from bide._task import ATTRIBUTE, TaskDef, as_task, check_name, task
from bide._text import check_text, shown

if TYPE_CHECKING:
    from bide._waits import Duration

P = ParamSpec("P")
R = TypeVar("R")


class Workflow:
    """A named graph of tasks: `Workflow("ingest", [wait_for_data, process_data])`.

    `signals` lists what its runs understand, names or `bide.signal` values: sending them anything else is refused.
    With `fail_fast`, a failure skips what has not started.
    `timeout`, seconds or a `timedelta`, is the deadline of each run, counted from when it begins: what has not ended by
    then fails, waits included. `renamed` says what tasks were called before, `{"old": "new"}`, so that unfinished runs
    of older code continue with what they have recorded. `@workflow.task` adds a task until the first use; the tasks
    given at once must be a whole graph by themselves.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        name: str,
        tasks: Iterable[Callable[..., Any]] = (),
        *,
        description: str | None = None,
        fail_fast: bool = False,
        signals: Iterable[object] | None = None,
        timeout: Duration | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        """Take the tasks, decorated or plain functions, in any order."""
        self._name = check_name(name, "a workflow")
        self._what = f"workflow {name!r}"
        if description is not None and not isinstance(description, str):
            msg = f"{self._what}: description must be a text, not {description!r}"
            raise DefinitionError(msg)
        if not isinstance(fail_fast, bool):
            msg = f"{self._what}: fail_fast must be True or False, not {fail_fast!r}"
            raise DefinitionError(msg)
        if callable(tasks) or isinstance(tasks, (str, bytes)) or not isinstance(tasks, Iterable):
            msg = f"{self._what}: tasks must be a list of functions, not {tasks!r}"
            raise DefinitionError(msg)
        self._description = description
        self._fail_fast = fail_fast
        self._signals = None if signals is None else declared(signals, self._what)
        self._timeout = optional_seconds(timeout, f"{self._what}: timeout")
        self._renamed = _check_renamed(renamed, self._what)
        self._definitions: dict[str, TaskDef] = {}
        self._cached: CompiledWorkflow | None = None
        self._frozen = False
        for one in tasks:
            self._add(one)
        if self._definitions:
            self._compile()

    @property
    def name(self) -> str:
        """The name that runs are recorded under."""
        return self._name

    @property
    def description(self) -> str | None:
        """What it is for, as it was given."""
        return self._description

    @property
    def fail_fast(self) -> bool:
        """Whether a failure skips what has not started."""
        return self._fail_fast

    @property
    def timeout(self) -> float | None:
        """How many seconds a run may take; None for no limit."""
        return self._timeout

    @property
    def tasks(self) -> Mapping[str, Callable[..., Any]]:
        """The functions by the names of their tasks, in the order they were given."""
        return MappingProxyType({name: one.fn for name, one in self._definitions.items()})

    @property
    def roots(self) -> list[str]:
        """The tasks that depend on nothing."""
        return list(self._compiled().core.roots)

    @property
    def leaves(self) -> list[str]:
        """The tasks that nothing depends on."""
        return list(self._compiled().core.leaves)

    @property
    def levels(self) -> list[list[str]]:
        """The tasks by their distance from the roots."""
        return [list(level) for level in self._compiled().core.levels]

    @property
    def version(self) -> str:
        """A stable hash of the graph. The code of the bodies is not part of it."""
        return self._compiled().core.version

    def topological_sort(self) -> list[str]:
        """Return the tasks so that each comes after what it depends on; ties as they were given."""
        return list(self._compiled().core.topological_sort())

    @overload
    def task(self, fn: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def task(self, /, **settings: Any) -> Callable[[Callable[P, R]], Callable[P, R]]: ...  # noqa: ANN401 - those of task
    def task(self, fn: Callable[P, R] | None = None, /, **settings: Any) -> Any:
        """Decorate a function like `bide.task` and add it to this workflow."""
        if fn is None:
            return partial(self._decorate, settings)
        return self._decorate(settings, fn)

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        from bide import _draw  # noqa: PLC0415 - few workflows are drawn

        return _draw.mermaid(self._edges())

    def _repr_html_(self) -> str:
        """Return the graph as an SVG, for notebooks."""
        from bide import _draw  # noqa: PLC0415 - few workflows are drawn

        return _draw.svg(self._name, self.levels, self._edges())

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = "Workflow"
        raise not_picklable(what, "import it in the other process")

    def __repr__(self) -> str:
        """Show name and tasks."""
        return f"<Workflow {self._name!r}: {', '.join(map(shown, self._definitions)) or 'no tasks yet'}>"

    # --- building --------------------------------------------------------------------------------------------------

    def _decorate(self, settings: dict[str, Any], fn: Callable[P, R]) -> Callable[P, R]:
        # A task as it is, say one that another workflow has too, keeps its own settings.
        known = not settings and isinstance(getattr(fn, ATTRIBUTE, None), TaskDef)
        decorated: Callable[P, R] = fn if known else task(**settings)(fn)
        self._add(decorated)
        return decorated

    def _add(self, one: object) -> None:
        if not callable(one):
            msg = f"{self._what}: a task must be callable, not {one!r}"
            raise DefinitionError(msg)
        definition = as_task(one)
        if self._frozen:
            msg = f"{self._what} is in use already: add task {definition.name!r} before its first use"
            raise DefinitionError(msg)
        if definition.name in self._definitions:
            msg = f"{self._what} has two tasks named {definition.name!r}: give one another name with name="
            raise DefinitionError(msg)
        self._definitions[definition.name] = definition
        self._cached = None

    def _compiled(self) -> CompiledWorkflow:
        """Return the compiled form and freeze the workflow: this is its first use."""
        compiled = self._cached or self._compile()
        self._frozen = True
        return compiled

    def _compile(self) -> CompiledWorkflow:
        self._cached = compile_workflow(
            self._name,
            self._definitions,
            fail_fast=self._fail_fast,
            signals=None if self._signals is None else tuple(one.name for one in self._signals),
            timeout=self._timeout,
            renamed=self._renamed,
        )
        return self._cached

    def _edges(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(one.name, one.dependencies) for one in self._compiled().tasks]


def _check_renamed(renamed: Mapping[str, str] | None, what: str) -> tuple[tuple[str, str], ...]:
    if renamed is None:
        return ()
    if not isinstance(renamed, Mapping):
        msg = f'{what}: renamed is a dict of old names and new ones, such as {{"load": "fetch"}}, not {renamed!r}'
        raise DefinitionError(msg)
    for name in (*renamed, *renamed.values()):
        check_text(name, f"{what}: a name in renamed")
    return tuple(renamed.items())
