"""Cancel and pause of runs whose bodies are by `async def`."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import bide
from processes import eventually

Handle = bide.AsyncTaskHandle
Place = Callable[[Handle], Awaitable[object]]


class Waits:
    """A body that waits as it is told, and notes what cancels it."""

    def __init__(self, place: Place) -> None:
        self.log: list[object] = []
        self.waits = threading.Event()

        @bide.task
        async def waits(handle: bide.AsyncTaskHandle) -> str:
            self.waits.set()
            try:
                await place(handle)
            except asyncio.CancelledError as error:
                if not handle.cancelled:  # it is suspended
                    raise
                self.log.append(isinstance(error, bide.Cancelled))
                self.log.append(await handle.step(lambda: "undone", name="undo"))
                await handle.sleep(0.01)
                raise
            return "done"

        @bide.task(run_if="done", depends_on=[waits])
        async def tidy() -> None:
            self.log.append("tidy")

        self.workflow = bide.Workflow("waits", [waits, tidy])

    def submit(self, runner: bide.Runner) -> bide.RunHandle:
        run = runner.submit(self.workflow)
        assert self.waits.wait(20)
        return run


async def signal(handle: Handle) -> object:
    return await handle.wait_for("go")


async def asyncio_sleep(_handle: Handle) -> None:
    await asyncio.sleep(3600)


async def event(_handle: Handle) -> object:
    return await asyncio.Event().wait()


async def condition(handle: Handle) -> object:
    return await handle.defer_until(lambda: None, 3_600_000, name="never")


async def several(handle: Handle) -> object:
    return await handle.wait_any(bide.signal("go"), bide.after(3600))


async def gather(handle: Handle) -> object:
    return await asyncio.gather(handle.wait_for("a"), asyncio.sleep(3600))


async def group(handle: Handle) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(handle.sleep(3600, name="sleeps"))
        tasks.create_task(asyncio.sleep(3600))


async def step(handle: Handle) -> object:
    async def hangs() -> None:
        await asyncio.sleep(3600)

    return await handle.step(hangs)


async def retried(handle: Handle) -> object:
    async def fails() -> None:
        raise LookupError

    return await handle.step(fails, retry=bide.Retry(3, delay=3600))


def body_waits(runner: bide.Runner, run: bide.RunHandle, *, deferred: bool) -> None:
    def waits() -> bool:
        task = runner.get(run.id).tasks["waits"]
        return task.sub_status == "Deferred" if deferred else task.status == "Running"

    eventually(waits, "the body waits")


@pytest.mark.parametrize("place", [signal, asyncio_sleep, event, condition, several, gather, group, step, retried])
def test_cancel_reaches_a_coroutine_wherever_it_is(runner: bide.Runner, place: Place) -> None:
    waits = Waits(place)
    run = waits.submit(runner)
    # `gather` does not wait for what it cancels: only one wait at a time is possible, so that it must not be opening.
    body_waits(runner, run, deferred=place is gather)
    run.cancel(by="ana")
    with pytest.raises(bide.RunFailed, match="was cancelled by ana"):
        run.result(timeout=20)
    assert waits.log[1:] == ["undone", "tidy"]
    result = runner.get(run.id)
    assert result is not None
    assert [str(task.status) for task in result.tasks.values()] == ["Cancelled", "Completed"]


def test_what_a_wait_raises_is_both_cancellations(runner: bide.Runner) -> None:
    waits = Waits(signal)
    run = waits.submit(runner)
    eventually(lambda: runner.get(run.id).tasks["waits"].sub_status == "Deferred", "the body waits")
    run.cancel()
    with pytest.raises(bide.RunFailed):
        run.result(timeout=20)
    assert waits.log[0] is True


def test_a_coroutine_may_go_on_after_it_was_cancelled(runner: bide.Runner) -> None:
    waits = threading.Event()

    @bide.task
    async def stubborn(handle: bide.AsyncTaskHandle) -> str:
        waits.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await handle.sleep(0.01)
            return "saved"
        return "done"

    run = runner.submit(bide.Workflow("stubborn", [stubborn]))
    assert waits.wait(20)
    run.cancel()
    with pytest.raises(bide.RunFailed) as failed:
        run.result(timeout=20)
    assert failed.value.result["stubborn"] == "saved"


def test_a_coroutine_that_does_not_end_is_cut_off(file: Path) -> None:
    waits, log = threading.Event(), []

    @bide.task
    async def hangs(handle: bide.AsyncTaskHandle) -> None:
        waits.set()
        try:
            await handle.wait_for("go")
        except bide.Cancelled:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                log.append("cut off")
                raise

    with bide.Runner(file, cancel_grace=0.2) as runner:
        run = runner.submit(bide.Workflow("hangs", [hangs]))
        assert waits.wait(20)
        run.cancel()
        with pytest.raises(bide.RunFailed, match="cancelled"):
            run.result(timeout=20)
        eventually(lambda: log == ["cut off"], "the coroutine is cancelled")


def test_a_paused_run_resumes_no_coroutine(runner: bide.Runner) -> None:
    waits = Waits(signal)
    run = waits.submit(runner)
    eventually(lambda: runner.get(run.id).tasks["waits"].sub_status == "Deferred", "the body waits")
    run.pause(by="bo")
    run.signal("go")
    eventually(lambda: runner.get(run.id).tasks["waits"].sub_status == "Active", "the signal is recorded")
    # What another run does meanwhile, this one could have done too.
    runner.run(bide.Workflow("other", [bide.task(lambda: None, name="other")]), timeout=20)  # type: ignore[misc]
    assert run.status() == "Paused"
    # At most it is suspended, which is no cancellation: it is entered again.
    assert waits.log in ([], [False, False])
    run.resume()
    assert run.result(timeout=20)["waits"] == "done"
    assert "undone" not in waits.log
    assert waits.log[-1] == "tidy"


def test_runs_are_controlled_from_coroutines(runner: bide.Runner) -> None:
    waits = Waits(signal)
    run = waits.submit(runner)
    eventually(lambda: runner.get(run.id).tasks["waits"].sub_status == "Deferred", "the body waits")

    async def controls() -> list[str]:
        await run.pause_async(by="bo")
        await run.resume_async()
        await run.cancel_async(by="ana")
        with pytest.raises(bide.RunFailed):
            await run.result_async(timeout=20)
        return [entry.what for entry in await run.history_async()]

    told = asyncio.run(controls())
    assert [what for what in told if what in {"pause", "resume", "cancel"}] == ["pause", "resume", "cancel"]


# --- the operator's hand -------------------------------------------------------------------------------------------


def submitted(runner: bide.Runner, place: Place) -> bide.RunHandle:
    """Submit a run of a body that returns what its wait gives, and return when it waits."""

    @bide.task
    async def waits(handle: bide.AsyncTaskHandle) -> str:
        return repr(await place(handle))

    run = runner.submit(bide.Workflow("waits", [waits]))
    eventually(lambda: runner.get(run.id).tasks["waits"].sub_status == "Deferred", "the body waits")
    return run


@pytest.mark.parametrize(("place", "gives"), [(signal, "7"), (condition, "7"), (several, "(Fired(value=7), None)")])
def test_a_wait_of_a_coroutine_is_satisfied_by_hand(runner: bide.Runner, place: Place, gives: str) -> None:
    run = submitted(runner, place)
    runner.satisfy(run, "waits", 7, by="ana")
    assert run.result(timeout=20)["waits"] == gives


def test_the_condition_of_a_coroutine_is_polled_by_hand(runner: bide.Runner) -> None:
    there: list[str] = []

    async def is_there() -> str | None:
        await asyncio.sleep(0)
        return there[0] if there else None

    async def polls(handle: Handle) -> object:
        return await handle.wait(bide.until(is_there, every=3600))

    run = submitted(runner, polls)
    there.append("here")
    runner.poll_now(run, "waits")
    assert run.result(timeout=20)["waits"] == "'here'"


def test_the_deadline_of_a_coroutine_is_moved_by_hand(runner: bide.Runner) -> None:
    async def patient(handle: Handle) -> object:
        return await handle.wait_for("go", timeout=1.0)

    async def witness(handle: Handle) -> object:
        with pytest.raises(bide.WaitTimeout):
            await handle.wait_for("never", timeout=1.2)
        return "late"

    run = submitted(runner, patient)
    runner.extend(run, "waits", 3600)
    assert submitted(runner, witness).result(timeout=20)["waits"] == "'late'"
    run.signal("go", "in time")
    assert run.result(timeout=20)["waits"] == "'in time'"


def test_a_gate_that_a_coroutine_asks_is_satisfied_by_hand(runner: bide.Runner) -> None:
    async def never() -> None: ...

    @bide.task(gate=bide.until(never, every=3600))
    async def gated() -> str:
        return "open"

    run = runner.submit(bide.Workflow("gated", [gated]))
    eventually(lambda: len(runner.waiting()) == 1, "the gate is open")
    runner.satisfy(run, "gated")
    assert run.result(timeout=20)["gated"] == "open"


@pytest.mark.parametrize("place", [signal, asyncio_sleep, step])
@pytest.mark.parametrize("end", ["skip", "force", "deadline"])
def test_a_coroutine_that_is_ended_from_outside_releases_its_slot(store: str, place: Place, end: str) -> None:
    entered, left = threading.Event(), threading.Event()
    did: list[str] = []

    @bide.task
    async def held(handle: bide.AsyncTaskHandle) -> None:
        entered.set()
        try:
            await place(handle)
        except asyncio.CancelledError:
            # Nothing that it does counts any more, so it does nothing.
            with pytest.raises(bide.BideError, match="is no longer valid"):
                await handle.step(lambda: did.append("undone"), name="undo")
            raise
        finally:
            left.set()

    @bide.task
    async def other() -> str:
        return "executed"

    with bide.Runner(store, async_slots=1) as runner:
        run = runner.submit(bide.Workflow("held", [held], timeout=0.5 if end == "deadline" else None))
        assert entered.wait(20)
        if end == "skip":
            runner.skip(run, "held")
            run.result(timeout=20)
        else:
            if end == "force":
                run.cancel(force=True)
            with pytest.raises(bide.RunFailed):
                run.result(timeout=20)
        assert left.wait(20)
        assert runner.run(bide.Workflow("other", [other]), timeout=20)["other"] == "executed"
    assert did == []


def test_the_condition_of_a_gate_is_polled_by_hand(runner: bide.Runner) -> None:
    there: list[str] = []

    async def is_there() -> bool:
        return bool(there)

    @bide.task(gate=bide.until(is_there, every=3600))
    async def gated() -> str:
        return "open"

    run = runner.submit(bide.Workflow("gated", [gated]))
    eventually(lambda: bool(runner.waiting() and runner.waiting()[0].polls), "it was polled")
    there.append("here")
    runner.poll_now(run, "gated")
    assert run.result(timeout=5)["gated"] == "open"
