"""What a body does with its handle: waits, sleeps, steps, and the errors it gets."""

import itertools
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import bide
from processes import Child, ran


def within(runner: bide.Runner, body: Any, **options: Any) -> Any:
    """Run one task with this body and return its result."""
    return runner.run(bide.Workflow("w", [bide.task(body, name="work", **options)]), timeout=60)["work"]


def test_it_says_where_it_is(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> list[Any]:
        return [handle.run_id, handle.task_name, handle.attempt, handle.is_slot_held(), handle.suspending, repr(handle)]

    result = runner.run(bide.Workflow("w", [bide.task(work, name="work")]))
    assert result["work"] == [result.id, "work", 1, True, False, "<TaskHandle of task 'work', attempt 1>"]
    assert UUID(result.id).version == 7


def test_defer_until_returns_the_truthy_value(runner: bide.Runner) -> None:
    answers: Iterator[Any] = iter([0, "", None, [], {"found": [1]}])

    def work(handle: bide.TaskHandle) -> Any:
        return handle.defer_until(lambda: next(answers), poll_interval_ms=1)

    assert within(runner, work) == {"found": [1]}


def test_a_condition_that_holds_at_once_keeps_the_slot(store: str) -> None:
    order: list[str] = []

    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        handle.defer_until(lambda: True)
        order.append("work")

    @bide.task
    def neighbour() -> None:
        order.append("neighbour")

    with bide.Runner(store, slots=1) as runner:
        result = runner.run(bide.Workflow("w", [work, neighbour]))
    assert order == ["work", "neighbour"]
    assert result.tasks["work"].waited == 0


def test_polls_keep_their_interval_backoff_and_limit(runner: bide.Runner) -> None:
    times: list[float] = []

    def work(handle: bide.TaskHandle) -> None:
        def condition() -> bool:
            times.append(time.monotonic())
            return len(times) == 6

        handle.defer_until(condition, poll_interval_ms=20, backoff=2, max_interval_ms=50)

    within(runner, work)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    for gap, least in zip(gaps, [0.02, 0.04, 0.05, 0.05, 0.05], strict=True):
        assert least <= gap
    # Without the limit they would be 0.62 s together.
    assert sum(gaps) < 0.6


def test_a_condition_that_blocks_keeps_no_other_from_its_poll(runner: bide.Runner) -> None:
    blocks, polled = threading.Event(), threading.Event()
    answers = iter([False, True])

    def blocked(handle: bide.TaskHandle) -> bool:
        def block() -> bool:
            if not next(answers):
                return False
            blocks.set()  # no other wait is due by now
            return polled.wait(60)

        return handle.defer_until(block, poll_interval_ms=1)

    def other(handle: bide.TaskHandle) -> None:
        polls = iter([False, True])
        handle.defer_until(lambda: next(polls), poll_interval_ms=1)
        polled.set()

    first = runner.submit(bide.Workflow("blocked", [blocked]))
    assert blocks.wait(30)
    runner.run(bide.Workflow("other", [other]), timeout=30)
    assert first.result(timeout=30)["blocked"] is True


@pytest.mark.alone
def test_a_timeout_is_a_wait_timeout_that_names_task_and_condition(runner: bide.Runner) -> None:
    def never() -> bool:
        return False

    def work(handle: bide.TaskHandle) -> str:
        began = time.monotonic()
        with pytest.raises(bide.WaitTimeout, match=r"'work'.*never") as raised:
            handle.defer_until(never, poll_interval_ms=10, timeout=timedelta(milliseconds=100))
        assert isinstance(raised.value, TimeoutError)
        assert 0.1 <= time.monotonic() - began < 0.3
        return "went on"

    assert within(runner, work) == "went on"


def test_the_last_poll_is_at_the_deadline_if_that_comes_before_the_next(runner: bide.Runner) -> None:
    asked: list[int] = []

    def work(handle: bide.TaskHandle) -> None:
        def condition() -> bool:
            asked.append(1)
            return False

        with pytest.raises(bide.WaitTimeout):
            handle.defer_until(condition, poll_interval_ms=60_000, timeout=0.05)

    within(runner, work)
    assert len(asked) == 2


def test_a_timeout_of_zero_asks_once(runner: bide.Runner) -> None:
    asked: list[int] = []

    def work(handle: bide.TaskHandle) -> None:
        def condition() -> bool:
            asked.append(1)
            return False

        with pytest.raises(bide.WaitTimeout):
            handle.defer_until(condition, timeout=0)

    within(runner, work)
    assert len(asked) in {1, 2}


@pytest.mark.parametrize(
    ("on_error", "asked"),
    [(bide.Tolerate(5), 5), (bide.Tolerate(2, seconds=0.001), 2), ("raise", 1)],
    ids=["five", "two", "raise"],
)
def test_a_condition_that_raises_ends_its_wait_with_the_last_exception(
    runner: bide.Runner, on_error: Any, asked: int
) -> None:
    calls = itertools.count(1)

    def broken() -> bool:
        raise ConnectionError(f"no route {next(calls)}")

    def work(handle: bide.TaskHandle) -> str:
        try:
            handle.defer_until(broken, 2, on_error=on_error)
        except ConnectionError as error:
            return str(error)
        return "nothing raised"

    assert within(runner, work) == f"no route {asked}"


class Denied(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.lock = threading.Lock()  # a value that cannot be stored


@pytest.mark.parametrize("original", [Denied("no"), SystemExit(3)])
def test_the_conditions_own_exception_ends_a_wait(runner: bide.Runner, original: BaseException) -> None:
    def broken() -> bool:
        raise original

    def work(handle: bide.TaskHandle) -> bool:
        try:
            handle.defer_until(broken, 1, on_error="raise")
        except BaseException as error:  # noqa: BLE001 - the test checks its type
            return error is original
        return False

    assert within(runner, work) is True


def test_errors_can_be_ignored(runner: bide.Runner) -> None:
    calls = itertools.count()

    def flaky() -> bool:
        if next(calls) < 20:
            raise ConnectionError
        return True

    def work(handle: bide.TaskHandle) -> bool:
        return handle.defer_until(flaky, 1, on_error="ignore")

    assert within(runner, work) is True


def test_the_last_error_of_a_condition_shows_while_it_is_tolerated(runner: bide.Runner) -> None:
    fail = threading.Event()
    fail.set()

    def flaky() -> bool:
        if fail.is_set():
            raise ConnectionError("no route to host")
        return True

    def work(handle: bide.TaskHandle) -> bool:
        return handle.defer_until(flaky, 5, on_error=bide.Tolerate(100_000))

    handle = runner.submit(bide.Workflow("w", [bide.task(work, name="work")]))
    try:
        until = time.monotonic() + 5
        while "no route to host" not in (runner.get(handle.id).tasks["work"].blocked_by or ""):
            assert time.monotonic() < until, runner.get(handle.id).tasks["work"]
            time.sleep(0.005)
    finally:
        fail.clear()
    handle.result(30)


def test_sleep_and_sleep_until(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> list[float]:
        begin = time.time()
        handle.sleep(0.03)
        handle.sleep(timedelta(milliseconds=30))
        slept = time.time() - begin
        moment = datetime.now(UTC) + timedelta(milliseconds=30)
        handle.sleep_until(moment)
        handle.sleep(0)
        handle.sleep_until(datetime(2020, 1, 1, tzinfo=UTC))
        return [slept, time.time() - moment.timestamp()]

    slept, late = within(runner, work)
    assert 0.06 <= slept < 0.3
    assert 0 <= late < 0.3


def test_wait_takes_until_after_and_at(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> Any:
        handle.wait(bide.after(0.01))
        handle.wait(bide.at(datetime.now(UTC) + timedelta(milliseconds=10)))
        return handle.wait(bide.until(lambda: "found", every=0.01))

    assert within(runner, work) == "found"


def test_a_step_returns_by_the_functions_annotation(runner: bide.Runner) -> None:
    def find(path: str, *, depth: int = 0) -> tuple[Path, int]:
        return Path(path), depth

    def work(handle: bide.TaskHandle) -> bool:
        return handle.step(find, "x", depth=2) == (Path("x"), 2) and handle.step(find, "y", name="other") == (
            Path("y"),
            0,
        )

    assert within(runner, work) is True


def test_a_steps_exception_is_the_original_the_first_time(runner: bide.Runner) -> None:
    original = LookupError("no such thing")

    def fails() -> None:
        raise original

    def work(handle: bide.TaskHandle) -> bool:
        try:
            handle.step(fails)
        except LookupError as error:
            return error is original
        return False

    assert within(runner, work) is True


def test_reading_the_handle_within_a_step_is_fine(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> list[Any]:
        return handle.step(lambda: [handle.attempt, handle.task_name, handle.is_slot_held()], name="reads")

    assert within(runner, work) == [1, "work", True]


def test_threads_within_a_body_are_unrestricted(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> list[int]:
        got: list[int] = []
        threads = [threading.Thread(target=got.append, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        handle.sleep(0.001)
        return sorted(got)

    assert within(runner, work) == [0, 1, 2]


def test_a_deferred_body_resumes_on_its_own_thread(runner: bide.Runner) -> None:
    local = threading.local()

    def work(handle: bide.TaskHandle) -> list[bool]:
        local.mine = me = threading.get_ident()
        seen = []

        def condition() -> bool:
            seen.append(getattr(local, "mine", None) == me)
            return len(seen) == 3

        handle.defer_until(condition, 2)
        return [*seen, local.mine == me]

    assert within(runner, work) == [True] * 4


def test_waits_may_follow_one_another_in_a_loop(runner: bide.Runner) -> None:
    count = itertools.count()

    def work(handle: bide.TaskHandle) -> list[int]:
        return [handle.defer_until(lambda: (n := next(count)) % 3 == 0 and n + 1, 1) for _ in range(20)]

    assert within(runner, work) == [3 * n + 1 for n in range(20)]


NOW = """
@bide.task
def work(handle: bide.TaskHandle) -> list[str]:
    times = [handle.now().isoformat(), handle.now().isoformat()]
    say(*times)
    if "stay" in words:
        stay()
    return times

with bide.Runner(db) as runner:
    say(*runner.run(bide.Workflow("w", [work]), key="k")["work"])
"""


def test_now_is_the_same_again_after_a_crash(file: Path) -> None:
    with Child(NOW, file, "stay") as child:
        first = child.next()
        child.kill()
    assert ran(NOW, file) == [first, first]
    earlier, later = (datetime.fromisoformat(text) for text in first.split())
    assert earlier.tzinfo is not None
    assert earlier <= later
