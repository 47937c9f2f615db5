"""Limits under the clock of a test: a task's `timeout=`, errors of a condition, and a `bide.Limit`."""

import asyncio
import itertools
import threading
from datetime import timedelta
from typing import Any

import pytest

import bide
from bide.testing import NeverSatisfied, Runner

pytestmark = pytest.mark.timeout(60)
KINDS = pytest.mark.parametrize("kind", ["def", "async def"])
PLACES = pytest.mark.parametrize("place", ["def", "async def", "gate", "async gate", "combination"])


def download() -> str:
    raise AssertionError("it has a stub")


def loading(kind: str) -> bide.Workflow:
    @bide.task(name="load", timeout=60)
    def load(handle: bide.TaskHandle) -> str:
        return handle.step(download)

    @bide.task(name="load", timeout=60)
    async def load_async(handle: bide.AsyncTaskHandle) -> str:
        return await handle.step(download)

    return bide.Workflow("loading", [load if kind == "def" else load_async])


@KINDS
@pytest.mark.parametrize(("seconds", "ends"), [(59, "Completed"), (61, "Failed")])
def test_a_step_that_takes_as_long_as_the_test_says_uses_up_the_timeout(kind: str, seconds: int, ends: str) -> None:
    with Runner() as runner:

        def takes() -> str:
            runner.advance(seconds)
            return "data"

        runner.stub_step("download", takes)
        run = runner.submit(loading(kind))
        if ends == "Failed":
            with pytest.raises(bide.RunFailed, match="was not done after 60 s of execution"):
                run.result()
        else:
            assert run.result()["load"] == "data"


def test_a_body_that_hangs_is_ended_when_its_time_has_passed() -> None:
    executes, returns = threading.Event(), threading.Event()

    @bide.task(timeout=3600)
    def hangs() -> None:
        executes.set()
        returns.wait()

    with Runner() as runner:
        run = runner.submit(bide.Workflow("hanging", [hangs]))
        assert executes.wait(30)
        runner.advance(3599, executing=True)
        assert runner.get(run.id).ended_at is None
        runner.advance(1, executing=True)
        with pytest.raises(bide.RunFailed, match="3600 s of execution"):
            run.result()
        returns.set()


async def test_a_coroutine_that_hangs_is_cancelled_when_its_time_has_passed() -> None:
    executes, cancelled = asyncio.Event(), asyncio.Event()

    @bide.task(timeout=3600)
    async def hangs() -> None:
        executes.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with Runner() as runner:
        run = await runner.submit_async(bide.Workflow("hanging", [hangs]))
        await executes.wait()
        await runner.advance_async(3600, executing=True)
        await cancelled.wait()
        with pytest.raises(bide.RunFailed, match="3600 s of execution"):
            await run


@KINDS
def test_a_body_that_really_takes_longer_than_its_timeout_is_ended(kind: str) -> None:
    returns = threading.Event()

    @bide.task(name="slow", timeout=0.05)
    def slow() -> None:
        returns.wait()

    @bide.task(name="slow", timeout=0.05)
    async def slow_async() -> None:
        await asyncio.Event().wait()

    with Runner(auto_advance=True) as runner:
        with pytest.raises(bide.RunFailed, match=r"0\.05 s of execution"):
            runner.run(bide.Workflow("slow", [slow if kind == "def" else slow_async]))
        returns.set()


def waiting(place: str, condition: Any, **policy: Any) -> bide.Workflow:
    async def condition_async() -> object:
        return condition()

    if place.endswith("gate"):
        asked = condition_async if place == "async gate" else condition

        @bide.task(gate=bide.until(asked, every=10, **policy))
        def gated() -> None: ...

        return bide.Workflow("waiting", [gated])

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        wait = bide.until(condition, every=10, **policy)
        handle.wait(bide.any_of(wait, bide.signal("go")) if place == "combination" else wait)

    @bide.task
    async def waits_async(handle: bide.AsyncTaskHandle) -> None:
        await handle.wait(bide.until(condition_async, every=10, **policy))

    return bide.Workflow("waiting", [waits_async if place == "async def" else waits])


@pytest.mark.parametrize("place", ["def", "async def", "gate", "async gate"])
def test_errors_that_end_a_wait_without_a_timeout_end_it(place: str) -> None:
    def lost() -> bool:
        raise OSError("no connection")

    with Runner(auto_advance=True) as runner:
        begun = runner.now
        with pytest.raises(bide.RunFailed, match="no connection"):
            runner.run(waiting(place, lost))
        assert (runner.now - begun).total_seconds() == pytest.approx(40, abs=10)


@PLACES
def test_a_condition_that_raises_something_new_each_time_moves_no_time(place: str) -> None:
    numbers = itertools.count()

    def lost() -> bool:
        raise OSError(f"error {next(numbers)}")

    with Runner(auto_advance=True) as runner:
        with pytest.raises(NeverSatisfied, match="waits for"):
            runner.run(waiting(place, lost, on_error="ignore"))
        assert next(numbers) < 10


@KINDS
def test_a_rate_of_one_in_a_minute_takes_no_real_time(kind: str) -> None:
    limit = bide.Limit("api", rate=(1, 60))

    @bide.task(name="calls", limit=limit)
    def calls() -> None: ...

    @bide.task(name="calls", limit=limit)
    async def calls_async() -> None: ...

    with Runner(auto_advance=True) as runner:
        begun = runner.now
        workflow = bide.Workflow("calling", [calls if kind == "def" else calls_async])
        handles = runner.submit_many(workflow, [None] * 61)
        started = sorted(at for one in handles if (at := one.result().tasks["calls"].started_at) is not None)
        assert len(started) == 61
        assert all(late - early > timedelta(minutes=1) for early, late in itertools.pairwise(started))
        assert runner.now - begun == pytest.approx(timedelta(hours=1), abs=timedelta(seconds=1))
