"""`Workflow(timeout=)`: the deadline of a whole run, whatever its tasks do at that time."""

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import bide
from failing_runs import failing, result_of, statuses
from processes import Child

Status = bide.TaskStatus


def never() -> bool:
    return False


def test_a_run_that_waits_too_long_fails_at_its_deadline(runner: bide.Runner) -> None:
    @bide.task
    def polls(handle: bide.TaskHandle) -> None:
        handle.defer_until(never, 5)

    @bide.task
    def sleeps(handle: bide.TaskHandle) -> None:
        handle.sleep(3600)

    @bide.task
    def asks(handle: bide.TaskHandle) -> None:
        handle.wait_for("never")

    @bide.task(gate=bide.until(never, every=0.01))
    def gated() -> None: ...

    @bide.task(depends_on=[polls, gated], run_if="done")
    def after() -> None: ...

    @bide.task
    def quick() -> int:
        return 1

    tasks: list[Any] = [polls, sleeps, asks, gated, after, quick]
    failed = failing(runner, bide.Workflow("late", tasks, timeout=timedelta(seconds=0.3)))
    result = result_of(failed)
    assert result.status is bide.RunStatus.Failed
    assert "of workflow 'late' did not end within 0.3 s" in str(result.error)
    assert statuses(result) == {
        "polls": Status.Failed,
        "sleeps": Status.Failed,
        "asks": Status.Failed,
        "gated": Status.Failed,
        "after": Status.Skipped,
        "quick": Status.Completed,
    }
    assert result.tasks["after"].blocked_by == "the run did not end within 0.3 s"


def test_the_bodies_of_a_late_run_are_released(runner: bide.Runner) -> None:
    left = threading.Semaphore(0)

    @bide.task
    def sleeps(handle: bide.TaskHandle) -> None:
        try:
            handle.sleep(3600)
        finally:
            left.release()

    @bide.task
    def asks(handle: bide.TaskHandle) -> None:
        try:
            handle.wait_for("never")
        finally:
            left.release()

    @bide.task
    def polls(handle: bide.TaskHandle) -> None:
        try:
            handle.defer_until(never, 5)
        finally:
            left.release()

    failing(runner, bide.Workflow("late", [sleeps, asks, polls], timeout=0.2))
    for _ in range(3):
        assert left.acquire(timeout=10)


def test_what_a_late_body_does_changes_nothing(runner: bide.Runner) -> None:
    entered, go, ended = threading.Event(), threading.Event(), threading.Event()
    raised: list[BaseException] = []

    @bide.task
    def slow(handle: bide.TaskHandle) -> int:
        entered.set()
        go.wait(30)
        try:
            handle.step(int)
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            ended.set()
        return 1

    failed = failing(runner, bide.Workflow("late", [slow], timeout=0.2))
    go.set()
    assert ended.wait(30)
    assert isinstance(raised[0], bide.Suspended)
    assert runner.get(result_of(failed).id).tasks["slow"].status is Status.Failed


def test_a_run_in_time_is_left_alone(runner: bide.Runner) -> None:
    @bide.task
    def quick() -> int:
        return 1

    workflow = bide.Workflow("quick", [quick], timeout=0.2)
    assert workflow.timeout == 0.2
    result = runner.run(workflow)

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        handle.wait_for("never")

    # Its deadline is later than that of the run that has ended.
    with pytest.raises(bide.RunFailed):
        runner.run(bide.Workflow("later", [waits], timeout=0.2), timeout=20)
    assert runner.get(result.id).status is bide.RunStatus.Completed


def test_the_time_counts_from_when_the_run_begins(runner: bide.Runner) -> None:
    @bide.task
    def quick() -> int:
        return 1

    assert runner.run(bide.Workflow("quick", [quick], timeout=5), start_after=0.2)["quick"] == 1


@pytest.mark.parametrize("timeout", [0, -1, "5 s", float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(bide.DefinitionError, match="workflow 'w': timeout"):
        bide.Workflow("w", timeout=timeout)


LATE = """
@bide.task
def waits(handle):
    handle.wait_for("never")

workflow = bide.Workflow("late", [waits], timeout=float(words[0]))
runner = bide.Runner(db)
handle = runner.submit(workflow, key="k")
if len(words) > 1:
    say("submitted")
    stay()
try:
    handle.result(30)
except bide.RunFailed as failed:
    say("failed", failed.result.ended_at.timestamp() - failed.result.started_at.timestamp())
"""


def test_a_crash_does_not_move_the_deadline_of_a_run(file: Path) -> None:
    with Child(LATE, file, "1.5", "stay") as child:
        child.expect("submitted")
        child.kill()
    # Another limit in the code changes nothing for a run that exists.
    with Child(LATE, file, "1000") as child:
        after = float(child.after("failed"))
    assert 1.5 <= after < 20
