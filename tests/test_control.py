"""Cancel, pause, resume and retry: from this process and others, on runs that nobody executes, across crashes."""

import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import bide
from bide import _core
from processes import Child, eventually

KINDS = ("memory", "sqlite", "postgres")


def deferred(runner: bide.Runner, run: bide.RunHandle, task: str) -> None:
    eventually(lambda: runner.get(run.id).tasks[task].sub_status == "Deferred", f"{task} waits")


OTHER = bide.Workflow("other", [bide.task(lambda: None, name="other")])  # type: ignore[misc]
"""A run that needs nothing."""


class Waits:
    """A workflow whose first body waits as it is told, cleans up when it is cancelled, and notes what it does."""

    def __init__(self, how: str = "signal", name: str = "waits") -> None:
        self.log: list[str] = []
        self.entered = threading.Event()
        self.proceed = threading.Event()

        @bide.task
        def waits(handle: bide.TaskHandle) -> str:
            self.entered.set()
            try:
                self.wait(handle, how)
            except bide.Cancelled as error:
                self.log.append(str(error))
                self.log.append(handle.step(lambda: "undone", name="undo"))
                handle.sleep(0.01)
                raise
            return "done"

        @bide.task
        def follows(waits: str) -> str:
            self.log.append("follows")
            return waits

        @bide.task(run_if="done", depends_on=[follows])
        def tidy() -> None:
            self.log.append("tidy")

        self.workflow = bide.Workflow(name, [waits, follows, tidy])

    def wait(self, handle: bide.TaskHandle, how: str) -> None:
        if how == "signal":
            handle.wait_for("go")
        elif how == "sleep":
            handle.sleep(3600)
        elif how == "poll":
            handle.defer_until(lambda: None, 3_600_000, name="never")
        elif how == "short polls":
            handle.defer_until(lambda: None, 1, name="never")
        elif how == "several":
            handle.wait_any(bide.signal("go"), bide.after(3600))
        elif how == "step":
            handle.step(fails, retry=bide.Retry(3, delay=3600))
        elif how == "executes":
            self.proceed.wait(20)
            handle.step(lambda: self.log.append("too late"), name="next")


def fails() -> None:
    msg = "boom"
    raise ValueError(msg)


HOW = ["signal", "sleep", "poll", "short polls", "several", "step", "executes"]


@pytest.mark.parametrize("how", HOW)
def test_cancel_reaches_a_body_wherever_it_is(runner: bide.Runner, how: str) -> None:
    waits = Waits(how)
    run = runner.submit(waits.workflow)
    assert waits.entered.wait(20)
    if how == "executes":
        run.cancel(by="ana", reason="too late")
        waits.proceed.set()
    else:
        deferred(runner, run, "waits")
        run.cancel(by="ana", reason="too late")
    with pytest.raises(bide.RunFailed, match=r"was cancelled by ana: too late") as failed:
        run.result(timeout=20)
    assert waits.log == ["the run was cancelled by ana: too late", "undone", "tidy"]
    result = failed.value.result
    assert result.status == "Cancelled"
    assert {name: str(task.status) for name, task in result.tasks.items()} == {
        "waits": "Cancelled",
        "follows": "Cancelled",
        "tidy": "Completed",
    }
    run.cancel()


def test_an_ended_run_cannot_be_cancelled(runner: bide.Runner) -> None:
    @bide.task
    def quick() -> None: ...

    run = runner.submit(bide.Workflow("quick", [quick]))
    run.result(timeout=20)
    with pytest.raises(bide.BideError, match=r"has ended \(Completed\): cancel comes too late"):
        run.cancel()
    with pytest.raises(KeyError):
        runner.cancel("nobody")


def test_a_body_may_go_on_after_it_was_cancelled(runner: bide.Runner) -> None:
    @bide.task
    def stubborn(handle: bide.TaskHandle) -> str:
        try:
            handle.wait_for("go")
        except bide.Cancelled:
            return "saved"
        return "done"

    run = runner.submit(bide.Workflow("stubborn", [stubborn]))
    deferred(runner, run, "stubborn")
    run.cancel()
    with pytest.raises(bide.RunFailed) as failed:
        run.result(timeout=20)
    assert failed.value.result["stubborn"] == "saved"


