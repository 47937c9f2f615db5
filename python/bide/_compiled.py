"""A workflow in the form that the executor reads: each parameter bound, each annotation compiled, the graph validated.

`compile_workflow` makes it from what was declared. A `CompiledTask` crosses into Rust once, as one value that is read
by position (`rust/py/src/workflow.rs`): the order of the fields here is the order there.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from bide import _core
from bide._bind import Binding, bind, check_defaults, check_types, gate_parameters, nearest, with_writers
from bide._codec import Codec
from bide._elements import MappedTasks
from bide._errors import DefinitionError
from bide._inputs import InputPlan, collect, plan_of
from bide._limits import Limit
from bide._map import CompiledMap
from bide._retry import Retry
from bide._signals import Request, Signal
from bide._task import TaskDef
from bide._text import is_text, listed
from bide._waits import Wait, callables, leaves


class CompiledTask(msgspec.Struct, frozen=True):
    """A task as the executor reads it."""

    name: str
    fn: Callable[..., Any]
    binding: Binding
    """Where the arguments of the body come from."""
    returns: Codec
    """How its return value is stored."""
    dependencies: tuple[str, ...]
    """The tasks that come before it, each once."""
    run_if: str
    retry: Retry | None
    timeout: float | None
    """Seconds that an attempt may execute."""
    gate: Wait | None
    gate_bindings: tuple[Binding, ...]
    """Where the arguments of what the gate calls come from."""
    map: CompiledMap | None
    """What it is mapped over; None if it is not mapped."""
    gathers_limit: tuple[tuple[str, ...], Limit | None]
    """The mapped tasks of which it takes what all elements came to, failures included; and its limit."""


class CompiledWorkflow(msgspec.Struct, frozen=True):
    """A workflow as the executor reads it."""

    name: str
    fail_fast: bool
    tasks: tuple[CompiledTask, ...]
    core: "_core.Workflow"
    """The same tasks as the executor has them, and their graph."""
    inputs: Mapping[str, InputPlan]
    """Each input that a parameter names."""
    required: frozenset[str]
    """The inputs that every run must be given."""
    wants_context: bool
    """Whether a task sees the Context, and with it inputs that no parameter names."""

    def encode_inputs(self, inputs: Mapping[str, Any] | None) -> list[tuple[str, bytes]]:
        """Return a run's inputs as stored bytes, after checking that they are what the tasks want."""
        given: Mapping[str, Any] = {} if inputs is None else inputs
        if type(given) is not dict or not self.required <= given.keys() <= self.inputs.keys():
            self.check_names(given)
        return [(name, self.plan(name).encode(value)) for name, value in given.items()]

    def same_inputs(self, recorded: Iterable[tuple[str, bytes]], given: Iterable[tuple[str, bytes]]) -> bool:
        """Whether two runs have equal inputs."""
        one, other = dict(recorded), dict(given)
        return one.keys() == other.keys() and all(self.plan(name).same(one[name], other[name]) for name in one)

    def plan(self, name: str) -> InputPlan:
        """Return how an input is stored, also one that only the Context shows."""
        return self.inputs.get(name) or plan_of(self.name, name, ())

    def readers(self, name: str) -> list[str]:
        """Return the tasks that read an input, or may: the Context shows all of them."""
        plan = self.inputs.get(name)
        named = [] if plan is None else [task for task, _ in plan.readers]
        return named + [task for task, binding in _readers(self.tasks) if binding.wants_context]

    def check_names(self, given: Mapping[str, Any]) -> None:
        """Refuse inputs that the tasks do not take, and a lack of those that they need."""
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
                msg = f"{what}: nothing takes the input {name!r}{close} (inputs: {listed(self.inputs)})"
                raise DefinitionError(msg)
        for name, plan in self.inputs.items():
            if plan.required_by is not None and name not in given:
                close = nearest(name, [one for one in given if one not in self.inputs] + tasks)
                had = f"{close} (inputs given: {listed(given)}; tasks: {listed(tasks)})"
                msg = f"{what}: task {plan.required_by!r} needs {name!r}, neither an input of this run nor a task{had}"
                raise DefinitionError(msg)

    def _suggest(self, name: str, given: Mapping[str, Any]) -> str:
        return nearest(name, [one for one in self.inputs if one not in given] or self.inputs)


