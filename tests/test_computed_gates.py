"""Gates whose time is computed when they open: `bide.after` and `bide.at` with a function."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pytest

import bide
import bide.testing
from processes import Child, eventually, ledger, ran

T = TypeVar("T")


def asynchronous(function: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    async def function_by_async_def() -> T:
        await asyncio.sleep(0)
        return function()

    return function_by_async_def


def test_a_computed_time_is_bound_like_the_task_and_never_early(runner: bide.Runner) -> None:
    @bide.task
    def order(grace: float) -> dict[str, float]:
        return {"grace": grace, "due": time.time() + grace}

    def moment(order: dict[str, float]) -> datetime:
        return datetime.fromtimestamp(order["due"], UTC)

    @bide.task(gate=bide.after(lambda order: timedelta(seconds=order["grace"])))
    def remind(order: dict[str, float]) -> float:
        return time.time() - order["due"]

    @bide.task(gate=bide.at(moment))
    def close(order: dict[str, float]) -> float:
        return time.time() - order["due"]

    workflow = bide.Workflow("w", [order, remind, close])
    result = runner.run(workflow, {"grace": 0.1})
    assert 0 <= result["remind"] < 5
    assert 0 <= result["close"] < 5
    assert result.tasks["close"].waited >= 0.05


def test_a_computed_time_is_one_of_several(runner: bide.Runner) -> None:
    never = bide.signal("never")

    @bide.task(gate=bide.any_of(never, bide.after(lambda grace: grace)))
    def gated(came: Annotated[tuple[bide.Fired[Any] | None, ...], bide.Gate]) -> bool:
        return came[1] is not None

    assert runner.run(bide.Workflow("w", [gated]), {"grace": 0.02})["gated"] is True


@pytest.mark.parametrize("by_async", [False, True])
def test_an_error_of_the_function_fails_the_gate_and_is_retried_as_the_task_is(
    runner: bide.Runner, by_async: bool
) -> None:
    calls: list[int] = []

    def plain() -> float:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("no route")
        return 0

    flaky = asynchronous(plain) if by_async else plain
    retry = bide.Retry(attempts=2, delay=0, on=ConnectionError)

    @bide.task(gate=bide.after(flaky), retry=retry)
    def retried() -> int:
        return 1

    assert runner.run(bide.Workflow("w", [retried]))["retried"] == 1
    calls.clear()

    @bide.task(gate=bide.after(flaky))
    def fails() -> None: ...

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("v", [fails]))
    assert "no route" in str(failed.value.__cause__)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        (bide.after(lambda: "soon"), "what the function of bide.after returns must be seconds"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        (bide.after(lambda: -1), "what the function of bide.after returns must be zero or more"),
        (bide.after(asynchronous(lambda: -1)), "what the function of bide.after returns must be zero or more"),
        (bide.at(lambda: datetime(2020, 1, 1)), "what the function of bide.at returns must know its time zone"),  # noqa: DTZ001
        (
            bide.at(asynchronous(lambda: datetime(2020, 1, 1))),  # noqa: DTZ001
            "what the function of bide.at returns must know its time zone",
        ),
    ],
)
def test_what_is_no_time_fails_the_gate(runner: bide.Runner, gate: bide.Wait[None], says: str) -> None:
    @bide.task(gate=gate)
    def gated() -> None: ...

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [gated]))
    assert says in str(failed.value.__cause__)
    assert isinstance(failed.value.__cause__, bide.TaskFailed)
    assert failed.value.__cause__.type == "bide.DefinitionError"


@pytest.mark.parametrize(
    "wait",
    [
        lambda handle: handle.wait(bide.after(lambda: 1)),
        lambda handle: handle.wait(bide.at(lambda: datetime.now(UTC))),
        lambda handle: handle.wait(bide.after(lambda: 1), timeout=5),
        lambda handle: handle.wait_any(bide.signal("go"), bide.at(lambda: datetime.now(UTC))),
    ],
)
def test_a_body_cannot_wait_for_a_computed_time(runner: bide.Runner, wait: Callable[[bide.TaskHandle], object]) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        with pytest.raises(bide.DefinitionError) as refused:
            wait(handle)
        return str(refused.value)

    message = runner.run(bide.Workflow("w", [waits]))["waits"]
    assert "computes its time when a gate opens, and this is no gate: call the function and pass" in message


def test_a_coroutine_is_told_to_await_the_function(runner: bide.Runner) -> None:
    async def grace() -> float:
        return 1

    @bide.task
    async def waits(handle: bide.AsyncTaskHandle) -> str:
        with pytest.raises(bide.DefinitionError) as refused:
            await handle.wait(bide.after(grace))
        return str(refused.value)

    message = runner.run(bide.Workflow("w", [waits]))["waits"]
    assert message.endswith("this is no gate: await the function and pass what it returns, bide.after(seconds)")


def test_an_async_function_computes_a_time_on_the_loop(runner: bide.Runner) -> None:
    loops: set[asyncio.AbstractEventLoop] = set()

    @bide.task
    def order(grace: float) -> dict[str, float]:
        return {"grace": grace, "due": time.time() + grace}

    async def span(order: dict[str, float]) -> timedelta:
        await asyncio.sleep(0)
        loops.add(asyncio.get_running_loop())
        return timedelta(seconds=order["grace"])

    async def moment(order: dict[str, float]) -> datetime:
        loops.add(asyncio.get_running_loop())
        return datetime.fromtimestamp(order["due"], UTC)

    @bide.task(gate=bide.after(span))
    async def remind(order: dict[str, float]) -> float:
        loops.add(asyncio.get_running_loop())
        return time.time() - order["due"]

    @bide.task(gate=bide.all_of(bide.at(moment), bide.after(0)))
    def close(order: dict[str, float]) -> float:
        return time.time() - order["due"]

    result = runner.run(bide.Workflow("w", [order, remind, close]), {"grace": 0.1})
    assert 0 <= result["remind"] < 5
    assert 0 <= result["close"] < 5
    assert result.tasks["close"].waited >= 0.05
    assert len(loops) == 1


async def test_the_callers_loop_computes_it(store: str) -> None:
    async def grace() -> float:
        assert asyncio.get_running_loop() is loop
        return 0.01

    @bide.task(gate=bide.after(grace))
    def gated() -> int:
        return 1

    loop = asyncio.get_running_loop()
    async with bide.Runner(store) as runner:
        assert (await runner.run_async(bide.Workflow("w", [gated])))["gated"] == 1


def test_an_async_function_in_a_test_with_a_clock_of_its_own() -> None:
    async def grace() -> float:
        await asyncio.sleep(0)
        return 3600

    @bide.task(gate=bide.after(grace))
    async def gated() -> int:
        return 1

    with bide.testing.Runner(auto_advance=True) as runner:
        result = runner.run(bide.Workflow("w", [gated]))
    assert result.tasks["gated"].waited == pytest.approx(3600)


COMPUTED = """
async def grace(seconds: float) -> float:
    note("computed")
    return seconds

@bide.task(gate=bide.after(grace))
def gated() -> float:
    return time.time()

with bide.Runner(db) as runner:
    run = runner.submit(bide.Workflow("w", [gated]), {"seconds": 1.5}, key="k")
    say("submitted")
    say(run.result()["gated"])
"""


@pytest.mark.parametrize("by_async", [False, True])
def test_a_crash_does_not_move_a_computed_time(file: Path, by_async: bool) -> None:
    script = COMPUTED if by_async else COMPUTED.replace("async def grace", "def grace")

    def due() -> float | None:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
            (moment,) = store.execute("select due from journal").fetchone() or (None,)
        return None if moment is None or moment == 2**63 - 1 else moment / 1e6

    with Child(script, file) as child:
        child.expect("submitted")
        eventually(due, "the moment is recorded")
        moment = due()
        child.kill()
    assert moment is not None
    ended = float(ran(script, file)[-1])
    assert due() == moment
    assert ended >= moment
    assert ledger(file) == ["computed"]
