"""Mapped tasks: an element for each item of a list, in order, without barriers, and what may fail."""

import contextlib
import threading
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

import bide
from processes import killed, ledger, ran

KINDS = ("memory", "sqlite", "postgres")


class Point(msgspec.Struct):
    """A value that is not a scalar."""

    x: int
    name: str = "none"


@bide.task
def files() -> list[Path]:
    """Return the list that most tests map over."""
    return [Path(f"/data/{index}.csv") for index in range(4)]


@bide.task
def process(file: Annotated[Path, bide.Each("files")]) -> str:
    """Return something that shows which item it got."""
    return file.stem


def numbers() -> list[int]:
    """Return a list of scalars."""
    return [0, 1, 2, 3]


def ended(runner: bide.Runner, workflow: bide.Workflow, inputs: dict[str, Any] | None = None) -> bide.RunResult:
    """Return the result of a run, also of one that failed."""
    with contextlib.suppress(bide.RunFailed):
        runner.run(workflow, inputs, key=workflow.name)
    return runner.get(workflow.name)


# --- what elements and readers get ---------------------------------------------------------------------------------


def test_each_item_is_an_element_and_a_reader_gets_the_outputs_in_order(store: str) -> None:
    def report(process: list[str], once: Annotated[list[str], bide.From("process")]) -> list[str]:
        assert process == once
        return process

    with bide.Runner(store) as runner:
        result = runner.run(bide.Workflow("map", [files, process, report]))
    assert result["report"] == result["process"] == ["0", "1", "2", "3"]
    assert result["process[3]"] == "3"
    assert list(result.tasks) == ["files", "process", *(f"process[{index}]" for index in range(4)), "report"]
    assert result.tasks["process[2]"].attempts == 1
    assert set(result) == {"files", "process", "report"}
    with pytest.raises(KeyError):
        result["process[4]"]


def test_every_kind_of_item_reaches_its_element_as_it_was(runner: bide.Runner) -> None:
    values: list[Any] = [None, True, -5, 2.5, 1e300, 'a"\\,]', "", [1, [2]], {"a": {"b": []}}, "ü"]

    def anything() -> list[Any]:
        return values

    def same(value: Annotated[Any, bide.Each(anything)]) -> Any:
        return value

    def points() -> list[Point]:
        return [Point(1), Point(2, "b")]

    def blobs() -> tuple[bytes, ...]:
        return (b"\x00\xff", b"")

    def shown(point: Annotated[Point, bide.Each(points)], blob: Annotated[bytes, bide.Each(blobs)]) -> str:
        return f"{point.x} {point.name} {blob!r}"

    result = runner.run(bide.Workflow("items", [anything, same, points, blobs, shown]))
    assert result["same"] == values
    assert result["shown"] == ["1 none b'\\x00\\xff'", "2 b b''"]


def test_an_input_is_mapped_as_a_list_or_a_tuple(runner: bide.Runner) -> None:
    def fetch(url: Annotated[str, bide.Each(bide.Input("urls"))], suffix: str = "!") -> str:
        return url + suffix

    workflow = bide.Workflow("inputs", [fetch])
    assert runner.run(workflow, {"urls": ["a", "b"]})["fetch"] == ["a!", "b!"]
    assert runner.run(workflow, {"urls": ("a",), "suffix": "?"})["fetch"] == ["a?"]


def test_a_reader_of_an_empty_list_gets_an_empty_list(store: str) -> None:
    def nothing() -> list[int]:
        return []

    def one(item: Annotated[int, bide.Each(nothing)]) -> int:
        return item

    def two(item: Annotated[int, bide.Each(one)]) -> int:
        return item

    def read(one: list[int], two: bide.Mapped[int]) -> tuple[list[int], int]:
        return one, two.total

    with bide.Runner(store) as runner:
        result = runner.run(bide.Workflow("empty", [nothing, one, two, read]))
    assert result["one"] == []
    assert result["read"] == ([], 0)
    assert result.tasks["two"].status is bide.TaskStatus.Completed


def test_several_lists_run_in_step(runner: bide.Runner) -> None:
    def both(number: Annotated[int, bide.Each(numbers)], file: Annotated[Path, bide.Each("files")]) -> str:
        return f"{number}{file.suffix}"

    assert runner.run(bide.Workflow("step", [numbers, files, both]))["both"] == ["0.csv", "1.csv", "2.csv", "3.csv"]


