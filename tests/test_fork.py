"""`fork`: a new run with recorded outcomes of another one."""

import time
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from processes import Child, ledger, ran

KINDS = ("memory", "sqlite", "postgres")

Made = tuple[bide.Workflow, list[str]]


def made(*, fails: bool = False) -> Made:
    """Return load -> double -> report, and audit beside them; and which of them were called."""
    called: list[str] = []

    @bide.task
    def load(start: int = 1) -> int:
        called.append("load")
        return start

    @bide.task
    def double(load: int, factor: int = 2) -> int:
        called.append("double")
        if fails and len(called) < 4:
            raise ConnectionError(called)
        return load * factor

    @bide.task
    def report(double: int) -> str:
        called.append("report")
        return f"{double}!"

    @bide.task
    def audit() -> str:
        called.append("audit")
        return "fine"

    return bide.Workflow("numbers", [load, double, report, audit]), called


def test_a_fork_keeps_what_does_not_depend_on_its_start(runner: bide.Runner) -> None:
    workflow, called = made()
    first = runner.run(workflow, key="once", tags={"customer": "7"}, priority=3)
    called.clear()
    forked = runner.fork(first, start_at="double", by="ana", reason="a new factor", inputs={"factor": 5})
    result = forked.result(10)
    assert (called, result["load"], result["report"], result["audit"]) == (["double", "report"], 1, "5!", "fine")
    assert (result.tags, result.key, result.inputs["factor"]) == ({"customer": "7"}, None, 5)
    assert forked.id != first.id
    assert runner.get("once")["report"] == "2!"
    there = [(one.what, one.name, one.task, one.by, one.reason) for one in runner.history(first) if one.by]
    assert there == [("forked_to", forked.id, "double", "ana", "a new factor")]
    here = [(one.what, one.name, one.task) for one in forked.history()]
    assert here[:2] == [("created", None, None), ("forked_from", first.id, "double")]
    assert ("started", None, "load") not in here


def test_a_failed_run_is_forked_from_its_failed_task(runner: bide.Runner) -> None:
    workflow, called = made(fails=True)
    with pytest.raises(bide.RunFailed) as raised:
        runner.run(workflow)
    forked = runner.fork(raised.value.result, start_at=["double"]).result(10)
    assert (forked["report"], called.count("load"), called.count("audit")) == ("2!", 1, 1)
    assert runner.get(raised.value.result.id).status == "Failed"


def test_an_edited_output_replaces_the_recorded_one(runner: bide.Runner) -> None:
    workflow, called = made()
    first = runner.run(workflow)
    called.clear()
    forked = runner.fork(first, start_at="report", edit={"double": 21, "audit": "by hand"}, by="bo")
    assert (forked.result(10)["report"], forked.result(10)["audit"], called) == ("21!", "by hand", ["report"])
    assert [one.task for one in forked.history() if one.what == "edited"] == ["double", "audit"]
    with pytest.raises(bide.SerializationError, match="'double'"):
        runner.fork(first, start_at="report", edit={"double": "many"})


def test_a_fork_of_a_run_that_waits_leaves_it_waiting(runner: bide.Runner) -> None:
    @bide.task
    def early() -> int:
        return 1

    @bide.task
    def late(early: int, handle: bide.TaskHandle) -> str:
        handle.step(lambda: None, name="prepare")
        return f"{early} {handle.wait_for('go', str)}"

    first = runner.submit(bide.Workflow("waits", [early, late]))
    while runner.get(first.id).tasks["late"].sub_status != "Deferred":
        time.sleep(0.005)
    forked = first.fork(start_at="late", edit={"early": 2})
    forked.signal("go", "forked")
    first.signal("go", "first")
    assert (forked.result(10)["late"], first.result(10)["late"]) == ("2 forked", "1 first")


def test_run_if_decides_anew_about_what_is_done_again(runner: bide.Runner) -> None:
    @bide.task
    def risky(fail: bool) -> int:
        if fail:
            raise ValueError(fail)
        return 1

    @bide.task(run_if="failed", depends_on=[risky])
    def repair() -> str:
        return "repaired"

    @bide.task(run_if="done", depends_on=[repair])
    def close() -> str:
        return "closed"

    workflow = bide.Workflow("risks", [risky, repair, close])
    with pytest.raises(bide.RunFailed) as raised:
        runner.run(workflow, {"fail": True})
    failed = raised.value.result
    again = runner.fork(failed, start_at="close")
    with pytest.raises(bide.RunFailed) as raised:
        again.result(10)
    kept = raised.value.result
    assert [kept.tasks[name].status for name in ("risky", "repair", "close")] == ["Failed", "Completed", "Completed"]
    fine = runner.fork(failed, start_at="risky", inputs={"fail": False}).result(10)
    assert [fine.tasks[name].status for name in ("risky", "repair", "close")] == ["Completed", "Skipped", "Completed"]
    with pytest.raises(bide.DefinitionError, match="'repair' would be skipped because no task that it depends on"):
        runner.fork(fine, start_at="repair")


