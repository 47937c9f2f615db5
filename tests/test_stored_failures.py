"""What is stored of a failure, and what is shown of it later and in other processes."""

import contextlib
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

import bide
from failing_runs import failing, named, result_of
from processes import Child, ran

Status = bide.TaskStatus


class ApiError(Exception):
    """An error with its information in attributes, as HTTP libraries have."""

    def __init__(self, message: str, response: object) -> None:
        super().__init__(message)
        self.response = response

    def __getattr__(self, name: str) -> object:
        raise KeyError(name)  # also when Python looks for `__notes__`


class Quiet(ApiError):
    """An exception whose attributes are private."""

    __bide_rebuild__ = False


def test_an_exception_whose_getattr_raises_keeps_its_message_and_traceback(runner: bide.Runner) -> None:
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


def test_a_gate_failure_is_retried_by_class_even_if_it_cannot_be_rebuilt(runner: bide.Runner) -> None:
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
def test_a_task_that_did_not_fail_has_no_error_of_an_earlier_attempt(store: str, end: str) -> None:
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


def test_an_error_left_on_a_completed_task_by_an_old_version_is_not_shown(file: Path) -> None:
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
