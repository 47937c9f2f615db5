"""The cost of a task, a hop, a run, a wait and a poll in operations: a slow machine does not change the numbers."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import pytest

import bide
from bide import _core
from processes import eventually

pytestmark = pytest.mark.alone

WIDE, CHAIN, SINGLE, WAITS, GATES = 10_000, 1_000, 100, 100, 1_000
SLOTS = 8
ODD_ONES = 20
"""Threads that begin and end, or were about to sleep: a few in a run of any size."""


class Counts(NamedTuple):
    """Counts of attaches to the interpreter, committed batches and woken threads."""

    attaches: int
    commits: int
    wakes: int


@pytest.fixture(params=[":memory:", "file"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bide.Runner]:
    store = tmp_path / "bide.db" if request.param == "file" else request.param
    with bide.Runner(store, slots=SLOTS) as runner:
        runner.run(one)
        yield runner


def task(name: str) -> Callable[[], int]:
    def noop() -> int:
        return 1

    return bide.task(noop, name=name)


def hop(number: int) -> Callable[[int], int]:
    def increment(value: Annotated[int, bide.From(f"t{number - 1}")]) -> int:
        return value + 1

    return bide.task(increment, name=f"t{number}")


one = bide.Workflow("one", [task("t")])


def counted(action: Callable[[], object]) -> Counts:
    before = _core.counts()
    action()
    return Counts(*(now - then for now, then in zip(_core.counts(), before, strict=True)))


def test_tasks_that_depend_on_nothing_share_commits_and_attaches(runner: bide.Runner) -> None:
    workflow = bide.Workflow("wide", [task(f"t{number}") for number in range(WIDE)])
    runner.register(workflow)
    counts = counted(lambda: runner.run(workflow))
    # 64 results of a slot make a group; after 1 ms it is committed with fewer. On a file a slot continues while
    # another one commits, and a commit takes what has gathered on all slots, up to 1,024 results of each.
    assert WIDE / 1024 / SLOTS <= counts.commits <= WIDE / 16
    # One for each group, though commits are shared.
    assert counts.attaches <= max(counts.commits, WIDE / 32) + 2 * ODD_ONES
    assert counts.wakes <= WIDE / 100


def test_a_hop_is_one_commit_and_one_attach_and_wakes_no_thread(runner: bide.Runner) -> None:
    workflow = bide.Workflow("chain", [task("t0"), *(hop(number) for number in range(1, CHAIN))])
    runner.register(workflow)
    counts = counted(lambda: runner.run(workflow))
    # One more, which creates and begins the run.
    assert CHAIN + 1 <= counts.commits <= CHAIN + 1 + ODD_ONES
    assert counts.attaches <= CHAIN + ODD_ONES
    assert counts.wakes <= ODD_ONES


def test_a_run_of_one_task_takes_two_commits_and_two_wakes(runner: bide.Runner) -> None:
    def one_after_the_other() -> None:
        for _ in range(SINGLE):
            runner.run(one)

    counts = counted(one_after_the_other)
    assert 2 * SINGLE <= counts.commits <= 2 * SINGLE + ODD_ONES
    assert counts.attaches <= 3 * SINGLE + ODD_ONES
    assert counts.wakes <= 2 * SINGLE + ODD_ONES


def test_runs_that_are_submitted_together_share_commits(runner: bide.Runner) -> None:
    def together() -> None:
        for handle in runner.submit_many(one, [None] * 1_000):
            handle.result()

    # On a busy machine the caller may be woken separately for many of them: the best of a few tries counts.
    tries = [counted(together) for _ in range(3)]
    assert min(counts.commits for counts in tries) <= 1_000 / 16
    assert min(counts.wakes for counts in tries) <= 1_000 / 10


def test_runs_that_coroutines_await_share_commits_and_need_no_thread_of_python(runner: bide.Runner) -> None:
    async def together() -> None:
        await asyncio.gather(*(runner.run_async(one) for _ in range(1_000)))

    tries = [counted(lambda: asyncio.run(together())) for _ in range(3)]
    assert min(counts.commits for counts in tries) <= 1_000 / 16
    # Workers attach for bodies. The thread that submits, and those that report the ends, do not.
    assert min(counts.attaches for counts in tries) <= 1_000 / 10


def counted_body(runner: bide.Runner, body: Callable[[bide.TaskHandle], None]) -> Counts:
    workflow = bide.Workflow("waits", [bide.task(body, name="t")])
    runner.register(workflow)
    return counted(lambda: runner.run(workflow))


def test_a_wait_is_two_commits_and_one_wake(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        asked = itertools.count()
        for _ in range(WAITS):
            handle.defer_until(lambda: next(asked) % 2 == 1, poll_interval_ms=1)  # false, then true

    counts = counted_body(runner, body)
    # One opens the wait before the slot is released, one closes it.
    assert 2 * WAITS <= counts.commits <= 2 * WAITS + ODD_ONES
    # After each of the two, for the poll, and once more for the slot.
    assert counts.attaches <= 4 * WAITS + ODD_ONES
    assert WAITS <= counts.wakes <= WAITS + ODD_ONES


def test_a_poll_is_one_attach_and_one_wake_and_commits_nothing(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        asked = itertools.count()
        handle.defer_until(lambda: next(asked) == WAITS, poll_interval_ms=1)

    counts = counted_body(runner, body)
    assert counts.commits <= ODD_ONES
    assert WAITS <= counts.attaches <= WAITS + ODD_ONES
    assert WAITS <= counts.wakes <= WAITS + ODD_ONES


def test_gates_are_polled_many_under_one_attach_and_no_poll_is_committed(runner: bide.Runner) -> None:
    asked = itertools.count()
    gate = bide.until(lambda: next(asked) >= 10 * GATES, every=0.02)

    def noop() -> int:
        return 1

    workflow = bide.Workflow("gated", [bide.task(noop, name="t", gate=gate)])
    runner.register(workflow)

    def together() -> None:
        for handle in runner.submit_many(workflow, [None] * GATES):
            handle.result()

    counts = counted(together)
    assert next(asked) >= 11 * GATES
    # Groups of a thousand opened and closed waits and a thousand tasks.
    assert counts.commits <= GATES / 5
    assert counts.attaches <= 10 * GATES / 5
    assert counts.wakes <= 10 * GATES / 5


def test_gates_that_wait_for_signals_commit_nothing_and_wake_nobody(runner: bide.Runner) -> None:
    go = bide.signal("go", int)

    def noop() -> int:
        return 1

    gated = bide.Workflow("gated", [bide.task(noop, name="t", gate=go)])
    handles = runner.submit_many(gated, [None] * GATES)

    # While they wait, others pay what they pay without them.
    counts = counted(lambda: [runner.run(one) for _ in range(SINGLE)])
    assert counts.commits <= 2 * SINGLE + ODD_ONES
    assert counts.wakes <= 2 * SINGLE + ODD_ONES

    runner.signal_many((handle, go, 1) for handle in handles)
    assert {handle.result()["t"] for handle in handles} == {1}


def test_a_signal_is_one_commit_and_so_are_many_in_one_call(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        handle.wait_for("end")

    run = runner.submit(bide.Workflow("queues", [bide.task(body, name="t")]))
    eventually(lambda: runner.get(run.id).tasks["t"].sub_status == "Deferred", "the body waits")

    def in_turn() -> None:
        for number in range(SINGLE):
            runner.signal(run, "n", number)

    counts = counted(in_turn)
    assert SINGLE <= counts.commits <= SINGLE + ODD_ONES
    assert counts.wakes <= ODD_ONES
    counts = counted(lambda: runner.signal_many((run, "n", number) for number in range(WIDE)))
    assert 1 <= counts.commits <= ODD_ONES
    run.signal("end")
    run.result()


def test_results_of_completed_runs_leave_the_interpreter_to_nobody(runner: bide.Runner) -> None:
    handles = runner.submit_many(one, [None] * WAITS)
    assert {handle.result().status for handle in handles} == {"Completed"}
    assert counted(lambda: [handle.result() for handle in handles]).attaches <= ODD_ONES


def test_a_listing_leaves_the_interpreter_once_for_any_number_of_runs(runner: bide.Runner) -> None:
    def noop() -> int:
        return 1

    gated = bide.Workflow("gated", [bide.task(noop, name="t", gate=bide.signal("go"))])
    handles = runner.submit_many(gated, [None] * WAITS)
    assert counted(lambda: runner.runs(workflow=gated)).attaches <= ODD_ONES
    runner.signal_many((handle, "go", 1) for handle in handles)


def test_a_listing_asks_the_store_once_for_any_number_of_runs(
    runner: bide.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, calls = runner._core, []

    class Watched:
        def __getattr__(self, name: str) -> object:
            calls.append(name)
            return getattr(core, name)

    for handle in runner.submit_many(one, [None] * WAITS):
        handle.result()
    monkeypatch.setattr(runner, "_core", Watched())
    runs = runner.runs(workflow=one)
    assert len(runs) == WAITS + 1
    assert {(run.status, run.outputs["t"], run.tasks["t"].attempts) for run in runs} == {("Completed", 1, 1)}
    assert calls == ["runs"]
