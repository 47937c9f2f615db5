"""Where each parameter of a body gets its value: `bind` reads a signature once and returns its sources.

In this order: special (the Context, the handle), a task's return value (which also adds the dependency), a run
input, the default. By annotation if the parameter is annotated, else by its name. Conditions of gates are bound
like their bodies, without a handle. Nothing here runs a body; the executor fills the sources in.
"""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import msgspec

from bide._callables import is_async
from bide._codec import Codec, is_pickle
from bide._context import Context
from bide._core import TaskHandle
from bide._errors import DefinitionError, TaskFailed
from bide._here import AsyncHandle
from bide._map import Each, Input, Mapped, task_name
from bide._signature import MISSING, Names, Param, read
from bide._task import RESERVED
from bide._text import check_text


class From(msgspec.Struct, frozen=True):
    """In ``Annotated[T, bide.From("load-data")]``: the return value of that task.

    With a list of tasks (names or functions), in ``Annotated[dict[str, T], bide.From([one, other])]``: the return
    values of all of them, by name.
    """

    task: str | list[Any] | tuple[Any, ...]

    def __post_init__(self) -> None:
        if isinstance(self.task, (list, tuple)):
            if not self.names():
                msg = "bide.From([]) names no task: list at least one"
                raise DefinitionError(msg)
        else:
            check_text(self.task, "bide.From: the name of the task")

    def names(self) -> list[str]:
        """Return the names of the tasks."""
        tasks = self.task if isinstance(self.task, (list, tuple)) else [self.task]
        return list(dict.fromkeys(task_name(one, "bide.From") for one in tasks))


class FailureOf(msgspec.Struct, frozen=True):
    """In ``Annotated[bide.TaskFailed | None, bide.FailureOf("load")]``: what failed of that task; None if nothing did.

    For a task with `run_if="done"` or `"failed"`. If the other task was skipped because of a failure, it is that one.
    """

    task: str | Callable[..., Any]

    def name(self) -> str:
        """Return the name of the task."""
        return task_name(self.task, "bide.FailureOf")


Kind: TypeAlias = Literal[
    "context",
    "handle",
    "task",
    "input",
    "gate",
    "item_of_task",
    "item_of_input",
    "same_element",
    "list",
    "mapped",
    "named",
    "failure",
]
"""What a `Source` is: the Context or the handle; a task's return value, a run input or the gate's value; an item of a
list that is a return value or an input; of a mapped task the output of the element of the same index, all outputs as a
list, or a `Mapped`; a dict of the return values of several tasks; what failed of a task."""


NOTES = (From, Input, Each, FailureOf)
"""What an annotation may say about where a value comes from."""


class Gate:
    """In ``Annotated[T, bide.Gate]``: the value that the task's gate was satisfied with."""


class Source(msgspec.Struct, frozen=True):
    """Where one argument comes from. `codec` is the reader's; None where it leaves that to the writer's."""

    kind: Kind
    name: str
    codec: Codec | None = None
    default: Any = MISSING
    parameter: str = ""
    members: tuple[tuple[str, Codec | None], ...] = ()
    """Of a dict: the tasks, and the reader's codec of each."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it reads."""
        if self.members:
            return tuple(name for name, _ in self.members)
        return (self.name,) if self.kind in {"task", "item_of_task", "mapped", "failure"} else ()


class InputParam(msgspec.Struct, frozen=True):
    """A run input as one body wants it."""

    name: str
    required: bool
    codec: Codec
    is_list: bool = False
    """The body is mapped over it: a tuple is taken as a list."""


class Binding(msgspec.Struct, frozen=True):
    """All sources of one body."""

    positional: tuple[Source, ...]
    keyword: tuple[tuple[str, Source], ...]
    dependencies: tuple[str, ...]
    inputs: tuple[InputParam, ...]
    wants_handle: bool
    wants_context: bool
    returns: Codec
    is_async: bool
    """The callable is a coroutine function."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every source, positional ones first."""
        return (*self.positional, *(source for _, source in self.keyword))


