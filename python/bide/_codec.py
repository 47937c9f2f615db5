"""The codec: turns values into stored bytes and back. Every value that a store keeps passes through it.

A stored value is one tag byte and a payload, a format that can never change:

=====  ==========================================================
``n``  None
``t``  True
``f``  False
``i``  an int: its decimal digits
``d``  a finite float: its `repr`
``s``  a str: UTF-8
``j``  anything else: JSON text, with `_hooks.py` for the types that JSON does not have
``m``  the same with pydantic models: a line of JSON, the fields that were not set (`_models.py`), then the text
``p``  a pickle, only where the annotation is ``Annotated[T, bide.Pickle]``
=====  ==========================================================

An exact None, bool, int, float or str always has its own tag. The writer checks what it has written: it decodes
the bytes by its annotation and compares (`_compare.py`), so a value that would not come back the same is an error
before anything is committed. `_shapes.py` plans what msgspec does not do by itself for an annotation.
"""

from __future__ import annotations

import math
from inspect import Parameter
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Never, NoReturn, Union, get_args, get_origin

import msgspec

from bide import _compare, _hooks, _models, _nodes, _scalars, _shapes
from bide._errors import DefinitionError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_PATH = 400
"""A longer path into a value is shown by its two ends only."""

WARN_ABOVE = 1024 * 1024
REFUSE_ABOVE = 64 * 1024 * 1024

SCALAR_TAGS = "ntfids"
_FAST: dict[object, str] = {None: "n", NoneType: "n", bool: "tf", int: "i", float: "d", str: "s"}
_ANYTHING = (Parameter.empty, Any, object, Never, NoReturn)

_json_encode = msgspec.json.Encoder(enc_hook=_hooks.to_json).encode
_decode_anything = msgspec.json.Decoder()
_decode_marks = msgspec.json.Decoder(_models.Marks)
_BYTES = (bytes, bytearray, memoryview)
_READY: dict[type, tuple[object, str, bool, msgspec.json.Decoder[Any]]] = {
    **{
        kind: (kind, _FAST[kind], False, msgspec.json.Decoder(kind, dec_hook=_hooks.from_json))
        for kind in (bool, int, float, str)
    },
    **dict.fromkeys((Parameter.empty, object), (Any, SCALAR_TAGS, True, _decode_anything)),
}
"""What `Codec` keeps of an annotation that needs no compiling; most are one."""


class Pickle:
    """Store a value as a pickle: ``Annotated[T, bide.Pickle]``, on its writer and on every reader.

    A pickle binds the store to this code, and reading it runs code: prefer `bide.codec`, or store a path.
    """


