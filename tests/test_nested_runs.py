"""A body must not wait for a run, which could need the slot of the body: bide refuses it, and its advice works."""

import asyncio
import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterator

import pytest

import bide


@bide.task
def inner(n: int = 1) -> int:
    return n + 1


inner_workflow = bide.Workflow("inner", [inner])


@pytest.fixture
def runner(store: str) -> Iterator[bide.Runner]:
    """Two slots: without the refusal, waiting bodies would hold both."""
    with bide.Runner(store, slots=2) as runner:
        yield runner


def by_run(runner: bide.Runner, _ended: str) -> object:
    return runner.run(inner_workflow)


def by_run_with_timeout(runner: bide.Runner, _ended: str) -> object:
    return runner.run(inner_workflow, {"n": 2}, key="other", timeout=0)


def by_run_async(runner: bide.Runner, _ended: str) -> object:
    return asyncio.run(runner.run_async(inner_workflow))


def by_result(runner: bide.Runner, ended: str) -> object:
    return runner.submit(inner_workflow, {"n": 1}, key=ended).result()


def by_result_with_timeout(runner: bide.Runner, ended: str) -> object:
    return runner.submit(inner_workflow, {"n": 1}, key=ended).result(timeout=0)


def by_await(runner: bide.Runner, ended: str) -> object:
    async def awaits() -> object:
        return await runner.submit(inner_workflow, {"n": 1}, key=ended)

    return asyncio.run(awaits())


def by_another_runner(_runner: bide.Runner, _ended: str) -> object:
    with bide.Runner(":memory:") as another:
        return another.run(inner_workflow)


WAITS: list[Callable[[bide.Runner, str], object]] = [
    by_run,
    by_run_with_timeout,
    by_run_async,
    by_result,
    by_result_with_timeout,
    by_await,
    by_another_runner,
]


def in_a_body(wait: Callable[[], object]) -> bide.Workflow:
    return bide.Workflow("outer", [bide.task(wait, name="outer")])


def in_a_step(wait: Callable[[], object]) -> bide.Workflow:
    def outer(handle: bide.TaskHandle) -> object:
        return handle.step(wait, name="step")

    return bide.Workflow("outer", [outer])


def in_a_condition(wait: Callable[[], object]) -> bide.Workflow:
    def outer(handle: bide.TaskHandle) -> object:
        return handle.defer_until(wait, poll_interval_ms=1, name="condition")

    return bide.Workflow("outer", [outer])


def in_a_later_poll(wait: Callable[[], object]) -> bide.Workflow:
    def outer(handle: bide.TaskHandle) -> object:
        asked = itertools.count()
        return handle.defer_until(lambda: next(asked) and wait(), poll_interval_ms=1, name="condition")

    return bide.Workflow("outer", [outer])


def in_a_gate(wait: Callable[[], object]) -> bide.Workflow:
    def outer() -> None:
        raise AssertionError("the gate does not open")

    gate = bide.until(wait, every=0.001, name="gate", on_error="raise")
    return bide.Workflow("outer", [bide.task(gate=gate)(outer)])


PLACES: list[Callable[[Callable[[], object]], bide.Workflow]] = [
    in_a_body,
    in_a_step,
    in_a_condition,
    in_a_later_poll,
    in_a_gate,
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wait", WAITS)
def test_a_body_that_waits_for_a_run_is_refused(
    runner: bide.Runner,
    wait: Callable[[bide.Runner, str], object],
    place: Callable[[Callable[[], object]], bide.Workflow],
) -> None:
    runner.run(inner_workflow, {"n": 1}, key="ended")

    def waits() -> object:
        return wait(runner, "ended")

    for handle in runner.submit_many(place(waits), [None] * 3):
        with pytest.raises(bide.RunFailed) as failed:
            handle.result(30)
        assert isinstance(failed.value.__cause__, bide.DefinitionError | bide.TaskFailed)
        message = str(failed.value)
        assert "DefinitionError" in message
        assert "waits for a run" in message
    # Nothing was committed by it.
    assert [run.key for run in runner.runs(workflow="inner")] == ["ended"]


def test_the_refusal_shows_handle_run_and_handle_start(runner: bide.Runner) -> None:
    def outer() -> str:
        with pytest.raises(bide.DefinitionError) as refused:
            runner.run(inner_workflow)
        return str(refused.value)

    told = runner.run(in_a_body(outer))["outer"]
    assert "result = handle.run(workflow, inputs)" in told
    assert "child = handle.start(workflow, inputs) and waits for them with handle.wait(child)" in told


def test_a_body_that_catches_the_error_continues(runner: bide.Runner) -> None:
    def outer() -> str:
        try:
            runner.run(inner_workflow)
        except bide.DefinitionError:
            return "told"
        return "not told"

    assert runner.run(in_a_body(outer))["outer"] == "told"
    assert runner.run(inner_workflow)["inner"] == 2  # on this thread, as always


def test_a_thread_that_a_body_starts_may_wait(runner: bide.Runner) -> None:
    def outer() -> list[int]:
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.append(runner.run(inner_workflow)["inner"]))
        thread.start()
        thread.join()
        return results

    assert runner.run(in_a_body(outer))["outer"] == [2]


def runs_in_a_child() -> None:
    with bide.Runner(":memory:") as runner:
        assert runner.run(inner_workflow)["inner"] == 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_that_a_body_forks_may_wait() -> None:
    def outer() -> int | None:
        child = multiprocessing.get_context("fork").Process(target=runs_in_a_child)
        child.start()
        child.join(30)
        return child.exitcode

    with bide.Runner(":memory:") as runner:
        assert runner.run(in_a_body(outer))["outer"] == 0


@pytest.mark.parametrize("slots", [1, 2])
def test_the_advised_code_works(store: str, slots: int) -> None:
    def outer(handle: bide.TaskHandle, n: int) -> int:
        result = handle.run(inner_workflow, {"n": n})
        child = handle.start(inner_workflow, {"n": result["inner"]})
        return int(handle.wait(child)["inner"])

    with bide.Runner(store, slots=slots) as one:
        handles = one.submit_many(bide.Workflow("outer", [outer]), [{"n": n} for n in range(5)])
        assert [handle.result(30)["outer"] for handle in handles] == [2, 3, 4, 5, 6]
