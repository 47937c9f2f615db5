"""Combinations of waits: the first of several wins in one commit, all of several give all values, and they nest."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from processes import Child, eventually

paid, left = bide.signal("paid", int), bide.signal("left", str)


def ready(value: object, event: threading.Event) -> Any:
    return bide.until(lambda: value if event.is_set() else None, every=0.01, name="ready")


def outcome(runner: bide.Runner, body: Callable[[bide.TaskHandle], Any], *signals: tuple[str, object]) -> Any:
    """Return what a body returns that waits, with signals that are sent once it does."""

    @bide.task(name="body")
    def waits(handle: bide.TaskHandle) -> Any:
        return body(handle)

    run = runner.submit(bide.Workflow("w", [waits]))
    if signals:
        eventually(lambda: runner.get(run.id).tasks["body"].sub_status == "Deferred", "it waits")
    for name, value in signals:
        run.signal(name, value)
    return run.result(timeout=20)["body"]


def test_the_first_of_several_is_told_by_its_place(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> list[str]:
        paid_, left_, late = handle.wait_any(paid, left, bide.after(60))
        return [repr(paid_), repr(left_), repr(late)]

    assert outcome(runner, body, ("left", "gone")) == ["None", "Fired(value='gone')", "None"]


def test_the_first_of_several_is_told_by_its_name(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> str:
        first = handle.wait_any(payment=paid, escalation=bide.after(0.02))
        return f"{first.name} {first.value}"

    assert outcome(runner, body) == "escalation None"
    assert outcome(runner, lambda handle: repr(handle.wait_any(payment=bide.until(lambda: 5)))).endswith("value=5)")


def test_all_of_several_give_all_values(runner: bide.Runner) -> None:
    event = threading.Event()
    event.set()

    def by_place(handle: bide.TaskHandle) -> list[Any]:
        return list(handle.wait_all(paid, ready("yes", event), bide.after(0)))

    def by_name(handle: bide.TaskHandle) -> dict[str, Any]:
        return handle.wait_all(paid=paid, left=left)

    assert outcome(runner, by_place, ("paid", 3)) == [3, "yes", None]
    assert outcome(runner, by_name, ("left", "x"), ("paid", 4)) == {"paid": 4, "left": "x"}


def test_a_signal_for_a_loser_stays_queued(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> list[str]:
        first = handle.wait_any(paid, left)
        return [repr(first), handle.wait(left)]

    assert outcome(runner, body, ("paid", 1), ("left", "later")) == ["(Fired(value=1), None)", "later"]


def test_combinations_nest(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> str:
        return repr(handle.wait(bide.any_of(both=bide.all_of(paid, left), stop=bide.signal("stop"))))

    assert outcome(runner, body, ("left", "x"), ("paid", 4)) == "First(name='both', value=(4, 'x'))"
    assert outcome(runner, body, ("left", "x"), ("stop", None)) == "First(name='stop', value=None)"


def test_a_member_that_fails_ends_all_with_its_failure(runner: bide.Runner) -> None:
    def fails() -> None:
        raise LookupError("no such job")

    def body(handle: bide.TaskHandle) -> str:
        try:
            handle.wait_all(paid, bide.until(fails, on_error="raise"))
        except LookupError as error:
            return str(error)
        return "passed"

    assert outcome(runner, body) == "no such job"


def test_any_goes_on_with_the_others_and_raises_a_group_when_none_is_left(runner: bide.Runner) -> None:
    def fails() -> None:
        raise LookupError("no such job")

    def never() -> None:
        return None

    def goes_on(handle: bide.TaskHandle) -> str:
        return repr(handle.wait_any(bide.until(fails, on_error="raise"), paid))

    def none_left(handle: bide.TaskHandle) -> list[str]:
        try:
            handle.wait_any(
                bide.until(fails, on_error="raise"), bide.until(never, every=0.01, timeout=0.02, name="never")
            )
        except ExceptionGroup as group:
            return [type(one).__name__ for one in group.exceptions]
        return []

    assert outcome(runner, goes_on, ("paid", 2)) == "(None, Fired(value=2))"
    assert outcome(runner, none_left) == ["LookupError", "WaitTimeout"]


def test_a_combination_times_out_as_a_whole(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> str:
        try:
            handle.wait_any(paid, left, timeout=0.02)
        except bide.WaitTimeout as error:
            return str(error)
        return "passed"

    assert outcome(runner, body) == "task 'body' waited for 'any(paid, left)' until its deadline passed"


def test_a_gate_can_be_a_combination_with_a_condition(runner: bide.Runner) -> None:
    event = threading.Event()
    gate = bide.any_of(poll=ready("ready", event), ask=bide.signal("ask"))

    @bide.task(gate=gate)
    def opened(first: Annotated[bide.First, bide.Gate]) -> str:
        return f"{first.name} {first.value}"

    workflow = bide.Workflow("w", [opened])
    asked = runner.submit(workflow)
    asked.signal("ask", 1)
    assert asked.result(timeout=20)["opened"] == "ask 1"
    polled = runner.submit(workflow)
    event.set()
    assert polled.result(timeout=20)["opened"] == "poll ready"


OWNER = """
@bide.task
def waits(handle: bide.TaskHandle) -> str:
    first = handle.wait_any(paid=bide.signal("paid"), late=bide.after(3600))
    say("first", first.name, first.value)
    both = handle.wait_all(bide.signal("a"), bide.signal("b"))
    return f"{first.value} {both}"