def test_a_body_that_does_not_end_is_cut_off(file: Path) -> None:
    released = threading.Event()

    @bide.task
    def hangs(handle: bide.TaskHandle) -> None:
        try:
            handle.wait_for("go")
        except bide.Cancelled:
            released.wait(20)
            handle.sleep(0)

    with bide.Runner(file, cancel_grace=0.2) as runner:
        run = runner.submit(bide.Workflow("hangs", [hangs]))
        deferred(runner, run, "hangs")
        run.cancel()
        with pytest.raises(bide.RunFailed, match="cancelled"):
            run.result(timeout=20)
        assert not released.is_set()
        released.set()


def test_a_cancelled_parent_cancels_its_children(runner: bide.Runner) -> None:
    inner, outer = Waits(), []

    @bide.task
    def parent(handle: bide.TaskHandle) -> None:
        child = handle.start(inner.workflow)
        outer.append(child.id)
        handle.wait(child)

    run = runner.submit(bide.Workflow("parent", [parent]))
    deferred(runner, run, "parent")
    eventually(lambda: runner.get(outer[0]).tasks["waits"].sub_status == "Deferred", "the child waits")
    run.cancel()
    with pytest.raises(bide.RunFailed):
        run.result(timeout=20)
    eventually(lambda: runner.get(outer[0]).status == "Cancelled", "the child is cancelled")
    assert inner.log[1:] == ["undone", "tidy"]


def test_a_paused_run_starts_and_resumes_no_body(runner: bide.Runner) -> None:
    waits = Waits()
    run = runner.submit(waits.workflow)
    deferred(runner, run, "waits")
    run.pause(by="bo", reason="maintenance")
    assert (run.status(), runner.get(run.id).blocked_by) == ("Paused", "paused on request by bo: maintenance")
    run.signal("go")
    eventually(lambda: runner.get(run.id).tasks["waits"].sub_status == "Active", "the signal is recorded")
    # What another run does meanwhile, this one could have done too.
    runner.run(OTHER, timeout=20)
    assert (run.status(), waits.log) == ("Paused", [])
    run.pause()
    run.resume()
    assert run.result(timeout=20)["follows"] == "done"
    assert waits.log == ["follows", "tidy"]


def test_an_executing_body_of_a_paused_run_ends_and_nothing_follows(runner: bide.Runner) -> None:
    proceed, entered = threading.Event(), threading.Event()
    log = []

    @bide.task
    def first() -> None:
        entered.set()
        proceed.wait(20)

    @bide.task(depends_on=[first])
    def second() -> None:
        log.append("second")

    run = runner.submit(bide.Workflow("w", [first, second]))
    assert entered.wait(20)
    run.pause()
    proceed.set()
    eventually(lambda: runner.get(run.id).tasks["first"].status == "Completed", "the body ends")
    runner.run(OTHER, timeout=20)
    assert (run.status(), log) == ("Paused", [])
    run.resume()
    run.result(timeout=20)
    assert log == ["second"]


def test_a_deadline_goes_on_while_a_run_is_paused(runner: bide.Runner) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        try:
            handle.wait_for("go", timeout=0.2)
        except bide.WaitTimeout:
            return "timed out"
        return "came"

    run = runner.submit(bide.Workflow("w", [waits]))
    deferred(runner, run, "waits")
    run.pause()
    eventually(lambda: runner.get(run.id).tasks["waits"].sub_status == "Active", "the timeout is recorded")
    run.signal("go")
    run.resume()
    assert run.result(timeout=20)["waits"] == "timed out"


