"""`BodyLoop`: drives the coroutines of a runner on an event loop, the caller's or one of the runner's own.

The extension decides which bodies execute and wakes the loop through a socket, once for many. Each body is an
`asyncio.Task` in contextvars of its own: on Python 3.12 and later an eager one, which costs no turn of the loop unless
the body waits.
"""

import asyncio
import contextlib
import queue
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from bide import _core
from bide._async_handle import AsyncTaskHandle
from bide._errors import Cancelled
from bide._here import BODY, here

T = TypeVar("T")

BATCH = 256
"""How many bodies are started in one turn of the loop."""

MAX_THREADS = 32
"""How many plain functions execute at once for coroutines."""

EAGER = sys.version_info >= (3, 12)


def suspension() -> asyncio.CancelledError:
    """Return what a coroutine gets that has to return. Called by the extension."""
    return asyncio.CancelledError("the runner is closing: the body continues from here later")


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
        self._bodies: dict[_core.Coroutine, asyncio.Task[None]] = {}
        self._gates: set[asyncio.Task[None]] = set()
        self._threads = _Threads(loop)
        self._cancel_all = False
        self.future = loop.create_future

    def start(self) -> None:
        """Begin to execute bodies. On the loop's thread."""
        self.loop.add_reader(self._core.fileno(), self._turn)
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
        started = core.take(BATCH)
        for body in started:
            handle = AsyncTaskHandle._of(body, self)
            task = self._spawn(self._execute(body, handle), body.contextvars())
            if not task.done():
                self._bodies[body] = task
        if len(started) == BATCH:
            core.wake()
        for gate in core.take_gates():
            watch = self._spawn(self._watch(gate), gate.contextvars())
            if not watch.done():
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
            if self.own and not self._bodies and not self._core.bodies:
                self.loop.stop()

    def _interrupt(self) -> None:
        """Cancel the bodies whose runs were cancelled, and those that were cut off."""
        for body, task in list(self._bodies.items()):
            if body.take_interrupt():
                task.cancel("the run was cancelled")

    def _end(self) -> None:
        self.loop.remove_reader(self._core.fileno())
        if self.own:
            self.loop.stop()

    def _spawn(self, coroutine: Coroutine[Any, Any, None], vars: Context) -> "asyncio.Task[None]":  # noqa: A002
        if EAGER and self.loop.get_task_factory() is None:
            return asyncio.Task(coroutine, loop=self.loop, context=vars, eager_start=True)  # type: ignore[call-arg,unused-ignore]
        return self.loop.create_task(coroutine, context=vars)

    async def _execute(self, body: "_core.Coroutine", handle: AsyncTaskHandle) -> None:
        """Execute a body from its beginning to its end."""
        here.set((handle, BODY))
        try:
            pending = body.begin()
            if pending is not None:
                await self._finished(pending)
            if not body.begun():
                return
            if body.has_timeout:
                self._limit(body)
            try:
                called = body.call(handle)
                value = await called if isinstance(called, Awaitable) else called
            except BaseException as error:  # noqa: BLE001 - whatever the body raises is its failure
                ended = body.raised(error)
            else:
                ended = body.returned(value)
            while ended is not None:
                try:
                    await self._finished(ended)
                except asyncio.CancelledError:
                    continue
                break
        finally:
            self._bodies.pop(body, None)

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
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever the condition raises
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


class _Threads:
    """Daemon threads that call plain functions for coroutines. One that does not return does not hold up the exit."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._idle = 0
        self._threads = 0
        self._lock = threading.Lock()

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self._loop.create_future()
        with self._lock:
            starts = self._idle == 0 and self._threads < MAX_THREADS
            if starts:
                self._threads += 1
            elif self._idle:
                self._idle -= 1
        self._work.put((future, function))
        if starts:
            threading.Thread(target=self._serve, name="bide-call", daemon=True).start()
        return future

    def stop(self) -> None:
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            future, function = work
            done: tuple[asyncio.Future[Any], Any, BaseException | None]
            try:
                done = (future, function(), None)
            except BaseException as error:  # noqa: BLE001 - it is raised where the function is awaited
                done = (future, None, error)
            with self._lock:
                self._idle += 1
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(_complete, *done)
            del work, future, function, done


def _complete(future: "asyncio.Future[Any]", value: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration):  # a future does not take it
        future.set_exception(RuntimeError(f"a plain function raised {error!r}"))
    else:
        future.set_exception(error)


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
