"""Callers on an event loop: `run_async`, `await handle`, `async with`. Bodies are plain functions."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import bide
from bide._caller_loop import MOST
from processes import eventually


@bide.task
def square(n: int) -> int:
    return n * n


workflow = bide.Workflow("squares", [square])


@bide.task
def never(handle: bide.TaskHandle) -> None:
    handle.defer_until(lambda: False, 5)


async def test_run_async_and_await_of_a_handle(store: str) -> None:
    async with bide.Runner(store) as runner:
        result = await runner.run_async(workflow, {"n": 3}, key="k")
        assert result["square"] == 9
        handle = runner.submit(workflow, {"n": 4})
        assert (await handle)["square"] == 16
        assert (await handle)["square"] == 16  # any number of times
        assert (await runner.run_async(workflow, {"n": 3}, key="k")).id == result.id
    with pytest.raises(bide.RunnerClosed):
        runner.runs()


async def test_many_runs_are_awaited_at_once(store: str) -> None:
    async with bide.Runner(store) as runner:
        results = await asyncio.gather(*(runner.run_async(workflow, {"n": n}) for n in range(50)))
        assert [result["square"] for result in results] == [n * n for n in range(50)]
        handles = runner.submit_many(workflow, [{"n": n} for n in range(50)])
        assert [result["square"] for result in await asyncio.gather(*handles)] == [n * n for n in range(50)]


async def test_the_loop_continues_while_a_run_waits(store: str) -> None:
    ticks = 0
    flag = threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        handle.defer_until(flag.is_set, 5)

    async def tick() -> None:
        nonlocal ticks
        for _ in range(10):
            await asyncio.sleep(0.001)
            ticks += 1
        flag.set()

    async with bide.Runner(store) as runner:
        await asyncio.gather(runner.run_async(bide.Workflow("w", [waits])), tick())
    assert ticks == 10


async def test_a_failure_is_raised_where_it_is_awaited(store: str) -> None:
    original = ValueError("no")

    @bide.task
    def fails() -> None:
        raise original

    async with bide.Runner(store) as runner:
        with pytest.raises(bide.RunFailed) as failed:
            await runner.run_async(bide.Workflow("w", [fails]))
    assert failed.value.__cause__ is original


async def test_a_timeout_or_a_cancelled_caller_leaves_the_run_alone(store: str) -> None:
    flag = threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        handle.defer_until(flag.is_set, 5)
        return "done"

    slow = bide.Workflow("w", [waits])
    async with bide.Runner(store) as runner:
        with pytest.raises(TimeoutError):
            await runner.run_async(slow, key="k", timeout=timedelta(milliseconds=20))
        waiting = asyncio.create_task(runner.run_async(slow, key="k"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        flag.set()
        assert (await runner.run_async(slow, key="k"))["waits"] == "done"


async def test_what_else_is_on_the_loop_has_turns_between_callers_whose_runs_end_at_once(store: str) -> None:
    flag = threading.Event()

    @bide.task(gate=bide.until(flag.is_set, every=0.001))
    def gated() -> None:
        pass

    many = bide.Workflow("many", [gated])
    continued, ended = [0], asyncio.Event()

    async def caller(handle: bide.RunHandle) -> None:
        await handle
        continued[-1] += 1

    async def ticker() -> None:
        while not ended.is_set():
            await asyncio.sleep(0)
            continued.append(0)

    async with bide.Runner(store) as runner:
        handles = runner.submit_many(many, [{}] * 200)
        callers = [asyncio.create_task(caller(handle)) for handle in handles]
        await asyncio.sleep(0)  # now they wait
        flag.set()
        for handle in handles:
            while handle.status() is not bide.RunStatus.Completed:
                time.sleep(0.001)  # noqa: ASYNC251 - they are to end at once for this loop
        ticking = asyncio.create_task(ticker())
        await asyncio.gather(*callers)
        ended.set()
        await ticking
    assert sum(continued) == 200
    assert max(continued) <= MOST


async def test_a_loop_reads_for_its_callers_only_while_one_waits(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    reads: set[int] = set()
    add, remove = loop.add_reader, loop.remove_reader

    def adds(fd: int, callback: Callable[..., None], *arguments: object) -> None:
        reads.add(fd)
        add(fd, callback, *arguments)

    def removes(fd: int) -> bool:
        reads.discard(fd)
        return remove(fd)

    monkeypatch.setattr(loop, "add_reader", adds)
    monkeypatch.setattr(loop, "remove_reader", removes)
    runner = bide.Runner(store)
    assert (await runner.run_async(workflow, {"n": 3}))["square"] == 9
    assert not reads
    waiting = asyncio.create_task(runner.run_async(bide.Workflow("w", [never])))
    await asyncio.sleep(0)
    assert len(reads) == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not reads
    await runner.close_async(grace=0)


async def test_a_task_to_which_nobody_refers_comes_to_its_end(store: str) -> None:
    opens, ended = threading.Event(), asyncio.Event()

    @bide.task(gate=bide.until(opens.is_set, every=0.001))
    def gated() -> None:
        pass

    async def awaits(by_handle: bool) -> None:
        await (await runner.submit_async(waits) if by_handle else runner.run_async(waits))
        ends.append(by_handle)
        if len(ends) == 2:
            ended.set()

    waits, ends = bide.Workflow("w", [gated]), list[bool]()
    async with bide.Runner(store) as runner:
        for by_handle in (True, False):
            asyncio.create_task(awaits(by_handle))  # noqa: RUF006 - that is the point
        await asyncio.to_thread(eventually, lambda: len(runner.runs(status="Running")) == 2, "both wait")
        gc.collect()
        opens.set()
        async with asyncio.timeout(30):
            await ended.wait()


def test_a_loop_that_callers_have_left_is_kept_by_nothing(store: str) -> None:
    async def leave(runner: bide.Runner, how: str) -> None:
        runs = [runner.run_async(workflow, {"n": n}) for n in range(50)]
        callers = [asyncio.create_task(run) for run in [*runs, runner.run_async(waiting)]]
        await asyncio.wait(callers, return_when=asyncio.FIRST_COMPLETED)
        if how == "cancelled":
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)

    def closed(runner: bide.Runner, how: str) -> "weakref.ref[asyncio.AbstractEventLoop]":
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _loop, _context: None)  # it tells of the tasks that were left
        loop.run_until_complete(leave(runner, how))
        loop.close()
        return weakref.ref(loop)

    waiting = bide.Workflow("w", [never])
    runner = bide.Runner(store)
    loops = [closed(runner, how) for how in ("cancelled", "left")]
    gc.collect()
    assert [loop() for loop in loops] == [None, None]
    kept = weakref.ref(runner)
    runner.close()
    del runner
    gc.collect()
    assert kept() is None


async def test_a_cancelled_callers_run_is_submitted_whatever_becomes_of_others(store: str) -> None:
    async with bide.Runner(store) as runner:
        await runner.run_async(workflow, {"n": 1}, key="taken")
        calls = [runner.submit_async(workflow, {"n": n}, key=key) for n, key in [(5, "five"), (2, "taken"), (6, None)]]
        cancelled, refused, other = map(asyncio.create_task, calls)
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(bide.DefinitionError, match="'taken'"):
            await refused
        assert (await (await other))["square"] == 36
        assert (await runner.run_async(workflow, {"n": 5}, key="five"))["square"] == 25
        assert len(runner.runs(key_prefix="five")) == 1


async def test_awaiting_a_closed_runner_raises(file: Path) -> None:
    entered = threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        entered.set()
        handle.defer_until(lambda: False, 5)

    runner = bide.Runner(file)
    waiting = asyncio.create_task(runner.run_async(bide.Workflow("w", [waits])))
    await asyncio.to_thread(entered.wait, 30)
    await asyncio.to_thread(runner.close)
    with pytest.raises(bide.RunnerClosed):
        await waiting


def test_each_of_several_loops_may_await_one_handle(store: str) -> None:
    async def wait(handle: bide.RunHandle) -> bide.RunResult:
        return await handle

    with bide.Runner(store) as runner:
        handle = runner.submit(workflow, {"n": 5})
        for _ in range(3):
            assert asyncio.run(wait(handle))["square"] == 25
