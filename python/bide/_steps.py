"""How a step is recorded: its name, a proof of its arguments, and the codec of its result; and that of a checkpoint.

A step with a key has no proof: the key says what is the same.

The proof of the arguments is a format that can never change: the byte 2, a digest of 16 bytes of all
arguments, and then for each of the first few a digest of 4 bytes, the length of a text in one byte, and that text
("path='a.csv'"), truncated. Only the first 17 bytes are compared; the rest is for messages. (A proof of 16 bytes
was recorded by the first version of bide, see `_digest_v1.py`.)

The result is stored by the return annotation of the function, like a task's.
"""

import copy
import functools
import hashlib
import inspect
import reprlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bide._bind import return_annotation
from bide._callables import KEPT_CODEC, is_async
from bide._canonical import Canonical, captures
from bide._codec import REFUSE_ABOVE, Codec
from bide._errors import DefinitionError, SerializationError
from bide._fingerprint import name_of
from bide._retry import Retry
from bide._sink import SIZE
from bide._text import check_text, escape_surrogates
from bide._waits import check_name

VERSION = b"\x02"
_OPTIONS = frozenset({"name", "key", "retry", "once"})
"""What `handle.step` takes itself, and so cannot pass on."""

_LONGEST = 100
_LONGEST_TEXTS = 380
"""How many bytes one text of a proof may have, and all of them together."""


def describe_step(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
) -> tuple[str, bytes, Codec]:
    """Return a step's name in the journal, the proof of its arguments, and the codec of its result."""
    if is_async(fn):
        raise _async_step(fn)
    step, fn, args, kwargs = _called(fn, args, kwargs, name)
    return step, _proof(fn, args, kwargs, step), _codec(fn, step)


def describe_step_with(  # noqa: PLR0913, PLR0917 - called by the extension, in order
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str | None,
    key: object,
    retry: object,
    once: object,
) -> tuple[str, bytes | None, Codec, str | None, bool]:
    """Do the same for a step with a key, a retry or `once`; return also its key and whether it is called only once."""
    if is_async(fn):
        raise _async_step(fn)
    return describe_async_step(fn, args, kwargs, name, key, retry, once)


def describe_async_step(  # noqa: PLR0913, PLR0917 - as describe_step_with
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str | None,
    key: object,
    retry: object,
    once: object,
) -> tuple[str, bytes | None, Codec, str | None, bool]:
    """Do the same for a step of a coroutine, which may be an `async def`."""
    step, fn, args, kwargs = _called(fn, args, kwargs, name)
    if key is not None:
        key = check_text(key, "handle.step: key")
    if once is None:
        once = False
    if not isinstance(once, bool):
        msg = f"step {step!r}: once must be True or False, not {once!r}"
        raise DefinitionError(msg)
    if retry is not None:
        if not isinstance(retry, Retry):
            msg = f"step {step!r}: retry must be a bide.Retry, not {retry!r}"
            raise DefinitionError(msg)
        if once:
            msg = f"step {step!r} has once=True and a retry: a step that is called at most once cannot be tried again"
            raise DefinitionError(msg)
        if retry.fresh:
            msg = f"step {step!r}: Retry(fresh=True) drops the journal of a task; a step has none of its own"
            raise DefinitionError(msg)
    proof = _proof(fn, args, kwargs, step) if key is None else None
    return step, proof, _codec(fn, step), key, once


def _async_step(fn: Any) -> DefinitionError:  # noqa: ANN401 - any callable
    return DefinitionError(
        f"the step {name_of(fn)!r} is an `async def`, and this body is a plain `def`, which has no event loop: make "
        "the body `async def` (with a bide.AsyncTaskHandle), or the step a plain `def`"
    )


def checkpoint_codec(annotation: object, task: str) -> Codec:
    """Return the codec of a checkpoint's state."""
    return Codec(annotation, f"task {task!r}", root="the state of a checkpoint")


def _called(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
) -> tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return a step's name, and the function and arguments that a partial stands for."""
    if not callable(fn):
        msg = f"handle.step takes a function to call, not {fn!r}"
        raise DefinitionError(msg)
    step = check_name(name, "handle.step") or name_of(fn)
    bound = 0
    while isinstance(fn, functools.partial):
        bound += len(fn.args)
        args, kwargs, fn = _filled_in(fn.args, args), fn.keywords | kwargs, fn.func
    clash = _options_among(fn, bound) - kwargs.keys()
    if clash:
        option = min(clash)
        msg = (
            f"step {step!r}: handle.step takes {option}= itself and cannot pass it on to the parameter {option!r} of "
            f"{name_of(fn)!r}: bind it before, as in handle.step(functools.partial({name_of(fn)}, {option}=...))"
        )
        raise DefinitionError(msg)
    return step, fn, args, kwargs


def _options_among(fn: object, bound: int) -> frozenset[str]:
    """Return the parameters that have the name of an option of `handle.step`, but for the first ones, which are bound.

    Positional-only ones can only be passed by position, so that nothing is confused.
    """
    if isinstance(fn, type):
        fn, bound = inspect.getattr_static(fn, "__init__", None), bound + 1
    if isinstance(fn, types.MethodType):
        fn, bound = fn.__func__, bound + 1
    if not isinstance(fn, types.FunctionType):
        return frozenset()
    code = fn.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if _OPTIONS.isdisjoint(names):
        return frozenset()
    return _OPTIONS.intersection(names[max(bound, code.co_posonlyargcount) :])


# --- the arguments -------------------------------------------------------------------------------------------------


def proof_of_values(values: Mapping[str, Any], what: str) -> bytes:
    """Return the proof of named values, such as the inputs of a child run."""
    return _proof_of([(f"keyword {name}", name, values[name]) for name in sorted(values)], what)


def _proof(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], step: str) -> bytes:
    return _proof_of(_arguments(fn, args, kwargs), f"step {step!r}")


def _proof_of(arguments: Iterable[tuple[str, str, Any]], what: str) -> bytes:
    whole = hashlib.blake2b(digest_size=SIZE)
    texts = b""
    sink = Canonical(REFUSE_ABOVE)
    for kind, label, value in arguments:
        try:
            digest = sink.digest_of(value)
        except Exception as problem:
            if kind.startswith("captured"):  # for example a subclass of str with a connection as an attribute
                continue
            msg = (
                f"the arguments of {what} cannot be recorded ({label}: {problem}): pass plain values, "
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
