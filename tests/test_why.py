"""`runner.why` says of each unfinished task what holds it; `runner.waiting` lists all open waits."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import pytest

import bide
from bide import HeldBy, WaitKind
from processes import Child, eventually

KINDS = ("memory", "sqlite", "postgres")

APPROVAL = bide.signal("approval", str)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds conditions; set at the end, so that runs can end."""
    event = threading.Event()
    yield event
    event.set()


def by_name(why: bide.Why) -> dict[str, bide.HeldTask]:
    return {task.name: task for task in why.tasks}


def until_waiting(runner: bide.Runner | bide.Client, count: int) -> list[bide.OpenWait]:
    eventually(lambda: len(runner.waiting()) == count, f"{count} waits are open")
    return runner.waiting()


def test_each_task_says_what_holds_it(runner: bide.Runner, gate: threading.Event) -> None:
    @bide.task
    def polls(handle: bide.TaskHandle) -> None:
        handle.wait(bide.until(gate.is_set, every=0.01, name="is_set"), timeout=3600)

    @bide.task(gate=bide.signal("start", str))
    def gated() -> None: ...

    @bide.task
    def after_both(polls: None, gated: None) -> None: ...

    @bide.task
    def last(after_both: None) -> None: ...

    entered = threading.Event()

    @bide.task
    def executes() -> None:
        entered.set()
        gate.wait(30)

    workflow = bide.Workflow("w", [polls, gated, after_both, last, executes])
    handle = runner.submit(workflow, key="k")
    assert entered.wait(30)
    until_waiting(runner, 2)
    eventually(lambda: (by_name(handle.why())["polls"].waits[0].polls or 0) > 2, "it is polled")
    why = handle.why()
    tasks = by_name(why)
    assert (why.run, why.workflow, why.key, why.status) == (handle.id, "w", "k", bide.RunStatus.Running)
    assert (why.held_by, why.runner) == (None, None)
    assert {name: task.held_by for name, task in tasks.items() if name != "executes"} == {
        "polls": HeldBy.Wait,
        "gated": HeldBy.Gate,
        "after_both": HeldBy.Dependency,
        "last": HeldBy.Dependency,
    }
    eventually(lambda: by_name(handle.why())["executes"].held_by is HeldBy.Nothing, "its start is seen")
    assert tasks["after_both"].needs == ("polls", "gated")
    (wait,) = tasks["polls"].waits
    assert (wait.kind, wait.name, wait.task, wait.error) == (WaitKind.Condition, "is_set", "polls", None)
    now = datetime.now(UTC)
    assert wait.deadline is not None
    assert timedelta(minutes=59) < wait.deadline - now < timedelta(hours=1)
    assert now - timedelta(minutes=1) < wait.since <= now
    assert wait.next_poll is not None
    assert abs(wait.next_poll - now) < timedelta(minutes=1)
    assert tasks["gated"].waits[0].kind is WaitKind.Signal
    text = str(why)
    assert re.search(
        r"task 'polls' waits for is_set \(condition\) since .*; \d+ polls so far, the next one .*times out", text
    )
    assert "then: after_both, last" in text
    gate.set()
    handle.signal("start", "go")
    handle.result(timeout=30)
    ended = handle.why()
    assert (ended.tasks, ended.held_by) == ((), None)
    assert "is Completed" in str(ended)


def test_the_last_error_and_the_polls_of_a_gate_are_shown(runner: bide.Runner, gate: threading.Event) -> None:
    def broken() -> bool:
        if gate.is_set():
            return True
        msg = "the disk is gone"
        raise OSError(msg)

    @bide.task(gate=bide.until(broken, every=0.01, on_error="ignore"))
    def gated() -> None: ...

    handle = runner.submit(bide.Workflow("w", [gated]))

    def error() -> str | None:
        return runner.waiting()[0].error if runner.waiting() else None

    eventually(lambda: error() == "OSError: the disk is gone", "the error is shown")
    eventually(lambda: (runner.waiting()[0].polls or 0) > 3, "the polls are counted")
    assert by_name(handle.why())["gated"].waits[0].error == "OSError: the disk is gone"
    assert "its condition last raised OSError: the disk is gone" in str(handle.why())
    gate.set()
    handle.result(timeout=30)


