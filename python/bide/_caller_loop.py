"""`CallerLoop`: where coroutines on an event loop await the runs of a runner or a client.

The extension submits their runs on one thread of its own and wakes the loop through a socket, once for all that has
come.
"""

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable

    from bide import _core
    from bide._options import Options

T = TypeVar("T")

MOST = 8
"""How many coroutines continue in one turn of the loop: what else is on it has turns between them."""

Ask: TypeAlias = "Callable[[ref[asyncio.Future[T]]], _core.Awaited]"
"""What asks for something that completes a future."""

Waiting: TypeAlias = "set[asyncio.Future[Any]]"
"""The futures that callers await. Their loop keeps them, and so their tasks, to which it has no other reference."""


class CallerLoop:
    """The callers on one event loop. It reads from the socket while one of them awaits something."""

    __slots__ = ("_core", "_flushes", "_reads", "_waiting")

    def __init__(self, core: "_core.Callers") -> None:
        """Wrap what the extension keeps of them."""
        self._core = core
        self._reads = core.fileno()
        self._waiting: ref[Waiting] | None = None
        self._flushes = False

    async def submit(
        self,
        workflow: "_core.Workflow",
        run: "tuple[list[tuple[str, bytes]], str | None]",
        context: contextvars.Context,
        said: "Options | None",
        *,
        awaited: bool,
        until_end: bool,
    ) -> "_core.RunHandle":
        """Submit a run with what others submit in this turn of the loop; with `until_end` also wait for its end."""
        loop = asyncio.get_running_loop()

        def ask(future: "ref[asyncio.Future[_core.RunHandle]]") -> "_core.Awaited":
            asked = self._core.submit(workflow, run, context, said, awaited, until_end, future)
            if not self._flushes:
                self._flushes = True
                loop.call_soon(self._flush)
            return asked

        return await self._arrival(loop, ask)

    async def settled(self, run: "_core.RunHandle") -> None:
        """Wait until `wait(0)` of a run's handle returns True or raises."""

        def ask(future: "ref[asyncio.Future[None]]") -> "_core.Awaited":
            return self._core.settled(run, future)

        await self._arrival(asyncio.get_running_loop(), ask)

    async def _arrival(self, loop: asyncio.AbstractEventLoop, ask: "Ask[T]") -> T:
        future: asyncio.Future[T] = loop.create_future()
        waiting = None if self._waiting is None else self._waiting()
        if waiting is None:
            waiting = set()
            loop.add_reader(self._reads, self._turn, waiting)
            self._waiting = ref(waiting)
        waiting.add(future)
        asked = None
        try:
            asked = ask(ref(future))
            result = await future
            asked = None
            return result
        finally:
            if asked is not None:
                asked.give_up()
            waiting.discard(future)
            if not waiting:
                self._end(loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read no more: nobody waits."""
        self._waiting = None
        if self._flushes:  # a loop that is closed by now does not come to it
            self._flush()
        self._core.clear()
        if not loop.is_closed():
            loop.remove_reader(self._reads)

    def _flush(self) -> None:
        self._flushes = False
        self._core.flush()

    def _turn(self, _waiting: Waiting) -> None:
        for reference, result in self._core.turn(MOST):
            future = reference()
            if future is None or future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