def test_a_failed_run_is_retried_from_what_failed(runner: bide.Runner) -> None:
    calls: list[str] = []
    broken = [True]

    @bide.task
    def first() -> int:
        calls.append("first")
        return 1

    def pay() -> int:
        calls.append("pay")
        return 1

    @bide.task
    def second(first: int, handle: bide.TaskHandle) -> int:
        paid = handle.step(pay)
        if broken[0]:
            msg = "boom"
            raise ValueError(msg)
        return first + paid

    @bide.task
    def third(second: int) -> int:
        return second + 1

    @bide.task(run_if="done", depends_on=[third])
    def tidy() -> None:
        calls.append("tidy")

    run = runner.submit(bide.Workflow("w", [first, second, third, tidy]))
    with pytest.raises(bide.RunFailed, match="boom"):
        run.result(timeout=20)
    with pytest.raises(bide.RunFailed, match="boom"):
        run.result(timeout=20)
    broken[0] = False
    run.retry(by="ana")
    assert run.result(timeout=20)["third"] == 3
    assert calls == ["first", "pay", "tidy", "tidy"]
    with pytest.raises(bide.BideError, match="has completed: only a run that failed or was cancelled can be retried"):
        run.retry()


def test_a_cancelled_run_can_be_retried(runner: bide.Runner) -> None:
    waits = Waits()
    run = runner.submit(waits.workflow)
    deferred(runner, run, "waits")
    run.cancel()
    with pytest.raises(bide.RunFailed):
        run.result(timeout=20)
    run.retry()
    deferred(runner, run, "waits")
    run.signal("go")
    assert run.result(timeout=20)["follows"] == "done"


def test_a_retry_keeps_journals_unless_it_is_fresh(runner: bide.Runner) -> None:
    calls = []

    @bide.task
    def fails_twice(handle: bide.TaskHandle) -> int:
        handle.step(lambda: calls.append("step"), name="step")
        if len(calls) < 2:
            msg = "boom"
            raise ValueError(msg)
        return len(calls)

    run = runner.submit(bide.Workflow("w", [fails_twice]))
    for fresh in (False, True):
        with pytest.raises(bide.RunFailed):
            run.result(timeout=20)
        run.retry(fresh=fresh)
    assert run.result(timeout=20)["fails_twice"] == 2


def test_a_filter_chooses_runs_and_all_must_be_said(runner: bide.Runner) -> None:
    waits, other = Waits(), Waits("sleep", "other")
    runs = [runner.submit(waits.workflow) for _ in range(3)]
    last = runner.submit(other.workflow)
    for run in runs:
        deferred(runner, run, "waits")
    with pytest.raises(bide.DefinitionError, match="needs all=True"):
        runner.cancel()
    assert runner.pause(workflow="waits") == 3
    assert runner.resume(status="Paused") == 3
    assert runner.cancel(workflow=waits.workflow, reason="done with it") == 3
    for run in runs:
        with pytest.raises(bide.RunFailed, match="done with it"):
            run.result(timeout=20)
    assert runner.cancel(all=True) == 1
    with pytest.raises(bide.RunFailed):
        last.result(timeout=20)
    assert runner.retry(workflow="waits", status="Cancelled") == 3
    runner.cancel(workflow="waits", force=True)


def test_each_part_of_a_filter_chooses(runner: bide.Runner) -> None:
    waits, other = Waits(), Waits(name="other")
    old = runner.submit(waits.workflow, tags={"customer": "7"})
    moment = old.history()[0].at + timedelta(milliseconds=1)
    eventually(lambda: datetime.now(UTC) > moment, "some time passes")
    new = runner.submit(other.workflow, tags={"customer": "7", "kind": "big"})
    runs = {"old": old, "new": new}
    filters: list[tuple[dict[str, Any], str]] = [
        ({"since": moment}, "new"),
        ({"since": timedelta(days=1)}, "old new"),
        ({"tags": {"customer": "7"}}, "old new"),
        ({"tags": {"customer": "7", "kind": "big"}}, "new"),
        ({"workflow": "waits", "tags": {"customer": "7"}}, "old"),
        ({"workflow": "waits", "since": moment}, ""),
        ({"status": "Running"}, "old new"),
    ]
    for chosen, expected in filters:
        assert runner.pause(**chosen) == len(expected.split())
        paused = [name for name, run in runs.items() if run.status() == "Paused"]
        assert paused == expected.split(), chosen
        runner.resume(status="Paused")
    assert runner.cancel(since=moment) == 1
    with pytest.raises(bide.RunFailed):
        new.result(timeout=20)
    assert old.status() == "Running"
    assert runner.delete(tags={"kind": "big"}) == 1
    assert [run.id for run in runner.runs()] == [old.id]


