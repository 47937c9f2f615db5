"""`Workflow`: a named, validated graph of tasks, and its compiled form, which the executor reads.

A workflow is compiled when it is made from tasks (so that a mistake shows where it was made), again after
`@workflow.task` has added one, and frozen at its first use. The graph itself, its order and its version are the core's
(`_core.Graph`); how it is drawn is in `_draw.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, ParamSpec, TypeVar, overload

import msgspec

from bide import _core, _draw
from bide._bind import Binding, InputParam, bind, check_defaults, nearest, with_writers
from bide._codec import REFUSE_ABOVE, SCALAR_TAGS, WARN_ABOVE, Codec
from bide._errors import DefinitionError, SerializationError, not_picklable
from bide._retry import Retry
from bide._scalars import encode_scalar
from bide._task import ATTRIBUTE, TaskDef, as_task, check_name, task
from bide._text import is_text, shown
from bide._waits import Until, Wait

P = ParamSpec("P")
R = TypeVar("R")


class CompiledTask(NamedTuple):
    """A task as the executor reads it."""

    name: str
    fn: Callable[..., Any]
    binding: Binding
    returns: Codec
    dependencies: tuple[str, ...]
    run_if: str
    retry: Retry | None
    timeout: float | None
    gate: Wait | None
    gate_binding: Binding | None
    """Where the arguments of the gate's condition come from; None for a gate without one."""


class InputPlan(msgspec.Struct, frozen=True):
    """How one run input is stored: in the form that every reader of it takes, whatever their order."""

    readers: tuple[tuple[str, InputParam], ...]
    """The name of each task that reads it, and how."""
    plain: Codec
    fast: frozenset[int]
    """First bytes of the values that every reader takes as they are."""
    required_by: str | None

    def encode(self, value: object) -> bytes:
        """Return a value's stored bytes. A scalar is stored as itself, so that a str will do for a Path."""
        data = encode_scalar(value)
        if data is not None and data[0] in self.fast and len(data) <= WARN_ABOVE:
            return data
        if not self.readers:
            return self.plain.encode(value)
        forms: set[bytes] = set()
        asked: list[object] = []
        for task_name, parameter in self.readers:
            if parameter.codec.annotation in asked:
                continue
            asked.append(parameter.codec.annotation)
            try:
                if data is None:
                    forms.add(parameter.codec.encode_any_size(value))
                else:
                    parameter.codec.decode(data)
            except SerializationError as problem:
                msg = f"{self.plain.where} is not what task {task_name!r} takes: {problem}"
                raise SerializationError(msg) from None
        return self.plain.check_size(self._chosen(forms) if data is None else data)

    def _chosen(self, forms: set[bytes]) -> bytes:
        if len(forms) > 1:
            readers = _list(name for name, _ in self.readers)
            msg = f"{self.plain.where} is stored in another form by each annotation of the tasks {readers}: use one"
            raise SerializationError(msg)
        return forms.pop()

    def same(self, one: bytes, other: bytes) -> bool:
        """Whether two encoded values are equal to every reader: dicts and sets may be stored in any order."""
        from bide._canonical import canonical  # noqa: PLC0415 - for inputs under a key that are encoded differently

        codecs = [parameter.codec for _, parameter in self.readers] or [self.plain]
        try:
            return one == other or all(
                canonical(codec.decode(one), REFUSE_ABOVE) == canonical(codec.decode(other), REFUSE_ABOVE)
                for codec in codecs
            )
        except Exception:  # noqa: BLE001 - the recorded one may not fit any more, the user's own types may raise
            return False


