"""`BodyLoop`: drives the coroutines of a runner on an event loop, the caller's or one of the runner's own.

The extension wakes the loop through a socket, once for many. Bodies are executed one after the other within an
`asyncio.Task`, a driver, each in contextvars of its own. The first body that suspends keeps that task as its own until
it ends; another driver takes over. So a body that never suspends costs no task, and one that does has its own.
"""

import asyncio
import contextlib
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

from bide import _core
from bide._errors import Cancelled
from bide._here import BODY, here
from bide._loop_threads import LoopThreads

T = TypeVar("T")

_IDLE, _BUDGET, _SUSPENDED, _BEGINS, _CANCELLED, _ENDS = range(6)
"""Why `_core.LoopQueue.run_ready` has stopped to execute bodies (`rust/py/src/aio/run.rs`)."""

_NOT_BEGUN = object()
"""In place of what a coroutine awaits: its first step was not made yet."""


def suspension() -> asyncio.CancelledError:
    """Return what a coroutine gets that has to return. Called by the extension."""
    return asyncio.CancelledError("the runner is closing: the body continues from here later")


_INTERRUPTED = "the run was cancelled"
"""What a coroutine is cancelled with that awaits something when its run is cancelled."""


class Cancellation(Cancelled, asyncio.CancelledError):
    """What a coroutine gets out of its wait when its run is cancelled: it is cancelled as asyncio's users expect."""


def cancellation(message: str) -> Cancellation:
    """Return what a coroutine gets when its run is cancelled. Called by the extension."""
    return Cancellation(message)


