"""What a live run shows: events that bodies emit, read and followed from anywhere, and progress."""

import asyncio
import dataclasses
import itertools
import pickle
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from processes import Child, eventually, killed, ran

KINDS = ("memory", "sqlite", "postgres")

PATIENCE = 30.0


@dataclasses.dataclass
class State:
    epoch: int
    loss: float


@dataclasses.dataclass
class Other:
    name: str


def run(runner: bide.Runner, body: Callable[[bide.TaskHandle], object], **settings: Any) -> bide.RunResult:
    """Run a body alone."""
    return runner.run(bide.Workflow("w", [bide.task(body, name="body", **settings)]))


def values(runner: bide.Runner, run: str | bide.RunHandle | bide.RunResult, channel: str = "events") -> list[Any]:
    """Return the values of a channel, after checking that the offsets follow each other."""
    events = list(runner.events(run, channel))
    assert [event.offset for event in events] == list(range(1, len(events) + 1))
    return [event.value for event in events]


# --- emitting and reading ------------------------------------------------------------------------------------------


def test_an_event_has_value_offset_time_task_attempt_and_entry(runner: bide.Runner) -> None:
    before = datetime.now(UTC)
    asked = itertools.count()

    def body(handle: bide.TaskHandle) -> None:
        handle.emit({"at": [handle.attempt]})
        handle.step(lambda: handle.emit("in a step"), name="charge")

        def ready() -> bool:
            handle.emit(None)
            return next(asked) > 0

        handle.defer_until(ready, poll_interval_ms=1)
        handle.emit(1.5)
        if handle.attempt == 1:
            raise ValueError

    result = run(runner, body, retry=bide.Retry(attempts=2))
    events = list(runner.events(result))
    first = [({"at": [1]}, None), ("in a step", "charge"), (None, "ready"), (None, "ready"), (1.5, None)]
    second = [({"at": [2]}, None), (None, "ready"), (1.5, None)]  # the step is recorded
    assert [(event.value, event.entry.split(".")[-1] if event.entry else None) for event in events] == first + second
    assert [event.offset for event in events] == list(range(1, 9))
    assert [event.attempt for event in events] == [1] * 5 + [2] * 3
    assert {event.task for event in events} == {"body"}
    times = [event.time for event in events]
    assert times == sorted(times)
    assert before <= times[0]
    assert times[-1] <= datetime.now(UTC)
    assert list(runner.events(result, after=7)) == events[7:]
    assert list(runner.events(result, after=100)) == []