class CompiledWorkflow(msgspec.Struct, frozen=True):
    """A workflow as the executor reads it."""

    name: str
    description: str | None
    fail_fast: bool
    tasks: tuple[CompiledTask, ...]
    graph: "_core.Graph"
    inputs: Mapping[str, InputPlan]
    """Each input that a parameter names."""
    required: frozenset[str]
    wants_context: bool

    def encode_inputs(self, inputs: Mapping[str, Any] | None) -> list[tuple[str, bytes]]:
        """Return a run's inputs as stored bytes, after checking that they are what the tasks want."""
        given: Mapping[str, Any] = {} if inputs is None else inputs
        if type(given) is not dict or not self.required <= given.keys() <= self.inputs.keys():
            self._check_names(given)
        plans = self.inputs
        return [(name, (plans.get(name) or self._unnamed(name)).encode(value)) for name, value in given.items()]

    def same_inputs(self, recorded: Iterable[tuple[str, bytes]], given: Iterable[tuple[str, bytes]]) -> bool:
        """Whether two runs have equal inputs."""
        one, other = dict(recorded), dict(given)
        plans = {name: self.inputs.get(name) or self._unnamed(name) for name in one}
        return one.keys() == other.keys() and all(plans[name].same(one[name], other[name]) for name in one)

    def _unnamed(self, name: str) -> InputPlan:
        """Return how an input is stored that only the Context shows."""
        return _plan(self.name, name, ())

    def _check_names(self, given: Mapping[str, Any]) -> None:
        what = f"workflow {self.name!r}"
        if not isinstance(given, Mapping):
            msg = f"{what}: inputs must be a mapping of names to values, not {type(given).__name__}"
            raise DefinitionError(msg)
        tasks = [one.name for one in self.tasks]
        for name in given:
            if not isinstance(name, str):
                msg = f"{what}: the names of inputs are str, not {name!r}"
                raise DefinitionError(msg)
            if not is_text(name):
                msg = f"{what}: an input is named {name!r}, which has a lone surrogate and is not text"
                raise DefinitionError(msg)
            if name in tasks:
                msg = f"{what}: the input {name!r} has the name of a task, whose return value goes by it: rename one"
                raise DefinitionError(msg + self._suggest(name, given))
            if name not in self.inputs and not self.wants_context:
                close = self._suggest(name, given)
                msg = f"{what}: nothing takes the input {name!r}{close} (inputs: {_list(self.inputs)})"
                raise DefinitionError(msg)
        for name, plan in self.inputs.items():
            if plan.required_by is not None and name not in given:
                close = nearest(name, [one for one in given if one not in self.inputs] + tasks)
                had = f"{close} (inputs given: {_list(given)}; tasks: {_list(tasks)})"
                msg = f"{what}: task {plan.required_by!r} needs {name!r}, neither an input of this run nor a task{had}"
                raise DefinitionError(msg)

    def _suggest(self, name: str, given: Mapping[str, Any]) -> str:
        return nearest(name, [one for one in self.inputs if one not in given] or self.inputs)


