"""A call while another thread closes the runner: it completes, or it raises `RunnerClosed`."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import bide


@bide.task
def one(x: int) -> int:
    return x


@bide.task
def waits(handle: bide.TaskHandle, x: int) -> int:
    handle.step(str, x)
    handle.sleep(0.001)
    return x


QUICK, SLOW = bide.Workflow("quick", [one]), bide.Workflow("slow", [waits])

numbers = itertools.count()

Call = Callable[[bide.Runner, bide.RunHandle], object]

CALLS: dict[str, Call] = {
    "submit": lambda runner, _: runner.submit(QUICK, {"x": 1}),
    "submit with a key": lambda runner, _: runner.submit(SLOW, {"x": 1}, key="k"),
    "submit_many": lambda runner, _: runner.submit_many(SLOW, [{"x": 1}] * 3),
    "run": lambda runner, _: runner.run(SLOW, {"x": 1}),
    "run_async": lambda runner, _: asyncio.run(runner.run_async(QUICK, {"x": 1})),
    "register": lambda runner, _: runner.register(bide.Workflow(f"w{next(numbers)}", [one])),
    "get": lambda runner, handle: dict(runner.get(handle.id).tasks),
    "runs": lambda runner, _: list(runner.runs(limit=3)),
    "delete": lambda runner, _: runner.delete(runner.submit(SLOW, {"x": 1}).result().id),
    "handle.status": lambda runner, handle: handle.status(),
    "handle.result": lambda runner, handle: handle.result(1),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_during_close_is_done_or_says_that_the_runner_is_closed(name: str, store: str) -> None:
    call, raised = CALLS[name], list[BaseException]()

    def calls(runner: bide.Runner, handle: bide.RunHandle, begun: threading.Event) -> None:
        try:
            while True:
                call(runner, handle)
                begun.set()
                if runner._core.closed and name.startswith("handle."):
                    return  # the outcome of an ended run is available at any time
        except bide.BideError as problem:
            raised.append(problem)

    for _ in range(8):
        runner, begun = bide.Runner(store, slots=2), threading.Event()
        handle = runner.submit(SLOW, {"x": 1})
        threads = [threading.Thread(target=calls, args=(runner, handle, begun)) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(30)
        runner.close()
        for thread in threads:
            thread.join()
    assert {type(one) for one in raised} <= {bide.RunnerClosed}
    assert raised or name.startswith("handle.")


def test_every_call_of_a_closed_runner_raises(file: Path) -> None:
    runner = bide.Runner(file)
    handle = runner.submit(bide.Workflow("w", [bide.task(one, gate=bide.after(60))]), {"x": 1})
    runner.close()
    for name, call in CALLS.items():
        if name != "handle.status":
            with pytest.raises(bide.RunnerClosed):
                call(runner, handle)
