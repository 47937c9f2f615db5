"""`bide.current()`: the handle for code that is not passed one."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import Child, eventually, ran


def within(runner: bide.Runner, body: Any, **options: Any) -> Any:
    """Run one task with this body and return its result."""
    return runner.run(bide.Workflow("w", [bide.task(body, name="work", **options)]), timeout=60)["work"]


def test_it_is_the_handle_that_the_body_takes(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> bool:
        def step() -> bool:
            return bide.current() is handle and handle.in_step

        return bide.current() is handle and handle.step(step) and not handle.in_step

    assert within(runner, work) is True


def test_a_body_without_a_handle_gets_one_and_waits_and_records(runner: bide.Runner) -> None:
    def deep() -> int:
        bide.current().sleep(0.001)
        return bide.current().step(lambda: 5, name="five")

    def work() -> list[Any]:
        five = deep()
        handle = bide.current()
        return [five, handle is bide.current(), handle.task_name, handle.attempt, handle.is_slot_held()]

    result = runner.run(bide.Workflow("w", [bide.task(work, name="work")]), timeout=60)
    assert result["work"] == [5, True, "work", 1, True]
    assert result.tasks["work"].waited > 0


def test_it_works_in_a_condition_and_makes_the_context_read_only_in_a_step(runner: bide.Runner) -> None:
    def work(context: bide.Context) -> str:
        bide.current().defer_until(lambda: bide.current().task_name == "work")

        def step() -> str:
            with pytest.raises(bide.BideError) as refused:
                context["key"] = 1
            return str(refused.value)

        return bide.current().step(step)

    assert "the context is read-only within a step" in within(runner, work)


def outside() -> None:
    with pytest.raises(LookupError, match="no body executes on this thread"):
        bide.current()


def on_a_thread_of_the_users(runner: bide.Runner) -> None:
    def work() -> str:
        texts: list[str] = []

        def elsewhere() -> None:
            with pytest.raises(LookupError) as refused:
                bide.current()
            texts.append(str(refused.value))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return texts[0]

    assert "pass it the handle" in within(runner, work)


def on_a_thread_with_the_bodys_contextvars(runner: bide.Runner) -> None:
    def work() -> str:
        bide.current()
        with ThreadPoolExecutor(1) as threads:
            refused = threads.submit(contextvars.copy_context().run, bide.current).exception()
        assert isinstance(refused, LookupError)
        return str(refused)

    assert within(runner, work) == (
        "bide.current(): the body of task 'work' executes on another thread; pass this one the handle"
    )


def after_the_end_of_the_body(runner: bide.Runner) -> None:
    kept: list[contextvars.Context] = []

    def work() -> None:
        bide.current()
        kept.append(contextvars.copy_context())

    within(runner, work)
    with pytest.raises(bide.BideError, match="the body of task 'work' has ended"):
        kept[0].run(bide.current)


def in_the_condition_of_a_gate(runner: bide.Runner) -> None:
    texts: list[str] = []

    def condition() -> bool:
        with pytest.raises(LookupError) as refused:
            bide.current()
        texts.append(str(refused.value))
        return True

    within(runner, lambda: None, gate=bide.until(condition))
    assert "the condition of a gate" in texts[0]


@pytest.mark.parametrize(
    "case",
    [
        on_a_thread_of_the_users,
        on_a_thread_with_the_bodys_contextvars,
        after_the_end_of_the_body,
        in_the_condition_of_a_gate,
    ],
)
def test_where_no_body_executes_it_is_an_error_that_says_what_to_do(
    runner: bide.Runner, case: Callable[[bide.Runner], None]
) -> None:
    case(runner)
    outside()


def test_the_wait_of_a_body_without_a_handle_gives_its_slot_back_beyond_max_parked(store: str) -> None:
    open_, entered = threading.Event(), threading.Barrier(4, timeout=30)

    @bide.task
    def late(n: int) -> int:
        entered.wait()
        bide.current().defer_until(open_.is_set, 5)
        return n

    @bide.task
    def opens(ready: bool) -> None:
        open_.set()

    with bide.Runner(store, slots=4, max_parked=1) as runner:
        workflow = bide.Workflow("w", [late])
        runs = [runner.submit(workflow, {"n": n}) for n in range(4)]
        eventually(lambda: runner._core.load()[:3] == (0, 4, 4), "all are parked and have released their slots")
        runner.run(bide.Workflow("o", [opens]), {"ready": True}, timeout=60)
        assert [run.result(timeout=60)["late"] for run in runs] == [0, 1, 2, 3]


def test_a_task_that_has_asked_once_counts_as_one_that_may_park(store: str) -> None:
    open_, entered = threading.Event(), threading.Semaphore(0)

    @bide.task
    def late(n: int) -> int:
        entered.release()
        bide.current().defer_until(open_.is_set, 5)
        return n

    with bide.Runner(store, slots=4, max_parked=1) as runner:
        workflow = bide.Workflow("w", [late])
        open_.set()
        runner.run(workflow, {"n": 0}, timeout=60)
        assert entered.acquire(timeout=30)
        open_.clear()
        runs = [runner.submit(workflow, {"n": n}) for n in range(2)]
        assert entered.acquire(timeout=30)

        def blocked() -> list[str]:
            return [run._snapshot().tasks["late"].blocked_by or "" for run in runs]

        eventually(lambda: any("parked bodies 1/1" in by for by in blocked()), "the second one is held back")
        assert not entered.acquire(blocking=False)
        open_.set()
        assert [run.result(timeout=60)["late"] for run in runs] == [0, 1]


CRASHES = """
def deep():
    handle = bide.current()
    number = handle.step(lambda: note("step") or 7, name="step")
    say("waits")
    handle.defer_until(lambda: bool(words), 5)
    return number

@bide.task
def work():
    return deep()

with bide.Runner(db) as runner:
    say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
"""


def test_what_it_records_survives_a_crash(file: Path) -> None:
    with Child(CRASHES, file) as child:
        child.expect("waits")
    assert ran(CRASHES, file, "open")[-1] == "7"
    assert file.with_suffix(".ledger").read_text() == "step\n"
