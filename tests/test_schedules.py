"""Schedules: each tick starts one run, also across crashes and with several runners."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

import bide
import bide.testing
from processes import Child, eventually

KINDS = ("memory", "sqlite", "postgres")

WEEK = timedelta(days=7)


@bide.task
def work(scheduled_at: datetime, customer: str = "nobody") -> str:
    return f"{customer} {scheduled_at.isoformat()}"


workflow = bide.Workflow("w", [work])


def keys(runner: bide.Runner | bide.Client, name: str) -> list[str]:
    """The keys of a schedule's runs, the oldest tick first."""
    return sorted(run.key or "" for run in runner.runs(key_prefix=f"{name}@"))


def rewind(file: Path, span: timedelta) -> None:
    """Have a store that nobody uses look as if no runner had been there for this long."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE schedule SET decided = decided - ?", [span // timedelta(microseconds=1)])


def test_each_tick_starts_one_run_with_its_moment(runner: bide.Runner) -> None:
    made = runner.schedule("often", workflow, timedelta(seconds=0.05), inputs={"customer": "ana"})
    assert made.workflow == "w"
    assert made.when == timedelta(seconds=0.05)
    assert made.inputs == {"customer": "ana"}
    assert made.next is not None
    eventually(lambda: len(keys(runner, "often")) > 3, "three ticks have started runs")
    runner.unschedule("often")
    assert runner.schedules() == []
    for run in runner.runs(key_prefix="often@"):
        moment = datetime.fromisoformat((run.key or "").removeprefix("often@"))
        assert (moment - made.created_at) % timedelta(seconds=0.05) == timedelta()
        assert runner.get(run.id).id == run.id
        eventually(lambda run=run: runner.get(run.id).status is bide.RunStatus.Completed, "the run ends")  # type: ignore[misc]
        assert runner.get(run.id)["work"] == f"ana {moment.isoformat()}"


def test_a_cron_expression_of_seconds_starts_runs(runner: bide.Runner) -> None:
    made = runner.schedule("seconds", workflow, "* * * * * *", tz="Europe/Berlin")
    assert made.when == bide.Cron("* * * * * *", "Europe/Berlin")
    eventually(lambda: len(keys(runner, "seconds")) > 1, "two seconds have passed")
    moments = [datetime.fromisoformat(key.removeprefix("seconds@")) for key in keys(runner, "seconds")]
    assert all(moment.microsecond == 0 for moment in moments)
    assert moments[1] - moments[0] == timedelta(seconds=1)


SERVED = """
@bide.task
def work(scheduled_at: str) -> str:
    note(scheduled_at)
    return scheduled_at