class Codec:
    """Stores values of one annotation. Raises `DefinitionError` if the annotation cannot be stored.

    `fast` lists the tags whose values every annotation of this kind accepts: the executor encodes and decodes an exact
    scalar of such a tag by itself. `where` names the writer or reader in errors, `root` the value ("result").
    """

    __slots__ = ("_decoder", "_exact", "_plan", "annotation", "fast", "pickled", "remedy", "root", "where")

    def __init__(
        self,
        annotation: object = Parameter.empty,
        where: str = "a value",
        *,
        root: str = "result",
        bytes_from_text: bool = True,
        remedy: str | None = None,
    ) -> None:
        """Compile the annotation; without `bytes_from_text`, text within a value is not read as base64.

        `remedy` says how to give the value a type, if not by an annotation.
        """
        self.where = where
        self.root = root
        self.remedy = remedy or f"annotate {root}"
        self._plan: _shapes.Plan | None = None
        self.pickled = False
        ready = _READY.get(annotation) if type(annotation) is type else None
        if ready is not None:
            self.annotation, self.fast, self._exact, self._decoder = ready
            return
        self.annotation = annotation
        self.fast = _fast_tags(annotation)
        self._exact = annotation is Any
        self._decoder = _decode_anything
        if self.fast == SCALAR_TAGS:
            self.annotation = Any
        elif is_pickle(annotation):
            self.pickled = True
        else:
            self._compile(bytes_from_text=bytes_from_text)

    def __repr__(self) -> str:
        """Return what the codec is for, for debugging."""
        return f"<Codec of {self.root} in {self.where}: {self.annotation!r}>"

    @property
    def shown(self) -> str:
        """The annotation as a user writes it."""
        return "None" if self.annotation is NoneType else _show(self.annotation)

    @property
    def type_name(self) -> str:
        """The annotation as a user writes it; empty if it accepts anything."""
        return "" if self.annotation is Any else _show(self.annotation)

    @property
    def has_bytes(self) -> bool:
        """Whether the values may contain bytes."""
        return self._plan is not None and (self._plan.has_bytes or self._plan.hard)

    def for_writer(self, writer: Codec) -> Codec:
        """Return this reader's codec for values of `writer`: if these contain no bytes, text is not read as bytes."""
        if not self.has_bytes or writer.has_bytes:
            return self
        return Codec(self.annotation, self.where, root=self.root, bytes_from_text=False)

    def encode(self, value: object) -> bytes:
        """Return `value` as stored bytes, after checking that they decode to the same by this codec's annotation."""
        return self.check_size(self.encode_any_size(value))

    def encode_by_class(self, value: object) -> bytes:
        """Do the same; without an annotation, encode what would not come back the same by its own class.

        For values whose reader has a type of its own.
        """
        try:
            return self.encode(value)
        except SerializationError as refusal:
            if not self._exact:
                raise
            try:
                return Codec(type(value), self.where, root=self.root).encode(value)
            except (DefinitionError, SerializationError):
                raise refusal from None

    def encode_any_size(self, value: object) -> bytes:
        """Do the same without checking the size."""
        data = _scalars.encode_scalar(value)
        if data is None:
            return self._encode_pickle(value) if self.pickled else self._encode_json(value)
        if chr(data[0]) not in self.fast and not self.pickled:
            self._refuse_difference(self._difference(value, data))
        return data

    def decode(self, data: bytes) -> Any:  # noqa: ANN401 - it is whatever the annotation says
        """Return the value in stored bytes, by this codec's annotation."""
        try:
            return self._decode(data)
        except SerializationError:
            raise
        except Exception as problem:
            msg = f"{self.where}: {self.root} does not fit {_show(self.annotation)}: {problem}"
            raise SerializationError(msg) from problem

    def check_size(self, data: bytes) -> bytes:
        """Warn about a large value and refuse a huge one."""
        size = len(data)
        if size > WARN_ABOVE:
            if size > REFUSE_ABOVE:
                takes = math.ceil(size / 2**20 * 10) / 10  # never "64.0 MiB, more than 64"
                msg = f"{self.where}: {self.root} takes {takes} MiB, more than 64 MiB: store a path instead"
                raise SerializationError(msg)
            import logging  # noqa: PLC0415 - few values are that large

            log = logging.getLogger("bide")
            log.warning("%s: %s takes %.1f MiB: consider storing a path", self.where, self.root, size / 2**20)
        return data

    # --- compiling -------------------------------------------------------------------------------------------------

    def _compile(self, *, bytes_from_text: bool) -> None:
        what = f"{self.where}: {self.root} is annotated {_show(self.annotation)}, which"
        unknown, part = None, self.annotation
        try:
            plan = _shapes.Plan(self.annotation, bytes_from_text=bytes_from_text)
            for part in plan.for_msgspec():
                unknown = unknown or _hooks.unsupported(part)
            if unknown is None:
                self._plan = plan if plan.active else None
                if not plan.hard:
                    self._decoder = msgspec.json.Decoder(self.annotation, dec_hook=_hooks.from_json)
                return
        except NameError as problem:
            msg = f"{what} uses a name that does not exist at run time: {problem}. {REMEDY_NAME}"
            raise DefinitionError(msg) from None
        except Exception as problem:  # noqa: BLE001 - an annotation may be anything at all
            found = _hooks.culprit(part)
            remedy = REMEDY_TYPE if found is None else f"Register it with {_hooks.call(found[0])}"
            why = problem if found is None else f"msgspec does not support {_show(found[0])}: {found[1]}"
            msg = f"{what} cannot be stored: {why}. {remedy}"
            raise DefinitionError(msg) from None
        remedy = (
            f"register it with bide.codec({getattr(unknown, '__name__', 'type')}, encode, decode), or return something "
            "that JSON can represent, such as an id or a path"
        )
        if _hooks.gives_items(unknown):
            remedy = "annotate it list[...], and make it a list"
        msg = f"{what} cannot be stored, because bide does not know {_show(unknown)}: {remedy}"
        raise DefinitionError(msg)

    # --- writing ---------------------------------------------------------------------------------------------------

    def _encode_json(self, value: object) -> bytes:
        plan = self._plan
        try:
            data = self._written(value, plan if plan is not None and plan.rewrites else None)
            difference = self._difference(value, data)
            if difference is not None and plan is not None and plan.moments and not plan.rewrites:
                data = self._written(value, plan)  # with time zones, which msgspec omits
                difference = self._difference(value, data)
        except SerializationError:
            raise
        except RecursionError:
            self._refuse(*(self._too_deep(value) or ("", value, _compare.TOO_DEEP)))
        except Exception as problem:  # noqa: BLE001 - the user's own types may raise anything in there
            self._refuse_deep_model(value)
            path, culprit, reason = _compare.find_culprit(value, self._fails)
            self._refuse(path, culprit, reason or f"cannot be stored: {problem or type(problem).__name__}")
        self._refuse_difference(difference)
        return data

    def _written(self, value: object, plan: _shapes.Plan | None) -> bytes:
        raw = _json_encode(value if plan is None else plan.write(value))
        if self._plan is not None and self._plan.models:
            marks = _models.unset(value, _compare.parts)
            if marks:
                return b"m" + msgspec.json.encode(marks) + b"\n" + raw
        return b"j" + raw

    def _encode_pickle(self, value: object) -> bytes:
        import pickle  # noqa: PLC0415 - few values are annotated so

        try:
            data = b"p" + pickle.dumps(value, protocol=5)
            back = pickle.loads(data[1:])  # noqa: S301 - our own bytes of a moment ago
        except Exception as problem:
            msg = f"{self.where}: {self.root} cannot be pickled: {problem}"
            raise SerializationError(msg) from problem
        if type(back) is not type(value):
            self._refuse("", value, f"is unpickled as {_show(type(back))}")
        return data

    def _difference(self, value: object, data: bytes) -> _compare.Difference | None:
        """Decode what was written and return the first difference from the value, which is the writer's error."""
        try:
            back = self._decode(data)
        except RecursionError:
            raise
        except Exception as problem:
            found = _compare.find(value, _compare.is_no_number)
            if found is not None:
                self._refuse(*found, "cannot be stored: JSON has no such number")
            if isinstance(problem, _nodes.NoFloat):
                number = problem.number
                found = _compare.find(value, lambda part: type(part) is int and part == number)
                self._refuse(*(found or ("", value)), "is an integer that no float represents")
            self._refuse_deep_model(value)
            msg = f"{self.where}: {self.root} does not fit {_show(self.annotation)}: {problem}"
            raise SerializationError(msg) from problem
        return _compare.compare(value, back)

    def _refuse_difference(self, difference: _compare.Difference | None) -> None:
        if difference is not None:
            self._refuse(difference.path, difference.value, difference.reason)

    def _refuse(self, path: str, culprit: object, reason: str) -> Never:
        if len(path) > LONGEST_PATH:
            half = LONGEST_PATH // 2
            path = f"{path[:half]} ... {path[-half:]}"
        if self._exact and "would come back as" in reason:
            reason += f"; {self.remedy}, or convert it"
        msg = f"{self.where}: {self.root}{path} = {_compare.show(culprit)} {reason}"
        raise SerializationError(msg)

    def _too_deep(self, value: object) -> tuple[str, object, str] | None:
        try:
            return _compare.find_depth(value)
        except Exception:  # noqa: BLE001 - there may be no stack left for the search
            return None

    def _refuse_deep_model(self, value: object) -> None:
        """Report the place if a value with models is too deep, for which pydantic has limits of its own."""
        deep = self._too_deep(value) if self._plan is not None and self._plan.models else None
        if deep is not None:
            self._refuse(*deep)

    def _fails(self, value: object) -> str | None:
        """Return why `value` cannot be encoded; None if it can."""
        if type(value) is float and not math.isfinite(value):
            return "cannot be stored: JSON has no such number"
        if type(value) is int and not _scalars.is_short(value):
            return f"cannot be stored: it has more than {_scalars.MAX_DIGITS} digits"
        try:
            _json_encode(value)
        except RecursionError:
            return _compare.TOO_DEEP
        except UnicodeEncodeError:
            return "has a lone surrogate, which is not text: decode it properly, or pass bytes in base64"
        except Exception as problem:  # noqa: BLE001 - the user's own types may raise anything in there
            return f"cannot be stored: {problem}"
        return None

    # --- reading ---------------------------------------------------------------------------------------------------

    def _decode(self, data: bytes) -> Any:  # noqa: ANN401 - as in decode
        tag = chr(data[0])
        if tag == "p":
            if not self.pickled:
                msg = (
                    f"{self.where}: {self.root} was stored as a pickle: annotate it Annotated[T, bide.Pickle] here too"
                )
                raise SerializationError(msg)
            import pickle  # noqa: PLC0415 - as above

            return pickle.loads(data[1:])  # noqa: S301 - asked for by the annotation on both sides
        if tag == "j":
            return self._decode_json(data[1:])
        if tag == "m":
            marks, _, raw = data[1:].partition(b"\n")
            value = self._decode_json(raw)
            _models.mark(value, _decode_marks.decode(marks), _compare.parts)
            return value
        value = _scalars.decode_scalar(tag, data)
        if tag in self.fast or self.pickled:
            return value
        return self._converted(value)

    def _decode_json(self, raw: bytes) -> Any:  # noqa: ANN401 - as in decode
        plan = self._plan
        if plan is not None and plan.must_read(raw):
            return plan.read(_decode_anything.decode(raw))
        return self._decoder.decode(raw)

    def _converted(self, value: object) -> Any:  # noqa: ANN401 - as in decode
        """Return a stored scalar converted to the annotation, if nothing is lost."""
        if self._plan is not None:
            back = self._plan.read(value)
        else:
            back = msgspec.convert(value, self.annotation, dec_hook=_hooks.from_json)
        kind, other = type(value), type(back)
        if (kind is str and other in _BYTES) or (kind is int and other is float and back != value):
            msg = f"Expected `{other.__name__}`, got `{kind.__name__}` {_compare.show(value)}"
            raise ValueError(msg)
        return back


