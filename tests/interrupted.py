"""Run by `test_interrupts.py` on each CPython: Ctrl-C at each point of a whole `with bide.Runner(…)`.

A point is a line of bide, or the entry of any other function called meanwhile, such as `Thread.start`. A
trace function sends the signal to its own thread, so that it hits the same point each time. Prints the number of
points.
"""

import gc
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import bide

FILE = Path(sys.argv[1])
charged: Counter[str] = Counter()
asked: Counter[str] = Counter()


def charge(order: str) -> str:
    charged[order] += 1
    return f"receipt of {order}"


@bide.task
def pays(order: str, handle: bide.TaskHandle) -> str:
    def ready() -> bool:
        asked[order] += 1
        return asked[order] > 1

    receipt = handle.step(charge, order)
    handle.defer_until(ready, 1)
    return receipt


@bide.task
def ships(pays: str) -> str:
    return f"{pays}, shipped"


workflow = bide.Workflow("order", [pays, ships])


class Interrupter:
    """Sends one SIGINT at the nth point that this thread passes."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.points = 0
        self.place = "nowhere"

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> Any:
        code = frame.f_code
        ours = "/bide/" in code.co_filename or code is order.__code__
        if event == ("line" if ours else "call") and not is_unsafe(code):
            self.points += 1
            if self.points == self.at:
                self.place = f"{code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self if ours else None


def is_unsafe(code: CodeType) -> bool:
    """Points where an interrupted CPython does not release its lock, so that the next thread that needs it hangs."""
    return code.co_filename == threading.__file__ and code.co_name in {"__enter__", "__exit__", "_acquire_restore"}


def order(key: str, interrupter: Interrupter) -> str:
    """A user's program, from its first line to its last."""
    sys.settrace(interrupter)
    try:
        with bide.Runner(FILE, slots=2, workflows=[workflow]) as runner:
            return str(runner.run(workflow, {"order": key}, key=key)["ships"])
    finally:
        sys.settrace(None)


def attempt(at: int) -> str | None:
    """Interrupt at a point; return its place, or None if there are fewer points."""
    key = f"order {at}"
    interrupter = Interrupter(at)
    try:
        order(key, interrupter)
    except KeyboardInterrupt:
        interrupted = True
    else:
        interrupted = False
    assert interrupted == (interrupter.place != "nowhere"), f"{interrupter.place}: {interrupted}"
    gc.collect()
    # Nothing continues in the background after the interrupt: no thread, and no lease that blocks others.
    # (`threading` itself keeps listing a thread whose start was interrupted.)
    patience = time.monotonic() + 20
    while len([*Path("/proc/self/task").iterdir()]) > 1:
        assert time.monotonic() < patience, f"{interrupter.place}: {threading.enumerate()}"
        time.sleep(0.001)
    began = time.monotonic()
    with bide.Runner(FILE, slots=2, workflows=[workflow]) as runner:
        result = runner.run(workflow, {"order": key}, key=key, timeout=30)
        assert result["ships"] == f"receipt of {key}, shipped"
    assert time.monotonic() - began < 10, interrupter.place  # a lease expires after 15 seconds
    assert charged[key] == 1, f"{interrupter.place}: {charged[key]}"
    return interrupter.place if interrupted else None


first, step = int(sys.argv[2]), int(sys.argv[3])
places: set[str] = set()
at = first
while place := attempt(at):
    places.add(place)
    at += step
with bide.Runner(FILE) as runner:
    assert all(run.status is bide.RunStatus.Completed for run in runner.runs())
sys.stdout.write(f"{at} points, {sum('/bide/' in place for place in places)} places in bide\n")
