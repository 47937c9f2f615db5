"""Watches: each key of a source starts one run, also across crashes and with several runners."""

import asyncio
import contextvars
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import bide
import bide.testing
from processes import Child, eventually, ledger

KINDS = ("memory", "sqlite", "postgres")

SOON = 0.02


@bide.task
def work(n: int) -> int:
    return 2 * n


@bide.task
def other() -> None:
    pass


workflow = bide.Workflow("w", [work])
another = bide.Workflow("other", [other])


def items(*numbers: int) -> list[tuple[str, dict[str, int]]]:
    return [(str(n), {"n": n}) for n in numbers]


def keys(runner: bide.Runner | bide.Client, name: str = "inbox") -> set[str]:
    return {(run.key or "").removeprefix(f"{name}@") for run in runner.runs(key_prefix=f"{name}@")}


def only(runner: bide.Runner | bide.Client) -> bide.Watch:
    [watch] = runner.watches()
    return watch


def completed(runner: bide.Runner, count: int) -> None:
    done = bide.RunStatus.Completed
    eventually(lambda: len(runner.runs(status=done, workflow="w")) >= count, f"{count} runs have ended")


def test_each_new_item_starts_one_run_with_its_inputs_and_key(runner: bide.Runner) -> None:
    there = [1, 2]

    def source(cursor: Any) -> Any:
        assert cursor is None
        return items(*there, *there), None

    made = runner.watch("inbox", workflow, source, every=SOON)
    assert (made.name, made.workflow, made.every, made.cursor, made.paused) == ("inbox", "w", SOON, None, False)
    completed(runner, 2)
    there.append(3)
    completed(runner, 3)
    assert {run.key: run["work"] for run in runner.runs()} == {"inbox@1": 2, "inbox@2": 4, "inbox@3": 6}
    watch = only(runner)
    assert (watch.started, watch.served, watch.error) == (3, True, None)
    assert watch.last is not None
    assert runner.get(watch.last_run or "").key == "inbox@3"


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_the_cursor_comes_back_with_its_type_also_after_a_restart(file: Path, is_async: bool) -> None:
    seen: list[datetime | None] = []
    start = datetime.fromisoformat("2026-01-01T00:00:00+00:00")

    def source(cursor: datetime | None) -> tuple[list[Any], datetime]:
        seen.append(cursor)
        after = start if cursor is None else cursor + timedelta(days=1)
        return items(after.day), after

    async def async_source(cursor: datetime | None) -> tuple[list[Any], datetime]:
        await asyncio.sleep(0)
        return source(cursor)

    for _ in range(2):
        with bide.Runner(file) as runner:
            runner.watch("inbox", workflow, async_source if is_async else source, every=SOON)
            calls = len(seen)
            eventually(lambda calls=calls: len(seen) > calls + 2, "it was called")  # type: ignore[misc]
    assert seen[0] is None
    days = [cursor for cursor in seen if cursor is not None]
    # The last call of the first runner may not have been committed.
    assert all(later - earlier in {timedelta(days=1), timedelta()} for earlier, later in pairwise(days))
    assert len(set(days)) > 3


def test_a_key_starts_no_second_run_after_retention_and_unwatch(file: Path) -> None:
    called = threading.Semaphore(0)

    def source(_cursor: Any) -> Any:
        called.release()
        return items(1), None

    with bide.Runner(file, retention=0.01) as runner:
        runner.watch("inbox", workflow, source, every=SOON)
        eventually(lambda: only(runner).started == 1 and not runner.runs(), "its run was purged")
        runner.unwatch("inbox")
        assert runner.watches() == []
        runner.watch("inbox", workflow, source, every=SOON)
        for _ in range(20):
            called.acquire()
        assert (only(runner).started, only(runner).error) == (0, None)
        assert not runner.runs()


WATCHED = """
import fcntl
began = Path(db).with_suffix(".began")

@bide.task
def work(n: int) -> int:
    note("works", n)
    return n

alone = open(Path(db).with_suffix(".alone"), "w")

def source(cursor: int | None):
    "An item with each 10 ms; the last ones are returned again. Only one process calls it at a time."
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("together", os.getpid())
        raise
    now = int((time.time() - began.stat().st_mtime) * 100)
    found = [(str(n), {"n": n}) for n in range(max((cursor or 0) - 3, 0), now)]
    time.sleep(0.002)
    fcntl.flock(alone, fcntl.LOCK_UN)
    return found, now

runner = bide.Runner(db, slots=2)
runner.watch("inbox", bide.Workflow("w", [work]), source, every=0.02)
say("serves")
stay()
"""