class BodyLoop:
    """The event loop that executes the coroutines of a runner."""

    def __init__(self, core: "_core.LoopQueue", loop: asyncio.AbstractEventLoop, *, own: bool) -> None:
        """Keep the loop; `start` is called on it."""
        self.loop = loop
        self.own = own
        self._core = core
        self._reads = core.fileno()
        self._bodies: dict[_core.Coroutine, asyncio.Task[None]] = {}
        self._gates: set[asyncio.Task[None]] = set()
        self._driver: asyncio.Task[None] | None = None
        self._asides: set[asyncio.Task[None]] = set()
        self._threads = LoopThreads(loop)
        self._has_ended = self._cancel_all = False
        self.future = loop.create_future

    def start(self) -> None:
        """Begin to execute bodies. On the loop's thread."""
        self._core.set_bodies(self)
        self.loop.add_reader(self._reads, self._turn)
        self._turn()

    def stop(self) -> None:
        """Execute nothing any more. On any thread, once the runner is closed."""
        self._threads.stop()
        if not self.loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed in between
                self.loop.call_soon_threadsafe(self._end)

    def cancel_all(self) -> None:
        """Cancel the bodies that have not ended: their grace is over. On any thread."""
        self._cancel_all = True
        self._core.wake()

    def in_thread(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Run a plain function on a worker thread."""
        return self._threads.run(function)

    def _turn(self) -> None:
        """Do what other threads have left: complete calls, start bodies."""
        core = self._core
        for future in core.turn():
            if not future.done():
                future.set_result(None)
        self._take_over()
        for gate in core.take_gates():
            watch = self._spawn(self._watch(gate), gate.contextvars())
            self._gates.add(watch)
            watch.add_done_callback(self._gates.discard)
        if core.closing or core.take_lost():
            self._suspend()
        if core.take_interrupted():
            self._interrupt()

    def _suspend(self) -> None:
        """Suspend what is deferred, and what belongs to another runner now."""
        closing = self._core.closing
        for body, task in list(self._bodies.items()):
            if body.lost or (closing and (self._cancel_all or body.deferred)):
                body.suspend()
                task.cancel("the runner is closing: the body continues from here later")
        if closing:
            for watch in list(self._gates):
                watch.cancel()
            if not self._core.bodies and not self._bodies:
                self._end()

    def _interrupt(self) -> None:
        """Cancel the bodies whose runs were cancelled, and those that were cut off."""
        for body, task in list(self._bodies.items()):
            if body.take_interrupt():
                task.cancel(_INTERRUPTED)

    def check_interrupted(self, body: "_core.Coroutine", error: BaseException) -> None:
        """Raise what a call of the handle raises, if it was left because the run was cancelled."""
        if isinstance(error, asyncio.CancelledError) and error.args == (_INTERRUPTED,) and body.cancellation:
            raise cancellation(body.cancellation) from None

    def cancels(self, body: "_core.Coroutine") -> None:
        """Cancel a body whose call has just ended because its run was cancelled: another task may have made that."""
        task = self._bodies.get(body)
        if task is not None and task is not asyncio.current_task():
            task.cancel(_INTERRUPTED)

    def _end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._core.set_bodies(None)
        self.loop.remove_reader(self._reads)
        if self.own:
            self.loop.stop()

    def _spawn(self, coroutine: Coroutine[Any, Any, None], vars: Context) -> "asyncio.Task[None]":  # noqa: A002
        return self.loop.create_task(coroutine, context=vars)

    def _take_over(self) -> None:
        """Have one more driver execute what is ready, unless one is about to."""
        if self._driver is None and self._core.has_ready():
            self._driver = self._spawn(self._drive(), Context())

    async def _drive(self) -> None:
        """Execute bodies one after the other, up to one that suspends: the task is then its own, to its end."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        left: int = _BEGINS
        body: Any = None
        parts: Any = None
        try:
            while left in {_BEGINS, _ENDS}:
                left, body, parts = self._core.run_ready(task.cancelling)
                if left == _BEGINS:
                    self._aside(self._begin(body, parts[0]))
                elif left == _ENDS:
                    self._aside(self._finished(parts[0]))
        finally:
            self._driver = None
            if left == _BUDGET:
                self._core.wake()  # the loop has a turn before the next one
            else:
                self._take_over()
        if left == _SUSPENDED:
            await self._go_on(task, body, parts)

    def _aside(self, waits: Coroutine[Any, Any, None]) -> None:
        """Wait for something in a task of its own."""
        task = self._spawn(waits, Context())
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _begin(self, body: "_core.Coroutine", pending: "_core.Pending") -> None:
        """Begin a body that has to wait for that, and execute it in this task."""
        await self._finished(pending)
        if not body.begun():
            return
        task, context = asyncio.current_task(), body.contextvars()
        assert task is not None  # noqa: S101 - this is one
        context.run(here.set, (body, BODY))
        try:
            coroutine = awaits(body.call(context))
        except BaseException as error:  # noqa: BLE001 - whatever the call raises is the failure of the body
            await self._ended(body.raised(error))
            return
        if body.take_interrupt():  # asked for before it was one of `_bodies`
            task.cancel(_INTERRUPTED)
        await self._go_on(task, body, (coroutine, _NOT_BEGUN, context))

    async def _go_on(self, task: "asyncio.Task[None]", body: "_core.Coroutine", parts: tuple[Any, Any, Any]) -> None:
        """Execute a body to its end, in this task."""
        self._bodies[body] = task
        try:
            if body.has_timeout:
                self._limit(body)
            try:
                value = await _steps(*parts)
            except BaseException as error:  # noqa: BLE001 - whatever the body raises is its failure
                ended = body.raised(error)
            else:
                ended = body.returned(value)
            await self._ended(ended)
        finally:
            self._bodies.pop(body, None)

    async def _ended(self, ended: "_core.Pending | None") -> None:
        """Wait for the end of a body, if it has to be waited for."""
        while ended is not None:
            try:
                await self._finished(ended)
            except asyncio.CancelledError:
                continue
            return

    def _limit(self, body: "_core.Coroutine") -> None:
        """Have the body cancelled when its `timeout` is over."""
        reached, task = self.loop.create_future(), asyncio.current_task()
        if task is None:
            return

        def cancel(_reached: object) -> None:
            if not body.ended:
                task.cancel("the timeout of the task is over")

        reached.add_done_callback(cancel)
        body.when_timed_out(reached)

    async def _watch(self, gate: "_core.GateWatch") -> None:
        """Poll a gate until it is closed."""
        while True:
            pending = gate.check()
            if pending is not None:
                await self._finished(pending)
            if not gate.may_poll:
                return
            try:
                called = gate.call()
                value = await called if isinstance(called, Awaitable) else called
            except BaseException as error:  # whatever the condition raises
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # the runner closes
                again = gate.raised(error)
            else:
                again = gate.asked(value)
            if again is None:
                return
            await self._finished(again)

    async def _finished(self, pending: "_core.Pending") -> None:
        while not pending.poll():
            future = self.loop.create_future()
            pending.park(future)
            await future


@types.coroutine
def _steps(coroutine: Coroutine[Any, Any, T], awaited: object, context: Context) -> Generator[Any, Any, T]:
    """Execute the steps of a coroutine within contextvars; `awaited` is what its first step awaits, or `_NOT_BEGUN`."""
    run, send, throw = context.run, coroutine.send, coroutine.throw
    try:
        if awaited is _NOT_BEGUN:
            awaited = run(send, None)
        while True:
            try:
                value = yield awaited
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                awaited = run(throw, error)
            else:
                awaited = run(send, value)
    except StopIteration as ended:
        result: T = ended.value
        return result


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def awaits(called: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401 - what a coroutine function returns
    """Return a coroutine that awaits what a body's function has returned. Called by the extension too."""
    return called if hasattr(called, "send") else _await(called)


def start_own(core: "_core.LoopQueue", factory: Callable[[], asyncio.AbstractEventLoop] | None) -> BodyLoop:
    """Start an event loop on a thread of its own, which executes the coroutines of a runner."""
    loop = (factory or asyncio.new_event_loop)()
    bodies = BodyLoop(core, loop, own=True)

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.call_soon(bodies.start)
        try:
            loop.run_forever()
        finally:
            _finish(loop)

    _core._start_loop_thread(run)
    return bodies


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """End what bodies have left on the loop, as `asyncio.run` does."""
    remaining = asyncio.all_tasks(loop)
    for task in remaining:
        task.cancel()
    if remaining:
        loop.run_until_complete(asyncio.wait(remaining, timeout=0.1))
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()