def bind(
    fn: Callable[..., Any], owner: str, task_names: Collection[str], *, of: Callable[..., Any] | None = None
) -> Binding:
    """Read the signature of a body of the task `owner` in a workflow of `task_names`, or of a condition `of` a body."""
    condition = of is not None
    where = f"the gate of task {owner!r}" if condition else f"task {owner!r}"
    signature = read(fn, where)
    params, returns = signature.params, MISSING if condition else signature.returns
    by_async = is_async(fn)
    if not params and type(returns) is type:
        return Binding((), (), (), (), False, False, Codec(returns, where), by_async)  # noqa: FBT003 - in order
    names = Names(fn)
    codec = Codec(names.resolve(returns, where, "the return value"), where)
    noted = _noted(of, owner) if of is not None and params else {}
    positional: list[Source] = []
    keyword: list[tuple[str, Source]] = []
    for param in params:
        annotation = names.resolve(param.annotation, where, f"parameter {param.name!r}")
        if param.name in noted:
            annotation = _like(annotation, noted[param.name])
        source = _source(param, annotation, where, task_names)
        if condition and source.kind == "handle":
            msg = f"{where}: its condition asks for a handle ({param.name!r}), and a gate has none"
            raise DefinitionError(msg)
        if condition and source.kind == "gate":
            msg = (
                f"{where}: parameter {param.name!r} of its condition takes the value of the gate, which there is only "
                "after the condition holds"
            )
            raise DefinitionError(msg)
        if source.kind == "handle":
            _check_handle(annotation, where, param.name, by_async=by_async)
        if param.by_keyword:
            keyword.append((param.name, source))
        else:
            positional.append(source)
    sources = [*positional, *(source for _, source in keyword)]
    return Binding(
        positional=tuple(positional),
        keyword=tuple(keyword),
        dependencies=tuple(dict.fromkeys(name for source in sources for name in source.tasks)),
        inputs=_inputs(sources),
        wants_handle=any(source.kind == "handle" for source in sources),
        wants_context=any(source.kind == "context" for source in sources),
        returns=codec,
        is_async=by_async,
    )


def return_annotation(fn: Callable[..., Any], where: str) -> object:
    """Return the evaluated return annotation of a callable; `MISSING` for one whose signature cannot be read."""
    try:
        found = inspect.signature(fn).return_annotation
    except (ValueError, TypeError):
        return MISSING
    return Names(fn).resolve(found, where, "the return value")


def gate_parameters(fn: Callable[..., Any], where: str) -> dict[str, object]:
    """Return the parameters that take the value of the gate, each with the annotation of the value."""
    names, params = Names(fn), read(fn, where).params
    found = ((one.name, names.resolve(one.annotation, where, f"parameter {one.name!r}")) for one in params)
    return {name: _without(annotation) for name, annotation in found if _takes_gate(annotation)}


def _noted(fn: Callable[..., Any], owner: str) -> dict[str, Any]:
    """Return the notes in the annotations of a body's parameters, each with its annotation."""
    names, where, found = Names(fn), f"task {owner!r}", {}
    for one in read(fn, where).params:
        annotation = names.resolve(one.annotation, where, f"parameter {one.name!r}")
        if (note := _outright(annotation, where, one.name)) is not None:
            found[one.name] = note, annotation
    return found


def _like(annotation: Any, noted: tuple[Any, object]) -> object:  # noqa: ANN401 - annotations are anything
    """Return the annotation of a condition's parameter, which says as much as that of the body's parameter."""
    note, of_body = noted
    if annotation is MISSING:
        return of_body
    has_own = get_origin(annotation) is Annotated and any(isinstance(one, NOTES) for one in get_args(annotation)[1:])
    return annotation if has_own else Annotated[annotation, note]


