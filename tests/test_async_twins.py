"""Every blocking method of `Runner`, `Client` and `RunHandle` has an awaitable twin that does not block the loop."""

import asyncio
import contextvars
import inspect
import threading

import pytest

import bide

NOT_BLOCKING = {"follow", "metrics"}
"""The first makes an iterator, which is one for `async for` too; the second reads memory and waits for no commit."""


@bide.task
async def work(handle: bide.AsyncTaskHandle, n: int = 1) -> int:
    handle.emit(n)
    return await handle.wait_for("go", int)


workflow = bide.Workflow("w", [work])


def methods(kind: type) -> dict[str, object]:
    return {name: member for name, member in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize("kind", [bide.Runner, bide.Client, bide.RunHandle])
def test_every_blocking_method_has_a_twin_with_its_parameters(kind: type) -> None:
    all_of = methods(kind)
    for name, method in all_of.items():
        if name.endswith("_async") or name in NOT_BLOCKING:
            continue
        twin = all_of[f"{name}_async"]
        assert inspect.iscoroutinefunction(twin)
        mine, its = inspect.signature(method), inspect.signature(twin)  # type: ignore[arg-type]
        assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
            (p.name, p.kind, p.default) for p in its.parameters.values()
        ], name


async def test_the_twins_do_what_the_methods_do(store: str) -> None:
    runner = bide.Runner(store)
    await runner.register_async(workflow)
    handle = await runner.submit_async(workflow, {"n": 2}, key="k")
    several = await runner.submit_many_async(workflow, [{"n": 3}, {"n": 4}])
    assert await handle.status_async() is bide.RunStatus.Running
    await runner.signal_async("k", "go", 5)
    await runner.signal_many_async([(several[0], "go", 6)])
    await several[1].signal_async("go", 7)
    assert [(await one.result_async())["work"] for one in (handle, *several)] == [5, 6, 7]
    assert (await runner.get_async("k")).id == handle.id
    assert len(await runner.runs_async(limit=2)) == 2
    assert [event.value for event in await handle.events_async()] == [2]
    assert (await runner.latest_async(several[0])).value == 3  # type: ignore[union-attr]
    with pytest.raises(bide.SignalRejected):
        await runner.resolve_async("no token")
    with pytest.raises(bide.SignalRejected):
        await runner.reject_async("no token", "why")
    with pytest.raises(TimeoutError):
        await (await runner.submit_async(workflow)).request_async("ask", timeout=0.01)
    await runner.delete_async(handle.id)
    with pytest.raises(KeyError):
        await runner.get_async(handle.id)
    await runner.close_async(grace=0)
    with pytest.raises(bide.RunnerClosed):
        await runner.submit_async(workflow)


async def test_many_callers_share_commits_and_threads(store: str) -> None:
    before = threading.active_count()

    @bide.task
    async def double(n: int) -> int:
        return 2 * n

    doubles = bide.Workflow("doubles", [double])
    async with bide.Runner(store) as runner:
        results = await asyncio.gather(*(runner.run_async(doubles, {"n": n}, key=str(n)) for n in range(300)))
        assert threading.active_count() - before < 10
        refused = await asyncio.gather(
            *(runner.submit_async(doubles, {"n": n + n % 2}, key=str(n)) for n in range(10)), return_exceptions=True
        )
    assert [result["double"] for result in results] == [2 * n for n in range(300)]
    assert [isinstance(one, bide.DefinitionError) for one in refused] == [n % 2 == 1 for n in range(10)]


async def test_the_contextvars_of_each_caller_reach_its_run(store: str) -> None:
    var = contextvars.ContextVar("var", default=0)

    @bide.task
    async def read() -> int:
        return var.get()

    async def call(n: int) -> int:
        var.set(n)
        value: int = (await runner.run_async(bide.Workflow("w", [read])))["read"]
        return value

    async with bide.Runner(store) as runner:
        assert await asyncio.gather(*(call(n) for n in range(20))) == list(range(20))
