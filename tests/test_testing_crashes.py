"""Crashes of `bide.testing.Runner`, and `crash_points`."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import bide
from bide.testing import Crashed, Difference, EffectRepeated, Runner, crash_points, effect

pytestmark = pytest.mark.timeout(120)
KINDS = pytest.mark.parametrize("kind", ["def", "async def"])
STORES = pytest.mark.parametrize("place", [":memory:", "a.db"])


def buying(kind: str, *, guarded: bool) -> bide.Workflow:
    """Return a workflow that charges before a wait, in a step or not."""

    def charge() -> str:
        effect("charge")
        return "paid"

    @bide.task(name="buy")
    def buy(handle: bide.TaskHandle) -> str:
        paid = handle.step(charge) if guarded else charge()
        handle.sleep(3600)
        return paid

    @bide.task(name="buy")
    async def buy_async(handle: bide.AsyncTaskHandle) -> str:
        paid = await handle.step(charge) if guarded else charge()
        await handle.sleep(3600)
        return paid

    return bide.Workflow("buying", [buy if kind == "def" else buy_async])


@KINDS
@STORES
def test_a_run_continues_after_a_crash_in_its_wait(kind: str, place: str, tmp_path: Path) -> None:
    store = place if place == ":memory:" else tmp_path / place
    with Runner(store, auto_advance=True) as runner:
        run = runner.submit(buying(kind, guarded=True))
        runner.run_until_waiting(run)
        runner.crash()
        with pytest.raises(bide.RunnerClosed):
            runner.submit(buying(kind, guarded=True))
        runner.restart()
        assert run.result()["buy"] == "paid"
        assert run.steps("charge") == 1
        assert runner.effects == {"charge": 1}


@STORES
def test_what_was_not_committed_is_lost(place: str, tmp_path: Path) -> None:
    entered: list[int] = []

    @bide.task
    def first() -> int:
        entered.append(1)
        return len(entered)

    workflow = bide.Workflow("first", [first])
    store = place if place == ":memory:" else tmp_path / place
    for before, times in ((True, 2), (False, 1)):
        entered.clear()
        with Runner(store, auto_advance=True) as runner:
            crash = runner.crash_before if before else runner.crash_after
            crash(commits=2)
            with pytest.raises(Crashed, match="after 2 commits"):
                runner.run(workflow, key=f"{before}")
            runner.restart()
            assert runner.run(workflow, key=f"{before}")["first"] == times


async def test_an_async_runner_continues_on_the_loop_of_the_test() -> None:
    async with Runner(auto_advance=True) as runner:
        run = await runner.submit_async(buying("async def", guarded=True))
        await runner.run_until_waiting_async()
        runner.crash()
        runner.restart()
        assert (await run)["buy"] == "paid"
        assert runner.effects == {"charge": 1}


@KINDS
def test_a_charge_that_is_no_step_is_reported_as_charging_twice(kind: str) -> None:
    with pytest.raises(EffectRepeated, match="the effect 'charge' happened again after a crash") as raised:
        crash_points(buying(kind, guarded=False))
    assert set(raised.value.effects) == {"charge"}


@KINDS
def test_a_charge_in_a_step_is_clean_but_for_the_moment_before_its_record(kind: str) -> None:
    found = crash_points(buying(kind, guarded=True), check=lambda _, effects: check_once(effects))
    assert found.effects == {"charge": 1}
    assert len(found.may_repeat["charge"]) == 1
    assert found.may_repeat["charge"][0].startswith("a crash before commit 2 of ")


def check_once(effects: Counter[str]) -> None:
    assert effects == {"charge": 1}


def test_every_crash_point_gives_the_same_result_and_is_checked() -> None:
    @bide.task
    def fetch() -> list[int]:
        return [1, 2]

    @bide.task
    def total(fetch: list[int], handle: bide.TaskHandle) -> int:
        handle.sleep(60)
        return sum(fetch) + handle.wait_for("more", int)

    checked: list[tuple[int, Counter[str]]] = []

    def check(result: bide.RunResult, effects: Counter[str]) -> None:
        checked.append((result["total"], effects))

    def act(runner: Runner, run: bide.RunHandle) -> None:
        run.signal("more", 4, id="once")

    found = crash_points(bide.Workflow("totals", [fetch, total]), check=check, act=act)
    assert found.result["total"] == 7
    assert found.points >= 10
    assert checked == [(7, Counter())] * (len(checked))
    assert len(checked) > found.points


def test_a_result_that_depends_on_the_crash_is_reported() -> None:
    entered: list[int] = []

    @bide.task
    def count(handle: bide.TaskHandle) -> int:
        entered.append(1)
        handle.sleep(1)
        return len(entered)

    with pytest.raises(Difference, match="what task 'count' returned is 2, and without a crash 1"):
        crash_points(bide.Workflow("counting", [count]), check=lambda *_: entered.clear())


@pytest.mark.parametrize(("commits", "shown"), [(0, "0"), (True, "True"), ("1", "'1'")])
def test_a_number_of_commits_that_is_none_is_refused(commits: Any, shown: str) -> None:
    with Runner() as runner, pytest.raises(bide.DefinitionError, match=f"at least 1, not {shown}"):
        runner.crash_after(commits=commits)