def with_writers(binding: Binding, writers: dict[str, Codec], where: str) -> Binding:
    """Return the binding with each value of a task read by the reader's annotation, else by the writer's."""

    def read(source: Source) -> Source:
        if source.members:
            members = tuple(
                [(name, _read_by(codec, writers[name], source, name, where)) for name, codec in source.members]
            )
            return msgspec.structs.replace(source, members=members)
        if source.kind in {"context", "handle", "input", "gate", "item_of_input", "failure"}:
            return source
        codec = _read_by(source.codec, writers[source.name], source, source.name, where)
        return msgspec.structs.replace(source, codec=codec)

    return msgspec.structs.replace(
        binding,
        positional=tuple(map(read, binding.positional)),
        keyword=tuple((name, read(source)) for name, source in binding.keyword),
    )


def _read_by(codec: Codec | None, writer: Codec, source: Source, task: str, where: str) -> Codec:
    if writer.pickled and not (codec is not None and codec.pickled):
        kind = "list[Annotated[T, bide.Pickle]]" if source.kind == "list" else "Annotated[T, bide.Pickle]"
        msg = f"{where}: parameter {source.parameter!r} reads a pickle of task {task!r}: annotate it {kind} as well"
        raise DefinitionError(msg)
    return writer if codec is None else codec.for_writer(writer)


def check_types(binding: Binding, writers: dict[str, Codec], where: str) -> None:
    """Refuse a parameter whose annotation takes nothing that the task it is bound to may return."""
    for source in binding.sources:
        if source.kind not in {"task", "same_element", "list", "mapped", "named"}:
            continue
        for task, reader in source.members or ((source.name, source.codec),):
            writer = writers[task]
            if reader is None or reader.annotation is writer.annotation:
                continue
            from bide._fits import never_fit  # noqa: PLC0415 - most annotations are the writer's own

            if never_fit(writer, reader):
                which = "" if source.kind in {"task", "same_element"} else "a value in "
                msg = (
                    f"{where}: {which}parameter {source.parameter!r} is annotated {reader.shown}, but task {task!r} "
                    f"returns {writer.shown}, which can never be read as that: change one of the two annotations"
                )
                raise DefinitionError(msg)


def check_defaults(binding: Binding, uncertain: Collection[str], where: str) -> None:
    """Refuse a parameter without default that is bound to a task which may not have succeeded."""
    for source in binding.sources:
        asks = source.kind in {"task", "list", "mapped", "same_element"}
        if asks and source.name in uncertain and source.default is MISSING:
            msg = (
                f"{where}: parameter {source.parameter!r} needs a default, such as None, because task "
                f"{source.name!r} may not have succeeded when this one runs"
            )
            raise DefinitionError(msg)


def nearest(name: str, available: Iterable[str]) -> str:
    """Return ": did you mean …?" for a misspelt name, or nothing."""
    import difflib  # noqa: PLC0415 - for a mistake alone

    found = difflib.get_close_matches(name, list(available), n=1, cutoff=0.6)
    return f": did you mean {found[0]!r}?" if found else ""


# --- one parameter -------------------------------------------------------------------------------------------------


def _source(parameter: Param, annotation: object, where: str, task_names: Collection[str]) -> Source:
    name, default = parameter.name, parameter.default
    special = _special(name, annotation)
    if special is not None:
        return Source(special, name, None, default, name)
    if type(annotation) is not type and _takes_gate(annotation):
        return Source("gate", "", None, default, name)
    named = None if type(annotation) is type else _outright(annotation, where, name)
    if isinstance(named, FailureOf):
        return _failure(named, parameter, _without(annotation), where, task_names)
    if isinstance(named, Each):
        return _each(named, parameter, _without(annotation), where, task_names)
    if isinstance(named, From) and not isinstance(named.task, str):
        return _dict(named, parameter, _without(annotation), where, task_names)
    target, kind = _target(named, name, where, task_names)
    inner = _mapped_item(_without(annotation))
    if inner is not None:
        if kind == "input":
            msg = f"{where}: parameter {name!r} is bide.Mapped, and no task is named {target!r}"
            raise DefinitionError(msg + nearest(target, task_names))
        return Source("mapped", target, element_codec(inner, where, name), default, name)
    codec = Codec(_optional(_without(annotation), default), where, root=f"parameter {name!r}")
    if kind == "task":
        return Source("task", target, None if annotation is MISSING else codec, default, name)
    return Source("input", target, codec, default, name)