def test_tasks_that_wait_for_one_signal_know_of_each_other(runner: bide.Runner) -> None:
    @bide.task
    def first(handle: bide.TaskHandle) -> str:
        return handle.wait(APPROVAL)

    @bide.task
    def second(handle: bide.TaskHandle) -> str:
        return handle.wait_any(APPROVAL, bide.after(3600))[0].value  # type: ignore[union-attr]

    handle = runner.submit(bide.Workflow("w", [first, second]))
    until_waiting(runner, 4)
    waits = {(task.name, wait.kind): wait for task in handle.why().tasks for wait in task.waits}
    assert waits["first", WaitKind.Signal].others == ("second",)
    assert waits["second", WaitKind.Signal].others == ("first",)
    assert len(waits["second", WaitKind.Any].members) == 2
    handle.signal(APPROVAL, "a")
    handle.signal(APPROVAL, "b")
    handle.result(timeout=30)


def test_what_a_child_run_waits_for_is_behind_the_wait_for_it(runner: bide.Runner) -> None:
    @bide.task
    def below(handle: bide.TaskHandle) -> str:
        return handle.wait(APPROVAL)

    child = bide.Workflow("child", [below])

    @bide.task
    def above(handle: bide.TaskHandle) -> None:
        handle.run(child)

    handle = runner.submit(bide.Workflow("parent", [above]))
    until_waiting(runner, 2)
    why = handle.why()
    (wait,) = by_name(why)["above"].waits
    assert wait.kind is WaitKind.Child
    assert wait.child is not None
    assert by_name(why.children[wait.child])["below"].waits[0].kind is WaitKind.Signal
    assert "task 'below' waits for approval (signal)" in str(why)
    runner.signal(wait.child, APPROVAL, "yes")
    handle.result(timeout=30)


def test_elements_hold_their_mapped_task(runner: bide.Runner) -> None:
    @bide.task
    def names() -> list[str]:
        return ["a", "b"]

    @bide.task
    def each(handle: bide.TaskHandle, name: Annotated[str, bide.Each("names")]) -> str:
        return f"{name}: {handle.wait(APPROVAL)}"

    @bide.task
    def whole(each: list[str]) -> int:
        return len(each)

    handle = runner.submit(bide.Workflow("w", [names, each, whole]))
    until_waiting(runner, 2)
    tasks = by_name(handle.why())
    assert tasks["each"].needs == ("each[0]", "each[1]")
    assert tasks["each[1]"].waits[0].name == "approval"
    assert tasks["whole"].needs == ("each",)
    assert "then: each, whole" in str(handle.why())
    assert {wait.task for wait in runner.waiting()} == {"each[0]", "each[1]"}
    for _ in range(2):
        handle.signal(APPROVAL, "yes")
    handle.result(timeout=30)


def test_the_delay_before_a_retry_is_named(runner: bide.Runner) -> None:
    @bide.task(retry=bide.Retry(attempts=2, delay=3600))
    def flaky() -> None:
        msg = "no network"
        raise OSError(msg)

    handle = runner.submit(bide.Workflow("w", [flaky]))
    eventually(lambda: by_name(handle.why())["flaky"].held_by is HeldBy.Retry, "it waits for its retry")
    flaky_task = by_name(handle.why())["flaky"]
    assert flaky_task.retry_at is not None
    assert flaky_task.attempts == 1
    assert flaky_task.error is not None
    assert "no network" in str(flaky_task)
    assert "waits for its attempt 2 until" in str(flaky_task)


