"""Nothing fails in silence: what is logged; and `Runner(on_event=)`."""

import logging
import threading
from pathlib import Path

import pytest

import bide
from bide import RunEvent, RunEventKind
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