REMEDY_NAME = "Import it outside of `if TYPE_CHECKING:`, or define it at module level, or leave the annotation out"
REMEDY_TYPE = "Annotate one type that can be decoded: Path or str, not a union of both"


def is_pickle(annotation: object) -> bool:
    """Return whether an annotation asks for a pickle."""
    return get_origin(annotation) is Annotated and any(
        note is Pickle or isinstance(note, Pickle) for note in get_args(annotation)[1:]
    )


def _fast_tags(annotation: object) -> str:
    if annotation is Parameter.empty or any(annotation is anything for anything in _ANYTHING):
        return SCALAR_TAGS
    if isinstance(annotation, (type, NoneType)) and annotation in _FAST:
        return _FAST[annotation]
    if get_origin(annotation) in {Union, UnionType}:
        parts = [_FAST.get(part) if isinstance(part, type) else None for part in get_args(annotation)]
        return "" if None in parts else "".join(tag for tag in SCALAR_TAGS if any(tag in (p or "") for p in parts))
    return ""


def _show(annotation: object) -> str:
    """Return an annotation as a user writes it."""
    if isinstance(annotation, type) and not get_args(annotation):
        text = annotation.__qualname__
        if annotation.__module__ != "builtins":
            text = f"{annotation.__module__}.{text}"
    else:
        text = str(annotation)
    return text.replace("pathlib._local.", "pathlib.")  # where CPython 3.13 keeps it


def codec(cls: type, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
    """Register how `cls` is stored: `encode(value)` returns something that JSON can represent, `decode` the value.

    Register a class before building the first workflow that uses it.
    """
    _hooks.register(cls, encode, decode)