def compile_workflow(
    name: str,
    definitions: Mapping[str, TaskDef],
    *,
    fail_fast: bool,
    signals: tuple[str, ...] | None = None,
    timeout: float | None = None,
    renamed: tuple[tuple[str, str], ...] = (),
) -> CompiledWorkflow:
    """Return the compiled form of a workflow of these tasks; a `DefinitionError` names what is wrong with them."""
    bindings = {task: bind(one.fn, task, definitions) for task, one in definitions.items()}
    gates = {
        task: tuple([bind(called, task, definitions, of=one.fn) for called in callables(one.gate)])
        for task, one in definitions.items()
        if one.gate is not None
    }
    mapped = MappedTasks(definitions, bindings)
    tasks = tuple(
        [
            _compile_task(name, one, definitions, bindings, gates.get(task, ()), mapped)
            for task, one in definitions.items()
        ]
    )
    core = _core.Workflow(name, fail_fast, tasks, None if signals is None else list(signals), timeout, renamed)
    readers = _readers(tasks)
    inputs = collect(name, readers)
    for one in tasks:
        if (limit := one.gathers_limit[1]) is not None:
            _check_limit(name, one, limit, definitions, inputs)
    return CompiledWorkflow(
        name=name,
        fail_fast=fail_fast,
        tasks=tasks,
        core=core,
        inputs=MappingProxyType(inputs),
        required=frozenset(name for name, plan in inputs.items() if plan.required_by is not None),
        wants_context=any(binding.wants_context for _, binding in readers),
    )


def _check_limit(
    workflow: str, one: CompiledTask, limit: Limit, definitions: Mapping[str, TaskDef], inputs: Mapping[str, InputPlan]
) -> None:
    """Refuse a key of a limit that has no value when the task starts."""
    key, what = limit.key, f"workflow {workflow!r}: task {one.name!r}: the key of limit {limit.name!r} is"
    if key is None or key in inputs:
        return
    if key not in definitions:
        close = f"{nearest(key, [*inputs, *definitions])} (inputs: {listed(inputs)}; tasks: {listed(definitions)})"
        msg = f"{what} {key!r}, which is neither an input that a task takes nor a task{close}"
        raise DefinitionError(msg)
    if key not in one.dependencies:
        msg = f"{what} task {key!r}, on which this task does not depend: give it depends_on={key!r}"
        raise DefinitionError(msg)


def _readers(tasks: Iterable[CompiledTask]) -> list[tuple[str, Binding]]:
    """Return the bindings of bodies and gates that read inputs or the Context, each with the name of its task."""
    found: list[tuple[str, Binding]] = []
    for one in tasks:
        binding = one.binding
        if binding.inputs or binding.wants_context:
            found.append((one.name, binding))
        found += [(one.name, gate) for gate in one.gate_bindings if gate.inputs or gate.wants_context]
    return found


def _compile_task(
    workflow: str,
    one: TaskDef,
    definitions: Mapping[str, TaskDef],
    bindings: Mapping[str, Binding],
    gates: tuple[Binding, ...],
    mapped: MappedTasks,
) -> CompiledTask:
    name, binding = one.name, bindings[one.name]
    for condition in gates:
        mapped.check_gate(name, condition)
    dependencies: tuple[str, ...] = ()
    if binding.dependencies or one.depends_on or any(gate.dependencies for gate in gates):
        dependencies = _dependencies(workflow, one, binding, gates, definitions)
        binding = _finish(one, binding, bindings, mapped, f"task {name!r}")
        gates = tuple([_finish(one, gate, bindings, mapped, f"the gate of task {name!r}") for gate in gates])
    if one.gate is None and any(source.kind == "gate" for source in binding.sources):
        msg = f"task {name!r}: a parameter takes the value of the gate, and the task has none: give it one with gate="
        raise DefinitionError(msg)
    binding = _with_requests(one, binding)
    gate = _typed_gate(one, binding)
    return CompiledTask(
        name=name,
        fn=one.fn,
        binding=binding,
        returns=binding.returns,
        dependencies=dependencies,
        run_if=one.run_if,
        retry=one.retry,
        timeout=one.timeout,
        gate=gate,
        gate_bindings=gates,
        map=mapped.compiled(name),
        gathers_limit=(mapped.gathers(binding, *gates), one.limit),
    )


