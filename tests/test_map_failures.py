"""What of a mapped task may fail, what follows then, and maps that are refused, each with its remedy."""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Annotated, Any

import pytest

import bide
from processes import eventually


def numbers() -> list[int]:
    """Return a list of scalars."""
    return [0, 1, 2, 3]


def ended(runner: bide.Runner, workflow: bide.Workflow, inputs: dict[str, Any] | None = None) -> bide.RunResult:
    """Return the result of a run, also of one that failed."""
    with contextlib.suppress(bide.RunFailed):
        runner.run(workflow, inputs, key=workflow.name)
    return runner.get(workflow.name)


# --- failures --------------------------------------------------------------------------------------------------------


def fails_at(*which: int) -> Any:
    """Return a body that fails for some items."""

    def work(number: Annotated[int, bide.Each(numbers)]) -> int:
        if number in which:
            msg = f"boom {number}"
            raise ValueError(msg)
        return number

    return work


def gather(work: bide.Mapped[int]) -> tuple[list[int], list[str], int, list[int]]:
    """Return all that a `bide.Mapped` shows."""
    return work.succeeded, [f"{error.task}: {error}" for error in work.failed], work.total, work.indexes


def test_as_many_elements_may_fail_as_are_tolerated_and_no_more(store: str) -> None:
    for tolerate, failed, status in [
        (0, 1, "Failed"), (1, 1, "Completed"), (1, 2, "Failed"), (0.5, 2, "Completed"), (0.5, 3, "Failed"),
    ]:  # fmt: skip
        work = bide.task(fails_at(*range(failed)), name="work", tolerate=tolerate)
        with bide.Runner(store) as runner:
            result = ended(runner, bide.Workflow(f"tolerate {tolerate} {failed}", [numbers, work, gather]))
        assert (result.status, result.tasks["work"].status) == (status, status), (tolerate, failed)
        succeeded, errors, total, indexes = result["gather"]
        assert indexes == succeeded == list(range(failed, 4))
        assert [error.split(":")[0] for error in errors] == [f"work[{number}]" for number in range(failed)]
        assert total == 4
        assert (result.error is None) == (status == "Completed")


def test_a_failure_is_named_by_its_element(runner: bide.Runner) -> None:
    workflow = bide.Workflow("named", [numbers, bide.task(fails_at(2), name="work")])
    with pytest.raises(bide.RunFailed, match="boom 2") as caught:
        runner.run(workflow)
    result = caught.value.result
    assert isinstance(result, bide.RunResult)
    assert result.error is not None
    assert result.error.task == "work[2]"
    assert "work[2]" in caught.value.errors
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_element_that_follows_a_failed_one_is_skipped_and_the_others_go_on(store: str) -> None:
    work = bide.task(fails_at(1), name="work")

    def after(number: Annotated[int, bide.Each("work")]) -> int:
        return number

    def read(after: list[int]) -> None: ...

    with bide.Runner(store) as runner:
        result = ended(runner, bide.Workflow("skip", [numbers, work, after, read]))
    assert [result.tasks[f"after[{n}]"].status for n in range(4)] == ["Completed", "Skipped", "Completed", "Completed"]
    assert result.tasks["after[1]"].blocked_by == "work[1]"
    assert result.tasks["after"].status == "Skipped"
    assert (result.tasks["read"].status, result.tasks["read"].blocked_by) == ("Skipped", "work[1]")


def test_a_tolerated_failure_skips_its_follower_only(runner: bide.Runner) -> None:
    work = bide.task(fails_at(1), name="work", tolerate=1)

    def after(number: Annotated[int, bide.Each("work")]) -> int:
        return number

    def read(after: bide.Mapped[int]) -> list[int]:
        return after.indexes

    result = runner.run(bide.Workflow("tolerated", [numbers, work, after, read]))
    assert result["read"] == [0, 2, 3]
    assert result.tasks["after"].status == "Completed"
    for name, status in (("work", "Failed"), ("after", "Skipped")):
        expected = f"no list of its outputs, because {name}[1] is {status}: take them one by one, such as result"
        with pytest.raises(KeyError) as caught:
            result[name]
        assert expected in str(caught.value)
        assert result[f"{name}[2]"] == 2


def test_fail_fast_skips_the_elements_that_have_not_started(runner: bide.Runner) -> None:
    def is_first(number: Annotated[int, bide.Each(numbers)]) -> bool:
        return number == 0

    work = bide.task(fails_at(0), name="work", gate=bide.until(is_first, every=0.01))
    result = ended(runner, bide.Workflow("fast", [numbers, work], fail_fast=True))
    statuses = [result.tasks[f"work[{n}]"].status for n in range(4)]
    assert statuses == ["Failed", "Skipped", "Skipped", "Skipped"]
    assert result.tasks["work[3]"].blocked_by == "work[0]"
    assert result.tasks["work"].status == "Failed"


def test_a_reader_that_runs_in_any_case_needs_a_default() -> None:
    def cleans(work: bide.Mapped[int]) -> None: ...

    clean = bide.task(cleans, name="clean", run_if="done")
    with pytest.raises(bide.DefinitionError, match="parameter 'work' needs a default"):
        bide.Workflow("done", [numbers, bide.task(fails_at(0), name="work"), clean])


def test_the_list_of_a_task_whose_element_skipped_itself_is_refused(runner: bide.Runner) -> None:
    def work(number: Annotated[int, bide.Each(numbers)]) -> int:
        if number == 2:
            raise bide.Skip("not today")
        return number

    def read(work: list[int]) -> None: ...

    result = ended(runner, bide.Workflow("hole", [numbers, work, read]))
    assert result.status == "Failed"
    assert "work[2] has no output: annotate the parameter bide.Mapped[...]" in str(result.error)