def test_a_run_is_named_by_its_id_its_key_a_handle_or_a_result(runner: bide.Runner) -> None:
    run = runner.submit(Waits().workflow, key="k")
    for name in (run.id, "k", run, runner.get(run.id)):
        runner.pause(name)
        assert run.status() == "Paused"
        runner.resume(name)
    other = runner.submit(Waits(name="other").workflow, key="k")
    with pytest.raises(KeyError, match="the key 'k' belongs to runs of 'other' and 'waits': choose one with workflow="):
        runner.pause("k")
    runner.pause("k", workflow="other")
    assert (run.status(), other.status()) == ("Running", "Paused")


def test_each_request_is_recorded_with_who_and_why(file: Path) -> None:
    @bide.task
    def first(handle: bide.TaskHandle) -> object:
        return handle.defer_until(lambda: None, 3_600_000, name="never", timeout=3600)

    @bide.task(gate=bide.signal("go"))
    def second() -> None: ...

    @bide.task(gate=bide.signal("go"))
    def third() -> None: ...

    with bide.Runner(file) as runner:
        run = runner.submit(bide.Workflow("w", [first, second, third]))
        deferred(runner, run, "first")
        run.pause(by="1", reason="pause")
        run.resume(by="2", reason="resume")
        runner.extend(run, "first", 60, by="3", reason="extend")
        runner.poll_now(run, "first", by="4", reason="poll_now")
        runner.satisfy(run, "first", 5, by="5", reason="satisfy")
        runner.skip(run, "second", by="6", reason="skip")
        eventually(lambda: runner.get(run.id).tasks["second"].status == "Skipped", "it is skipped")
        run.fork(start_at="third", by="7", reason="forked_to").cancel(force=True)
        run.cancel(by="8", reason="cancel")
        with pytest.raises(bide.RunFailed):
            run.result(timeout=20)
        run.retry(by="9", reason="retry")
    with bide.Client(file) as client:
        asked = [(one.by, one.what, one.task) for one in client.history(run) if one.by is not None]
        assert all(one.what == one.reason for one in client.history(run) if one.by is not None)
    assert asked == [
        ("1", "pause", None),
        ("2", "resume", None),
        ("3", "extend", "first"),
        ("4", "poll_now", "first"),
        ("5", "satisfy", "first"),
        ("6", "skip", "second"),
        ("7", "forked_to", "third"),
        ("8", "cancel", None),
        ("9", "retry", None),
    ]


def test_a_wait_that_is_extended_outlives_its_deadline(runner: bide.Runner) -> None:
    @bide.task
    def extended(handle: bide.TaskHandle) -> object:
        return handle.wait_for("go", timeout=1.0)

    @bide.task
    def witness(handle: bide.TaskHandle) -> str:
        try:
            return str(handle.wait_for("never", timeout=1.5))
        except bide.WaitTimeout:
            return "late"

    run = runner.submit(bide.Workflow("w", [extended, witness]))
    deferred(runner, run, "extended")
    runner.extend(run, "extended", 3600)
    eventually(lambda: runner.get(run.id).tasks["witness"].status == "Completed", "a later deadline passes")
    run.signal("go", "in time")
    assert run.result(timeout=20)["extended"] == "in time"


