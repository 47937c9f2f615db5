"""Bodies that an executor executes, seen from the process that has the run: `RemoteBody`.

Here such a body is a coroutine with one wait. The wait is committed, then the call is given to the executor, and its
end completes the wait: meanwhile the body has neither a thread nor a slot. A body that is entered again, after a crash
or a close, finds its wait open and gives the call again, which executors that keep results answer with the first one.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from msgspec import structs

from bide._codec import Codec
from bide._errors import BideError, DefinitionError, TaskTimeout
from bide._executors import Begun, Call, RemoteExecutor
from bide._remote_call import Encoded, Ended, Failed, execute
from bide._waits import until

if TYPE_CHECKING:
    import asyncio

    from bide._async_handle import AsyncTaskHandle
    from bide._bind import Binding
    from bide._task import TaskDef

WAIT = "executor"
"""The name by which the wait is recorded."""

SOON, LONG = 0.001, 86_400.0
"""Seconds between the commit of the wait and the call, and between later looks at it. Its end is not polled for."""

_under_way: "dict[tuple[str, str], _Execution]" = {}
"""The calls of this process, by the id of the run and the name of the task."""


def where(run: str, task: str) -> str | None:
    """Say where the body of a task is, if this process has given it to an executor."""
    execution = _under_way.get((run, task))
    return None if execution is None else execution.where()


class RemoteCodec(Codec):
    """Passes on what was encoded elsewhere; any other value is encoded as always."""

    __slots__ = ()

    def encode(self, value: object) -> bytes:
        """Return stored bytes, after a look at their number."""
        return self.check_size(value.data) if isinstance(value, Encoded) else super().encode(value)


class RemoteBody:
    """The body of a task with an executor."""

    def __init__(self, one: "TaskDef", binding: "Binding", executor: RemoteExecutor) -> None:
        """Refuse a function that the executor cannot call."""
        self._task, self._timeout, self._codec = one.name, one.timeout, binding.returns
        self._parameters = tuple(source.parameter for source in binding.positional)
        self._executor = executor
        self._fn = executor._check(one)

    async def __call__(self, handle: "AsyncTaskHandle", /, *args: object, **kwargs: object) -> Encoded:
        """Have the executor call the function, and return what it has returned."""
        loop = handle._loop
        if loop.tested:  # whose time does not pass by itself
            return _value(await loop.in_thread(functools.partial(self._execute_here, args, kwargs)))
        loop.uses(self._executor)
        call = Call(
            handle.run_id, handle.task_name, handle.attempt, self._fn, args, kwargs, self._parameters, self._timeout
        )
        execution = _Execution(self._executor, call, handle)
        try:
            wait = until(execution.over, every=SOON, backoff=LONG / SOON, max_every=LONG, on_error="raise", name=WAIT)
            await handle.wait(wait)
            ended = execution.outcome()
            if (forget := self._executor._committed(call)) is not None:
                handle._core.when_recorded(functools.partial(loop.in_thread, forget))
        finally:
            execution.leave(closing=handle.suspending)
        return _value(ended)

    def replaced_by(self, function: Callable[..., Any]) -> "RemoteBody":
        """Return the same body with a function that a test has put in the place of the task's."""
        other = object.__new__(RemoteBody)
        other.__dict__.update(self.__dict__, _fn=function)
        return other

    def _execute_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ended:
        return execute(self._fn, self._task, args, kwargs, self._codec)


def compiled(one: "TaskDef", binding: "Binding") -> "tuple[RemoteBody, Binding, RemoteCodec]":
    """Return the body of a task with an executor, its binding, and how what it returns is stored."""
    from bide._bind import Source  # noqa: PLC0415 - as in __init__.py

    what = f"task {one.name!r}"
    executor = _executor_of(one)
    for source in binding.sources:
        if source.kind in {"handle", "context"}:
            kind = "handle" if source.kind == "handle" else "Context"
            msg = (
                f"{what}: parameter {source.parameter!r} takes the {kind}, and the body executes in {executor!r}, "
                f"which has none: leave the parameter out, or give what needs the {kind} to a task without executor="
            )
            raise DefinitionError(msg)
    if binding.wants_handle:
        msg = (
            f"{what}: its gate takes a request, which a body answers by its handle, and the body executes in "
            f"{executor!r}, which has none: answer the request in a task without executor="
        )
        raise DefinitionError(msg)
    body = RemoteBody(one, binding, executor)
    handle = Source("handle", "handle", parameter="handle")
    with_handle = structs.replace(binding, positional=(handle, *binding.positional), wants_handle=True, is_async=True)
    returns = binding.returns
    return body, with_handle, RemoteCodec(returns.annotation, returns.where, root=returns.root)