def test_a_successor_starts_while_the_last_element_still_runs(store: str) -> None:
    seen = threading.Event()

    def first(number: Annotated[int, bide.Each(numbers)]) -> int:
        if number == 3:
            assert seen.wait(30), "no element of the successor has started"
        return number

    def second(number: Annotated[int, bide.Each(first)]) -> int:
        seen.set()
        return number * 10

    with bide.Runner(store, slots=2) as runner:
        assert runner.run(bide.Workflow("chain", [numbers, first, second]))["second"] == [0, 10, 20, 30]


def test_a_successor_that_waits_for_more_finds_the_elements_that_have_ended(runner: bide.Runner) -> None:
    started = threading.Event()

    def first(number: Annotated[int, bide.Each(numbers)]) -> int:
        if number == 3:
            started.set()
        return number

    def late() -> int:
        assert started.wait(30)
        return 100

    def second(number: Annotated[int, bide.Each(first)], late: int) -> int:
        return number + late

    result = runner.run(bide.Workflow("late", [numbers, first, late, second]))
    assert result["second"] == [100, 101, 102, 103]


def test_a_dict_of_several_tasks_is_a_static_fan_in(runner: bide.Runner) -> None:
    def one() -> int:
        return 1

    def two() -> int:
        return 2

    def total(parts: Annotated[dict[str, int], bide.From([one, "two"])]) -> dict[str, int]:
        return parts

    assert runner.run(bide.Workflow("fan-in", [one, two, total]))["total"] == {"one": 1, "two": 2}


# --- each element on its own ----------------------------------------------------------------------------------------


def test_each_element_is_retried_by_itself(store: str) -> None:
    @bide.task(retry=bide.Retry(attempts=3, delay=0))
    def flaky(number: Annotated[int, bide.Each(numbers)], handle: bide.TaskHandle) -> int:
        if number == 2 and handle.attempt < 3:
            raise ValueError
        return handle.attempt

    with bide.Runner(store) as runner:
        result = runner.run(bide.Workflow("retry", [numbers, flaky]))
    assert result["flaky"] == [1, 1, 3, 1]
    assert result.tasks["flaky[2]"].attempts == 3


def test_each_element_waits_by_itself_and_gives_its_slot_back(store: str) -> None:
    open_waits = {number: threading.Event() for number in range(4)}

    @bide.task
    def waits(number: Annotated[int, bide.Each(numbers)], handle: bide.TaskHandle) -> str:
        open_waits[number].set()
        handle.defer_until(all_wait, 10)
        return handle.task_name

    def all_wait() -> bool:
        return all(event.is_set() for event in open_waits.values())

    with bide.Runner(store, slots=1) as runner:
        result = runner.run(bide.Workflow("waits", [numbers, waits]))
    assert result["waits"] == [f"waits[{number}]" for number in range(4)]


def test_each_element_has_a_gate_of_its_own(tmp_path: Path) -> None:
    def is_there(number: Annotated[int, bide.Each(numbers)]) -> bool:
        return (tmp_path / str(number)).exists()

    @bide.task(gate=bide.until(is_there, every=0.01))
    def gated(number: Annotated[int, bide.Each(numbers)]) -> int:
        if number:
            (tmp_path / str(number - 1)).touch()
        return number

    (tmp_path / "3").touch()
    with bide.Runner(":memory:") as runner:
        assert runner.run(bide.Workflow("gates", [numbers, gated]))["gated"] == [0, 1, 2, 3]


def test_the_context_of_an_element_is_read_only(runner: bide.Runner) -> None:
    def sets(number: Annotated[int, bide.Each(numbers)], context: bide.Context) -> None:
        context["n"] = number

    def sets_after_a_step(
        number: Annotated[int, bide.Each(numbers)], context: bide.Context, handle: bide.TaskHandle
    ) -> None:
        handle.step(lambda: None, name="step")
        context["n"] = number

    async def sets_after_an_await(
        number: Annotated[int, bide.Each(numbers)], context: bide.Context, handle: bide.AsyncTaskHandle
    ) -> None:
        await handle.step(lambda: None, name="step")
        context["n"] = number

    tasks: list[Any] = [numbers, sets, sets_after_a_step, sets_after_an_await]
    result = ended(runner, bide.Workflow("context", tasks))
    for task in tasks[1:]:
        assert "read-only" in str(result.tasks[f"{task.__name__}[0]"].error)


