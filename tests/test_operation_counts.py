"""What a task, a hop and a run cost in operations: numbers that are the same on a slow machine as on a fast one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import pytest

import bide
from bide import _core

WIDE, CHAIN, SINGLE = 10_000, 1_000, 100
ODD_ONES = 20
"""Threads that begin and end, a thread that was about to sleep: a few, however large the run."""


class Counts(NamedTuple):
    """How often threads attached to the interpreter, batches were committed, threads were woken."""

    attaches: int
    commits: int
    wakes: int


@pytest.fixture(params=[":memory:", "file"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bide.Runner]:
    store = tmp_path / "bide.db" if request.param == "file" else request.param
    with bide.Runner(store) as runner:
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
    flow = bide.Workflow("wide", [task(f"t{number}") for number in range(WIDE)])
    runner.register(flow)
    counts = counted(lambda: runner.run(flow))
    # 64 results make a group; one that is 1 ms old is committed with fewer.
    assert WIDE / 64 <= counts.commits <= WIDE / 16
    assert counts.attaches <= counts.commits + 2 * ODD_ONES
    assert counts.wakes <= WIDE / 100


def test_a_hop_is_one_commit_and_one_attach_and_wakes_nobody(runner: bide.Runner) -> None:
    flow = bide.Workflow("chain", [task("t0"), *(hop(number) for number in range(1, CHAIN))])
    runner.register(flow)
    counts = counted(lambda: runner.run(flow))
    # One that creates the run, one in which it begins.
    assert CHAIN + 2 <= counts.commits <= CHAIN + 2 + ODD_ONES
    assert counts.attaches <= CHAIN + ODD_ONES
    assert counts.wakes <= ODD_ONES


def test_a_run_of_one_task_is_three_commits_and_wakes_the_worker_and_the_caller(runner: bide.Runner) -> None:
    def one_after_the_other() -> None:
        for _ in range(SINGLE):
            runner.run(one)

    counts = counted(one_after_the_other)
    assert 3 * SINGLE <= counts.commits <= 3 * SINGLE + ODD_ONES
    assert counts.attaches <= 4 * SINGLE + ODD_ONES
    assert counts.wakes <= 2 * SINGLE + ODD_ONES


def test_runs_that_are_submitted_together_share_commits(runner: bide.Runner) -> None:
    def together() -> None:
        for handle in runner.submit_many(one, [None] * 1_000):
            handle.result()

    counts = counted(together)
    assert counts.commits <= 1_000 / 16
    assert counts.wakes <= 1_000 / 10
