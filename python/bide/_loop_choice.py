"""Which event loop executes the coroutines of a runner: the caller's, under `async with`, or one of the runner's own.

The first that can be used is chosen, and stays. `asyncio` is imported only if a workflow has coroutines.
"""

import functools
import threading
import weakref
from typing import TYPE_CHECKING

from bide._errors import BideError, DefinitionError
from bide._here import running_loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from bide import _core
    from bide._loop import BodyLoop

SOON = 1.0
"""Seconds within which a running loop has its next turn."""


class LoopChoice:
    """The loop of a runner, once there is one."""

    def __init__(self, core: "_core.Runner", factory: "Callable[[], asyncio.AbstractEventLoop] | None") -> None:
        """Keep what starts an own loop."""
        if factory is not None and not callable(factory):
            msg = f"loop_factory must be callable and return an event loop, like uvloop.new_event_loop, not {factory!r}"
            raise DefinitionError(msg)
        self._core = core
        self._factory = factory
        self._lock = threading.Lock()
        self._bodies: BodyLoop | None = None
        self._chosen = threading.Event()
        self._caller: asyncio.AbstractEventLoop | None = None
        self._wanted = False
        # Made on a running loop, the runner may be about to be entered there.
        running = running_loop()
        self._undecided = running is not None
        if running is not None:
            running.call_soon(_call, weakref.WeakMethod(self._decide))
        self._queue = core.loop_queue()
        self._queue.when_wanted(functools.partial(_call, weakref.WeakMethod(self.prepare)))

    def enter(self) -> None:
        """Take the running loop, which the caller keeps running until the runner is closed."""
        import asyncio  # noqa: PLC0415 - the caller has imported it

        loop = asyncio.get_running_loop()
        if self._caller is not None and self._caller is not loop:
            msg = (
                "this runner is used by `async with` on another event loop already: a runner executes its bodies on "
                "one loop, so make a runner for each"
            )
            raise BideError(msg)
        self._caller = loop
        self._decide()

    def prepare(self) -> None:
        """Have a loop: there are coroutines to execute, or will be."""
        self._wanted = True
        if not self._undecided:
            self._choose()

    def _decide(self) -> None:
        self._undecided = False
        if self._wanted and not self._core.closed:
            self._choose()

    def check(self) -> None:
        """Refuse to execute anything on a loop that is closed."""
        if self._bodies is None:
            self.prepare()
        elif self._bodies.loop.is_closed() and not self._core.closed:
            msg = (
                "the event loop that executes the async bodies of this runner is closed: keep it running until the "
                "runner is closed, or do not enter the runner with `async with`, so that it has a loop of its own"
            )
            raise BideError(msg)

    def loop(self) -> "asyncio.AbstractEventLoop":
        """Return the loop, for what it is to execute beside bodies. On any other thread."""
        self.check()
        # Made on a running loop, the runner is entered or not by that loop's next turn.
        if self._bodies is None and (not self._chosen.wait(SOON) or self._bodies is None):
            msg = "the event loop of the runner does not execute anything yet"
            raise BideError(msg)
        return self._bodies.loop

    def refuse_own_thread(self) -> None:
        """Refuse to block the loop on which the bodies are to unwind."""
        running = running_loop()
        if running is not None and self._bodies is not None and self._bodies.loop is running and not self._core.closed:
            msg = (
                "Runner.close() blocks the event loop that executes the bodies of the runner, and they cannot end: use "
                "`async with`, or `await runner.close_async()`"
            )
            raise DefinitionError(msg)

    def abandon(self) -> None:
        """Suspend the bodies of a loop that was closed before the runner: they cannot end."""
        if self._bodies is not None and self._bodies.loop.is_closed():
            self._queue.abandon()

    def cancel_all(self) -> None:
        """Cancel the bodies whose grace is over. Called by the extension."""
        if self._bodies is not None:
            self._bodies.cancel_all()

    def stop(self) -> None:
        """Execute nothing any more: the runner is closed."""
        if self._bodies is not None:
            self._bodies.stop()

    def _choose(self) -> None:
        from bide._loop import BodyLoop, start_own  # noqa: PLC0415 - it imports asyncio

        with self._lock:
            if self._bodies is not None:
                return
            if self._caller is None:
                self._bodies = start_own(self._queue, self._factory)
                self._chosen.set()
                return
            self._bodies = bodies = BodyLoop(self._queue, self._caller, own=False)
        self._chosen.set()
        if running_loop() is self._caller:
            bodies.start()
        else:
            self._caller.call_soon_threadsafe(bodies.start)


def _call(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    """Call a method of an object, if that is still there."""
    bound = method()
    if bound is not None:
        bound()