workflow = bide.Workflow("w", [work])
from datetime import timedelta
runner = bide.Runner(db, slots=2)
runner.schedule("often", workflow, timedelta(seconds=0.05), on_miss="all")
say("serves")
stay()
"""


def test_runners_that_are_killed_leave_no_tick_out_and_start_none_twice(file: Path) -> None:
    with ExitStack() as stack:

        def begin() -> Child:
            return stack.enter_context(Child(SERVED, file)).expect("serves")

        children = [begin(), begin()]
        client = stack.enter_context(bide.Client(file))
        seen = 0
        for _ in range(3):
            eventually(lambda seen=seen: len(keys(client, "often")) > seen + 10, "ten ticks have started runs")  # type: ignore[misc]
            seen = len(keys(client, "often"))
            children.pop(0).kill()
            children.append(begin())
        client.pause_schedule("often")
        all_keys = keys(client, "often")
        moments = [datetime.fromisoformat(key.removeprefix("often@")) for key in all_keys]
        steps = {after - before for before, after in pairwise(moments)}
        assert steps == {timedelta(seconds=0.05)}
        ended = bide.RunStatus.Completed
        eventually(lambda: all(run.status is ended for run in client.runs()), "all runs have ended")
        assert {run["work"] for run in client.runs()} == {key.removeprefix("often@") for key in all_keys}
        assert len(client.runs()) == len(all_keys)


@pytest.mark.parametrize(("on_miss", "started"), [("latest", 1), ("all", 7), ("skip", 0)])
def test_after_a_week_without_a_runner_on_miss_says_what_starts(file: Path, on_miss: str, started: int) -> None:
    now = datetime.now(UTC)
    # Once a day, half a day from now.
    when = f"{now.minute} {(now.hour + 12) % 24} * * *"
    with bide.Runner(file) as runner:
        runner.schedule("daily", workflow, when, on_miss=on_miss)  # type: ignore[arg-type]
    rewind(file, WEEK)
    with bide.Runner(file, workflows=[workflow]) as runner:
        runner.schedule("other", workflow, timedelta(seconds=0.05))
        # Also once it has skipped what it leaves to other runners for a second.
        eventually(lambda: len(keys(runner, "daily")) >= started and len(keys(runner, "other")) > 30, "it has served")
        found = [datetime.fromisoformat(key.removeprefix("daily@")) for key in keys(runner, "daily")]
        assert len(found) == started
        assert all(now - WEEK < moment < now for moment in found)
        if on_miss == "latest":
            assert now - timedelta(days=1) < found[0]


def held(release: threading.Event, begun: Callable[[], None]) -> bide.Workflow:
    @bide.task
    def hold(handle: bide.TaskHandle) -> None:
        begun()
        handle.defer_until(release.is_set, 10)

    return bide.Workflow("held", [hold])


def statuses(runner: bide.Runner, name: str) -> list[bide.RunStatus]:
    return [run.status for run in sorted(runner.runs(key_prefix=f"{name}@"), key=lambda run: run.key or "")]


def test_overlap_skip_starts_no_run_beside_another(runner: bide.Runner) -> None:
    release, begun = threading.Event(), threading.Semaphore(0)
    runner.schedule("one", held(release, begun.release), timedelta(seconds=0.03), overlap="skip")
    runner.schedule("clock", workflow, timedelta(seconds=0.03))
    assert begun.acquire(timeout=30)
    eventually(lambda: len(keys(runner, "clock")) > 10, "ten ticks have passed")
    assert len(keys(runner, "one")) == 1
    release.set()
    assert begun.acquire(timeout=30)
    eventually(lambda: len(keys(runner, "one")) > 1, "the next tick starts a run")


def test_overlap_queue_starts_the_runs_one_after_the_other(runner: bide.Runner) -> None:
    release, begun = threading.Event(), threading.Semaphore(0)
    runner.schedule("one", held(release, begun.release), timedelta(seconds=0.03), overlap="queue")
    assert begun.acquire(timeout=30)
    eventually(lambda: len(runner.schedules()[0].queued) > 3, "ticks wait")
    assert statuses(runner, "one") == [bide.RunStatus.Running]
    runner.pause_schedule("one")
    waiting = runner.schedules()[0].queued
    runner.resume_schedule("one")
    release.set()
    eventually(lambda: len(keys(runner, "one")) > len(waiting), "what has waited has started")
    started = [datetime.fromisoformat(key.removeprefix("one@")) for key in keys(runner, "one")]
    assert tuple(started[1 : len(waiting) + 1]) == waiting


def test_overlap_cancel_cancels_the_earlier_run_and_starts_after_it(runner: bide.Runner) -> None:
    never, begun = threading.Event(), threading.Semaphore(0)
    runner.schedule("one", held(never, begun.release), timedelta(seconds=0.2), overlap="cancel")
    for _ in range(3):
        assert begun.acquire(timeout=30)
    first, second, *_ = sorted(runner.runs(key_prefix="one@"), key=lambda run: run.key or "")
    assert (first.status, second.status) == (bide.RunStatus.Cancelled, bide.RunStatus.Cancelled)
    asked = [entry for entry in runner.history(first.id) if entry.what == "cancel"]
    assert [entry.by for entry in asked] == ["schedule one"]


def test_a_paused_schedule_starts_nothing_and_goes_on_from_the_next_tick(runner: bide.Runner) -> None:
    runner.schedule("one", workflow, timedelta(seconds=0.03), on_miss="all")
    runner.schedule("clock", workflow, timedelta(seconds=0.03))
    eventually(lambda: len(keys(runner, "one")) > 1, "it runs")
    runner.pause_schedule("one")
    paused = {one.name: one for one in runner.schedules()}["one"]
    assert paused.paused
    assert paused.next is None
    before, ticks = keys(runner, "one"), len(keys(runner, "clock"))
    eventually(lambda: len(keys(runner, "clock")) > ticks + 5, "five ticks have passed")
    assert keys(runner, "one") == before
    runner.resume_schedule("one")
    eventually(lambda: len(keys(runner, "one")) > len(before), "it runs again")
    first = datetime.fromisoformat(keys(runner, "one")[len(before)].removeprefix("one@"))
    assert first - paused.paused_at > timedelta(seconds=0.03)  # type: ignore[operator]


def test_a_call_that_says_the_same_again_changes_nothing(file: Path) -> None:
    def made() -> bide.Schedule:
        return runner.schedule("a", workflow, timedelta(hours=1), inputs={"customer": "ana"}, jitter=3)

    with bide.Runner(file) as runner:
        first = made()
        assert made() == first
        changed = runner.schedule("a", workflow, timedelta(hours=1), overlap="skip")
        # The ticks are those that it had.
        assert (changed.next, changed.created_at, changed.overlap) == (first.next, first.created_at, "skip")
    with bide.Runner(file) as runner:
        assert made() == first


def test_other_ticks_count_for_the_future_only(file: Path) -> None:
    now = datetime.now(UTC)
    when = [f"{now.minute} {(now.hour + hours) % 24} * * *" for hours in (6, 12)]
    with bide.Runner(file) as runner:
        runner.schedule("daily", workflow, when[0], on_miss="all")
    rewind(file, timedelta(days=2))
    with bide.Runner(file) as runner:
        changed = runner.schedule("daily", workflow, when[1], on_miss="all")
        # What had been missed starts at the times that held then.
        hours = {datetime.fromisoformat(key.removeprefix("daily@")).hour for key in keys(runner, "daily")}
        assert hours == {(now.hour + 6) % 24}
        assert len(keys(runner, "daily")) == 2
        assert changed.next is not None
        assert changed.next.hour == (now.hour + 12) % 24


def test_trigger_starts_a_run_at_once_also_if_it_is_paused(runner: bide.Runner) -> None:
    runner.schedule("daily", workflow, "@daily", inputs={"customer": "ana"})
    runner.pause_schedule("daily")
    before = datetime.now(UTC)
    handle = runner.trigger("daily")
    moment = datetime.fromisoformat((handle.key or "").removeprefix("daily@"))
    assert before - timedelta(seconds=5) < moment < datetime.now(UTC) + timedelta(seconds=5)
    assert handle.result()["work"] == f"ana {moment.isoformat()}"
    assert runner.schedules()[0].last_run == handle.id


def test_backfill_starts_the_runs_of_past_ticks_once(runner: bide.Runner) -> None:
    runner.schedule("berlin", workflow, bide.Cron("30 2 * * *", ZoneInfo("Europe/Berlin")))
    since, until = datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 3, 30, 0, 30, tzinfo=UTC)
    started = runner.backfill("berlin", since, until)
    # At 02:30; on the day without it, when clocks go from 02:00 to 03:00.
    moments = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    assert [handle.key for handle in started] == [f"berlin@{moment}" for moment in moments]
    assert [handle.result()["work"] for handle in started] == [f"nobody {moment[:-1]}+00:00" for moment in moments]
    again = runner.backfill("berlin", since, until)
    assert [handle.id for handle in again] == [handle.id for handle in started]


def test_a_client_defines_what_a_runner_serves(file: Path) -> None:
    with bide.Runner(file, workflows=[workflow]) as runner, bide.Client(file) as client:
        client.schedule("often", workflow, timedelta(seconds=0.05))
        eventually(lambda: len(keys(client, "often")) > 2, "a runner serves it")
        assert [one.name for one in runner.schedules()] == ["often"]
        client.unschedule("often")
        with pytest.raises(KeyError, match="no schedule is named 'often'"):
            runner.pause_schedule("often")


def test_a_schedule_outlives_its_runs(file: Path) -> None:
    with bide.Runner(file, retention=0.01) as runner:
        runner.schedule("often", workflow, timedelta(seconds=0.05))
        eventually(lambda: runner.schedules()[0].last is not None, "a tick")
        last = runner.schedules()[0].last
        eventually(lambda: last not in {one.last for one in runner.schedules()}, "another tick")
        eventually(lambda: len(keys(runner, "often")) < 2, "the first run is deleted")


def test_the_workflow_s_timeout_holds_for_scheduled_runs(runner: bide.Runner) -> None:
    @bide.task
    def hold(handle: bide.TaskHandle) -> None:
        handle.defer_until(lambda: False, 10)

    runner.schedule("one", bide.Workflow("limited", [hold], timeout=0.05), timedelta(seconds=0.05))
    eventually(lambda: any(status is bide.RunStatus.Failed for status in statuses(runner, "one")), "its time is up")


def bad_inputs() -> dict[str, tuple[Callable[[bide.Runner], object], str]]:
    other = bide.Workflow("other", [work])

    @bide.task
    def wrong(scheduled_at: int) -> int:
        return scheduled_at

    past = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    return {
        "a cron expression that never fires": (lambda r: r.schedule("a", workflow, "0 0 30 2 *"), "matches no moment"),
        "a zone that does not exist": (
            lambda r: r.schedule("a", workflow, "@daily", tz="Europe/Berlni"),
            "did you mean 'Europe/Berlin'",
        ),
        "offset": (lambda r: r.schedule("a", workflow, "@daily", tz=timezone(timedelta(hours=1))), "Europe/Berlin"),
        "expression": (lambda r: r.schedule("a", workflow, "61 * * * *"), "'61 . . . .' cannot be read"),
        "when": (lambda r: r.schedule("a", workflow, 60), "must be a cron expression"),
        "zero": (lambda r: r.schedule("a", workflow, timedelta()), "must be positive"),
        "tz of a span": (lambda r: r.schedule("a", workflow, timedelta(1), tz="UTC"), "is for cron expressions"),
        "on_miss": (lambda r: r.schedule("a", workflow, "@daily", on_miss="none"), "'latest', 'all', 'skip'"),
        "overlap": (lambda r: r.schedule("a", workflow, "@daily", overlap="no"), "'queue', 'cancel'"),
        "moment": (lambda r: r.schedule("a", workflow, "@daily", inputs={"scheduled_at": 1}), "leave it out"),
        "moment's type": (lambda r: r.schedule("a", bide.Workflow("x", [wrong]), "@daily"), "annotate it datetime"),
        "input": (lambda r: r.schedule("a", workflow, "@daily", inputs={"custmer": "x"}), "did you mean 'customer'"),
        "name": (lambda r: r.schedule("", workflow, "@daily"), "non-empty"),
        "a name twice with another workflow": (
            lambda r: r.schedule("known", other, "@daily"),
            "starts runs of workflow 'w'",
        ),
        "too many": (lambda r: r.backfill("known", *past), "more than 10,000 ticks"),
        "future": (lambda r: r.backfill("known", past[0], datetime(2226, 1, 1, tzinfo=UTC)), "in the future"),
        "backwards": (lambda r: r.backfill("known", past[1], past[0]), "is before since"),
    }


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_refused_with_its_reason_and_changes_nothing(file: Path, case: str) -> None:
    with bide.Runner(file) as runner:
        before = runner.schedule("known", workflow, "*/5 * * * *")
        act, reason = bad_inputs()[case]
        with pytest.raises(bide.DefinitionError, match=reason):
            act(runner)
        assert runner.schedules() == [before]
        assert runner.runs() == []


def test_ticks_follow_a_clock_that_is_moved_by_hand() -> None:
    start = datetime(2026, 3, 28, 12, tzinfo=UTC)
    with bide.testing.Runner(start=start) as runner:
        runner.schedule("berlin", workflow, "30 2 * * *", tz="Europe/Berlin")
        runner.advance(3 * 86_400)
        found = sorted(run["work"] for run in runner.runs(key_prefix="berlin@"))
        assert found == [f"nobody 2026-03-{moment}+00:00" for moment in ("29T01:00:00", "30T00:30:00", "31T00:30:00")]
