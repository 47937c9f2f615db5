"""Stubs of `bide.testing.Runner`, and the counts of steps."""

from typing import Any

import pytest

import bide
from bide.testing import NeverSatisfied, Runner

pytestmark = pytest.mark.timeout(60)
KINDS = pytest.mark.parametrize("kind", ["def", "async def"])


def charge(amount: int) -> str:
    raise AssertionError("the real thing")


async def charge_async(amount: int) -> str:
    raise AssertionError("the real thing")


def ready() -> bool:
    raise AssertionError("the real thing")


async def ready_async() -> bool:
    raise AssertionError("the real thing")


def order(kind: str) -> bide.Workflow:
    @bide.task(name="order")
    def body(handle: bide.TaskHandle) -> str:
        handle.wait(bide.until(ready, every=5))
        return handle.step(charge, 7, name="charge")

    @bide.task(name="order")
    async def body_async(handle: bide.AsyncTaskHandle) -> str:
        await handle.wait(bide.until(ready_async, every=5, name="ready"))
        return await handle.step(charge_async, 7, name="charge")

    return bide.Workflow("order", [body if kind == "def" else body_async])


@KINDS
def test_a_step_gives_what_its_stub_says(kind: str) -> None:
    outcomes: list[Any] = ["a value", lambda amount: f"called with {amount}"]
    for outcome, shown in zip(outcomes, ["a value", "called with 7"], strict=True):
        with Runner(auto_advance=True) as runner:
            runner.stub_condition("ready", True)
            runner.stub_step("charge", outcome)
            run = runner.submit(order(kind))
            assert run.result()["order"] == shown
            assert run.steps("charge") == 1
            assert run.steps("refund") == 0


@KINDS
def test_a_step_raises_the_exception_of_its_stub(kind: str) -> None:
    with Runner(auto_advance=True) as runner:
        runner.stub_condition("ready", True)
        runner.stub_step("charge", OSError("no money"))
        with pytest.raises(bide.RunFailed, match="no money"):
            runner.run(order(kind))


@KINDS
def test_a_condition_gives_the_answers_of_its_stub_at_its_polls(kind: str) -> None:
    with Runner(auto_advance=True) as runner:
        runner.stub_condition("ready", [False, OSError("not there"), False, True])
        runner.stub_step("charge", "paid")
        begun = runner.now
        assert runner.run(order(kind))["order"] == "paid"
        assert (runner.now - begun).total_seconds() == 15


@KINDS
def test_the_last_answer_of_a_condition_stands(kind: str) -> None:
    with Runner(auto_advance=True) as runner:
        runner.stub_condition("ready", [False, False])
        with pytest.raises(NeverSatisfied, match="ready"):
            runner.run(order(kind))


@pytest.mark.parametrize("condition", [ready, ready_async])
def test_a_gate_gives_the_answers_of_its_stub(condition: Any) -> None:
    @bide.task(gate=bide.until(condition, every=5, name="ready"))
    def gated() -> str:
        return "open"

    with Runner(auto_advance=True) as runner:
        runner.stub_condition("ready", [False, True])
        begun = runner.now
        assert runner.run(bide.Workflow("gate", [gated]))["gated"] == "open"
        assert (runner.now - begun).total_seconds() == 5


@KINDS
def test_a_task_gives_what_its_stub_says_and_keeps_its_settings(kind: str) -> None:
    calls: list[tuple[Any, ...]] = []

    @bide.task(name="fetch", retry=bide.Retry(attempts=3, delay=60))
    def fetch(url: str) -> str:
        raise AssertionError("the real thing")

    @bide.task(name="fetch", retry=bide.Retry(attempts=3, delay=60))
    async def fetch_async(url: str) -> str:
        raise AssertionError("the real thing")

    @bide.task
    def use(fetch: str) -> str:
        return fetch.upper()

    def fetched(*args: Any) -> str:
        calls.append(args)
        if len(calls) < 3:
            raise OSError("down")
        return "page"

    workflow = bide.Workflow("fetching", [fetch if kind == "def" else fetch_async, use])
    with Runner(auto_advance=True) as runner:
        runner.register(workflow)
        runner.stub_task("fetch", fetched)
        assert runner.run(workflow, {"url": "a.html"})["use"] == "PAGE"
        assert calls == [("a.html",)] * 3


@pytest.mark.parametrize(
    ("stub", "message"),
    [
        (lambda runner: runner.stub_step("refund", 1), r"stub_step\('refund'\) was never called \(called: charge\)"),
        (lambda runner: runner.stub_task("refund", 1), r"stub_task\('refund'\) was never called"),
        (lambda runner: runner.stub_condition("soon", True), r"stub_condition\('soon'\) was never called"),
    ],
)
def test_a_stub_that_is_never_called_fails_the_test_and_is_named(stub: Any, message: str) -> None:
    def use() -> None:
        with Runner(auto_advance=True) as runner:
            runner.stub_condition("ready", True)
            runner.stub_step("charge", "paid")
            stub(runner)
            runner.run(order("def"))

    with pytest.raises(AssertionError, match=message):
        use()


def test_an_exception_of_the_test_is_not_hidden_by_an_unused_stub() -> None:
    def use() -> None:
        with Runner() as runner:
            runner.stub_step("charge", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()


def test_a_stub_of_a_task_holds_after_a_restart() -> None:
    @bide.task
    def fetch(handle: bide.TaskHandle) -> str:
        raise AssertionError("the real thing")

    workflow = bide.Workflow("fetching", [fetch])

    def waits(handle: bide.TaskHandle) -> str:
        handle.sleep(60)
        return "stubbed"

    with Runner(auto_advance=True) as runner:
        runner.register(workflow)
        runner.stub_task("fetch", waits)
        run = runner.submit(workflow)
        runner.run_until_waiting(run)
        runner.restart()
        assert run.result()["fetch"] == "stubbed"


def test_a_condition_without_answers_is_refused() -> None:
    with Runner() as runner, pytest.raises(bide.DefinitionError, match="has no answer"):
        runner.stub_condition("ready", [])
