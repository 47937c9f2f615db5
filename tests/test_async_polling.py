"""How bodies share a task until they suspend, and how the conditions of deferred coroutines are asked beside it."""

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest

import bide
from processes import eventually

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nothing")

Polled = Callable[[int], Awaitable[object]]


def waited(store: str, polled: Polled) -> Any:
    """Run a body that waits for a condition, which is given the number of the poll; return what that has given."""

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> Any:
        asked = 0

        async def condition() -> object:
            nonlocal asked
            asked += 1
            return await polled(asked)

        name.set("mine")
        return await handle.defer_until(condition, 1)

    with bide.Runner(store) as runner:
        return runner.run(bide.Workflow("w", [work]), timeout=30)["work"]


def test_each_poll_is_made_by_the_bodys_task_with_its_contextvars(store: str) -> None:
    # A task that nobody refers to is nobody's.
    seen: set[tuple[asyncio.Task[Any] | None, str, bool]] = set()

    async def polled(number: int) -> bool:
        handle = bide.current(bide.AsyncTaskHandle)
        seen.add((asyncio.current_task(), name.get(), handle.is_slot_held()))
        return number == 5

    assert waited(store, polled) is True
    tasks, names, held = zip(*seen, strict=True)
    assert (len(set(tasks)), set(names), set(held)) == (1, {"mine"}, {True, False})


@pytest.mark.parametrize("suspends", ["nothing", "sleep", "timeout", "task"])
def test_a_poll_may_suspend_wherever_it_is(store: str, suspends: str) -> None:
    async def nothing() -> str:
        return "there"

    async def polled(number: int) -> object:
        if suspends == "sleep":
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
        elif suspends == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(60)
        elif suspends == "task":
            return number > 3 and await asyncio.create_task(nothing())
        return "there" if number > 3 else None

    assert waited(store, polled) == "there"


@pytest.mark.parametrize("caught", [True, False])
def test_a_timeout_within_a_poll_is_the_polls_own_however_soon_it_comes(store: str, caught: bool) -> None:
    async def polled(number: int) -> object:
        try:
            # It is over before the task of the body continues what the loop has begun for it.
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        except TimeoutError:
            if not caught and number < 3:
                raise
        assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]
        return "there" if number > 3 else None

    assert waited(store, polled) == "there"


def test_a_poll_that_raises_later_ends_the_wait_with_that(store: str) -> None:
    async def polled(number: int) -> bool:
        if number > 2:
            msg = f"poll {number}"
            raise bide.DefinitionError(msg)
        return False

    with pytest.raises(bide.RunFailed, match="poll 3"):
        waited(store, polled)


def test_a_timeout_around_a_wait_cancels_its_poll(store: str) -> None:
    log: list[str] = []

    async def condition() -> bool:
        log.append("asked")
        if len(log) > 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("cancelled")
                raise
        return False

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await handle.defer_until(condition, 1)
        assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]
        return "went on"

    with bide.Runner(store) as runner:
        assert runner.run(bide.Workflow("w", [work]), timeout=30)["work"] == "went on"
    assert log == ["asked", "asked", "cancelled"]


def test_what_a_body_does_to_its_task_does_not_reach_the_next(store: str) -> None:
    def items() -> list[int]:
        return list(range(60))

    @bide.task
    async def element(item: Annotated[int, bide.Each(items)]) -> str:
        task = asyncio.current_task()
        assert task is not None
        found = f"{name.get()} {task.cancelling()}"
        name.set(f"of {item}")
        if item % 3 == 0:
            await asyncio.sleep(0)
            assert name.get() == f"of {item}"
        if item % 3 == 1:
            task.cancel()
        return found

    with bide.Runner(store) as runner:
        result = runner.run(bide.Workflow("w", [items, element]), timeout=30)
        assert {result[f"element[{number}]"] for number in range(60)} == {"nothing 0"}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks from 3.12 on")
def test_bodies_execute_on_a_loop_with_eager_tasks(store: str) -> None:
    async def main() -> bide.RunResult:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
        async with bide.Runner(store) as runner:
            return await runner.run_async(bide.Workflow("w", [items, element]))

    def items() -> list[int]:
        return list(range(2_000))

    @bide.task
    async def element(item: Annotated[int, bide.Each(items)]) -> int:
        await asyncio.sleep(0)
        return item

    assert asyncio.run(main())["element[1999]"] == 1999


def resting(runner: bide.Runner, condition: Callable[[], Awaitable[object]], seconds: float) -> bide.RunHandle:
    """Submit a run of a coroutine that waits for a condition, and return it once that rests between two polls."""

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> Any:
        before = bide.current(bide.AsyncTaskHandle)
        found = await handle.defer_until(condition, seconds * 1000)
        assert before is handle is bide.current(bide.AsyncTaskHandle)
        await handle.step(len, "four", name="after")
        return found

    run = runner.submit(bide.Workflow("w", [work]))
    eventually(lambda: any(wait.polls for wait in runner.waiting()), "it was asked")
    return run


@pytest.mark.parametrize("by", ["poll_now", "satisfy", "cancel", "close"])
def test_what_comes_from_outside_ends_the_rest_between_two_polls(store: str, by: str) -> None:
    holds = False

    async def condition() -> bool:
        return holds

    with bide.Runner(store) as runner:
        run = resting(runner, condition, 3600)
        holds = True
        if by == "poll_now":
            runner.poll_now(run, "work")
            assert run.result(timeout=30)["work"] is True
        elif by == "satisfy":
            runner.satisfy(run, "work", "by hand")
            assert run.result(timeout=30)["work"] == "by hand"
        elif by == "cancel":
            run.cancel()
            with pytest.raises(bide.RunFailed, match="cancelled"):
                run.result(timeout=30)


def test_who_looks_sees_the_polls_of_a_wait_at_rest_and_its_last_error(store: str) -> None:
    raises = holds = False

    async def condition() -> bool:
        if raises:
            msg = "not there"
            raise OSError(msg)
        return holds

    with bide.Runner(store) as runner:
        run = resting(runner, condition, 0.01)

        def seen() -> bide.OpenWait:
            (wait,) = runner.waiting()
            return wait

        polls = seen().polls or 0
        eventually(lambda: (seen().polls or 0) > polls + 2 and seen().next_poll is not None, "polls are counted")
        raises = True
        eventually(lambda: "not there" in str(seen().error), "the error is seen")
        raises = False
        eventually(lambda: seen().error is None and (seen().polls or 0) > polls + 4, "it is taken back")
        holds = True
        assert run.result(timeout=30)["work"] is True


def test_a_condition_at_rest_is_asked_until_the_deadline_of_its_wait(store: str) -> None:
    asked = 0

    async def condition() -> object:
        nonlocal asked
        asked += 1
        return []

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> None:
        await handle.defer_until(condition, 20, timeout=0.1)

    with bide.Runner(store) as runner, pytest.raises(bide.RunFailed, match="until its deadline passed"):
        runner.run(bide.Workflow("w", [work]), timeout=30)
    # At once, and every 20 ms at most.
    assert 2 <= asked <= 7
