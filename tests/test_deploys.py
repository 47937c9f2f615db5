"""Runs that older code started, and what newer code makes of them: two versions of a workflow on one file."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import Child, eventually, killed, ledger, ran

BEFORE = """
@bide.task
def load(handle: bide.TaskHandle) -> int:
    note("load")
    got = handle.step(lambda: note("step") or 4, name="read")
    say("waits")
    return got + handle.wait_for("go", int)

@bide.task
def ship(load: int) -> str:
    return f"{load} shipped"

runner = bide.Runner(db, workflows=[bide.Workflow("orders", [load, ship])])
run = runner.submit(bide.Workflow("orders", [load, ship]), key="1")
stay()
"""

AFTER = """
@bide.task
def fetch(handle: bide.TaskHandle) -> int:
    note("fetch")
    got = handle.step(lambda: note("step again") or 5, name="read")
    return got + handle.wait_for("go", int)

@bide.task
def ship(fetch: int) -> str:
    return f"{fetch} shipped by newer code"

new = bide.Workflow("orders", [fetch, ship], renamed={"load": "fetch"})
"""


def test_a_renamed_task_keeps_its_journal_across_a_crash(file: Path) -> None:
    killed(BEFORE, file, at="waits")
    after = AFTER + "runner = bide.Runner(db, workflows=[new])\nrunner.signal('1', 'go', 3)\n"
    after += "say(runner._core.attach(runner.get('1').id).wait(20), runner.get('1')['ship'])"
    assert ran(after, file) == ["True 7 shipped by newer code"]
    assert ledger(file) == ["load", "step", "fetch"]


def test_renamed_helps_a_run_that_newer_code_has_stranded_already(file: Path) -> None:
    killed(BEFORE, file, at="waits")
    stranded = AFTER + "runner = bide.Runner(db, workflows=[bide.Workflow('orders', [fetch, ship])])\n"
    stranded += "say(runner.get('1').blocked_by)\n"
    [why] = ran(stranded, file)
    assert "it has no task 'load'; if that has another name now, name both by Workflow(renamed=...)" in why
    assert "runner.adopt(run, workflow)" in why
    after = AFTER + "runner = bide.Runner(db, workflows=[new])\nrunner.signal('1', 'go', 3)\n"
    after += "say(runner._core.attach(runner.get('1').id).wait(20), runner.get('1')['ship'])"
    assert ran(after, file) == ["True 7 shipped by newer code"]
    assert ledger(file) == ["load", "step", "fetch"]


def test_renamed_names_that_cannot_work_are_refused() -> None:
    @bide.task
    def fetch() -> None: ...

    for renamed, message in (
        ({"load": "fetsh"}, "'load' is to be 'fetsh' now, and no task has that name; did you mean 'fetch'?"),
        ({"fetch": "fetch"}, "there is still a task named 'fetch'"),
        (["load"], "renamed is a dict of old names and new ones"),
        ({"load": 5}, "a name in renamed must be a non-empty string, not 5"),
    ):
        with pytest.raises(bide.DefinitionError, match=message.replace("?", r"\?")):
            bide.Workflow("orders", [fetch], renamed=renamed)  # type: ignore[arg-type]


Tasks = dict[str, Callable[..., Any]]


def returning(name: str, value: object) -> Callable[..., Any]:
    """Return a task without dependencies."""

    def body() -> object:
        return value

    return bide.task(body, name=name)


def versions() -> tuple[Tasks, Tasks]:
    """The tasks of two versions: in the second one, both `late` and `last` take what `early` returns."""

    @bide.task
    def early() -> int:
        return 1

    @bide.task
    def middle(handle: bide.TaskHandle) -> str:
        return handle.wait_for("go", str)

    @bide.task
    def last(middle: str) -> str:
        return middle

    def second_middle(early: int, handle: bide.TaskHandle) -> str:
        return f"{early} {handle.wait_for('go', str)}"

    def second_last(middle: str, early: int) -> str:
        return f"{middle} {early}"

    one: Tasks = {"early": early, "middle": middle, "last": last}
    two: Tasks = {
        "early": early,
        "middle": bide.task(name="middle")(second_middle),
        "last": bide.task(name="last")(second_last),
    }
    return one, two


def begun(file: Path, tasks: Tasks, until: str) -> str:
    """Begin a run, and close its runner when a task waits."""
    with bide.Runner(file) as runner:
        run = runner.submit(bide.Workflow("versions", tasks.values()), key="1")
        while runner.get(run.id).tasks[until].sub_status != "Deferred" or (
            "early" in tasks and until != "early" and runner.get(run.id).tasks["early"].status != "Completed"
        ):
            time.sleep(0.005)
        return run.id


def test_a_dependency_may_be_added_on_a_task_that_has_ended(file: Path) -> None:
    one, two = versions()
    run = begun(file, one, "middle")
    with bide.Runner(file, workflows=[bide.Workflow("versions", two.values())]) as runner:
        runner.signal(run, "go", "there")
        assert runner._core.attach(run).wait(20)
        assert runner.get(run)["last"] == "1 there 1"


def test_a_dependency_on_a_task_that_has_not_ended_strands_what_has_begun(file: Path) -> None:
    @bide.task(gate=bide.signal("never"))
    def early() -> int:
        return 1

    one, two = versions()
    one["early"] = two["early"] = early
    with bide.Runner(file) as runner:
        run = runner.submit(bide.Workflow("versions", one.values()), key="1")
        while runner.get(run.id).tasks["middle"].sub_status != "Deferred":
            time.sleep(0.005)
    with bide.Runner(file, workflows=[bide.Workflow("versions", two.values())]) as runner:
        why = runner.get(run.id).blocked_by
        assert why is not None
        assert "task 'middle', which has begun, depends on 'early' now, which has not ended" in why
        with pytest.raises(bide.BideError, match="depends on 'early' now"):
            runner.submit(bide.Workflow("versions", two.values()), key="1").result(5)
    # What has not begun may wait for whatever it wants to.
    two["middle"] = one["middle"]
    with bide.Runner(file, workflows=[bide.Workflow("versions", two.values())]) as runner:
        runner.signal(run.id, "never")
        runner.signal(run.id, "go", "there")
        assert runner._core.attach(run.id).wait(20)
        assert runner.get(run.id)["last"] == "there 1"


def test_a_person_adopts_a_run_that_no_code_fits(file: Path) -> None:
    one, _ = versions()
    run = begun(file, one, "middle")

    @bide.task
    def middle(handle: bide.TaskHandle) -> str:
        return "new " + handle.wait_for("go", str)

    lacks = bide.Workflow("versions", [returning("other", None)])
    fits = bide.Workflow("versions", [middle])
    with bide.Runner(file, workflows=[fits]) as runner:
        with pytest.raises(bide.BideError, match=r"lacks middle, last, .*renamed= .*runner\.cancel\(run, force=True\)"):
            runner.adopt(run, lacks)
        with pytest.raises(bide.BideError, match="it lacks last, or maps otherwise"):
            runner.adopt(run, fits)
        both = bide.Workflow("versions", [middle, returning("last", "alone")])
        assert "task 'last' does not depend on 'middle'" not in str(runner.get(run).blocked_by)
        runner.adopt(run, both, by="ana", reason="last needs nothing any more")
        runner.adopt(run, both)
        runner.signal(run, "go", "there")
        assert runner._core.attach(run).wait(20)
        result = runner.get(run)
        assert (dict(result.items()), result.key) == ({"middle": "new there", "last": "alone"}, "1")
        [adopted] = [one for one in runner.history(run) if one.what == "adopt"]
        assert (adopted.by, adopted.reason) == ("ana", "last needs nothing any more")
        with pytest.raises(bide.BideError, match=r"has completed: .*runner\.fork"):
            runner.adopt(run, lacks)


def test_a_run_of_a_renamed_workflow_is_adopted(file: Path) -> None:
    one, _ = versions()
    run = begun(file, one, "middle")
    workflow = bide.Workflow("renamed", reversed([*one.values()]))
    with bide.Runner(file, workflows=[workflow]) as runner:
        runner.adopt("1", workflow)
        runner.signal(run, "go", "there")
        assert runner._core.attach(run).wait(20)
        assert (runner.get("1").workflow, runner.get(run)["last"], runner.get(run)["early"]) == ("renamed", "there", 1)


def test_a_run_that_is_executed_is_not_adopted(file: Path) -> None:
    waits = BEFORE.replace("stay()", "")
    with Child(waits + "stay()", file) as child, bide.Runner(file) as runner:
        child.expect("waits")
        eventually(lambda: runner.get("1").tasks["load"].sub_status == "Deferred", "its wait is committed")
        other = bide.Workflow("orders", [returning("load", 1), returning("ship", 1)])
        with pytest.raises(bide.BideError, match="is executed by a runner, whose code it fits"):
            runner.adopt("1", other)
        child.kill()
        runner.adopt("1", other)
        runner.signal("1", "go", 1)  # a wait that is open stays open: the new body begins with its end
        assert runner._core.attach(runner.get("1").id).wait(20)


def test_a_failed_run_is_adopted_and_retried_with_changed_code(file: Path) -> None:
    @bide.task
    def load() -> int:
        return 2

    @bide.task
    def double(load: int) -> int:
        raise ValueError(load)

    with bide.Runner(file) as runner, pytest.raises(bide.RunFailed):
        runner.run(bide.Workflow("numbers", [load, double]), key="1")

    @bide.task
    def factor() -> int:
        return 5

    @bide.task(name="double")
    def fixed(load: int, factor: int) -> int:
        return load * factor

    with bide.Runner(file) as runner:
        workflow = bide.Workflow("numbers", [load, factor, fixed])
        runner.adopt("1", workflow)
        runner.retry("1")
        assert runner._core.attach(runner.get("1").id).wait(20)
        assert runner.get("1")["double"] == 10


def test_a_run_that_no_code_fits_can_be_ended_and_deleted(file: Path) -> None:
    one, _ = versions()
    run = begun(file, one, "middle")
    other = bide.Workflow("versions", [returning("other", None)])
    with bide.Runner(file, workflows=[other]) as runner:
        with pytest.raises(bide.BideError, match="has not ended: only ended runs can be deleted; force=True ends it"):
            runner.delete(run)
        assert runner.delete(run, force=True) == 1
        with pytest.raises(KeyError):
            runner.get(run)
    run = begun(file, one, "middle")
    with bide.Runner(file, workflows=[other]) as runner:
        runner.cancel(run, force=True)
        assert runner.get(run).status == "Cancelled"


def test_a_live_run_is_deleted_by_force(runner: bide.Runner) -> None:
    one, _ = versions()
    run = runner.submit(bide.Workflow("versions", one.values()))
    assert runner.delete(run, force=True) == 1
    with pytest.raises(KeyError):
        runner.get(run.id)


def test_a_mismatch_says_how_the_run_continues_and_it_does(runner: bide.Runner) -> None:
    read = [1]

    @bide.task
    def load(handle: bide.TaskHandle) -> int:
        def double(number: int) -> int:
            return number * 2

        got = handle.step(double, read[0], name="read")
        if read[0] == 1:
            read[0] = 2
            raise ConnectionError
        return got

    run = runner.submit(bide.Workflow("reads", [load]))
    with pytest.raises(bide.RunFailed):
        run.result(10)
    run.retry()
    advice = r"runner\.resume\(run\) continues it; runner\.retry\(run, from_task=\.\.\., fresh=True\) forgets"
    with pytest.raises(bide.ReplayMismatch, match=advice):
        run.result(10)
    assert "from_task=..., fresh=True" in str(runner.get(run.id).blocked_by)
    runner.retry(run, from_task="load", fresh=True)
    assert run.result(10)["load"] == 4


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_run_paused_by_a_mismatch_is_resumed_once_its_code_fits_again(file: Path, kind: str) -> None:
    calls: list[str] = []

    def read(what: str) -> str:
        calls.append(what)
        return what

    def reads(what: str) -> bide.Workflow:
        @bide.task(name="load")
        def plain(handle: bide.TaskHandle) -> str:
            return handle.step(read, what) + handle.wait_for("go", str)

        @bide.task(name="load")
        async def coroutine(handle: bide.AsyncTaskHandle) -> str:
            return await handle.step(read, what) + await handle.wait_for("go", str)

        tasks: list[Callable[..., Any]] = [plain if kind == "def" else coroutine]
        return bide.Workflow("reads", tasks)

    with bide.Runner(file) as runner:
        run = runner.submit(reads("old")).id
        eventually(lambda: runner.get(run).tasks["load"].sub_status == "Deferred", "it waits")
    with bide.Runner(file, workflows=[reads("new")]) as runner:
        runner.signal(run, "go", "!")
        eventually(lambda: runner.get(run).status == "Paused", "its record does not fit")
        assert "with code that fits the record, runner.resume(run) continues it" in str(runner.get(run).blocked_by)
    with bide.Runner(file, workflows=[reads("old")]) as runner, bide.Client(file) as client:
        assert runner.get(run).status == "Paused", "nobody has resumed it"
        client.resume(run, by="ana", reason="rolled back")
        eventually(lambda: runner.get(run).status == "Completed", "it continues")
        assert runner.get(run)["load"] == "old!"
        assert [(one.what, one.by, one.reason) for one in runner.history(run) if one.by] == [
            ("resume", "ana", "rolled back")
        ]
    assert calls == ["old"]