def _target(
    named: From | Input | None, parameter: str, where: str, task_names: Collection[str]
) -> tuple[str, Literal["task", "input"]]:
    """Return the task or input that a parameter names, by an annotation or by its own name."""
    if isinstance(named, From):
        (name,) = named.names()
        if name not in task_names:
            msg = f"{where}: parameter {parameter!r} is From({name!r}), and no task has that name"
            raise DefinitionError(msg + nearest(name, task_names))
        return name, "task"
    if isinstance(named, Input):
        if named.name in task_names:
            msg = (
                f"{where}: parameter {parameter!r} is Input({named.name!r}), which is the name of a task: use bide.From"
            )
            raise DefinitionError(msg)
        return named.name, "input"
    return parameter, "task" if parameter in task_names else "input"


def _each(each: Each, parameter: Param, annotation: object, where: str, task_names: Collection[str]) -> Source:
    """Return the source of a mapped task's item."""
    name = parameter.name
    codec = Codec(annotation, where, root=f"parameter {name!r}")
    if isinstance(each.over, Input):
        target = each.over.name
        if target in task_names:
            msg = f"{where}: parameter {name!r} is Each(Input({target!r})), which is the name of a task: use its name"
            raise DefinitionError(msg)
        if parameter.default is not MISSING:
            msg = f"{where}: parameter {name!r} is an item of the input {target!r} and cannot have a default"
            raise DefinitionError(msg)
        return Source("item_of_input", target, codec, MISSING, name)
    target = each.task or ""
    if target not in task_names:
        msg = (
            f"{where}: parameter {name!r} is Each({target!r}), and no task has that name{nearest(target, task_names)}; "
            f'for a run input it is bide.Each(bide.Input("{target}"))'
        )
        raise DefinitionError(msg)
    return Source("item_of_task", target, codec, parameter.default, name)


def _failure(of: FailureOf, parameter: Param, annotation: object, where: str, task_names: Collection[str]) -> Source:
    """Return the source of what failed of a task."""
    name, target = parameter.name, of.name()
    if target not in task_names:
        msg = f"{where}: parameter {name!r} is FailureOf({target!r}), and no task has that name"
        raise DefinitionError(msg + nearest(target, task_names))
    if set(get_args(annotation)) != {TaskFailed, types.NoneType}:
        msg = f"{where}: parameter {name!r} is FailureOf({target!r}): annotate it "
        msg += f"Annotated[bide.TaskFailed | None, bide.FailureOf({target!r})]"
        raise DefinitionError(msg)
    return Source("failure", target, None, MISSING, name)


def _dict(tasks: From, parameter: Param, annotation: object, where: str, task_names: Collection[str]) -> Source:
    """Return the source of a dict of several tasks' return values."""
    name, names = parameter.name, tasks.names()
    for one in names:
        if one not in task_names:
            msg = f"{where}: parameter {name!r} is From([...]) with {one!r}, and no task has that name"
            raise DefinitionError(msg + nearest(one, task_names))
    args = get_args(annotation)
    is_dict = annotation is dict or (get_origin(annotation) in {dict, Mapping} and args[0] is str)
    if not is_dict or parameter.default is not MISSING:
        msg = f"{where}: parameter {name!r} is From([...]): annotate it Annotated[dict[str, T], ...], without a default"
        raise DefinitionError(msg)
    codec = element_codec(args[1], where, name) if args else None
    return Source("named", "", None, MISSING, name, tuple((one, codec) for one in names))


def element_codec(annotation: object, where: str, parameter: str) -> Codec:
    """Return the reader's codec of one of the values in a parameter."""
    return Codec(annotation, where, root=f"a value in parameter {parameter!r}")


def _mapped_item(annotation: object) -> object | None:
    """Return T of `bide.Mapped[T]`; None for another annotation."""
    if annotation is Mapped:
        return Any
    if get_origin(annotation) in {typing.Union, types.UnionType}:
        found = [item for part in get_args(annotation) if (item := _mapped_item(part)) is not None]
        return found[0] if found else None
    return get_args(annotation)[0] if get_origin(annotation) is Mapped else None


