"""Whether this interpreter's threads and clock are the system's own, asked when a runner is made.

bide needs threads of the operating system: under gevent's or eventlet's patches a thread is a greenlet, and a runner
would wait for ever for its first one. And it goes by the system's clock: while a test library freezes or shifts
Python's, a wait until `datetime.now() + …` would end at once, or in years. Nothing is imported to find out.
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
"""Seconds by which Python's clock and the system's may differ: between two readings a machine may be busy."""

HEAP_TYPE = 1 << 9
"""The flag of a class that was not built into the interpreter (Py_TPFLAGS_HEAPTYPE)."""

GREEN = {
    "gevent": "gevent.monkey.patch_all(thread=False)",
    "eventlet": "eventlet.monkey_patch(thread=False)",
}
CLOCKS = ("freezegun", "time_machine")


def check() -> None:
    """Raise a `BideError` that names what is patched and says what works."""
    _check_threads()
    _check_clock()


def _check_threads() -> None:
    # Debuggers wrap what starts a thread, which is harmless; only other kinds of threads have other idents.
    for module in ("_thread", "threading"):
        ident = _attribute(module, "get_ident")
        owner = _owner(ident)
        if ident is None or (type(ident) is BuiltinFunctionType and owner == "_thread"):
            continue
        patched_by = GREEN.get(owner)
        msg = f"the threads of this process are patched by {owner}: bide needs threads of the operating system. " + (
            f"Patch the rest alone, with {patched_by}, or run bide in a process of its own"
            if patched_by
            else "Run bide in a process without this patch"
        )
        raise BideError(msg)


def _check_clock() -> None:
    cls: Any = _attribute("datetime", "datetime")
    if not _is_built_in(cls):
        raise BideError(_frozen(f"datetime.datetime is {_owner(cls)}'s {getattr(cls, '__name__', cls)!r}"))
    traveling = next((name for name in CLOCKS if _travels(name)), None)
    if traveling is not None:
        raise BideError(_frozen(f"the clock is set by {traveling}"))
    readings = {"datetime.datetime.now()": lambda: cls.now(UTC).timestamp(), "time.time()": time.time}
    for name, read in readings.items():
        before = _core._system_time()
        reading = _number(read)
        after = _core._system_time()
        if reading is None:
            raise BideError(_frozen(f"{name} is not the system's, and gives no number"))
        if not before - TOLERANCE <= reading <= after + TOLERANCE:
            raise BideError(_frozen(f"{name} is {reading - after:+.0f} s from the system's clock"))


def _number(read: Callable[[], object]) -> float | None:
    """Return what somebody's clock reads, or None if that is no time at all, as of a mock."""
    try:
        reading = read()
    except Exception:  # noqa: BLE001 - whatever was put there
        return None
    return reading if isinstance(reading, float | int) else None


def _frozen(what: str) -> str:
    return (
        f"{what}: bide goes by the system's clock, which cannot be frozen or shifted. Make and use the runner while "
        "Python's clock is its own, and give a body the time that it should work with as an input"
    )


def _is_built_in(cls: object) -> bool:
    return isinstance(cls, type) and not cls.__flags__ & HEAP_TYPE


def _travels(name: str) -> bool:
    """Whether a library that replaces the clock's C functions does so now: those look the same as before."""
    return any(_attribute(name, stack) for stack in ("traveller_stack", "coordinates_stack"))


def _attribute(module: str, name: str) -> Any:  # noqa: ANN401 - whatever somebody has put there
    return getattr(sys.modules.get(module), name, None)


def _owner(thing: object) -> str:
    """Return the name of the package that something comes from."""
    module = getattr(thing, "__module__", None)
    return (module if isinstance(module, str) else type(thing).__module__).partition(".")[0]
