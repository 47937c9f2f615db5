"""bide's rows about coroutines: an open wait, the delay of a signal; and about cancelling runs that wait."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Annotated

import bide

from . import measure
from .bide_signals import go
from .bide_workflows import one_workflow, open_runner


def row_async_waiting(setting: measure.Setting) -> measure.Metrics:
    """Measure one run of an `async def` that is mapped over many items and defers in each."""
    shut = measure.Shut()

    async def ask() -> bool:
        return shut.ask()

    def items() -> list[int]:
        return list(range(measure.GATES))

    begun = 0

    async def wait(_item: Annotated[int, bide.Each(items)], handle: bide.AsyncTaskHandle) -> None:
        nonlocal begun
        begun += 1
        await handle.defer_until(ask, poll_interval_ms=measure.POLL_SECONDS * 1e3)

    workflow = bide.Workflow("waits", [items, wait])
    handles: list[bide.RunHandle] = []
    with open_runner(setting) as runner:
        runner.run(one_workflow)
        runner.register(workflow)

        def start() -> None:
            handles.append(runner.submit(workflow))
            measure.wait_until(lambda: begun == measure.GATES, f"{measure.GATES} coroutines have begun")

        found = measure.measure_gates(shut, start, lambda: handles.pop().result())
    return {key.replace("gate", "async_wait"): value for key, value in found.items()}


def row_async_signal(setting: measure.Setting) -> measure.Metrics:
    """Measure from the call that sends a signal until the coroutine that waits for it continues."""
    at: list[float] = []
    handles: list[bide.AsyncTaskHandle] = []

    async def body(handle: bide.AsyncTaskHandle) -> None:
        handles.append(handle)
        for _ in range(measure.SIGNALS):
            await handle.wait(go)
            at.append(time.monotonic())

    sent = []
    with open_runner(setting) as runner:
        run = runner.submit(bide.Workflow("receiver", [bide.task(body, name="body")]))
        measure.wait_until(lambda: bool(handles), "the body has started")
        for number in range(measure.SIGNALS):
            while len(at) < number or handles[0].is_slot_held():
                time.sleep(0.0002)
            sent.append(time.monotonic())
            run.signal(go, number)
        run.result()
    return {"async_signal": measure.percentile([end - start for start, end in zip(sent, at, strict=True)], 0.99) * 1e3}


class Waiting:
    """A workflow of one task that waits until it is cancelled, and counts how many wait and have cleaned up."""

    def __init__(self) -> None:
        """Begin with none."""
        self.waiting = self.cleaned = 0

    def gate(self) -> bide.Workflow:
        """Build one that waits at its gate."""

        def noop() -> int:
            return 1

        return bide.Workflow("gates", [bide.task(noop, name="noop", gate=go)])

    def coroutine(self) -> bide.Workflow:
        """Build one of a coroutine that waits."""

        async def body(handle: bide.AsyncTaskHandle) -> None:
            self.waiting += 1
            try:
                await handle.wait(go)
            finally:
                self.cleaned += 1

        return bide.Workflow("coroutines", [bide.task(body, name="body")])

    def parked(self) -> bide.Workflow:
        """Build one of a plain function that is parked."""
        lock = threading.Lock()

        def body(handle: bide.TaskHandle) -> None:
            with lock:
                self.waiting += 1
            try:
                handle.wait(go)
            finally:
                with lock:
                    self.cleaned += 1

        return bide.Workflow("parked", [bide.task(body, name="body")])


def cancelling(setting: measure.Setting, make: Callable[[Waiting], bide.Workflow]) -> float:
    """Return the seconds from the call that cancels all waiting runs of a workflow until they have ended."""
    waiting = Waiting()
    workflow, has_body = make(waiting), make is not Waiting.gate
    with open_runner(setting) as runner:
        runner.run(one_workflow)
        handles = runner.submit_many(workflow, [None] * measure.MANY)
        measure.wait_until(lambda: not has_body or waiting.waiting == measure.MANY, f"{measure.MANY} runs wait")
        time.sleep(measure.POLL_SECONDS)

        def cancel() -> None:
            assert runner.cancel(workflow=workflow) == measure.MANY  # noqa: S101 - it is what is measured
            for handle in handles:
                with contextlib.suppress(bide.RunFailed):
                    handle.result()

        seconds = measure.timed(cancel)
        assert waiting.cleaned == has_body * measure.MANY  # noqa: S101 - as above
    return seconds


def row_cancel(setting: measure.Setting) -> measure.Metrics:
    """Measure the cancellation of many runs that wait, by one call: each kind on a runner of its own."""
    return {
        "cancel_gates": cancelling(setting, Waiting.gate),
        "cancel_coroutines": cancelling(setting, Waiting.coroutine),
        "cancel_parked": cancelling(setting, Waiting.parked),
    }


ROWS = {"async_waiting": row_async_waiting, "async_signal": row_async_signal, "cancel": row_cancel}