def _special(name: str, annotation: object) -> Literal["context", "handle"] | None:
    if annotation is MISSING:
        if name not in RESERVED:
            return None
        return "context" if name in {"context", "ctx"} else "handle"
    for cls in _alternatives(annotation):
        if isinstance(cls, type):
            if issubclass(cls, Context):
                return "context"
            if cls is TaskHandle or issubclass(cls, AsyncHandle):
                return "handle"
    return None


def _alternatives(annotation: object) -> tuple[object, ...]:
    """Return what is inside of an Annotated and of a union: `Context | None` is a Context too."""
    if type(annotation) is type:
        return (annotation,)
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in {typing.Union, types.UnionType}:
        return get_args(annotation)
    return (annotation,)


def _check_handle(annotation: object, where: str, name: str, *, by_async: bool) -> None:
    """Refuse the handle of the other kind of body."""
    for cls in _alternatives(annotation):
        if cls is TaskHandle and by_async:
            msg = f"{where} is an `async def`, whose handle is a bide.AsyncTaskHandle: annotate parameter {name!r} so"
            raise DefinitionError(msg)
        if isinstance(cls, type) and issubclass(cls, AsyncHandle) and not by_async:
            msg = (
                f"{where} is a plain `def`, whose handle is a bide.TaskHandle: annotate parameter {name!r} so, or make "
                "the task an `async def`"
            )
            raise DefinitionError(msg)


def _outright(annotation: object, where: str, name: str) -> From | Input | Each | FailureOf | None:
    """Return the From, Input or Each in an Annotated, of which there may be one."""
    if get_origin(annotation) is not Annotated:
        return None
    found = [note for note in get_args(annotation)[1:] if isinstance(note, NOTES)]
    if any(note in NOTES for note in get_args(annotation)[1:]):
        msg = f'{where}: parameter {name!r}: From, Input, Each and FailureOf take a name, as in bide.From("load")'
        raise DefinitionError(msg)
    if len(found) > 1:
        msg = f"{where}: parameter {name!r} has {' and '.join(map(repr, found))}: give one"
        raise DefinitionError(msg)
    return found[0] if found else None


def _takes_gate(annotation: object) -> bool:
    return get_origin(annotation) is Annotated and any(note is Gate for note in get_args(annotation)[1:])


def _without(annotation: Any) -> Any:  # noqa: ANN401 - annotations are anything
    """Return an annotation without From, Input, Each, FailureOf and Gate, which say nothing about the value."""
    if type(annotation) is type or get_origin(annotation) is not Annotated:
        return annotation
    inner, *notes = get_args(annotation)
    kept = tuple(note for note in notes if note is not Gate and not isinstance(note, NOTES))
    return Annotated[(inner, *kept)] if kept else inner


def _optional(annotation: Any, default: object) -> Any:  # noqa: ANN401 - annotations are anything
    """Return the annotation of a parameter whose default is None: then None may also be passed."""
    if default is not None or annotation is MISSING or is_pickle(annotation):
        return annotation
    try:
        return annotation | None
    except TypeError:  # it is no type; the codec says so
        return annotation


def _inputs(sources: Iterable[Source]) -> tuple[InputParam, ...]:
    """Return each input once for each annotation it is read by: required if any parameter requires it."""
    read = [(source, _input_codec(source)) for source in sources if source.kind in {"input", "item_of_input"}]
    required = {source.name for source, _ in read if source.default is MISSING}
    found: list[InputParam] = []
    for source, codec in read:
        if not any(one.name == source.name and one.codec.annotation == codec.annotation for one in found):
            found.append(InputParam(source.name, source.name in required, codec, source.kind == "item_of_input"))
    return tuple(found)


def _input_codec(source: Source) -> Codec:
    """Return how a parameter reads an input as a whole."""
    codec = source.codec or Codec()
    if source.kind == "input":
        return codec
    return Codec(list[codec.annotation], codec.where, root=codec.root)  # type: ignore[name-defined]