def mapped(called: list[str]) -> bide.Workflow:
    @bide.task
    def files() -> list[str]:
        called.append("files")
        return ["a", "b", "c"]

    @bide.task
    def read(file: Annotated[str, bide.Each("files")]) -> str:
        called.append(f"read {file}")
        return file.upper()

    @bide.task
    def check(read: Annotated[str, bide.Each("read")]) -> str:
        called.append(f"check {read}")
        return f"{read}?"

    @bide.task
    def join(check: list[str]) -> str:
        return "".join(check)

    return bide.Workflow("maps", [files, read, check, join])


def test_a_fork_does_single_elements_of_mapped_tasks_again(runner: bide.Runner) -> None:
    called: list[str] = []
    first = runner.run(mapped(called))
    called.clear()
    forked = runner.fork(first, start_at="check[1]", edit={"read[1]": "X", "check[2]": "!"})
    assert (forked.result(10)["join"], called) == ("A?X?!", ["check X"])
    called.clear()
    forked = runner.fork(first, start_at="read", edit={"files": ["d"]})
    assert (forked.result(10)["join"], called) == ("D?", ["read d", "check D"])


def test_a_fork_of_a_failed_map_keeps_the_elements_that_completed(runner: bide.Runner) -> None:
    called: list[int] = []

    @bide.task
    def numbers() -> list[int]:
        return [0, 1, 2]

    @bide.task(gate=bide.signal("never"))
    def waits(number: Annotated[int, bide.Each("numbers")]) -> int:
        return number

    @bide.task
    def half(number: Annotated[int, bide.Each("numbers")]) -> float:
        called.append(number)
        if called.count(1) == 1 and number == 1:
            raise ZeroDivisionError
        return number / 2

    @bide.task
    def total(half: list[float]) -> float:
        return sum(half)

    workflow = bide.Workflow("halves", [numbers, waits, half, total])
    first = runner.submit(workflow)
    while runner.get(first.id).tasks["half"].ended_at is None:
        time.sleep(0.005)
    forked = first.fork(start_at="half[1]", edit={"waits[0]": 9})
    for _ in range(2):
        forked.signal("never")
    result = forked.result(10)
    assert (result["total"], sorted(called), result["waits"]) == (1.5, [0, 1, 1, 2], [9, 1, 2])
    first.cancel(force=True)


def test_what_cannot_be_forked_is_refused_and_says_why(runner: bide.Runner) -> None:
    workflow, _ = made()
    first = runner.run(workflow)
    maps = runner.run(mapped([]))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"start_at": "dubble"}, "start_at: .* has no task 'dubble'; did you mean 'double'?"),
        ({"start_at": "double", "edit": {"reprot": 1}}, "edit: .* has no task 'reprot'; did you mean 'report'?"),
        ({"start_at": "double", "edit": {"report": "x"}}, "edit: task 'report' is done again"),
        ({"start_at": "double", "inputs": {"start": 2}}, "inputs: 'start' is read by task 'load', whose recorded"),
        ({"start_at": "double", "inputs": {"strat": 2}}, "nothing takes the input 'strat'"),
        ({"start_at": []}, "start_at names no task"),
        ({"start_at": 5}, "start_at is the name of a task"),
        ({"start_at": "double", "edit": [1]}, "edit is a dict of outputs"),
    ]
    for arguments, message in cases:
        with pytest.raises(bide.DefinitionError, match=message):
            runner.fork(first, **arguments)
    with pytest.raises(bide.DefinitionError, match=r"no element 'read\[3\]': task 'read' has 3 of them"):
        runner.fork(maps, start_at="read[3]")
    with pytest.raises(bide.DefinitionError, match=r"'read' is mapped: replace .* such as 'read\[0\]'"):
        runner.fork(maps, start_at="join", edit={"read": ["x"]})
    with pytest.raises(KeyError, match="no run has the id or key 'nobody'"):
        runner.fork("nobody", start_at="load")


