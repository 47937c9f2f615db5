"""What is recorded of a step beside its result: its name, what its arguments were, and how its result is stored.

The result is stored by the return annotation of the function, like a task's.
"""

import functools
from collections.abc import Callable
from typing import Any

from bide._bind import return_annotation
from bide._callables import is_async
from bide._codec import REFUSE_ABOVE, Codec
from bide._errors import DefinitionError, SerializationError, not_yet
from bide._fingerprint import digest_of, name_of
from bide._waits import check_name


def describe_step(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
) -> tuple[str, bytes, Codec]:
    """Return a step's name in the journal, a digest of its arguments, and the codec of its result."""
    if not callable(fn):
        msg = f"handle.step takes a function to call, not {fn!r}"
        raise DefinitionError(msg)
    if is_async(fn):
        feature = f"a step of the async function {name_of(fn)!r}"
        raise not_yet(feature)
    step = check_name(name, "handle.step") or name_of(fn)
    try:
        digest = digest_of([list(args), sorted(kwargs.items())], REFUSE_ABOVE)
    except Exception as problem:
        msg = (
            f"the arguments of step {step!r} cannot be recorded ({problem}): pass plain values, "
            "and let the function get hold of everything else by itself"
        )
        raise SerializationError(msg) from problem
    return step, digest, _codec(fn, step)


def _codec(fn: Callable[..., Any], step: str) -> Codec:
    try:
        return _cached(fn, step)
    except TypeError:  # not hashable
        return _make(fn, step)


def _make(fn: Callable[..., Any], step: str) -> Codec:
    return Codec(return_annotation(fn, f"step {step!r}"), f"step {step!r}")


_cached = functools.lru_cache(maxsize=1024)(_make)
