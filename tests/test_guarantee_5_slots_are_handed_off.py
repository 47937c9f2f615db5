"""Guarantee 5: a released slot is handed off directly, never found by a poll.

Resumed bodies come before new ones; one in eight is new, so that new work never starves.
"""

import threading
import time
from collections.abc import Callable
from statistics import median

import pytest

import bide
from processes import eventually


@pytest.fixture
def single(store: str) -> bide.Runner:
    """A runner with one slot."""
    return bide.Runner(store, slots=1)


def test_a_deferred_task_leaves_its_slot_to_the_next(single: bide.Runner) -> None:
    order: list[str] = []
    flag = threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        order.append("waits")
        handle.defer_until(flag.is_set, poll_interval_ms=5)
        order.append("resumed")

    @bide.task
    def neighbour() -> None:
        order.append("neighbour")
        flag.set()

    with single as runner:
        runner.run(bide.Workflow("w", [waits, neighbour]))
    assert order == ["waits", "neighbour", "resumed"]


def test_a_condition_is_polled_without_a_slot_and_the_body_resumes_in_one(runner: bide.Runner) -> None:
    held: list[bool] = []

    @bide.task
    def waits(handle: bide.TaskHandle) -> bool:
        def condition() -> bool:
            held.append(handle.is_slot_held())
            return len(held) == 3

        handle.defer_until(condition, poll_interval_ms=5)
        return handle.is_slot_held()

    assert runner.run(bide.Workflow("w", [waits]))["waits"] is True
    assert held == [True, False, False]  # the first check comes before the slot is released


def hand_off_time(runner: bide.Runner) -> float:
    """Return the time from a body's first check, after which it releases its slot, to its neighbour's start."""
    left: list[float] = []
    started: list[float] = []

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        def condition() -> bool:
            left.append(time.monotonic())
            return bool(started)

        handle.defer_until(condition, poll_interval_ms=5)

    @bide.task
    def neighbour() -> None:
        started.append(time.monotonic())

    runner.run(bide.Workflow("w", [waits, neighbour]))
    return started[0] - left[0]


@pytest.mark.alone
def test_a_slot_is_handed_off_at_once(single: bide.Runner) -> None:
    with single as runner:
        assert median(hand_off_time(runner) for _ in range(20)) < 0.02


def recorder(order: list[str], name: str) -> Callable[[], None]:
    def new() -> None:
        order.append(name)

    return new


@pytest.mark.alone
def test_resumed_bodies_go_first_and_every_eighth_is_new(single: bide.Runner) -> None:
    order: list[str] = []
    go = threading.Event()
    blocker_runs = threading.Event()
    release = threading.Event()
    resumed = 16

    def waiter(n: int) -> Callable[[bide.TaskHandle], None]:
        def waits(handle: bide.TaskHandle) -> None:
            handle.defer_until(go.is_set, poll_interval_ms=5)
            order.append("resumed")

        return waits

    @bide.task
    def blocker() -> None:
        blocker_runs.set()
        release.wait(30)

    waiters = bide.Workflow("waiters", [bide.task(waiter(n), name=f"w{n}") for n in range(resumed)])
    with single as runner:
        waiting = runner.submit(waiters)

        def all_are(sub_status: bide.SubStatus) -> bool:
            return all(task.sub_status is sub_status for task in runner.get(waiting.id).tasks.values())

        eventually(lambda: all_are(bide.SubStatus.Deferred), "all have deferred")
        blocking = runner.submit(bide.Workflow("blocker", [blocker]))
        assert blocker_runs.wait(30)
        new = runner.submit(
            bide.Workflow("new", [bide.task(recorder(order, "new"), name=f"n{n}") for n in range(resumed)])
        )
        go.set()
        eventually(lambda: all_are(bide.SubStatus.Active), "all want their slot back")
        time.sleep(0.05)  # no signal marks the moment between the commit and the queue
        release.set()
        for handle in (blocking, waiting, new):
            handle.result(30)
    assert order[:16] == ["resumed"] * 7 + ["new"] + ["resumed"] * 7 + ["new"]


def test_active_bodies_never_exceed_the_slots(store: str) -> None:
    lock = threading.Lock()
    active = 0
    most = 0

    def within() -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.001)  # the work
        with lock:
            active -= 1

    def body(n: int) -> Callable[[bide.TaskHandle], None]:
        def work(handle: bide.TaskHandle) -> None:
            for _ in range(3):
                within()
                handle.sleep(0.002 * (n % 3))
            within()

        return work

    with bide.Runner(store, slots=3) as runner:
        runner.run(bide.Workflow("w", [bide.task(body(n), name=f"t{n}") for n in range(30)]))
    assert most == 3


def test_four_bodies_on_four_slots_execute_at_once(runner: bide.Runner) -> None:
    all_four = threading.Barrier(4)

    def meets_the_others() -> int:
        return all_four.wait(30)

    result = runner.run(bide.Workflow("w", [bide.task(meets_the_others, name=f"s{n}") for n in range(4)]))
    assert sorted(result.outputs.values()) == [0, 1, 2, 3]


def test_many_more_waits_than_slots_are_open_at_once(single: bide.Runner) -> None:
    open_waits: set[int] = set()

    def waiter(n: int) -> Callable[[bide.TaskHandle], None]:
        def waits(handle: bide.TaskHandle) -> None:
            open_waits.add(n)
            handle.defer_until(lambda: len(open_waits) == 100, poll_interval_ms=10)

        return waits

    with single as runner:
        result = runner.run(bide.Workflow("w", [bide.task(waiter(n), name=f"w{n}") for n in range(100)]))
    assert result.status is bide.RunStatus.Completed
