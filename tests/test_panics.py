"""A panic in Rust is a bug in bide. It is reported as one, wherever it arises, and no caller hangs.

These tests request a panic by `_core._panic_once_at`.
"""

import threading
from pathlib import Path
from typing import Any

import pytest

import bide
from bide import _core
from processes import eventually

REPORT = "bide itself failed .*this is a bug in bide and not in your code. Please report it"
PATIENCE = 12.0
"""Seconds: far more than a loaded machine needs, and less than the time until an unreleased lease expires."""


@bide.task
def fine() -> int:
    return 7


@bide.task
def raises() -> None:
    raise ValueError("in the body")


@bide.task
def steps(handle: bide.TaskHandle) -> int:
    return handle.step(int, "7")


@bide.task(gate=bide.until(lambda: True, every=0.01))
def gated() -> None: ...


FINE = bide.Workflow("fine", [fine])


def still_usable(runner: bide.Runner) -> None:
    assert runner.run(FINE, timeout=PATIENCE)["fine"] == 7


def test_a_panic_on_a_caller_thread_raises_there_and_keeps_the_runner(runner: bide.Runner) -> None:
    _core._panic_once_at("caller")
    with pytest.raises(bide.BideError, match=REPORT) as raised:
        runner.run(FINE)
    assert "runner.rs" in str(raised.value) or "failpoint.rs" in str(raised.value)
    assert runner.runs() == []
    still_usable(runner)


def test_a_panic_on_a_worker_fails_its_body_and_keeps_the_runner(runner: bide.Runner) -> None:
    _core._panic_once_at("body")
    with pytest.raises(bide.RunFailed, match=REPORT) as raised:
        runner.run(bide.Workflow("w", [raises]), timeout=PATIENCE)
    assert isinstance(raised.value, bide.BideError)
    still_usable(runner)


def test_a_panic_on_a_gate_thread_fails_the_task_and_keeps_the_runner(runner: bide.Runner) -> None:
    _core._panic_once_at("gate")
    with pytest.raises(bide.RunFailed, match=REPORT):
        runner.run(bide.Workflow("w", [gated]), timeout=PATIENCE)
    still_usable(runner)


@pytest.mark.parametrize(
    ("place", "task"), [("commit", fine), ("commit", steps), ("worker", fine), ("worker", steps), ("lease", steps)]
)
def test_a_panic_in_the_engine_stops_the_runner_and_the_next_continues(file: Path, place: Any, task: Any) -> None:
    workflow = bide.Workflow("w", [task])
    entered, release = threading.Event(), threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> int:
        entered.set()
        handle.defer_until(release.is_set, 5)
        return 8

    other = bide.Workflow("other", [waits])
    with bide.Runner(file) as runner:
        waiting = runner.submit(other, key="waits")
        assert entered.wait(PATIENCE)
        # A thread that still holds its slot would execute the next body without passing the failpoint.
        eventually(lambda: runner._core.load()[0] == 0, "its slot is free")
        _core._panic_once_at(place)
        # Every waiting caller gets the error, on that thread and on all others.
        if place != "lease":
            with pytest.raises(bide.BideError, match=REPORT):
                runner.run(workflow, key="k", timeout=PATIENCE)
        with pytest.raises(bide.BideError, match=REPORT):
            waiting.result(PATIENCE)
        with pytest.raises(bide.BideError, match=REPORT):
            runner.runs()
    release.set()
    with bide.Runner(file) as second:
        assert second.run(workflow, key="k", timeout=PATIENCE)[task.__name__] == 7
        assert second.run(other, key="waits", timeout=PATIENCE)["waits"] == 8
