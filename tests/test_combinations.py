"""Combinations of waits: the first of several wins in one commit, all of several give all values, and they nest."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from processes import Child, eventually, killed, ran

KINDS = ("memory", "sqlite", "postgres")

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


def test_every_kind_of_wait_decides_any_and_is_one_of_all(runner: bide.Runner) -> None:
    asked = bide.request("asked", int, int)

    @bide.task
    def inner() -> int:
        return 5

    @bide.task
    def waits(handle: bide.TaskHandle) -> list[Any]:
        callback, child = handle.callback("answer", int), handle.start(bide.Workflow("inner", [inner]))
        runner.resolve(callback.token, 6)
        now = datetime.now(UTC)
        coming: dict[str, bide.Wait[Any]] = {
            "until": bide.until(lambda: 3), "after": bide.after(0), "at": bide.at(now), "signal": paid,
            "request": asked, "callback": callback, "child": child,
            "all": bide.all_of(bide.after(0), bide.until(lambda: 4)), "any": bide.any_of(left, bide.after(0)),
        }  # fmt: skip
        never: list[bide.Wait[Any]] = [
            bide.until(lambda: None, every=60), bide.after(60), bide.at(now + timedelta(hours=1)), left,
            bide.request("nobody"), handle.callback("nobody"), bide.all_of(bide.after(0), left),
        ]  # fmt: skip
        shown = []
        for one in coming.values():
            *others, fired = handle.wait(bide.any_of(*never, one))
            assert others == [None] * len(never)
            assert fired is not None
            shown.append(seen(fired.value))
        both = handle.wait_all(**coming)  # type: ignore[call-overload] # it might have a name or a timeout
        assert list(both) == list(coming)
        return [*shown, *(seen(value) for value in both.values())]

    def seen(value: Any) -> Any:
        if isinstance(value, bide.Received):
            value.reply(value.value + 1)
            return value.value
        return value["inner"] if isinstance(value, bide.RunResult) else repr(value)

    run = runner.submit(bide.Workflow("w", [waits]))
    with ThreadPoolExecutor(1) as sender:
        answers = sender.map(lambda value: run.request(asked, value, timeout=20), [7, 8])
        for value in (1, 2):
            run.signal(paid, value)
        result = run.result(timeout=20)["waits"]
        assert list(answers) == [8, 9]
    either = "(None, Fired(value=None))"
    first, second = result[: len(result) // 2], result[len(result) // 2 :]
    assert first == ["3", "None", "None", "1", 7, "6", 5, "(None, 4)", either]
    assert second == ["3", "None", "None", "2", 8, "6", 5, "(None, 4)", either]


def test_a_signal_that_does_not_fit_fails_the_combination_that_it_decides(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> list[Any]:
        texts = []
        for wait in (bide.any_of(paid, left), bide.all_of(paid, bide.after(0)), bide.any_of(bide.all_of(paid), left)):
            with pytest.raises(bide.SerializationError, match="the signal 'paid': value does not fit int") as caught:
                handle.wait(wait)
            texts.append(type(caught.value).__name__)
        return [*texts, handle.wait(paid)]

    found = outcome(runner, body, ("paid", "a"), ("paid", "b"), ("paid", "c"), ("paid", 4))
    assert found == ["SerializationError"] * 3 + [4]


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


CHANGED = """
members = {"a": bide.signal("a"), "b": bide.signal("b"), "c": bide.signal("c"), "late": bide.after(3600)}
members["both"] = bide.all_of(members["a"], bide.after(0))

@bide.task
def waits(handle: bide.TaskHandle) -> str:
    name = None if "unnamed" in words else "decision"
    came = handle.wait(bide.any_of(*[members[one] for one in words[0].split("-")], name=name))
    if "stay" in words:
        say("came", came)
        stay()
    return str(came)

with bide.Runner(db) as runner:
    run = runner.submit(bide.Workflow("w", [waits]), key="run")
    if "stay" in words:
        run.signal("a", 7)
    try:
        say(run.result(timeout=30)["waits"])
    except bide.ReplayMismatch as error:
        say("mismatch", error)
