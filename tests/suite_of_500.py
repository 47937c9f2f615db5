"""A suite of 500 tests with a runner for each, as a user's may be. `test_leaks.py` runs it on each CPython at hand.

At its end it looks for what is left: threads, open files, memory.
"""

import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bide

WARM = 100
"""The number of warm-up tests before the baseline is measured."""
GROWTH = 6 << 20
"""Bytes that 400 runners may add to the memory of their process: about 15 KB each, less than one open runner uses."""

before: dict[str, int] = {}


@bide.task
def add(a: int, b: int) -> int:
    return a + b


@bide.task
def waits(add: int, handle: bide.TaskHandle) -> int:
    asked = iter([False, True])
    handle.defer_until(lambda: next(asked), 1)
    return handle.step(lambda: add + 1, name="one more")


@bide.task
def fails(add: int) -> None:
    raise ValueError(add)


@bide.task
def stays(handle: bide.TaskHandle) -> None:
    handle.defer_until(lambda: False, 1)


@bide.task(gate=bide.until(lambda: False, every=0.01))
def gated() -> None: ...


fine = bide.Workflow("fine", [add, waits])
bad = bide.Workflow("bad", [add, fails])
unfinished = bide.Workflow("unfinished", [stays, gated])


@pytest.fixture
def runner(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[bide.Runner]:
    """Each kind in turn: on a file or in memory, closed or only released."""
    n = request.node.callspec.params["n"]
    if n == WARM:
        before.update(look())
    runner = bide.Runner(tmp_path / "bide.db" if n % 2 else ":memory:", slots=2)
    yield runner
    if n % 4 < 2:
        runner.close()


@pytest.mark.parametrize("n", range(500))
def test_a_runner(n: int, runner: bide.Runner) -> None:
    assert runner.run(fine, {"a": n, "b": 1})["waits"] == n + 2
    with pytest.raises(bide.RunFailed):
        runner.run(bad, {"a": n, "b": 1})
    runner.submit(unfinished)


def test_nothing_is_left() -> None:
    after = look()
    sys.stdout.write(f"growth {after['memory'] - before['memory']}\n")
    assert after["threads"] == before["threads"] == 1
    assert after["files"] == before["files"]
    assert after["memory"] < before["memory"] + GROWTH


def look() -> dict[str, int]:
    """Count what is left once the threads of released runners have ended."""
    deadline = time.monotonic() + 30
    gc.collect()
    while count("task") > 1 and time.monotonic() < deadline:
        time.sleep(0.001)
        gc.collect()
    return {"threads": count("task"), "files": count("fd"), "memory": resident()}


def count(what: str) -> int:
    return len([*Path(f"/proc/self/{what}").iterdir()])


def resident() -> int:
    """Return the resident size of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