def test_a_clean_up_that_waits_for_too_long_is_cut_off(store: str) -> None:
    @bide.task
    def body(handle: bide.TaskHandle) -> None:
        try:
            handle.wait_for("go")
        except bide.Cancelled:
            handle.wait_for("never")

    with bide.Runner(store, cancel_grace=60, cancel_limit=0.2) as runner:
        run = runner.submit(bide.Workflow("w", [body]))
        deferred(runner, run, "body")
        run.cancel()
        with pytest.raises(bide.RunFailed, match="cancelled"):
            run.result(timeout=20)
        assert runner.get(run.id).tasks["body"].status == "Cancelled"


def test_a_wait_can_be_satisfied_and_polled_by_hand(runner: bide.Runner) -> None:
    there: list[str] = []

    @bide.task
    def body(handle: bide.TaskHandle) -> object:
        return handle.defer_until(lambda: there and there[0], 3_600_000, name="there", timeout=3000)

    @bide.task(gate=bide.until(lambda: bool(there), every=3600, name="opens"))
    def gated() -> str:
        return "open"

    workflow = bide.Workflow("w", [body, gated])
    run = runner.submit(workflow)
    deferred(runner, run, "body")
    runner.satisfy(run, "body", [1, 2], by="ana")
    runner.satisfy(run, "gated")
    assert run.result(timeout=20).outputs == {"body": [1, 2], "gated": "open"}
    with pytest.raises(bide.BideError, match="comes too late"):
        runner.satisfy(run, "body")
    run = runner.submit(workflow)
    deferred(runner, run, "body")
    asked = {("body", 1), ("gated", 1)}
    eventually(lambda: {(wait.task, wait.polls) for wait in runner.waiting()} == asked, "both were asked once")
    there.append("here")
    runner.poll_now(run, "body")
    runner.poll_now(run, "gated")
    assert run.result(timeout=20).outputs == {"body": "here", "gated": "open"}
    with pytest.raises(bide.DefinitionError, match="has no task 'bod'; it has body, gated"):
        runner.poll_now(run, "bod")


def test_a_task_can_be_skipped_by_hand(runner: bide.Runner) -> None:
    waits = Waits()
    run = runner.submit(waits.workflow)
    deferred(runner, run, "waits")
    runner.skip(run, "waits", by="ana")
    result = run.result(timeout=20)
    assert result.status == "Completed"
    assert result.tasks["waits"].status == "Skipped"
    assert result.tasks["waits"].blocked_by == "skipped on request by ana"
    assert "tidy" in waits.log
    assert "undone" not in waits.log


def test_the_history_says_what_happened_and_who_asked_for_what(runner: bide.Runner) -> None:
    waits = Waits()
    run = runner.submit(waits.workflow)
    deferred(runner, run, "waits")
    run.pause(by="bo")
    run.resume()
    run.cancel(by="ana", reason="too late")
    with pytest.raises(bide.RunFailed):
        run.result(timeout=20)
    told = [(entry.what, entry.task, entry.name, entry.by, entry.reason) for entry in run.history()]
    for line in [
        ("created", None, None, None, None),
        ("started", "waits", None, None, None),
        ("wait opened", "waits", "go", None, None),
        ("pause", None, None, "bo", None),
        ("resume", None, None, None, None),
        ("cancel", None, None, "ana", "too late"),
        ("wait failed", "waits", "go", None, None),
        ("step recorded", "waits", "undo", None, None),
        ("cancelled", "waits", None, None, None),
        ("cancelled", None, None, None, None),
    ]:
        assert line in told
    assert told[0][0] == "created"
    assert told[-1][:2] == ("cancelled", None)
    times = [entry.at for entry in run.history()]
    assert times == sorted(times)


def test_runs_that_a_filter_chooses_are_deleted(runner: bide.Runner) -> None:
    @bide.task
    def quick() -> None: ...

    workflow = bide.Workflow("quick", [quick])
    for _ in range(3):
        runner.run(workflow)
    assert runner.delete(workflow="quick", status="Failed") == 0
    assert runner.delete(workflow="quick") == 3
    assert runner.runs() == []