def test_runners_that_are_killed_leave_no_item_out_and_start_none_twice(file: Path) -> None:
    file.with_suffix(".began").touch()
    with ExitStack() as stack:

        def begin() -> Child:
            return stack.enter_context(Child(WATCHED, file)).expect("serves")

        children = [begin(), begin()]
        client = stack.enter_context(bide.Client(file))
        for _ in range(3):
            seen = only(client).started
            eventually(lambda seen=seen: only(client).started > seen + 10, "ten items have started runs")  # type: ignore[misc]
            children.pop(0).kill()
            children.append(begin())
        client.pause_watch("inbox")
        last = only(client).cursor
        expected = {str(n) for n in range(last)}
        ended = bide.RunStatus.Completed
        eventually(lambda: all(run.status is ended for run in client.runs()), "all runs have ended")
        assert keys(client) == expected
        assert (len(client.runs()), only(client).started) == (last, last)
        assert not [line for line in ledger(file) if line.startswith("together")]


def test_the_source_of_a_runner_that_closes_is_called_by_another_one(store: str) -> None:
    calls: list[str] = []

    def source(name: str) -> Callable[[Any], Any]:
        def call(_cursor: Any) -> Any:
            calls.append(name)
            return [], None

        return call

    with bide.Runner(store) as first:
        first.watch("inbox", workflow, source("first"), every=SOON)
        eventually(lambda: len(calls) > 2, "it is called")
    calls.clear()
    if store == ":memory:":
        return
    with bide.Runner(store) as first, bide.Runner(store) as second:
        first.watch("inbox", workflow, source("first"), every=SOON)
        eventually(lambda: len(calls) > 2, "it is called")
        second.watch("inbox", workflow, source("second"), every=SOON)
        seen = len(calls)
        eventually(lambda: len(calls) > seen + 5, "it is called again")
        assert set(calls) == {"first"}
        assert only(second).served
        assert only(second).next is None
        first.close()
        eventually(lambda: "second" in calls, "the other one calls it")


def test_the_same_name_again_replaces_the_source_and_keeps_the_cursor(runner: bide.Runner) -> None:
    runner.watch("inbox", workflow, lambda cursor: ([], (cursor or 0) + 1), every=SOON)
    eventually(lambda: only(runner).cursor, "it has a cursor")
    seen: list[int | None] = []

    def source(cursor: int | None) -> Any:
        seen.append(cursor)
        return items(9), cursor

    assert runner.watch("inbox", workflow, source, every=2 * SOON).every == 2 * SOON
    completed(runner, 1)
    assert seen[0] is not None


