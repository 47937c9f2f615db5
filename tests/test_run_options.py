"""What `submit` and its relatives take beside inputs: tags, priority, when a run begins; and how runs are found."""

import asyncio
import pickle
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import Child, eventually

KINDS = ("memory", "sqlite", "postgres")


@bide.task
def load(path: str) -> str:
    return path


WORKFLOW = bide.Workflow("load", [load])


def copy_of(result: bide.RunResult) -> bide.RunResult:
    copied: bide.RunResult = pickle.loads(pickle.dumps(result))  # noqa: S301 - its own
    return copied


def ids(results: list[bide.RunResult]) -> list[str]:
    return [result.id for result in results]


# --- tags and listings ---------------------------------------------------------------------------------------------


def test_tags_are_kept_and_found(runner: bide.Runner) -> None:
    seven = runner.run(WORKFLOW, {"path": "a"}, tags={"customer": "7", "kind": "big"})
    eight = runner.submit(WORKFLOW, {"path": "b"}, tags={"customer": "8"}).result()
    more = runner.submit_many(WORKFLOW, [{"path": "c"}, {"path": "d"}], tags={"customer": "7"})
    plain = runner.run(WORKFLOW, {"path": "e"})
    results = [handle.result() for handle in more]
    assert (seven.tags, eight.tags, plain.tags) == ({"customer": "7", "kind": "big"}, {"customer": "8"}, {})
    assert ids(runner.runs(tags={"customer": "7"})) == [results[1].id, results[0].id, seven.id]
    assert ids(runner.runs(tags={"customer": "7", "kind": "big"})) == [seven.id]
    assert ids(runner.runs(tags={"customer": "7"}, limit=1)) == [results[1].id]
    assert runner.runs(tags={"customer": "9"}) == []
    assert runner.get(seven.id).tags == copy_of(seven).tags == seven.tags


def test_tags_survive_the_process(file: Path) -> None:
    with bide.Runner(file) as runner:
        run = runner.run(WORKFLOW, {"path": "a"}, tags={"ключ": "", "b": "'; DROP TABLE run"})
    with bide.Runner(file) as runner:
        assert ids(runner.runs(tags={"ключ": "", "b": "'; DROP TABLE run"})) == [run.id]
        assert runner.get(run.id).tags == run.tags
        runner.delete(run.id)
        assert runner.runs(tags={"ключ": ""}) == []


def test_an_async_caller_gives_tags_too(runner: bide.Runner) -> None:
    result = asyncio.run(runner.run_async(WORKFLOW, {"path": "a"}, tags={"customer": "7"}))
    assert result.tags == {"customer": "7"}


def test_runs_are_found_by_the_beginning_of_their_key(runner: bide.Runner) -> None:
    keys = ["order/1", "order/2", "orders", "other", "ORDER/1"]
    runs = {key: runner.run(WORKFLOW, {"path": key}, key=key) for key in keys}
    assert {run.key for run in runner.runs(key_prefix="order/")} == {"order/1", "order/2"}
    assert ids(runner.runs(key_prefix="order/2")) == [runs["order/2"].id]
    assert runner.runs(key_prefix="order%") == []


