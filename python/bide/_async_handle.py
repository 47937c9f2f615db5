"""`AsyncTaskHandle`: what an `async def` body uses to talk to the executor.

How its calls are carried out is in `_async_calls.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine  # noqa: TC003 - methods return them: who looks at their annotations finds it
from datetime import datetime  # noqa: TC003 - a method returns one: who looks at its annotation finds it
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeAlias, TypeVar, overload

from bide import _core
from bide._async_calls import AsyncCalls
from bide._errors import DefinitionError, not_picklable
from bide._here import STEP
from bide._waits import DEFAULT_ON_ERROR, Duration, OnError, WaitBase, after, at, from_poll

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from bide._callbacks import Callback
    from bide._children import ChildRun
    from bide._combine import Fired, First
    from bide._core import Channel
    from bide._result import RunResult
    from bide._retry import Retry
    from bide._signals import AsyncReceived, Request
    from bide._transactions import AsyncTransaction
    from bide._workflow import Workflow

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_D = TypeVar("_D")

_Limit: TypeAlias = Duration | None


class AsyncTaskHandle(AsyncCalls):
    """A coroutine's access to the executor: a parameter annotated `bide.AsyncTaskHandle`, or named `handle`.

    It has the members of `bide.TaskHandle`; what can block is awaited. A condition and a step may be `async def`; a
    plain function is called on a worker thread, with the body's contextvars, so that it does not block the event loop.
    """

    __slots__ = ()

    def __init__(self) -> None:
        """Refuse: the executor makes handles."""
        msg = "a handle is made by bide and passed to a body: annotate a parameter bide.AsyncTaskHandle"
        raise DefinitionError(msg)

    @classmethod
    def _of(cls, core: _core.Coroutine) -> AsyncTaskHandle:
        self = cls.__new__(cls)
        self._core, self._rare = core, None
        return self

    # --- waits -----------------------------------------------------------------------------------------------------

    @overload
    async def defer_until(
        self,
        condition: Callable[[], Awaitable[T | None]],
        poll_interval_ms: float = 1000,
        *,
        timeout: _Limit = None,
        backoff: float = 1.0,
        max_interval_ms: float | None = None,
        jitter: float = 0.0,
        on_error: OnError = ...,
        name: str | None = None,
    ) -> T: ...
    @overload
    async def defer_until(
        self,
        condition: Callable[[], T | None],
        poll_interval_ms: float = 1000,
        *,
        timeout: _Limit = None,
        backoff: float = 1.0,
        max_interval_ms: float | None = None,
        jitter: float = 0.0,
        on_error: OnError = ...,
        name: str | None = None,
    ) -> T: ...
    def defer_until(
        self,
        condition: Callable[[], Any],
        poll_interval_ms: float = 1000,
        *,
        timeout: Duration | None = None,
        backoff: float = 1.0,
        max_interval_ms: float | None = None,
        jitter: float = 0.0,
        on_error: OnError = DEFAULT_ON_ERROR,
        name: str | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Wait until `condition()` is truthy, without holding a slot, and return its value.

        The condition is a plain function or an `async def`. See `TaskHandle.defer_until`.
        """
        until = from_poll(
            condition,
            poll_interval_ms,
            timeout=timeout,
            backoff=backoff,
            max_interval_ms=max_interval_ms,
            jitter=jitter,
            on_error=on_error,
            name=name,
        )
        return self._wait(until, None, "handle.defer_until")

    @overload
    async def wait(self, wait: Request[S, T], /, timeout: _Limit = None) -> AsyncReceived[S, T]: ...
    @overload
    async def wait(self, wait: WaitBase[T], /, timeout: _Limit = None) -> T: ...
    def wait(self, wait: WaitBase[Any], /, timeout: Duration | None = None) -> Coroutine[Any, Any, Any]:
        """Wait without holding a slot, and return the value of the wait. See `TaskHandle.wait`."""
        return self._wait(wait, timeout, "handle.wait")

    @overload
    async def wait_for(self, name: str, *, timeout: _Limit = None) -> Any: ...
    @overload
    async def wait_for(self, name: str, type: type[T], timeout: _Limit = None) -> T: ...
    def wait_for(self, name: str, type: Any = Any, timeout: Duration | None = None) -> Coroutine[Any, Any, Any]:
        """Wait for a signal of this name, and return its value. See `TaskHandle.wait_for`."""
        from bide._signals import signal  # noqa: PLC0415 - as in __init__.py

        return self._wait(signal(name, type), timeout, "handle.wait_for")

    @overload
    async def wait_any(
        self, a: WaitBase[_A], /, *, timeout: _Limit = None, name: str | None = None
    ) -> tuple[Fired[_A] | None]: ...
    @overload
    async def wait_any(
        self, a: WaitBase[_A], b: WaitBase[_B], /, *, timeout: _Limit = None, name: str | None = None
    ) -> tuple[Fired[_A] | None, Fired[_B] | None]: ...
    @overload
    async def wait_any(
        self, a: WaitBase[_A], b: WaitBase[_B], c: WaitBase[_C], /, *, timeout: _Limit = None, name: str | None = None
    ) -> tuple[Fired[_A] | None, Fired[_B] | None, Fired[_C] | None]: ...
    @overload
    async def wait_any(
        self,
        a: WaitBase[_A],
        b: WaitBase[_B],
        c: WaitBase[_C],
        d: WaitBase[_D],
        /,
        *,
        timeout: _Limit = None,
        name: str | None = None,
    ) -> tuple[Fired[_A] | None, Fired[_B] | None, Fired[_C] | None, Fired[_D] | None]: ...
    @overload
    async def wait_any(self, *, timeout: _Limit = None, name: str | None = None, **named: WaitBase[Any]) -> First: ...
    @overload
    async def wait_any(
        self, *waits: WaitBase[Any], timeout: _Limit = None, name: str | None = None
    ) -> tuple[Fired[Any] | None, ...]: ...
    def wait_any(
        self,
        *waits: WaitBase[Any],
        timeout: Duration | None = None,
        name: str | None = None,
        **named: WaitBase[Any],
    ) -> Coroutine[Any, Any, Any]:
        """Wait for the first of several waits. See `TaskHandle.wait_any`."""
        from bide._combine import any_of  # noqa: PLC0415 - as in __init__.py

        return self._wait(any_of(*waits, name=name, **named), timeout, "handle.wait_any")

    @overload
    async def wait_all(self, a: WaitBase[_A], /, *, timeout: _Limit = None, name: str | None = None) -> tuple[_A]: ...
    @overload
    async def wait_all(
        self, a: WaitBase[_A], b: WaitBase[_B], /, *, timeout: _Limit = None, name: str | None = None
    ) -> tuple[_A, _B]: ...
    @overload
    async def wait_all(
        self, a: WaitBase[_A], b: WaitBase[_B], c: WaitBase[_C], /, *, timeout: _Limit = None, name: str | None = None
    ) -> tuple[_A, _B, _C]: ...
    @overload
    async def wait_all(
        self,
        a: WaitBase[_A],
        b: WaitBase[_B],
        c: WaitBase[_C],
        d: WaitBase[_D],
        /,
        *,
        timeout: _Limit = None,
        name: str | None = None,
    ) -> tuple[_A, _B, _C, _D]: ...
    @overload
    async def wait_all(
        self, *, timeout: _Limit = None, name: str | None = None, **named: WaitBase[Any]
    ) -> dict[str, Any]: ...
    @overload
    async def wait_all(
        self, *waits: WaitBase[Any], timeout: _Limit = None, name: str | None = None
    ) -> tuple[Any, ...]: ...
    def wait_all(
        self,
        *waits: WaitBase[Any],
        timeout: Duration | None = None,
        name: str | None = None,
        **named: WaitBase[Any],
    ) -> Coroutine[Any, Any, Any]:
        """Wait for all of several waits. See `TaskHandle.wait_all`."""
        from bide._combine import all_of  # noqa: PLC0415 - as in __init__.py

        return self._wait(all_of(*waits, name=name, **named), timeout, "handle.wait_all")

    def sleep(self, duration: Duration, *, name: str | None = None) -> Coroutine[Any, Any, None]:
        """Sleep for a duration, without holding a slot. The time is recorded: a restart does not extend it."""
        return self._wait_time(after(duration), "handle.sleep", name)

    def sleep_until(self, moment: datetime, *, name: str | None = None) -> Coroutine[Any, Any, None]:
        """Sleep until a moment (a datetime with a time zone), without holding a slot."""
        return self._wait_time(at(moment), "handle.sleep_until", name)

    # --- child runs ------------------------------------------------------------------------------------------------

    async def start(
        self, workflow: Workflow, inputs: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> ChildRun:
        """Start a run as a child of this one, and return a wait for it. See `TaskHandle.start`."""
        from bide._children import describe  # noqa: PLC0415 - for those who start children

        return (await self._start(describe(workflow, inputs, key), workflow))[0]

    async def start_many(
        self,
        workflow: Workflow,
        inputs: Iterable[Mapping[str, Any] | None],
        keys: Iterable[str | None] | None = None,
    ) -> list[ChildRun]:
        """Start many runs as children of this one, 1,024 in one commit, and return a wait for each."""
        from bide._children import describe_many  # noqa: PLC0415 - as above

        return await self._start(describe_many(workflow, inputs, keys), workflow)

    async def run(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
    ) -> RunResult:
        """Run a workflow as a child of this run, without holding a slot, and return its result."""
        from bide._children import describe  # noqa: PLC0415 - as above

        return await self._run_child(describe(workflow, inputs, key), workflow, timeout)

    # --- steps and records -----------------------------------------------------------------------------------------

    @overload
    async def step(
        self,
        fn: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        name: str,
        key: str | None = None,
        retry: Retry | None = None,
        once: bool = False,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def step(
        self,
        fn: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        name: str | None = None,
        key: str,
        retry: Retry | None = None,
        once: bool = False,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def step(
        self,
        fn: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        name: str | None = None,
        key: str | None = None,
        retry: Retry,
        once: bool = False,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def step(
        self,
        fn: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        name: str | None = None,
        key: str | None = None,
        retry: Retry | None = None,
        once: bool,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def step(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,
        name: str,
        key: str | None = None,
        retry: Retry | None = None,
        once: bool = False,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def step(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,
        name: str | None = None,
        key: str,
        retry: Retry | None = None,
        once: bool = False,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def step(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,
        name: str | None = None,
        key: str | None = None,
        retry: Retry,
        once: bool = False,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def step(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,
        name: str | None = None,
        key: str | None = None,
        retry: Retry | None = None,
        once: bool,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def step(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def step(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def step(  # type: ignore[misc] # a parameter of fn with the name of an option is refused when it is called
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        name: str | None = None,
        key: str | None = None,
        retry: Retry | None = None,
        once: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `fn(*args, **kwargs)` once and record what it returns or raises. See `TaskHandle.step`.

        `fn` is an `async def`, or a plain function, which is called on a worker thread. Steps with different keys may
        run side by side, as in `asyncio.gather` or a `TaskGroup`.
        """
        from bide._steps import describe_async_step  # noqa: PLC0415 - it binds functions, whose handle this is

        described = describe_async_step(fn, args, kwargs, name, key, retry, once)
        older = None
        if described[1] is not None and self._core.has_older_steps:
            from bide._digest_v1 import digest_of_arguments  # noqa: PLC0415 - for old files alone

            older = digest_of_arguments(args, kwargs)
        call = _core.Call.step(self._core, described, retry, older, self._within())
        if self._loop.tested:
            from bide._stubs import tested  # noqa: PLC0415 - for tests alone

            fn = tested(call, described[0], fn)
        left = await self._carry_out(call, functools.partial(fn, *args, **kwargs))
        if left is None:
            return call.step_result()
        call.recorded(False)  # noqa: FBT003 - of the extension; raises if the body is over
        if isinstance(left.outcome, BaseException):
            raise left.outcome
        return left.outcome

    def transaction(self, connection: object, *, same_database: bool | None = None) -> AsyncTransaction:
        """Begin a transaction that commits a step's record together with what the step does. See `TaskHandle`.

        Example::

            async with handle.transaction(connection) as step:
                receipt = await step(pay, connection, order)

        `connection` is a `psycopg.AsyncConnection`, one of asyncpg, an `AsyncConnection` or `AsyncSession` of
        SQLAlchemy, or one of sqlite3, which is used on the loop's thread.
        """
        from bide._transactions import AsyncTransaction  # noqa: PLC0415 - for those who have a database

        return AsyncTransaction(self, connection, same_database)

    async def checkpoint(self, state: object) -> None:
        """Record `state` and forget the steps and waits that the body has recorded until now, in one commit."""
        await self._record(_core.Call.checkpoint(self._core, state, self._within()))

    @overload
    def last_checkpoint(self, type: type[S], default: None = None) -> S | None: ...
    @overload
    def last_checkpoint(self, type: type[S], default: T) -> S | T: ...
    def last_checkpoint(self, type: type[S], default: Any = None) -> Any:
        """Return the state of the last checkpoint as a value of `type`, or `default` if there was none."""
        return self._core.last_checkpoint(type, default)

    async def now(self) -> datetime:
        """Return the current time in UTC and record it; a re-entered body gets the recorded time."""
        call = _core.Call.now(self._core, self._within())
        await self._carry_out(call, None)
        time: datetime = call.recorded(True)  # noqa: FBT003 - of the extension
        return time

    @overload
    async def callback(self, name: str) -> Callback[Any]: ...
    @overload
    async def callback(self, name: str, type: type[T]) -> Callback[T]: ...
    async def callback(self, name: str, type: Any = Any) -> Callback[Any]:
        """Make a callback, which anybody with its `token` can answer. See `TaskHandle.callback`."""
        from bide._callbacks import new  # noqa: PLC0415 - as in __init__.py

        checked, made = new(self.run_id, name, type)
        return made(await self._record(_core.Call.callback(self._core, checked, self._within())))

    # --- what it shows ---------------------------------------------------------------------------------------------

    def emit(self, value: object, *, channel: str | Channel[Any] | None = None) -> None:
        """Append `value` to a channel of the run. Allowed within steps and conditions. It is not awaited."""
        self._core.emit(value, channel)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the body has come. It is not awaited."""
        self._core.progress(done, total, message)

    # --- what it knows ---------------------------------------------------------------------------------------------

    def is_slot_held(self) -> bool:
        """Return whether the body holds a slot now; it holds none while it waits."""
        return self._core.is_slot_held

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._core.run_id

    @property
    def parent(self) -> str | None:
        """The id of the run whose body has started this one with `handle.start`; None for any other."""
        return self._core.parent

    @property
    def task_name(self) -> str:
        """The task's name."""
        return self._core.task_name

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._core.attempt

    @property
    def is_replaying(self) -> bool:
        """Whether the body only reads what an earlier entry of it has recorded."""
        return self._core.is_replaying

    @property
    def in_step(self) -> bool:
        """Whether the code that asks executes within a step of this body."""
        return self._within() == STEP

    @property
    def suspending(self) -> bool:
        """Whether the body is being suspended, as at the close of the runner: this is why it is cancelled."""
        return self._core.suspending

    @property
    def cancelled(self) -> bool:
        """Whether the run is being cancelled: this is why the body is cancelled."""
        return self._core.cancelled

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = "AsyncTaskHandle"
        raise not_picklable(what, "use it only within the body")

    def __repr__(self) -> str:
        """Show the task."""
        return f"<AsyncTaskHandle of task {self.task_name!r}, attempt {self.attempt}>"