def test_a_fork_needs_what_its_start_depends_on(runner: bide.Runner) -> None:
    workflow, _ = made(fails=True)
    with pytest.raises(bide.RunFailed) as raised:
        runner.run(workflow)
    failed = raised.value.result
    with pytest.raises(bide.DefinitionError, match="'report' would be skipped because of task 'double', which has not"):
        runner.fork(failed, start_at="report")
    assert runner.fork(failed, start_at="report", edit={"double": 4}).result(10)["report"] == "4!"

    @bide.task(gate=bide.signal("go"))
    def first() -> int:
        return 1

    @bide.task
    def second(first: int) -> int:
        return first

    run = runner.submit(bide.Workflow("gated", [first, second]))
    with pytest.raises(bide.DefinitionError, match="depends on task 'first', which has not ended: start at that one"):
        run.fork(start_at="second")
    assert run.fork(start_at="second", edit={"first": 7}).result(10)["second"] == 7


def test_a_kept_failure_of_a_workflow_that_fails_fast_is_refused(runner: bide.Runner) -> None:
    @bide.task
    def bad(fail: bool = True) -> int:
        if fail:
            raise ValueError(fail)
        return 1

    @bide.task(gate=bide.signal("go"))
    def other() -> int:
        return 2

    workflow = bide.Workflow("fast", [bad, other], fail_fast=True)
    with pytest.raises(bide.RunFailed) as raised:
        runner.run(workflow)
    failed = raised.value.result
    with pytest.raises(bide.DefinitionError, match="task 'bad' has failed, and after a failure nothing starts"):
        runner.fork(failed, start_at="other")
    forked = runner.fork(failed, start_at="bad", inputs={"fail": False})
    forked.signal("go")
    assert forked.result(10)["other"] == 2, "what the failure had skipped is done again"


def test_a_run_of_a_workflow_that_is_not_registered_is_not_forked(tmp_path: Path) -> None:
    workflow, _ = made()
    with bide.Runner(tmp_path / "bide.db") as runner:
        first = runner.run(workflow)
    with bide.Runner(tmp_path / "bide.db") as other:
        with pytest.raises(bide.BideError, match=r"of workflow 'numbers', which this runner does not have: pass it"):
            other.fork(first.id, start_at="load")
        other.register(made()[0])
        assert other.fork(first.id, start_at="report").result(10)["report"] == "2!"


async def test_a_run_is_forked_on_an_event_loop(tmp_path: Path) -> None:
    async with bide.Runner(tmp_path / "bide.db") as runner:
        first = await runner.run_async(made()[0])
        forked = await runner.fork_async(first, start_at="report")
        assert (await forked)["report"] == "2!"


FORKS = """
@bide.task
def load() -> int:
    note("load")
    return 1

@bide.task(depends_on=[load])
def ship(load: int, handle: bide.TaskHandle, stays: bool = False) -> str:
    note("ship", stays)
    if stays and words[0] == "first":
        say("ships")
        stay()
    return f"{load} shipped"

runner = bide.Runner(db, workflows=[bide.Workflow("orders", [load, ship])])
"""


def test_a_fork_survives_a_crash_with_all_that_it_keeps(file: Path) -> None:
    begins = FORKS + "first = runner.run(bide.Workflow('orders', [load, ship]), key='1')\n"
    begins += "forked = runner.fork(first, start_at='ship', inputs={'stays': True}, edit={'load': 7})\n"
    begins += "say('forked', forked.id); stay()\n"
    with Child(begins, file, "first") as child:
        run = child.after("forked")
        child.expect("ships") if "ships" not in child.said else None
        child.kill()
    continues = FORKS + f"say(runner._core.attach({run!r}).wait(20), runner.get({run!r})['ship'])"
    assert ran(continues, file, "second") == ["True 7 shipped"]
    assert ledger(file) == ["load", "ship False", "ship True", "ship True"]


def test_a_run_of_another_process_is_forked_while_it_executes(file: Path) -> None:
    with Child(
        FORKS + "runner.submit(bide.Workflow('orders', [load, ship]), {'stays': True}, key='1')\nstay()", file, "first"
    ) as child:
        child.expect("ships")
        forks = FORKS + "run = runner.fork('1', start_at='ship', by='bo')\nsay(run.result(20)['ship'])\n"
        forks += "say(*[one.what for one in runner.history('1') if one.by == 'bo'], runner.get('1').status)"
        assert ran(forks, file, "second") == ["1 shipped", "forked_to Running"]
        child.kill()
