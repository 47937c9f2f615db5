"""Submitting, waiting, keys, and looking at runs."""

import copy
import math
import pickle
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import Child, eventually, ran


@bide.task
def square(n: int) -> int:
    return n * n


squares = bide.Workflow("squares", [square])


def held(name: str = "held") -> tuple[bide.Workflow, threading.Event, threading.Event]:
    """Return a workflow whose body waits, the event it sets when it runs, and the event that releases it."""
    entered, release = threading.Event(), threading.Event()

    @bide.task
    def work() -> str:
        entered.set()
        release.wait(30)
        return "done"

    return bide.Workflow(name, [work]), entered, release


@bide.task(name="the-root")
def root(square: int) -> float:
    return math.sqrt(square)


# --- reading a result ----------------------------------------------------------------------------------------------


def test_a_result_is_read_by_the_function_of_a_task(runner: bide.Runner) -> None:
    def plain() -> list[str]:
        return ["a"]

    result = runner.run(bide.Workflow("read", [square, root, plain]), {"n": 3})
    assert result[square] == result["square"] == 9
    assert result[root] == result["the-root"] == 3.0
    assert result[plain] == ["a"]
    assert copy.copy(result)[root] == pickle.loads(pickle.dumps(result))[root] == 3.0  # noqa: S301 - our own


@pytest.mark.parametrize(("no_task", "shown"), [(held, "'held'"), (root, "'the-root'"), (3, "3")])
def test_what_stands_for_no_task_is_a_key_error_that_names_it(runner: bide.Runner, no_task: Any, shown: str) -> None:
    result = runner.run(squares, {"n": 3})
    assert no_task not in result
    with pytest.raises(KeyError, match=f"workflow 'squares' has no task {shown}"):
        result[no_task]
    with pytest.raises(KeyError, match=r"has no task <function .*<lambda>"):
        result[lambda: 1]


def test_a_task_without_a_value_is_a_key_error_by_its_function_too(runner: bide.Runner) -> None:
    @bide.task
    def none_today() -> int:
        raise bide.Skip

    result = runner.run(bide.Workflow("skipped", [none_today]))
    with pytest.raises(KeyError, match="task 'none_today' has no return value: it is Skipped"):
        result[none_today]


# --- submitting and waiting ----------------------------------------------------------------------------------------


def test_submit_returns_a_handle_before_the_run_ends(runner: bide.Runner) -> None:
    workflow, entered, release = held()
    handle = runner.submit(workflow, key="k")
    assert entered.wait(30)
    assert handle.key == "k"
    assert handle.status() is bide.RunStatus.Running
    assert handle.id in repr(handle)
    release.set()
    result = handle.result()
    assert result.id == handle.id
    assert handle.status() is bide.RunStatus.Completed
    assert handle.result()["work"] == "done"  # any number of times


def test_submit_many_is_in_input_order_and_each_has_its_key(runner: bide.Runner) -> None:
    handles = runner.submit_many(squares, [{"n": n} for n in range(50)], [f"k{n}" for n in range(50)])
    assert [handle.result()["square"] for handle in handles] == [n * n for n in range(50)]
    assert runner.get("k7", workflow="squares")["square"] == 49
    assert len({handle.id for handle in handles}) == 50


def test_submit_many_takes_iterators_and_nothing(runner: bide.Runner) -> None:
    assert [h.result()["square"] for h in runner.submit_many(squares, ({"n": n} for n in (1, 2)))] == [1, 4]
    assert runner.submit_many(squares, []) == []


def test_one_key_twice_in_one_call_is_one_run(runner: bide.Runner) -> None:
    first, second = runner.submit_many(squares, [{"n": 3}, {"n": 3}], ["k", "k"])
    assert first.id == second.id
    assert [first.result()["square"], second.result()["square"]] == [9, 9]
    assert len(runner.runs()) == 1


def test_a_timeout_limits_the_callers_wait_alone(runner: bide.Runner) -> None:
    workflow, entered, release = held()
    with pytest.raises(TimeoutError, match="it continues"):
        runner.run(workflow, key="k", timeout=0.02)
    handle = runner.submit(workflow, key="k")
    with pytest.raises(TimeoutError):
        handle.result(timeout=timedelta(milliseconds=20))
    with pytest.raises(TimeoutError):
        handle.result(0)
    assert entered.wait(30)
    release.set()
    assert handle.result()["work"] == "done"
    assert handle.result(0)["work"] == "done"  # an ended run returns without waiting


