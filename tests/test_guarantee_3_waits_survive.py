"""Guarantee 3: a wait is committed before its slot is released; its deadline is absolute: a crash does not extend it.

It never ends early by the wall clock and is never lost.
"""

import itertools
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import bide
from processes import Child, killed, ledger, ran

WAITS = """
flag = Path(db).with_suffix(".flag")

@bide.task
def waits(handle: bide.TaskHandle) -> str:
    note("enter", handle.attempt)
    handle.defer_until(flag.exists, poll_interval_ms=20)
    return "seen"

@bide.task
def neighbour() -> None:
    say("neighbour")     # with one slot: the wait has given its slot back
    if "stay" in words:
        stay()

with bide.Runner(db, slots=1) as runner:
    say(runner.run(bide.Workflow("w", [waits, neighbour]), key="k")["waits"])
"""


def test_the_next_body_in_the_slot_finds_the_wait_in_the_store(file: Path) -> None:
    with Child(WAITS, file, "stay") as child, bide.Runner(file) as reader:
        child.expect("neighbour")
        seen = reader.get("k").tasks["waits"]
        assert seen.status is bide.TaskStatus.Running
        assert seen.sub_status is bide.SubStatus.Deferred


def test_a_wait_whose_process_dies_continues_and_is_satisfied(file: Path) -> None:
    killed(WAITS, file, "stay", at="neighbour")
    file.with_suffix(".flag").touch()
    assert "seen" in ran(WAITS, file)
    assert ledger(file) == ["enter 1", "enter 1"]  # the same attempt, entered again


def test_a_wait_that_was_satisfied_is_not_asked_again(file: Path) -> None:
    script = """
    def ready() -> str:
        note("asked")
        return "yes"

    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        got = handle.defer_until(ready)
        say("past the wait")
        if "stay" in words:
            stay()
        return got

    with bide.Runner(db) as runner:
        say(runner.run(bide.Workflow("w", [waits]), key="k")["waits"])
    """
    killed(script, file, "stay", at="past the wait")
    assert ran(script, file)[-1] == "yes"
    assert ledger(file) == ["asked"]


SLEEPS = """
seconds = float(words[0])

@bide.task
def sleeps(handle: bide.TaskHandle) -> float:
    if words[1] == "sleep":
        handle.sleep(seconds)
    else:
        try:
            handle.defer_until(lambda: False, poll_interval_ms=20, timeout=seconds)
        except bide.WaitTimeout:
            pass
    say("woke", time.time())
    return time.time()

@bide.task
def neighbour() -> float:
    say("neighbour", time.time())
    return time.time()

with bide.Runner(db, slots=1) as runner:
    say(runner.run(bide.Workflow("w", [sleeps, neighbour]), key="k")["sleeps"])
"""


@pytest.mark.parametrize("how", ["sleep", "timeout"])
def test_a_crash_does_not_extend_the_remaining_time_of_a_wait(file: Path, how: str) -> None:
    seconds = 1.5
    with Child(SLEEPS, file, str(seconds), how) as child:
        began = float(child.after("neighbour"))
        child.kill()
    with Child(SLEEPS, file, str(seconds), how) as child:
        woke = float(child.after("woke"))
        child.join()
    # The wait began just before the neighbour started.
    assert began + seconds - 0.2 <= woke <= began + seconds + 0.6


@pytest.mark.parametrize("how", ["sleep", "timeout"])
def test_a_wait_that_ended_during_downtime_ends_at_once(file: Path, how: str) -> None:
    with Child(SLEEPS, file, "0.2", how) as child:
        began = float(child.after("neighbour"))
        child.kill()
    time.sleep(max(0.0, began + 0.25 - time.time()))  # the test waits for the clock
    with Child(SLEEPS, file, "0.2", how) as child:
        child.after("woke")
        child.join()


def test_a_gate_keeps_its_moment_across_a_crash(file: Path) -> None:
    script = """
    @bide.task(gate=bide.after(1.5))
    def gated() -> float:
        return time.time()

    @bide.task
    def neighbour() -> None:
        say("neighbour", time.time())

    with bide.Runner(db) as runner:
        say(runner.run(bide.Workflow("w", [gated, neighbour]), key="k")["gated"])
    """
    with Child(script, file) as child:
        began = float(child.after("neighbour"))
        child.kill()
    woke = float(ran(script, file)[-1])
    assert began + 1.5 - 0.2 <= woke <= began + 2.1


def test_no_sleep_ends_early_by_the_wall_clock(runner: bide.Runner) -> None:
    def sleeper(n: int) -> float:
        return 0.001 * n

    early: list[float] = []

    @bide.task
    def sleeps(handle: bide.TaskHandle) -> None:
        for n in range(20):
            began = time.time()
            handle.sleep(sleeper(n), name=f"s{n}")
            if time.time() < began + sleeper(n):
                early.append(began + sleeper(n) - time.time())

    @bide.task
    def sleeps_until(handle: bide.TaskHandle) -> None:
        for n in range(20):
            moment = datetime.now(UTC) + timedelta(milliseconds=n, microseconds=7)
            handle.sleep_until(moment, name=f"u{n}")
            if datetime.now(UTC) < moment:
                early.append((moment - datetime.now(UTC)).total_seconds())

    runner.run(bide.Workflow("w", [sleeps, sleeps_until]))
    assert early == []


@pytest.mark.alone
def test_no_wait_of_many_is_lost_when_the_process_dies(file: Path) -> None:
    script = """
    flag = Path(db).with_suffix(".flag")

    def waiter(n):
        def waits(handle: bide.TaskHandle) -> int:
            handle.defer_until(flag.exists, poll_interval_ms=20)
            note("woke", n)
            return n
        return bide.task(waits, name=f"w{n}")

    @bide.task
    def last() -> None:
        say("last")

    workflow = bide.Workflow("w", [*map(waiter, range(60)), last])
    with bide.Runner(db, slots=1) as runner:
        handle = runner.submit(workflow, key="k")
        if "stay" in words:
            while sum(t.sub_status is bide.SubStatus.Deferred for t in handle._snapshot().tasks.values()) < 60:
                time.sleep(0.005)
            say("all deferred")
            stay()
        say(sum(handle.result().outputs[f"w{n}"] for n in range(60)))
    """
    killed(script, file, "stay", at="all deferred")
    file.with_suffix(".flag").touch()
    assert ran(script, file)[-1] == str(sum(range(60)))
    assert sorted(ledger(file)) == sorted(f"woke {n}" for n in range(60))


@pytest.mark.alone
def test_a_wait_is_over_at_the_poll_after_its_condition_holds(runner: bide.Runner) -> None:
    holds = threading.Event()
    polls = itertools.count()
    late: list[float] = []
    since: list[float] = []

    def condition() -> bool:
        if next(polls) == 3:
            since.append(time.monotonic())
            holds.set()
        return holds.is_set()

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        handle.defer_until(condition, poll_interval_ms=10)
        late.append(time.monotonic() - since[0])

    runner.run(bide.Workflow("w", [waits]))
    assert late[0] < 0.2
    assert next(polls) == 4
