"""Correct user code: a type checker accepts every line. `test_typing.py` checks it; it is never imported."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, assert_type

import bide


numbers = bide.channel("numbers", int, keep=1)
assert_type(numbers, bide.Channel[int])
assert_type(bide.channel("any"), bide.Channel[Any])


@bide.task
def plain(path: str) -> int:
    return len(path)


@bide.task(name="second", retry=bide.Retry(attempts=2, on=(ValueError,)), timeout=timedelta(minutes=1))
def configured(plain: int, *, factor: float = 1.0) -> float:
    return plain * factor


@bide.task(depends_on=plain, gate=bide.until(lambda: True, every=0.5, timeout=3), run_if="done")
def gated(amount: Annotated[float | None, bide.From("second")] = None) -> None: ...


@bide.task(executor=bide.Processes(2), timeout=10)
def elsewhere(path: str) -> int:
    return len(path)


assert_type(elsewhere("x"), int)


def lookup(name: str) -> dict[str, int] | None:
    return {name: 1} if name else None


@bide.task
def waits(handle: bide.TaskHandle, context: bide.Context) -> int:
    assert_type(handle.defer_until(Path("x").exists, 200), bool)
    found = handle.defer_until(lambda: lookup("x"), poll_interval_ms=20, timeout=timedelta(hours=1), jitter=0.1)
    assert_type(found, dict[str, int])
    assert_type(handle.wait(bide.until(lambda: lookup("x"), on_error=bide.Tolerate(3))), dict[str, int])
    handle.wait(bide.after(1))
    handle.wait(bide.at(datetime.now(UTC)))
    handle.sleep(1.5)
    handle.sleep_until(datetime.now(UTC), name="until")
    assert_type(handle.step(lookup, "x"), dict[str, int] | None)
    assert_type(handle.step(lookup, "x", name="look"), dict[str, int] | None)
    assert_type(handle.step(lookup, "x", key="x"), dict[str, int] | None)
    assert_type(handle.step(lookup, "x", retry=bide.Retry(5), key="x"), dict[str, int] | None)
    assert_type(handle.step(lookup, "x", once=True), dict[str, int] | None)
    assert_type(bide.current().step(int, "3", base=10), int)
    with handle.transaction(object(), same_database=True) as step:
        assert_type(step, bide.Transaction)
        assert_type(step(lookup, "x"), dict[str, int] | None)
        assert_type(step(lookup, "x", key="x"), dict[str, int] | None)
        assert_type(step(int, "3", base=10, name="int"), int)
    handle.checkpoint({"turn": 1})
    assert_type(handle.last_checkpoint(int), int | None)
    assert_type(handle.last_checkpoint(int, default=0), int)
    assert_type(handle.is_replaying and handle.in_step, bool)
    assert_type(handle.now(), datetime)
    assert_type(handle.suspending, bool)
    handle.emit({"any": 1})
    handle.emit(1, channel="log")
    handle.emit(3, channel=numbers)
    handle.progress(1, 2.5, "copying")
    context["n"] = 1
    return handle.attempt


assert_type(plain("x"), int)  # a task stays the same function
assert_type(configured(1, factor=2.0), float)


class Report:  # a class is a task too
    def __init__(self, plain: int) -> None:
        self.size = plain


ready: bide.Until[bool] = bide.until(lambda: True)
either = bide.any_of(ready, bide.after(1))
both = bide.all_of(ready, bide.signal("go", str))
waits_for: list[bide.Wait[Any]] = [ready, bide.after(1), bide.at(datetime.now(UTC)), bide.signal("go"), either, both]
a_bool: bide.Wait[bool] = ready
an_int: bide.Wait[int] = ready  # a wait for a bool is one for an int
each: list[bide.Wait[object]] = [ready, either, bide.after(1)]
assert_type(either, bide.AnyOf[tuple[bide.Fired[bool] | None, bide.Fired[None] | None]])
assert_type(both, bide.AllOf[tuple[bool, str]])
assert_type(bide.after(1), bide.After)
assert_type(bide.at(datetime.now(UTC)), bide.At)
assert_type(bide.until(lambda: lookup("x")), bide.Until[dict[str, int]])


def poll(name: str, every: float = 1.0) -> bide.Until[dict[str, int]]:
    return bide.until(lambda: lookup(name), every=every)


workflow = bide.Workflow("typed", [plain, configured, gated, waits], description="all of it", fail_fast=True)


@bide.task
def starts(handle: bide.TaskHandle) -> str:
    child = handle.start(workflow, {"path": "x"}, key="k")
    assert_type(child, bide.ChildRun)
    assert_type(handle.wait(child), bide.RunResult)
    assert_type(handle.start_many(workflow, [{"path": "x"}, None]), list[bide.ChildRun])
    assert_type(handle.wait_all(child, bide.after(1)), tuple[bide.RunResult, None])
    assert_type(handle.wait_any(child), tuple[bide.Fired[bide.RunResult] | None])
    children = handle.start_many(workflow, [{"path": "x"}] * 6)
    assert_type(handle.wait_all(*children), tuple[bide.RunResult, ...])
    assert_type(handle.wait_any(*children), tuple[bide.Fired[bide.RunResult] | None, ...])
    assert_type(bide.all_of(*children), bide.AllOf[tuple[bide.RunResult, ...]])
    assert_type(bide.any_of(*children), bide.AnyOf[tuple[bide.Fired[bide.RunResult] | None, ...]])
    assert_type(handle.wait_all(child, child, child, child, child, child), tuple[bide.RunResult, ...])
    assert_type(handle.run(workflow, timeout=1)[plain], int)
    assert_type(handle.parent, str | None)
    return child.id


@workflow.task
def added() -> str:
    return "x"


assert_type(added(), str)


def use() -> None:
    with bide.Runner(Path("x.db"), workflows=[workflow], slots=2, durability="full") as runner:
        result = runner.run(workflow, {"path": "x"}, key="k", timeout=timedelta(seconds=5))
        assert_type(result.status, bide.RunStatus)
        assert_type(result[plain], int)  # by its function: what the function returns
        assert_type(result[configured], float)
        assert_type(result[gated], None)
        assert_type(result[added], str)
        assert_type(result[Report], Report)
        assert_type(result[lookup], dict[str, int] | None)
        assert_type(result["plain"], Any)  # by its name: anything
        for name in result:
            assert_type(name, str)
        assert_type(result.tasks["plain"], bide.TaskResult)
        assert_type(runner.submit(workflow), bide.RunHandle)
        assert_type(runner.submit_many(workflow, [{"path": "x"}]), list[bide.RunHandle])
        assert_type(result.tasks["plain"].progress, bide.Progress | None)
        assert_type(next(runner.events(result, numbers)), bide.Event[int])
        assert_type(next(runner.follow("k", numbers)).value, int)
        assert_type(runner.latest("k", numbers, workflow=workflow), bide.Event[int] | None)
        assert_type(runner.events("k", numbers, workflow="typed"), Iterator[bide.Event[int]])
        assert_type(runner.follow("k", workflow=workflow), bide.Follower[Any])
        assert_type(runner.submit(workflow).follow(numbers), bide.Follower[int])
        assert_type(runner.runs(status=bide.RunStatus.Failed, since=timedelta(days=1)), list[bide.RunResult])


def fails(runner: bide.Runner) -> int:
    try:
        return runner.run(workflow)[plain]
    except bide.RunFailed as failed:
        assert_type(failed.result, bide.RunResult)
        assert_type(failed.errors, dict[str, BaseException])
        return failed.result[plain]


async def use_async() -> None:
    async with bide.Runner(":memory:") as runner:
        assert_type(await runner.run_async(workflow), bide.RunResult)
        assert_type(await runner.submit(workflow), bide.RunResult)
        async for event in runner.follow("k", numbers):
            assert_type(event, bide.Event[int])


async def fetch(url: str) -> int:
    return len(url)


async def maybe() -> str | None:
    return None


assert_type(bide.until(maybe), bide.Until[str])


@bide.task
async def downloads(url: str, handle: bide.AsyncTaskHandle) -> int:
    assert_type(await handle.step(fetch, url), int)
    assert_type(await handle.step(len, url), int)
    assert_type(await handle.step(fetch, url, key="k"), int)
    assert_type(await handle.step(len, url, key="k", retry=bide.Retry(attempts=2)), int)
    async with handle.transaction(object()) as step:
        assert_type(step, bide.AsyncTransaction)
        assert_type(await step(fetch, url), int)
        assert_type(await step(len, url, key="k"), int)
        assert_type(await step(fetch, url, name="k"), int)
    assert_type(await handle.defer_until(maybe, 10), str)
    assert_type(await handle.defer_until(lambda: 3), int)
    assert_type(await handle.wait(bide.until(maybe), timeout=3), str)
    assert_type(await handle.wait_for("go", int), int)
    assert_type(
        await handle.wait_any(bide.until(maybe), bide.after(3)), tuple[bide.Fired[str] | None, bide.Fired[None] | None]
    )
    assert_type(await handle.wait_all(bide.until(maybe), bide.after(3)), tuple[str, None])
    received = await handle.wait(asks)
    assert_type(received, bide.AsyncReceived[str, int])
    await received.reply(3)
    callback = await handle.callback("paid", int)
    assert_type(await handle.wait(callback), int)
    assert_type(handle.last_checkpoint(int), int | None)
    assert_type(await handle.run(workflow), bide.RunResult)
    assert_type(bide.current(bide.AsyncTaskHandle), bide.AsyncTaskHandle)
    assert_type(bide.current(), bide.TaskHandle)
    return 1


async def twins(runner: bide.Runner) -> None:
    result = await runner.run_async(bide.Workflow("downloads", [downloads]))
    assert_type(result[downloads], int)
    run = await runner.submit_async(workflow)
    assert_type(run, bide.RunHandle)
    assert_type(await run.request_async(asks, "x"), int)
    assert_type(await run.latest_async(numbers), bide.Event[int] | None)
    assert_type(await runner.events_async("k", numbers), list[bide.Event[int]])


asks = bide.request("asks", str, int)
assert_type(asks, bide.Request[str, int])


@bide.task
def answers(handle: bide.TaskHandle) -> bool:
    received = handle.wait(asks)
    assert_type(received, bide.Received[str, int])
    received.reply(len(received.value))
    callback = handle.callback("paid", int)
    assert_type(callback, bide.Callback[int])
    assert_type(callback.token, str)
    assert_type(handle.callback("anything"), bide.Callback[Any])
    first, asked = handle.wait_any(callback, asks)
    assert_type(first, bide.Fired[int] | None)
    assert_type(asked, bide.Fired[bide.Received[str, int]] | None)
    return handle.wait(callback) > 1


@bide.task(gate=asks)
def gated_by(received: Annotated[bide.Received[str, int], bide.Gate]) -> None:
    received.refuse(received.value)


def sends(runner: bide.Runner, run: bide.RunHandle) -> None:
    assert_type(runner.request(run, asks, "how many?", timeout=1), int)
    assert_type(run.request(asks, "how many?", id="x"), int)
    assert_type(run.request("asks"), Any)
    runner.resolve("token", 3, id="x")
    runner.reject("token", "no")
