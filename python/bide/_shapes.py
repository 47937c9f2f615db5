"""What msgspec does not do by itself for an annotation: `Plan`, compiled once for a codec.

A plan is a tree of nodes (`_nodes.py`), one for each part of the annotation. It is needed where values are written or
read in another way than msgspec's: classes that `bide.codec` registers, sets (written in order, so that equal sets
have equal bytes), moments with a zone, private attributes of attrs classes; and where msgspec would convert too much:
text for bytes, an integer that a float cannot hold.
"""

import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Iterator
from datetime import datetime, time
from typing import Annotated, Any, TypeAlias, get_args, get_origin

import msgspec

from bide import _hooks, _models, _moments, _nodes
from bide._nodes import Data, Node

Field: TypeAlias = tuple[str, str, Any, _nodes.Default | None]
"""Its attribute, its name in JSON, its annotation, and what makes its default for an object."""

_SEQUENCES: dict[object, type] = {
    list: list,
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Collection: list,
    set: set,
    abc.Set: set,
    abc.MutableSet: set,
    frozenset: frozenset,
}
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_DIGITS = bytes.maketrans(b"123456789[:- ", b"000000000,,,,")
_UNSAFE = b"," + b"0" * 16
"""Sixteen digits that begin a number may be an integer that no float holds."""


class Plan:
    """How values of one annotation are written and read, beside msgspec."""

    def __init__(self, annotation: object, *, bytes_from_text: bool = True) -> None:
        """Compile an annotation, whatever it is; with `bytes_from_text` base64 is read for bytes."""
        self._strict = not bytes_from_text
        self._nodes: list[Node] = []
        self._known: dict[object, Node] = {}
        self.root = self._node(annotation)
        self._spread()
        traits = {node.trait for node in self._reached(self.root)}
        self.active = self.root.active
        self.hard = self.root.hard
        self.rewrites = not traits.isdisjoint({"hook", "set", "private"})
        """Whether every value is written by the plan, rather than by msgspec alone."""
        self.models = "model" in traits
        self.moments = "moment" in traits
        self._floats = "float" in traits
        self.has_bytes = "bytes" in traits

    def write(self, value: object) -> object:
        """Return what msgspec's encoder is to write for a value."""
        return self.root.write(value) if self.active else value

    def read(self, data: object) -> Data:
        """Return the value for decoded JSON."""
        return self.root.read(data)

    def must_read(self, raw: bytes) -> bool:
        """Whether this JSON is to be read by the plan, rather than by msgspec alone."""
        return (
            self.hard
            or (self._strict and self.has_bytes)
            or (self.moments and _moments.SUFFIX in raw)
            or (self._floats and _UNSAFE in b"," + raw.translate(_DIGITS))
        )

    def for_msgspec(self) -> Iterator[Data]:
        """Yield the annotations that msgspec has to read: the largest parts without a registered class."""
        for node in self._reached(self.root, into=lambda node: node.hard):
            if not node.hard:
                yield node.annotation
            elif isinstance(node, _nodes.Union) and any(not part.hard for part in node.parts):
                yield node.rest

    # --- compiling -------------------------------------------------------------------------------------------------

    def _spread(self) -> None:
        """Tell each node what is special below it; recursive types go round until nothing changes."""
        for node in self._nodes:
            node.active, node.hard = bool(node.trait), node.trait == "hook"
        changed = True
        while changed:
            changed = False
            for node in self._nodes:
                state = (any(p.active for p in node.parts) or node.active, any(p.hard for p in node.parts) or node.hard)
                if state != (node.active, node.hard):
                    node.active, node.hard = state
                    changed = True
        for node in self._nodes:  # what is not special is not gone through
            node.parts = [part if part.active else Node(part.annotation) for part in node.parts]

    def _reached(self, root: Node, into: Callable[[Node], bool] = lambda _: True) -> Iterator[Node]:
        seen, open_nodes = {id(root)}, [root]
        while open_nodes:
            node = open_nodes.pop()
            yield node
            for part in node.parts if into(node) else ():
                if id(part) not in seen:
                    seen.add(id(part))
                    open_nodes.append(part)

    def _add(self, node: Node, parts: Data = ()) -> Node:
        self._nodes.append(node)
        node.parts.extend(map(self._node, parts))
        return node

    def _node(self, annotation: Data) -> Node:
        origin: Any = get_origin(annotation)
        args = get_args(annotation)
        if isinstance(annotation, type) and not args:
            return self._class(annotation)
        if isinstance(origin, type) and _hooks.registered(origin) is not None:
            return self._class(origin)
        if origin is Annotated:
            return self._annotated(annotation, self._node(args[0]))
        if origin in {typing.Union, types.UnionType}:
            return self._add(_nodes.Union(annotation), args)
        if origin in {typing.Required, typing.NotRequired} or getattr(origin, "__name__", "") == "ReadOnly":
            return self._node(args[0])
        if isinstance(annotation, typing.NewType):
            return self._node(annotation.__supertype__)
        if type(annotation).__name__ == "TypeAliasType" and not args:
            if annotation not in self._known:
                self._known[annotation] = holder = self._add(
                    _nodes.Union(annotation)
                )  # a recursive alias refers to itself
                holder.parts.append(self._node(annotation.__value__))
            return self._known[annotation]
        return self._generic(annotation, origin, args)

    def _generic(self, annotation: Data, origin: Data, args: tuple[Any, ...]) -> Node:
        """Compile a container, or a class with type arguments."""
        if origin in _SEQUENCES and len(args) == 1:
            return self._add(_nodes.Sequence(annotation, _SEQUENCES[origin]), args)
        if origin is tuple and len(args) == 2 and args[1] is ...:  # noqa: PLR2004 - tuple[T, ...]
            return self._add(_nodes.Sequence(annotation, tuple), args[:1])
        if origin is tuple and args and ... not in args:
            return self._add(_nodes.Tuple(annotation), args)
        if isinstance(origin, type) and hasattr(origin, "__parameters__"):
            return self._fields(origin, annotation)
        if origin in _MAPPINGS and len(args) == 2:  # noqa: PLR2004 - keys and values
            return self._add(_nodes.Mapping(annotation), args)
        return self._add(Node(annotation))

    def _annotated(self, annotation: Data, inner: Node) -> Node:
        """Return a node like `inner`, which msgspec reads by the whole annotation, with its constraints."""
        if isinstance(inner, (_nodes.Moment, _nodes.Bytes, _nodes.Hook)):
            return inner
        holder = self._add(_nodes.Union(annotation))
        holder.parts.append(inner)
        return holder

    def _class(self, cls: type) -> Node:
        if cls in self._known:
            return self._known[cls]
        if _hooks.registered(cls) is not None:
            node: Node = _nodes.Hook(cls)
        elif cls in {datetime, time}:
            node = _nodes.Moment(cls)
        elif cls is float:
            node = _nodes.Float(cls)
        elif cls in {bytes, bytearray, memoryview}:
            node = _nodes.Bytes(cls)
        elif _models.is_model(cls):
            node = _nodes.Model(cls)
        elif cls in {set, frozenset}:
            node = _nodes.Sequence(cls, cls)
            self._known[cls] = node
            return self._add(node, [Data])
        else:
            return self._fields(cls, cls)
        self._known[cls] = self._add(node)
        return node

    def _fields(self, cls: Data, annotation: Data) -> Node:
        """Compile a class with its fields; `annotation` is the class, or a generic one with its arguments."""
        if annotation in self._known:
            return self._known[annotation]
        kind = _kind(cls)
        if not kind:
            node = self._known[annotation] = self._add(Node(annotation))
            return node
        found = self._known[annotation] = _nodes.Fields(cls, kind, annotation)
        self._add(found)
        given = dict(zip(getattr(cls, "__parameters__", ()), get_args(annotation), strict=False))
        for name, key, hint, default in _READERS[kind](cls):
            found.add(name, key, self._node(_filled(hint, given)), default)
        return found


