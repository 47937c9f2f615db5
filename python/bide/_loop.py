"""`BodyLoop`: drives the coroutines of a runner on an event loop, the caller's or one of the runner's own.

The extension wakes the loop through a socket, once for many. Bodies are executed one after the other within an
`asyncio.Task`, whose coroutine is a `_core.Driver`. A body that suspends keeps that task as its own, and another driver
takes over. One that waits for bide, and whose task nobody refers to, waits without a task: it gets another one when it
continues.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from bide import _core
from bide._errors import BideError, Cancelled, DefinitionError
from bide._loop_threads import LoopThreads

if TYPE_CHECKING:
    from bide._executors import RemoteExecutor

T = TypeVar("T")


def suspension() -> asyncio.CancelledError:
    """Return what a coroutine gets that has to return. Called by the extension."""
    return asyncio.CancelledError("the runner is closing: the body continues from here later")


_INTERRUPTED = "the run was cancelled, or the attempt is over"
"""What a coroutine is cancelled with that awaits something when its run is cancelled, or is skipped or too late."""


class Cancellation(Cancelled, asyncio.CancelledError):
    """What a coroutine gets out of its wait when its run is cancelled: it is cancelled as asyncio's users expect."""


def cancellation(message: str) -> Cancellation:
    """Return what a coroutine gets when its run is cancelled. Called by the extension."""
    return Cancellation(message)


def check_interrupted(body: "_core.Coroutine", error: BaseException) -> None:
    """Raise what a call of the handle raises, if it was left because the run was cancelled."""
    if isinstance(error, asyncio.CancelledError) and error.args == (_INTERRUPTED,) and body.cancellation:
        raise cancellation(body.cancellation) from None


DRIVER = "bide"
"""The name of the tasks that execute bodies: one for all, because many may wait at once."""

HOPS = 5
"""After how many iterations of a loop nothing is ready on it, in a test: one callback may make the next one ready."""


