"""Whether one annotation can ever read what another one lets through: `never_fit`.

The codec decides at run time, value by value (`_codec.py`). Two annotations never fit only if it would refuse every
value: no form of JSON in which the writer's values may be stored is one that the reader takes. In doubt they fit: an
empty list is read as a list of anything, and nothing is assumed of pydantic models, numpy scalars and the classes of
`bide.codec`. What is compared are msgspec's own descriptions of what it does at run time.
"""

import enum
from collections.abc import Iterator
from types import NoneType
from typing import Any, TypeAlias, get_origin

from msgspec import inspect as shapes

from bide import _hooks
from bide._codec import Codec

Shape: TypeAlias = Any
"""A description by `msgspec.inspect`."""


class _Form(enum.Enum):
    """What a value is in JSON."""

    NULL = enum.auto()
    BOOL = enum.auto()
    INT = enum.auto()
    FLOAT = enum.auto()
    TEXT = enum.auto()
    ARRAY = enum.auto()
    OBJECT = enum.auto()


_ALL = frozenset(_Form)
_TEXT = frozenset({_Form.TEXT})
_ARRAY = frozenset({_Form.ARRAY})
_OBJECT = frozenset({_Form.OBJECT})
_NUMBER = frozenset({_Form.INT, _Form.FLOAT})
_FORMS: dict[type[Shape], frozenset[_Form]] = {
    shapes.NoneType: frozenset({_Form.NULL}),
    shapes.BoolType: frozenset({_Form.BOOL}),
    shapes.IntType: frozenset({_Form.INT}),
    shapes.FloatType: _NUMBER,
    shapes.StrType: _TEXT,
    shapes.BytesType: _TEXT,
    shapes.ByteArrayType: _TEXT,
    shapes.MemoryViewType: _TEXT,
    shapes.DateTimeType: _TEXT,
    shapes.DateType: _TEXT,
    shapes.TimeType: _TEXT,
    shapes.TimeDeltaType: _TEXT,
    shapes.UUIDType: _TEXT,
    shapes.DecimalType: _TEXT,
    shapes.ListType: _ARRAY,
    shapes.SetType: _ARRAY,
    shapes.FrozenSetType: _ARRAY,
    shapes.VarTupleType: _ARRAY,
    shapes.TupleType: _ARRAY,
    shapes.NamedTupleType: _ARRAY,
    shapes.DictType: _OBJECT,
    shapes.TypedDictType: _OBJECT,
    shapes.DataclassType: _OBJECT,
}
"""The forms in which values of a shape are written; an int may be written where a float is annotated."""
_OF_VALUE: dict[type, frozenset[_Form]] = {NoneType: frozenset({_Form.NULL}), int: frozenset({_Form.INT}), str: _TEXT}

_BYTES = (shapes.BytesType, shapes.ByteArrayType, shapes.MemoryViewType)
_SEQUENCES = (shapes.ListType, shapes.SetType, shapes.FrozenSetType, shapes.VarTupleType)
_FIELDS = (shapes.StructType, shapes.DataclassType, shapes.TypedDictType)


def never_fit(writer: Codec, reader: Codec) -> bool:
    """Return whether the reader's annotation takes nothing that the writer's lets through."""
    if writer.pickled or reader.pickled or writer.annotation == reader.annotation:
        return False
    if not set(writer.fast).isdisjoint(reader.fast):  # they share a scalar
        return False
    try:
        written, read = shapes.type_info(writer.annotation), shapes.type_info(reader.annotation)
    except Exception:  # noqa: BLE001 - what msgspec does not know as a whole, such as a union with registered classes
        return False
    return not _Comparison(reads_bytes=writer.has_bytes).may_fit(written, read)


class _Comparison:
    """One comparison of a writer's shape with a reader's."""

    def __init__(self, *, reads_bytes: bool) -> None:
        self._reads_bytes = reads_bytes
        """Whether text is read as bytes: only if the writer wrote some."""
        self._known: dict[tuple[int, int], bool] = {}
        """What came of each pair. A recursive type refers to a pair that is being compared: it fits as far as known."""

    def may_fit(self, written: Shape, read: Shape) -> bool:
        """Return whether a value of one shape may be read as the other."""
        pair = (id(written), id(read))
        if pair not in self._known:
            self._known[pair] = True
            reads = list(_alternatives(read))
            self._known[pair] = any(self._alike(one, other) for one in _alternatives(written) for other in reads)
        return self._known[pair]

    def _alike(self, written: Shape, read: Shape) -> bool:
        if _written(written).isdisjoint(self._read(read)):
            return False
        if isinstance(written, shapes.TupleType):
            if isinstance(read, shapes.TupleType):
                pairs = zip(written.item_types, read.item_types, strict=False)
                return len(written.item_types) == len(read.item_types) and all(self.may_fit(*pair) for pair in pairs)
            return not isinstance(read, _SEQUENCES) or all(
                self.may_fit(item, read.item_type) for item in written.item_types
            )
        if _has_named_fields(written) and _has_named_fields(read) and not _may_have_more(written):
            return self._has_fields(written, read)
        return True

    def _has_fields(self, written: Shape, read: Shape) -> bool:
        """Return whether an object of one class has all that the other requires."""
        has = {field.encode_name: field.type for field in written.fields}
        if isinstance(written, shapes.StructType) and written.tag_field is not None:
            has[written.tag_field] = shapes.AnyType()
        return all(
            field.encode_name in has and self.may_fit(has[field.encode_name], field.type)
            for field in read.fields
            if field.required
        )

    def _read(self, shape: Shape) -> frozenset[_Form]:
        """Return the forms that a shape may be read from."""
        if isinstance(shape, _BYTES) and not self._reads_bytes:
            return frozenset()
        if isinstance(shape, shapes.DecimalType):
            return _TEXT | _NUMBER
        return _written(shape)


def _written(shape: Shape) -> frozenset[_Form]:
    """Return the forms in which values of a shape may be written: all of them where little is known."""
    if _is_registered(shape):
        return _ALL
    if isinstance(shape, (shapes.LiteralType, shapes.EnumType)):
        values = shape.values if isinstance(shape, shapes.LiteralType) else [one.value for one in shape.cls]
        return frozenset().union(*(_OF_VALUE.get(type(value), _ALL) for value in values))
    if isinstance(shape, shapes.StructType):
        return _ARRAY if shape.array_like else _OBJECT
    if isinstance(shape, shapes.CustomType) and _hooks.is_path(_class_of(shape)):
        return _TEXT
    return _FORMS.get(type(shape), _ALL)


def _alternatives(shape: Shape) -> Iterator[Shape]:
    if isinstance(shape, shapes.Metadata):
        yield from _alternatives(shape.type)
    elif isinstance(shape, shapes.UnionType):
        for one in shape.types:
            yield from _alternatives(one)
    else:
        yield shape


def _class_of(shape: Shape) -> Any:  # noqa: ANN401 - a class, perhaps a generic one's origin
    return get_origin(shape.cls) or shape.cls


def _is_registered(shape: Shape) -> bool:
    cls = _class_of(shape) if hasattr(shape, "cls") else None
    return isinstance(cls, type) and _hooks.registered(cls) is not None


def _has_named_fields(shape: Shape) -> bool:
    """Return whether this is an object of fields, in the form that msgspec gives it."""
    return isinstance(shape, _FIELDS) and _written(shape) == _OBJECT


def _may_have_more(shape: Shape) -> bool:
    """Return whether objects are written with more than their fields: attrs classes, which may have attributes."""
    return hasattr(_class_of(shape), "__attrs_attrs__")
