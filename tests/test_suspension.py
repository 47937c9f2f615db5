"""What `close()` does to a body that waits: `Suspended`, `finally`, and resuming from the journal."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import eventually

Body = Callable[[bide.TaskHandle], Any]


def suspended_and_resumed(file: Path, body: Body, flag: threading.Event) -> Any:
    """Run a body until it waits, close its runner, and let another one finish it; return what it returned."""
    workflow = bide.Workflow("w", [bide.task(body, name="work")])
    with bide.Runner(file) as first:
        handle = first.submit(workflow, key="k")
        eventually(lambda: handle._snapshot().tasks["work"].sub_status is bide.SubStatus.Deferred, "the body waits")
    assert handle.status() is bide.RunStatus.Running
    flag.set()
    with bide.Runner(file) as second:
        result = second.run(workflow, key="k", timeout=30)
    assert result.tasks["work"].attempts == 1
    return result["work"]


def test_finally_and_with_release_local_resources(file: Path) -> None:
    flag = threading.Event()
    log: list[str] = []

    @contextmanager
    def resource() -> Iterator[None]:
        log.append("open")
        try:
            yield
        finally:
            log.append("close")

    def work(handle: bide.TaskHandle) -> str:
        with resource():
            try:
                handle.defer_until(flag.is_set, 5)
            finally:
                log.append(f"suspending {handle.suspending}")
        return "done"

    assert suspended_and_resumed(file, work, flag) == "done"
    assert log == ["open", "suspending True", "close", "open", "suspending False", "close"]


def test_while_it_propagates_every_call_of_the_handle_raises_it_again(file: Path) -> None:
    flag = threading.Event()
    log: list[str] = []

    def work(handle: bide.TaskHandle) -> str:
        try:
            handle.defer_until(flag.is_set, 5)
        except BaseException:
            for call in (lambda: handle.sleep(0), lambda: handle.step(log.append, "no"), handle.now):
                try:
                    call()
                except bide.Suspended:
                    log.append("again")
            log.append(handle.task_name)  # calls that only read still work
            raise
        return "done"

    assert suspended_and_resumed(file, work, flag) == "done"
    assert log == ["again"] * 3 + ["work"]


@pytest.mark.parametrize("ends", ["returns", "raises", "skips"])
def test_the_outcome_of_a_suspended_body_is_discarded(file: Path, ends: str) -> None:
    flag = threading.Event()

    def work(handle: bide.TaskHandle, context: bide.Context) -> str:
        try:
            handle.defer_until(flag.is_set, 5)
        except BaseException as error:
            context["lost"] = True
            if ends == "raises":
                raise ValueError("of the suspension") from error
            if ends == "skips":
                raise bide.Skip from error
            return "of the suspension"
        return f"done {list(context)}"

    assert suspended_and_resumed(file, work, flag) == "done []"  # type: ignore[arg-type]


def test_a_suspended_step_before_the_wait_is_not_done_again(file: Path) -> None:
    flag = threading.Event()
    done: list[str] = []

    def pay() -> str:
        done.append("pay")
        return "receipt"

    def work(handle: bide.TaskHandle) -> str:
        receipt = handle.step(pay)
        handle.defer_until(flag.is_set, 5)
        return receipt

    assert suspended_and_resumed(file, work, flag) == "receipt"
    assert done == ["pay"]


@pytest.mark.parametrize("wait", ["sleep", "gate-like condition"])
def test_every_kind_of_wait_is_suspended(file: Path, wait: str) -> None:
    flag = threading.Event()
    entered: list[int] = []

    def work(handle: bide.TaskHandle) -> str:
        entered.append(1)
        if wait == "sleep":
            handle.sleep(0.5)
        else:
            handle.wait(bide.until(flag.is_set, every=60))  # the interval does not end it
        return "done"

    assert suspended_and_resumed(file, work, flag) == "done"
    assert entered == [1, 1]


def test_suspension_is_no_failure_and_no_retry(file: Path) -> None:
    flag = threading.Event()

    def work(handle: bide.TaskHandle) -> int:
        handle.defer_until(flag.is_set, 5)
        return handle.attempt

    assert suspended_and_resumed(file, work, flag) == 1


def test_suspended_is_not_caught_by_except_exception() -> None:
    assert not issubclass(bide.Suspended, Exception)
    assert not issubclass(bide.Cancelled, Exception)
