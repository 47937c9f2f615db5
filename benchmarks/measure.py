"""Code that the measurements of all subjects share: sizes, the clock, memory, and the command line.

It imports only the standard library, because the environments of the peers execute it too.
"""

import argparse
import asyncio
import gc
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

WIDE = 10_000
CHAIN = 1_000
SMALL, LARGE = 200, 100_000
MANY = 10_000
FIRST_TURNS = 5
SLEEPS, SLEEP_SECONDS = 4, 0.3
DEFERRED, PARKED, POLL_SECONDS = 1_000, 10_000, 1.0
GATES = 100_000
LATE_BODIES, LATE_WAITS, LATE_POLL_SECONDS = 100, 5, 0.1
LATENCY_RUNS = 20
IMPORTS = 20
RESUMES, RESUME_POLL_SECONDS = 1_000, 0.001
BEHIND_RUNS, BEHIND_SECONDS = 100, 0.05
ELSEWHERE_RUNS, KILLS = 200, 100
SIGNALS, SENT = 1_000, 200
LEVELS, LEVEL_RUNS = 10, 100
SLEPT_DAYS = 1_000
IN_TURN = 1_000
SUBMITTERS = 16
EMITTED, EMITTING_RUNS, FOLLOWED = 100_000, 3, 300
STEPS = 1_000
LOOKS, PAGE = 20, 100
CALLERS, TICK_SECONDS = 100, 0.005
UNFINISHED = 100_000
ENDED, ENDED_EARLY = 1_000_000, 200_000
BATCH = 10_000
WORKFLOWS, REGISTERED = 1_000, 2_000
SETTLE_SECONDS = 0.5
SINGLE_SECONDS = 2.0
CPU_SECONDS = 4.0
PATIENCE = 120.0


@dataclass(frozen=True)
class Setting:
    """How to measure a row."""

    store: str
    """Where runs are kept: memory, normal (SQLite, synchronous=NORMAL), full, or the URL of a PostgreSQL."""
    busy: bool
    """Whether a busy Python thread runs beside the measurement."""


Metrics = dict[str, float]
Row = Callable[[Setting], Metrics]


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Create a folder for measured files on the checkout's disk; /tmp might be in memory."""
    folder = Path("target/bench").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=folder)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that the action took."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def import_times(*modules: str) -> list[float]:
    """Return the milliseconds of a new process that imports a module, for each module: medians, taking turns."""

    def start(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    seconds: list[list[float]] = [[] for _ in modules]
    for _ in range(IMPORTS + 1):
        for module, spent in zip(modules, seconds, strict=True):
            spent.append(timed(partial(start, module)))
    return [statistics.median(spent[1:]) * 1e3 for spent in seconds]  # the first reads the files from the disk


def in_turns(*actions: Callable[[], float]) -> list[float]:
    """Return the median result of each function, called FIRST_TURNS times in turns, each after a garbage collection."""
    found: list[list[float]] = [[] for _ in actions]
    for _ in range(FIRST_TURNS):
        for action, values in zip(actions, found, strict=True):
            gc.collect()
            values.append(action())
    return [statistics.median(values) for values in found]


def rate_of_calls(action: Callable[[], object], seconds: float = SINGLE_SECONDS) -> float:
    """Return the calls per second, one after the other, for about the given time."""
    calls = 0
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        action()
        calls += 1
    return calls / passed


def growth(action_of: Callable[[int], Callable[[], object]]) -> Metrics:
    """Return the cost per task in a small and in a large run, each with warm code, and their ratio."""
    metrics: Metrics = {}
    for name, size, repetitions in (("cost_small", SMALL, 20), ("cost_large", LARGE, 2)):
        action = action_of(size)
        action()
        metrics[name] = statistics.median(timed(action) for _ in range(repetitions)) / size * 1e6
    return metrics | {"growth": metrics["cost_large"] / metrics["cost_small"]}


def rate_of_threads(action: Callable[[], object], seconds: float = SINGLE_SECONDS) -> float:
    """Return the calls per second of SUBMITTERS threads together; each calls again as soon as its call has returned."""
    barrier = threading.Barrier(SUBMITTERS)
    calls: list[int] = []

    def submitter() -> None:
        barrier.wait()
        own = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            action()
            own += 1
        calls.append(own)

    threads = [threading.Thread(target=submitter) for _ in range(SUBMITTERS)]

    def all_threads() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    passed = timed(all_threads)
    return sum(calls) / passed


async def application(call: Callable[[], Awaitable[object]]) -> Metrics:
    """Measure CALLERS coroutines that await one call after the other, and the delay of their loop meanwhile."""
    calls, late = 0, []
    start = time.perf_counter()
    end = start + SINGLE_SECONDS

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < end:
            await call()
            calls += 1

    async def ticker() -> None:
        while (began := time.perf_counter()) < end:
            await asyncio.sleep(TICK_SECONDS)
            late.append(time.perf_counter() - began - TICK_SECONDS)

    async with asyncio.TaskGroup() as group:
        group.create_task(ticker())
        for _ in range(CALLERS):
            group.create_task(caller())
    return {"application": calls / (time.perf_counter() - start), "tick": percentile(late, 0.99) * 1e3}


async def in_thread() -> None:
    """Call a function that does nothing on a thread, as `asyncio.to_thread` does."""
    await asyncio.to_thread(int)


def resume_lateness(seconds: Sequence[float]) -> Metrics:
    """Return the delay beyond the poll interval of waits whose first poll was true: p99, ms."""
    return {"resume": (percentile(seconds, 0.99) - RESUME_POLL_SECONDS) * 1e3}


class Second:
    """A condition that is true at its second call."""

    def __init__(self) -> None:
        """Start with no call."""
        self.asked = 0

    def ask(self) -> bool:
        """Return whether this is the second call."""
        self.asked += 1
        return self.asked == 2  # noqa: PLR2004 - the second


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def due_times(start: float) -> list[list[float]]:
    """Return when each body's conditions become true: spread evenly over all phases of the poll."""
    return [
        [start + wait * 0.5 + (body * 37 % LATE_BODIES) / LATE_BODIES * 0.45 for wait in range(1, LATE_WAITS + 1)]
        for body in range(LATE_BODIES)
    ]


def lateness(late: Sequence[float]) -> Metrics:
    """Return how long after its condition became true a body continued: p99 minus the poll interval, ms."""
    return {"late": (percentile(late, 0.99) - LATE_POLL_SECONDS) * 1e3}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a state that the measurement needs."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what}: not so after {PATIENCE:.0f} s")
        time.sleep(0.01)


