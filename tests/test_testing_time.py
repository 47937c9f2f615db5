"""`bide.testing.Runner`: the real engine under a clock that the test moves."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import bide
from bide.testing import Clock, NeverSatisfied, Runner

pytestmark = pytest.mark.timeout(60)
DAY = 86_400.0
KINDS = pytest.mark.parametrize("kind", ["def", "async def"])


def approval(kind: str) -> tuple[bide.Workflow, list[str]]:
    """Return a workflow that waits for 30 days, retries twice and is approved by a signal; and what it has done."""
    done: list[str] = []

    def charge() -> str:
        done.append("charge")
        if len(done) < 3:
            raise OSError("busy")
        return "paid"

    if kind == "def":

        @bide.task(name="order")
        def order(handle: bide.TaskHandle) -> str:
            handle.sleep(30 * DAY)
            paid = handle.step(charge, retry=bide.Retry(attempts=3, delay=60))
            return f"{paid}, {handle.wait_for('approval', str, timeout=7 * DAY)}"

        return bide.Workflow("approval", [order]), done

    @bide.task(name="order")
    async def order_async(handle: bide.AsyncTaskHandle) -> str:
        await handle.sleep(30 * DAY)
        paid = await handle.step(charge, retry=bide.Retry(attempts=3, delay=60))
        return f"{paid}, {await handle.wait_for('approval', str, timeout=7 * DAY)}"

    return bide.Workflow("approval", [order_async]), done


@KINDS
def test_a_wait_of_30_days_two_retries_and_a_signal_take_no_time(kind: str) -> None:
    workflow, done = approval(kind)
    with Runner() as runner:
        begun = runner.now
        run = runner.submit(workflow)
        runner.run_until_waiting(run)
        assert done == []
        runner.advance(30 * DAY - 1)
        assert done == []
        runner.advance(1)
        assert done == ["charge"]
        runner.advance(timedelta(minutes=10))
        assert done == ["charge"] * 3
        assert run.steps("charge") == 3
        run.signal("approval", "fine")
        assert run.result()["order"] == "paid, fine"
        assert runner.now - begun == timedelta(days=30, minutes=10)


@KINDS
async def test_the_same_under_async_with(kind: str) -> None:
    workflow, done = approval(kind)
    async with Runner(auto_advance=True) as runner:
        run = await runner.submit_async(workflow)
        await runner.advance_async(30 * DAY + 3600)
        assert len(done) == 3
        await run.signal_async("approval", "fine")
        assert (await run)["order"] == "paid, fine"


@KINDS
def test_time_passes_by_itself_while_the_test_waits_for_a_run(kind: str) -> None:
    workflow, _ = approval(kind)
    with Runner(auto_advance=True) as runner:
        begun = runner.now
        with pytest.raises(bide.RunFailed, match="approval"):
            runner.run(workflow)
        late = runner.now - begun - timedelta(days=37)
        assert timedelta(0) < late < timedelta(minutes=10), "it has waited for 30 days, two retries and a timeout"


def test_a_gate_a_retry_a_start_and_a_deadline_go_by_the_same_clock() -> None:
    tries: list[datetime] = []

    @bide.task(gate=bide.after(DAY), retry=bide.Retry(attempts=3, delay=DAY))
    def gated() -> None:
        tries.append(runner.now)
        raise OSError("busy")

    with Runner(auto_advance=True, start=datetime(2030, 1, 1, tzinfo=UTC)) as runner:
        begun = runner.now
        with pytest.raises(bide.RunFailed):
            runner.run(bide.Workflow("gated", [gated], timeout=10 * DAY), start_after=DAY)
        days = [(at - begun) / timedelta(days=1) for at in tries]
        assert days[0] == 2
        assert len(days) == 3
        assert runner.runs(since=timedelta(days=10))[0].started_at == begun


def test_recorded_times_are_those_of_the_clock() -> None:
    @bide.task
    def tell(handle: bide.TaskHandle) -> list[datetime]:
        first = handle.now()
        handle.sleep(5)
        return [first, handle.now()]

    with Runner(auto_advance=True, start=datetime(2030, 1, 1, tzinfo=UTC)) as runner:
        result = runner.run(bide.Workflow("tell", [tell]))
        assert result["tell"] == [datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, 0, 0, 5, tzinfo=UTC)]
        assert result.ended_at == datetime(2030, 1, 1, 0, 0, 5, tzinfo=UTC)


def test_each_poll_is_made_at_its_time() -> None:
    polls: list[float] = []

    @bide.task
    def poll(handle: bide.TaskHandle) -> None:
        handle.wait(bide.until(ready, every=0.01, timeout=0.1))

    def ready() -> bool:
        polls.append((runner.now - begun).total_seconds())
        return False

    with Runner() as runner:
        begun = runner.now
        run = runner.submit(bide.Workflow("poll", [poll]))
        runner.advance(0.03)
        assert polls == [0, 0.01, 0.02, 0.03]
        runner.advance(1)
        assert polls[-1] == pytest.approx(0.1)
        with pytest.raises(bide.RunFailed):
            run.result()


@KINDS
def test_a_wait_that_nothing_can_satisfy_raises_at_once_and_names_it(kind: str) -> None:
    @bide.task(name="ask")
    def ask(handle: bide.TaskHandle) -> None:
        handle.wait_for("go")

    @bide.task(name="ask")
    async def ask_async(handle: bide.AsyncTaskHandle) -> None:
        await handle.wait_for("go")

    workflow = bide.Workflow("stuck", [ask if kind == "def" else ask_async])
    with Runner(auto_advance=True) as runner:
        run = runner.submit(workflow)
        with pytest.raises(NeverSatisfied, match=rf"run {run.id} of 'stuck': task 'ask' waits for go"):
            run.result()
        run.signal("go")
        run.result()


def test_a_wait_of_a_child_that_nothing_can_satisfy_is_named_too() -> None:
    @bide.task
    def ask(handle: bide.TaskHandle) -> None:
        handle.wait_for("go")

    child = bide.Workflow("child", [ask])

    @bide.task
    def parent(handle: bide.TaskHandle) -> None:
        handle.run(child)

    with (
        Runner(auto_advance=True) as runner,
        pytest.raises(NeverSatisfied, match="of 'child': task 'ask' waits for go"),
    ):
        runner.run(bide.Workflow("parent", [parent]))


@KINDS
def test_a_condition_without_a_timeout_is_asked_once_more_and_then_raises(kind: str) -> None:
    asked: list[int] = []
    answers: list[bool] = []

    def ready() -> bool:
        asked.append(1)
        return bool(answers)

    @bide.task(name="poll")
    def poll(handle: bide.TaskHandle) -> None:
        handle.wait(bide.until(ready, every=5))

    @bide.task(name="poll")
    async def poll_async(handle: bide.AsyncTaskHandle) -> None:
        await handle.wait(bide.until(ready, every=5))

    @bide.task
    def other(handle: bide.TaskHandle) -> None:
        handle.sleep(30 * DAY)

    workflow = bide.Workflow("poll", [poll if kind == "def" else poll_async, other])
    with Runner(auto_advance=True) as runner:
        run = runner.submit(workflow)
        with pytest.raises(NeverSatisfied, match="ready"):
            run.result()
        assert len(asked) <= 4, "at first, after 30 days, and once more"
        answers.append(True)
        run.result()


@pytest.mark.parametrize("coroutine", [False, True])
def test_the_condition_of_a_gate_is_asked_once_more_and_then_raises(coroutine: bool) -> None:
    asked: list[int] = []

    def ready() -> bool:
        asked.append(1)
        return False

    async def ready_async() -> bool:
        asked.append(1)
        return False

    @bide.task(gate=bide.until(ready_async if coroutine else ready, every=5))
    def gated() -> None: ...

    with Runner(auto_advance=True) as runner, pytest.raises(NeverSatisfied, match="gated"):
        runner.run(bide.Workflow("gate", [gated]))
    assert len(asked) == 2


def test_time_that_stands_still_is_named_as_the_reason() -> None:
    @bide.task
    def sleep(handle: bide.TaskHandle) -> None:
        handle.sleep(5)

    with Runner() as runner:
        run = runner.submit(bide.Workflow("sleep", [sleep]))
        with pytest.raises(NeverSatisfied, match="The time of the test stands still: move it by advance"):
            run.result()
        with pytest.raises(TimeoutError):
            run.result(0)
        runner.run_until_idle()
        assert run.status() is bide.RunStatus.Completed


def test_the_timeout_of_a_caller_is_time_of_the_clock() -> None:
    @bide.task
    def sleep(handle: bide.TaskHandle) -> None:
        handle.sleep(DAY)

    with Runner(auto_advance=True) as runner:
        begun = runner.now
        with pytest.raises(TimeoutError):
            runner.run(bide.Workflow("sleep", [sleep]), timeout=60)
        assert runner.now - begun == timedelta(seconds=60)


def test_nothing_is_at_rest_while_a_body_executes() -> None:
    inside, leave = threading.Event(), threading.Event()
    after: list[int] = []

    @bide.task
    def hold() -> None:
        inside.set()
        assert leave.wait(30)

    @bide.task(depends_on=hold)
    def follow() -> None:
        after.append(1)

    with Runner(slots=1) as runner:
        run = runner.submit(bide.Workflow("hold", [hold, follow]))
        assert inside.wait(30)
        threading.Timer(0.05, leave.set).start()
        runner.run_until_waiting()
        assert after == [1]
        assert run.status() is bide.RunStatus.Completed


def test_all_elements_and_children_come_to_rest_together() -> None:
    ended: list[int] = []

    @bide.task
    async def one(number: int, handle: bide.AsyncTaskHandle) -> None:
        for _ in range(5):
            await handle.sleep(number % 7 + 1)
        ended.append(number)

    workflow = bide.Workflow("one", [one])
    with Runner() as runner:
        runner.submit_many(workflow, [{"number": number} for number in range(200)])
        runner.advance(35)
        assert len(ended) == 200


async def test_a_task_beside_the_test_that_waits_for_a_run_lets_no_time_pass() -> None:
    workflow, done = approval("async def")
    async with Runner(auto_advance=True) as runner:
        run = await runner.submit_async(workflow)
        waiter = asyncio.create_task(run.result_async())
        await runner.advance_async(30 * DAY + 3600)
        assert len(done) == 3
        await runner.signal_async(run, "approval", "in time")
        assert (await waiter)["order"] == "paid, in time"


@KINDS
def test_time_passes_while_the_test_waits_for_an_answer_or_follows_a_run(kind: str) -> None:
    @bide.task(name="tell")
    def tell(handle: bide.TaskHandle) -> None:
        for day in range(3):
            handle.sleep(DAY)
            handle.emit(day)
        handle.wait(bide.request("day")).reply(3)

    @bide.task(name="tell")
    async def tell_async(handle: bide.AsyncTaskHandle) -> None:
        for day in range(3):
            await handle.sleep(DAY)
            handle.emit(day)
        await (await handle.wait(bide.request("day"))).reply(3)

    workflow = bide.Workflow("tell", [tell if kind == "def" else tell_async])
    with Runner(auto_advance=True) as runner:
        begun = runner.now
        assert runner.submit(workflow).request("day") == 3
        assert runner.now - begun == timedelta(days=3)
        run = runner.submit(workflow)
        events = run.follow()
        assert [next(events).value for _ in range(3)] == [0, 1, 2]
        with pytest.raises(NeverSatisfied, match="task 'tell' waits for day"):
            next(events)


async def test_many_that_wait_side_by_side_move_the_time_once() -> None:
    woken: dict[int, list[float]] = {}

    @bide.task
    async def sleep(number: int, handle: bide.AsyncTaskHandle) -> None:
        for _ in range(3):
            await handle.sleep(number + 1)
            woken.setdefault(number, []).append((runner.now - begun).total_seconds())

    async with Runner(auto_advance=True) as runner:
        begun = runner.now
        workflow = bide.Workflow("sleep", [sleep])
        await asyncio.gather(*(runner.run_async(workflow, {"number": number}) for number in range(20)))
    # (They are submitted one after the other, and the time may pass in between.)
    for number, times in woken.items():
        spans = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert spans == [number + 1] * 2


def test_two_runners_go_by_one_clock() -> None:
    @bide.task
    def sleep(handle: bide.TaskHandle) -> None:
        handle.sleep(DAY)

    clock = Clock()
    with Runner(clock=clock) as one, Runner(clock=clock) as other:
        runs = [runner.submit(bide.Workflow("sleep", [sleep])) for runner in (one, other)]
        clock.advance(DAY)
        assert [run.status() for run in runs] == [bide.RunStatus.Completed] * 2


def test_moving_the_time_takes_no_run_from_its_runner(tmp_path: Any) -> None:
    @bide.task
    def sleep(handle: bide.TaskHandle) -> int:
        handle.sleep(30 * DAY)
        return len(entered)

    entered: list[int] = []
    with Runner(tmp_path / "a.db") as runner, bide.Runner(tmp_path / "a.db") as other:
        workflow = bide.Workflow("sleep", [sleep])
        run = runner.submit(workflow)
        other.register(workflow)
        runner.advance(30 * DAY)
        assert run.result()["sleep"] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda runner: runner.advance(-1), "advance must be zero or more"),
        (lambda runner: runner.advance("1"), "advance must be seconds"),
        (lambda runner: Runner(start=datetime(2026, 1, 1)), "start must know its time zone"),  # noqa: DTZ001
        (lambda runner: Runner(start=datetime.now(UTC), clock=runner.clock), "start= or clock=, not both"),
    ],
)
def test_bad_times_are_refused_in_the_users_words(call: Any, message: str) -> None:
    with Runner() as runner, pytest.raises(bide.DefinitionError, match=message):
        call(runner)


def test_a_frozen_clock_of_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @bide.task
    def sleep(handle: bide.TaskHandle) -> None:
        handle.sleep(5)

    with Runner(auto_advance=True) as runner:
        workflow = bide.Workflow("sleep", [sleep])
        calls: list[Callable[[], object]] = [lambda: runner.advance(1), lambda: runner.run(workflow), Runner]
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda: 0.0)
            for call in calls:
                with pytest.raises(bide.BideError, match=r"time\.time\(\) is .*bide\.testing\.Runner is moved by"):
                    call()
        runner.run(workflow, key="afterwards")


async def test_a_call_that_would_block_the_loop_is_refused() -> None:
    async with Runner() as runner:
        calls: list[Callable[[], None]] = [
            lambda: runner.advance(1),
            runner.run_until_waiting,
            runner.run_until_idle,
        ]
        for call in calls:
            with pytest.raises(bide.DefinitionError, match="await runner"):
                call()


def test_why_counts_times_from_the_clock_of_the_test() -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        handle.wait_for("approval", timeout=30 * DAY)

    with Runner(start=datetime(2020, 2, 29, tzinfo=UTC)) as runner:
        run = runner.submit(bide.Workflow("w", [waits]))
        later = runner.submit(bide.Workflow("later", [waits]), start_after=10 * DAY)
        runner.run_until_waiting(run)
        runner.advance(3 * DAY)
        why = run.why()
        said = "approval (signal) since 2020-02-29 00:00:00 UTC (3 d ago); times out 2020-03-30 00:00:00 UTC (in 27 d)"
        assert str(why).endswith(f"task 'waits' waits for {said}")
        assert str(why.tasks[0]) == f"task 'waits' waits for {said}"
        assert str(runner.waiting()[0]).endswith(said)
        assert "it begins 2020-03-10 00:00:00 UTC (in 7 d)" in str(later.why())
        runner.advance(DAY)
        assert str(why.tasks[0]) == f"task 'waits' waits for {said}"
        assert "(4 d ago)" in str(run.why())
