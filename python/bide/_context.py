"""`Context`: JSON values passed down a workflow's graph. A body has its own copy; only its changes are kept.

Values stay encoded until they are read. Changes are found at the end by comparing encoded values: a change inside a
list counts; reading a key or reordering a dict's keys does not. The core merges the changes of several tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, overload

import msgspec

from bide._codec import Codec
from bide._compare import step
from bide._errors import BideError, DefinitionError
from bide._text import is_text

_ABSENT: Any = object()
_by_value = msgspec.json.Encoder(order="sorted").encode


class Context(Mapping[str, Any]):
    """A mutable mapping of JSON values: None, bool, int, float, str, and lists and dicts (with str keys) of them."""

    __slots__ = ("_base", "_codec", "_read_only", "_values", "_where")

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        """Start with these values. In a workflow the executor creates the context."""
        self._where = "the context"
        self._codec: Codec | None = None
        self._base: dict[str, bytes] = {}
        self._values: dict[str, Any] = {}
        self._read_only = False
        for key, value in (values or {}).items():
            self.set(key, value)

    @classmethod
    def _from_encoded(cls, base: Mapping[str, bytes], where: str = "the context") -> Context:
        """Return a task's copy: `base` has the encoded values that it starts from, `where` names the task in errors."""
        context = cls.__new__(cls)
        context._where = where
        context._codec = None
        context._base = dict(base)
        context._values = dict.fromkeys(base, _ABSENT)  # _ABSENT: not decoded yet
        context._read_only = False
        return context

    # --- reading ---------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - a JSON value
        """Return the value of `key`; a change inside it counts as a change of the key."""
        value = self._values[key]
        if value is _ABSENT:
            value = self._decode(key)
            if not self._read_only:
                self._values[key] = value
        elif self._read_only:  # return a copy, so that a step or condition cannot change the context
            value = self._codec_of(key).decode(self._encode(key, value))
        return value

    def __contains__(self, key: object) -> bool:
        """Return whether the key exists."""
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._values)

    def __repr__(self) -> str:
        """Show the values."""
        return f"Context({self.to_dict()!r})"

    def __reduce__(self) -> tuple[Any, tuple[dict[str, bytes], str]]:
        """Reduce to the encoded values, for a copy or pickle."""
        return Context._from_encoded, (dict(self._encoded()), self._where)

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a new dict; the values themselves are not copied."""
        return {key: self[key] for key in self._values}

    def to_json(self) -> str:
        """Return the values as a JSON object."""
        import json  # noqa: PLC0415 - for this alone

        return json.dumps({key: self._codec_of(key).decode(data) for key, data in self._encoded()}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Context:
        """Return a context with the values of a JSON object."""
        import json  # noqa: PLC0415 - for this alone

        try:
            values = json.loads(text)
        except ValueError as problem:
            msg = f"Context.from_json: not JSON: {problem}"
            raise DefinitionError(msg) from None
        if not isinstance(values, dict):
            msg = f"Context.from_json takes a JSON object, not {type(values).__name__}"
            raise DefinitionError(msg)
        return cls(values)

    # --- changing --------------------------------------------------------------------------------------------------

    def set(self, key: str, value: Any) -> None:  # noqa: ANN401 - a JSON value
        """Set `key`, whether it exists or not. A value that cannot be stored is refused."""
        self._refuse_if_read_only()
        self._check(key, value)
        self._values[key] = value

    def insert(self, key: str, value: Any) -> None:  # noqa: ANN401 - a JSON value
        """Set a new key; raise `KeyError` if it exists."""
        if key in self._values:
            msg = f"the context has {key!r} already: use update or set"
            raise KeyError(msg)
        self.set(key, value)

    @overload
    def update(self, key: str, value: Any, /) -> None: ...  # noqa: ANN401 - a JSON value
    @overload
    def update(self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = ..., /, **more: Any) -> None: ...  # noqa: ANN401 - as above
    def update(self, /, *values: Any, **more: Any) -> None:
        """Set several keys, like `dict.update`: of a mapping, of pairs, or given by name.

        With a key and a value, set an existing key; raise `KeyError` if it does not exist.
        """
        if len(values) == 2:  # noqa: PLR2004 - a key and its value
            key, value = values
            if key not in self._values:
                msg = f"the context has no {key!r}: use insert or set"
                raise KeyError(msg)
            values = ({key: value},)
        new = dict(*values, **more)
        self._refuse_if_read_only()
        for key, value in new.items():
            self._check(key, value)
        self._values.update(new)

    def setdefault(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - a JSON value
        """Return the value of `key`; set it to `default` first if it does not exist."""
        if key not in self._values:
            self.set(key, default)
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:  # noqa: ANN401 - a JSON value
        """Remove a key and return its value; without it return the default, or raise `KeyError`."""
        if len(default) > 1:
            msg = f"pop takes a key and at most one default, not {len(default)}"
            raise TypeError(msg)
        self._refuse_if_read_only()
        if key not in self._values and default:
            return default[0]
        value = self[key] if key in self._values else None
        self.remove(key)
        return value

    def remove(self, key: str) -> None:
        """Remove a key; raise `KeyError` if it does not exist."""
        self._refuse_if_read_only()
        if key not in self._values:
            msg = f"the context has no {key!r}"
            raise KeyError(msg)
        del self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:  # noqa: ANN401 - a JSON value
        """Set `key`, whether it exists or not."""
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        """Remove a key."""
        self.remove(key)

    # --- for the executor ------------------------------------------------------------------------------------------

    def changes(self) -> list[tuple[str, bytes | None]]:
        """Return what the body changed: each key with its encoded value, None if it was removed."""
        changed: list[tuple[str, bytes | None]] = []
        for key, value in self._values.items():
            if value is _ABSENT:
                continue
            data, before = self._encode(key, value), self._base.get(key)
            if data != before and (before is None or not self._is_equal(key, value, before)):
                changed.append((key, data))
        changed.extend((key, None) for key in self._base if key not in self._values)
        return changed

    @property
    def read_only(self) -> bool:
        """Whether changes are refused, as within a step and a condition."""
        return self._read_only

    def _set_read_only(self, read_only: bool) -> None:  # noqa: FBT001 - a setter
        self._read_only = read_only

    def _check(self, key: object, value: object) -> None:
        """Refuse what cannot be a key or a value."""
        if type(key) is not str:
            msg = f"a context's keys are str, not {key!r}"
            raise DefinitionError(msg)
        if not is_text(key):
            msg = f"a context's key is {key!r}, which has a lone surrogate and is not text"
            raise DefinitionError(msg)
        self._encode(key, value)

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            msg = "the context is read-only within a step and a condition: change it in the body"
            raise BideError(msg)

    def _is_equal(self, key: str, value: object, before: bytes) -> bool:
        """Whether a value equals the initial one; the order of a dict's keys and the encoding do not matter."""
        return _by_value(self._codec_of(key).decode(before)) == _by_value(value)

    def _codec_of(self, key: str) -> Codec:
        """Return the codec, after naming `key` in it. It is created late, since most bodies use few keys."""
        if self._codec is None:
            self._codec = Codec(where=self._where)
        self._codec.root = "context" + step(key)
        return self._codec

    def _encode(self, key: str, value: object) -> bytes:
        return self._codec_of(key).encode(value)

    def _decode(self, key: str) -> Any:  # noqa: ANN401 - a JSON value
        return self._codec_of(key).decode(self._base[key])

    def _encoded(self) -> list[tuple[str, bytes]]:
        return [
            (key, self._base[key] if value is _ABSENT else self._encode(key, value))
            for key, value in self._values.items()
        ]