def test_a_source_that_raises_is_logged_once_shown_and_called_again(
    runner: bide.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def source(_cursor: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise OSError("no such folder")
        return items(1), None

    runner.watch("inbox", workflow, source, every=SOON)
    eventually(lambda: only(runner).error, "it has failed")
    watch = only(runner)
    assert re.fullmatch(rf"OSError: no such folder \({re.escape(__file__)}, line \d+\)", watch.error or "")
    assert watch.failing_since is not None
    completed(runner, 1)
    assert (only(runner).error, only(runner).failing_since) == (None, None)
    lines = [record.message for record in caplog.records if "inbox" in record.message]
    assert len(lines) == 1
    assert lines[0].startswith("watch 'inbox': its source ")
    assert "source failed and is called again in 20ms: OSError: no such folder" in lines[0]


WRONG: dict[str, Any] = {
    "a list": lambda _: [("1", {"n": 1})],
    "nothing": lambda _: None,
    "a text": lambda _: ("1", None),
    "a dict": lambda _: ({"1": {"n": 1}}, None),
    "no pair": lambda _: (["1"], None),
    "a number as key": lambda _: ([(1, {"n": 1})], None),
    "an empty key": lambda _: ([("", {"n": 1})], None),
    "a generator that raises": lambda _: ((1 / 0 for _ in [1]), None),
    "other inputs": lambda _: ([("1", {"m": 1})], None),
    "inputs of another type": lambda _: ([("1", {"n": "x"})], None),
    "a cursor that cannot be stored": lambda _: ([], object()),
    "a coroutine that raises": lambda _: failing(),
}


async def failing() -> None:
    raise ValueError("boo")


@pytest.mark.parametrize("case", WRONG)
def test_what_a_source_may_not_return_is_shown_and_starts_nothing(case: str) -> None:
    with bide.Runner(":memory:") as runner:
        runner.watch("inbox", workflow, WRONG[case], every=SOON)
        eventually(lambda: only(runner).error, "it has failed")
        error = only(runner).error or ""
        expected = {
            "a list": "it returned [('1', {'n': 1})]: a source returns (items, cursor): a list of (key, inputs), and",
            "nothing": "it returned None: a source returns (items, cursor)",
            "a text": "it returned '1' as items: a source returns",
            "a dict": "it returned {'1': {'n': 1}} as items: a source returns",
            "no pair": "it returned the item '1': a source returns",
            "a number as key": "it returned the item (1, {'n': 1}): a source returns",
            "an empty key": "the key of an item",
            "a generator that raises": "ZeroDivisionError: division by zero",
            "other inputs": "the item '1': workflow 'w'",
            "inputs of another type": "the item '1': input 'n' of workflow 'w' is not what task 'work' takes",
            "a cursor that cannot be stored": "cursor",
            "a coroutine that raises": "ValueError: boo",
        }[case]
        assert expected in error
        assert not runner.runs()
        assert only(runner).started == 0


def test_a_source_that_blocks_holds_up_neither_others_nor_the_close(file: Path) -> None:
    release, blocked = threading.Event(), threading.Event()

    def blocks(_cursor: Any) -> Any:
        blocked.set()
        release.wait()
        return items(99), None

    @bide.task(gate=bide.until(blocked.is_set, every=0.01))
    def gated() -> int:
        return 1

    try:
        with bide.Runner(file, slots=1) as runner:
            for name in ("a", "b", "c"):
                runner.watch(name, workflow, blocks, every=SOON)
            assert blocked.wait(30)
            runner.watch("inbox", workflow, lambda _: (items(1), None), every=SOON)
            assert runner.run(bide.Workflow("gated", [gated]), timeout=30)[gated] == 1
            completed(runner, 1)
            watches = {one.name: one for one in runner.watches()}
            assert watches["a"].calling is not None
            assert watches["a"].next is None
            begun = time.monotonic()
        assert time.monotonic() - begun < 20
    finally:
        release.set()
    with bide.Client(file) as client:
        assert keys(client, "a") == set()


def test_an_async_source_may_wait_and_ends_with_its_runner() -> None:
    ended = threading.Event()

    async def waits(_cursor: Any) -> Any:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.set()
            raise

    async def main() -> None:
        async with bide.Runner(":memory:") as runner:
            await runner.watch_async("long", workflow, waits, every=SOON)
            loop = asyncio.get_running_loop()

            called = asyncio.Event()

            async def here(_cursor: Any) -> Any:
                assert asyncio.get_running_loop() is loop
                called.set()
                return [], None

            await runner.watch_async("inbox", workflow, here, every=SOON)
            await called.wait()
            assert {one.name: one.calling is None for one in await runner.watches_async()}["long"] is False

    asyncio.run(main())
    assert ended.wait(30)
    with bide.Runner(":memory:") as runner:
        ended.clear()
        runner.watch("long", workflow, waits, every=SOON)
        eventually(lambda: only(runner).calling, "it is called")
        # Another source takes its place, and is called though it has not returned.
        runner.watch("long", workflow, lambda _: (items(1), None), every=SOON)
        completed(runner, 1)
        assert ended.wait(30)


def test_a_paused_watch_calls_nothing_until_it_is_resumed(runner: bide.Runner) -> None:
    called = threading.Semaphore(0)

    def source(cursor: int | None) -> Any:
        called.release()
        return [], (cursor or 0) + 1

    runner.watch("inbox", workflow, source, every=SOON)
    assert called.acquire(timeout=30)
    client = bide.Client(runner)
    client.pause_watch("inbox")
    cursor = only(runner).cursor
    assert only(runner).paused
    runner.watch("clock", workflow, lambda cursor: ([], (cursor or 0) + 1), every=SOON)
    eventually(
        lambda: ({one.name: one for one in runner.watches()}["clock"].cursor or 0) > 5,
        "another one is called for a while",
    )
    runner.unwatch("clock")
    # What was under way when it was paused changes nothing.
    assert only(client).cursor == cursor
    client.resume_watch("inbox")
    eventually(lambda: only(runner).cursor > cursor, "it is called again")
    with pytest.raises(KeyError, match=r"no watch is named 'outbox' \(watches: 'inbox'\)"):
        client.unwatch("outbox")
    client.unwatch("inbox")
    with pytest.raises(KeyError, match=r"no watch is named 'inbox' \(watches: none\)"):
        runner.pause_watch("inbox")


def refused(*arguments: Any, **settings: Any) -> str:
    with bide.Runner(":memory:") as runner:
        runner.watch("taken", another, lambda _: ([], None), every=3600)
        with pytest.raises(bide.DefinitionError) as raised:
            runner.watch(*arguments, **settings)
        assert len(runner.watches()) == 1
        return str(raised.value)


def source(_cursor: object) -> Any:
    return [], None


def test_bad_arguments_are_refused_and_named() -> None:
    assert refused("w", workflow, source, every=0) == "watch 'w': every must be positive, not 0"
    assert "watch 'w': every must be seconds (a number) or a timedelta" in refused("w", workflow, source, every="5")
    assert refused("w", workflow, [1]) == "watch 'w': source must be a function that takes the cursor, not [1]"
    nothing = refused("w", workflow, lambda: ([], None))
    assert nothing.endswith("<lambda> is called with the cursor alone, and takes (nothing)")
    assert "is called with the cursor alone, and takes (a, b)" in refused("w", workflow, lambda a, b: None)
    assert refused("", workflow, source).startswith("watch: name")
    assert "a Runner runs a bide.Workflow, not 'w'" in refused("w", "w", source)
    assert refused("taken", workflow, source) == (
        "the watch 'taken' starts runs of workflow 'other': give this one another name, or remove that one, "
        "runner.unwatch('taken')"
    )
    assert not hasattr(bide.Client, "watch")


place = contextvars.ContextVar("place", default="nowhere")


def test_a_source_sees_the_contextvars_of_its_watch_and_is_no_body(runner: bide.Runner) -> None:
    seen: list[object] = []

    def source(_cursor: Any) -> Any:
        seen.append(place.get())
        place.set("changed")
        with pytest.raises(LookupError):
            bide.current()
        return [], None

    token = place.set("here")
    runner.watch("inbox", workflow, source, every=SOON)
    place.reset(token)
    eventually(lambda: len(seen) > 2, "it is called")
    assert set(seen) == {"here"}
    assert only(runner).error is None


class TestTime:
    @pytest.fixture
    def runner(self) -> Iterator[bide.testing.Runner]:
        with bide.testing.Runner(auto_advance=True) as runner:
            yield runner

    @pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
    def test_a_watch_is_polled_when_the_time_passes(self, runner: bide.testing.Runner, is_async: bool) -> None:
        times: list[datetime] = []

        def source(cursor: int | None) -> Any:
            times.append(runner.now)
            count = (cursor or 0) + 1
            return items(count), count

        async def async_source(cursor: int | None) -> Any:
            return source(cursor)

        begun = runner.now
        runner.watch("inbox", workflow, async_source if is_async else source, every=60)
        runner.run_until_waiting()
        assert times == [begun]
        runner.advance(300)
        assert times == [begun + timedelta(minutes=n) for n in range(6)]
        assert {run["work"] for run in runner.runs()} == {2, 4, 6, 8, 10, 12}
        runner.crash()
        runner.restart()
        # Called at once, like in a process that starts anew, and a minute later.
        runner.advance(60)
        assert len(runner.runs()) == 8

    def test_a_source_that_replaces_one_under_way_is_called_once_each_time(self, runner: bide.testing.Runner) -> None:
        called = threading.Event()
        times: list[datetime] = []

        async def waits(_cursor: Any) -> Any:
            called.set()
            await asyncio.Event().wait()

        def source(_cursor: Any) -> Any:
            times.append(runner.now)
            return [], None

        changed = bide.Workflow("w", [work, other])
        begun = runner.now
        runner.watch("inbox", workflow, waits, every=60)
        assert called.wait(30)
        runner.watch("inbox", changed, source, every=60)
        runner.run_until_waiting()
        runner.advance(120)
        assert times == [begun + timedelta(minutes=n) for n in range(3)]
        assert only(runner).error is None

    def test_a_watch_and_a_schedule_do_not_keep_a_runner_from_being_idle(self, runner: bide.testing.Runner) -> None:
        calls = 0

        def source(_cursor: Any) -> Any:
            nonlocal calls
            calls += 1
            return items(calls), None

        begun = runner.now
        runner.watch("inbox", workflow, source, every=60)
        runner.schedule("often", another, timedelta(minutes=1))
        runner.run_until_idle()
        assert (calls, runner.now) == (1, begun)
        assert [run["work"] for run in runner.runs()] == [2]

        @bide.task
        def sleeps(handle: bide.TaskHandle) -> None:
            handle.sleep(3600)

        runner.submit(bide.Workflow("sleeps", [sleeps]))
        runner.run_until_idle()
        assert runner.now - begun == timedelta(hours=1)
        assert calls == 61
        assert len(runner.runs(workflow="other")) == 60