BROKEN = """
def broken():
    raise OSError("the disk is gone")

@bide.task
def work(handle: bide.TaskHandle) -> None:
    handle.wait(bide.until(broken, every=0.05, on_error="ignore"))

with bide.Runner(db, workflows=[bide.Workflow("w", [work])]) as runner:
    runner.submit(bide.Workflow("w", [work]), key="k")
    say("submitted")
    stay()
"""


def test_the_last_error_of_a_condition_is_seen_from_another_process(file: Path) -> None:
    with Child(BROKEN, file) as child:
        child.expect("submitted")
        client = bide.Client(file)
        eventually(lambda: [wait.error for wait in client.waiting()] == ["OSError: the disk is gone"], "it is written")
        assert "its condition last raised OSError: the disk is gone" in str(client.why("k"))


RUNNER = """
@bide.task
def work(handle: bide.TaskHandle) -> None:
    handle.wait(bide.until(Path(db).with_suffix(".flag").exists, every=0.05, name="flag"))

with bide.Runner(db, workflows=[bide.Workflow("w", [work])]) as runner:
    runner.submit(bide.Workflow("w", [work]), key="k")
    say("submitted")
    stay()
"""


def test_a_run_of_another_process_names_that_process_and_its_waits(file: Path) -> None:
    with Child(RUNNER, file) as child:
        child.expect("submitted")
        with bide.Client(file) as client:
            (wait,) = until_waiting(client, 1)
            assert (wait.workflow, wait.key, wait.task, wait.name) == ("w", "k", "work", "flag")
            assert (wait.polls, wait.next_poll) == (None, None)
            why = client.why("k")
            assert why.held_by is HeldBy.OtherRunner
            assert why.runner is not None
            assert why.runner.pid == child.pid
            assert f"process {child.pid} on " in str(why)
            child.kill()
            eventually(lambda: client.why("k").held_by is HeldBy.NoRunner, "its death is seen")
        with bide.Runner(file) as runner:
            why = runner.why("k")
            assert why.held_by is HeldBy.NoRunner
            assert re.search(r"no runner has it: w v\w+ is not registered here\n", str(why))
            assert len(runner.waiting()) == 1


def test_open_waits_come_oldest_first_and_in_pages(runner: bide.Runner) -> None:
    @bide.task(gate=APPROVAL)
    def gated() -> None: ...

    handles = [runner.submit(bide.Workflow("w", [gated])) for _ in range(5)]
    waits = until_waiting(runner, 5)
    assert [wait.run for wait in waits] == [handle.id for handle in handles]
    seen: list[bide.OpenWait] = []
    while page := runner.waiting(limit=2, after=seen[-1] if seen else None):
        seen.extend(page)
    assert seen == waits
    assert runner.waiting(after=waits[3].cursor) == waits[4:]
    assert re.match(r"task 'gated' in run \S+ of 'w' waits for approval \(signal\) since ", str(waits[0]))
    handles[0].signal(APPROVAL, "yes")
    handles[0].result(timeout=30)
    assert [wait.run for wait in runner.waiting()] == [handle.id for handle in handles[1:]]


def test_a_wait_that_its_run_has_left_open_is_not_listed(runner: bide.Runner) -> None:
    @bide.task(gate=APPROVAL)
    def gated() -> None: ...

    @bide.task
    def fails() -> None:
        raise ValueError

    handle = runner.submit(bide.Workflow("w", [gated, fails], fail_fast=True))
    with pytest.raises(bide.RunFailed):
        handle.result(timeout=30)
    assert runner.waiting() == []


@pytest.mark.parametrize("after", ["", "1.2", "a.b.c.d.e", 7])
def test_a_cursor_that_is_none_is_refused(after: object) -> None:
    with bide.Runner(":memory:") as runner, pytest.raises(bide.DefinitionError, match="waiting: after must be a wait"):
        runner.waiting(after=after)  # type: ignore[arg-type]


def test_a_limit_must_be_positive() -> None:
    with bide.Runner(":memory:") as runner, pytest.raises(bide.DefinitionError, match="limit"):
        runner.waiting(limit=0)


