"""One call of a body by an executor, as the other process or thread carries it out: `execute`, and what that returns.

It encodes the return value there by the task's own codec, so that the process which commits the bytes does not
decode and encode them again. An exception stays the object that it is within one process. Pickled, it takes its stored
form along, and is itself again on the other side if its class allows that, else a `TaskFailed`.
"""

import functools
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, TypeAlias

from bide._bind import return_annotation
from bide._codec import Codec
from bide._errors import TaskFailed
from bide._signature import MISSING


class Encoded:
    """A return value as stored bytes."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        """Keep the bytes."""
        self.data = data

    def __reduce__(self) -> tuple[type["Encoded"], tuple[bytes]]:
        """Reduce to the bytes."""
        return Encoded, (self.data,)


class Failed:
    """The exception by which a body has ended."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        """Keep the exception."""
        self.error = error

    def __reduce__(self) -> tuple[Callable[[bytes, bytes | None], "Failed"], tuple[bytes, bytes | None]]:
        """Reduce to what is stored of the exception, and its pickle if it has one."""
        from bide._stored_errors import describe_end  # noqa: PLC0415 - for failures alone

        return _failed_elsewhere, (describe_end(self.error), _pickled(self.error))


Ended: TypeAlias = Encoded | Failed


class Elsewhere(Exception):
    """Shows, as a cause, the traceback of an exception that was raised in another process."""

    def __str__(self) -> str:
        """Return the traceback."""
        return f"raised in another process:\n{self.args[0]}"


def execute(
    fn: Callable[..., Any], task: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], codec: Codec | None = None
) -> Ended:
    """Call a body, and return its encoded value or its exception."""
    try:
        codec = codec or codec_of(fn, task)
        value = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - an exit of the body is its failure, as within the runner
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next  # not this frame
        return Failed(error)
    try:
        return Encoded(codec.encode(value))
    except Exception as error:  # noqa: BLE001 - a value that cannot be stored
        return Failed(error)


def codec_of(fn: Callable[..., Any], task: str) -> Codec:
    """Return how the return value of a task's function is stored."""
    try:
        return _codec_of(fn, task)
    except TypeError:  # it has no hash
        return _codec_of.__wrapped__(fn, task)


@functools.lru_cache(maxsize=1024)
def _codec_of(fn: Callable[..., Any], task: str) -> Codec:
    where = f"task {task!r}"
    annotation = return_annotation(fn, where)
    return Codec(Parameter.empty if annotation is MISSING else annotation, where)


def _pickled(error: BaseException) -> bytes | None:
    import pickle  # noqa: PLC0415 - for failures alone

    try:
        data = pickle.dumps(error)
        same = type(pickle.loads(data)) is type(error)  # noqa: S301 - our own bytes of a moment ago
    except BaseException:  # noqa: BLE001 - an exception's parts may be anything
        return None
    return data if same else None


def _failed_elsewhere(shown: bytes, pickled: bytes | None) -> Failed:
    from bide._error_state import remember_stored  # noqa: PLC0415 - for failures alone
    from bide._stored_errors import task_failed  # noqa: PLC0415 - as above

    described = task_failed(shown)
    error = _unpickled(pickled) or described
    if error.__cause__ is None and not isinstance(error, TaskFailed) and described.traceback:
        error.__cause__ = Elsewhere(described.traceback)
    remember_stored(error, shown)
    return Failed(error)


def _unpickled(pickled: bytes | None) -> BaseException | None:
    import pickle  # noqa: PLC0415 - for failures alone

    if pickled is None:
        return None
    try:
        error = pickle.loads(pickled)  # noqa: S301 - made by this program, in a process that it has started
    except Exception:  # noqa: BLE001 - its class may not be here
        return None
    return error if isinstance(error, BaseException) else None
