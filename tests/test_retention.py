"""Ended runs are deleted after their retention: only these, and without delaying other runs."""

import math
import statistics
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import eventually, ran

KEPT = 0.3
"""Seconds for which most runners here keep ended runs."""


@bide.task
def double(n: int) -> int:
    return 2 * n


FLOW = bide.Workflow("w", [double])


def left(runner: bide.Runner) -> list[str]:
    """Return the ids of the runs that are still there."""
    return [run.id for run in runner.runs()]


def test_an_ended_run_is_deleted_and_its_key_is_free_again(store: str) -> None:
    with bide.Runner(store, retention=KEPT) as runner:
        first = runner.run(FLOW, {"n": 1}, key="k")
        assert runner.get("k").id == first.id
        eventually(lambda: left(runner) == [], "the run goes")
        with pytest.raises(KeyError, match="'k'"):
            runner.get("k")
        again = runner.run(FLOW, {"n": 2}, key="k")  # other inputs, too
        assert again["double"] == 4
        assert again.id != first.id


def test_it_is_kept_for_as_long_as_was_asked_for(store: str) -> None:
    with bide.Runner(store, retention=timedelta(seconds=1)) as runner:
        result = runner.run(FLOW, {"n": 1})
        assert result.ended_at is not None
        eventually(lambda: left(runner) == [], "the run goes")
        assert time.time() - result.ended_at.timestamp() >= 1.0


def test_a_handle_keeps_the_result_of_a_run_that_was_executed_here(store: str) -> None:
    with bide.Runner(store, retention=KEPT) as runner:
        handle = runner.submit(FLOW, {"n": 1})
        result = handle.result(30)
        eventually(lambda: left(runner) == [], "the run goes")
        assert handle.result(30)["double"] == result["double"] == 2
        assert handle.status() is bide.RunStatus.Completed


def test_a_handle_of_a_deleted_run_says_so(store: str) -> None:
    with bide.Runner(store, retention=KEPT) as runner:
        runner.run(FLOW, {"n": 1}, key="k")
        attached = runner.submit(FLOW, {"n": 1}, key="k")
        eventually(lambda: left(runner) == [], "the run goes")
        for ask in (lambda: attached.result(30), attached.status):
            with pytest.raises(bide.BideError, match="retention is over") as raised:
                ask()
            assert attached.id in str(raised.value)
        with pytest.raises(KeyError, match=attached.id):
            runner.get(attached.id)


def test_an_unfinished_run_of_any_age_stays(store: str) -> None:
    flag = threading.Event()
    code = [1]

    @bide.task(gate=bide.until(flag.is_set, every=0.01))
    def gated() -> str:
        return "opened"

    @bide.task
    def deferred(handle: bide.TaskHandle) -> str:
        handle.defer_until(flag.is_set, 10)
        return "woken"

    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    def paused(handle: bide.TaskHandle) -> None:
        handle.step(str, code[0], name="step")
        code[0] += 1
        raise ValueError  # the next attempt passes another argument to the step

    with bide.Runner(store, retention=KEPT) as runner:
        waiting = [runner.submit(bide.Workflow(task.__name__, [task])) for task in (gated, deferred)]
        mismatch = runner.submit(bide.Workflow("paused", [paused]))
        with pytest.raises(bide.ReplayMismatch):
            mismatch.result(30)
        for n in range(3):  # three times over, ended runs come and go
            runner.run(FLOW, {"n": n})
            eventually(lambda: len(left(runner)) == 3, "the ended run goes")
        assert set(left(runner)) == {mismatch.id, *(handle.id for handle in waiting)}
        assert runner.get(mismatch.id).status is bide.RunStatus.Paused
        flag.set()
        assert [handle.result(30).outputs for handle in waiting] == [{"gated": "opened"}, {"deferred": "woken"}]


def test_none_keeps_for_ever(file: Path) -> None:
    with bide.Runner(file, retention=None) as keeper:
        kept = keeper.run(FLOW, {"n": 1})
        time.sleep(3 * KEPT)
        assert left(keeper) == [kept.id]
        with bide.Runner(file, retention=KEPT) as other:  # the shortest decides
            eventually(lambda: left(other) == [], "the run goes")


def test_a_process_that_lives_briefly_deletes_what_is_due(file: Path) -> None:
    script = """
    @bide.task
    def work() -> None: ...

    with bide.Runner(db, retention=0.2) as runner:
        if words:
            while len(runner.runs()) > 0:
                time.sleep(0.002)
        else:
            runner.run(bide.Workflow("w", [work]))
        say(len(runner.runs()))
    """
    assert ran(script, file) == ["1"]
    time.sleep(0.3)
    assert ran(script, file, "look") == ["0"]


BAD: dict[str, tuple[Any, list[str]]] = {
    "zero": (0, ["positive", "0"]),
    "negative": (-1, ["positive", "-1"]),
    "negative timedelta": (timedelta(days=-1), ["positive", "-1"]),
    "text": ("30 days", ["seconds", "'30 days'"]),
    "a truth value": (True, ["seconds", "True"]),
    "NaN": (math.nan, ["NaN"]),
    "infinity": (math.inf, ["inf"]),
    "longer than a life": (1e12, ["100 years"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_retention_that_is_none_is_refused(case: str, file: Path) -> None:
    value, words = BAD[case]
    with pytest.raises(bide.DefinitionError) as raised:
        bide.Runner(file, retention=value)
    for word in ["retention", *words]:
        assert word in str(raised.value)
    assert not file.exists()


@pytest.mark.alone
def test_a_hundred_thousand_ended_runs_are_purged_while_others_run(file: Path) -> None:
    flag = threading.Event()

    @bide.task
    def deferred(handle: bide.TaskHandle) -> str:
        handle.defer_until(flag.is_set, 10)
        return "woken"

    many = 100_000
    with bide.Runner(file, retention=None) as maker:
        handles = maker.submit_many(FLOW, [{"n": n} for n in range(many)], [f"old {n}" for n in range(many)])
        for handle in handles:
            handle._core.wait()
        del handles, handle
        quiet = [timed(maker, n) for n in range(300)]
    full = file.stat().st_size

    kept = 1.0
    with bide.Runner(file, workflows=[bide.Workflow("waits", [deferred])], retention=kept) as runner:
        waiting = runner.submit(bide.Workflow("waits", [deferred]))
        busy: list[float] = []
        ended: dict[str, float] = {}
        # Until all the old ones are gone.
        while not {run.id for run in runner._core.runs(None, None, None, None)} <= {waiting.id, *ended}:
            for n in range(100):
                busy.append(timed(runner, n, ended))
                time.sleep(0.001)
        still = {run.id for run in runner._core.runs(None, None, None, None)}
        listed = time.time()
        assert waiting.id in still
        assert {run for run, at in ended.items() if listed - at < kept} <= still
        flag.set()
        assert waiting.result(30)["deferred"] == "woken"
        eventually(lambda: file.stat().st_size < full / 3, "the freed pages are returned")
    # A run waits for one step of the purge at most: about a millisecond on an idle machine.
    assert statistics.median(busy) < statistics.median(quiet) + 0.02


def timed(runner: bide.Runner, n: int, ended: dict[str, float] | None = None) -> float:
    """Execute one run; return the time its caller waited."""
    began = time.perf_counter()
    result = runner.run(FLOW, {"n": n})
    took = time.perf_counter() - began
    if ended is not None and result.ended_at is not None:
        ended[result.id] = result.ended_at.timestamp()
    return took
