"""`CallerLoop`: where coroutines on an event loop await the runs of a runner or a client.

The extension submits their runs on one thread of its own and wakes the loop through a socket, once for all that has
come.
"""

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bide import _core
    from bide._options import Options

MOST = 8
"""How many coroutines continue in one turn of the loop: what else is on it has turns between them."""


class CallerLoop:
    """The callers on one event loop. It reads from the socket while one of them awaits something."""

    __slots__ = ("_core", "_flushes", "_reads", "_waiting")

    def __init__(self, core: "_core.Callers") -> None:
        """Wrap what the extension keeps of them."""
        self._core = core
        self._reads = core.fileno()
        self._waiting = 0
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
        future: asyncio.Future[_core.RunHandle] = loop.create_future()
        submitted = self._core.submit(workflow, run, context, said, awaited, until_end, future)
        if not self._flushes:
            self._flushes = True
            loop.call_soon(self._flush)
        return await self._arrival(loop, future, submitted)

    async def settled(self, run: "_core.RunHandle") -> None:
        """Wait until `wait(0)` of a run's handle returns True or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        await self._arrival(loop, future, self._core.settled(run, future))

    async def _arrival(
        self,
        loop: asyncio.AbstractEventLoop,
        future: "asyncio.Future[Any]",
        awaited: "_core.Awaited",
    ) -> Any:  # noqa: ANN401 - what the future is for
        if not self._waiting:
            loop.add_reader(self._reads, self._turn)
        self._waiting += 1
        got = False
        try:
            result = await future
            got = True
            return result
        finally:
            if not got:
                awaited.give_up()
                _give_up(future)
            self._waiting -= 1
            if not self._waiting and not loop.is_closed():
                loop.remove_reader(self._reads)

    def _flush(self) -> None:
        self._flushes = False
        self._core.flush()

    def _turn(self) -> None:
        for future, result in self._core.turn(MOST):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)


def _give_up(future: "asyncio.Future[Any]") -> None:
    """Give up a run whose handle came together with the cancellation of who awaited it."""
    if future.done() and not future.cancelled() and future.exception() is None and future.result() is not None:
        future.result().give_up()