class BodyLoop:
    """The event loop that executes the coroutines of a runner."""

    def __init__(self, core: "_core.LoopQueue", loop: asyncio.AbstractEventLoop, *, own: bool) -> None:
        """Keep the loop; `start` is called on it."""
        self.loop = loop
        self.own = own
        self.tested = core.tested
        self._asked = 0
        self._core = core
        self._reads = core.fileno()
        self._gates: set[asyncio.Task[None]] = set()
        self._asides: set[asyncio.Task[None]] = set()
        self._threads = LoopThreads(loop)
        self._has_ended = self._cancel_all = False
        self._timer: tuple[float, asyncio.TimerHandle] | None = None
        """When the loop has a turn for the next condition that is due, by its own time."""
        self.future = loop.create_future
        self._executors: set[RemoteExecutor] = set()

    def uses(self, executor: "RemoteExecutor") -> None:
        """Count an executor that the runner uses until it is closed."""
        if executor not in self._executors:
            self._executors.add(executor)
            executor._used_by(self)

    def start(self) -> None:
        """Begin to execute bodies. On the loop's thread."""
        self._core.set_bodies(self)
        self.loop.add_reader(self._reads, self._turn)
        self._turn()

    def stop(self) -> None:
        """Execute nothing any more. On any thread, once the runner is closed."""
        self._threads.stop()
        for executor in self._executors:
            executor._released_by(self)
        self._executors.clear()
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
        self.take_over()
        for gate in core.take_gates():
            watch = self._spawn(self._watch(gate), gate.contextvars())
            self._gates.add(watch)
            watch.add_done_callback(self._gates.discard)
        if core.closing or core.take_lost():
            self._suspend()
        for task in core.interrupted():
            self.interrupt(task)
        if (delay := core.next_poll()) is not None and not self._has_ended:
            self._set_timer(delay)
        if self.tested and core.asked != self._asked:
            self._asked = core.asked
            self._answer(self._asked, HOPS)

    def _set_timer(self, delay: float) -> None:
        """Have a turn when the next condition is due."""
        due = self.loop.time() + delay
        if self._timer is not None:
            before, timer = self._timer
            if before <= due:
                return
            timer.cancel()
        self._timer = due, self.loop.call_at(due, self._timed)

    def _timed(self) -> None:
        self._timer = None
        if not self._has_ended:
            self._turn()

    def _answer(self, question: int, hops: int) -> None:
        """Answer the runner of a test: what is ready on the loop has had its turn, and what became ready by that."""
        if hops:
            self.loop.call_soon(self._answer, question, hops - 1)
        else:
            self._core.answer(question)

    def _suspend(self) -> None:
        """Suspend what is deferred, and what belongs to another runner now."""
        closing = self._core.closing
        for task in self._core.suspend(closing, self._cancel_all):
            task.cancel("the runner is closing: the body continues from here later")
        if closing:
            for watch in list(self._gates):
                watch.cancel()
            if not self._core.bodies and not self._core.suspended:
                self._end()

    def interrupt(self, task: "asyncio.Task[None]") -> None:
        """Cancel a body whose run was cancelled, or that was cut off."""
        task.cancel(_INTERRUPTED)

    def cancels(self, body: "_core.Coroutine") -> None:
        """Cancel a body whose call has just ended because its run was cancelled: another task may have made that."""
        task = body.task
        if task is not None and task is not asyncio.current_task():
            self.interrupt(task)

    def _end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if (spare := self._core.take_spare()) is not None:
            spare.cancel()
        self._core.set_bodies(None)
        if self._timer is not None:
            self._timer[1].cancel()
        self.loop.remove_reader(self._reads)
        if self.own:
            self.loop.stop()

    def _spawn(
        self,
        coroutine: Coroutine[Any, Any, None],
        vars: Context,  # noqa: A002 - as above
        name: str | None = None,
    ) -> "asyncio.Task[None]":
        # Not by the loop's factory: a task that begins at once would execute bodies within the step of another one.
        return asyncio.Task(coroutine, loop=self.loop, context=vars, name=name)

    # What a driver calls.

    def take_over(self) -> None:
        """Have drivers execute what is ready, unless some are about to."""
        for _ in range(self._core.needs_drivers()):
            vars = Context()  # noqa: A001 - the name that it has in Rust
            self.drive(self._core.driver(vars), vars)

    def attach(self, body: "_core.Coroutine") -> None:
        """Give a body that waits without a task one, in which it continues."""
        self._core.attach(body)

    def needs_spare(self) -> None:
        """Have a task in which the conditions of bodies without one are asked."""
        self._core.needs_spare()

    def drive(self, driver: "_core.Driver", vars: Context) -> "asyncio.Task[None]":  # noqa: A002 - as above
        """Return a task of a driver."""
        return self._spawn(driver, vars, DRIVER)

    def aside(self, coroutine: Coroutine[Any, Any, None], vars: Context) -> None:  # noqa: A002 - as above
        """Execute something in a task of its own."""
        task = self._spawn(coroutine, vars, DRIVER)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def end_aside(self, pending: "_core.Pending") -> None:
        """Wait for the end of a body in a task of its own."""
        self.aside(self.finished(pending), Context())

    async def ended(self, pending: "_core.Pending") -> None:
        """Wait for the end of a body, whatever cancels that."""
        while True:
            try:
                await self.finished(pending)
            except asyncio.CancelledError:
                continue
            return

    def limit(self, body: "_core.Coroutine") -> None:
        """Have the body cancelled when its `timeout` is over."""
        reached = self.loop.create_future()

        def cancel(_reached: object) -> None:
            if not body.ended and (task := body.task) is not None:
                task.cancel("the timeout of the task is over")

        reached.add_done_callback(cancel)
        body.when_timed_out(reached)

    async def finished(self, pending: "_core.Pending") -> None:
        """Wait for something."""
        while not pending.poll():
            future = self.loop.create_future()
            pending.park(future)
            await future

    async def _watch(self, gate: "_core.GateWatch") -> None:
        """Poll a gate until it is closed, or compute its time."""
        while True:
            pending = gate.check()
            if pending is not None:
                await self.finished(pending)
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
            await self.finished(again)


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def awaits(called: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401 - what a coroutine function returns
    """Return a coroutine that awaits what a body's function has returned. Called by the extension too."""
    return called if hasattr(called, "send") else _await(called)


def start_own(core: "_core.LoopQueue", factory: Callable[[], asyncio.AbstractEventLoop] | None) -> BodyLoop:
    """Start an event loop on a thread of its own, which executes the coroutines of a runner."""
    try:
        loop = (factory or asyncio.new_event_loop)()
    except OSError as error:
        msg = f"the runner cannot have an event loop for its async bodies: {error}"
        raise BideError(msg) from error
    if not isinstance(loop, asyncio.AbstractEventLoop) or loop.is_closed() or loop.is_running():
        msg = (
            f"loop_factory must return a new event loop, which nothing has run or closed yet, not {loop!r}: pass a "
            "function that makes one, like uvloop.new_event_loop"
        )
        raise DefinitionError(msg)
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