def test_runs_are_found_by_their_parent(runner: bide.Runner) -> None:
    @bide.task
    def parent(handle: bide.TaskHandle) -> int:
        children = [handle.start(WORKFLOW, {"path": str(number)}) for number in range(3)]
        return len([handle.wait(child) for child in children])

    above, other = (runner.run(bide.Workflow("above", [parent])) for _ in range(2))
    assert [run["load"] for run in runner.runs(parent=above.id)] == ["2", "1", "0"]
    assert not set(ids(runner.runs(parent=other))) & set(ids(runner.runs(parent=above)))
    assert runner.runs(parent=runner.runs(parent=above)[0].id) == []


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no dict": ({"tags": ["a"]}, "submit: tags must be a dict of texts"),
    "a number": ({"tags": {"customer": 7}}, "names and values of tags are texts, but 'customer' is 7: write '7'"),
    "no name": ({"tags": {"": "7"}}, "the name of a tag must be a non-empty string"),
    "a surrogate": ({"tags": {"a": "\ud800"}}, "lone surrogate"),
    "a float": ({"priority": 1.5}, "priority must be a whole number, higher first, not 1.5"),
    "too much": ({"priority": 2**40}, "priority must be a whole number"),
    "naive": ({"start_at": datetime(2026, 1, 1)}, "start_at must know its time zone"),  # noqa: DTZ001 - it is refused
    "negative": ({"start_after": -1}, "start_after must be zero or more"),
    "both": ({"start_at": datetime.now(UTC), "start_after": 1}, "start_at or start_after, not both"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_meant_is_refused_and_nothing_is_submitted(runner: bide.Runner, what: str) -> None:
    options, says = BAD[what]
    with pytest.raises(bide.DefinitionError, match=says):
        runner.submit(WORKFLOW, {"path": "a"}, **options)
    assert runner.runs() == []


# --- inputs and keys -----------------------------------------------------------------------------------------------


def test_a_result_has_the_inputs_as_the_tasks_read_them(file: Path) -> None:
    @bide.task
    def read(path: Path, since: datetime, limit: int = 3) -> int:
        return limit

    inputs = {"path": Path("/data"), "since": datetime(2026, 1, 2, tzinfo=UTC)}
    workflow = bide.Workflow("reads", [read])
    with bide.Runner(file) as runner:
        result = runner.run(workflow, inputs)
        assert result.inputs == inputs
        assert copy_of(result).inputs == inputs
    with bide.Runner(file, workflows=[workflow]) as runner:
        assert runner.get(result.id).inputs == inputs
    with bide.Runner(file) as runner:  # the workflow is not known here: plain JSON
        assert runner.get(result.id).inputs["path"] == "/data"


def test_a_handle_has_the_key_of_its_run(runner: bide.Runner) -> None:
    assert runner.submit(WORKFLOW, {"path": "a"}, key="monday").key == "monday"
    assert runner.submit(WORKFLOW, {"path": "a"}).key is None


# --- when a run begins ---------------------------------------------------------------------------------------------


def test_a_run_begins_at_its_time_and_exists_before(runner: bide.Runner) -> None:
    started: list[float] = []

    @bide.task
    def work() -> None:
        started.append(time.time())

    due = datetime.now(UTC) + timedelta(seconds=0.3)
    handle = runner.submit(bide.Workflow("w", [work]), start_at=due)
    result = runner.get(handle.id)
    assert (result.status, result.tasks["work"].status) == ("Running", "Pending")
    handle.result(30)
    assert started[0] >= due.timestamp()


def test_a_run_begins_after_a_span(runner: bide.Runner) -> None:
    begun = time.time()
    result = runner.run(WORKFLOW, {"path": "a"}, start_after=timedelta(milliseconds=200))
    assert time.time() - begun >= 0.2
    assert result["load"] == "a"


def test_the_start_of_a_key_that_exists_stands(runner: bide.Runner) -> None:
    first = runner.submit(WORKFLOW, {"path": "a"}, key="k", start_after=3600)
    again = runner.submit(WORKFLOW, {"path": "a"}, key="k", start_after=0, tags={"late": "yes"})
    assert again.id == first.id
    assert (again.status(), runner.get("k").tags) == (bide.RunStatus.Running, {})
    assert runner.get("k").tasks["load"].status is bide.TaskStatus.Pending


def test_a_signal_to_a_run_that_has_not_begun_is_kept(runner: bide.Runner) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> Any:
        return handle.wait_for("go")

    handle = runner.submit(bide.Workflow("w", [waits]), start_after=0.2)
    handle.signal("go", 5)
    assert handle.result(30)["waits"] == 5


LATER = """
from datetime import datetime, UTC

@bide.task
def work():
    note("started", time.time())
    return 1

workflow = bide.Workflow("later", [work])
runner = bide.Runner(db, workflows=[workflow])
if words:
    handle = runner.submit(workflow, key="k", start_at=datetime.fromtimestamp(float(words[0]), UTC))
    say("submitted")
    stay()
say(runner.submit(workflow, key="k").result(30)["work"])
"""


def test_a_start_survives_a_crash(file: Path) -> None:
    due = time.time() + 1.5
    with Child(LATER, file, str(due)) as child:
        child.expect("submitted")
        child.kill()
    with Child(LATER, file) as child:
        child.expect("1")
    word, at = file.with_suffix(".ledger").read_text().split()
    assert (word, float(at) >= due) == ("started", True)


# --- priority ------------------------------------------------------------------------------------------------------


def test_of_what_is_ready_the_higher_priority_goes_first(store: str) -> None:
    order: list[str] = []
    entered, go = threading.Event(), threading.Event()

    @bide.task
    def blocks() -> None:
        entered.set()
        go.wait(30)

    @bide.task
    def work(name: str) -> None:
        order.append(name)

    workflow = bide.Workflow("work", [work])
    with bide.Runner(store, slots=1) as runner:
        runner.submit(bide.Workflow("blocks", [blocks]))
        assert entered.wait(30)
        given = [("a", 0), ("low", -1), ("b", 0), ("high", 5), ("higher", 9), ("high too", 5)]
        handles = [runner.submit(workflow, {"name": name}, priority=priority) for name, priority in given]
        go.set()
        for handle in handles:
            handle.result(30)
    assert order == ["higher", "high", "high too", "a", "b", "low"]


def test_of_what_resumes_the_higher_priority_goes_first(store: str) -> None:
    order: list[str] = []
    entered, go = threading.Event(), threading.Event()

    @bide.task
    def blocks() -> None:
        entered.set()
        go.wait(30)

    @bide.task
    def waits(handle: bide.TaskHandle, name: str) -> None:
        handle.wait_for("go")
        order.append(name)

    workflow = bide.Workflow("waits", [waits])
    with bide.Runner(store, slots=1) as runner:
        given = [("a", 0), ("low", -1), ("b", 0), ("high", 5)]
        handles = [runner.submit(workflow, {"name": name}, priority=priority) for name, priority in given]

        def all_are(sub_status: str) -> bool:
            return all(handle._snapshot().tasks["waits"].sub_status == sub_status for handle in handles)

        eventually(lambda: all_are("Deferred"), "all of them wait")
        runner.submit(bide.Workflow("blocks", [blocks]), priority=100)
        assert entered.wait(30)
        for handle in handles:
            handle.signal("go")
        eventually(lambda: all_are("Active"), "all of them want the slot back")
        time.sleep(0.05)  # no signal marks the moment between the commit and the queue
        go.set()
        for handle in handles:
            handle.result(30)
    # Those of one priority resume in the order in which their threads come to the slot.
    assert [order[0], sorted(order[1:3]), order[3]] == ["high", ["a", "b"], "low"]


def test_of_coroutines_the_higher_priority_starts_and_resumes_first(store: str) -> None:
    order: list[str] = []
    entered, go = threading.Event(), threading.Event()

    @bide.task
    async def blocks() -> None:
        entered.set()
        while not go.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.001)
        entered.clear()
        go.clear()

    @bide.task
    async def work(name: str, handle: bide.AsyncTaskHandle) -> None:
        order.append(name)
        await handle.wait_for("go")
        order.append(f"{name} again")

    workflow, blocking = bide.Workflow("work", [work]), bide.Workflow("blocks", [blocks])
    with bide.Runner(store, async_slots=1) as runner:
        first = runner.submit(blocking)
        assert entered.wait(30)
        given = [("a", 0), ("b", 0), ("low", -1), ("high", 5)]
        handles = [runner.submit(workflow, {"name": name}, priority=priority) for name, priority in given]
        go.set()
        first.result(30)
        eventually(lambda: len(runner.waiting()) == len(given), "all of them wait")
        assert order == ["high", "a", "b", "low"]
        order.clear()
        second = runner.submit(blocking, priority=100)
        assert entered.wait(30)
        for handle in handles:
            handle.signal("go")
        eventually(lambda: runner.waiting() == [], "all of them want the slot back")
        time.sleep(0.05)  # no signal marks the moment between the commit and the queue
        go.set()
        for handle in [second, *handles]:
            handle.result(30)
    # Those of one priority resume in the order in which their signals came.
    assert order == ["high again", "a again", "b again", "low again"]