SCRIPT = """
@bide.task
def waits(handle: bide.TaskHandle) -> str:
    try:
        handle.wait_for("go")
    except bide.Cancelled as error:
        note("cancelled", error)
        if "dies" in words:
            die()
        handle.step(lambda: note("undo"), name="undo")
        raise
    return "done"

workflow = bide.Workflow("w", [waits])
with bide.Runner(db, workflows=[workflow]) as runner:
    if "submit" in words:
        run = runner.submit(workflow, key="k")
        while runner.get("k").tasks["waits"].sub_status != "Deferred":
            time.sleep(0.01)
        say("waits")
        if "dies later" not in words:
            stay()
    run = runner.submit(workflow, key="k")
    try:
        say(run.result(20).status)
    except bide.RunFailed as error:
        say(error.result.status)
"""


def test_another_process_can_pause_resume_and_cancel(file: Path) -> None:
    with Child(SCRIPT, file, "submit") as child, bide.Runner(file) as runner:
        child.expect("waits")
        runner.pause("k", by="ana")
        eventually(lambda: runner.get("k").status == "Paused", "it is paused")
        runner.signal("k", "go")
        runner.resume("k")
        eventually(lambda: runner.get("k").status == "Completed", "it continues")


def test_a_run_that_nobody_executes_is_cancelled_when_somebody_does(file: Path) -> None:
    with Child(SCRIPT, file, "submit") as child:
        child.expect("waits")
        child.kill()
    with bide.Runner(file) as runner:
        runner.cancel("k", by="ana", reason="late")
        assert runner.get("k").status == "Running"
    with Child(SCRIPT, file, "dies") as child:
        child.join(code=-signal.SIGKILL)
    with Child(SCRIPT, file) as child:
        child.expect("Cancelled")
    ledger = file.with_suffix(".ledger").read_text().splitlines()
    assert ledger == ["cancelled the run was cancelled by ana: late"] * 2 + ["undo"]


def test_a_pause_outlives_the_process(file: Path) -> None:
    with Child(SCRIPT, file, "submit") as child:
        child.expect("waits")
        with bide.Runner(file) as runner:
            runner.pause("k", by="ana")
            eventually(lambda: runner.get("k").status == "Paused", "it is paused")
        child.kill()
    with bide.Runner(file) as runner:
        assert runner.get("k").blocked_by == "paused on request by ana"
        runner.signal("k", "go")
    with Child(SCRIPT, file) as child, bide.Runner(file) as runner:
        eventually(lambda: runner.get("k").tasks["waits"].sub_status == "Active", "the signal is recorded")
        assert runner.get("k").status == "Paused"
        runner.resume("k")
        child.expect("Completed")


def test_force_ends_a_run_that_nobody_executes(file: Path) -> None:
    with Child(SCRIPT, file, "submit") as child:
        child.expect("waits")
        child.kill()
    with bide.Runner(file) as runner:
        runner.cancel("k", force=True, by="ana")
        result = runner.get("k")
        assert (result.status, result.tasks["waits"].status) == ("Cancelled", "Cancelled")
        with pytest.raises(bide.RunFailed, match="was cancelled by ana"):
            result.raise_for_status()


def test_a_filter_cancels_many_runs_in_one_commit(file: Path) -> None:
    @bide.task(gate=bide.signal("go"))
    def noop() -> None:
        return None

    gated = bide.Workflow("gated", [noop])
    with bide.Runner(file) as runner:
        runs = runner.submit_many(gated, [None] * 200)
        before = _core.counts()[1]
        assert runner.cancel(workflow=gated) == len(runs)
        assert _core.counts()[1] - before < 10
        for run in runs:
            with pytest.raises(bide.RunFailed, match="cancelled"):
                run.result(timeout=30)


def test_a_filter_does_not_hide_what_goes_wrong(runner: bide.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_given: object) -> None:
        msg = "the disk is full"
        raise bide.StoreError(msg)

    run = runner.submit(Waits().workflow)
    deferred(runner, run, "waits")
    monkeypatch.setattr("bide._control._check_asked", breaks)
    with pytest.raises(bide.StoreError, match="the disk is full"):
        runner.cancel(all=True)