# --- refusals --------------------------------------------------------------------------------------------------------


def a_set() -> set[int]:
    """Return no list."""
    return {1}


def a_dict() -> dict[str, int]:
    """Return no list."""
    return {"a": 1}


def untyped() -> Any:
    """Return no list."""
    return {"a": 1}


def skipped() -> list[int]:
    """Return nothing."""
    raise bide.Skip("nothing to do")


def mapped_over(task: Any) -> Any:
    """Return a body that is mapped over a task."""

    def work(item: Annotated[int, bide.Each(task)]) -> int:
        return item

    return work


def reads_list(work: list[int]) -> None:
    """Read the list."""


def reads_tuple(work: tuple[int, ...]) -> None:
    """Read something else."""


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([a_set, mapped_over(a_set)], "returns a set, which has no order: return sorted"),
        ([a_dict, mapped_over(a_dict)], "returns a dict: return list"),
        ([numbers, mapped_over("number")], "no task has that name: did you mean 'numbers'"),
        ([mapped_over("urls")], r'for a run input it is bide.Each\(bide.Input\("urls"\)\)'),
        ([numbers, bide.task(mapped_over(numbers), tolerate=1), reads_list], "some may have failed"),
        ([numbers, mapped_over(numbers), reads_tuple], r"annotate it list\[T\], or bide.Mapped\[T\]"),
        ([bide.task(lambda: None, name="x", tolerate=1)], "tolerate= is for a mapped task"),
    ],
)
def test_a_map_that_cannot_work_is_refused_with_the_remedy(tasks: list[Any], message: str) -> None:
    with pytest.raises(bide.DefinitionError, match=message):
        bide.Workflow("refused", tasks)


def test_what_is_no_list_fails_the_mapped_task_with_the_remedy(runner: bide.Runner) -> None:
    result = ended(runner, bide.Workflow("no list", [untyped, mapped_over(untyped)]))
    assert str(result.tasks["work"].error) == (
        "task 'work': bide.DefinitionError: task 'work' is mapped over 'untyped', which is a mapping or an object: "
        "map over a list or a tuple, such as list(...) of it"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: (number for number in [1]),
        lambda: map(str, [1]),
        lambda: iter([1]),
        lambda: {"a": 1}.values(),
        lambda: range(3),
        lambda: itertools.count(),
    ],
)
def test_what_only_gives_items_fails_the_task_that_returns_it_with_the_remedy(
    runner: bide.Runner, make: Callable[[], Any]
) -> None:
    items = bide.task(make, name="items")
    result = ended(runner, bide.Workflow("no list", [items, mapped_over("items")]))
    assert str(result.tasks["items"].error).endswith(": store a list, such as list(...) of it")


@pytest.mark.parametrize("annotation", [Iterator[int], Iterable[int], Generator[int, None, None], range])
def test_a_task_that_says_it_only_gives_items_is_refused_with_the_remedy(annotation: Any) -> None:
    def items() -> Any: ...

    items.__annotations__["return"] = annotation
    with pytest.raises(bide.DefinitionError, match=r"'items': .*: annotate it list\[...\], and make it a list"):
        bide.Workflow("no list", [items, mapped_over("items")])


def test_lists_of_different_lengths_are_refused_by_name(runner: bide.Runner) -> None:
    def both(
        number: Annotated[int, bide.Each(numbers)], letter: Annotated[str, bide.Each(bide.Input("s"))]
    ) -> None: ...

    result = ended(runner, bide.Workflow("lengths", [numbers, both]), {"s": ["a"]})
    assert "mapped over 'numbers' with 4 items and 's' with 1: they must be equally long" in str(result.error)


def test_a_map_over_a_skipped_task_is_skipped_and_one_that_runs_anyway_is_refused(runner: bide.Runner) -> None:
    anyway = bide.task(mapped_over(skipped), name="anyway", run_if="done")
    result = ended(runner, bide.Workflow("skipped", [skipped, mapped_over(skipped), anyway]))
    assert (result.tasks["work"].status, result.tasks["work"].blocked_by) == ("Skipped", "skipped")
    assert "'anyway' is mapped over 'skipped', which has returned no list: it is Skipped" in str(result.error)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1}, "this is a set: give it sorted"),
        ({"a": 1}, "this is a dict: give it list"),
        ((number for number in [1]), "this is a generator: give it list"),
        (5, "this is an int: give it a list or a tuple"),
        ("ab", "this is a str: give it a list or a tuple"),
    ],
)
def test_an_input_that_is_no_list_is_refused_with_the_remedy(
    runner: bide.Runner, value: Iterable[int], message: str
) -> None:
    workflow = bide.Workflow("input", [mapped_over(bide.Input("items"))])
    with pytest.raises(bide.SerializationError, match=message):
        runner.run(workflow, {"items": value})


def test_a_retry_does_the_elements_again_that_fail_fast_has_skipped(store: str) -> None:
    go, stop, broken = bide.signal("go"), bide.signal("stop"), [True]

    @bide.task(gate=go)
    def work(number: Annotated[int, bide.Each(numbers)]) -> int:
        return number

    @bide.task
    def breaks(handle: bide.TaskHandle) -> None:
        handle.wait(stop)
        if broken:
            raise ValueError(broken)

    with bide.Runner(store) as runner:
        run = runner.submit(bide.Workflow("stops", [numbers, work, breaks], fail_fast=True))
        eventually(lambda: len(runner.waiting()) == len(numbers()) + 1, "all elements and the other task wait")
        run.signal(stop)
        with pytest.raises(bide.RunFailed):
            run.result(20)
        broken.clear()
        runner.retry(run)
        runner.signal_many((run, go, None) for _ in numbers())
        assert run.result(20)["work"] == numbers()
