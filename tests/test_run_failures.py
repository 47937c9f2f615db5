"""What a failed body means for its run and its caller: `run_if`, `Skip`, `fail_fast`, `RunFailed`."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import bide
from failing_runs import failing, named, result_of, statuses
from processes import ledger, ran

Status = bide.TaskStatus


# --- what follows a failure ----------------------------------------------------------------------------------------


def test_dependents_of_a_failure_are_skipped_and_other_branches_finish(runner: bide.Runner) -> None:
    workflow = bide.Workflow(
        "w",
        [
            named("bad", fails=True),
            named("after", depends_on="bad"),
            named("later", depends_on="after"),
            named("good"),
            named("rest", depends_on="good"),
        ],
    )
    result = result_of(failing(runner, workflow))
    assert statuses(result) == {
        "bad": Status.Failed,
        "after": Status.Skipped,
        "later": Status.Skipped,
        "good": Status.Completed,
        "rest": Status.Completed,
    }
    assert "bad" in (result.tasks["after"].blocked_by or "")
    assert "bad" in (result.tasks["later"].blocked_by or "")
    assert result.outputs == {"good": "good", "rest": "rest"}
    with pytest.raises(KeyError, match=r"'after'.*Skipped"):
        result["after"]


@pytest.mark.parametrize("between", [(), ("step",)])
@pytest.mark.parametrize(("end", "expected"), [("returns", "Completed"), ("skips", "Completed"), ("fails", "Skipped")])
def test_none_failed_runs_after_skips_and_not_after_failures(
    runner: bide.Runner, end: str, expected: str, between: tuple[str, ...]
) -> None:
    @bide.task
    def first() -> int:
        if end == "skips":
            raise bide.Skip("nothing to do")
        return 1 if end == "returns" else 1 // 0

    last = between[-1] if between else "first"

    @bide.task(depends_on=[last, "other"], run_if="none_failed")
    def report(first: int | None = None) -> int | None:
        return first

    tasks: list[Any] = [first, named("other"), *(named(name, depends_on="first") for name in between), report]
    result = runner.get(finished(runner, bide.Workflow("w", tasks)))
    assert result.tasks["report"].status == expected
    assert result.outputs.get("report", "none") == {"returns": 1, "skips": None, "fails": "none"}[end]


@pytest.mark.parametrize(
    ("fails", "on_failure", "always"), [(False, "Skipped", "Completed"), (True, "Completed", "Completed")]
)
def test_run_if_decides_once_all_dependencies_have_ended(
    runner: bide.Runner, fails: bool, on_failure: str, always: str
) -> None:
    workflow = bide.Workflow(
        "w",
        [
            named("a", fails=fails),
            named("b"),
            named("alarm", depends_on=["a", "b"], run_if="failed"),
            named("clean", depends_on=["a", "b"], run_if="done"),
        ],
    )
    result = runner.get(finished(runner, workflow))
    assert result.tasks["alarm"].status == on_failure
    assert result.tasks["clean"].status == always
    assert result.status == ("Failed" if fails else "Completed")


def finished(runner: bide.Runner, workflow: bide.Workflow) -> str:
    handle = runner.submit(workflow)
    with contextlib.suppress(bide.RunFailed):
        handle.result(30)
    return handle.id


def test_an_alarm_sees_an_earlier_failure_through_skipped_tasks(runner: bide.Runner) -> None:
    workflow = bide.Workflow(
        "w",
        [
            named("bad", fails=True),
            named("between", depends_on="bad"),
            named("alarm", depends_on="between", run_if="failed"),
        ],
    )
    assert runner.get(finished(runner, workflow)).tasks["alarm"].status is Status.Completed


def test_a_dependency_that_may_fail_gives_the_default(runner: bide.Runner) -> None:
    @bide.task
    def bad() -> int:
        raise ValueError

    @bide.task
    def good() -> int:
        return 1

    @bide.task(run_if="done")
    def report(bad: int | None = None, good: int | None = None) -> list[int | None]:
        return [bad, good]

    assert runner.get(finished(runner, bide.Workflow("w", [bad, good, report])))["report"] == [None, 1]

    @bide.task(run_if="done")
    def careless(bad: int) -> None: ...

    with pytest.raises(bide.DefinitionError, match=r"'bad'.*default"):
        bide.Workflow("w", [bad, careless])


def test_skip_skips_the_task_and_its_dependents_without_failing_the_run(runner: bide.Runner) -> None:
    @bide.task(retry=bide.Retry())
    def check() -> int:
        raise bide.Skip("nothing new since yesterday")

    workflow = bide.Workflow(
        "w",
        [
            check,
            named("after", depends_on="check"),
            named("alarm", depends_on="check", run_if="failed"),
            named("other"),
        ],
    )
    result = runner.run(workflow)
    assert result.status is bide.RunStatus.Completed
    assert statuses(result) == {
        "check": Status.Skipped,
        "after": Status.Skipped,
        "alarm": Status.Skipped,
        "other": Status.Completed,
    }
    assert "nothing new since yesterday" in (result.tasks["check"].blocked_by or "")
    assert result.tasks["after"].blocked_by == "check"


def test_fail_fast_starts_only_tasks_that_follow_failures(store: str) -> None:
    entered, go = threading.Event(), threading.Event()

    @bide.task
    def bad() -> None:
        entered.wait(30)
        raise ValueError

    @bide.task
    def running() -> str:
        entered.set()
        go.wait(30)
        return "finished"

    workflow = bide.Workflow(
        "w",
        [
            bad,
            running,
            named("after", depends_on="running"),
            named("summary", depends_on="running", run_if="none_failed"),
            named("alarm", depends_on="bad", run_if="failed"),
            named("clean", depends_on=["after"], run_if="done"),
        ],
        fail_fast=True,
    )
    with bide.Runner(store, slots=2) as runner:
        handle = runner.submit(workflow)
        while runner.get(handle.id).tasks["alarm"].status is not Status.Completed:
            time.sleep(0.001)
        go.set()
        with pytest.raises(bide.RunFailed):
            handle.result(30)
        result = runner.get(handle.id)
    assert statuses(result) == {
        "bad": Status.Failed,
        "running": Status.Completed,
        "after": Status.Skipped,
        "summary": Status.Skipped,
        "alarm": Status.Completed,
        "clean": Status.Completed,
    }


# --- what a caller gets --------------------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, customer: str, amount: int) -> None:
        super().__init__(f"{customer} is refused {amount}")
        self.customer = customer
        self.lock = threading.Lock()  # must not be stored


def test_the_cause_is_the_original_exception_in_the_process_that_ran_it(runner: bide.Runner) -> None:
    original = Refused("Ada", 3)

    @bide.task
    def pay() -> None:
        raise original from KeyError("account")

    handle = runner.submit(bide.Workflow("w", [pay, named("bad", fails=True, depends_on="pay", run_if="failed")]))
    with pytest.raises(bide.RunFailed, match=r"'w'.*'pay'.*Ada is refused 3") as failed:
        handle.result()
    assert failed.value.__cause__ is original
    assert isinstance(original.__cause__, KeyError)
    assert set(failed.value.errors) == {"pay", "bad"}
    error = failed.value.errors["pay"]
    assert isinstance(error, bide.TaskFailed)
    assert error.type.endswith("Refused")
    assert error.message == "Ada is refused 3"
    assert "raise original" in error.traceback
    assert [cause.type for cause in error.causes] == ["KeyError"]
    result = result_of(failed.value)
    assert result.status is bide.RunStatus.Failed
    assert result.error is not None
    assert result.error.task == "pay"
    with pytest.raises(bide.RunFailed):
        result.raise_for_status()
    # Reported once: from here on the store has it.
    with pytest.raises(bide.RunFailed) as again:
        handle.result()
    assert isinstance(again.value.__cause__, bide.TaskFailed)


def test_elsewhere_the_cause_is_a_task_failed(file: Path) -> None:
    script = """
    class Refused(Exception):
        pass

    @bide.task
    def pay() -> None:
        error = Refused("Ada")
        error.add_note("she has no account")
        raise error

    with bide.Runner(db) as runner:
        try:
            runner.run(bide.Workflow("w", [pay]), key="k")
        except bide.RunFailed as failed:
            say(type(failed.__cause__).__name__)
    """
    assert ran(script, file) == ["Refused"]
    assert ran(script, file) == ["TaskFailed"]
    with bide.Runner(file) as reader:
        result = reader.get("k")
        assert result.status is bide.RunStatus.Failed  # get never raises
        assert result.error is not None
        assert result.error.type == "__main__.Refused"
        assert result.error.notes == ("she has no account",)
        with pytest.raises(bide.RunFailed) as failed:
            result.raise_for_status()
        assert isinstance(failed.value.__cause__, bide.TaskFailed)
    assert ledger(file) == []


def test_the_first_committed_failure_is_the_cause_and_errors_has_all(store: str) -> None:
    @bide.task
    def first() -> None:
        raise ValueError("first")

    @bide.task
    def second() -> None:
        raise KeyError("second")

    with bide.Runner(store, slots=1) as runner:
        failed = failing(runner, bide.Workflow("w", [first, second]))
    assert isinstance(failed.__cause__, ValueError)
    assert {name: str(error) for name, error in failed.errors.items()} == {
        "first": "task 'first': ValueError: first",
        "second": "task 'second': KeyError: 'second'",
    }


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_an_exit_in_a_body_fails_only_its_task(runner: bide.Runner, raised: BaseException) -> None:
    @bide.task
    def leaves() -> None:
        raise raised

    failed = failing(runner, bide.Workflow("w", [leaves]))
    assert failed.__cause__ is raised
    assert runner.run(bide.Workflow("v", [named("next")]))["next"] == "next"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_that_cannot_be_printed_is_still_a_failure(runner: bide.Runner) -> None:
    @bide.task
    def work() -> None:
        raise Unprintable

    failed = failing(runner, bide.Workflow("w", [work]))
    assert "Unprintable" in str(failed)