def test_a_run_is_named_by_its_id_key_handle_or_result(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        handle.emit(1)

    workflow = bide.Workflow("w", [bide.task(body)])
    handle = runner.submit(workflow, key="k")
    result = handle.result()
    named: str | bide.RunHandle | bide.RunResult
    for named in (handle, result, handle.id, "k"):
        assert values(runner, named) == [1]
        assert [event.value for event in runner.follow(named)] == [1]
        assert (event := runner.latest(named)) is not None
        assert event.value == 1
    assert [event.value for event in handle.events()] == [event.value for event in handle.follow()] == [1]
    assert handle.latest() == runner.latest("k")
    assert handle.latest("other") is None
    assert list(handle.events("other")) == list(handle.follow("other")) == []


def test_a_key_of_two_workflows_needs_the_workflow(runner: bide.Runner) -> None:
    @bide.task
    def body(handle: bide.TaskHandle) -> None:
        handle.emit(handle.run_id)

    workflows = [bide.Workflow(name, [body]) for name in ("one", "two")]
    for workflow in workflows:
        done = runner.run(workflow, key="k")
        for chosen in (workflow, workflow.name):
            assert [event.value for event in runner.events("k", workflow=chosen)] == [done.id]
            assert [event.value for event in runner.follow("k", workflow=chosen)] == [done.id]
            latest = runner.latest("k", workflow=chosen)
            assert latest is not None
            assert latest.value == done.id
    for read in (runner.events, runner.follow, runner.latest):
        with pytest.raises(KeyError, match="choose one with workflow="):
            read("k")


def test_channels_of_a_run_are_apart_and_shared_by_its_tasks(runner: bide.Runner) -> None:
    @bide.task
    def first(handle: bide.TaskHandle) -> None:
        handle.emit("a")
        handle.emit("x", channel="log")

    @bide.task(depends_on=[first])
    def second(handle: bide.TaskHandle) -> None:
        handle.emit("y", channel="log")
        handle.emit("b")

    workflow = bide.Workflow("w", [first, second])
    results = [runner.run(workflow), runner.run(workflow)]
    for result in results:
        assert values(runner, result) == ["a", "b"]
        assert values(runner, result, "log") == ["x", "y"]
        assert [event.task for event in runner.events(result, "log")] == ["first", "second"]


def test_events_of_many_threads_of_a_body_are_all_there_in_the_order_of_each(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        def emit(thread: int) -> None:
            for n in range(500):
                handle.emit([thread, n])

        threads = [threading.Thread(target=emit, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    found = values(runner, run(runner, body))
    assert len(found) == 2000
    for thread in range(4):
        assert [n for of, n in found if of == thread] == list(range(500))


def test_a_hundred_thousand_events_and_large_ones_are_all_there(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        for n in range(100_000):
            handle.emit(n)
        for n in range(40):
            handle.emit(f"{n}" * 50_000, channel="large")

    result = run(runner, body)
    assert values(runner, result) == list(range(100_000))
    assert values(runner, result, "large") == [f"{n}" * 50_000 for n in range(40)]
    assert [event.value for event in runner.follow(result, after=99_990)] == list(range(99_990, 100_000))


def test_a_channel_that_keeps_the_last_events_has_no_others(runner: bide.Runner) -> None:
    state = bide.channel("state", State, keep=2)

    def body(handle: bide.TaskHandle) -> None:
        for epoch in range(100):
            handle.emit(State(epoch, 0.5), channel=state)
            if epoch % 30 == 0:
                handle.step(int, name="commit")

    result = run(runner, body)
    assert [(event.offset, event.value) for event in runner.events(result, state)] == [
        (99, State(98, 0.5)),
        (100, State(99, 0.5)),
    ]
    assert (event := runner.latest(result, state)) is not None
    assert (event.offset, event.value) == (100, State(99, 0.5))
    assert values_of(runner, result, "state") == [{"epoch": 98, "loss": 0.5}, {"epoch": 99, "loss": 0.5}]


def values_of(runner: bide.Runner, run: bide.RunResult, channel: str) -> list[Any]:
    return [event.value for event in runner.events(run, channel)]


# --- following -----------------------------------------------------------------------------------------------------


def test_a_follower_sees_an_event_while_its_body_executes_and_ends_with_the_run(runner: bide.Runner) -> None:
    go = threading.Semaphore(0)

    def body(handle: bide.TaskHandle) -> None:
        for n in range(3):
            handle.emit(n)
            assert go.acquire(timeout=PATIENCE)  # it holds its slot and records nothing meanwhile

    handle = runner.submit(bide.Workflow("w", [bide.task(body)]))
    seen = []
    for event in handle.follow():
        seen.append(event.value)
        assert handle.status() is bide.RunStatus.Running
        go.release()
    assert seen == [0, 1, 2]
    assert handle.result()


def test_an_event_of_a_body_that_records_nothing_is_seen_within_50_ms(runner: bide.Runner) -> None:
    seen = threading.Semaphore(0)

    def body(handle: bide.TaskHandle) -> None:
        for _ in range(20):
            handle.emit(time.monotonic())
            assert seen.acquire(timeout=PATIENCE)  # so each one waits for the whole interval between commits

    delays = []
    for event in runner.submit(bide.Workflow("w", [bide.task(body)])).follow():
        delays.append(time.monotonic() - event.value)
        seen.release()
    assert len(delays) == 20
    assert min(delays) < 0.05  # the others may be late because the machine is busy


def test_a_follower_begins_after_an_offset_and_says_where_it_is(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        for n in range(5):
            handle.emit(n)

    result = run(runner, body)
    follower = runner.follow(result, after=2)
    assert next(follower).value == 2
    assert follower.after == 3
    assert [event.offset for event in runner.follow(result, after=follower.after)] == [4, 5]


def test_an_async_follower_leaves_the_loop_to_others(runner: bide.Runner) -> None:
    go = threading.Semaphore(0)

    def body(handle: bide.TaskHandle) -> None:
        for n in range(3):
            handle.emit(n)
            assert go.acquire(timeout=PATIENCE)

    async def main() -> list[int]:
        handle = runner.submit(bide.Workflow("w", [bide.task(body)]))
        came = asyncio.Event()
        seen: list[int] = []

        async def release() -> None:
            while len(seen) < 3:
                await came.wait()
                came.clear()
                go.release()

        releases = asyncio.create_task(release())
        async for event in handle.follow():
            seen.append(event.value)
            came.set()
        await releases
        await handle
        return seen

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == [0, 1, 2]


def test_an_async_follower_that_is_cancelled_goes_on_where_it_was(runner: bide.Runner) -> None:
    go = threading.Event()

    def body(handle: bide.TaskHandle) -> None:
        handle.emit(1)
        assert go.wait(PATIENCE)
        handle.emit(2)

    async def main() -> list[int]:
        handle = runner.submit(bide.Workflow("w", [bide.task(body)]))
        follower = handle.follow()
        seen = [(await anext(follower)).value]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(follower), 0.01)
        go.set()
        return seen + [event.value async for event in follower]

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == [1, 2]


def test_a_cancellation_that_comes_together_with_an_event_is_not_lost(runner: bide.Runner) -> None:
    @bide.task(gate=bide.signal("go"))
    def waits() -> None: ...

    async def main() -> None:
        follower = runner.submit(bide.Workflow("w", [waits])).follow()
        reader = asyncio.ensure_future(anext(follower))
        while follower._rung is None:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.001)
        follower._rung.set()
        reader.cancel()
        await asyncio.wait([reader], timeout=PATIENCE)
        assert reader.cancelled()

    asyncio.run(main())


def test_an_async_follower_goes_on_in_another_event_loop(runner: bide.Runner) -> None:
    go = threading.Event()

    def body(handle: bide.TaskHandle) -> None:
        handle.emit(1)
        assert go.wait(PATIENCE)
        handle.emit(2)

    follower = runner.submit(bide.Workflow("w", [bide.task(body)])).follow()

    async def first() -> None:
        assert (await anext(follower)).value == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(follower), 0.01)

    async def others() -> list[int]:
        waiting = asyncio.create_task(anext(follower))
        await asyncio.sleep(0)
        go.set()
        return [(await waiting).value, *[event.value async for event in follower]]

    asyncio.run(first())
    assert asyncio.run(asyncio.wait_for(others(), PATIENCE)) == [2]


def test_closing_the_runner_ends_a_follower_with_an_error(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        handle.emit(1)
        handle.defer_until(lambda: False)

    follower = runner.submit(bide.Workflow("w", [bide.task(body)])).follow()
    assert next(follower).value == 1
    closing = threading.Thread(target=runner.close)
    closing.start()
    with pytest.raises(bide.RunnerClosed):
        next(follower)
    closing.join()


EMITS = """
@bide.task
def body(handle: bide.TaskHandle) -> None:
    for n in range(3):
        handle.emit(n)
        say("emitted", n)
        handle.defer_until(Path(db).with_suffix(f".{n}").exists, poll_interval_ms=5, name=f"seen {n}")

workflow = bide.Workflow("w", [body])
"""

SUBMITS = (
    EMITS
    + """
with bide.Runner(db) as runner:
    runner.submit(workflow, key="k").result()
"""
)


def test_a_follower_in_another_process_sees_each_event_and_the_end(file: Path) -> None:
    with Child(SUBMITS, file) as child, bide.Runner(file) as runner:
        child.expect("emitted 0")
        for event in runner.follow("k"):
            assert event.task == "body"
            file.with_suffix(f".{event.value}").touch()
        child.join()
        assert values(runner, "k") == [0, 1, 2]


def test_an_async_follower_in_another_process_sees_each_event_and_the_end(file: Path) -> None:
    async def follow(runner: bide.Runner) -> list[int]:
        seen = []
        async for event in runner.follow("k"):
            seen.append(event.value)
            file.with_suffix(f".{event.value}").touch()
        return seen

    with Child(SUBMITS, file) as child, bide.Runner(file) as runner:
        child.expect("emitted 0")
        assert asyncio.run(asyncio.wait_for(follow(runner), PATIENCE)) == [0, 1, 2]
        child.join()


def test_a_follower_follows_the_run_to_the_process_that_claims_it(file: Path) -> None:
    with bide.Runner(file) as runner:
        with Child(SUBMITS, file) as first:
            first.expect("emitted 0")
            follower = runner.follow("k")
            assert next(follower).value == 0
            first.kill()
        with Child(SUBMITS, file) as second:
            seen = []
            for event in follower:
                seen.append(event.value)
                file.with_suffix(f".{event.value}").touch()
            second.join()
    assert seen == [0, 1, 2], "the body was entered again and emitted again"


# --- crashes -------------------------------------------------------------------------------------------------------

CRASHES = """
@bide.task
def body(handle: bide.TaskHandle) -> None:
    handle.emit("outside")
    handle.step(lambda: handle.emit("inside"), name="recorded")
    for n in range(1000):
        handle.emit(n, channel="many")
    handle.step(int, name="after many")
    if "die" in words:
        die()
    handle.emit("late")

workflow = bide.Workflow("w", [body])
with bide.Runner(db) as runner:
    handle = runner.submit(workflow, key="k")
    if "die" in words:
        stay()
    handle.result()
"""


def test_what_was_emitted_before_a_committed_record_is_there_after_a_crash(file: Path) -> None:
    with Child(CRASHES, file, "die") as child:
        child.join(code=-9)
    with bide.Runner(file) as runner:
        assert values(runner, "k") == ["outside", "inside"]
        assert values(runner, "k", "many") == list(range(1000))


def test_a_reentered_body_emits_again_but_not_within_a_recorded_step(file: Path) -> None:
    with Child(CRASHES, file, "die") as child:
        child.join(code=-9)
    ran(CRASHES, file)
    with bide.Runner(file) as runner:
        assert values(runner, "k") == ["outside", "inside", "outside", "late"]
        assert values(runner, "k", "many") == [*range(1000), *range(1000)]
        assert [event.attempt for event in runner.events("k")] == [1] * 4


BLOCKS = """
@bide.task
def body(handle: bide.TaskHandle) -> None:
    handle.emit(1)
    handle.progress(3, 4)
    say("emitted")
    stay()

with bide.Runner(db) as runner:
    runner.submit(bide.Workflow("w", [body]), key="k")
    stay()
"""


def test_events_and_progress_are_written_although_the_body_records_nothing(file: Path) -> None:
    with Child(BLOCKS, file) as child, bide.Runner(file) as runner:
        child.expect("emitted")
        assert next(runner.follow("k")).value == 1
        eventually(lambda: runner.get("k").tasks["body"].progress is not None, "the progress is written")
        child.kill()
        assert values(runner, "k") == [1]
        assert (progress := runner.get("k").tasks["body"].progress) is not None
        assert (progress.done, progress.total) == (3.0, 4.0)


def test_a_closed_runner_has_written_what_its_bodies_emitted(file: Path) -> None:
    def body(handle: bide.TaskHandle) -> None:
        handle.progress(1)
        handle.step(int)
        handle.progress(2)
        handle.emit(1)
        entered.set()
        handle.defer_until(lambda: False)

    entered = threading.Event()
    workflow = bide.Workflow("w", [bide.task(body)])
    with bide.Runner(file) as runner:
        runner.submit(workflow, key="k")
        assert entered.wait(PATIENCE)
    with bide.Runner(file) as runner:
        assert values(runner, "k") == [1]
        assert (progress := runner.get("k").tasks["body"].progress) is not None
        assert progress.done == 2


def test_events_are_deleted_with_their_run(runner: bide.Runner) -> None:
    result = run(runner, lambda handle: handle.emit(1))
    follower = runner.follow(result)
    runner.delete(result.id)
    with pytest.raises(bide.BideError, match="is not in the store any more"):
        next(follower)
    with pytest.raises(KeyError):
        runner.events(result.id)
    with pytest.raises(bide.BideError, match="is not in the store any more"):
        runner.latest(result)


# --- types and refusals --------------------------------------------------------------------------------------------


def test_a_typed_channel_returns_values_of_its_type_and_takes_no_others(runner: bide.Runner) -> None:
    states = bide.channel("states", State)

    def body(handle: bide.TaskHandle) -> None:
        handle.emit(State(1, 0.5), channel=states)
        with pytest.raises(bide.SerializationError, match=r"channel 'states': event does not fit .*State"):
            handle.emit(Other("x"), channel=states)  # type: ignore[misc] # pyright: ignore[reportArgumentType]

    result = run(runner, body)
    assert [event.value for event in runner.events(result, states)] == [State(1, 0.5)]
    with pytest.raises(bide.SerializationError, match=r"channel 'states': event does not fit .*Other"):
        list(runner.events(result, bide.channel("states", Other)))


@pytest.mark.parametrize("other", [bide.channel("states", Other), "states"])
def test_a_channel_used_with_two_types_is_an_error_that_names_both(
    runner: bide.Runner, other: bide.Channel[Any] | str
) -> None:
    def body(handle: bide.TaskHandle) -> None:
        handle.emit(State(1, 0.5), channel=bide.channel("states", State))
        handle.emit(Other("x") if isinstance(other, bide.Channel) else "x", channel=other)

    with pytest.raises(bide.RunFailed) as failed:
        run(runner, body)
    message = str(failed.value.__cause__)
    assert isinstance(failed.value.__cause__, bide.DefinitionError)
    assert "task 'body': the channel 'states' is used" in message
    assert "test_live_runs.State" in message
    assert ("test_live_runs.Other" if isinstance(other, bide.Channel) else "by its name alone") in message


def test_a_value_that_cannot_be_stored_is_an_error_of_the_emit(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        with pytest.raises(bide.SerializationError, match="channel 'log': event"):
            handle.emit(object(), channel="log")
        with pytest.raises(bide.SerializationError, match=r"; give the channel a type by bide\.channel\(name, type\)"):
            handle.emit(State(1, 0.5), channel="log")
        handle.emit(1, channel="log")

    assert values(runner, run(runner, body), "log") == [1]


WRONG: dict[str, tuple[Callable[[bide.Runner, bide.RunResult], object], str]] = {
    "an empty name": (lambda r, run: r.events(run, ""), "channel must be a non-empty string"),
    "no name": (lambda r, run: r.follow(run, 3), "channel must be a name or a bide.channel"),  # type: ignore[call-overload]
    "a lone surrogate": (lambda r, run: r.latest(run, "\udc80"), "has a lone surrogate"),
    "a negative offset": (lambda r, run: r.events(run, after=-1), "after must be the offset of an event"),
    "an offset that is none": (lambda r, run: r.follow(run, after=True), "after must be the offset of an event"),
    "a channel without a name": (lambda _r, _run: bide.channel(""), "must be a non-empty string"),
    "a channel that keeps none": (lambda _r, _run: bide.channel("x", keep=0), "'x': keep must be a whole number"),
    "a type that cannot be stored": (lambda _r, _run: bide.channel("x", threading.Lock), "channel 'x': event"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_refused(runner: bide.Runner, what: str) -> None:
    result = run(runner, lambda handle: handle.emit(1))
    call, message = WRONG[what]
    with pytest.raises(bide.DefinitionError, match=message):
        call(runner, result)


@pytest.mark.parametrize("channel", ["", 3, "\udc80"])
def test_wrong_channels_are_refused_by_emit(runner: bide.Runner, channel: Any) -> None:
    def body(handle: bide.TaskHandle) -> None:
        with pytest.raises(bide.DefinitionError, match="channel"):
            handle.emit(1, channel=channel)

    run(runner, body)


def test_a_run_that_is_unknown_is_a_key_error(runner: bide.Runner) -> None:
    for call in (runner.events, runner.follow, runner.latest):
        with pytest.raises(KeyError, match="no run has the id or key 'nobody'"):
            call("nobody")


def test_a_body_cannot_follow_a_run(runner: bide.Runner) -> None:
    result = run(runner, lambda handle: handle.emit(1))

    def body(handle: bide.TaskHandle) -> list[int]:
        with pytest.raises(bide.DefinitionError, match=r"Runner\.follow\(\) waits for a run"):
            runner.follow(result)
        return [event.value for event in runner.events(result)]

    assert run(runner, body)["body"] == [1]


def test_a_handle_emits_nothing_after_its_body(runner: bide.Runner) -> None:
    kept: list[bide.TaskHandle] = []
    result = run(runner, lambda handle: kept.append(handle))
    for call in (kept[0].emit, kept[0].progress):
        with pytest.raises(bide.BideError, match="no longer valid"):
            call(1)
    assert values(runner, result) == []
    assert result.tasks["body"].progress is None


def test_events_of_an_attempt_that_has_timed_out_are_refused(runner: bide.Runner) -> None:
    left = threading.Event()

    def body(handle: bide.TaskHandle) -> None:
        try:
            handle.emit("before")
            while True:
                handle.emit("meanwhile", channel="state")
        finally:
            with pytest.raises(bide.TaskTimeout):
                handle.emit("after")
            left.set()

    with pytest.raises(bide.RunFailed):
        run(runner, body, timeout=0.05)
    assert left.wait(PATIENCE)
    assert values(runner, runner.runs()[0]) == ["before"]


# --- progress ------------------------------------------------------------------------------------------------------


def test_progress_is_shown_while_the_body_executes_and_afterwards(store: str) -> None:
    go, said = threading.Event(), threading.Event()

    def body(handle: bide.TaskHandle) -> None:
        handle.progress(0, 10)
        handle.progress(3, 10, "copying")
        said.set()
        assert go.wait(PATIENCE)
        handle.progress(7.5)

    with bide.Runner(store) as runner:
        handle = runner.submit(bide.Workflow("w", [bide.task(body)]), key="k")
        assert said.wait(PATIENCE)
        for result in (runner.get("k"), runner.runs()[0]):
            assert (progress := result.tasks["body"].progress) is not None
            assert (progress.done, progress.total, progress.message) == (3, 10, "copying")
            assert progress.time.tzinfo is UTC
        go.set()
        result = handle.result()
        assert (progress := result.tasks["body"].progress) is not None
        assert (progress.done, progress.total, progress.message) == (7.5, None, None)
        copied = pickle.loads(pickle.dumps(result))  # noqa: S301 - our own
        assert copied.tasks["body"].progress == progress
        assert runner.runs()[0].tasks["body"].progress == progress
    if store != ":memory:":
        with bide.Runner(store) as runner:
            assert runner.get("k").tasks["body"].progress == runner.runs()[0].tasks["body"].progress == progress


def test_progress_is_shown_to_another_process_while_the_body_executes(file: Path) -> None:
    script = """
    @bide.task
    def body(handle: bide.TaskHandle) -> None:
        done = 0
        while not Path(db).with_suffix(".seen").exists():
            handle.progress(done := done + 1, 1_000_000, "copying")
            time.sleep(0.001)

    with bide.Runner(db) as runner:
        run = runner.submit(bide.Workflow("w", [body]), key="k")
        say("submitted")
        run.result()
    """
    with Child(script, file) as child, bide.Runner(file) as runner:
        child.expect("submitted")
        shown: list[bide.Progress] = []

        def newer() -> bool:
            progress = runner.get("k").tasks["body"].progress
            if progress is not None and (not shown or progress.done > shown[-1].done):
                shown.append(progress)
            return len(shown) == 3

        eventually(newer, "the progress is written again and again")
        file.with_suffix(".seen").touch()
        child.join()
    assert {(one.total, one.message) for one in shown} == {(1_000_000, "copying")}
    _, second, third = shown
    assert third.time - second.time >= timedelta(seconds=0.9), "it is written once a second"


def test_the_last_progress_of_a_body_is_kept_by_the_process_that_enters_it_again(file: Path) -> None:
    script = """
    @bide.task
    def body(handle: bide.TaskHandle) -> None:
        if "first" in words:
            handle.progress(5, 9)
        handle.step(int)
        say("there", runner.get("k").tasks["body"].progress.done)
        if "first" in words:
            stay()

    with bide.Runner(db) as runner:
        handle = runner.submit(bide.Workflow("w", [body]), key="k")
        handle.result()
    """
    killed(script, file, "first", at="there 5.0")
    assert "there 5.0" in ran(script, file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "done must be a finite number of at least 0"),
        ((float("nan"),), "done must be a finite number"),
        (("3",), "done must be a finite number"),
        ((1, float("inf")), "total must be a finite number"),
        ((1, 2, 3), "message must be a non-empty string"),
        ((1, 2, "\udc80"), "lone surrogate"),
    ],
)
def test_progress_that_is_no_number_is_refused(runner: bide.Runner, arguments: Any, message: str) -> None:
    def body(handle: bide.TaskHandle) -> None:
        with pytest.raises(bide.DefinitionError, match=message):
            handle.progress(*arguments)

    run(runner, body)


def test_a_long_message_of_progress_is_cut(runner: bide.Runner) -> None:
    result = run(runner, lambda handle: handle.progress(1, None, "x" * 5000))
    assert (progress := result.tasks["body"].progress) is not None
    assert progress.message == "x" * 999 + "…"


def test_a_channel_shows_itself_and_its_parts() -> None:
    channel = bide.channel("states", State, keep=3)
    assert repr(channel) == "bide.channel('states', test_live_runs.State, keep=3)"
    assert (channel.name, channel.keep) == ("states", 3)
    assert repr(bide.channel("log")) == "bide.channel('log')"


def test_progress_of_an_element_is_shown_at_the_element(store: str) -> None:
    go, said = threading.Event(), threading.Semaphore(0)

    def numbers() -> list[int]:
        return [1, 2]

    def work(number: Annotated[int, bide.Each("numbers")], handle: bide.TaskHandle) -> None:
        handle.progress(number, 10)
        said.release()
        assert go.wait(PATIENCE)

    def shown(result: bide.RunResult) -> list[float | None]:
        names = ("work", "work[0]", "work[1]")
        return [None if (one := result.tasks[name].progress) is None else one.done for name in names]

    with bide.Runner(store) as runner:
        handle = runner.submit(bide.Workflow("w", [numbers, work]), key="k")
        assert said.acquire(timeout=PATIENCE)
        assert said.acquire(timeout=PATIENCE)
        assert shown(runner.get("k")) == shown(runner.runs()[0]) == [None, 1, 2]
        go.set()
        assert shown(handle.result()) == shown(runner.runs()[0]) == [None, 1, 2]
    if store != ":memory:":
        with bide.Runner(store) as runner:
            assert shown(runner.get("k")) == shown(runner.runs()[0]) == [None, 1, 2]
