"""`Processes`: executes bodies in child processes, one call at a time in each.

Each place has a thread that waits for its child, and the child a pipe to it, so that nothing that happens to one call
touches another one. A child is started when its place first has a call, is killed if the call is cancelled or its
`timeout` is over, and never outlives this process. What it does is in `_process_main.py`.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from bide._duration import count
from bide._errors import BideError, ProcessDied, TaskTimeout, not_picklable
from bide._executors import Begun, Call, RemoteExecutor, Report, pickled, portable
from bide._remote_call import Ended, Failed

if TYPE_CHECKING:
    from bide._child import Child
    from bide._task import TaskDef

MOST = 1024
"""How many children a `Processes` may have."""

PATIENCE = 5.0
"""Seconds that `close` waits for the children to end."""


class Processes(RemoteExecutor):
    """Executes bodies in `n` child processes (default: one for each processor), for Python code that computes.

    Give it to tasks, `@bide.task(executor=processes)`, as many as you like: it may be a global of a module. A child is
    started when it is first needed, and imports the main module as `multiprocessing` does with "spawn": keep what the
    program does under `if __name__ == "__main__":`. The children end when the last runner that uses them is closed, and
    with this process, however it ends.

    The death of a child fails the attempt that it was executing with a `ProcessDied`. A task's `timeout` and a
    cancelled run kill the child of that body.
    """

    _limits_time = True

    def __init__(self, n: int | None = None) -> None:
        """Keep the number. No process is started."""
        self._n = len(os.sched_getaffinity(0)) if n is None else count(n, "Processes(n)", MOST)
        self._users: set[object] = set()
        self._lock = threading.Lock()
        self._crew: _Crew | None = None
        self._closed = False

    def __repr__(self) -> str:
        """Show the number of processes."""
        return f"bide.Processes({self._n})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = "Processes"
        raise not_picklable(what, "make one in each process that has a runner")

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the children, also those that execute something, whose attempts fail. Calling it twice is fine.

        It is not needed: a runner that closes ends the children that no other runner uses.
        """
        with self._lock:
            self._closed = True
            crew, self._crew = self._crew, None
        if crew is not None:
            crew.end()

    @property
    def pids(self) -> list[int]:
        """The ids of the children that are there now."""
        crew = self._crew
        return [] if crew is None or crew.home != os.getpid() else crew.pids()

    # --- what tasks and runners call ---------------------------------------------------------------------------------

    def _check(self, one: "TaskDef") -> Callable[..., Any]:
        return portable(one, repr(self))

    def _begin(self, call: Call, report: Report) -> Begun:
        with self._lock:
            if self._closed:
                msg = f"task {call.task!r}: its executor {self!r} is closed: keep it open until the runner is closed"
                raise BideError(msg)
            if self._crew is None or self._crew.home != os.getpid():  # a forked process has children of its own
                self._crew = _Crew(self._n, repr(self))
            return self._crew.give(call, report)

    def _used_by(self, user: object) -> None:
        with self._lock:
            self._users.add(user)

    def _released_by(self, user: object) -> None:
        with self._lock:
            self._users.discard(user)
            if self._users:
                return
            crew, self._crew = self._crew, None
        if crew is not None and crew.home == os.getpid():
            crew.end()


class _Work:
    """A call that a crew was given."""

    __slots__ = ("call", "cancelled", "crew", "place", "report")

    def __init__(self, call: Call, report: Report, crew: "_Crew") -> None:
        self.call, self.report, self.crew = call, report, crew
        self.place: _Place | None = None
        self.cancelled = False

    def cancel(self) -> None:
        self.crew.cancel(self)

    leave = cancel

    def where(self) -> str:
        place = self.place
        if place is None:
            return f"waits for one of the {self.crew.n} processes of its executor"
        child = place.child
        return "starts a process" if child is None else f"executes in process {child.pid}"


