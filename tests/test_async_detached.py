"""A body that waits for bide leaves its task, unless somebody means that; and a wait is a coroutine like others."""

import asyncio
import contextvars
import gc
import warnings
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from bide._loop import BodyLoop
from processes import eventually

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nothing")

Handle = bide.AsyncTaskHandle


def tasks_of_bodies() -> int:
    """Return how many tasks of the running loop are bide's."""
    return sum(task.get_name() == "bide" for task in asyncio.all_tasks())


def returned(store: str, body: Callable[[Handle], Coroutine[Any, Any, Any]]) -> Any:
    """Run a body, and return what it returned."""

    @bide.task
    async def work(handle: Handle) -> Any:
        return await body(handle)

    with bide.Runner(store) as runner:
        return runner.run(bide.Workflow("w", [work]), timeout=30)["work"]


@pytest.mark.parametrize("wait", ["condition", "signal", "sleep"])
async def test_bodies_that_wait_have_no_tasks(store: str, wait: str) -> None:
    is_there = False

    async def condition() -> bool:
        return is_there

    def items() -> list[int]:
        return list(range(100))

    @bide.task
    async def work(item: Annotated[int, bide.Each(items)], handle: Handle) -> str:
        if item % 2:
            name.set(f"of {item}")
        if wait == "condition":
            await handle.defer_until(condition, 10)
        elif wait == "signal":
            await handle.wait_for("go")
        else:
            await handle.sleep(0.5)
        assert asyncio.current_task() is not None
        assert bide.current(Handle) is handle
        return name.get()

    async with bide.Runner(store) as runner:
        run = await runner.submit_async(bide.Workflow("w", [items, work]))
        while len(runner.waiting()) < 100 or tasks_of_bodies() > 2:  # noqa: ASYNC110 - there is no event for that
            await asyncio.sleep(0.001)
        is_there = True
        if wait == "signal":
            await runner.signal_many_async([(run, "go", number) for number in range(100)])
        result = await run
    assert [result[f"work[{number}]"] for number in range(3)] == ["nothing", "of 1", "nothing"]


async def test_a_task_that_somebody_refers_to_stays_the_bodys(store: str) -> None:
    ended: list[str] = []

    @bide.task
    async def work(handle: Handle) -> str:
        task = asyncio.current_task()
        await handle.sleep(0.01)
        assert asyncio.current_task() is task
        async with asyncio.timeout(30):
            await handle.sleep(0.01)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            await handle.sleep(0.01, name="within")
        assert asyncio.current_task() is task
        return "went on"

    @bide.task
    async def called_back(handle: Handle) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _task: ended.append("ended"))
        del task
        await handle.sleep(0.05)
        assert not ended
        return "went on"

    async with bide.Runner(store) as runner:
        result = await runner.run_async(bide.Workflow("w", [work, called_back]))
        assert [result["work"], result["called_back"]] == ["went on", "went on"]
        while not ended:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)


def test_contextvars_outlive_a_wait(store: str) -> None:
    async def body(handle: Handle) -> list[str]:
        asked = 0

        async def condition() -> bool:
            nonlocal asked
            asked += 1
            if asked == 3:
                name.set("set by the condition")
            return asked > 5

        found = []
        token = name.set("mine")
        await handle.sleep(0.01)
        found.append(name.get())
        name.reset(token)
        await handle.sleep(0.01)
        found.append(name.get())
        await handle.defer_until(condition, 1)
        found.append(name.get())
        return found

    # What is awaited in a coroutine changes its contextvars.
    assert returned(store, body) == ["mine", "nothing", "set by the condition"]


def test_the_timeout_of_a_task_cancels_it_after_a_wait(store: str) -> None:
    @bide.task(timeout=0.1)
    async def work(handle: Handle) -> None:
        await handle.sleep(0.2)
        await asyncio.sleep(60)

    with bide.Runner(store) as runner, pytest.raises(bide.RunFailed, match="TaskTimeout"):
        runner.run(bide.Workflow("w", [work]), timeout=30)


def test_a_waiting_run_outlives_the_loop_of_its_runner(file: Path) -> None:
    @bide.task
    async def work(handle: Handle) -> str:
        return await handle.wait_for("go", str)

    workflow = bide.Workflow("w", [work])
    runner = bide.Runner(file)

    async def main() -> None:
        await runner.__aenter__()
        await runner.submit_async(workflow, key="k")
        while not runner.waiting():  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0.001)

    # It ends without closing the runner, which cancels all tasks.
    asyncio.run(main())
    runner.close()
    with bide.Runner(file, workflows=[workflow]) as other:
        run = other.submit(workflow, key="k")
        eventually(lambda: bool(other.waiting()), "it waits again")
        other.signal(run, "go", "went on")
        assert run.result(timeout=30)["work"] == "went on"


