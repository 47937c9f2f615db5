"""The common start of the scripts in `exit_cases`: thread pools, and bodies that run in them.

Only these scripts import it, each in its own process.
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
"""A directory for SQLite files; empty: the store is in memory."""


def store() -> str:
    """Return a file name for this process."""
    return (
        str(Path(STORE) / "bide.db" if os.getpid() == FIRST else Path(STORE) / f"{os.getpid()}.db")
        if STORE
        else ":memory:"
    )


FIRST = os.getpid()


class pool:  # noqa: N801 - scripts call it like a function
    """A runner with one workflow, whose only task calls a body passed to `go`."""

    def __init__(self, slots: int) -> None:
        bodies: dict[int, Body] = {}

        def body(n: int, handle: bide.TaskHandle) -> Any:
            # This holds the last reference, as a queue would.
            return bodies.pop(n, returns_at_once)(handle)

        self.bodies = bodies
        self.workflow = bide.Workflow("pool", [bide.task(body)])
        self.runner = bide.Runner(store(), workflows=[self.workflow], slots=slots)
        self.in_c: dict[Callable[..., Any], bide.Workflow] = {}


def returns_at_once(handle: bide.TaskHandle) -> None:
    """The outcome of a run whose first process has ended."""


class Ticket:
    """The outcome of a body."""

    def __init__(self, handle: bide.RunHandle) -> None:
        self.handle = handle

    def result(self, timeout: float | None = None) -> Any:
        """Wait until the body ends; return its value or raise its error."""
        return self.handle.result(timeout)["body"]


def aside(call: Callable[[], Any]) -> Any:
    """Make a call on a new thread and return its result: a body's thread may not wait for a run."""
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(call()), daemon=True)
    thread.start()
    thread.join()
    return made[0]


def go(p: pool, body: Callable[..., Any]) -> Ticket:
    """Run `body(handle)`, or a builtin on `None`, which is called without Python code in between."""
    if isinstance(body, type(repr)):
        if body not in p.in_c:
            p.in_c[body] = bide.Workflow(body.__name__, [bide.task(body, name="body")])
        return Ticket(p.runner.submit(p.in_c[body], {"obj": None}))
    n = next(numbers)
    p.bodies[n] = body
    return Ticket(p.runner.submit(p.workflow, {"n": n}))


numbers = iter(range(sys.maxsize))


def end() -> None:
    """Report the end of the script: the time to exit counts from here."""
    sys.stdout.flush()
    faulthandler.dump_traceback_later(14)  # shows what delays the exit
    os.write(1, b"end %r\n" % time.monotonic())


def forever(handle: object = None) -> None:
    """Never return, and always request the interpreter."""
    while True:
        pass


def until(condition: Callable[[], Any]) -> None:
    """Poll until something without a signal is true."""
    while not condition():
        time.sleep(0.001)


class Linger:
    """Is finalized during interpreter finalization, and lets other threads run at that moment.

    CPython then ends the thread of each that requests the interpreter.
    """

    def __del__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        sleep(0.05)


sys.linger = Linger()  # type: ignore[attr-defined]
# CPython warns about every fork beside threads; these scripts fork on purpose.
warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)


def made_in_each_way(interpreters: Any) -> list[Any]:
    """Two more interpreters: one with its own lock, where supported, and one that shares the main lock."""
    if sys.version_info >= (3, 13):
        return [interpreters.create("isolated"), interpreters.create("legacy")]
    return [interpreters.create(isolated=True), interpreters.create(isolated=False)]