def test_a_run_of_ten_thousand_tasks_is_explained_quickly(runner: bide.Runner) -> None:
    @bide.task(name="first", gate=APPROVAL)
    def first() -> None: ...

    def link(n: int) -> Callable[[], None]:
        before = "first" if n == 0 else f"t{n - 1}"

        def body() -> None: ...

        return bide.task(body, name=f"t{n}", depends_on=[before])

    handle = runner.submit(bide.Workflow("long", [first, *(link(n) for n in range(9_999))]))
    until_waiting(runner, 1)
    took = []
    for _ in range(5):
        begun = time.thread_time()  # other processes may keep this one waiting
        why = handle.why()
        took.append(time.thread_time() - begun)
    assert len(why.tasks) == 10_000
    assert "then: t0, t1, t2" in str(why)
    assert min(took) < 0.15, took  # a third of that on a machine of today


def test_a_run_that_begins_later_is_held_until_then(runner: bide.Runner) -> None:
    @bide.task
    def work() -> None: ...

    start = datetime.now(UTC) + timedelta(hours=5)
    why = runner.submit(bide.Workflow("w", [work]), start_at=start).why()
    assert (why.held_by, why.tasks[0].held_by) == (HeldBy.Start, HeldBy.Start)
    assert why.start_at is not None
    assert abs(why.start_at - start) < timedelta(milliseconds=1)
    shown = r"is Running: it begins \S+ \S+ UTC \(in \d \w+\)\n  task 'work' waits until the run begins"
    assert re.search(shown, str(why))


def test_a_paused_run_names_who_has_paused_it_and_why(runner: bide.Runner, gate: threading.Event) -> None:
    @bide.task(gate=bide.until(gate.is_set, every=0.01, name="open"))
    def gated() -> None: ...

    @bide.task
    def after(gated: None) -> None: ...

    handle = runner.submit(bide.Workflow("w", [gated, after]))
    handle.pause(by="ana", reason="deploy")
    why = handle.why()
    assert (why.held_by, why.by) == (HeldBy.Pause, "ana")
    assert "is Paused: paused on request by ana: deploy\n" in str(why)
    assert by_name(why)["gated"].held_by is HeldBy.Gate
    gate.set()
    eventually(lambda: not by_name(handle.why())["gated"].waits, "the gate is closed")
    assert by_name(handle.why())["gated"].held_by is HeldBy.Pause
    assert "task 'gated' waits until the run is resumed" in str(handle.why())
    assert [(asked.what, asked.by, asked.reason) for asked in why.requests] == [("pause", "ana", "deploy")]
    handle.resume()
    handle.result(timeout=30)
    assert handle.why().held_by is None


def test_a_body_of_a_paused_run_whose_wait_is_over_is_held_by_the_pause(store: str, gate: threading.Event) -> None:
    @bide.task
    def plain(handle: bide.TaskHandle) -> None:
        handle.wait(APPROVAL)

    @bide.task
    async def coroutine(handle: bide.AsyncTaskHandle) -> None:
        await handle.wait(APPROVAL)

    @bide.task
    def executes() -> None:
        gate.wait(30)

    with bide.Runner(store) as runner, bide.Client(runner) as client:
        handle = runner.submit(bide.Workflow("w", [plain, coroutine, executes]))
        until_waiting(runner, 2)
        eventually(lambda: by_name(client.why(handle))["executes"].held_by is HeldBy.Nothing, "its start is seen")
        handle.pause()
        assert {name: task.held_by for name, task in by_name(handle.why()).items()} == {
            "plain": HeldBy.Wait,
            "coroutine": HeldBy.Wait,
            "executes": HeldBy.Nothing,
        }
        for _ in range(2):
            handle.signal(APPROVAL, "yes")
        for looks in (runner, client):
            eventually(lambda looks=looks: looks.waiting() == [], "both have come")  # type: ignore[misc]
            assert {name: task.held_by for name, task in by_name(looks.why(handle)).items()} == {
                "plain": HeldBy.Pause,
                "coroutine": HeldBy.Pause,
                "executes": HeldBy.Nothing,
            }
        assert "task 'plain' waits until the run is resumed" in str(handle.why())
        gate.set()
        handle.resume()
        handle.result(timeout=30)