@pytest.mark.filterwarnings("error")
def test_a_wait_is_awaited_once(store: str) -> None:
    async def body(handle: Handle) -> list[str]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            _ = handle.sleep(60)
            _ = handle.defer_until(lambda: True)
            _ = handle.wait(bide.signal("go"))
            del _
            gc.collect()
        wait = handle.sleep(0)
        assert asyncio.iscoroutine(wait)
        await wait
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await wait
        waiting = handle.wait_for("never")
        task = asyncio.create_task(waiting)
        await asyncio.sleep(0)  # its first step
        with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
            await waiting
        task.cancel()
        await asyncio.wait([task])
        never_begun = handle.sleep(60)
        never_begun.close()
        with pytest.raises(LookupError):
            handle.sleep(60).throw(LookupError())
        return [str(one.message) for one in seen]

    unawaited = [f"coroutine 'handle.{what}' was never awaited" for what in ("sleep", "defer_until", "wait")]
    assert returned(store, body) == unawaited


def test_a_wait_that_an_exception_drops_leaves_the_exception_alone(store: str) -> None:
    def fails() -> Any:
        raise LookupError

    async def body(handle: Handle) -> str:
        with pytest.warns(RuntimeWarning, match=r"handle\.sleep"), pytest.raises(LookupError):
            await asyncio.gather(handle.sleep(60), fails())
        return "went on"

    assert returned(store, body) == "went on"


def test_a_wait_that_is_dropped_in_its_course_is_left(store: str) -> None:
    async def body(handle: Handle) -> str:
        waits = handle.sleep(60)
        waits.send(None)
        del waits
        await handle.sleep(0.01, name="other")
        return "went on"

    assert returned(store, body) == "went on"


@pytest.mark.parametrize("how", ["weakly", "name", "attribute", "cancel"])
def test_what_a_body_does_to_its_task_stays_there_over_a_wait(store: str, how: str) -> None:
    def items() -> list[int]:
        return [0, 1, 2]

    @bide.task
    async def work(item: Annotated[int, bide.Each(items)], handle: Handle) -> str:
        task: Any = asyncio.current_task()
        kept = weakref.ref(task)
        if item == 0 and how == "name":
            task.set_name("mine")
        elif item == 0 and how == "attribute":
            task.mine = "mine"
        elif item == 0 and how == "cancel":
            task.cancel()
            task.uncancel()
        if how != "weakly":
            del kept
        del task
        try:
            await handle.sleep(0.05)
        except asyncio.CancelledError:
            return "cancelled"
        task = asyncio.current_task()
        if how == "weakly":
            return "mine" if kept() is task else "another"
        return str(task.get_name() if how == "name" else getattr(task, "mine", "none"))

    with bide.Runner(store) as runner:
        result = runner.run(bide.Workflow("w", [items, work]), timeout=30)
    # From 3.13 on `uncancel` takes back what was asked of a task that executes.
    first = {"weakly": ["mine"], "name": ["mine"], "attribute": ["mine"], "cancel": ["cancelled", "none"]}[how]
    others = {"weakly": "mine", "name": "bide", "attribute": "none", "cancel": "none"}[how]
    assert result["work[0]"] in first
    assert [result["work[1]"], result["work[2]"]] == [others, others]


def test_a_body_keeps_its_task_if_no_other_can_be_made(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def fails(_self: object) -> None:
        made.append("")
        raise MemoryError

    monkeypatch.setattr(BodyLoop, "needs_spare", fails)

    async def body(handle: Handle) -> str:
        await handle.sleep(0.01)
        return "went on"

    assert returned(store, body) == "went on"
    assert made


def test_a_handle_that_is_kept_is_refused_as_what_it_is(store: str) -> None:
    kept: list[Handle] = []

    async def body(handle: Handle) -> None:
        await handle.sleep(0.01)
        kept.append(handle)

    returned(store, body)
    assert weakref.ref(kept[0])() is kept[0]

    async def uses() -> None:
        await kept[0].sleep(1)

    with pytest.raises(bide.BideError, match="is no longer valid"):
        asyncio.run(uses())
