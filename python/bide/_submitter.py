"""`Submitter`: one thread that submits the runs of all callers on event loops, as many as have come in one commit."""

import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from bide._errors import RunnerClosed

if TYPE_CHECKING:
    import asyncio
    import queue

    from bide import _core
    from bide._options import Options
    from bide._run_handle import RunHandle

MOST = 256
"""How many runs are submitted in one commit."""


class Submission:
    """A run that a caller awaits."""

    __slots__ = ("awaited", "compiled", "contextvars", "future", "inputs", "key", "loop", "said", "submit")

    def __init__(
        self,
        submit: "Submit",
        compiled: "_core.Workflow",
        inputs: list[tuple[str, bytes]],
        key: str | None,
        said: "Options | None",
        *,
        awaited: bool,
    ) -> None:
        """Keep what is submitted and by what, the caller's contextvars, and its loop."""
        self.submit, self.awaited = submit, awaited
        import asyncio  # noqa: PLC0415 - the caller has imported it

        self.compiled, self.inputs, self.key, self.said = compiled, inputs, key, said
        self.contextvars = contextvars.copy_context()
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.future: asyncio.Future[RunHandle] = self.loop.create_future()


Submit: TypeAlias = Callable[[list[Submission]], "list[RunHandle | BaseException]"]
"""What submits several runs of one workflow; it returns an error in place of a run that is refused."""


class Submitter:
    """Submits runs on a thread of its own, which begins with the first of them."""

    def __init__(self, owner: str) -> None:
        """Begin with the first run. `owner` is what is closed, for the message."""
        self._owner = owner.lower()
        self._queue: queue.SimpleQueue[Submission | None] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def put(self, submission: Submission) -> "asyncio.Future[RunHandle]":
        """Submit a run soon."""
        with self._lock:
            if self._stopped:
                msg = f"this {self._owner} is closed: create a new one"
                raise RunnerClosed(msg)
            if self._queue is None:
                import queue  # noqa: PLC0415 - few programs submit so

                waiting: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
                threading.Thread(target=self._serve, args=(waiting,), name="bide-submit", daemon=True).start()
                self._queue = waiting
            self._queue.put(submission)
        return submission.future

    def stop(self) -> None:
        """Submit nothing any more. What has come by now is still answered."""
        with self._lock:
            self._stopped = True
            if self._queue is not None:
                self._queue.put(None)

    def _serve(self, waiting: "queue.SimpleQueue[Submission | None]") -> None:
        while (first := waiting.get()) is not None:
            batch: list[Submission] = [first]
            ends = False
            # Nobody else takes any.
            while len(batch) < MOST and not ends and not waiting.empty():
                more = waiting.get()
                if more is None:
                    ends = True
                else:
                    batch.append(more)
            self._work(batch)
            if ends:
                return
            del first, batch

    def _work(self, batch: list[Submission]) -> None:
        done: list[tuple[Submission, RunHandle | BaseException]] = []
        of: dict[tuple[int, int, bool], list[Submission]] = {}
        for submission in batch:
            # A run with options of its own is submitted alone.
            alone = 0 if submission.said is None else id(submission)
            of.setdefault((id(submission.compiled), alone, submission.awaited), []).append(submission)
        for same in of.values():
            done += zip(same, same[0].submit(same), strict=True)
        loops: dict[int, tuple[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]]] = {}
        for submission, result in done:
            loops.setdefault(id(submission.loop), (submission.loop, []))[1].append((submission.future, result))
        for loop, results in loops.values():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_answer, results)


def _answer(results: "list[tuple[asyncio.Future[Any], Any]]") -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