"""


@pytest.mark.parametrize(
    ("members", "expected"), [("a-c", "(Fired(value=7), None)"), ("c-a", "(None, Fired(value=7))")]
)
def test_after_a_crash_other_members_change_nothing_if_the_one_that_came_is_among_them(
    file: Path, members: str, expected: str
) -> None:
    killed(CHANGED, file, "a-b-late", "stay", at="came (Fired(value=7), None, None)")
    assert ran(CHANGED, file, members) == [expected]


@pytest.mark.parametrize(("how", "name"), [("named", "decision"), ("unnamed", "any(a, b, after)")])
def test_after_a_crash_a_combination_without_the_signal_that_it_has_consumed_is_a_mismatch(
    file: Path, how: str, name: str
) -> None:
    killed(CHANGED, file, "a-b-late", how, "stay", at="came (Fired(value=7), None, None)")
    [told] = ran(CHANGED, file, "b-c-late", how)
    expected = f"'{name}' was recorded as decided by the message 'a', for which it does not wait any more"
    assert told.startswith("mismatch")
    assert expected in told
    # Nothing is lost: code that fits goes on with it.
    with bide.Client(file) as client:
        client.resume("run")
    assert ran(CHANGED, file, "a-b-late", how) == ["(Fired(value=7), None, None)"]


def test_after_a_crash_a_combination_with_one_more_member_keeps_the_nested_one_that_came(file: Path) -> None:
    killed(CHANGED, file, "both-b", "unnamed", "stay", at="came (Fired(value=(7, None)), None)")
    assert ran(CHANGED, file, "both-b-c", "unnamed") == ["(Fired(value=(7, None)), None, None)"]


REOPENED = """
@bide.task
def waits(handle: bide.TaskHandle) -> float:
    due = handle.step(lambda: time.time() + 1, name="due")
    other = bide.signal("a") if "stay" in words else bide.signal("b")
    handle.wait(bide.any_of(other, bide.after(1 if "stay" in words else 3000), name="first"))
    return time.time() - due

with bide.Runner(db) as runner:
    run = runner.submit(bide.Workflow("w", [waits]), key="run")
    while "stay" in words and run._snapshot().tasks["waits"].sub_status != bide.SubStatus.Deferred:
        time.sleep(0.001)
    say("submitted")
    say(run.result(timeout=30)["waits"])
"""


def test_after_a_crash_a_member_that_is_still_there_keeps_its_deadline(file: Path) -> None:
    killed(REOPENED, file, "stay", at="submitted")
    late = float(ran(REOPENED, file)[-1])
    assert 0 <= late < 20


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


ANY_ORDER = """
@bide.task
def inner(n: int, handle: bide.TaskHandle) -> int:
    return handle.wait_for("go", int) if n == 9 else handle.wait_for("never", int)

inner_workflow = bide.Workflow("inner", [inner])

@bide.task
def waits(handle: bide.TaskHandle) -> None:
    # As the order of a set may change from one process to the next.
    order = [*range(8), *map(int, words[0])]
    children = [handle.start(inner_workflow, {"n": n}, key=str(n)) for n in order]
    fired = [(n, one.value["inner"]) for n, one in zip(order, handle.wait_any(*children)) if one]
    say("fired", fired)
    if "stay" in words:
        stay()

with bide.Runner(db) as runner:
    run = runner.submit(bide.Workflow("w", [waits]), key="run")
    if "stay" in words:
        while not (nine := [one for one in runner.runs(workflow="inner") if one.inputs["n"] == 9]):
            time.sleep(0.001)
        runner.signal(nine[0], "go", 7)
    run.result(timeout=30)
"""


def test_after_a_crash_the_first_of_many_children_is_the_same_in_any_order(file: Path) -> None:
    killed(ANY_ORDER, file, "89", "stay", at="fired [(9, 7)]")
    assert ran(ANY_ORDER, file, "98") == ["fired [(9, 7)]"]
