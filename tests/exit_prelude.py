"""What the scripts of `exit_cases.py` start with: pools of threads, and bodies that run in them.

It is imported by each script in a process of its own, and by nothing else.
"""

import faulthandler
import logging  # noqa: F401 - for the scripts
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bide

Suspended = bide.Suspended
Refused = bide.BideError
Body = Callable[[bide.TaskHandle], Any]

STORE = os.environ["BIDE_EXIT_STORE"]
"""Where files of SQLite go; nothing: the store is memory."""


def store() -> str:
    """One file for each process."""
    return (
        str(Path(STORE) / "bide.db" if os.getpid() == FIRST else Path(STORE) / f"{os.getpid()}.db")
        if STORE
        else ":memory:"
    )


FIRST = os.getpid()


class pool:  # noqa: N801 - scripts call it as one calls a function
    """A runner with one workflow, whose one task calls a body given to `go`."""

    def __init__(self, slots: int) -> None:
        bodies: dict[int, Body] = {}

        def body(n: int, handle: bide.TaskHandle) -> Any:
            # The last reference is here, as it would be in a queue.
            return bodies.pop(n, returns_at_once)(handle)

        self.bodies = bodies
        self.workflow = bide.Workflow("pool", [bide.task(body)])
        self.runner = bide.Runner(store(), workflows=[self.workflow], slots=slots)
        self.in_c: dict[Callable[..., Any], bide.Workflow] = {}


def returns_at_once(handle: bide.TaskHandle) -> None:
    """What a run comes to whose first process has gone."""


class Ticket:
    """What came of a body."""

    def __init__(self, handle: bide.RunHandle) -> None:
        self.handle = handle

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the body's end and return its value, or raise."""
        return self.handle.result(timeout)["body"]


def aside(call: Callable[[], Any]) -> Any:
    """Return what a call returns that is made on a thread of its own: a body's thread may not wait for a run."""
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(call()), daemon=True)
    thread.start()
    thread.join()
    return made[0]


def go(p: pool, body: Callable[..., Any]) -> Ticket:
    """Have `body(handle)` run, or a builtin on `None`, which then is called without any Python in between."""
    if isinstance(body, type(repr)):
        if body not in p.in_c:
            p.in_c[body] = bide.Workflow(body.__name__, [bide.task(body, name="body")])
        return Ticket(p.runner.submit(p.in_c[body], {"obj": None}))
    n = next(numbers)
    p.bodies[n] = body
    return Ticket(p.runner.submit(p.workflow, {"n": n}))


numbers = iter(range(sys.maxsize))


def end() -> None:
    """Say that the script is over: from here on the time to the exit counts."""
    sys.stdout.flush()
    faulthandler.dump_traceback_later(14)  # what keeps it so long
    os.write(1, b"end %r\n" % time.monotonic())


def forever(handle: object = None) -> None:
    """Never return, and always want the interpreter."""
    while True:
        pass


def until(condition: Callable[[], Any]) -> None:
    """Wait for something that nobody announces."""
    while not condition():
        time.sleep(0.001)


class Linger:
    """Dies while the interpreter is being finalized and lets other threads in just then.

    Each that asks for the interpreter then has its thread ended.
    """

    def __del__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        sleep(0.05)


sys.linger = Linger()  # type: ignore[attr-defined]
# CPython warns of every fork beside threads; scripts that fork do so on purpose.
warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)


def made_in_each_way(interpreters: Any) -> list[Any]:
    """Two more interpreters: one with a lock of its own, where there are such, and one that shares the main one's."""
    if sys.version_info >= (3, 13):
        return [interpreters.create("isolated"), interpreters.create("legacy")]
    return [interpreters.create(isolated=True), interpreters.create(isolated=False)]
