"""A failed task is retried as its `Retry` says: how often, when, and with which part of its journal."""

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

import bide
from failing_runs import failing, result_of
from processes import Child

Status = bide.TaskStatus


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
def test_only_exceptions_that_on_names_are_retried(
    runner: bide.Runner, on: Any, raised: type[BaseException], attempts: int
) -> None:
    @bide.task(retry=bide.Retry(attempts=2, delay=0, on=on))
    def fails() -> None:
        raise raised("x")

    assert result_of(failing(runner, bide.Workflow("w", [fails]))).tasks["fails"].attempts == attempts


class Rejected(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def is_passing(error: Exception) -> bool:
    return error.status >= 500  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(("status", "attempts"), [(503, 3), (404, 1)])
def test_a_function_decides_what_is_retried(runner: bide.Runner, status: int, attempts: int) -> None:
    @bide.task(retry=bide.Retry(attempts=3, delay=0, on=is_passing), timeout=60)
    def fails() -> None:
        raise Rejected(status)

    assert result_of(failing(runner, bide.Workflow("w", [fails]))).tasks["fails"].attempts == attempts


def test_a_function_decides_about_the_tries_of_a_step(runner: bide.Runner) -> None:
    tries: list[int] = []

    def call() -> None:
        tries.append(1)
        raise Rejected(503 if len(tries) < 3 else 404)

    @bide.task
    def work(handle: bide.TaskHandle) -> str:
        with pytest.raises(Rejected, match="404"):
            handle.step(call, retry=bide.Retry(attempts=9, delay=0, on=is_passing))
        return "refused"

    assert runner.run(bide.Workflow("w", [work]))["work"] == "refused"
    assert len(tries) == 3


@pytest.mark.parametrize("where", ["body", "step", "gate"])
def test_a_function_that_raises_fails_the_attempt_and_is_named(runner: bide.Runner, where: str) -> None:
    retry = bide.Retry(attempts=3, delay=0, on=is_passing)

    def raises() -> bool:
        raise ValueError("no status")

    def body(handle: bide.TaskHandle) -> None:
        if where == "step":
            handle.step(raises, retry=retry)
        raises()

    gate = bide.until(raises, every=0.001, on_error="raise") if where == "gate" else None
    work = bide.task(body, name="work", retry=None if where == "step" else retry, gate=gate)
    failed = failing(runner, bide.Workflow("w", [work]))
    error = result_of(failed).tasks["work"].error
    assert "Retry(on=is_passing) raised AttributeError" in str(error)
    assert "asked about ValueError" in str(error)
    assert result_of(failed).tasks["work"].attempts == 1


@pytest.mark.parametrize("raised", [bide.WaitTimeout, bide.SerializationError, bide.Skip, KeyboardInterrupt])
def test_a_function_is_asked_about_errors_but_no_skip_or_exit(runner: bide.Runner, raised: type[BaseException]) -> None:
    asked: list[type[Exception]] = []

    def on(error: Exception) -> bool:
        asked.append(type(error))
        return False

    @bide.task(retry=bide.Retry(attempts=2, delay=0, on=on))
    def ends() -> None:
        raise raised("x")

    handle = runner.submit(bide.Workflow("w", [ends]))
    with contextlib.suppress(bide.RunFailed):
        handle.result(30)
    assert asked == [one for one in [raised] if one not in {bide.Skip, KeyboardInterrupt}]


@pytest.mark.parametrize(("covers", "attempts"), [(True, 2), (False, 1)])
def test_a_function_decides_about_timeouts(runner: bide.Runner, covers: bool, attempts: int) -> None:
    @bide.task(retry=bide.Retry(attempts=2, delay=0, on=lambda error: covers), timeout=0.02)
    def slow() -> None:
        time.sleep(0.1)

    assert result_of(failing(runner, bide.Workflow("w", [slow]))).tasks["slow"].attempts == attempts


def test_a_retry_without_a_limit_goes_on_until_it_succeeds(runner: bide.Runner) -> None:
    @bide.task(retry=bide.Retry(attempts=None, delay=0))
    def flaky(handle: bide.TaskHandle) -> int:
        if handle.attempt < 200:
            raise ConnectionError
        return handle.attempt

    assert runner.run(bide.Workflow("w", [flaky]))["flaky"] == 200


async def coroutine(_: Exception) -> bool:
    return True


@pytest.mark.parametrize(
    ("on", "says"), [(coroutine, "a coroutine function"), (int, "exception classes, or a function"), (3, "not 3")]
)
def test_what_cannot_decide_about_a_retry_is_refused(on: Any, says: str) -> None:
    with pytest.raises(bide.DefinitionError, match=says):
        bide.Retry(on=on)


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
    # The caught failure in the middle is replayed; the step that failed last is done again.
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
