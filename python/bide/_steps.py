"""How a step is recorded: its name, a proof of its arguments, and the codec of its result.

The proof of the arguments is a format that can never change: the byte 2, a digest of 16 bytes of all
arguments, and then for each of the first few a digest of 4 bytes, the length of a text in one byte, and that text
("path='a.csv'"), truncated. Only the first 17 bytes are compared; the rest is for messages. (A proof of 16 bytes
was recorded by the first version of bide, see `_digest_v1.py`.)

The result is stored by the return annotation of the function, like a task's.
"""

import copy
import functools
import hashlib
import reprlib
import types
from collections.abc import Callable, Iterator
from typing import Any

from bide._bind import return_annotation
from bide._callables import KEPT_CODEC, is_async
from bide._canonical import Canonical, captures
from bide._codec import REFUSE_ABOVE, Codec
from bide._errors import DefinitionError, SerializationError, not_yet
from bide._fingerprint import name_of
from bide._sink import SIZE
from bide._text import escape_surrogates
from bide._waits import check_name

VERSION = b"\x02"
_LONGEST = 100
_LONGEST_TEXTS = 380
"""How many bytes one text of a proof may have, and all of them together."""


def describe_step(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
) -> tuple[str, bytes, Codec]:
    """Return a step's name in the journal, the proof of its arguments, and the codec of its result."""
    if not callable(fn):
        msg = f"handle.step takes a function to call, not {fn!r}"
        raise DefinitionError(msg)
    if is_async(fn):
        feature = f"a step of the async function {name_of(fn)!r}"
        raise not_yet(feature)
    step = check_name(name, "handle.step") or name_of(fn)
    while isinstance(fn, functools.partial):
        args, kwargs, fn = _filled_in(fn.args, args), fn.keywords | kwargs, fn.func
    return step, _proof(fn, args, kwargs, step), _codec(fn, step)


# --- the arguments -------------------------------------------------------------------------------------------------


def _proof(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], step: str) -> bytes:
    whole = hashlib.blake2b(digest_size=SIZE)
    texts = b""
    sink = Canonical(REFUSE_ABOVE)
    for kind, label, value in _arguments(fn, args, kwargs):
        try:
            digest = sink.digest_of(value)
        except Exception as problem:
            if kind.startswith("captured"):  # for example a subclass of str with a connection as an attribute
                continue
            msg = (
                f"the arguments of step {step!r} cannot be recorded ({label}: {problem}): pass plain values, "
                "and let the function itself obtain everything else"
            )
            raise SerializationError(msg) from problem
        whole.update(f"{len(kind)}:{kind}".encode("utf-8", "surrogatepass") + digest)
        if len(texts) < _LONGEST_TEXTS - 20:
            text = _text(label, value)[: min(_LONGEST, _LONGEST_TEXTS - len(texts) - 5)]
            texts += digest[:4] + bytes([len(text)]) + text
    return VERSION + whole.digest() + texts


def _arguments(fn: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield for each argument its kind, its name in messages, and its value."""
    names = _parameters(fn, len(args))
    for at, value in enumerate(args):
        yield "positional", names[at] if at < len(names) else f"argument {at + 1}", value
    for name in sorted(kwargs):
        yield f"keyword {name}", name, kwargs[name]
    for name, value in captures(fn):
        yield f"captured {name}", f"captured {name}", value


def _parameters(fn: object, most: int) -> tuple[str, ...]:
    skip = 0
    if isinstance(fn, types.MethodType):
        fn, skip = fn.__func__, 1
    if not most or not isinstance(fn, types.FunctionType):
        return ()
    return fn.__code__.co_varnames[skip : fn.__code__.co_argcount]


def _filled_in(bound: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a partial's positional arguments with those of the call: in its gaps (CPython 3.14), then after it."""
    gap = getattr(functools, "Placeholder", None)
    if gap is None or not any(item is gap for item in bound):
        return bound + args
    rest = iter(args)
    return tuple(next(rest, item) if item is gap else item for item in bound) + tuple(rest)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlist = _short.maxtuple = _short.maxset = _short.maxfrozenset = _short.maxdict = _short.maxdeque = 8
_short.maxlevel = 3


def _text(label: str, value: object) -> bytes:
    try:
        shown = _short.repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__, an int of more digits than Python converts
        shown = f"<{type(value).__qualname__}>"
    return escape_surrogates(f"{label}={' '.join(shown.split())}").encode()


# --- the result ----------------------------------------------------------------------------------------------------


class _Kept:
    """The codec of a function, kept in an attribute of the function.

    A cache elsewhere would keep the function alive: the codec refers to the class that it decodes, a class to its
    module, and a module to its functions. If the function is pickled by value, or its attributes are copied to
    another function, the codec is not.
    """

    __slots__ = ("code", "codec")

    def __init__(self, code: object = None, codec: Codec | None = None) -> None:
        self.code = code
        self.codec = codec

    def __reduce__(self) -> tuple[type["_Kept"], tuple[()]]:
        return _Kept, ()


def _codec(fn: object, step: str) -> Codec:
    """Return the codec of a step's result."""
    if isinstance(fn, types.MethodType):
        fn = fn.__func__
    if isinstance(fn, types.BuiltinFunctionType):
        return _plain_codec(step)
    if not isinstance(fn, types.FunctionType):
        return _make(fn, step)
    if not fn.__annotations__ and "__wrapped__" not in fn.__dict__ and "__signature__" not in fn.__dict__:
        return _plain_codec(step)
    kept: _Kept | None = fn.__dict__.get(KEPT_CODEC)
    codec = kept.codec if kept is not None and kept.code is fn.__code__ else None
    if codec is None:
        codec = _make(fn, step)
        fn.__dict__[KEPT_CODEC] = _Kept(fn.__code__, codec)
    where = f"step {step!r}"
    if codec.where != where:
        codec = copy.copy(codec)
        codec.where = where
    return codec


def _make(fn: Any, step: str) -> Codec:  # noqa: ANN401 - any callable
    where = f"step {step!r}"
    return Codec(return_annotation(fn, where), where)


@functools.lru_cache(maxsize=1024)
def _plain_codec(step: str) -> Codec:
    """Return the codec of the result of a function without annotations."""
    return Codec(where=f"step {step!r}")
