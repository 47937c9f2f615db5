"""`LoopThreads`: worker threads that call plain functions for the coroutines of a runner."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

MAX_THREADS = 32
"""How many plain functions execute at once for coroutines."""


class LoopThreads:
    """Daemon threads that call plain functions for coroutines. One that does not return does not hold up the exit."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep the loop; a thread begins with the first function."""
        self._loop = loop
        self._work: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._idle = 0
        self._threads = 0
        self._lock = threading.Lock()

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Call a function on a worker thread. On the loop's thread."""
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
        """End the threads that are idle, and the others after their functions."""
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