def _executor_of(one: "TaskDef") -> RemoteExecutor:
    if isinstance(one.executor, RemoteExecutor):
        return one.executor
    from bide._futures import Futures  # noqa: PLC0415 - for those who have one

    assert one.executor is not None  # noqa: S101 - for mypy
    return Futures(one.executor)


def _value(ended: Ended) -> Encoded:
    if isinstance(ended, Failed):
        raise ended.error
    return ended


class _Execution:
    """One call, from before it is given to the executor until the body has its end. Used on the loop's thread."""

    def __init__(self, executor: RemoteExecutor, call: Call, handle: "AsyncTaskHandle") -> None:
        self._executor, self._call = executor, call
        self._core, self._loop = handle._core, handle._loop
        self._state: Literal["new", "recorded", "given", "left", "closing"] = "new"
        """It becomes "recorded" when the wait is first asked, after which that is committed, and then "given"."""
        self._end: Ended | None = None
        self._begun: Begun | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def over(self) -> bool:
        """Whether the call has ended. No at first, so that the wait is committed; then the call is given away."""
        if self._state == "new":
            self._state = "recorded"
        elif self._state == "recorded":
            self._state = "given"
            _under_way[self._call.run, self._call.task] = self
            self._begin()
        return self._end is not None

    def outcome(self) -> Ended:
        """Return how the call has ended."""
        if self._end is None:
            return Failed(
                BideError(
                    f"task {self._call.task!r}: its wait was satisfied by hand while the body was at its executor, and "
                    "so the body has no value: skip the task instead"
                )
            )
        return self._end

    def where(self) -> str:
        """Say where the call is."""
        return "is given to its executor" if self._begun is None else self._begun.where()

    def leave(self, *, closing: bool) -> None:
        """Wait no more for the call: the runner closes, or nobody wants the result."""
        self._state = "closing" if closing else "left"
        if _under_way.get((self._call.run, self._call.task)) is self:
            del _under_way[self._call.run, self._call.task]
        if self._timer is not None:
            self._timer.cancel()
        if self._end is None and self._begun is not None:
            self._drop(self._begun)

    def _begin(self) -> None:
        if self._executor._blocks:
            self._loop.in_thread(self._give).add_done_callback(self._given)
            return
        try:
            self._has_begun(self._give())
        except Exception as error:  # noqa: BLE001 - the executor may be anyone's
            self._end = Failed(error)

    def _give(self) -> Begun:
        return self._executor._begin(self._call, self._report)

    def _given(self, giving: "asyncio.Future[Begun]") -> None:
        if giving.cancelled():
            return
        if (error := giving.exception()) is not None:
            self._settle(Failed(error))
        else:
            self._has_begun(giving.result())

    def _has_begun(self, begun: Begun) -> None:
        self._begun = begun
        if self._end is not None:
            return
        if self._state != "given":
            self._drop(begun)
        elif (timeout := self._call.timeout) is not None and not self._executor._limits_time:
            self._timer = self._loop.loop.call_later(timeout, self._timed_out, timeout)

    def _drop(self, begun: Begun) -> None:
        if self._state == "closing":
            begun.leave()
        else:
            begun.cancel()

    def _report(self, ended: Ended) -> None:
        """Take the end of the call. On any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.loop.call_soon_threadsafe(self._settle, ended)

    def _settle(self, ended: Ended) -> None:
        if self._end is None and self._state == "given":
            self._end = ended
            self._core.wake()

    def _timed_out(self, timeout: float) -> None:
        self._settle(
            Failed(TaskTimeout(f"task {self._call.task!r} was not done {timeout:g} s after its executor had it"))
        )
        if self._begun is not None:
            self._begun.cancel()
