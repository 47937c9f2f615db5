"""Checks that this interpreter's threads and clock are the system's own, when a runner is created, and its process too.

bide needs threads of the operating system: under gevent's or eventlet's patches a thread is a greenlet, and a runner
would wait for ever for its first one. bide also uses the system's clock: while a test library freezes or shifts
Python's clock, a wait until `datetime.now() + …` would end at once, or in years. The checks import nothing.
"""

import sys
import time
from collections.abc import Callable
from datetime import UTC
from types import BuiltinFunctionType
from typing import Any

from bide import _core
from bide._errors import BideError

TOLERANCE = 2.0
"""Seconds by which Python's clock and the system's may differ: a busy machine may delay the second reading."""

HEAP_TYPE = 1 << 9
"""The flag of a class that was not built into the interpreter (Py_TPFLAGS_HEAPTYPE)."""

PATCHERS = {
    "gevent": "gevent.monkey.patch_all(thread=False)",
    "eventlet": "eventlet.monkey_patch(thread=False)",
}
CLOCKS = ("freezegun", "time_machine")


def check() -> None:
    """Raise a `BideError` that names what is patched and says what to do."""
    _check_threads()
    _check_clock()
    _check_process()


def _check_process() -> None:
    if _attribute("bide._process_main", "importing") is True:
        msg = (
            "a child process of bide.Processes imports the main module of its program, which opens a runner there "
            'again: put what the program does under `if __name__ == "__main__":`'
        )
        raise BideError(msg)


def _check_threads() -> None:
    # Debuggers wrap the functions that start threads, which is harmless; only other kinds of threads replace get_ident.
    for module in ("_thread", "threading"):
        ident = _attribute(module, "get_ident")
        owner = _owner(ident)
        if ident is None or (type(ident) is BuiltinFunctionType and owner == "_thread"):
            continue
        remedy = PATCHERS.get(owner)
        msg = f"the threads of this process are patched by {owner}: bide needs threads of the operating system. " + (
            f"Patch everything else with {remedy}, or run bide in a process of its own"
            if remedy
            else "Run bide in a process without this patch"
        )
        raise BideError(msg)


def _check_clock() -> None:
    cls: Any = _attribute("datetime", "datetime")
    if not _is_built_in(cls):
        raise BideError(_frozen(f"datetime.datetime is {_owner(cls)}'s {getattr(cls, '__name__', cls)!r}"))
    shifted_by = next((name for name in CLOCKS if _travels(name)), None)
    if shifted_by is not None:
        raise BideError(_frozen(f"the clock is set by {shifted_by}"))
    readings = {"datetime.datetime.now()": lambda: cls.now(UTC).timestamp(), "time.time()": time.time}
    for name, read in readings.items():
        before = _core._system_time()
        reading = _number(read)
        after = _core._system_time()
        if reading is None:
            raise BideError(_frozen(f"{name} is not the system's and returns no number"))
        if not before - TOLERANCE <= reading <= after + TOLERANCE:
            raise BideError(_frozen(f"{name} is {reading - after:+.0f} s from the system's clock"))


def _number(read: Callable[[], object]) -> float | None:
    """Return what a clock reads, or None if that is not a number, as with a mock."""
    try:
        reading = read()
    except Exception:  # noqa: BLE001 - whatever a patch has put there
        return None
    return reading if isinstance(reading, float | int) else None


def _frozen(what: str) -> str:
    return (
        f"{what}: bide uses the system's clock, which cannot be frozen or shifted. Create and use the runner while "
        "Python's clock is not patched, and pass the time that a body should use as an input. A test needs no patch: "
        "the time of a bide.testing.Runner is moved by runner.advance(seconds), and handle.now() reads it"
    )


def _is_built_in(cls: object) -> bool:
    return isinstance(cls, type) and not cls.__flags__ & HEAP_TYPE


def _travels(name: str) -> bool:
    """Return whether a library has replaced the clock's C functions now, which the functions do not show."""
    return any(_attribute(name, stack) for stack in ("traveller_stack", "coordinates_stack"))


def _attribute(module: str, name: str) -> Any:  # noqa: ANN401 - whatever a patch has put there
    return getattr(sys.modules.get(module), name, None)


def _owner(thing: object) -> str:
    """Return the name of the package that something comes from."""
    module = getattr(thing, "__module__", None)
    return (module if isinstance(module, str) else type(thing).__module__).partition(".")[0]