def resident_mb() -> float:
    """Return the resident memory of this process."""
    return _kilobytes("/proc/self/status", {"VmRSS"}) / 1024


def memory_kb() -> float:
    """Return resident memory and page tables of this process, plus kernel stacks and slabs of the machine.

    Linux does not report the kernel's share per process, so other work of the machine adds noise.
    """
    own = _kilobytes("/proc/self/status", {"VmRSS", "VmPTE"})
    kernel = _kilobytes("/proc/meminfo", {"KernelStack", "Slab"})
    return own + kernel


def _kilobytes(file: str, names: set[str]) -> float:
    lines = (line.split() for line in Path(file).read_text().splitlines())
    return float(sum(int(words[1]) for words in lines if words[0].rstrip(":") in names))


def cpu_percent(seconds: float = CPU_SECONDS) -> float:
    """Measure how much of one core this process uses for some seconds, in percent, including kernel time."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    before, start = used(), time.perf_counter()
    time.sleep(seconds)
    return (used() - before) / (time.perf_counter() - start) * 100


class Release:
    """The condition of a number of waiting bodies; it records which of them have polled."""

    def __init__(self, count: int) -> None:
        """Start closed."""
        self.count = count
        self.given = False
        self.asked: set[int] = set()

    def ask(self, number: int) -> bool:
        """Return whether the release was given; the condition of one body."""
        self.asked.add(number)
        return self.given

    def settle(self) -> None:
        """Wait until every body has polled at least once and only polls execute."""
        wait_until(lambda: len(self.asked) == self.count, f"{self.count} bodies wait")
        time.sleep(2 * POLL_SECONDS)


class Shut:
    """The condition of GATES waits. It only counts its polls, which costs no memory."""

    def __init__(self) -> None:
        """Start closed."""
        self.open = False
        self.asked = 0

    def ask(self) -> bool:
        """Return whether the gates are open; the condition of each."""
        self.asked += 1
        return self.open


def measure_gates(shut: Shut, start: Callable[[], object], all_ended: Callable[[], object]) -> Metrics:
    """Measure memory and CPU of many waits that keep no thread, and the time until all have ended."""
    before = memory_kb()
    start()
    wait_until(lambda: shut.asked >= 2 * GATES, f"{GATES} gates wait")
    time.sleep(2 * POLL_SECONDS)
    metrics = {"gate_kb": (memory_kb() - before) / GATES, "gate_cpu": cpu_percent()}
    shut.open = True
    return metrics | {"gate_resume": timed(all_ended)}


def measure_signal_gates(
    start: Callable[[], object], open_all: Callable[[], object], commits: Callable[[], int]
) -> Metrics:
    """Measure memory, CPU and commits of many waits that nothing polls, and the time from their signals to the end."""
    before = memory_kb()
    start()
    time.sleep(2 * POLL_SECONDS)
    metrics = {"signal_gate_kb": (memory_kb() - before) / GATES}
    committed = commits()
    metrics["signal_gate_cpu"] = cpu_percent()
    metrics["signal_gate_commits"] = commits() - committed
    return metrics | {"signal_gate_resume": timed(open_all)}


def measure_waiting(
    what: str,
    setting: Setting,
    release: Release,
    start: Callable[[], object],
    all_resumed: Callable[[], object],
) -> Metrics:
    """Measure memory and CPU of the waits, and how long after their release the last body has ended."""
    before = memory_kb()
    start()
    release.settle()
    metrics: Metrics = {}
    if not setting.busy:  # the waits do not cause the busy thread's CPU time
        metrics[f"{what}_kb"] = (memory_kb() - before) / release.count
        metrics[f"{what}_cpu"] = cpu_percent()
    release.given = True
    metrics[f"{what}_resume"] = timed(all_resumed)
    return metrics


def start_busy_thread() -> None:
    """Start a thread that computes in Python and never releases the interpreter voluntarily."""

    def spin() -> None:
        number = 0
        while True:
            number = (number + 1) % 1_000_003

    threading.Thread(target=spin, name="busy", daemon=True).start()


def main(rows: dict[str, Row]) -> None:
    """Measure the row named on the command line and print its metrics as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("row", choices=sorted(rows))
    parser.add_argument("--store", help="memory, normal, full, or the URL of a PostgreSQL", default="memory")
    parser.add_argument("--busy", action="store_true", help="beside one busy Python thread")
    options = parser.parse_args()
    if options.busy:
        start_busy_thread()
    print(json.dumps(rows[options.row](Setting(options.store, options.busy))))
