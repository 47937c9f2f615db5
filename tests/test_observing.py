"""Nothing fails in silence: what is logged; and `Runner(on_event=)`."""

import asyncio
import logging
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Annotated

import pytest

import bide
from bide import RunEvent, RunEventKind
from bide._caller_loop import CallerLoop, Waiting
from processes import Child, eventually

APPROVAL = bide.signal("approval", str)


@bide.task
def fails() -> None:
    msg = "no such file"
    raise OSError(msg)


FAILS = bide.Workflow("w", [fails])


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "bide" and record.levelno == level]


def test_each_failed_attempt_is_a_warning(runner: bide.Runner, caplog: pytest.LogCaptureFixture) -> None:
    @bide.task(retry=bide.Retry(attempts=2, delay=0.01))
    def flaky() -> None:
        msg = "no network"
        raise OSError(msg)

    with pytest.raises(bide.RunFailed):
        runner.run(bide.Workflow("w", [flaky]))
    eventually(lambda: len(lines(caplog, logging.WARNING)) == 2, "both are logged")
    first, second = lines(caplog, logging.WARNING)
    assert first.startswith("task 'flaky' of run ")
    assert "attempt 1 failed (it is tried again in " in first
    assert first.endswith("OSError: no network")
    assert "attempt 2 failed (it is not tried again): OSError: no network" in second


def test_a_failed_run_that_nobody_waits_for_is_an_error(runner: bide.Runner, caplog: pytest.LogCaptureFixture) -> None:
    handle = runner.submit(FAILS)
    eventually(lambda: bool(lines(caplog, logging.ERROR)), "it is logged")
    assert lines(caplog, logging.ERROR) == [f"run {handle.id} of 'w' has failed: OSError: no such file"]