def _with_requests(one: TaskDef, binding: Binding) -> Binding:
    """Return the binding of a body that answers the requests of its gate: it does so by a handle."""
    if one.gate is None or not any(isinstance(leaf, Request) for leaf in leaves(one.gate)):
        return binding
    if not any(source.kind == "gate" for source in binding.sources):
        msg = (
            f"task {one.name!r}: its gate takes a request, and no parameter receives it, so that nobody could answer: "
            "annotate one Annotated[bide.Received[In, Out], bide.Gate]"
        )
        raise DefinitionError(msg)
    return msgspec.structs.replace(binding, wants_handle=True)


def _typed_gate(one: TaskDef, binding: Binding) -> Wait | None:
    """Return the gate; a signal without a type gets that of the parameter which takes its value."""
    gate, where = one.gate, f"task {one.name!r}"
    if not isinstance(gate, Signal) or not any(source.kind == "gate" for source in binding.sources):
        return gate
    typed: Signal[Any] = gate
    for name, annotation in gate_parameters(one.fn, where).items():
        try:
            reader = Codec(annotation, where, root=f"parameter {name!r}")
        except DefinitionError:
            if gate.type is Any:
                raise
            continue  # it gets the value by the type of the signal
        if reader.annotation is Any:
            continue
        if typed.type is Any:
            typed = Signal(gate.name, annotation)
            continue
        from bide._fits import never_fit  # noqa: PLC0415 - few gates are of two types

        if never_fit(typed.codec, reader):
            msg = (
                f"{where}: parameter {name!r} is annotated {reader.shown}, but the signal {gate.name!r} of its gate is "
                f"{typed.codec.shown}, which can never be read as that: change one of the two types"
            )
            raise DefinitionError(msg)
    return typed


def _dependencies(
    workflow: str, one: TaskDef, binding: Binding, gates: tuple[Binding, ...], definitions: Mapping[str, TaskDef]
) -> tuple[str, ...]:
    for other in one.depends_on:
        if other not in definitions:
            close = f"{nearest(other, definitions)} (tasks: {listed(definitions)})"
            msg = f"workflow {workflow!r}: task {one.name!r} depends on {other!r}, and no task has that name{close}"
            raise DefinitionError(msg)
    of_gates = [name for gate in gates for name in gate.dependencies]
    return tuple(dict.fromkeys((*binding.dependencies, *of_gates, *one.depends_on)))


def _finish(
    one: TaskDef, binding: Binding, bindings: Mapping[str, Binding], mapped: MappedTasks, where: str
) -> Binding:
    """Return a binding whose values from other tasks are read as those write them."""
    if not binding.dependencies:
        return binding
    for source in binding.sources:
        if source.kind == "failure" and one.run_if not in {"done", "failed"}:
            msg = (
                f"{where}: parameter {source.parameter!r} takes the failure of task {source.name!r}, but this task "
                'starts only if that has not failed: give it run_if="done" or run_if="failed"'
            )
            raise DefinitionError(msg)
    binding = mapped.resolve(binding, where, of_mapped=one.name in mapped.names)
    if one.run_if != "succeeded":
        check_defaults(binding, binding.dependencies, where)
    writers = {name: bindings[name].returns for name in binding.dependencies}
    if one.run_if != "failed":  # such a task may never read a value
        check_types(binding, writers, where)
    return with_writers(binding, writers, where)