runner = bide.Runner(db)
run = runner.submit(bide.Workflow("w", [waits]), key="run")
say("submitted")
say("ended", run.result(timeout=30).outputs)
"""


def test_a_combination_survives_kills_and_is_decided_once(file: Path) -> None:
    with Child(OWNER, file) as owner:
        owner.expect("submitted")
        with bide.Runner(file) as runner:
            eventually(lambda: runner.get("run").tasks["waits"].sub_status == "Deferred", "it waits")
            runner.signal("run", "paid", 7)
            owner.expect("first paid 7")
            eventually(lambda: "all(a, b)" in str(runner.get("run").tasks["waits"].blocked_by), "it waits for both")
            runner.signal("run", "a", 1)
        owner.kill()
    with Child(OWNER, file) as owner:
        # The body is not entered again before what it waits for has come.
        with bide.Runner(file) as runner:
            runner.signal("run", "b", 2)
        owner.expect("first paid 7")
        assert owner.after("ended") == "{'waits': '7 (1, 2)'}"


def test_bad_combinations_are_refused() -> None:
    with pytest.raises(bide.DefinitionError, match="any_of takes at least one wait"):
        bide.any_of()
    with pytest.raises(bide.DefinitionError, match=r"wrap it in bide.until\(\.\.\.\)"):
        bide.all_of(lambda: True)  # type: ignore[call-overload]
    with pytest.raises(bide.DefinitionError, match="either by position or by keyword"):
        bide.any_of(paid, other=left)  # type: ignore[call-overload]


def test_a_condition_with_a_timeout_of_the_wait_is_polled(runner: bide.Runner) -> None:
    original = ValueError("no")

    def raises() -> None:
        raise original

    def body(handle: bide.TaskHandle) -> list[object]:
        polls = iter([None, None, "ready"])
        value = handle.wait(bide.until(lambda: next(polls), every=0.01), timeout=20)
        with pytest.raises(bide.WaitTimeout, match="never"):
            handle.wait(bide.until(lambda: None, every=0.01, name="never"), timeout=0.02)
        with pytest.raises(ValueError, match="no") as raised:
            handle.wait(bide.until(raises, on_error="raise"), timeout=20)
        return [value, raised.value is original]

    assert outcome(runner, body) == ["ready", True]


FLAKY: dict[str, Callable[[bide.TaskHandle, bide.Until[Any], bide.Until[Any]], Any]] = {
    "wait": lambda handle, flaky, _: handle.wait(flaky, timeout=0.05),
    "wait_all": lambda handle, _, flaky: handle.wait_all(flaky, bide.after(60)),
    "wait_any": lambda handle, _, flaky: handle.wait_any(flaky),
}


@pytest.mark.parametrize("how", FLAKY)
def test_a_deadline_is_told_whatever_the_condition_raised_before(runner: bide.Runner, how: str) -> None:
    def raises() -> None:
        raise ValueError

    def body(handle: bide.TaskHandle) -> str:
        flaky: bide.Until[None] = bide.until(raises, every=0.01, on_error="ignore")
        limited: bide.Until[None] = bide.until(raises, every=0.01, on_error="ignore", timeout=0.05)
        try:
            FLAKY[how](handle, flaky, limited)
        except ExceptionGroup as group:
            return type(group.exceptions[0]).__name__
        except Exception as error:  # noqa: BLE001 - whichever it is
            return type(error).__name__
        return "nothing"

    assert outcome(runner, body) == "WaitTimeout"
