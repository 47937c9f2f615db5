"""What a failed body means to its run and its caller: retries, `run_if`, `Skip`, `fail_fast`, `RunFailed`."""

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import Child, ledger, ran

Status = bide.TaskStatus


def failing(runner: bide.Runner, workflow: bide.Workflow, inputs: dict[str, Any] | None = None) -> bide.RunFailed:
    with pytest.raises(bide.RunFailed) as failed:
        runner.run(workflow, inputs)
    return failed.value


def result_of(failed: bide.RunFailed) -> bide.RunResult:
    assert isinstance(failed.result, bide.RunResult)
    return failed.result


def statuses(result: bide.RunResult) -> dict[str, bide.TaskStatus]:
    return {name: task.status for name, task in result.tasks.items()}


# --- retry ---------------------------------------------------------------------------------------------------------


def test_a_task_is_tried_again_as_often_as_its_retry_says(runner: bide.Runner) -> None:
    attempts: list[int] = []

    @bide.task(retry=bide.Retry(attempts=3, delay=0))
    def flaky(handle: bide.TaskHandle) -> int:
        attempts.append(handle.attempt)
        if handle.attempt < 3:
            raise ConnectionError("not yet")
        return handle.attempt

    result = runner.run(bide.Workflow("w", [flaky]))
    assert result["flaky"] == 3
    assert attempts == [1, 2, 3]
    assert result.tasks["flaky"].attempts == 3


def test_without_a_retry_there_is_one_attempt(runner: bide.Runner) -> None:
    attempts: list[int] = []

    @bide.task
    def fails() -> None:
        attempts.append(1)
        raise ConnectionError

    assert result_of(failing(runner, bide.Workflow("w", [fails]))).tasks["fails"].attempts == 1
    assert attempts == [1]


def test_the_last_attempts_failure_is_the_tasks(runner: bide.Runner) -> None:
    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    def fails(handle: bide.TaskHandle) -> None:
        raise ValueError(f"attempt {handle.attempt}")

    failed = failing(runner, bide.Workflow("w", [fails]))
    assert str(failed.__cause__) == "attempt 2"
    assert result_of(failed).tasks["fails"].attempts == 2


@pytest.mark.parametrize(
    ("on", "raised", "attempts"),
    [
        (ConnectionError, ConnectionError, 2),
        (ConnectionError, ConnectionResetError, 2),
        (ConnectionError, ValueError, 1),
        ((ValueError, KeyError), KeyError, 2),
        (Exception, bide.WaitTimeout, 1),
        (bide.WaitTimeout, bide.WaitTimeout, 2),
        (TimeoutError, bide.WaitTimeout, 1),
        (Exception, bide.SerializationError, 1),
        ((Exception, bide.SerializationError), bide.SerializationError, 2),
        (Exception, SystemExit, 1),
    ],
)
def test_only_what_on_names_is_retried(
    runner: bide.Runner, on: Any, raised: type[BaseException], attempts: int
) -> None:
    @bide.task(retry=bide.Retry(attempts=2, delay=0, on=on))
    def fails() -> None:
        raise raised("x")

    assert result_of(failing(runner, bide.Workflow("w", [fails]))).tasks["fails"].attempts == attempts


@pytest.mark.parametrize(("on", "attempts"), [(Exception, 1), (bide.WaitTimeout, 2)])
def test_a_real_wait_timeout_is_retried_only_if_named_and_waits_anew(
    runner: bide.Runner, on: type[Exception], attempts: int
) -> None:
    polls: list[int] = []

    @bide.task(retry=bide.Retry(attempts=2, delay=0, on=on))
    def waits(handle: bide.TaskHandle) -> None:
        def never() -> bool:
            polls.append(handle.attempt)
            return False

        handle.defer_until(never, poll_interval_ms=10, timeout=0.05)

    failed = failing(runner, bide.Workflow("w", [waits]))
    assert isinstance(failed.__cause__, bide.WaitTimeout)
    assert result_of(failed).tasks["waits"].attempts == attempts
    assert polls.count(attempts) > 2  # the last attempt had a deadline of its own


def test_a_retry_waits_for_its_delay_and_holds_no_slot_meanwhile(store: str) -> None:
    times: list[float] = []
    order: list[str] = []

    @bide.task(retry=bide.Retry(attempts=3, delay=0.1, backoff=2, jitter=0))
    def flaky() -> None:
        times.append(time.monotonic())
        order.append("flaky")
        if len(times) < 3:
            raise OSError

    @bide.task
    def neighbour() -> None:
        order.append("neighbour")

    with bide.Runner(store, slots=1) as runner:
        runner.run(bide.Workflow("w", [flaky, neighbour]))
    assert 0.1 <= times[1] - times[0] < 0.2
    assert 0.2 <= times[2] - times[1] < 0.35
    assert order == ["flaky", "neighbour", "flaky", "flaky"]


