"""The one codec: a value as bytes, and back. Every value that a store keeps passes here.

A value is one tag byte and a payload, a format that can never change:

=====  ==========================================================
``n``  None
``t``  True
``f``  False
``i``  an int: its decimal digits, of any size
``d``  a finite float: its `repr`
``s``  a str: UTF-8
``j``  anything else: JSON text, with `_hooks.py` for what JSON does not know
``p``  a pickle, only where the annotation is ``Annotated[T, bide.Pickle]``
=====  ==========================================================

An exact None, bool, int, float or str always has its own tag. The writer checks what it has written: it decodes
the bytes by its annotation and compares (`_compare.py`), so what cannot come back the same is the writer's error,
before anything is committed.
"""

import logging
import math
import pickle
from collections.abc import Callable
from decimal import Decimal
from inspect import Parameter
from types import NoneType, UnionType
from typing import Annotated, Any, Never, NoReturn, Union, get_args, get_origin

import msgspec

from bide import _compare, _hooks
from bide._errors import DefinitionError, SerializationError

LONGEST_PATH = 400
"""A longer path into a value is shown by its two ends."""

WARN_ABOVE = 1024 * 1024
REFUSE_ABOVE = 64 * 1024 * 1024

SCALAR_TAGS = "ntfids"
_FAST: dict[object, str] = {None: "n", NoneType: "n", bool: "tf", int: "i", float: "d", str: "s"}
_ANYTHING = (Parameter.empty, Any, object, Never, NoReturn)

_log = logging.getLogger("bide")
_json_encode = msgspec.json.Encoder(enc_hook=_hooks.to_json).encode
_json_encode_sets = msgspec.json.Encoder(enc_hook=_hooks.to_json, order="deterministic").encode
_decode_anything = msgspec.json.Decoder()
# Of these there is nothing to find out, and most annotations are one.
_scalar_decoders = {kind: msgspec.json.Decoder(kind, dec_hook=_hooks.from_json) for kind in (bool, int, float, str)}


class Pickle:
    """Marks a value to be stored as a pickle: ``Annotated[T, bide.Pickle]``, on its writer and on every reader.

    A pickle binds the store to this code and runs code when it is read: prefer `bide.codec`, or store a path.
    """


