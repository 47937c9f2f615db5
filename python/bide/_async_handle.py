"""`AsyncTaskHandle`: what an `async def` body uses to talk to the executor.

Each member begins a call in the extension (`_core.Call`), which says what it needs: to be awaited, a condition to be
asked, a step to be executed. What that means for the run is decided below, as for plain functions.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import copy_context
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from bide import _core
from bide._callables import is_async
from bide._errors import DefinitionError, Unrecorded, not_picklable
from bide._here import BODY, CONDITION, STEP, here
from bide._waits import DEFAULT_ON_ERROR, After, At, Duration, OnError, WaitBase, after, at, check_name, from_poll

if TYPE_CHECKING:
    import asyncio

    from bide._callbacks import Callback
    from bide._children import ChildRun
    from bide._combine import Plan
    from bide._core import Channel
    from bide._loop import BodyLoop
    from bide._result import RunResult
    from bide._retry import Retry
    from bide._workflow import Workflow

T = TypeVar("T")
S = TypeVar("S")

_PENDING, _DONE, _EXECUTE, _CREATE = -1, -2, -3, -4
"""What `_core.Call.advance` asks for; any other number is that of a condition to ask."""


class AsyncTaskHandle:
    """A coroutine's access to the executor: a parameter annotated `bide.AsyncTaskHandle`, or named `handle`.

    It has the members of `bide.TaskHandle`; what can block is awaited. A condition and a step may be `async def`; a plain
    function is called on a worker thread, with the body's contextvars, so that it does not block the event loop.
    """

    __slots__ = ("__weakref__", "_core", "_loop", "_refusals")

    _core: "_core.Coroutine"
    _loop: "BodyLoop"
    _refusals: list[tuple[str, int, str]]

    def __init__(self) -> None:
        """Refuse: the executor makes handles."""
        msg = "a handle is made by bide and passed to a body: annotate a parameter bide.AsyncTaskHandle"
        raise DefinitionError(msg)

    @classmethod
    def _of(cls, core: "_core.Coroutine", loop: "BodyLoop") -> "AsyncTaskHandle":
        self = cls.__new__(cls)
        self._core, self._loop = core, loop
        return self

    # --- waits -----------------------------------------------------------------------------------------------------

    async def defer_until(
        self,
        condition: Callable[[], Any],
        poll_interval_ms: float = 1000,
        *,
        timeout: Duration | None = None,  # noqa: ASYNC109 - the settings of TaskHandle.defer_until
        backoff: float = 1.0,
        max_interval_ms: float | None = None,
        jitter: float = 0.0,
        on_error: OnError = DEFAULT_ON_ERROR,
        name: str | None = None,
    ) -> Any:  # noqa: ANN401 - typed in the stub below
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
        return await self._wait(until, None, "handle.defer_until")

    async def wait(self, wait: WaitBase[T], /, timeout: Duration | None = None) -> T:  # noqa: ASYNC109
        """Wait without holding a slot, and return the value of the wait. See `TaskHandle.wait`."""
        value: T = await self._wait(wait, timeout, "handle.wait")
        return value

    async def wait_for(self, name: str, type: Any = Any, timeout: Duration | None = None) -> Any:  # noqa: A002, ANN401, ASYNC109
        """Wait for a signal of this name, and return its value. See `TaskHandle.wait_for`."""
        from bide._signals import signal  # noqa: PLC0415 - as in __init__.py

        return await self._wait(signal(name, type), timeout, "handle.wait_for")

    async def wait_any(
        self,
        *waits: WaitBase[Any],
        timeout: Duration | None = None,  # noqa: ASYNC109 - as above
        name: str | None = None,
        **named: WaitBase[Any],
    ) -> Any:  # noqa: ANN401 - as in TaskHandle.wait_any
        """Wait for the first of several waits. See `TaskHandle.wait_any`."""
        from bide._combine import any_of  # noqa: PLC0415 - as in __init__.py

        return await self._wait(any_of(*waits, name=name, **named), timeout, "handle.wait_any")

    async def wait_all(
        self,
        *waits: WaitBase[Any],
        timeout: Duration | None = None,  # noqa: ASYNC109 - as above
        name: str | None = None,
        **named: WaitBase[Any],
    ) -> Any:  # noqa: ANN401 - as in TaskHandle.wait_all
        """Wait for all of several waits. See `TaskHandle.wait_all`."""
        from bide._combine import all_of  # noqa: PLC0415 - as in __init__.py

        return await self._wait(all_of(*waits, name=name, **named), timeout, "handle.wait_all")

    async def sleep(self, duration: Duration, *, name: str | None = None) -> None:
        """Sleep for a duration, without holding a slot. The time is recorded: a restart does not extend it."""
        await self._wait_time(after(duration), check_name(name, "handle.sleep") or "sleep")

    async def sleep_until(self, moment: datetime, *, name: str | None = None) -> None:
        """Sleep until a moment (a datetime with a time zone), without holding a slot."""
        await self._wait_time(at(moment), check_name(name, "handle.sleep_until") or "sleep_until")

    # --- child runs ------------------------------------------------------------------------------------------------

    async def start(
        self, workflow: "Workflow", inputs: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> "ChildRun":
        """Start a run as a child of this one, and return a wait for it. See `TaskHandle.start`."""
        from bide._children import describe  # noqa: PLC0415 - for those who start children

        return (await self._start(describe(workflow, inputs, key), workflow))[0]

    async def start_many(
        self,
        workflow: "Workflow",
        inputs: Iterable[Mapping[str, Any] | None],
        keys: Iterable[str | None] | None = None,
    ) -> "list[ChildRun]":
        """Start many runs as children of this one, in one commit, and return a wait for each."""
        from bide._children import describe_many  # noqa: PLC0415 - as above

        return await self._start(describe_many(workflow, inputs, keys), workflow)

    async def run(
        self,
        workflow: "Workflow",
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: Duration | None = None,  # noqa: ASYNC109 - as above
    ) -> "RunResult":
        """Run a workflow as a child of this run, without holding a slot, and return its result."""
        child = await self.start(workflow, inputs, key=key)
        result: RunResult = await self._wait(child, timeout, "handle.run")
        return result

    # --- steps and records -----------------------------------------------------------------------------------------

    async def step(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,  # noqa: ANN401 - those of fn
        name: str | None = None,
        key: str | None = None,
        retry: "Retry | None" = None,
        once: bool | None = None,
        **kwargs: Any,  # noqa: ANN401 - those of fn
    ) -> Any:  # noqa: ANN401 - what fn returns
        """Call `fn(*args, **kwargs)` once and record what it returns or raises. See `TaskHandle.step`.

        `fn` is an `async def`, or a plain function, which is called on a worker thread. Steps with different keys may run
        side by side, as in `asyncio.gather` or a `TaskGroup`.
        """
        from bide._steps import describe_async_step  # noqa: PLC0415 - it binds functions, whose handle this is

        described = describe_async_step(fn, args, kwargs, name, key, retry, once)
        older = None
        if described[1] is not None and self._core.has_older_steps:
            from bide._digest_v1 import digest_of_arguments  # noqa: PLC0415 - for old files alone

            older = digest_of_arguments(args, kwargs)
        call = _core.Call.step(self._core, described, retry, older, self._within())
        left = await self._carry_out(call, functools.partial(fn, *args, **kwargs))
        result = call.step_result()
        if left is None:
            return result
        if isinstance(left.outcome, BaseException):
            raise left.outcome
        return left.outcome

    async def checkpoint(self, state: object) -> None:
        """Record `state` and forget the steps and waits that the body has recorded until now, in one commit."""
        await self._record(_core.Call.checkpoint(self._core, state, self._within()))

    def last_checkpoint(self, type: type[S], default: Any = None) -> Any:  # noqa: A002, ANN401 - as in TaskHandle
        """Return the state of the last checkpoint as a value of `type`, or `default` if there was none."""
        return self._core.last_checkpoint(type, default)

    async def now(self) -> datetime:
        """Return the current time in UTC and record it; a re-entered body gets the recorded time."""
        call = _core.Call.now(self._core, self._within())
        await self._carry_out(call, None)
        time: datetime = call.recorded(True)  # noqa: FBT003 - of the extension
        return time

    async def callback(self, name: str, type: Any = Any) -> "Callback[Any]":  # noqa: A002, ANN401 - as in TaskHandle
        """Make a callback, which anybody with its `token` can answer. See `TaskHandle.callback`."""
        from bide._callbacks import new  # noqa: PLC0415 - as in __init__.py

        checked, secret, made = new(self.run_id, name, type)
        return made(await self._record(_core.Call.callback(self._core, checked, secret, self._within())))

    # --- what it shows ---------------------------------------------------------------------------------------------

    def emit(self, value: object, *, channel: "str | Channel[Any] | None" = None) -> None:
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
        return False

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = "AsyncTaskHandle"
        raise not_picklable(what, "use it only within the body")

    def __repr__(self) -> str:
        """Show the task."""
        return f"<AsyncTaskHandle of task {self.task_name!r}, attempt {self.attempt}>"

    # --- how calls are carried out ---------------------------------------------------------------------------------

    def _within(self) -> int:
        place = here.get()
        return place[1] if place is not None and place[0] is self else BODY

    async def _wait_time(self, wait: After | At, name: str) -> None:
        from bide._combine import plan  # noqa: PLC0415 - as in __init__.py

        made = plan(wait, None, "handle.sleep")
        await self._wait_planned(made._replace(parts=[made.parts[0]._replace(name=name)]))

    async def _wait(self, wait: object, timeout: Duration | None, what: str) -> Any:  # noqa: ANN401, ASYNC109
        from bide._combine import plan  # noqa: PLC0415 - as in __init__.py

        return await self._wait_planned(plan(wait, timeout, what))

    async def _wait_planned(self, plan: "Plan") -> Any:  # noqa: ANN401 - what the wait gives
        call = _core.Call.wait(self._core, plan, self._within())
        await self._carry_out(call, None)
        if any(part.kind == "child" for part in plan.parts):
            outcomes = await self._loop.in_thread(call.outcomes)  # may read the store
        else:
            outcomes = call.outcomes()
        self._refusals = []
        try:
            return plan.finish(outcomes, self)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        finally:
            for name, number, reason in self._refusals:
                await self._send_reply(name, number, None, reason)

    async def _start(self, described: tuple[Any, ...], workflow: "Workflow") -> "list[ChildRun]":
        from bide._children import ChildRun  # noqa: PLC0415 - as in __init__.py

        begin = functools.partial(_core.Call.start, self._core, described, self._within())
        call = await self._loop.in_thread(begin)  # registers the workflow
        await self._carry_out(call, None)
        return [ChildRun(run, workflow.name, name) for run, name in call.started()]

    async def _record(self, call: "_core.Call") -> Any:  # noqa: ANN401 - text or None
        await self._carry_out(call, None)
        return call.recorded(False)  # noqa: FBT003 - of the extension

    def _reply(self, name: str, number: int, _answer: bytes | None, reason: str) -> None:
        """Refuse a request that cannot be read, once its wait is over."""
        self._refusals.append((name, number, reason))

    async def _send_reply(self, name: str, number: int, answer: bytes | None, reason: str) -> None:
        await self._record(_core.Call.reply(self._core, name, number, answer, reason, self._within()))

    async def _carry_out(self, call: "_core.Call", step: Callable[[], Any] | None) -> Unrecorded | None:
        """Carry a call out to its end. Returns how a step has left without a record, if it has."""
        left = None
        try:
            while (todo := call.advance()) != _DONE:
                if todo == _PENDING:
                    future = self._loop.future()
                    call.park(future)
                    try:
                        await future
                    except BaseException:
                        await self._end_commit(call)
                        raise
                elif todo == _EXECUTE:
                    left = await self._execute(call, step)
                elif todo == _CREATE:
                    await self._loop.in_thread(call.create)
                else:
                    await self._ask(call, todo)
        except BaseException:
            call.abandon()
            raise
        return left

    async def _end_commit(self, call: "_core.Call") -> None:
        """Wait for the commit that is under way: what it records is known then. A cancellation is raised after it."""
        from asyncio import CancelledError  # noqa: PLC0415 - it is imported by now

        while call.committing and call.advance() == _PENDING and call.committing:
            future = self._loop.future()
            call.park(future)
            try:
                await future
            except CancelledError:
                continue

    async def _ask(self, call: "_core.Call", part: int) -> None:
        try:
            value = await self._run(call.condition(part), CONDITION)
        except Exception as error:  # noqa: BLE001 - whatever the condition raises
            call.ask_raised(part, error)
        else:
            call.asked(part, value)

    async def _execute(self, call: "_core.Call", step: Callable[[], Any] | None) -> Unrecorded | None:
        try:
            value = await self._run(step, STEP)
        except Unrecorded as left:
            call.step_unrecorded()
            return left
        except Exception as error:  # noqa: BLE001 - whatever the step raises
            call.step_raised(error)
        else:
            call.step_returned(value)
        return None

    async def _run(self, function: Any, within: int) -> Any:  # noqa: ANN401 - code of the user's
        """Run a condition or a step: an `async def` here, a plain function on a worker thread."""
        token = here.set((self, within))
        try:
            if is_async(function):
                return await function()
            value = await self._loop.in_thread(functools.partial(copy_context().run, function))
            # A plain function may return a coroutine, as a lambda does that calls an `async def`.
            return await value if isinstance(value, Awaitable) else value
        finally:
            here.reset(token)
