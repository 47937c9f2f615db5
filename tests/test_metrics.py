"""`bide.metrics()` and `Runner.metrics()`: plain figures, of what is there now and of what has happened."""

import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import bide
import bide.testing
from processes import eventually

GO = bide.signal("go")


def counts(durations: dict[str, Any]) -> dict[str, int]:
    """Return how often, of what has happened at all."""
    return {name: duration["count"] for name, duration in durations.items() if duration["count"]}


def test_open_waits_and_runs_are_those_of_now_and_durations_those_of_the_past(store: str) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        handle.wait_any(GO, bide.after(timedelta(days=1)))

    @bide.task
    def fails() -> None:
        raise ValueError

    with bide.Runner(store, workflows=[bide.Workflow("w", [waits])]) as runner:
        handle = runner.submit(bide.Workflow("w", [waits]))
        eventually(lambda: runner.metrics()["bide.wait.open"]["any"], "it waits")
        found = runner.metrics()
        now = {kind: count for kind, count in found["bide.wait.open"].items() if count}
        assert (now, found["bide.run.open"]) == ({"any": 1, "signal": 1, "time": 1}, 1)
        assert counts(found["bide.wait.duration"]) == counts(found["bide.run.duration"]) == {}
        handle.signal(GO)
        handle.result()
        with pytest.raises(bide.RunFailed):
            runner.run(bide.Workflow("bad", [fails]))
        found = runner.metrics()
    assert not any(found["bide.wait.open"].values())
    assert found["bide.run.open"] == 0
    assert counts(found["bide.run.duration"]) == {"Completed": 1, "Failed": 1}
    assert counts(found["bide.wait.duration"]) == {"any": 1, "signal": 1, "time": 1}
    assert 0 < found["bide.run.duration"]["Completed"]["max"] <= found["bide.run.duration"]["Completed"]["sum"]
    assert found["bide.commit.duration"]["count"] >= 5
    # A store in memory takes no time that is worth a look at the clock.
    assert (found["bide.commit.duration"]["sum"] > 0) == (store != ":memory:")


def test_polls_of_coroutines_that_rest_between_them_are_counted(runner: bide.Runner) -> None:
    asked: list[int] = []

    async def is_there() -> bool:
        asked.append(1)
        return len(asked) > 5

    @bide.task
    async def waits(handle: bide.AsyncTaskHandle) -> None:
        await handle.defer_until(is_there, 1)

    before = runner.metrics()["bide.wait.polls"]
    runner.run(bide.Workflow("w", [waits]))
    assert runner.metrics()["bide.wait.polls"] - before == len(asked)


def test_durations_and_lateness_are_in_seconds() -> None:
    with bide.testing.Runner(auto_advance=True) as runner:
        ready = iter([False, False, True])

        @bide.task
        def waits(handle: bide.TaskHandle) -> None:
            handle.sleep(30)
            handle.sleep(60)
            handle.defer_until(lambda: next(ready), 1000, timeout=60)

        runner.run(bide.Workflow("w", [waits]))
        found = runner.metrics()
    assert found["bide.wait.duration"]["time"] == {"count": 2, "sum": 90.0, "max": 60.0}
    assert found["bide.wait.lateness"]["time"] == {"count": 2, "sum": 0.0, "max": 0.0}
    assert found["bide.wait.duration"]["condition"] == {"count": 1, "sum": 2.0, "max": 2.0}
    assert found["bide.wait.lateness"]["condition"]["count"] == 0
    assert found["bide.wait.polls"] == 3
    assert found["bide.run.duration"]["Completed"] == {"count": 1, "sum": 92.0, "max": 92.0}


def test_slots_are_counted_for_threads_and_for_coroutines() -> None:
    entered, leave = threading.Semaphore(0), threading.Event()

    def holds() -> None:
        entered.release()
        assert leave.wait(30)

    async def holds_too() -> None:
        holds()

    tasks = [bide.task(holds, name="a"), bide.task(holds, name="b"), bide.task(holds_too, name="c")]
    with bide.Runner(":memory:", slots=3, async_slots=5) as runner:
        handle = runner.submit(bide.Workflow("w", tasks))
        for _ in tasks:
            assert entered.acquire(timeout=30)
        # A thread that looks for another body has a slot, too, for a moment.
        eventually(lambda: runner.metrics()["bide.slot.used"] == {"thread": 2, "coroutine": 1}, "they are used")
        assert runner.metrics()["bide.slot.free"] == {"thread": 1, "coroutine": 4}
        leave.set()
        handle.result()


def test_those_of_the_process_are_the_sum_of_its_runners_also_of_those_that_are_gone(store: str) -> None:
    @bide.task
    def one() -> int:
        return 1

    def ended() -> int:
        count: int = bide.metrics()["bide.run.duration"]["Completed"]["count"]
        return count

    before = ended()
    with bide.Runner(store) as first, bide.Runner(":memory:") as second:
        for runner in (first, second, second):
            runner.run(bide.Workflow("w", [one]))
        assert ended() == before + 3
        assert first.metrics()["bide.run.duration"]["Completed"]["count"] == 1
    assert second.metrics()["bide.run.duration"]["Completed"]["count"] == 2
    del first, second, runner
    assert ended() == before + 3


def test_a_wait_that_an_earlier_runner_has_opened_is_open_here(file: Path) -> None:
    @bide.task(gate=GO)
    def gated() -> int:
        return 1

    workflow = bide.Workflow("w", [gated])
    with bide.Runner(file) as runner:
        run = runner.submit(workflow).id
    with bide.Runner(file, workflows=[workflow]) as runner:
        assert runner.metrics()["bide.wait.open"]["signal"] == 1
        runner.signal(run, GO)
        eventually(lambda: runner.metrics()["bide.run.open"] == 0, "the run has ended")
        found = runner.metrics()
    assert found["bide.wait.open"]["signal"] == 0
    assert counts(found["bide.wait.duration"]) == {"signal": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_counts_no_runner_of_its_parent() -> None:
    with bide.Runner(":memory:", slots=3):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            free = bide.metrics()["bide.slot.free"]["thread"]
            os.write(writer, str(free).encode())
            os._exit(0)
        os.waitpid(child, 0)
    assert os.read(reader, 100) == b"0"
    os.close(reader)
    os.close(writer)