def test_no_body_of_a_run_that_bide_has_paused_is_shown_as_executing(runner: bide.Runner) -> None:
    values = ["one", "other"]

    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    def work(handle: bide.TaskHandle) -> None:
        handle.step(str, values.pop(0))
        raise OSError

    handle = runner.submit(bide.Workflow("w", [work]))
    eventually(lambda: handle.status() is bide.RunStatus.Paused, "its record does not fit")
    why = handle.why()
    assert (why.held_by, [task.held_by for task in why.tasks]) == (HeldBy.Pause, [HeldBy.Pause])
    assert "is Paused: replay mismatch: task 'work': step 'str'" in str(why)
    assert "task 'work' waits until the run is resumed" in str(why)


def test_a_body_that_finds_no_place_to_park_waits_for_a_slot(store: str) -> None:
    @bide.task
    def first(handle: bide.TaskHandle) -> None:
        handle.wait(APPROVAL)

    @bide.task
    def second(handle: bide.TaskHandle) -> None:
        handle.wait(APPROVAL)

    with bide.Runner(store, max_parked=1) as runner:
        handle = runner.submit(bide.Workflow("w", [first, second]))
        until_waiting(runner, 1)
        eventually(lambda: by_name(handle.why())["second"].blocked_by == "parked bodies 1/1", "it is held back")
        assert by_name(handle.why())["second"].held_by is HeldBy.Slot
        assert "task 'second' waits for a slot: parked bodies 1/1" in str(handle.why())
        for _ in range(2):
            handle.signal(APPROVAL, "yes")
        handle.result(timeout=30)


Two = tuple[bide.Workflow, bide.Workflow]


def one_waits_and_one_holds_its_slot(entered: threading.Event, gate: threading.Event) -> Two:
    @bide.task
    def waits(handle: bide.TaskHandle) -> int:
        return handle.wait_for("go on", int)

    @bide.task
    def holds() -> None:
        entered.set()
        gate.wait(30)

    return bide.Workflow("waits", [waits]), bide.Workflow("holds", [holds])


def the_same_by_async_def(entered: threading.Event, gate: threading.Event) -> Two:
    @bide.task
    async def waits(handle: bide.AsyncTaskHandle) -> int:
        return await handle.wait_for("go on", int)

    @bide.task
    async def holds(handle: bide.AsyncTaskHandle) -> None:
        entered.set()
        await asyncio.to_thread(gate.wait, 30)

    return bide.Workflow("waits", [waits]), bide.Workflow("holds", [holds])


@pytest.mark.parametrize("workflows", [one_waits_and_one_holds_its_slot, the_same_by_async_def])
def test_a_body_whose_wait_is_over_waits_for_a_slot(
    store: str, gate: threading.Event, workflows: Callable[[threading.Event, threading.Event], Two]
) -> None:
    entered = threading.Event()
    waiting, holding = workflows(entered, gate)
    with bide.Runner(store, slots=1, async_slots=1) as runner:
        run = runner.submit(waiting)
        until_waiting(runner, 1)
        other = runner.submit(holding)
        assert entered.wait(30)
        runner.signal(run, "go on", 7)
        eventually(lambda: by_name(runner.why(run))["waits"].held_by is HeldBy.Slot, "it waits for a slot")
        assert "task 'waits' waits for a slot" in str(runner.why(run))
        assert by_name(runner.why(other))["holds"].held_by is HeldBy.Nothing
        gate.set()
        assert run.result()["waits"] == 7


