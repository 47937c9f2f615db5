"""Cancellation and timeouts within `async def` bodies, as asyncio has them; a wait that is cancelled stays open."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import bide
from processes import eventually

Handle = bide.AsyncTaskHandle
Case = Callable[[Handle], Awaitable[Any]]


def entries(runner: bide.Runner, body: Case) -> Any:
    """Run a body, and return what it returned."""

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> Any:
        return await body(handle)

    with runner:
        return runner.run(bide.Workflow("w", [work]), timeout=30)["work"]


async def until_it_waits(handle: Handle) -> None:
    """Return once a wait of the body is committed: it gives its slot back then."""
    while handle.is_slot_held():  # noqa: ASYNC110 - a handle has no event for it
        await asyncio.sleep(0)


@asynccontextmanager
async def timeout_once_it_waits(handle: Handle) -> AsyncIterator[None]:
    """Be a timeout of asyncio that is over once the body waits."""
    async with asyncio.timeout(None) as limit:

        async def expire() -> None:
            await until_it_waits(handle)
            limit.reschedule(asyncio.get_running_loop().time())

        expiring = asyncio.create_task(expire())
        yield
        await expiring


async def timeout_around_a_wait(handle: Handle) -> str:
    with pytest.raises(TimeoutError):
        async with timeout_once_it_waits(handle):
            await handle.wait_for("never")
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]
    return "went on"


async def timeout_that_is_long_enough(handle: Handle) -> str:
    async with asyncio.timeout(30):
        await handle.sleep(0.01)
    return "went on"


async def wait_for_of_asyncio(handle: Handle) -> str:
    waiting = asyncio.ensure_future(handle.sleep(60))
    await until_it_waits(handle)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting, 0.001)
    return "went on"


async def a_task_that_is_cancelled(handle: Handle) -> str:
    waiting = asyncio.create_task(handle.wait_for("never"))
    await until_it_waits(handle)
    waiting.cancel("reason")
    with pytest.raises(asyncio.CancelledError, match="reason"):
        await waiting
    return "went on"


async def a_gather_that_is_lost(handle: Handle) -> str:
    async def fails() -> None:
        await until_it_waits(handle)
        raise LookupError

    waiting = asyncio.ensure_future(handle.sleep(60))
    with pytest.raises(LookupError):
        await asyncio.gather(waiting, fails())
    waiting.cancel()
    await asyncio.wait([waiting])
    return "went on"


async def a_task_group_that_fails(handle: Handle) -> str:
    async def fails() -> None:
        await until_it_waits(handle)
        raise LookupError

    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012 - as a body is written
        async with asyncio.TaskGroup() as group:
            group.create_task(handle.defer_until(never, 5))
            group.create_task(fails())
    assert isinstance(raised.value.exceptions[0], LookupError)
    return "went on"


async def a_step_that_is_cancelled(handle: Handle) -> str:
    calls: list[int] = []
    limit = asyncio.timeout(None)

    async def step() -> str:
        calls.append(1)
        if len(calls) == 1:
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.sleep(60)
        return "went on"

    with pytest.raises(TimeoutError):
        async with limit:
            await handle.step(step)
    return await handle.step(step)


async def a_shielded_wait(handle: Handle) -> str:
    waiting = asyncio.ensure_future(handle.sleep(0.05))
    with pytest.raises(TimeoutError):
        async with timeout_once_it_waits(handle):
            await asyncio.shield(waiting)
    await waiting
    return "went on"


async def a_body_that_catches_it_and_cleans_up(handle: Handle) -> str:
    async def clean_up() -> str:
        return "went on"

    async def cancel(task: asyncio.Task[Any]) -> None:
        await until_it_waits(handle)
        task.cancel()

    task = asyncio.current_task()
    assert task is not None
    cancelling = asyncio.create_task(cancel(task))
    try:
        await handle.sleep(60)
    except asyncio.CancelledError:
        task.uncancel()
        await cancelling
        return await handle.step(clean_up)
    return "not cancelled"


async def nested_timeouts(handle: Handle) -> str:
    with pytest.raises(TimeoutError):  # noqa: PT012 - as a body is written
        async with timeout_once_it_waits(handle):
            try:
                async with asyncio.timeout(60):
                    await handle.sleep(60)
            except TimeoutError:
                return "the wrong one"
    return "went on"


async def a_timeout_around_steps_side_by_side(handle: Handle) -> str:
    calls: list[str] = []
    limit = asyncio.timeout(None)

    async def quick() -> str:
        calls.append("quick")
        return "went"

    async def slow() -> str:
        calls.append("slow")
        if len(calls) == 2:
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.sleep(60)
        return "on"

    async def both() -> list[str]:
        return list(await asyncio.gather(handle.step(quick, key="quick"), handle.step(slow, key="slow")))

    await handle.step(quick, key="quick")
    with pytest.raises(TimeoutError):
        async with limit:
            await both()
    words = await both()
    assert calls == ["quick", "slow", "slow"], "what was recorded is not called again, what was cut short is"
    return " ".join(words)


async def the_first_of_a_wait_and_a_task_of_asyncio(handle: Handle) -> str:
    waiting = asyncio.ensure_future(handle.wait_for("never"))
    until = asyncio.create_task(until_it_waits(handle))
    done, pending = await asyncio.wait({waiting, until}, return_when=asyncio.FIRST_COMPLETED)
    assert (done, pending) == ({until}, {waiting})
    waiting.cancel()
    await asyncio.wait({waiting})
    await handle.sleep(0.01)
    return "went on"


async def a_wait_beside_a_step_in_a_task_group(handle: Handle) -> str:
    has_slept = False

    async def fetch() -> str:
        await until_it_waits(handle)
        return "went on"

    async def sleep() -> None:
        nonlocal has_slept
        await handle.sleep(0.02)
        has_slept = True

    async with asyncio.TaskGroup() as group:
        group.create_task(sleep())
        fetching = group.create_task(handle.step(fetch, key="fetch"))
    assert has_slept
    return fetching.result()


async def never() -> bool:
    return False


CASES: list[Case] = [
    timeout_around_a_wait,
    timeout_that_is_long_enough,
    wait_for_of_asyncio,
    a_task_that_is_cancelled,
    a_gather_that_is_lost,
    a_task_group_that_fails,
    a_step_that_is_cancelled,
    a_shielded_wait,
    a_body_that_catches_it_and_cleans_up,
    nested_timeouts,
    a_timeout_around_steps_side_by_side,
    the_first_of_a_wait_and_a_task_of_asyncio,
    a_wait_beside_a_step_in_a_task_group,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_cancellation_is_as_asyncio_users_expect(runner: bide.Runner, case: Case) -> None:
    assert entries(runner, case) == "went on"


def test_a_body_that_is_cancelled_by_itself_has_failed(runner: bide.Runner) -> None:
    async def cancels(handle: Handle) -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(0)

    with pytest.raises(bide.RunFailed, match="CancelledError"):
        entries(runner, cancels)


@pytest.mark.parametrize("kind", ["sleep", "condition", "signal", "several"])
def test_the_next_use_goes_on_with_the_wait_that_was_left(runner: bide.Runner, kind: str) -> None:
    polls: list[int] = []

    async def third() -> bool:
        polls.append(1)
        return len(polls) > 2

    def wait(handle: Handle) -> Awaitable[Any]:
        if kind == "sleep":
            return handle.sleep(0.15)
        if kind == "condition":
            return handle.defer_until(third, 40, timeout=60)
        if kind == "signal":
            return handle.wait_for("go", timeout=60)
        return handle.wait_any(bide.signal("go"), bide.after(60))

    @bide.task
    async def body(handle: Handle) -> None:
        with pytest.raises(TimeoutError):
            async with timeout_once_it_waits(handle):
                await wait(handle)
        if kind in {"signal", "several"}:
            await asyncio.to_thread(runner.signal, handle.run_id, "go")
        await wait(handle)
        assert handle.is_slot_held()

    with runner:
        run = runner.submit(bide.Workflow("w", [body]))
        run.result(timeout=30)
        opened = [entry.name for entry in run.history() if entry.what == "wait opened"]
    assert opened
    assert len(opened) == len(set(opened)), "none is opened anew"


def test_the_next_run_of_a_child_goes_on_with_the_one_that_was_left(runner: bide.Runner) -> None:
    asks_again = threading.Event()

    @bide.task
    async def inner(number: int, handle: bide.AsyncTaskHandle) -> int:
        return number + int(await handle.wait_for("go"))

    child = bide.Workflow("child", [inner])

    @bide.task
    async def outer(handle: bide.AsyncTaskHandle) -> list[int]:
        for number in (1, 1, 2, 1):
            with pytest.raises(TimeoutError):
                async with timeout_once_it_waits(handle):
                    await handle.run(child, {"number": number})
        asks_again.set()
        return [int((await handle.run(child, {"number": number}))["inner"]) for number in (1, 2, 1)]

    run = runner.submit(bide.Workflow("outer", [outer]))
    assert asks_again.wait(30)
    second, first = runner.runs(parent=run)
    runner.signal_many([(first, "go", 10), (second, "go", 20)])
    # After its end the same use is another child.
    eventually(lambda: len(runner.runs(parent=run)) == 3, "the third one is there")
    runner.signal(runner.runs(parent=run)[0], "go", 30)
    assert run.result(timeout=30)["outer"] == [11, 22, 31]


def test_a_wait_that_is_cancelled_often_has_one_record(runner: bide.Runner) -> None:
    async def body(handle: Handle) -> list[int]:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with timeout_once_it_waits(handle):
                    await handle.wait_for("go", int)
        # Each further record would be an older wait, which gets the signal.
        await asyncio.to_thread(runner.signal_many, [(handle.run_id, "go", 1), (handle.run_id, "go", 2)])
        return [await handle.wait_for("go", int), await handle.wait_for("go", int)]

    assert entries(runner, body) == [1, 2]


def test_a_cancelled_wait_has_its_slot_again(store: str) -> None:
    async def body(handle: Handle) -> list[bool]:
        with pytest.raises(TimeoutError):
            async with timeout_once_it_waits(handle):
                await handle.sleep(60)
        held = handle.is_slot_held()
        await handle.sleep(0.01, name="other")
        return [held, handle.is_slot_held()]

    assert entries(bide.Runner(store, async_slots=1), body) == [True, True]


async def test_a_caller_that_is_cancelled_leaves_the_run_alone(store: str) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    @bide.task
    async def work() -> str:
        entered.set()
        await go.wait()
        return "done"

    workflow = bide.Workflow("w", [work])
    async with bide.Runner(store) as runner:
        waiting = asyncio.create_task(runner.run_async(workflow, key="k"))
        await entered.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        assert (await runner.run_async(workflow, key="k"))["work"] == "done"


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 10])
def test_a_start_of_a_child_that_is_cancelled_is_over_when_it_raises(runner: bide.Runner, turns: int) -> None:
    inner = bide.Workflow("inner", [bide.task(lambda: 7, name="inner")])  # type: ignore[misc]

    @bide.task
    async def outer(handle: bide.AsyncTaskHandle) -> int:
        starts = asyncio.create_task(handle.start(inner))
        for _ in range(turns):
            await asyncio.sleep(0)
        starts.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starts
        time.sleep(0.02)  # noqa: ASYNC251 - if the thread that begins it is not done by then, this proves less
        # It is not beside another call: what has become of it is known.
        await handle.step(lambda: None, name="between")
        child = await handle.wait(await handle.start(inner))
        return int(child["inner"])

    result = runner.run(bide.Workflow("outer", [outer]), timeout=20)
    assert result["outer"] == 7
    assert len(runner.runs(workflow="inner")) <= 2
