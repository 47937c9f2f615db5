"""What the runners of postgres_torture.py execute: `python tests/tortured.py STORE LEDGER` until the input ends.

The bodies note in the ledger what they do, with their process, and what their steps return.
"""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import bide

SIGNALS = 3
"""How many signals each run waits for."""

_ledger = Path(os.environ.get("BIDE_TORTURE_LEDGER", os.devnull))


def note(*words: object) -> None:
    """Write a line that survives any kill."""
    with _ledger.open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def step(handle: bide.TaskHandle, name: str, value: int) -> int:
    """Do something outside of bide, and record it."""

    def act(value: int) -> int:
        note("did", handle.run_id, handle.task_name, name, value, os.getpid())
        return value

    got: int = handle.step(act, value, name=name)
    note("got", handle.run_id, handle.task_name, name, got, os.getpid())
    return got


@bide.task
def charge(n: int, handle: bide.TaskHandle) -> int:
    """Steps and sleeps in turn."""
    total = 0
    for k in range(3):
        total += step(handle, f"charge-{k}", n + k)
        handle.sleep(0.02)
    return total


@bide.task
def mail(handle: bide.TaskHandle) -> list[int]:
    """Wait for signals: each comes once, in the order in which they were sent."""
    got = []
    for k in range(SIGNALS):
        value = handle.wait_for("n", int)
        got.append(step(handle, f"signal-{k}", value))
    return got


@bide.task(retry=bide.Retry(attempts=3, delay=0.02, jitter=0))
def flaky(n: int, handle: bide.TaskHandle) -> int:
    """Fail once."""
    kept = step(handle, "kept", n)
    if handle.attempt < 2:
        raise ValueError("not yet")
    return kept


@bide.task
def works(n: int, handle: bide.TaskHandle) -> int:
    """Be a child."""
    handle.sleep(0.02)
    return step(handle, "work", n)


child = bide.Workflow("tortured child", [works])


@bide.task
def starts(n: int, handle: bide.TaskHandle) -> int:
    """Have a child."""
    run = handle.start(child, {"n": n})
    return int(handle.wait(run).outputs["works"])


@bide.task
def items(n: int) -> list[int]:
    """Return what the elements are for."""
    return list(range(n % 4))


@bide.task(limit=bide.Limit("elements", executing=4))
def each(item: Annotated[int, bide.Each("items")], handle: bide.TaskHandle) -> int:
    """Be an element."""
    return step(handle, "element", item)


@bide.task(gate=bide.after(0.02))
def last(charge: int, flaky: int, starts: int, mail: list[int], each: list[int]) -> int:
    """Add everything up."""
    return charge + flaky + starts + sum(mail) + sum(each)


workflow = bide.Workflow("tortured", [charge, mail, flaky, starts, items, each, last], signals=["n"])


def expected(n: int) -> int:
    """Return what `last` returns."""
    return sum(n + k for k in range(3)) + n + n + sum(range(SIGNALS)) + sum(range(n % 4))


if __name__ == "__main__":
    _ledger = Path(sys.argv[2])
    while True:
        try:
            runner = bide.Runner(sys.argv[1], slots=4, workflows=[workflow, child])
            break
        except bide.StoreError as error:  # as a service manager does, while the server is away
            sys.stderr.write(f"{error}\n")
            time.sleep(0.2)
    with runner:
        note("born", os.getpid())
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()
