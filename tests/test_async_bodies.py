"""`async def` bodies: what their handle does, on the caller's event loop and on the runner's own."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide


def ran(
    store: str, *tasks: Callable[..., Any], inputs: dict[str, Any] | None = None, **settings: Any
) -> bide.RunResult:
    """Run a workflow of these tasks on the runner's own loop."""
    with bide.Runner(store, **settings) as runner:
        return runner.run(bide.Workflow("w", tasks), inputs, timeout=30)


async def double(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


def test_coroutines_and_functions_pass_values_to_each_other(store: str) -> None:
    @bide.task
    async def one(n: int) -> int:
        return await double(n)

    @bide.task
    def two(one: int) -> int:
        return one + 1

    @bide.task
    async def three(two: int) -> str:
        return f"{two}"

    assert ran(store, one, two, three, inputs={"n": 4})["three"] == "9"


def test_a_step_of_either_kind_is_executed_once(store: str) -> None:
    calls: list[str] = []

    async def fetch(n: int) -> int:
        calls.append(threading.current_thread().name)
        return await double(n)

    def parse(n: int) -> int:
        calls.append(threading.current_thread().name)
        return n + 1

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> list[int]:
        assert not handle.in_step
        return [
            await handle.step(fetch, 1),
            await handle.step(parse, 1),
            await handle.step(lambda: double(4), name="l"),
        ]

    assert ran(store, work)["work"] == [2, 2, 8]
    assert calls == ["bide-loop", "bide-call"]


def test_a_condition_of_either_kind_is_polled(store: str) -> None:
    polls = {"async": 0, "plain": 0}

    async def later() -> str | None:
        polls["async"] += 1
        await asyncio.sleep(0)
        return "yes" if polls["async"] == 3 else None

    def plain() -> bool:
        polls["plain"] += 1
        return polls["plain"] == 2

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> tuple[str, bool]:
        got = await handle.defer_until(later, 5)
        return got, await handle.wait(bide.until(plain, every=0.005))

    assert ran(store, work)["work"] == ("yes", True)


def test_a_wait_gives_its_slot_to_the_next_coroutine(store: str) -> None:
    flag = asyncio.Event()

    async def is_set() -> bool:
        return flag.is_set()

    @bide.task
    async def waits(handle: bide.AsyncTaskHandle) -> bool:
        held = handle.is_slot_held()
        await handle.defer_until(is_set, 5)
        return held and handle.is_slot_held()

    @bide.task
    async def sets() -> None:
        flag.set()

    assert ran(store, waits, sets, async_slots=1)["waits"] is True


def test_no_more_coroutines_execute_than_there_are_slots(store: str) -> None:
    now, most = 0, 0

    async def body() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1

    ran(store, *(bide.task(body, name=f"t{n}") for n in range(30)), async_slots=3)
    assert most == 3


async def test_bodies_execute_on_the_loop_of_async_with(store: str) -> None:
    @bide.task
    async def where() -> bool:
        return asyncio.get_running_loop() is loop

    loop = asyncio.get_running_loop()
    async with bide.Runner(store) as runner:
        assert (await runner.run_async(bide.Workflow("w", [where])))["where"] is True


async def test_without_async_with_they_execute_on_a_loop_of_the_runner(store: str) -> None:
    @bide.task
    async def where() -> str:
        return threading.current_thread().name

    runner = bide.Runner(store)
    assert (await runner.run_async(bide.Workflow("w", [where])))["where"] == "bide-loop"
    await asyncio.to_thread(runner.close)


def test_every_member_of_the_handle(store: str) -> None:
    child = bide.Workflow("child", [bide.task(double, name="double")])

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> dict[str, Any]:
        started = await handle.now()
        await handle.sleep(timedelta(milliseconds=5))
        await handle.sleep_until(started)
        children = await handle.start_many(child, [{"n": 1}, {"n": 2}])
        both = await handle.wait_all(*children)
        callback = await handle.callback("answer", int)
        runner.resolve(callback.token, 5)
        fired = await handle.wait_any(callback, bide.after(60))
        got = {
            "now": await handle.now() >= started,
            "runs": [(await handle.run(child, {"n": n}))["double"] for n in (3, 4)],
            "children": [result["double"] for result in both],
            "fired": fired[0].value if fired[0] else None,
            "none": fired[1],
            "parent": handle.parent,
            "task": [handle.task_name, handle.attempt, handle.run_id == handle_id[0]],
            "before": handle.last_checkpoint(int, 0),
        }
        handle.emit("seen")
        handle.progress(1, 2)
        await handle.checkpoint(7)
        return {**got, "after": handle.last_checkpoint(int), "replaying": handle.is_replaying}

    handle_id: list[str] = []
    with bide.Runner(store) as runner:
        handle = runner.submit(bide.Workflow("w", [work]))
        handle_id.append(handle.id)
        result = handle.result(30)
        assert [event.value for event in runner.events(handle)] == ["seen"]
    assert result["work"] == {
        "now": True,
        "runs": [6, 8],
        "children": [2, 4],
        "fired": 5,
        "none": None,
        "parent": None,
        "task": ["work", 1, True],
        "before": 0,
        "after": 7,
        "replaying": False,
    }


def test_signals_and_requests_reach_a_coroutine(store: str) -> None:
    ask = bide.request("ask", int, int)

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> str:
        got = await handle.wait(ask)
        await got.reply(got.value + 1)
        return await handle.wait_for("name", str, timeout=30)

    with bide.Runner(store) as runner:
        run = runner.submit(bide.Workflow("w", [work]))
        assert run.request(ask, 4) == 5
        run.signal("name", "x")
        assert run.result(30)["work"] == "x"


def test_keyed_steps_run_side_by_side_in_gather_and_task_group(store: str) -> None:
    met = asyncio.Barrier(3)

    async def meets(n: int) -> int:
        await met.wait()
        return n

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> list[int]:
        first = await asyncio.gather(*(handle.step(meets, n, key=str(n)) for n in range(3)))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(handle.step(meets, n, key=f"t{n}")) for n in range(3)]
        return first + [task.result() for task in tasks]

    assert ran(store, work)["work"] == [0, 1, 2, 0, 1, 2]