class _Crew:
    """The places of a `Processes`, from the first call until they are ended together."""

    def __init__(self, n: int, name: str) -> None:
        self.home = os.getpid()
        self.n, self.name = n, name
        self._changed = threading.Condition()
        self._queue: deque[_Work] = deque()
        self._places: list[_Place] = []
        self._idle = 0
        self.ending = False

    def pids(self) -> list[int]:
        return [child.pid for place in list(self._places) if (child := place.child) is not None]

    def give(self, call: Call, report: Report) -> _Work:
        """Queue a call."""
        work = _Work(call, report, self)
        with self._changed:
            if len(self._queue) >= self._idle and len(self._places) < self.n:
                self._add_place(call)
            self._queue.append(work)
            self._changed.notify()
        return work

    def _add_place(self, call: Call) -> None:
        place = _Place(self)
        try:
            place.thread.start()
        except RuntimeError as error:
            if self._places:
                return  # those that are there take it
            msg = f"task {call.task!r}: no thread could be started for the process that executes it: {error}"
            raise BideError(msg) from error
        self._places.append(place)

    def take(self, place: "_Place") -> _Work | None:
        """Wait for the next call. On the thread of a place, which ends with None."""
        with self._changed:
            self._idle += 1
            while not self._queue and not self.ending:
                self._changed.wait()
            self._idle -= 1
            if not self._queue:
                return None
            work = self._queue.popleft()
            work.place = place
            return work

    def cancel(self, work: _Work) -> None:
        """End a call: nobody waits for it."""
        with self._changed:
            work.cancelled = True
            place = work.place
            if place is None:
                if work in self._queue:
                    self._queue.remove(work)
                return
        place.kill_if_executing(work)

    def end(self) -> None:
        """End all places, and fail what they were given."""
        with self._changed:
            self.ending = True
            queued = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for work in queued:
            work.report(self.closed(work.call))
        for place in self._places:
            place.kill_if_executing(None)
        until = monotonic() + PATIENCE
        for place in self._places:
            if place.thread is not threading.current_thread():
                place.thread.join(max(until - monotonic(), 0.0))

    def closed(self, call: Call) -> Failed:
        return Failed(BideError(f"task {call.task!r}: its executor {self.name} was closed while it had the body"))


class _Place:
    """A thread with a child, which executes one call after the other."""

    def __init__(self, crew: _Crew) -> None:
        self._crew = crew
        self._lock = threading.Lock()
        self._work: _Work | None = None
        """What the child executes. With the lock: only then it may be killed."""
        self.child: Child | None = None
        # The child is told by the kernel to end when this thread does.
        self.thread = threading.Thread(target=self._serve, name="bide-process", daemon=True)

    def kill_if_executing(self, work: _Work | None) -> None:
        """Kill the child if it executes this, or anything."""
        with self._lock:
            if self._work is not None and work in {self._work, None} and self.child is not None:
                self.child.kill()

    def _serve(self) -> None:
        try:
            while (work := self._crew.take(self)) is not None:
                with self._lock:
                    self._work = work
                try:
                    ended = self._execute(work)
                except BaseException as error:  # noqa: BLE001 - a call without an end would wait for ever
                    ended = Failed(error)
                with self._lock:
                    self._work = None
                work.report(ended)
                del work, ended
        finally:
            self._drop(kill=False)

    def _execute(self, work: _Work) -> Ended:
        """Have the child execute a call, and return the end of it."""
        call = work.call
        message = pickled(call, self._crew.name)
        while True:
            child = self._ready(call)
            if self._is_unwanted():
                return self._crew.closed(call)
            if child.send(call.task, message):
                break
            # It has died since its last call; this one has not begun.
            self._drop(kill=True)
        since = monotonic()
        reply = child.reply(call.timeout)
        if reply is not None:
            return reply
        pid, is_late = child.pid, call.timeout is not None and monotonic() - since >= call.timeout
        how = self._drop(kill=True)
        if self._crew.ending:
            return self._crew.closed(call)
        if is_late:
            msg = f"task {call.task!r} was not done after {call.timeout:g} s of execution in process {pid}, which was "
            return Failed(TaskTimeout(msg + "killed"))
        return Failed(ProcessDied(f"task {call.task!r}: process {pid}, which executed it, {how}", pid=pid))

    def _ready(self, call: Call) -> "Child":
        """Return the child, once it can execute something."""
        from bide._child import Child  # noqa: PLC0415 - for those who start one

        child = self.child
        if child is None:
            try:
                child = Child()
            except OSError as error:
                msg = f"task {call.task!r}: no process could be started for it: {error}"
                raise BideError(msg) from error
            with self._lock:
                self.child = child
                if self._is_unwanted():
                    child.kill()  # nobody could before
            if (problem := child.begin()) is not None:
                pid, how = child.pid, self._drop(kill=False)
                if self._is_unwanted():
                    raise self._crew.closed(call).error
                msg = f"task {call.task!r}: process {pid}, started to execute it, {problem or how}"
                raise ProcessDied(msg, pid=pid)
        return child

    def _is_unwanted(self) -> bool:
        return self._crew.ending or (self._work is not None and self._work.cancelled)

    def _drop(self, *, kill: bool) -> str:
        """End the child, and return how it has ended in words."""
        with self._lock:
            child, self.child = self.child, None
        return "" if child is None else child.end(kill=kill)