def test_a_retrys_delay_is_stored_and_not_begun_again_after_a_crash(file: Path) -> None:
    script = """
    @bide.task(retry=bide.Retry(attempts=2, delay=1.5, jitter=0))
    def flaky(handle: bide.TaskHandle) -> int:
        say("attempt", handle.attempt, time.time())
        if handle.attempt == 1:
            raise OSError
        return handle.attempt

    @bide.task(gate=bide.until(lambda: True, every=0.01))
    def neighbour() -> None: ...

    with bide.Runner(db) as runner:
        handle = runner.submit(bide.Workflow("w", [flaky]), key="k")
        while "stay" in words:
            if runner.get("k").tasks["flaky"].attempts == 1 and runner.get("k").tasks["flaky"].error:
                say("waits to retry")
                stay()
            time.sleep(0.002)
        say(handle.result()["flaky"])
    """
    with Child(script, file, "stay") as child:
        first = float(child.next().removeprefix("attempt 1 "))
        child.expect("waits to retry")
        child.kill()
    with Child(script, file) as child:
        second = float(child.next().removeprefix("attempt 2 "))
        assert child.join()[-1] == "2"
    assert first + 1.5 - 0.01 <= second <= first + 2.1


def test_a_retry_keeps_the_journal_less_the_failed_entries_at_its_end(runner: bide.Runner) -> None:
    done: list[str] = []

    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    def work(handle: bide.TaskHandle) -> None:
        handle.step(done.append, "paid", name="pay")
        try:
            handle.step(fails, name="caught")
        except ValueError:
            done.append("caught")
        handle.step(done.append, "sent", name="send")
        handle.step(fails, name="last")

    def fails() -> None:
        done.append("failed")
        if done.count("failed") < 3:
            raise ValueError

    runner.run(bide.Workflow("w", [work]))
    # The caught failure stands in the middle and is replayed; the one at the end is done again.
    assert done == ["paid", "failed", "caught", "sent", "failed", "caught", "failed"]


def test_a_failed_attempts_context_changes_are_discarded(runner: bide.Runner) -> None:
    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    def work(context: bide.Context, handle: bide.TaskHandle) -> list[str]:
        seen = list(context)
        context[f"attempt {handle.attempt}"] = True
        if handle.attempt == 1:
            raise ValueError
        return seen

    result = runner.run(bide.Workflow("w", [work]))
    assert result["work"] == []
    assert result.context.to_dict() == {"attempt 2": True}


# --- what follows a failure ----------------------------------------------------------------------------------------


def named(name: str, fails: bool = False, **options: Any) -> Callable[..., Any]:
    def body() -> str:
        if fails:
            raise ValueError(name)
        return name

    return bide.task(body, name=name, **options)


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


def test_an_alarm_sees_a_failure_further_up_through_what_was_skipped(runner: bide.Runner) -> None:
    workflow = bide.Workflow(
        "w",
        [
            named("bad", fails=True),
            named("between", depends_on="bad"),
            named("alarm", depends_on="between", run_if="failed"),
        ],
    )
    assert runner.get(finished(runner, workflow)).tasks["alarm"].status is Status.Completed


def test_what_may_not_have_succeeded_gives_its_default(runner: bide.Runner) -> None:
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


def test_fail_fast_starts_nothing_more_but_what_follows_failures(store: str) -> None:
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
        "alarm": Status.Completed,
        "clean": Status.Completed,
    }


# --- what a caller gets --------------------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, customer: str, amount: int) -> None:
        super().__init__(f"{customer} is refused {amount}")
        self.customer = customer
        self.lock = threading.Lock()  # not to be stored


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
    # Told once: from here on it is what the store has.
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
def test_an_exit_in_a_body_fails_its_task_and_nothing_else(runner: bide.Runner, raised: BaseException) -> None:
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


# --- what is stored of a failure -----------------------------------------------------------------------------------


class ApiError(Exception):
    """As HTTP libraries have them: what matters is in attributes."""

    def __init__(self, message: str, response: object) -> None:
        super().__init__(message)
        self.response = response

    def __getattr__(self, name: str) -> object:
        raise KeyError(name)  # also when Python looks for `__notes__`


class Quiet(ApiError):
    """One whose attributes are nobody's business."""

    __bide_rebuild__ = False


def test_type_message_and_traceback_are_kept_of_an_exception_whose_getattr_raises(runner: bide.Runner) -> None:
    @bide.task
    def call() -> None:
        raise ApiError("quota exceeded", {"status": 429})

    error = failing(runner, bide.Workflow("w", [call])).errors["call"]
    assert isinstance(error, bide.TaskFailed)
    assert error.type.endswith("ApiError")
    assert error.message == "quota exceeded"
    assert "in call" in error.traceback