class Codec:
    """How values of one annotation are stored. Compiled once; raises `DefinitionError` if that cannot be.

    `fast` lists the tags whose values need no look at the annotation: the executor encodes and decodes an exact
    scalar of such a tag by itself. `where` names the writer or reader in errors, `root` the value ("result").
    """

    __slots__ = ("_decoder", "_exact", "_to_json", "annotation", "fast", "pickled", "root", "where")

    def __init__(self, annotation: object = Parameter.empty, where: str = "a value", *, root: str = "result") -> None:
        """Compile the annotation."""
        self.where = where
        self.root = root
        self.annotation = annotation
        self.pickled = annotation is not Parameter.empty and _is_pickle(annotation)
        self.fast = _fast_tags(annotation)
        self._exact = annotation is Parameter.empty or annotation is Any or annotation is object
        self._decoder: msgspec.json.Decoder[Any] = _decode_anything
        self._to_json: Callable[[object], bytes] = _json_encode
        if self.fast == SCALAR_TAGS:
            self.annotation = Any
        elif type(annotation) is type and annotation in _scalar_decoders:
            self._decoder = _scalar_decoders[annotation]
        elif not self.pickled:
            self._decoder = self._compile()

    def __repr__(self) -> str:
        """Show what it is for."""
        return f"<Codec of {self.root} in {self.where}: {self.annotation!r}>"

    def encode(self, value: object) -> bytes:
        """Return `value` as stored bytes, checked to come back the same by this codec's annotation."""
        data = _encode_scalar(value)
        if data is None:
            data = self._encode_pickle(value) if self.pickled else self._encode_json(value)
        elif chr(data[0]) not in self.fast and not self.pickled:
            self._check(value, data)
        return self._weigh(data)

    def decode(self, data: bytes) -> Any:  # noqa: ANN401 - it is whatever the annotation says
        """Return the value in stored bytes, by this codec's annotation."""
        try:
            return self._decode(data)
        except SerializationError:
            raise
        except Exception as problem:
            msg = f"{self.where}: {self.root} does not fit {_show(self.annotation)}: {problem}"
            raise SerializationError(msg) from problem

    # --- compiling -------------------------------------------------------------------------------------------------

    def _compile(self) -> msgspec.json.Decoder[Any]:
        what = f"{self.where}: {self.root} is annotated {_show(self.annotation)}, which"
        try:
            unknown = _hooks.unsupported(self.annotation)
            if _hooks.has_sets(self.annotation):  # equal sets must have equal bytes, in every process
                self._to_json = _json_encode_sets
            if unknown is None:
                return msgspec.json.Decoder(self.annotation, dec_hook=_hooks.from_json)
        except NameError as problem:
            msg = f"{what} uses a name that does not exist at run time: {problem}. {REMEDY_NAME}"
            raise DefinitionError(msg) from None
        except Exception as problem:  # noqa: BLE001 - an annotation may be anything at all
            msg = f"{what} cannot be stored: {problem}. {REMEDY_TYPE}"
            raise DefinitionError(msg) from None
        msg = (
            f"{what} cannot be stored, because bide does not know {_show(unknown)}: register it with "
            f"bide.codec({getattr(unknown, '__name__', 'type')}, encode, decode), or return something that JSON "
            "can carry, such as an id or a path"
        )
        raise DefinitionError(msg)

    # --- writing ---------------------------------------------------------------------------------------------------

    def _encode_json(self, value: object) -> bytes:
        try:
            data = b"j" + self._to_json(value)
        except RecursionError:
            self._refuse("refers to itself, or is nested too deeply", _compare.find_culprit(value, self._fails))
        except Exception as problem:  # noqa: BLE001 - the user's own types may raise anything in there
            path, culprit, reason = _compare.find_culprit(value, self._fails)
            self._refuse(reason or str(problem) or type(problem).__name__, (path, culprit, None))
        self._check(value, data)
        return data

    def _encode_pickle(self, value: object) -> bytes:
        try:
            data = b"p" + pickle.dumps(value, protocol=5)
            back = pickle.loads(data[1:])  # noqa: S301 - our own bytes of a moment ago
        except Exception as problem:
            msg = f"{self.where}: {self.root} cannot be pickled: {problem}"
            raise SerializationError(msg) from problem
        if type(back) is not type(value):
            self._refuse(f"is unpickled as {_show(type(back))}", ("", value, None))
        return data

    def _check(self, value: object, data: bytes) -> None:
        """Decode what was written and walk both; a difference is the writer's error."""
        try:
            back = self._decode(data)
        except Exception as problem:
            found = _compare.find_number(value)
            if found is not None:
                self._refuse("cannot be stored: JSON has no such number", (found[0], found[1], None))
            msg = f"{self.where}: {self.root} does not fit {_show(self.annotation)}: {problem}"
            raise SerializationError(msg) from problem
        difference = _compare.compare(value, back)
        if difference is not None:
            self._refuse(difference.reason, (difference.path, difference.value, None))

    def _refuse(self, reason: str, found: tuple[str, object, str | None]) -> Never:
        path, culprit, _ = found
        if len(path) > LONGEST_PATH:
            half = LONGEST_PATH // 2
            path = f"{path[:half]} ... {path[-half:]}"
        if self._exact and "would come back as" in reason:
            reason += f"; annotate {self.root}, or convert it"
        msg = f"{self.where}: {self.root}{path} = {_clip(culprit)} {reason}"
        raise SerializationError(msg)

    def _fails(self, value: object) -> str | None:
        """Why `value` cannot be encoded; None if it can."""
        if type(value) is float and not math.isfinite(value):
            return "cannot be stored: JSON has no such number"
        try:
            self._to_json(value)
        except RecursionError:
            return "refers to itself, or is nested too deeply"
        except TypeError as problem:
            if "'<' not supported" in str(problem):
                return "is or has a set whose elements cannot be put in order: use a list, or give their class __lt__"
            return f"cannot be stored: {problem}"
        except UnicodeEncodeError:
            return "has a lone surrogate, which is not text: decode it properly, or pass bytes in base64"
        except Exception as problem:  # noqa: BLE001 - the user's own types may raise anything in there
            return f"cannot be stored: {problem}"
        return None

    def _weigh(self, data: bytes) -> bytes:
        size = len(data)
        if size > WARN_ABOVE:
            if size > REFUSE_ABOVE:
                takes = math.ceil(size / 2**20 * 10) / 10  # never "64.0 MiB, more than 64"
                msg = f"{self.where}: {self.root} takes {takes} MiB, more than 64 MiB: store a path instead"
                raise SerializationError(msg)
            _log.warning("%s: %s takes %.1f MiB: consider storing a path", self.where, self.root, size / 2**20)
        return data

    # --- reading ---------------------------------------------------------------------------------------------------

    def _decode(self, data: bytes) -> Any:  # noqa: ANN401 - as in decode
        tag = chr(data[0])
        if tag == "p":
            if not self.pickled:
                msg = (
                    f"{self.where}: {self.root} was stored as a pickle: annotate it Annotated[T, bide.Pickle] here too"
                )
                raise SerializationError(msg)
            return pickle.loads(data[1:])  # noqa: S301 - asked for by the annotation on both sides
        if tag == "j":
            return self._decoder.decode(data[1:])
        value = _decode_scalar(tag, data)
        if tag in self.fast or self.pickled:
            return value
        return msgspec.convert(value, self.annotation, dec_hook=_hooks.from_json)