# --- versions --------------------------------------------------------------------------------------------------------


def test_being_mapped_belongs_to_the_version_of_a_workflow() -> None:
    def over(task: str) -> Any:
        def work(item: Annotated[Any, bide.Each(task)]) -> Any:
            return item

        return work

    def plain(numbers: list[int]) -> int:
        return len(numbers)

    versions = {
        bide.Workflow("v", [numbers, files, bide.task(body, name="work", depends_on=["files", "numbers"])]).version
        for body in (plain, over("numbers"), over("files"))
    }
    assert len(versions) == 3


# --- crashes ---------------------------------------------------------------------------------------------------------

CRASHING = """
from typing import Annotated

last = words[0]

@bide.task
def numbers() -> list[int]:
    note("numbers")
    return list(range(4))

@bide.task
def work(number: Annotated[int, bide.Each(numbers)], handle: bide.TaskHandle) -> int:
    step = handle.step(lambda number: note("step", number) or number, number)
    if str(number) == last:
        # All others are committed by now, and this one's step.
        handle.defer_until(lambda: runner.get("k").tasks["after[0]"].status == "Completed", 10)
        say("in", number)
        stay()
    note("work", number)
    return step * 10

@bide.task
def after(number: Annotated[int, bide.Each(work)]) -> int:
    note("after", number)
    return number + 1

@bide.task
def read(work: list[int], after: bide.Mapped[int]) -> list:
    return [work, after.succeeded]

with bide.Runner(db, slots=1) as runner:
    result = runner.run(bide.Workflow("map", [numbers, work, after, read]), key="k")
    say(result["read"], result.tasks["work"].status, len(result.tasks))
"""


def test_after_a_crash_only_the_elements_that_had_not_ended_run_again(file: Path) -> None:
    killed(CRASHING, file, "3", at="in 3")
    assert ran(CRASHING, file, "nowhere") == ["[[0, 10, 20, 30], [1, 11, 21, 31]] Completed 12"]
    assert sorted(ledger(file)) == sorted(
        ["numbers", *(f"step {n}" for n in range(4)), *(f"work {n}" for n in range(4))]
        + [f"after {n}" for n in (0, 10, 20, 30)]
    )


def test_an_unfinished_run_is_not_continued_by_a_version_that_is_mapped_over_something_else(file: Path) -> None:
    release = threading.Event()

    def a() -> list[int]:
        return [1, 2]

    def b() -> list[int]:
        return [3, 4]

    def work(a: Annotated[int, bide.Each("a")], b: list[int], handle: bide.TaskHandle) -> int:
        handle.defer_until(release.is_set, 10)
        return a + len(b)

    def other(b: Annotated[int, bide.Each("b")], a: list[int]) -> int:
        return b + len(a)

    with bide.Runner(file) as runner:
        run = runner.submit(bide.Workflow("w", [a, b, work]), key="k")
        while runner.get("k").tasks.get("work[1]") is None:
            run._core.wait(0.01)
    changed = bide.task(other, name="work")
    with bide.Runner(file, workflows=[bide.Workflow("w", [a, b, changed])]) as runner:
        assert "is not registered here" in (runner.get("k").blocked_by or "")
    release.set()
    with bide.Runner(file, workflows=[bide.Workflow("w", [a, b, work])]) as runner:
        assert runner.submit(bide.Workflow("w", [a, b, work]), key="k").result()["work"] == [3, 4]


def test_ten_thousand_elements_have_a_row_each(file: Path) -> None:
    def many() -> list[int]:
        return list(range(10_000))

    def one(number: Annotated[int, bide.Each(many)]) -> int:
        return number

    def total(one: list[int]) -> int:
        return sum(one)

    with bide.Runner(file) as runner:
        result = runner.run(bide.Workflow("many", [many, one, total]), key="k")
        assert result["total"] == sum(range(10_000))
    with bide.Runner(file) as runner:
        read = runner.get("k")
        assert len(read.tasks) == 10_003
        assert read["one[9999]"] == 9999
        assert read["one"] == list(range(10_000))


def test_a_list_whose_annotation_has_no_hash_is_refused_by_name() -> None:
    def report(process: Annotated[str, []]) -> None: ...

    with pytest.raises(bide.DefinitionError, match="parameter 'process' takes all outputs of the mapped task"):
        bide.Workflow("w", [files, process, report])
