"""Digests of values: parts in a fixed order, each with its kind and length, are hashed.

`Sink` describes the immutable kinds of values (numbers, text, dates, paths …). Containers, objects and callables are
described by its subclasses, in two ways: in `_canonical.py` equal values have equal digests, in `_fingerprint.py` equal
digests prove that nothing differs.
"""

import hashlib
import struct
import sys
import types
from collections.abc import Callable
from datetime import timezone, tzinfo
from typing import Any

from bide import _hooks

SIZE = 16
_DEEPEST = 64
_MANY = 4096
_LARGE = 64 * 1024
_PART = 8
"""The size that each part adds: a small value may refer to one object along very many paths."""


class Unstable(Exception):
    """A value has no form that is the same in every process."""


def no_form(thing: object) -> Unstable:
    """Return the exception for a value without a stable form."""
    return Unstable(f"a {type(thing).__qualname__} has no form that is the same in every process")


class Sink:
    """Hashes parts into one digest."""

    def __init__(self, most: int) -> None:
        """Accept parts of at most `most` bytes in all."""
        self._most = most
        self._parts: list[bytes] = []
        """The parts that are still to be hashed, together."""
        self._hash = hashlib.blake2b(digest_size=SIZE)
        self._size = 0
        self._path: dict[int, int] = {}
        """The objects being described, by id, with their depth: a cycle is described by the number of levels up."""

    def digest(self) -> bytes:
        """Return the digest of the parts so far."""
        self._hash.update(b"".join(self._parts))
        self._parts.clear()
        return self._hash.digest()

    def put(self, kind: str, data: bytes = b"") -> None:
        """Add a part."""
        size = len(data)
        self._size += size + _PART
        self._parts += f"{kind}:{size}:".encode(), data
        if len(self._parts) > _MANY or size > _LARGE:
            self._hash.update(b"".join(self._parts))
            self._parts.clear()
        if self._size > self._most:
            msg = f"more than {self._most >> 20} MiB"
            raise Unstable(msg)

    def text(self, kind: str, text: str) -> None:
        """Add a text."""
        self.put(kind, text.encode("utf-8", "surrogatepass"))

    def value(self, value: Any) -> None:  # noqa: ANN401 - anything
        """Describe a value."""
        raise NotImplementedError

    def digest_of(self, *parts: object) -> bytes:
        """Return the digest of parts by themselves, by which they can be sorted."""
        outer = self._hash, self._parts
        self._hash, self._parts = hashlib.blake2b(digest_size=SIZE), []
        try:
            for part in parts:
                self.value(part)
            return self.digest()
        except BaseException:
            self._path.clear()
            raise
        finally:
            self._hash, self._parts = outer

    def within(self, value: Any, describe: Callable[[Any], None]) -> None:  # noqa: ANN401 - as in value
        """Describe something that may refer to itself."""
        above = self._path.get(id(value))
        if above is not None:
            self.text("above", str(len(self._path) - above))
            return
        if len(self._path) > _DEEPEST:
            msg = "nested too deeply"
            raise Unstable(msg)
        self._path[id(value)] = len(self._path)
        describe(value)
        del self._path[id(value)]

    def items(self, value: Any) -> None:  # noqa: ANN401 - a list, tuple or deque
        """Describe items in their order."""
        self.put(f"items {len(value)}")
        for item in value:
            self.value(item)

    def bounded(self, value: Any) -> None:  # noqa: ANN401 - a deque
        """Describe a deque by its limit and its items."""
        self.value(value.maxlen)
        self.items(value)

    def members(self, value: Any) -> None:  # noqa: ANN401 - a set or frozenset
        """Describe the members of a set, which have no order."""
        self.put(f"members {len(value)}")
        if set(map(type, value)) in _SORTABLE:
            for item in sorted(value):
                self.value(item)
        else:
            for digest in sorted(self.digest_of(item) for item in value):
                self.put("member", digest)

    def entries(self, value: Any) -> None:  # noqa: ANN401 - a dict
        """Describe a mapping whose order does not count."""
        self.put(f"entries {len(value)}")
        if set(map(type, value)) in _SORTABLE:
            for key in sorted(value):
                self.value(key)
                self.value(value[key])
        else:
            for digest in sorted(self.digest_of(key, item) for key, item in value.items()):
                self.put("entry", digest)

    def plain(self, kind: type, value: Any) -> bool:  # noqa: ANN401 - as in value
        """Describe a value of an immutable type; return False if the type is of another kind."""
        describe = _BUILTIN.get(kind) or _library(kind)
        if describe is not None:
            describe(self, value)
            return True
        if _hooks.is_numpy(kind) and not is_of_python(kind) and value.dtype.kind in "biufcmMSU":
            self.text("numpy", value.dtype.str)
            # The padding of a long double is not part of its value.
            self.put("bytes", value.tobytes() if value.dtype.itemsize <= _LARGEST_FLOAT else repr(value).encode())
            return True
        return False

    def zone(self, zone: tzinfo | None, moment: Any) -> None:  # noqa: ANN401 - a datetime or time
        """Describe a time zone: a named one differs from a fixed offset that it has at some moment."""
        kind: Any = type(zone)
        if zone is None:
            self.put("no zone")
        elif kind is timezone:
            self.text("offset", f"{zone.utcoffset(None)} {zone.tzname(None)}")
        elif _is_of_library(kind, "zoneinfo.ZoneInfo") and zone.key:  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
            self.text("zone", zone.key)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
        else:
            self.other_zone(zone, moment)

    def other_zone(self, zone: tzinfo, _moment: Any) -> None:  # noqa: ANN401 - as in zone
        """Describe a time zone of a kind that is not known."""
        raise no_form(zone)


