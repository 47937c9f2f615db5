"""Guarantee 2: a task starts only after its dependencies are committed."""

import threading
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import bide
from processes import ran

DIAMOND = """
at = words[0]

@bide.task
def top() -> str:
    return "top"

@bide.task
def left(top: str) -> str:
    note("left sees", top)
    if at == "left":
        die()
    return top + "-left"

@bide.task
def right(top: str) -> str:
    note("right sees", top)
    if at == "right":
        die()
    return top + "-right"

@bide.task
def bottom(left: str, right: str) -> str:
    note("bottom sees", left, right)
    die()

bide.Runner(db).run(bide.Workflow("diamond", [top, left, right, bottom]), key="k")
"""


def test_dependencies_of_a_started_body_are_stored_before_its_first_line(file: Path) -> None:
    ran(DIAMOND, file, "bottom", code=-9)
    with bide.Runner(file) as reader:
        run = reader.get("k")
    assert {name: run[name] for name in run} == {"top": "top", "left": "top-left", "right": "top-right"}
    assert run.tasks["bottom"].status is not bide.TaskStatus.Completed


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """The dependencies of each task on earlier tasks, by number."""
    size = draw(st.integers(1, 12))
    return [draw(st.lists(st.integers(0, n - 1), unique=True, max_size=4)) if n else [] for n in range(size)]


@settings(max_examples=60)
@given(graphs())
def test_no_body_starts_before_every_body_that_it_depends_on_has_ended(graph: list[list[int]]) -> None:
    lock = threading.Lock()
    ended: set[int] = set()
    early: list[tuple[int, int]] = []

    def body(n: int) -> Callable[[], int]:
        def run() -> int:
            with lock:
                early.extend((n, dependency) for dependency in graph[n] if dependency not in ended)
            with lock:
                ended.add(n)
            return n

        return run

    tasks = [
        bide.task(body(n), name=f"t{n}", depends_on=[f"t{dependency}" for dependency in graph[n]])
        for n in range(len(graph))
    ]
    with bide.Runner(":memory:", slots=3) as runner:
        result = runner.run(bide.Workflow("random", tasks))
    assert early == []
    assert result.outputs == {f"t{n}": n for n in range(len(graph))}


def test_nothing_starts_after_a_failure_that_it_depends_on(runner: bide.Runner) -> None:
    started: list[str] = []

    @bide.task
    def fails() -> int:
        raise ValueError("no")

    @bide.task
    def after(fails: int) -> None:
        started.append("after")

    @bide.task
    def later(after: None) -> None:
        started.append("later")

    handle = runner.submit(bide.Workflow("w", [fails, after, later]))
    try:
        handle.result()
    except bide.RunFailed as failed:
        result = failed.result
    assert started == []
    assert isinstance(result, bide.RunResult)
    assert result.tasks["after"].status is bide.TaskStatus.Skipped
    assert result.tasks["later"].status is bide.TaskStatus.Skipped


def test_independent_tasks_do_not_wait_for_each_other(runner: bide.Runner) -> None:
    meeting = threading.Barrier(4, timeout=20)

    def body() -> None:
        meeting.wait()

    tasks = [bide.task(body, name=f"t{n}") for n in range(4)]
    assert runner.run(bide.Workflow("w", tasks)).status is bide.RunStatus.Completed