class Workflow:
    """A named graph of tasks: `Workflow("ingest", [wait_for_data, process_data])`.

    With `fail_fast`, a failure skips what has not started. `@workflow.task` adds a task until the first use; the tasks
    given at once must be a whole graph by themselves.
    """

    def __init__(
        self,
        name: str,
        tasks: Iterable[Callable[..., Any]] = (),
        *,
        description: str | None = None,
        fail_fast: bool = False,
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
    def tasks(self) -> Mapping[str, Callable[..., Any]]:
        """The functions by the names of their tasks, in the order they were given."""
        return MappingProxyType({name: one.fn for name, one in self._definitions.items()})

    @property
    def roots(self) -> list[str]:
        """The tasks that depend on nothing."""
        return list(self._compiled().graph.roots)

    @property
    def leaves(self) -> list[str]:
        """The tasks that nothing depends on."""
        return list(self._compiled().graph.leaves)

    @property
    def levels(self) -> list[list[str]]:
        """The tasks by their distance from the roots."""
        return [list(level) for level in self._compiled().graph.levels]

    @property
    def version(self) -> str:
        """A stable hash of the graph. The code of the bodies is not part of it."""
        return self._compiled().graph.version

    def topological_sort(self) -> list[str]:
        """Return the tasks so that each comes after what it depends on; ties as they were given."""
        return list(self._compiled().graph.topological_sort())

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
        return _draw.mermaid(self._edges())

    def _repr_html_(self) -> str:
        """Return the graph as an SVG, for notebooks."""
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
        definitions = self._definitions
        bindings = {name: bind(one.fn, name, definitions) for name, one in definitions.items()}
        gates = {
            name: bind(one.gate.condition, name, definitions, condition=True)
            for name, one in definitions.items()
            if isinstance(one.gate, Until)
        }
        dependencies = {name: self._dependencies(name, bindings[name], gates.get(name)) for name in definitions}
        edges = [(name, list(dependencies[name]), one.run_if) for name, one in definitions.items()]
        graph = _core.Graph(self._name, edges)
        tasks: list[CompiledTask] = []
        for name, one in definitions.items():
            binding, gate = self._finish(one, bindings[name], bindings, f"task {name!r}"), gates.get(name)
            if gate is not None:
                gate = self._finish(one, gate, bindings, f"the gate of task {name!r}")
            rules = (one.run_if, one.retry, one.timeout, one.gate)
            tasks.append(CompiledTask(name, one.fn, binding, binding.returns, dependencies[name], *rules, gate))
        inputs = _collect_inputs(self._name, tasks)
        self._cached = CompiledWorkflow(
            name=self._name,
            description=self._description,
            fail_fast=self._fail_fast,
            tasks=tuple(tasks),
            graph=graph,
            inputs=inputs,
            required=frozenset(name for name, plan in inputs.items() if plan.required_by is not None),
            wants_context=any(binding.wants_context for binding in (*bindings.values(), *gates.values())),
        )
        return self._cached

    def _dependencies(self, name: str, binding: Binding, gate: Binding | None) -> tuple[str, ...]:
        bound = binding.dependencies if gate is None else (*binding.dependencies, *gate.dependencies)
        said = self._definitions[name].depends_on
        if not bound and not said:
            return ()
        for other in said:
            if other not in self._definitions:
                close = f"{nearest(other, self._definitions)} (tasks: {_list(self._definitions)})"
                msg = f"{self._what}: task {name!r} depends on {other!r}, and no task has that name{close}"
                raise DefinitionError(msg)
        return tuple(dict.fromkeys((*bound, *said)))

    @staticmethod
    def _finish(one: TaskDef, binding: Binding, bindings: dict[str, Binding], where: str) -> Binding:
        if not binding.dependencies:
            return binding
        if one.run_if != "succeeded":
            check_defaults(binding, binding.dependencies, where)
        writers = {name: bindings[name].returns for name in binding.dependencies}
        return with_writers(binding, writers, where)

    def _edges(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(one.name, one.dependencies) for one in self._compiled().tasks]


def _collect_inputs(workflow: str, tasks: Iterable[CompiledTask]) -> Mapping[str, InputPlan]:
    found: dict[str, list[tuple[str, InputParam]]] = {}
    for one in tasks:
        for binding in (one.binding, one.gate_binding):
            for parameter in binding.inputs if binding is not None else ():
                found.setdefault(parameter.name, []).append((one.name, parameter))
    return MappingProxyType({name: _plan(workflow, name, tuple(readers)) for name, readers in found.items()})


def _plan(workflow: str, name: str, readers: tuple[tuple[str, InputParam], ...]) -> InputPlan:
    fast = set(SCALAR_TAGS)
    for _, parameter in readers:
        fast &= set(parameter.codec.fast)
    return InputPlan(
        readers=readers,
        plain=Codec(where=f"input {name!r} of workflow {workflow!r}", root="value"),
        fast=frozenset(map(ord, fast)),
        required_by=next((task_name for task_name, parameter in readers if parameter.required), None),
    )


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(shown, names)) or "none"
