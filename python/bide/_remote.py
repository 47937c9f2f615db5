"""Bodies that an executor executes, seen from the process that has the run: `RemoteBody`.

Here such a body is a coroutine with one wait. The wait is committed, then the call is given to the executor, and its
end completes the wait: meanwhile the body has neither a thread nor a slot. A body that is entered again, after a crash
or a close, finds its wait open and gives the call again, which executors that keep results answer with the first one.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bide._errors import DefinitionError, TaskTimeout
from bide._executors import Begun, Call, RemoteExecutor, executor_of
from bide._remote_call import Encoded, Ended, Failed, execute
from bide._waits import until

if TYPE_CHECKING:
    import asyncio

    from bide._async_handle import AsyncTaskHandle
    from bide._bind import Binding
    from bide._codec import Codec
    from bide._loop import BodyLoop
    from bide._task import TaskDef

WAIT = "executor"
"""The name by which the wait is recorded."""

SOON = 0.001
"""Seconds between the commit of the wait and the call. The end of the call is not polled for."""

_under_way: "dict[tuple[str, str], _Execution]" = {}
"""The calls of this process, by the id of the run and the name of the task."""


def where(run: str, task: str) -> str | None:
    """Say where the body of a task is, if this process has given it to an executor."""
    execution = _under_way.get((run, task))
    return None if execution is None else execution.where()


class RemoteCodec:
    """Passes on what was encoded elsewhere."""

    fast = ""

    def __init__(self, codec: "Codec") -> None:
        """Keep the codec, by which the value is read."""
        self._codec = codec
        self.decode = codec.decode

    def encode(self, value: Encoded) -> bytes:
        """Return the bytes, after a look at their number."""
        return self._codec.check_size(value.data)


class RemoteBody:
    """The body of a task with an executor."""

    def __init__(self, one: "TaskDef", binding: "Binding", executor: RemoteExecutor) -> None:
        """Refuse a function that the executor cannot call."""
        self._task, self._timeout, self._codec = one.name, one.timeout, binding.returns
        self._parameters = tuple(source.parameter for source in binding.positional)
        self._executor = executor
        self._fn = executor._check(one)

    async def __call__(self, handle: "AsyncTaskHandle", /, *args: Any, **kwargs: Any) -> Encoded:
        """Have the executor call the function, and return what it has returned."""
        loop = handle._loop
        if loop.tested:  # whose time does not pass by itself
            return _value(await loop.in_thread(functools.partial(self._execute_here, args, kwargs)))
        loop.uses(self._executor)
        call = Call(
            handle.run_id, handle.task_name, handle.attempt, self._fn, args, kwargs, self._parameters, self._timeout
        )
        execution = _Execution(self._executor, call, loop)
        try:
            await handle.wait(until(execution.over, every=SOON, on_error="raise", name=WAIT))
            ended = execution.outcome()
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
    executor = executor_of(one.executor, what)
    for source in binding.sources:
        if source.kind in {"handle", "context"}:
            kind = "handle" if source.kind == "handle" else "Context"
            msg = (
                f"{what}: parameter {source.parameter!r} takes the {kind}, and the body executes in {executor!r}, which "
                f"has none: leave the parameter out, or give what needs the {kind} to a task without executor="
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
    with_handle = binding._replace(positional=(handle, *binding.positional), wants_handle=True, is_async=True)
    return body, with_handle, RemoteCodec(binding.returns)


def _value(ended: Ended) -> Encoded:
    if isinstance(ended, Failed):
        raise ended.error
    return ended


class _Execution:
    """One call, from before it is given to the executor until the body has its end. Used on the loop's thread."""

    def __init__(self, executor: RemoteExecutor, call: Call, loop: "BodyLoop") -> None:
        self._executor, self._call, self._loop = executor, call, loop
        self._recorded = False
        """The wait was asked for the first time, after which it is committed."""
        self._end: asyncio.Future[Ended] | None = None
        self._begun: Begun | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def over(self) -> bool:
        """Whether the call has ended: no at once, so that the wait is committed; then the answer takes until the end."""
        if not self._recorded:
            self._recorded = True
            return False
        if self._end is None:
            self._end = self._loop.loop.create_future()
            _under_way[self._call.run, self._call.task] = self
            try:
                await self._begin()
            except Exception as error:  # noqa: BLE001 - the executor may be anyone's
                self._settle(Failed(error))
        if not self._end.done():
            import asyncio  # noqa: PLC0415 - it is imported by now

            await asyncio.shield(self._end)
        return True

    def outcome(self) -> Ended:
        """Return how the call has ended."""
        assert self._end is not None  # noqa: S101 - the wait is over
        return self._end.result()

    def where(self) -> str:
        """Say where the call is."""
        return "is given to its executor" if self._begun is None else self._begun.where()

    def leave(self, *, closing: bool) -> None:
        """Wait no more for the call: the runner closes, or nobody wants the result."""
        if _under_way.get((self._call.run, self._call.task)) is self:
            del _under_way[self._call.run, self._call.task]
        if self._timer is not None:
            self._timer.cancel()
        if self._end is None or self._end.done():
            return
        self._end.cancel()
        if self._begun is not None:
            _drop(self._begun, closing=closing)

    async def _begin(self) -> None:
        loop, timeout = self._loop.loop, self._call.timeout
        if self._executor._blocks:
            import asyncio  # noqa: PLC0415 - it is imported by now

            beginning = self._loop.in_thread(self._give)
            try:
                self._begun = await asyncio.shield(beginning)
            except asyncio.CancelledError:
                beginning.add_done_callback(_drop_begun)
                raise
        else:
            self._begun = self._give()
        if timeout is not None and not self._executor._limits_time and self._end is not None and not self._end.done():
            self._timer = loop.call_later(timeout, self._timed_out, timeout)

    def _give(self) -> Begun:
        return self._executor._begin(self._call, self._report)

    def _report(self, ended: Ended) -> None:
        """Take the end of the call. On any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.loop.call_soon_threadsafe(self._settle, ended)

    def _settle(self, ended: Ended) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(ended)

    def _timed_out(self, timeout: float) -> None:
        self._settle(Failed(TaskTimeout(f"task {self._call.task!r} was not done {timeout:g} s after its executor had it")))
        if self._begun is not None:
            self._begun.cancel()


def _drop(begun: Begun, *, closing: bool) -> None:
    if closing:
        begun.leave()
    else:
        begun.cancel()


def _drop_begun(beginning: "asyncio.Future[Begun]") -> None:
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result().leave()