def test_many_threads_may_wait_for_one_run(runner: bide.Runner) -> None:
    workflow, entered, release = held()
    handle = runner.submit(workflow)
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(handle.result()["work"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert entered.wait(30)
    release.set()
    for thread in threads:
        thread.join(30)
    assert got == ["done"] * 8


def test_many_threads_may_run_at_once(runner: bide.Runner) -> None:
    got: dict[int, int] = {}

    def caller(n: int) -> None:
        for m in range(20):
            got[n * 100 + m] = runner.run(squares, {"n": n * 100 + m})["square"]

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == {n: n * n for n in got}
    assert len(got) == 160


def test_a_handle_keeps_its_result_after_the_runner_is_closed(runner: bide.Runner) -> None:
    handle = runner.submit(squares, {"n": 4})
    handle.result()
    runner.close()
    assert handle.result()["square"] == 16
    assert handle.status() is bide.RunStatus.Completed


def test_a_result_is_a_mapping_of_what_completed(runner: bide.Runner) -> None:
    result = runner.run(squares, {"n": 5})
    assert dict(result) == result.outputs == {"square": 25}
    assert len(result) == 1
    assert "square" in result
    assert "other" not in result
    with pytest.raises(KeyError, match="no task 'other'"):
        result["other"]
    assert result.raise_for_status() is result
    assert result.workflow == "squares"
    assert result.started_at.tzinfo is not None
    assert result.ended_at is not None
    assert result.started_at <= result.ended_at
    task = result.tasks["square"]
    assert (task.status, task.sub_status, task.attempts, task.error) == (bide.TaskStatus.Completed, None, 1, None)
    assert task.started_at is not None
    assert task.first_started_at == task.started_at
    with pytest.raises(KeyError):
        result.tasks["other"]
    assert "squares" in repr(result)


# --- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_attaches_to_an_unfinished_run(runner: bide.Runner) -> None:
    workflow, entered, release = held()
    first = runner.submit(workflow, key="k")
    second = runner.submit(workflow, key="k")
    assert first.id == second.id
    assert entered.wait(30)
    release.set()
    assert second.result()["work"] == "done"


def test_a_key_gives_the_recorded_result_of_a_finished_run(runner: bide.Runner) -> None:
    first = runner.run(squares, {"n": 6}, key="k")
    again = runner.run(squares, {"n": 6}, key="k")
    assert again.id == first.id
    assert again["square"] == 36
    assert again.ended_at == first.ended_at


def test_inputs_are_compared_by_name_in_any_order(runner: bide.Runner) -> None:
    @bide.task
    def both(a: int, b: int) -> int:
        return a - b

    workflow = bide.Workflow("both", [both])
    first = runner.run(workflow, {"a": 1, "b": 2}, key="k")
    assert runner.run(workflow, {"b": 2, "a": 1}, key="k").id == first.id
    with pytest.raises(bide.DefinitionError, match="'b'"):
        runner.run(workflow, {"a": 1, "b": 3}, key="k")


def test_a_key_is_unique_per_workflow_and_names_both_where_it_fits_two(runner: bide.Runner) -> None:
    other = bide.Workflow("other", [square])
    runner.run(squares, {"n": 1}, key="k")
    runner.run(other, {"n": 2}, key="k")
    with pytest.raises(KeyError, match=r"'other' and 'squares'.*workflow="):
        runner.get("k")
    assert runner.get("k", workflow="squares")["square"] == 1
    assert runner.get("k", workflow=other)["square"] == 4


def test_a_failed_run_of_a_key_stays_failed(runner: bide.Runner) -> None:
    calls: list[int] = []

    @bide.task
    def fails() -> None:
        calls.append(1)
        raise ValueError("once and for all")

    workflow = bide.Workflow("w", [fails])
    for _ in range(3):
        with pytest.raises(bide.RunFailed, match="once and for all"):
            runner.run(workflow, key="k")
    assert calls == [1]


def test_callers_that_race_for_a_key_share_one_run(runner: bide.Runner) -> None:
    start = threading.Barrier(8)
    ids: list[str] = []

    def caller() -> None:
        start.wait(30)
        ids.append(runner.run(squares, {"n": 7}, key="k").id)

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_two_runners_on_one_file_in_one_process_share_keys(file: Path) -> None:
    workflow, entered, release = held()
    with bide.Runner(file) as first, bide.Runner(file) as second:
        one = first.submit(workflow, key="k")
        assert entered.wait(30)
        two = second.submit(workflow, key="k")
        assert one.id == two.id
        release.set()
        assert two.result(30)["work"] == "done"
        assert one.result(30)["work"] == "done"


def test_processes_that_race_for_a_key_share_one_run(file: Path) -> None:
    script = """
    @bide.task
    def work() -> int:
        note("work")
        return os.getpid()

    say("ready")
    while not Path(words[0]).exists():
        time.sleep(0.0005)
    say(bide.Runner(db).run(bide.Workflow("w", [work]), key="k")["work"])
    """
    start = file.with_suffix(".start")
    children = [Child(script, file, str(start)) for _ in range(3)]
    for child in children:
        child.expect("ready")
    start.touch()
    pids = {child.join()[-1] for child in children}
    for child in children:
        child.__exit__(None, None, None)
    assert len(pids) == 1
    assert file.with_suffix(".ledger").read_text() == "work\n"


# --- looking -------------------------------------------------------------------------------------------------------


def test_get_finds_unfinished_runs_too_by_id_and_by_key(runner: bide.Runner) -> None:
    workflow, entered, release = held()
    handle = runner.submit(workflow, key="k")
    assert entered.wait(30)
    for name in (handle.id, "k"):
        run = runner.get(name)
        assert run.id == handle.id
        assert run.status is bide.RunStatus.Running
        assert run.ended_at is None
        assert run.outputs == {}
        assert run.tasks["work"].status in {bide.TaskStatus.Ready, bide.TaskStatus.Running}
    with pytest.raises(KeyError):
        runner.get(handle.id, workflow="other")
    release.set()
    handle.result()


def test_a_snapshot_does_not_change(runner: bide.Runner) -> None:
    workflow, entered, release = held()
    handle = runner.submit(workflow)
    assert entered.wait(30)
    before = runner.get(handle.id)
    release.set()
    handle.result()
    assert before.status is bide.RunStatus.Running
    assert before.outputs == {}


def test_runs_are_newest_first_and_filtered(runner: bide.Runner) -> None:
    @bide.task
    def fails() -> None:
        raise ValueError

    bad = bide.Workflow("bad", [fails])
    ids = [runner.run(squares, {"n": n}).id for n in range(3)]
    with pytest.raises(bide.RunFailed):
        runner.run(bad)
    everything = [run.id for run in runner.runs()]
    assert everything[1:] == ids[::-1]
    assert [run.workflow for run in runner.runs(status="Failed")] == ["bad"]
    assert [run.id for run in runner.runs(workflow=squares, limit=2)] == ids[:0:-1]
    assert runner.runs(workflow="nothing") == []
    assert runner.runs(since=timedelta(hours=1)) and runner.runs(since=datetime.now(UTC) + timedelta(hours=1)) == []  # noqa: PT018
    assert runner.runs(status=bide.RunStatus.Running) == []


def test_a_listing_shows_a_run_as_a_look_at_it_does(runner: bide.Runner) -> None:
    workflow, entered, release = held()
    handle = runner.submit(workflow)
    assert entered.wait(10)
    # Its row is written only later: so far memory alone knows that the body executes.
    (listed,), looked = runner.runs(), runner.get(handle.id)
    release.set()
    assert (listed.tasks["work"].status, listed.tasks["work"].attempts) == (bide.TaskStatus.Running, 1)
    assert listed.tasks["work"] == looked.tasks["work"]
    handle.result()


def test_another_process_reads_what_it_has_no_code_for(file: Path) -> None:
    ran(
        """
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: int

        @bide.task
        def make(n: int) -> Point:
            return Point(n)

        bide.Runner(db).run(bide.Workflow("points", [make]), {"n": 3}, key="k")
        """,
        file,
    )
    with bide.Runner(file) as reader:
        assert reader.get("k")["make"] == {"x": 3}
        assert reader.get("k").context.to_dict() == {"n": 3}


def test_an_ended_run_can_be_deleted_and_its_key_is_free_again(runner: bide.Runner) -> None:
    first = runner.run(squares, {"n": 1}, key="k")
    runner.delete("k")
    with pytest.raises(KeyError):
        runner.get("k")
    with pytest.raises(KeyError):
        runner.get(first.id)
    assert runner.runs() == []
    assert runner.run(squares, {"n": 2}, key="k")["square"] == 4


def test_a_run_that_has_not_ended_is_not_deleted(runner: bide.Runner) -> None:
    workflow, entered, release = held()
    handle = runner.submit(workflow)
    assert entered.wait(30)
    with pytest.raises(bide.BideError, match="has not ended"):
        runner.delete(handle.id)
    release.set()
    assert handle.result()["work"] == "done"


def test_a_deferred_task_shows_what_it_waits_for_and_how_long_it_waited(runner: bide.Runner) -> None:
    flag = threading.Event()

    def landed() -> bool:
        return flag.is_set()

    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        handle.defer_until(landed, poll_interval_ms=5)

    handle = runner.submit(bide.Workflow("w", [work]))
    task: Callable[[], bide.TaskResult] = lambda: runner.get(handle.id).tasks["work"]  # noqa: E731
    eventually(lambda: task().sub_status is bide.SubStatus.Deferred, "the task defers")
    assert task().status is bide.TaskStatus.Running
    assert "landed" in (task().blocked_by or "")
    time.sleep(0.05)
    flag.set()
    result = handle.result()
    assert result.tasks["work"].sub_status is None
    assert result.tasks["work"].blocked_by is None
    assert 0.05 <= result.tasks["work"].waited < 1
    assert runner.get(handle.id).tasks["work"].waited == result.tasks["work"].waited