def test_current_is_the_handle_in_branches_steps_and_threads(store: str) -> None:
    def in_thread() -> list[Any]:
        handle = bide.current(bide.AsyncTaskHandle)
        return [handle.task_name, handle.in_step]

    async def in_step() -> list[Any]:
        return in_thread()

    async def branch() -> bool:
        return bide.current(bide.AsyncTaskHandle).task_name == "work"

    @bide.task
    async def work() -> list[Any]:
        handle = bide.current(bide.AsyncTaskHandle)
        branches = await asyncio.gather(branch(), branch())
        return [*branches, await handle.step(in_step), await handle.step(in_thread), in_thread()]

    assert ran(store, work)["work"] == [True, True, ["work", True], ["work", True], ["work", False]]


def test_current_after_the_end_of_a_coroutine_is_an_error(store: str) -> None:
    @bide.task
    async def work() -> None:
        contexts.append(contextvars.copy_context())

    contexts: list[contextvars.Context] = []
    ran(store, work)
    with pytest.raises(bide.BideError, match="the body of task 'work' has ended"):
        contexts[0].run(bide.current)


def test_each_body_has_contextvars_of_its_own(store: str) -> None:
    var = contextvars.ContextVar("var", default="none")

    async def body() -> tuple[str, str]:
        before = var.get()
        var.set("body's")
        await asyncio.sleep(0)
        return before, var.get()

    async def step() -> str:
        return var.get()

    @bide.task
    async def stepping(handle: bide.AsyncTaskHandle) -> list[str]:
        var.set("stepping's")
        return [await handle.step(step), await handle.step(lambda: var.get(), name="plain")]

    token = var.set("submitter's")
    try:
        result = ran(store, bide.task(body, name="one"), bide.task(body, name="two"), stepping)
    finally:
        var.reset(token)
    assert result["one"] == result["two"] == ("submitter's", "body's")
    assert result["stepping"] == ["stepping's", "stepping's"]


def test_a_context_a_gate_and_a_mapped_coroutine(store: str) -> None:
    polls: list[int] = []

    async def ready(limit: int) -> int | None:
        polls.append(limit)
        await asyncio.sleep(0)
        return limit if len(polls) == 3 else None

    @bide.task(gate=bide.until(ready, every=0.005))
    async def opened(limit: int, context: bide.Context, value: Annotated[int, bide.Gate]) -> list[int]:
        context["seen"] = limit
        return [value, 1, 2]

    @bide.task(gate=bide.until(ready, every=0.005))
    def plain(value: Annotated[int, bide.Gate]) -> int:
        return value

    @bide.task
    async def each(item: Annotated[int, bide.Each("opened")]) -> int:
        return await double(item)

    @bide.task
    async def total(each: list[int]) -> int:
        return sum(each)

    result = ran(store, opened, each, total, inputs={"limit": 3})
    assert result["total"] == 12
    assert result.context["seen"] == 3
    polls.clear()
    assert ran(":memory:", plain, inputs={"limit": 2})["plain"] == 2


def test_a_failing_coroutine_is_retried_and_its_exception_raised(store: str) -> None:
    tries: list[int] = []

    @bide.task(retry=bide.Retry(attempts=2, delay=0.005))
    async def fails(handle: bide.AsyncTaskHandle) -> None:
        tries.append(handle.attempt)
        await asyncio.sleep(0)
        message = "no"
        raise ValueError(message)

    with bide.Runner(store) as runner, pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [fails]))
    assert tries == [1, 2]
    assert isinstance(failed.value.__cause__, ValueError)