def test_a_step_between_two_tries_says_what_it_has_raised(runner: bide.Runner) -> None:
    def fetch() -> None:
        msg = "no network"
        raise OSError(msg)

    @bide.task
    async def work(handle: bide.AsyncTaskHandle) -> None:
        await handle.step(fetch, name="fetch", retry=bide.Retry(2, delay=3600))

    handle = runner.submit(bide.Workflow("w", [work]))
    until_waiting(runner, 1)
    shown = r"task 'work' waits for its next try of step fetch since .*; due .*; it last raised OSError: no network"
    assert re.search(shown, str(handle.why()))
    handle.cancel()


def test_a_cancelled_run_that_cleans_up_says_so(runner: bide.Runner, gate: threading.Event) -> None:
    cleans = threading.Event()

    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        try:
            handle.wait_for("never")
        finally:
            cleans.set()
            gate.wait(30)

    @bide.task
    def undo(handle: bide.TaskHandle) -> None:
        try:
            handle.wait_for("never")
        except bide.Cancelled:
            handle.wait_for("undone")
            raise

    handle = runner.submit(bide.Workflow("w", [work, undo]))
    until_waiting(runner, 2)
    handle.cancel(by="ana", reason="too late")
    assert cleans.wait(30)
    (wait,) = until_waiting(runner, 1)
    why = handle.why()
    assert (why.held_by, why.by, wait.name) == (HeldBy.Cancel, "ana", "undone")
    assert "cancelled by ana: too late; it ends once its bodies have cleaned up" in str(why)
    held = by_name(why)
    assert (held["work"].held_by, held["undo"].held_by) == (HeldBy.Cancel, HeldBy.Wait)
    assert "task 'work' cleans up" in str(why)


def test_a_cancelled_run_whose_workflow_nobody_has_says_so(file: Path) -> None:
    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        handle.wait_for("never")

    with bide.Runner(file) as runner:
        handle = runner.submit(bide.Workflow("w", [work]), key="k")
        until_waiting(runner, 1)
    with bide.Client(file) as client:
        client.cancel("k", by="ana")
        why = client.why("k")
        assert why.held_by is HeldBy.NoRunner
        assert ("cancel", "ana") in [(asked.what, asked.by) for asked in why.requests]
        assert "no runner has it that has registered 'w'" in str(why)
    with bide.Runner(file) as runner:
        assert "no runner has it: w v" in str(runner.why(handle.id))


def test_what_people_have_asked_of_tasks_is_shown(runner: bide.Runner) -> None:
    @bide.task(gate=APPROVAL)
    def gated() -> None: ...

    @bide.task(gate=bide.signal("other"))
    def other() -> None: ...

    handle = runner.submit(bide.Workflow("w", [gated, other]))
    until_waiting(runner, 2)
    runner.skip(handle, "gated", by="ana", reason="not needed")
    eventually(lambda: [task.name for task in handle.why().tasks] == ["other"], "it is skipped")
    assert re.search(r"\n  task 'gated': skip by ana \S+ \S+ UTC \(\d s ago\): not needed\n", str(handle.why()))


def test_the_chain_of_child_runs_behind_a_wait_is_explained(runner: bide.Runner) -> None:
    @bide.task
    def deepest(handle: bide.TaskHandle) -> None:
        handle.wait(APPROVAL)

    def above(name: str, below: bide.Workflow) -> bide.Workflow:
        def body(handle: bide.TaskHandle) -> None:
            handle.run(below)

        return bide.Workflow(name, [bide.task(body, name="above")])

    workflow = bide.Workflow("level-0", [deepest])
    for level in range(1, 4):
        workflow = above(f"level-{level}", workflow)
    handle = runner.submit(workflow)
    until_waiting(runner, 4)
    why, names = handle.why(), []
    while why.children:
        (why,) = why.children.values()
        names.append(why.workflow)
    assert names == ["level-2", "level-1", "level-0"]
    shown = r"\n {12}run \S+ of 'level-0' is Running\n {14}task 'deepest' waits for approval"
    assert re.search(shown, str(handle.why()))