REMEDY_NAME = "Import it outside of `if TYPE_CHECKING:`, or define it at module level, or leave the annotation out"
REMEDY_TYPE = "Name one type that can be decoded (a Path or a str, not either), or leave the annotation out"


def encode_plain(value: object) -> bytes | None:
    """Return an exact scalar's stored bytes; None for any other value."""
    return _encode_scalar(value)


def _encode_scalar(value: object) -> bytes | None:
    kind = type(value)
    if kind is str:
        try:
            return b"s" + value.encode()  # type: ignore[attr-defined, no-any-return] # pyright: ignore[reportAttributeAccessIssue]
        except UnicodeEncodeError:
            return None  # JSON refuses it as well, with the path
    if kind is int:
        return b"i" + _digits(value)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    if value is None:
        return b"n"
    if kind is bool:
        return b"t" if value else b"f"
    if kind is float and math.isfinite(value):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        return b"d" + repr(value).encode()
    return None


def _decode_scalar(tag: str, data: bytes) -> object:
    if tag == "s":
        return data[1:].decode()
    if tag == "i":
        try:
            return int(data[1:])
        except ValueError:
            return int(Decimal(data[1:].decode()))
    if tag == "d":
        return float(data[1:])
    if tag in "ntf":
        return {"n": None, "t": True, "f": False}[tag]
    msg = f"unknown value tag {tag!r}: stored by a newer bide?"
    raise SerializationError(msg)


def _digits(value: int) -> bytes:
    try:
        return str(value).encode()
    except ValueError:  # more digits than Python converts by default; Decimal has no such limit
        return str(Decimal(value)).encode()


def _is_pickle(annotation: object) -> bool:
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
    """Return an annotation as a user would write it."""
    if isinstance(annotation, type) and not get_args(annotation):
        text = annotation.__qualname__
        if annotation.__module__ != "builtins":
            text = f"{annotation.__module__}.{text}"
    else:
        text = str(annotation)
    return text.replace("pathlib._local.", "pathlib.")  # where CPython 3.13 keeps it


def _clip(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__, or a cycle that has no end
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004 - a line's worth


def codec(cls: type, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
    """Teach bide to store `cls`: `encode(value)` gives something JSON can carry, `decode` takes it back.

    Register it before the first workflow that uses the class is built.
    """
    _hooks.register(cls, encode, decode)