def test_a_step_is_retried_left_unrecorded_and_called_once(store: str) -> None:
    calls: list[str] = []

    async def flaky() -> str:
        calls.append("flaky")
        if calls.count("flaky") < 3:
            raise OSError
        return "ok"

    async def leaves() -> str:
        raise bide.Unrecorded("left")

    async def leaves_by_raising() -> str:
        raise bide.Unrecorded(KeyError("gone"))

    async def broken() -> None:
        raise LookupError

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> list[str]:
        got = [await handle.step(flaky, retry=bide.Retry(attempts=3, delay=0.002)), await handle.step(leaves)]
        with pytest.raises(KeyError):
            await handle.step(leaves_by_raising)
        with pytest.raises(LookupError):
            await handle.step(broken, once=True)
        return got

    assert ran(store, work)["work"] == ["ok", "left"]


def test_a_timed_out_coroutine_is_cancelled_and_fails(store: str) -> None:
    seen: list[str] = []

    @bide.task(timeout=0.05)
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    @bide.task(timeout=0.1)
    async def waits(handle: bide.AsyncTaskHandle) -> str:
        await handle.sleep(0.3)  # deferred time does not count
        return "done"

    with bide.Runner(store) as runner:
        with pytest.raises(bide.RunFailed) as failed:
            runner.run(bide.Workflow("slow", [slow]))
        assert runner.run(bide.Workflow("waits", [waits]))["waits"] == "done"
    assert failed.value.result.error is not None
    assert "was not done after 0.05 s" in str(failed.value.result.error)
    assert seen == ["cancelled"]


def test_skip_ends_a_coroutine(store: str) -> None:
    @bide.task
    async def skips() -> None:
        raise bide.Skip("why not")

    assert ran(store, skips).tasks["skips"].status is bide.TaskStatus.Skipped


def test_a_plain_function_does_not_block_the_loop(store: str) -> None:
    entered = threading.Event()
    released = threading.Event()

    def blocks() -> None:
        entered.set()
        assert released.wait(30)

    @bide.task
    async def works(handle: bide.AsyncTaskHandle) -> None:
        await handle.step(blocks)

    @bide.task
    async def releases() -> None:
        await asyncio.to_thread(entered.wait, 30)
        released.set()

    ran(store, works, releases)


def test_waits_of_many_coroutines_need_no_threads(store: str) -> None:
    before = threading.active_count()
    most: list[int] = []

    @bide.task
    async def sleeps(handle: bide.AsyncTaskHandle) -> None:
        await handle.sleep(0.2)
        most.append(threading.active_count())

    with bide.Runner(store) as runner:
        handles = runner.submit_many(bide.Workflow("w", [sleeps]), [{}] * 200)
        for handle in handles:
            handle.result(30)
    assert max(most) - before <= 8


def test_a_deferred_coroutine_is_suspended_at_close_and_continues(file: Path) -> None:
    told: list[tuple[str, bool, bool]] = []
    flag = threading.Event()
    entered = threading.Event()

    async def ready() -> bool:
        entered.set()
        return flag.is_set()

    @bide.task
    async def waits(handle: bide.AsyncTaskHandle) -> str:
        try:
            await handle.defer_until(ready, 5)
        except asyncio.CancelledError:
            told.append(("cancelled", handle.suspending, handle.cancelled))
            raise
        return "done"

    workflow = bide.Workflow("w", [waits])
    with bide.Runner(file) as runner:
        run = runner.submit(workflow, key="k")
        assert entered.wait(30)
        while run.status() is bide.RunStatus.Running and runner.get("k").tasks["waits"].sub_status is None:
            time.sleep(0.001)
    assert told == [("cancelled", True, False)]
    flag.set()
    with bide.Runner(file) as runner:
        assert runner.run(workflow, key="k", timeout=30)["waits"] == "done"


def test_a_coroutine_that_executes_has_its_grace_and_is_cancelled(file: Path) -> None:
    told: list[str] = []
    entered = threading.Event()

    @bide.task
    async def works(handle: bide.AsyncTaskHandle) -> str:
        entered.set()
        try:
            await asyncio.sleep(0 if told else 60)
        except asyncio.CancelledError:
            told.append(f"suspending={handle.suspending}")
            raise
        return "done"

    workflow = bide.Workflow("w", [works])
    runner = bide.Runner(file)
    runner.submit(workflow, key="k")
    assert entered.wait(30)
    runner.close(grace=0.05)
    assert told == ["suspending=True"]
    with bide.Runner(file) as runner:
        assert runner.run(workflow, key="k", timeout=30)["works"] == "done"


@pytest.mark.parametrize("how", ["wait", "wait_all", "wait_any"])
def test_a_deadline_is_told_whatever_the_condition_raised_before(store: str, how: str) -> None:
    async def raises() -> None:
        raise ValueError

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> str:
        flaky: bide.Until[None] = bide.until(raises, every=0.01, on_error="ignore")
        limited: bide.Until[None] = bide.until(raises, every=0.01, on_error="ignore", timeout=0.05)
        try:
            if how == "wait":
                await handle.wait(flaky, timeout=0.05)
            elif how == "wait_all":
                await handle.wait_all(limited, bide.after(60))
            else:
                await handle.wait_any(limited)
        except ExceptionGroup as group:
            return type(group.exceptions[0]).__name__
        except Exception as error:  # noqa: BLE001 - whichever it is
            return type(error).__name__
        return "nothing"

    assert ran(store, work)["work"] == "WaitTimeout"
