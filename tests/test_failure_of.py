"""`FailureOf`: a task that runs after failures receives what failed."""

import contextlib
from typing import Annotated, Any

import pytest

import bide
from failing_runs import named


def finished(runner: bide.Runner, workflow: bide.Workflow) -> bide.RunResult:
    handle = runner.submit(workflow)
    with contextlib.suppress(bide.RunFailed):
        handle.result(30)
    return runner.get(handle.id)


def described(failure: bide.TaskFailed | None) -> list[Any]:
    return [] if failure is None else [failure.task, str(failure)]


@pytest.mark.parametrize("run_if", ["done", "failed"])
def test_a_task_receives_what_failed_of_a_dependency(runner: bide.Runner, run_if: str) -> None:
    bad = named("bad", fails=True)
    good = named("good")

    @bide.task(run_if=run_if)
    def report(
        one: Annotated[bide.TaskFailed | None, bide.FailureOf("bad")],
        other: Annotated[bide.TaskFailed | None, bide.FailureOf(good)],
        /,
        *,
        again: Annotated[bide.TaskFailed | None, bide.FailureOf(bad)],
    ) -> list[list[Any]]:
        return [described(one), described(other), described(again)]

    result = finished(runner, bide.Workflow("w", [report, bad, good]))
    one, other, again = result["report"]
    assert one == again == described(result.tasks["bad"].error)
    assert one[0] == "bad"
    assert other == []


def test_of_a_dependency_that_was_skipped_for_a_failure_it_is_that_one(runner: bide.Runner) -> None:
    @bide.task(run_if="failed")
    def report(between: Annotated[bide.TaskFailed | None, bide.FailureOf("between")]) -> list[Any]:
        return described(between)

    tasks = [named("bad", fails=True), named("between", depends_on="bad"), report]
    assert finished(runner, bide.Workflow("w", tasks))["report"][0] == "bad"


def test_nothing_failed_is_none(runner: bide.Runner) -> None:
    @bide.task
    def skips() -> None:
        raise bide.Skip("nothing to do")

    @bide.task(run_if="done")
    def report(skips: Annotated[bide.TaskFailed | None, bide.FailureOf("skips")]) -> bool:
        return skips is None

    assert runner.run(bide.Workflow("w", [skips, report]))["report"] is True


def test_a_value_and_a_failure_of_one_task_can_both_be_taken(runner: bide.Runner) -> None:
    @bide.task(run_if="done")
    def report(
        good: str | None = None, why: Annotated[bide.TaskFailed | None, bide.FailureOf("good")] = None
    ) -> list[bool]:
        return [good == "good", why is None]

    assert runner.run(bide.Workflow("w", [named("good"), report]))["report"] == [True, True]


def build(**annotation: Any) -> bide.Workflow:
    (kind,), run_if = annotation["notes"], annotation["run_if"]

    def report(bad: Any) -> None: ...

    report.__annotations__["bad"] = kind
    return bide.Workflow("w", [named("bad"), bide.task(report, run_if=run_if)])


@pytest.mark.parametrize(
    ("kind", "run_if", "says"),
    [
        (Annotated[bide.TaskFailed | None, bide.FailureOf("bda")], "done", "FailureOf.'bda'.*did you mean 'bad'"),
        (Annotated[bide.TaskFailed | None, bide.FailureOf("bad")], "succeeded", 'run_if="done" or run_if="failed"'),
        (Annotated[bide.TaskFailed | None, bide.FailureOf("bad")], "none_failed", 'run_if="done" or run_if="failed"'),
        (Annotated[bide.TaskFailed, bide.FailureOf("bad")], "done", r"Annotated\[bide.TaskFailed \| None"),
        (Annotated[str | None, bide.FailureOf("bad")], "done", r"Annotated\[bide.TaskFailed \| None"),
        (Annotated[bide.TaskFailed | None, bide.FailureOf], "done", "take a name"),
        (Annotated[bide.TaskFailed | None, bide.FailureOf("bad"), bide.From("bad")], "done", "give one"),
    ],
)
def test_what_cannot_receive_a_failure_is_refused(kind: Any, run_if: str, says: str) -> None:
    with pytest.raises(bide.DefinitionError, match=says):
        build(notes=[kind], run_if=run_if)