_SORTABLE = ({str}, {int}, {bytes})
_LARGEST_FLOAT = 8


def plain_base(cls: type) -> type | None:
    """Return the class itself or its first base class whose values `Sink.plain` describes."""
    return next((base for base in cls.__mro__ if base in _BUILTIN or _library(base) or _hooks.is_numpy(base)), None)


def state_of(value: object) -> dict[str, Any]:
    """Return all attributes of an object itself: its `__dict__` and its slots, including those of base classes."""
    state = dict(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        if not is_of_python(cls):
            continue
        for name, slot in cls.__dict__.items():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    content = slot.__get__(value)
                except AttributeError:  # nothing is assigned
                    continue
                state[name if name not in state else f"{cls.__qualname__}.{name}"] = content
    return state


def is_of_python(cls: type) -> bool:
    """Return whether a class was created by a class statement: one written in C may have hidden state."""
    return cls.__flags__ & (_HEAPTYPE | _IMMUTABLE) == _HEAPTYPE


_HEAPTYPE = 1 << 9
_IMMUTABLE = 1 << 8


def _float(sink: Sink, value: float) -> None:
    sink.put("float", struct.pack("<d", value) if value == value else b"nan")  # noqa: PLR0124 - NaN


def _complex(sink: Sink, value: complex) -> None:
    sink.put("complex")
    _float(sink, value.real)
    _float(sink, value.imag)


def _moment(sink: Sink, value: Any) -> None:  # noqa: ANN401 - a datetime or time
    sink.text(type(value).__name__, f"{value.replace(tzinfo=None, fold=0).isoformat()} {value.fold}")
    sink.zone(value.tzinfo, value)


def _constant(sink: Sink, value: object) -> None:
    sink.text("constant", repr(value))


def _zone(sink: Sink, value: tzinfo) -> None:
    sink.zone(value, None)


def _slice(sink: Sink, value: slice) -> None:
    sink.put("slice")
    sink.items((value.start, value.stop, value.step))


_BUILTIN: dict[type, Callable[[Sink, Any], None]] = {
    **dict.fromkeys((type(None), type(Ellipsis), type(NotImplemented), bool, range), _constant),
    int: lambda sink, value: sink.put("int", b"%x" % value),
    str: lambda sink, value: sink.text("str", value),
    bytes: lambda sink, value: sink.put("bytes", value),
    bytearray: lambda sink, value: sink.put("bytearray", bytes(value)),
    float: _float,
    complex: _complex,
    slice: _slice,
    timezone: _zone,
}

_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_LIBRARY: dict[str, Callable[[Sink, Any], None]] = {
    "datetime.datetime": _moment,
    "datetime.time": _moment,
    "datetime.date": lambda sink, value: sink.text("date", value.isoformat()),
    "datetime.timedelta": lambda sink, value: sink.text("span", f"{value.days} {value.seconds} {value.microseconds}"),
    "zoneinfo.ZoneInfo": _zone,
    "decimal.Decimal": lambda sink, value: sink.text("Decimal", str(value)),
    "fractions.Fraction": lambda sink, value: sink.text("Fraction", f"{value.numerator:x}/{value.denominator:x}"),
    "uuid.UUID": lambda sink, value: sink.text("UUID", f"{value.hex} {value.is_safe.name}"),
    **{f"pathlib.{name}": lambda sink, value: sink.text(type(value).__name__, str(value)) for name in _PATHS},
    **{
        f"ipaddress.IPv{version}{what}": lambda sink, value: sink.text(type(value).__name__, str(value))
        for version in "46"
        for what in ("Address", "Network", "Interface")
    },
}
"""By name, so that nothing is imported for it."""


def _library(kind: type) -> Callable[[Sink, Any], None] | None:
    describe = _LIBRARY.get(f"{(kind.__module__ or '').partition('._')[0]}.{kind.__qualname__}")
    return describe if describe is not None and _is_of_library(kind, None) else None


def _is_of_library(kind: type, name: str | None) -> bool:
    """Return whether this is the class that its name says, in whichever module of its package it is defined."""
    module = (kind.__module__ or "").partition("._")[0]
    if name is not None and f"{module}.{kind.__qualname__}" != name:
        return False
    return not is_of_python(kind) or getattr(sys.modules.get(module), kind.__qualname__, None) is kind