def _filled(hint: Data, given: dict[Any, Any]) -> Data:
    """Return an annotation with the arguments of a generic class for its parameters; Any where it has none."""
    if isinstance(hint, typing.TypeVar):
        return given.get(hint, Any)
    open_parts = getattr(hint, "__parameters__", ())
    if isinstance(hint, type) or not open_parts:
        return hint
    return hint[tuple(given.get(one, Any) for one in open_parts)]


def _kind(cls: Data) -> str:
    """Return what kind of fields a class has, if msgspec goes through them."""
    if issubclass(cls, msgspec.Struct):
        return "struct"
    if hasattr(cls, "__dataclass_fields__"):
        kinds = {str(getattr(field, "_field_type", "")) for field in cls.__dataclass_fields__.values()}
        return "" if "_FIELD_INITVAR" in kinds else "dataclass"  # only who registers it knows what to pass
    if hasattr(cls, "__attrs_attrs__"):
        return "attrs"
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return "namedtuple"
    return "typeddict" if typing.is_typeddict(cls) else ""


def _of_struct(cls: Data) -> Iterator[Field]:
    for field in msgspec.structs.fields(cls):
        yield field.name, field.encode_name, field.type, None


def _of_dataclass(cls: Data) -> Iterator[Field]:
    import dataclasses  # noqa: PLC0415 - who has one has imported it

    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        default: _nodes.Default | None = None
        if field.default is not dataclasses.MISSING:
            default = _nodes.Default(value=field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = _nodes.Default(field.default_factory)
        yield field.name, field.name, hints[field.name], default


def _of_attrs(cls: Data) -> Iterator[Field]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for one in cls.__attrs_attrs__:
        default: _nodes.Default | None = None
        if hasattr(one.default, "takes_self"):
            default = _nodes.Default(one.default.factory, takes_self=one.default.takes_self)
        elif one.default is not sys.modules["attr"].NOTHING:
            default = _nodes.Default(value=one.default)
        yield one.name, one.name, hints.get(one.name, Any), default


def _of_namedtuple(cls: Data) -> Iterator[Field]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for name in cls._fields:
        yield name, name, hints.get(name, Any), None


def _of_typeddict(cls: Data) -> Iterator[Field]:
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        yield name, name, hint, None


_READERS: dict[str, Callable[[Any], Iterator[Field]]] = {
    "struct": _of_struct,
    "dataclass": _of_dataclass,
    "attrs": _of_attrs,
    "namedtuple": _of_namedtuple,
    "typeddict": _of_typeddict,
}
