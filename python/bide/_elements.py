"""Mapped tasks when a workflow is built: what a task is mapped over, and how readers take what its elements returned.

`_bind.py` reads a signature without knowing which other tasks are mapped. Here that is known: a parameter that names a
mapped task becomes a list of the outputs, or, within another mapped task, the output of the element of the same index.
"""

import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, get_args, get_origin

import msgspec

from bide._bind import Binding, Source, element_codec
from bide._errors import DefinitionError
from bide._map import CompiledMap
from bide._signature import MISSING
from bide._task import TaskDef

LISTS = (list, Sequence, Collection, Iterable)
"""What a reader of a list may be annotated with."""

ITEM_KINDS = ("item_of_task", "item_of_input")


class MappedTasks:
    """The mapped tasks of a workflow, by their bindings."""

    def __init__(self, definitions: Mapping[str, TaskDef], bindings: Mapping[str, Binding]) -> None:
        """Find them, and check `tolerate` and what they are mapped over."""
        self._definitions = definitions
        self._bindings = bindings
        self.names = {name for name, binding in bindings.items() if _is_mapped(binding)}
        for name, one in definitions.items():
            if one.tolerate and name not in self.names:
                msg = (
                    f"task {name!r}: tolerate= is for a mapped task, and no parameter is "
                    'Annotated[T, bide.Each("the task that returns the list")]'
                )
                raise DefinitionError(msg)
        self._tolerant = {name for name in self.names if definitions[name].tolerate}
        self._spread_tolerance()

    def _spread_tolerance(self) -> None:
        """Count tasks that follow a tolerant one: their elements are skipped where its elements fail."""
        while found := {
            name
            for name in self.names - self._tolerant
            for source in self._bindings[name].sources
            if source.kind == "item_of_task" and source.name in self._tolerant
        }:
            self._tolerant |= found

    def compiled(self, name: str) -> CompiledMap | None:
        """Return how a task is mapped; None if it is not."""
        if name not in self.names:
            return None
        tolerate = self._definitions[name].tolerate
        over = [source for source in self._bindings[name].sources if source.kind in ITEM_KINDS]
        tasks, inputs = (tuple(dict.fromkeys(one.name for one in over if one.kind == kind)) for kind in ITEM_KINDS)
        is_share = isinstance(tolerate, float)
        return CompiledMap(tasks, inputs, None if is_share else int(tolerate), tolerate if is_share else None)

    def gathers(self, *bindings: Binding | None) -> tuple[str, ...]:
        """Return the mapped tasks of which a task takes `bide.Mapped`."""
        sources = [source for binding in bindings if binding is not None for source in binding.sources]
        return tuple(dict.fromkeys(source.name for source in sources if source.kind == "mapped"))

    def check_gate(self, name: str, gate: Binding) -> None:
        """Refuse a gate that is mapped over something else than its task."""
        own = {(source.kind, source.name) for source in self._bindings[name].sources}
        for source in gate.sources:
            if source.kind in ITEM_KINDS and (source.kind, source.name) not in own:
                msg = f"the gate of task {name!r}: parameter {source.parameter!r} is Each({source.name!r}), over which "
                raise DefinitionError(msg + "the task itself is not mapped: give the task such a parameter too")

    def resolve(self, binding: Binding, where: str, *, of_mapped: bool) -> Binding:
        """Return a binding in which each parameter that names a mapped task says how it takes its outputs."""

        def read(source: Source) -> Source:
            if source.kind == "mapped" and source.name not in self.names:
                msg = f"{where}: parameter {source.parameter!r} is bide.Mapped, and task {source.name!r} is not mapped"
                raise DefinitionError(msg)
            if source.kind == "named":
                self._check_named(source, where)
            if source.name not in self.names:
                if source.kind == "item_of_task":
                    self._check_list(source, where)
                return source
            if source.kind == "item_of_task":
                return msgspec.structs.replace(source, kind="same_element")
            return self._list(source, where, of_mapped=of_mapped) if source.kind == "task" else source

        return msgspec.structs.replace(
            binding,
            positional=tuple(map(read, binding.positional)),
            keyword=tuple((name, read(source)) for name, source in binding.keyword),
        )

    def _list(self, source: Source, where: str, *, of_mapped: bool) -> Source:
        of = f"{where}: parameter {source.parameter!r} takes all outputs of the mapped task {source.name!r}"
        element = f'; for one of them, annotate it Annotated[T, bide.Each("{source.name}")]' if of_mapped else ""
        if source.name in self._tolerant:
            msg = f"{of}, of which some may have failed (tolerate=): annotate it bide.Mapped[T]{element}"
            raise DefinitionError(msg)
        annotation = MISSING if source.codec is None else _item_annotation(source.codec.annotation, source.default)
        if annotation is None:
            msg = f"{of}: annotate it list[T], or bide.Mapped[T] if some may have failed{element}"
            raise DefinitionError(msg)
        codec = None if annotation is MISSING else element_codec(annotation, where, source.parameter)
        return msgspec.structs.replace(source, kind="list", codec=codec)

    def _check_list(self, source: Source, where: str) -> None:
        """Refuse a list that is none, as far as the annotation of the task that returns it says."""
        writer = self._bindings[source.name].returns
        of = f"{where}: parameter {source.parameter!r} is Each({source.name!r}), and task {source.name!r} returns"
        if writer.pickled:
            msg = f"{of} a pickle, whose items cannot be read one by one: return a list that can be stored as it is"
            raise DefinitionError(msg)
        kind = _kind(writer.annotation)
        if kind is None:
            return
        if issubclass(kind, AbstractSet):
            msg = f"{of} a set, which has no order: return sorted(...) or list(...) of it"
        elif issubclass(kind, Mapping):
            msg = f"{of} a dict: return list(....items()), or a list of its keys or values"
        else:
            msg = f"{of} no list, but {getattr(kind, '__qualname__', kind)}: return a list or a tuple"
        raise DefinitionError(msg)

    def _check_named(self, source: Source, where: str) -> None:
        for name, _ in source.members:
            if name in self.names:
                msg = (
                    f"{where}: parameter {source.parameter!r} is a dict of several tasks, of which {name!r} is mapped: "
                    "take its list by a parameter of its own"
                )
                raise DefinitionError(msg)


def _is_mapped(binding: Binding) -> bool:
    return any(source.kind in ITEM_KINDS for source in binding.sources)


def _kind(annotation: Any) -> type | None:  # noqa: ANN401 - annotations are anything
    """Return the class of an annotation that is no list for certain; None for any other."""
    if get_origin(annotation) is typing.Annotated:
        annotation = get_args(annotation)[0]
    kind = get_origin(annotation) or annotation
    if not isinstance(kind, type) or kind in {object, types.UnionType}:
        return None
    never = (AbstractSet, Mapping, str, bytes, int, float, bool)
    return kind if issubclass(kind, never) or kind is types.NoneType else None


def _item_annotation(annotation: Any, default: object) -> Any:  # noqa: ANN401 - annotations are anything
    """Return what a list's items are annotated with; MISSING if with nothing; None if it is no list."""
    if default is None and get_origin(annotation) in {typing.Union, types.UnionType}:
        kept = [part for part in get_args(annotation) if part is not types.NoneType]
        annotation = kept[0] if len(kept) == 1 else annotation
    # By identity: an annotation need not be hashable.
    if any(annotation is one for one in (Any, MISSING, *LISTS, object)):
        return MISSING
    if get_origin(annotation) in LISTS:
        return get_args(annotation)[0]
    return None
