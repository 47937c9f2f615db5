"""Count the instructions of a task, hop, run, wait and poll with valgrind's callgrind: `make profile`.

Counts show where the time goes, and do not vary on a busy machine, as times do.
Each row executes a smaller and a larger number of units in one process. The
difference of the counts, divided by the difference of the numbers, is the cost of
one unit. All threads count: worker, caller, timer, and CPython itself.
Below each row are the functions with the most instructions, without their callees.

Under valgrind, threads take turns on one core and everything is about fifty times
slower. So events that depend on time happen more often per unit than in reality:
a group of results that is committed after 1 ms has fewer results in it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bide

from . import measure
from .bide_workflows import chain_workflow, one_workflow, open_runner, wide_workflow

FOLDER = Path("target/profile")
STORES = ("memory", "normal")
POLL_MS = 1
FUNCTIONS = 8


@dataclass(frozen=True)
class Row:
    """One row: a unit of work that costs the same each time."""

    unit: str
    small: int
    large: int
    action_of: Callable[[bide.Runner, int], Callable[[], object]]
    """Execute a number of units on a warm runner."""


def wide(runner: bide.Runner, size: int) -> Callable[[], object]:
    workflow = wide_workflow(size)
    runner.register(workflow)
    return lambda: runner.run(workflow)


def chain(runner: bide.Runner, length: int) -> Callable[[], object]:
    workflow = chain_workflow(length)
    runner.register(workflow)
    return lambda: runner.run(workflow)


def single(runner: bide.Runner, count: int) -> Callable[[], object]:
    def in_turn() -> None:
        for _ in range(count):
            runner.run(one_workflow)

    return in_turn


def many(runner: bide.Runner, count: int) -> Callable[[], object]:
    def together() -> None:
        for handle in runner.submit_many(one_workflow, [None] * count):
            handle.result()

    return together


def deferring(runner: bide.Runner, name: str, waits: int, polls: int) -> Callable[[], object]:
    """Build a body that waits a number of times, each time until a given number of polls."""

    def body(handle: bide.TaskHandle) -> None:
        asked = 0

        def condition() -> bool:
            nonlocal asked
            asked += 1
            return asked % (polls + 1) == 0  # the check before the wait is not a poll

        for _ in range(waits):
            handle.defer_until(condition, poll_interval_ms=POLL_MS)

    workflow = bide.Workflow(f"{name}-{waits}-{polls}", [bide.task(body, name="wait")])
    runner.register(workflow)
    return lambda: runner.run(workflow)


def waits(runner: bide.Runner, count: int) -> Callable[[], object]:
    return deferring(runner, "waits", count, 1)


def polls(runner: bide.Runner, count: int) -> Callable[[], object]:
    return deferring(runner, "polls", 1, count)


ROWS = (
    Row("task", 300, 900, wide),
    Row("hop", 100, 300, chain),
    Row("run in turn", 30, 90, single),
    Row("run of many", 200, 600, many),
    Row("wait", 30, 90, waits),
    Row("poll", 50, 150, polls),
)


def mark() -> None:
    """End one part of the count: callgrind writes its counts at each call of `getppid`."""
    os.getppid()


def execute() -> None:
    """Execute the counted program: each row on each store, small and large, between marks."""
    for store in STORES:
        with open_runner(measure.Setting(store, busy=False)) as runner:
            for row in ROWS:
                actions = [row.action_of(runner, units) for units in (row.small, row.large)]
                actions[0]()
                for action in actions:
                    mark()
                    action()
                    mark()


Counts = dict[tuple[str, str], Counter[str]]
"""Return the instructions of one unit by function, for each store and unit."""


def count(folder: Path) -> Counts:
    """Execute all rows under valgrind, which leaves its files in the folder."""
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--dump-before=getppid"]
    done = subprocess.run(
        [*valgrind, sys.executable, "-m", "benchmarks.instructions", "execute"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    counts: Counts = {}
    part = 0  # parts are numbered from 1; the odd ones lie between the rows
    for store in STORES:
        for row in ROWS:
            small, large = (by_function(folder / f"out.{part + number}") for number in (2, 4))
            part += 4
            large.subtract(small)
            counts[store, row.unit] = Counter({name: n // (row.large - row.small) for name, n in large.items()})
    return counts


def by_function(part: Path) -> Counter[str]:
    """Return the instructions of each function in one part of callgrind's count, without its callees."""
    names: dict[str, str] = {}
    counts: Counter[str] = Counter()
    function, of_callee = "", False
    for line in part.read_text().splitlines():
        if named := re.match(r"(c?)fn=\((\d+)\)(?: (.*))?", line):
            callee, number, name = named.groups()
            if name:
                names[number] = name.removesuffix("'2")  # callgrind's mark of a recursive function
            if not callee:
                function = names[number]
        elif line.startswith("calls="):
            of_callee = True  # the next line is the inclusive cost of the call
        elif line[:1].isdigit() or line[:1] in {"+", "-", "*"}:
            if not of_callee:
                counts[function] += int(line.split()[1])
            of_callee = False
    return counts


def main() -> int:
    """Count and print the instructions."""
    if sys.argv[1:] == ["execute"]:
        execute()
        return 0
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    counts = count(FOLDER.resolve())
    print(f"{'instructions for each':<24}{''.join(f'{store:>12}' for store in STORES)}")
    for row in ROWS:
        print(f"{row.unit:<24}{''.join(f'{counts[store, row.unit].total():>12,}' for store in STORES)}")
    for (store, unit), functions in counts.items():
        print(f"\n{unit}, {store}")
        for name, number in functions.most_common(FUNCTIONS):
            print(f"{number:>8,}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
