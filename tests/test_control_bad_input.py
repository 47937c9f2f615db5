"""What an operator may get wrong: unknown or ended runs, tasks that wait for nothing, values that do not fit."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest

import bide
from processes import eventually

paid = bide.signal("paid", int)

Call = Callable[[bide.Runner, str], object]

BY_HAND: dict[str, Call] = {
    "satisfy": lambda runner, run: runner.satisfy(run, "collect", 1),
    "extend": lambda runner, run: runner.extend(run, "collect", 60),
    "poll_now": lambda runner, run: runner.poll_now(run, "collect"),
    "skip": lambda runner, run: runner.skip(run, "collect"),
}

CONTROLS: dict[str, Call] = {
    "cancel": lambda runner, run: runner.cancel(run),
    "pause": lambda runner, run: runner.pause(run),
    "resume": lambda runner, run: runner.resume(run),
    **BY_HAND,
}

CALLS: dict[str, Call] = {
    **CONTROLS,
    "retry": lambda runner, run: runner.retry(run),
    "delete": lambda runner, run: runner.delete(run),
    "get": lambda runner, run: runner.get(run),
    "history": lambda runner, run: runner.history(run),
    "signal": lambda runner, run: runner.signal(run, paid, 1),
    "request": lambda runner, run: runner.request(run, "quote", 1),
    "events": lambda runner, run: runner.events(run),
    "follow": lambda runner, run: runner.follow(run),
    "latest": lambda runner, run: runner.latest(run),
}


@bide.task
def collect(handle: bide.TaskHandle) -> int:
    return handle.wait(paid, timeout=3600)


@bide.task
def book(collect: int) -> int:
    return collect


@bide.task(gate=paid)
def gated(cents: Annotated[int, bide.Gate]) -> int:
    return cents


workflow = bide.Workflow("order", [collect, book])


def waiting(runner: bide.Runner, workflow: bide.Workflow = workflow, task: str = "collect") -> bide.RunHandle:
    run = runner.submit(workflow)

    def waits() -> bool:
        row = runner.get(run.id).tasks[task]
        return row.sub_status is bide.SubStatus.Deferred or row.blocked_by == "waits for paid"

    eventually(waits, f"{task} waits")
    return run


@pytest.mark.parametrize("call", CALLS)
def test_a_call_for_an_unknown_run_is_a_key_error_that_names_it(runner: bide.Runner, call: str) -> None:
    with pytest.raises(KeyError, match="no run has the id or key 'nobody'"):
        CALLS[call](runner, "nobody")


@pytest.mark.parametrize("call", CONTROLS)
def test_control_of_a_completed_run_comes_too_late(runner: bide.Runner, call: str) -> None:
    run = waiting(runner)
    run.signal(paid, 4200)
    run.result(timeout=30)
    with pytest.raises(bide.BideError, match=rf"{run.id} has ended \(Completed\): {call} comes too late"):
        CONTROLS[call](runner, run.id)


@pytest.mark.parametrize("call", BY_HAND)
def test_a_task_that_does_not_wait_or_exist_is_named(runner: bide.Runner, call: str) -> None:
    run = waiting(runner)
    hand: Callable[..., Any] = getattr(runner, call)
    more = {"satisfy": (1,), "extend": (60,)}.get(call, ())
    with pytest.raises(bide.DefinitionError, match="of workflow 'order' has no task 'colect'; it has collect, book"):
        hand(run, "colect", *more)
    if call != "skip":
        with pytest.raises(bide.BideError, match=f"task 'book' .* waits for nothing: {call} has no effect"):
            hand(run, "book", *more)


def test_a_run_that_has_not_ended_is_not_retried(runner: bide.Runner) -> None:
    run = waiting(runner)
    with pytest.raises(bide.BideError, match="is Running: only a run that failed or was cancelled can be retried"):
        run.retry()


@pytest.mark.parametrize("kind", ["body", "gate"])
def test_a_value_by_hand_that_does_not_fit_fails_its_wait_until_it_is_dropped(runner: bide.Runner, kind: str) -> None:
    task = "collect" if kind == "body" else "gated"
    run = waiting(runner, workflow if kind == "body" else bide.Workflow("gated", [gated]), task)
    runner.satisfy(run, task, "4200 cents")
    with pytest.raises(bide.RunFailed, match="the signal 'paid': value does not fit int"):
        run.result(timeout=30)
    run.retry()
    with pytest.raises(bide.RunFailed, match="the signal 'paid': value does not fit int"):
        run.result(timeout=30)
    run.retry(fresh=True)
    run.signal(paid, 4200)
    assert run.result(timeout=30)[task] == 4200


@pytest.mark.parametrize("kind", ["child run", "request"])
def test_neither_a_child_run_nor_a_request_is_satisfied_by_hand(runner: bide.Runner, kind: str) -> None:
    quote = bide.request("quote", str, str)

    @bide.task
    def asks(handle: bide.TaskHandle) -> object:
        if kind == "child run":
            return handle.run(workflow, key="child").outputs["collect"]
        asked = handle.wait(quote)
        asked.reply("sold")
        return asked.value

    run = waiting(runner, bide.Workflow("asks", [asks]), "asks")
    child = next(iter(runner.runs(parent=run)), run)
    message = (
        f"its child run {child.id}: act on that one"
        if kind == "child run"
        else r"runner\.request\(run, 'quote', value\)"
    )
    with pytest.raises(bide.BideError, match=f"task 'asks' of run {run.id} waits for .*{message}"):
        runner.satisfy(run, "asks", "by hand", by="ana")
    if kind == "child run":
        eventually(lambda: child.id in {wait.run for wait in runner.waiting()}, "the child waits")
        runner.satisfy(child, "collect", 4200)
    else:
        assert run.request(quote, "nuts", timeout=30) == "sold"
    assert run.result(timeout=30)["asks"] == (4200 if kind == "child run" else "nuts")


def test_what_is_given_by_hand_is_checked_before_it_is_asked(runner: bide.Runner) -> None:
    run = waiting(runner)
    with pytest.raises(bide.SerializationError, match="the value of a wait"):
        runner.satisfy(run, "collect", lambda: 3)
    with pytest.raises(bide.DefinitionError, match="extend: more"):
        runner.extend(run, "collect", "an hour")  # type: ignore[arg-type]
    with pytest.raises(bide.DefinitionError, match="by"):
        runner.satisfy(run, "collect", 1, by=7)  # type: ignore[arg-type]
    assert all(entry.what != "satisfy" for entry in run.history())