def test_a_failed_run_is_logged_at_the_latest_when_its_runner_closes(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    with bide.Runner(store) as runner:
        handle = runner.submit(FAILS)
        eventually(lambda: handle.status() is bide.RunStatus.Failed, "it has failed")
    eventually(lambda: bool(lines(caplog, logging.ERROR)), "it is logged")


def test_a_failed_run_is_no_error_if_its_caller_gets_it(store: str, caplog: pytest.LogCaptureFixture) -> None:
    with bide.Runner(store) as runner:
        for _ in range(3):
            with pytest.raises(bide.RunFailed):
                runner.run(FAILS)
            with pytest.raises(bide.RunFailed):
                runner.run(FAILS, timeout=30)
            with pytest.raises(bide.RunFailed):
                runner.submit(FAILS).result()
    eventually(lambda: len(lines(caplog, logging.WARNING)) == 9, "the attempts are logged")
    assert lines(caplog, logging.ERROR) == []


async def test_a_failed_run_is_no_error_if_it_is_awaited(store: str, caplog: pytest.LogCaptureFixture) -> None:
    @bide.task
    async def fails_later(handle: bide.AsyncTaskHandle) -> None:
        await handle.sleep(0.01)
        msg = "no such file"
        raise OSError(msg)

    workflow = bide.Workflow("later", [fails_later])
    async with bide.Runner(store) as runner:
        for awaited in (
            runner.run_async(workflow),
            (await runner.submit_async(workflow)).result_async(30),
            _awaited(await runner.submit_async(workflow)),
            runner.run_async(FAILS),
        ):
            with pytest.raises(bide.RunFailed):
                await awaited
    eventually(lambda: len(lines(caplog, logging.WARNING)) == 4, "the attempts are logged")
    assert lines(caplog, logging.ERROR) == []


async def _awaited(handle: bide.RunHandle) -> bide.RunResult:
    return await handle


async def test_a_failed_run_that_nobody_awaits_any_more_is_an_error(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    @bide.task
    async def fails_on(handle: bide.AsyncTaskHandle) -> None:
        await handle.wait_for("fail")
        raise OSError

    async with bide.Runner(store) as runner:
        handle = await runner.submit_async(bide.Workflow("w", [fails_on]))
        with pytest.raises(TimeoutError):
            await handle.result_async(timeout=0.05)
        await handle.signal_async("fail")
        await asyncio.to_thread(eventually, lambda: bool(lines(caplog, logging.ERROR)), "it is logged")
    assert lines(caplog, logging.ERROR)[0].startswith(f"run {handle.id} of 'w' has failed: OSError")


@pytest.mark.parametrize(
    "when", ["before the run is submitted", "before its handle comes", "as its handle comes", "while the run waits"]
)
async def test_a_failed_run_whose_coroutine_was_cancelled_is_an_error(
    when: str, store: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, turn = threading.Event(), CallerLoop._turn

    def cancels(callers: CallerLoop, waiting: Waiting) -> None:
        turn(callers, waiting)
        awaiting.cancel()

    @bide.task
    def fails_on(handle: bide.TaskHandle) -> None:
        waits.set()
        handle.wait_for("fail")
        raise OSError

    async with bide.Runner(store) as runner:
        awaiting = asyncio.create_task(runner.run_async(bide.Workflow("w", [fails_on]), key="k", timeout=60))
        if when == "as its handle comes":
            monkeypatch.setattr(CallerLoop, "_turn", cancels)
        else:
            await asyncio.sleep(0)
            if when == "before its handle comes":
                await asyncio.sleep(0)  # now it is submitted
                waits.wait(30)
            elif when == "while the run waits":
                await asyncio.to_thread(waits.wait, 30)
            awaiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaiting
        await asyncio.to_thread(waits.wait, 30)
        await runner.signal_async("k", "fail")
        await asyncio.to_thread(eventually, lambda: bool(lines(caplog, logging.ERROR)), "it is logged")


def test_a_failed_run_whose_caller_has_given_up_is_an_error(
    runner: bide.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    @bide.task
    def fails_on(handle: bide.TaskHandle) -> None:
        handle.wait_for("fail")
        raise OSError

    handle = runner.submit(bide.Workflow("w", [fails_on]))
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.05)
    handle.signal("fail")
    eventually(lambda: bool(lines(caplog, logging.ERROR)), "it is logged")


def test_failed_attempts_of_coroutines_and_elements_are_warnings(
    runner: bide.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    @bide.task
    async def fails_async() -> None:
        msg = "no network"
        raise OSError(msg)

    @bide.task
    def numbers() -> list[int]:
        return [0, 1, 2]

    @bide.task(tolerate=1)
    def halve(n: Annotated[int, bide.Each("numbers")]) -> int:
        if n % 2:
            msg = f"{n} is odd"
            raise ValueError(msg)
        return n // 2

    with pytest.raises(bide.RunFailed):
        runner.run(bide.Workflow("w", [numbers, halve, fails_async]))
    eventually(lambda: len(lines(caplog, logging.WARNING)) == 2, "both are logged")
    logged = "\n".join(sorted(lines(caplog, logging.WARNING)))
    assert re.match(
        r"task 'fails_async' of run \S+ of 'w': attempt 1 failed \(it is not tried again\): OSError: no network\n"
        r"task 'halve\[1\]' of run \S+ of 'w': attempt 1 failed \(it is not tried again\): ValueError: 1 is odd$",
        logged,
    ), logged


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failed_child_is_an_error_unless_its_parent_waits_for_it(
    runner: bide.Runner, caplog: pytest.LogCaptureFixture, is_async: bool
) -> None:
    @bide.task
    def parent(handle: bide.TaskHandle) -> str:
        try:
            handle.run(FAILS)
        except bide.RunFailed:
            return "seen"
        return "not seen"

    @bide.task(name="parent")
    async def async_parent(handle: bide.AsyncTaskHandle) -> str:
        try:
            await handle.run(FAILS)
        except bide.RunFailed:
            return "seen"
        return "not seen"

    @bide.task
    def starter(handle: bide.TaskHandle) -> str:
        child = handle.start(FAILS)
        handle.wait_for("go")
        return child.id

    assert runner.run(bide.Workflow("p", [async_parent if is_async else parent]))["parent"] == "seen"
    handle = runner.submit(bide.Workflow("s", [starter]))
    eventually(lambda: bool(lines(caplog, logging.ERROR)), "the child that nobody waits for is logged")
    handle.signal("go")
    child = handle.result(timeout=30)["starter"]
    assert lines(caplog, logging.ERROR) == [f"run {child} of 'w' has failed: OSError: no such file"]


def test_a_run_that_is_paused_by_its_record_is_an_error(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = ["one", "other"]

    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        handle.step(str, values.pop(0))
        handle.wait_for("go")

    workflow = bide.Workflow("w", [work])
    with bide.Runner(file) as runner:
        handle = runner.submit(workflow)
        eventually(lambda: len(runner.waiting()) == 1, "it waits")
    with bide.Runner(file, workflows=[workflow]) as runner:
        runner.signal(handle.id, "go")
        eventually(lambda: bool(lines(caplog, logging.ERROR)), "it is logged")
    assert lines(caplog, logging.ERROR)[0].startswith(f"run {handle.id} of 'w' is paused: ")


LEAVES = """
approval = bide.signal("approval", str)

@bide.task
def work(handle: bide.TaskHandle) -> None:
    handle.wait(approval)

@bide.task
def above(handle: bide.TaskHandle) -> None:
    handle.run(bide.Workflow("child", [work]))

with bide.Runner(db) as runner:
    for n in range(2):
        runner.submit(bide.Workflow("renamed", [work]), key=str(n))
    runner.submit(bide.Workflow("parent", [above]))
    while len(runner.waiting()) < 4:
        time.sleep(0.01)
    say("waits")
    stay()
"""


def test_a_runner_reports_the_runs_that_it_cannot_continue(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Child(LEAVES, file) as child:
        child.expect("waits")
        child.kill()

    @bide.task
    def other_name(handle: bide.TaskHandle) -> None:
        handle.wait(APPROVAL)

    with bide.Runner(file, workflows=[bide.Workflow("renamed", [other_name])]):
        eventually(lambda: bool(lines(caplog, logging.WARNING)), "they are reported")
    (line,) = lines(caplog, logging.WARNING)
    assert line.startswith("unfinished runs that no runner has and this one cannot continue: ")
    assert "2 runs, such as " in line
    assert "renamed v" in line
    assert "(have " in line
    for name in ("parent", "child"):
        assert f"{name} v" in line
    assert "is not registered here" in line


def test_a_runner_that_can_continue_everything_reports_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        handle.wait(APPROVAL)

    workflow = bide.Workflow("w", [waits])
    with bide.Runner(file) as runner:
        runner.submit(workflow)
    with bide.Runner(file, workflows=[workflow]) as runner:
        threading.Event().wait(1.3)
        assert len(runner.waiting()) == 1
    assert lines(caplog, logging.WARNING) == []


def observed(events: list[RunEvent], count: int) -> list[RunEvent]:
    eventually(lambda: len(events) >= count, f"{count} events have come")
    return events


def test_an_observer_gets_what_happens(store: str) -> None:
    events: list[RunEvent] = []
    tries = []

    @bide.task(retry=bide.Retry(attempts=2, delay=0.01))
    def flaky() -> None:
        tries.append(1)
        if len(tries) == 1:
            msg = "no network"
            raise OSError(msg)

    @bide.task
    def waits(flaky: None, handle: bide.TaskHandle) -> str:
        return handle.wait(APPROVAL)

    with bide.Runner(store, on_event=events.append) as runner:
        handle = runner.submit(bide.Workflow("w", [flaky, waits]), key="k")
        eventually(lambda: len(runner.waiting()) == 1, "it waits")
        handle.signal(APPROVAL, "yes")
        handle.result(timeout=30)
        seen = observed(events, 6)
    kinds = {(event.kind, event.task) for event in seen}
    assert kinds == {
        (RunEventKind.Retry, "flaky"),
        (RunEventKind.TaskEnded, "flaky"),
        (RunEventKind.WaitOpened, "waits"),
        (RunEventKind.WaitClosed, "waits"),
        (RunEventKind.TaskEnded, "waits"),
        (RunEventKind.RunEnded, None),
    }
    by_kind = {(event.kind, event.task): event for event in seen}
    assert {(event.run, event.workflow, event.key) for event in seen} == {(handle.id, "w", "k")}
    retry = by_kind[RunEventKind.Retry, "flaky"]
    assert (retry.attempt, retry.error) == (1, "OSError: no network")
    assert retry.until is not None
    opened, closed = by_kind[RunEventKind.WaitOpened, "waits"], by_kind[RunEventKind.WaitClosed, "waits"]
    assert (opened.wait, opened.wait_kind, closed.outcome) == ("approval", bide.WaitKind.Signal, "satisfied")
    assert by_kind[RunEventKind.TaskEnded, "waits"].status is bide.TaskStatus.Completed
    assert by_kind[RunEventKind.RunEnded, None].status is bide.RunStatus.Completed


def test_what_an_observer_raises_is_logged_and_changes_nothing(store: str, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def broken(event: RunEvent) -> None:
        calls.append(event)
        msg = "observer"
        raise ValueError(msg)

    @bide.task
    def one() -> int:
        return 1

    with bide.Runner(store, on_event=broken) as runner:
        assert runner.run(bide.Workflow("w", [one]))["one"] == 1
        eventually(lambda: len(calls) == 2, "it was called for both events")
    eventually(lambda: len(lines(caplog, logging.ERROR)) == 2, "both are logged")
    assert "on_event raised" in lines(caplog, logging.ERROR)[0]


def test_an_observer_sees_only_what_is_committed(file: Path) -> None:
    seen: list[tuple[str, object]] = []

    @bide.task
    def one() -> int:
        return 1

    def look(event: RunEvent) -> None:
        if event.kind is RunEventKind.RunEnded:
            seen.append((event.run, client.get(event.run).status))

    with bide.Runner(file, on_event=look) as runner, bide.Client(file) as client:
        handle = runner.submit(bide.Workflow("w", [one]))
        eventually(lambda: bool(seen), "it was observed")
    assert seen == [(handle.id, bide.RunStatus.Completed)]


def test_an_observer_must_be_callable() -> None:
    with pytest.raises(bide.DefinitionError, match="Runner takes a function as on_event"):
        bide.Runner(":memory:", on_event=7)  # type: ignore[arg-type]

    async def observes(event: RunEvent) -> None: ...

    with pytest.raises(bide.DefinitionError, match="on_event is an `async def`"):
        bide.Runner(":memory:", on_event=observes)


async def test_an_observer_gets_what_happens_to_coroutines_and_gates(store: str) -> None:
    events: list[RunEvent] = []

    async def ready() -> bool:
        return True

    @bide.task(gate=bide.until(ready, name="ready"))
    def gated() -> None: ...

    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    async def work(handle: bide.AsyncTaskHandle) -> None:
        await handle.step(ready)
        await handle.sleep(0.01, name="rest")
        if handle.attempt == 1:
            raise OSError

    async with bide.Runner(store, on_event=events.append) as runner:
        await runner.run_async(bide.Workflow("w", [gated, work]))
        await asyncio.to_thread(observed, events, 9)
    assert Counter((event.kind, event.task, (event.wait or "").split(".")[-1], event.outcome) for event in events) == {
        (RunEventKind.WaitOpened, "gated", "ready", None): 1,
        (RunEventKind.WaitClosed, "gated", "ready", "satisfied"): 1,
        (RunEventKind.TaskEnded, "gated", "", None): 1,
        (RunEventKind.StepEnded, "work", "ready", "satisfied"): 1,
        (RunEventKind.WaitOpened, "work", "rest", None): 1,
        (RunEventKind.WaitClosed, "work", "rest", "satisfied"): 1,
        (RunEventKind.Retry, "work", "", None): 1,
        (RunEventKind.TaskEnded, "work", "", None): 1,
        (RunEventKind.RunEnded, None, "", None): 1,
    }
