"""`bide.testing.rehearse`: whether code fits the unfinished runs of a store."""

from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from bide.testing import Runner, rehearse

pytestmark = pytest.mark.timeout(60)


def called() -> Any:
    raise AssertionError("the code of a body or a condition")


def store_with_runs(path: Path) -> dict[str, str]:
    """Leave a run whose body waits, one that waits for a gate, and one that has ended; return the ids of those two."""

    @bide.task
    def fetch(day: str) -> int:
        return len(day)

    @bide.task
    def ask(fetch: int, handle: bide.TaskHandle) -> str:
        handle.step(len, "once", name="measure")
        handle.wait(bide.until(lambda: False, every=60, name="soon"))
        return ""

    @bide.task(gate=bide.until(lambda: False, every=60, name="ready"))
    def gated() -> None: ...

    with Runner(path) as runner:
        asking = runner.submit(bide.Workflow("asking", [fetch, ask]), {"day": "monday"}, key="a")
        waiting = runner.submit(bide.Workflow("waiting", [gated]))
        runner.submit(bide.Workflow("ended", [fetch]), {"day": "monday"})
        runner.run_until_waiting()
    return {"asking": asking.id, "waiting": waiting.id}


def asking(step: Any = len, argument: str = "once") -> bide.Workflow:
    @bide.task
    def fetch(day: str) -> int:
        return int(called())

    @bide.task
    def ask(fetch: int, handle: bide.TaskHandle) -> str:
        handle.step(step, argument, name="measure")
        handle.wait(bide.until(lambda: False, every=60, name="soon"))
        return ""

    return bide.Workflow("asking", [fetch, ask])


def waiting() -> bide.Workflow:
    @bide.task(gate=bide.until(called, every=60, name="ready"))
    def gated() -> None:
        called()

    return bide.Workflow("waiting", [gated])


def test_code_that_fits_is_told_so_and_nothing_of_it_executes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    ids = store_with_runs(path)
    before = path.read_bytes()
    found = rehearse(path, [asking(lambda _: called()), waiting()])
    assert found.fits, str(found)
    assert {run.workflow: run.run for run in found.runs} == ids
    of = {run.workflow: run for run in found.runs}
    assert of["asking"].key == "a"
    assert of["asking"].enters == ("ask",)
    assert of["waiting"].waits == ("task 'gated' waits for ready",)
    assert path.read_bytes() == before


def test_a_run_whose_workflow_or_graph_is_gone_does_not_fit(tmp_path: Path) -> None:
    store_with_runs(tmp_path / "a.db")

    @bide.task
    def renamed() -> None: ...

    found = rehearse(tmp_path / "a.db", [bide.Workflow("asking", [renamed])])
    assert not found.fits
    assert [bool(run.problems) for run in found.runs] == [True, True]
    assert "does not fit" in str(found)


def test_a_map_of_which_an_element_may_fail_fits(tmp_path: Path) -> None:
    def numbers() -> list[int]:
        return [1, 2]

    @bide.task(tolerate=1)
    def halves(number: Annotated[int, bide.Each(numbers)]) -> int:
        if number % 2:
            raise ValueError(number)
        return number // 2

    @bide.task
    def waits(halves: bide.Mapped[int], handle: bide.TaskHandle) -> None:
        handle.wait_for("go")

    workflow = bide.Workflow("halving", [numbers, halves, waits])
    path = tmp_path / "a.db"
    with Runner(path) as runner:
        runner.submit(workflow)
        runner.run_until_waiting()
    found = rehearse(path, [workflow])
    assert found.fits, str(found)


def test_a_value_that_does_not_decode_any_more_is_told(tmp_path: Path) -> None:
    store_with_runs(tmp_path / "a.db")

    @bide.task
    def fetch(day: str) -> list[str]:
        return []

    @bide.task
    def ask(fetch: list[str], handle: bide.TaskHandle) -> str:
        return ""

    found = rehearse(tmp_path / "a.db", [bide.Workflow("asking", [fetch, ask]), waiting()])
    assert [run.workflow for run in found.runs if run.problems] == ["asking"], str(found)


def test_a_step_that_does_not_match_is_found_by_executing(tmp_path: Path) -> None:
    store_with_runs(tmp_path / "a.db")
    problems = [
        {run.workflow: run.problems for run in rehearse(tmp_path / "a.db", [workflow], execute=True).runs}["asking"]
        for workflow in (asking(), asking(argument="twice"))
    ]
    assert problems[0] == ()
    assert "measure" in problems[1][0]


def test_a_store_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bide.DefinitionError, match="there is no file"):
        rehearse(tmp_path / "a.db", [])
    (tmp_path / "b.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(bide.StoreError, match="could not be copied"):
        rehearse(tmp_path / "b.db", [])


def measuring(name: str) -> bide.Workflow:
    """Return the workflow with another name of its step, which may be made at run time."""

    def soon() -> bool:
        return bool(called())

    def rest(handle: bide.TaskHandle, step: str) -> str:
        handle.step(len, "once", name=step)
        handle.wait(bide.until(soon, every=60))
        return ""

    @bide.task
    def fetch(day: str) -> int:
        return int(called())

    @bide.task(name="ask")
    def ask(fetch: int, handle: bide.TaskHandle) -> str:
        return rest(handle, "measure")

    @bide.task(name="ask")
    def ask_made(fetch: int, handle: bide.TaskHandle) -> str:
        return rest(handle, f"measure{''.join(())}")

    @bide.task(name="ask")
    def ask_otherwise(fetch: int, handle: bide.TaskHandle) -> str:
        return rest(handle, "count")

    return bide.Workflow("asking", [fetch, {"measure": ask, "made": ask_made, "count": ask_otherwise}[name]])


def test_a_recorded_step_that_the_code_does_not_mention_any_more_is_named(tmp_path: Path) -> None:
    store_with_runs(tmp_path / "a.db")

    def doubts(workflow: bide.Workflow) -> tuple[str, ...]:
        return next(run.doubts for run in rehearse(tmp_path / "a.db", [workflow]).runs if run.workflow == "asking")

    assert doubts(measuring("measure")) == doubts(measuring("made")) == doubts(asking()) == ()
    (doubt,) = doubts(measuring("count"))
    assert doubt.startswith("task 'ask' has recorded 'measure', which its code does not mention")
