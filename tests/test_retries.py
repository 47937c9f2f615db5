"""A failed task is retried as its `Retry` says: how often, when, and with which part of its journal."""

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
