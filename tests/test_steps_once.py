"""Steps with `once=True`, which are called at most once, and `bide.Unrecorded`."""

import threading
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import Child, ledger, ran


def within(runner: bide.Runner, body: Any, **options: Any) -> Any:
    """Run one task with this body and return its result."""
    return runner.run(bide.Workflow("w", [bide.task(body, name="work", **options)]), timeout=60)["work"]


PAY = """
def pay(amount):
    note("pay", amount)
    if "die" in words:
        die()
    return f"paid {amount}"

@bide.task
def work(handle: bide.TaskHandle):
    note("enter")
    try:
        return handle.step(pay, 5, once=True)
    except bide.StepInterrupted as error:
        say("interrupted:", error)
        return handle.step(pay, 5, key="by hand", once=True) if "again" in words else "checked by a person"

with bide.Runner(db) as runner:
    say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
"""


def test_a_step_that_was_interrupted_is_not_called_again_and_the_body_decides(file: Path) -> None:
    ran(PAY, file, "die", code=-9)
    interrupted, result = ran(PAY, file)
    assert result == "checked by a person"
    assert ledger(file).count("pay 5") == 1
    assert "task 'work': the step 'pay' was begun and has no result" in interrupted
    assert "find out whether it took effect" in interrupted


def test_a_body_may_call_it_again_under_another_key(file: Path) -> None:
    ran(PAY, file, "die", code=-9)
    assert ran(PAY, file, "again")[-1] == "paid 5"
    assert ledger(file).count("pay 5") == 2


def test_that_it_was_interrupted_is_recorded(file: Path) -> None:
    for words in [("die",), ("again", "die")]:
        ran(PAY, file, *words, code=-9)
    lines = ran(PAY, file)
    assert lines[-1] == "checked by a person"
    assert ledger(file).count("enter") == 3


def test_its_failure_survives_a_retry_of_the_task_and_a_fresh_journal_drops_it(runner: bide.Runner) -> None:
    for fresh, calls_in_all in [(False, 1), (True, 3)]:
        calls: list[int] = []

        def pay(calls: list[int] = calls) -> None:
            calls.append(1)
            msg = "declined"
            raise RuntimeError(msg)

        def body(handle: bide.TaskHandle) -> None:
            handle.step(pay, name="pay", once=True)

        with pytest.raises(bide.RunFailed) as failed:
            within(runner, body, retry=bide.Retry(attempts=3, delay=0, fresh=fresh))
        assert isinstance(failed.value.__cause__, RuntimeError)
        assert len(calls) == calls_in_all


def test_a_step_whose_attempt_has_timed_out_in_the_middle_is_interrupted(store: str) -> None:
    go_on, calls = threading.Event(), []

    def pay() -> str:
        calls.append(1)
        assert go_on.wait(30)
        return "paid"

    def work(handle: bide.TaskHandle) -> str:
        if handle.attempt == 1:
            threading.Timer(0.2, go_on.set).start()
        try:
            return handle.step(pay, once=True)
        except bide.StepInterrupted:
            return "interrupted"

    with bide.Runner(store) as runner:
        retry = bide.Retry(attempts=2, delay=0, on=bide.TaskTimeout)
        assert within(runner, work, timeout=0.05, retry=retry) == "interrupted"
    assert calls == [1]


def test_unrecorded_raises_its_exception_or_returns_its_value(runner: bide.Runner) -> None:
    class ApprovalNeeded(Exception):
        pass

    needed = ApprovalNeeded("by a person")

    def raises() -> str:
        raise bide.Unrecorded(needed)

    def returns() -> int:
        raise bide.Unrecorded(5)

    def of_a_class() -> None:
        raise bide.Unrecorded(KeyError)

    def work(handle: bide.TaskHandle) -> int:
        for once in (False, True):
            with pytest.raises(ApprovalNeeded) as raised:
                handle.step(raises, once=once)
            assert raised.value is needed
        with pytest.raises(KeyError):
            handle.step(of_a_class)
        return handle.step(returns)

    assert within(runner, work) == 5


UNRECORDED = """
class ApprovalNeeded(Exception):
    pass

def ask():
    note("ask")
    if "approved" not in words:
        raise bide.Unrecorded(ApprovalNeeded())
    return "approved"

@bide.task
def work(handle: bide.TaskHandle):
    try:
        return handle.step(ask, once=bool(int(words[0])))
    except ApprovalNeeded:
        handle.step(lambda: None, name="after")
        say("needed")
        stay()

with bide.Runner(db) as runner:
    say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
"""


@pytest.mark.parametrize("once", ["0", "1"])
def test_an_unrecorded_step_runs_again_when_its_body_is_entered_again(file: Path, once: str) -> None:
    with Child(UNRECORDED, file, once) as child:
        child.expect("needed")
    assert ran(UNRECORDED, file, once, "approved") == ["approved"]
    assert ledger(file) == ["ask", "ask"]


REPLAYS = """
seen = []

@bide.task
def work(handle: bide.TaskHandle):
    seen.append(handle.is_replaying)
    handle.step(lambda: note("first"), name="first")
    seen.append(handle.is_replaying)
    handle.step(lambda: seen.append(handle.is_replaying), name="second", key="k")
    seen.append(handle.is_replaying)
    if not words:
        die()
    handle.sleep(0.001)
    handle.step(lambda: seen.append(handle.is_replaying), name="third")
    seen.append(handle.is_replaying)

with bide.Runner(db) as runner:
    runner.run(bide.Workflow("w", [work]), key="k")
    say(*seen)
"""


def test_a_body_replays_until_it_comes_to_the_end_of_its_records(file: Path) -> None:
    ran(REPLAYS, file, code=-9)
    assert ran(REPLAYS, file, "on") == ["True True False False False"]