HIDDEN = ["s3cr" + "et"]


@pytest.mark.parametrize("kind", [ApiError, Quiet])
@pytest.mark.parametrize("where", ["body", "gate", "step", "condition"])
def test_attributes_are_stored_only_where_the_exception_is_raised_again(
    file: Path, where: str, kind: type[ApiError]
) -> None:
    def call() -> bool:
        raise kind("denied", HIDDEN[0])  # captured, it would count as an argument of the step, which is described

    def body(handle: bide.TaskHandle) -> None:
        if where == "step":
            handle.step(call)
        elif where == "condition":
            handle.defer_until(call, on_error="raise")
        else:
            call()

    gate = bide.until(call, every=0.01, on_error="raise") if where == "gate" else None
    with bide.Runner(file) as runner:
        failing(runner, bide.Workflow("w", [bide.task(body, gate=gate)]))
    stored = b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))
    assert b"denied" in stored
    assert (HIDDEN[0].encode() in stored) == (where in {"step", "condition"} and kind is ApiError)


REPLAYED = """
import types

class ApiError(Exception):
    def __init__(self, message, *, response):
        super().__init__(message)
        self.response = response

def call():
    raise ApiError("down", response=eval(words[0]))

@bide.task
def body(handle: bide.TaskHandle) -> None:
    try:
        handle.step(call)
    except Exception as error:
        say(type(error).__name__, getattr(error, "response", "-"), error)
    if "die" in words:
        die()

with bide.Runner(db) as runner:
    runner.run(bide.Workflow("w", [body]), key="k")
"""


@pytest.mark.parametrize(
    ("response", "replayed"),
    [
        ("503", "ApiError 503 down"),
        ("types.SimpleNamespace(status=503)", "TaskFailed - __main__.ApiError: down"),
    ],
)
def test_a_replayed_failure_has_all_its_attributes_or_is_a_task_failed(
    file: Path, response: str, replayed: str
) -> None:
    with Child(REPLAYED, file, response, "die") as child:
        assert child.next().startswith("ApiError ")
        child.join(-signal.SIGKILL)
    assert ran(REPLAYED, file, response) == [replayed]


def test_a_gates_failure_is_retried_by_its_class_also_if_that_cannot_be_rebuilt(runner: bide.Runner) -> None:
    asked: list[int] = []

    def flaky() -> bool:
        asked.append(1)
        if len(asked) == 1:
            raise ApiError("down", object())
        return True

    retry = bide.Retry(attempts=2, delay=0, on=ApiError)
    gate = bide.until(flaky, every=0.01, on_error="raise")

    @bide.task(retry=retry, gate=gate)
    def work() -> int:
        return 1

    assert runner.run(bide.Workflow("w", [work]))["work"] == 1
    assert len(asked) == 2


@pytest.mark.parametrize("end", ["completed", "skipped"])
def test_the_error_of_an_earlier_attempt_is_not_that_of_a_task_that_did_not_fail(store: str, end: str) -> None:
    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    def flaky(handle: bide.TaskHandle) -> int:
        if handle.attempt == 1:
            raise ConnectionError("not yet")
        if end == "skipped":
            raise bide.Skip("no need")
        return 1

    @bide.task(depends_on="flaky", run_if="done")
    def bad() -> None:
        raise ValueError("bad")

    with bide.Runner(store) as runner:
        failed = failing(runner, bide.Workflow("w", [flaky, bad]))
        assert set(failed.errors) == {"bad"}
        for result in (result_of(failed), runner.get(result_of(failed).id)):
            assert result.tasks["flaky"].attempts == 2
            assert result.tasks["flaky"].error is None
            assert result.error is not None
            assert result.error.task == "bad"


def test_the_error_that_an_older_version_left_on_a_completed_task_is_not_shown(file: Path) -> None:
    with bide.Runner(file) as runner:
        runner.run(bide.Workflow("w", [named("task")]), key="k")
    failure = '{"kind": "error", "type": "OSError", "message": "first attempt"}'
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute("UPDATE task SET failure = ?", [failure]).rowcount == 1
    with bide.Runner(file) as runner:
        assert runner.get("k").tasks["task"].error is None


def test_between_two_attempts_the_error_of_the_first_is_shown(runner: bide.Runner) -> None:
    go = threading.Event()

    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    def flaky(handle: bide.TaskHandle) -> None:
        if handle.attempt == 1:
            raise ConnectionError("not yet")
        go.wait(30)

    handle = runner.submit(bide.Workflow("w", [flaky]))
    while (task := runner.get(handle.id).tasks["flaky"]).attempts < 2:
        time.sleep(0.001)
    go.set()
    assert task.error is not None
    assert task.error.message == "not yet"
    assert handle.result(30).tasks["flaky"].error is None
