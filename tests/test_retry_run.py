"""Retry of runs: mapped tasks, child runs, from a task on, and what is refused."""

from pathlib import Path
from typing import Annotated

import pytest

import bide
from processes import eventually

KINDS = ("memory", "sqlite", "postgres")


def fail(when: bool) -> None:
    if when:
        msg = "boom"
        raise ValueError(msg)


def test_only_the_elements_that_failed_are_executed_again(runner: bide.Runner) -> None:
    calls: list[int] = []

    @bide.task
    def numbers() -> list[int]:
        return [0, 1, 2]

    @bide.task
    def double(number: Annotated[int, bide.Each("numbers")]) -> int:
        calls.append(number)
        fail(number == 1 and calls.count(1) == 1)
        return 2 * number

    @bide.task
    def total(double: list[int]) -> int:
        return sum(double)

    run = runner.submit(bide.Workflow("w", [numbers, double, total]))
    with pytest.raises(bide.RunFailed):
        run.result(timeout=20)
    run.retry()
    assert run.result(timeout=20)["total"] == 6
    assert sorted(calls) == [0, 1, 1, 2]


def test_a_parent_starts_its_failed_child_again(runner: bide.Runner) -> None:
    calls: list[str] = []

    @bide.task
    def inner() -> str:
        calls.append("inner")
        fail(len(calls) == 1)
        return "done"

    child = bide.Workflow("child", [inner])

    @bide.task
    def outer(handle: bide.TaskHandle) -> object:
        return handle.run(child)["inner"]

    run = runner.submit(bide.Workflow("parent", [outer]))
    with pytest.raises(bide.RunFailed, match="boom"):
        run.result(timeout=20)
    run.retry()
    assert run.result(timeout=20)["outer"] == "done"


def test_a_completed_task_and_what_follows_can_be_executed_again(runner: bide.Runner) -> None:
    calls: list[str] = []

    @bide.task
    def first() -> None:
        calls.append("first")

    @bide.task(depends_on=[first])
    def second() -> None:
        calls.append("second")

    @bide.task(depends_on=[second])
    def third() -> None:
        calls.append("third")
        fail(calls.count("third") == 1)

    run = runner.submit(bide.Workflow("w", [first, second, third]))
    with pytest.raises(bide.RunFailed):
        run.result(timeout=20)
    run.retry(from_task="second")
    run.result(timeout=20)
    assert calls == ["first", "second", "third", "second", "third"]


def test_a_run_of_an_earlier_process_is_retried(file: Path) -> None:
    broken = [True]

    @bide.task
    def work() -> str:
        fail(broken[0])
        return "done"

    workflow = bide.Workflow("w", [work])
    with bide.Runner(file) as runner:
        run = runner.submit(workflow, key="k")
        with pytest.raises(bide.RunFailed):
            run.result(timeout=20)
    broken[0] = False
    with bide.Runner(file, workflows=[workflow]) as runner:
        assert runner.retry(status="Failed") == 1
        assert runner.run(workflow, key="k", timeout=20)["work"] == "done"


def test_a_run_is_retried_whose_workflow_is_registered_later(file: Path) -> None:
    broken = [True]

    @bide.task
    def work() -> str:
        fail(broken[0])
        return "done"

    workflow = bide.Workflow("w", [work])
    with bide.Runner(file) as runner:
        run = runner.submit(workflow, key="k")
        with pytest.raises(bide.RunFailed):
            run.result(timeout=20)
    with bide.Runner(file) as runner:
        runner.retry("k")
    broken[0] = False
    with bide.Runner(file, workflows=[workflow]) as runner:
        assert runner.run(workflow, key="k", timeout=20)["work"] == "done"


def test_a_cancelled_element_and_its_siblings_are_retried(runner: bide.Runner) -> None:
    ready: list[bool] = []

    @bide.task
    def numbers() -> list[int]:
        return [0, 1]

    @bide.task
    def waits(number: Annotated[int, bide.Each("numbers")], handle: bide.TaskHandle) -> int:
        ready.append(True)
        return number + int(handle.wait_for("go"))

    run = runner.submit(bide.Workflow("w", [numbers, waits]))
    eventually(lambda: len(ready) == 2, "both wait")
    run.cancel()
    with pytest.raises(bide.RunFailed):
        run.result(timeout=20)
    run.retry()
    run.signal("go", 1)
    run.signal("go", 1)
    assert run.result(timeout=20)["waits"] == [1, 2]
