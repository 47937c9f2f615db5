"""`RunFailed`, `RunResult` and what they hold can be copied, and pickled into another process."""

import concurrent.futures
import contextlib
import copy
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import bide
from bide._plain_snapshot import PlainSnapshot, plain
from failing_runs import failure


@dataclass
class Point:
    x: int
    y: float


def point() -> Point:
    return Point(1, 2.5)


def pairs() -> list[tuple[int, str]]:
    return [(1, "a")]


def when() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def remember(context: bide.Context) -> None:
    context.set("seen", {"rows": [1, 2]})


def load() -> None:
    try:
        raise KeyError("row 7")
    except KeyError as error:
        error.add_note("a note")
        raise ValueError("bad row 7") from error


def later(load: None) -> None: ...


GOOD = bide.Workflow("good", [point, pairs, when, remember])
BAD = bide.Workflow("bad", [point, remember, load, later])


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


WAYS: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    pickled,
    *(lambda value, protocol=protocol: pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, 6)),  # noqa: S301
    lambda value: pickled(pickled(copy.copy(copy.deepcopy(value)))),
]
ways = pytest.mark.parametrize("way", WAYS, ids=["copy", "deepcopy", "pickle", "p2", "p3", "p4", "p5", "all"])


def all_of(result: bide.RunResult) -> dict[str, Any]:
    """Return everything that a result says."""
    names = ("id", "key", "workflow", "status", "outputs", "blocked_by", "started_at", "ended_at")
    said: dict[str, Any] = {name: getattr(result, name) for name in names}
    said |= {"str": str(result), "len": len(result), "names": list(result), "context": result.context.to_dict()}
    said["error"] = shown(result.error)
    for name, task in result.tasks.items():
        fields = (getattr(task, field) for field in bide.TaskResult.__match_args__ if field != "error")
        said[f"task {name}"] = (*fields, shown(task.error))
    return said


def shown(error: BaseException | None) -> object:
    if not isinstance(error, bide.TaskFailed):
        return error
    causes = [shown(cause) for cause in error.causes]
    return (str(error), error.type, error.message, error.traceback, error.notes, causes, error.task)


@pytest.fixture(params=["memory", "sqlite", "closed", "read"])
def results(request: pytest.FixtureRequest, file: Path) -> Iterator[tuple[bide.RunResult, bide.RunFailed]]:
    """A result and a failure: from an open runner, from a closed one, and read from a file."""
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(bide.Runner(":memory:" if request.param == "memory" else file))
        good = runner.run(GOOD, key="k")
        with pytest.raises(bide.RunFailed) as failed:
            runner.run(BAD, key="k")
        if request.param in {"closed", "read"}:
            runner.close()
        if request.param == "read":
            reader = stack.enter_context(bide.Runner(file, workflows=[GOOD, BAD]))
            good = reader.get("k", workflow="good")
            with pytest.raises(bide.RunFailed) as failed:
                reader.get("k", workflow="bad").raise_for_status()
        yield good, failed.value


@ways
def test_a_result_is_the_same_in_a_copy(results: tuple[bide.RunResult, bide.RunFailed], way: Any) -> None:
    good, failed = results
    for result in (good, failed.result):
        assert isinstance(result, bide.RunResult)
        twin = way(result)
        assert type(twin) is bide.RunResult
        assert all_of(twin) == all_of(result)
        with pytest.raises(KeyError, match="has no task 'nothing'"):
            twin["nothing"]
        parts: Mapping[str, bide.TaskResult] = way(result.tasks)
        assert list(parts) == list(result.tasks)
        for name, task in result.tasks.items():
            for one in (parts[name], way(task)):
                assert (one.name, one.status, one.attempts, one.started_at) == (
                    name,
                    task.status,
                    1,
                    task.started_at,
                ) or (one.status is bide.TaskStatus.Skipped)
        assert way(result.context).to_dict() == result.context.to_dict()


@ways
def test_a_failure_is_the_same_in_a_copy(results: tuple[bide.RunResult, bide.RunFailed], way: Any) -> None:
    failed = results[1]
    failed.add_note("noted later")
    twin = way(failed)
    assert type(twin) is bide.RunFailed
    assert str(twin) == str(failed)
    assert twin.__notes__ == ["noted later"]
    assert all_of(twin.result) == all_of(failed.result)
    assert {name: shown(error) for name, error in twin.errors.items()} == {
        name: shown(error) for name, error in failed.errors.items()
    }
    assert isinstance(twin.__cause__, bide.TaskFailed)
    assert str(twin.__cause__) == "task 'load': ValueError: bad row 7"
    assert twin.__cause__.causes[0].notes == ("a note",)
    with pytest.raises(bide.RunFailed):
        twin.result.raise_for_status()


def test_a_copy_of_a_context_changes_by_itself() -> None:
    context = bide.Context({"rows": [1]})
    for twin in (copy.copy(context), copy.deepcopy(context), pickled(context)):
        twin["rows"].append(2)
        twin.set("more", 1)
        assert twin.to_dict() == {"rows": [1, 2], "more": 1}
    assert context.to_dict() == {"rows": [1]}


def in_child(name: str) -> bide.RunResult:
    with bide.Runner(":memory:") as runner:
        return runner.run({"good": GOOD, "bad": BAD}[name])


def test_a_process_pool_gives_results_and_failures_back() -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        result = pool.submit(in_child, "good").result(60)
        error = pool.submit(in_child, "bad").exception(60)
    assert result.outputs == {"point": Point(1, 2.5), "pairs": [(1, "a")], "when": when(), "remember": None}
    assert isinstance(error, bide.RunFailed)
    assert "bad row 7" in str(error)
    assert error.result[point] == Point(1, 2.5)
    assert error.result.tasks["later"].status is bide.TaskStatus.Skipped
    assert str(error.errors["load"]) == "task 'load': ValueError: bad row 7"


def test_a_value_that_cannot_be_pickled_leaves_the_rest(runner: bide.Runner) -> None:
    @dataclass
    class Local:
        x: int

    def local() -> Local:
        return Local(1)

    result = runner.run(bide.Workflow("w", [local, point]))
    assert result["local"] == Local(1)
    twin = pickled(result)
    assert twin["point"] == Point(1, 2.5)
    assert list(twin) == ["local", "point"]
    assert twin.tasks["local"].status is bide.TaskStatus.Completed
    with pytest.raises(bide.BideError, match=r"'local'.*pickle"):
        twin["local"]


def test_an_unfinished_runs_result_can_be_pickled(runner: bide.Runner) -> None:
    handle = runner.submit(bide.Workflow("w", [bide.task(point, gate=bide.after(60))]))
    twin = pickled(runner.get(handle.id))
    assert twin.status is bide.RunStatus.Running
    assert len(twin) == 0
    with pytest.raises(KeyError, match="has no return value"):
        twin["point"]


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickled])
def test_objects_of_the_process_are_refused_with_advice(runner: bide.Runner, way: Any) -> None:
    workflow = bide.Workflow("w", [point])
    kinds = (("RunHandle", runner.submit(workflow)), ("Runner", runner), ("Workflow", workflow))
    for (name, thing), remedy in zip(kinds, ("runner.get(id)", "on the same file", "import it"), strict=True):
        with pytest.raises(bide.SerializationError, match=f"a {name} can be neither copied nor pickled") as raised:
            way(thing)
        assert remedy in str(raised.value)


@pytest.mark.parametrize("kind", [cls for cls in vars(bide).values() if isinstance(cls, type)])
def test_every_public_error_can_be_copied(kind: type) -> None:
    if not issubclass(kind, BaseException):
        return
    exc = failure() if kind is bide.RunFailed else kind("what failed")
    exc.add_note("a note")
    for way in (copy.copy, copy.deepcopy, pickled):
        twin = way(exc)
        assert type(twin) is kind
        assert str(twin) == str(exc)
        assert vars(twin).keys() == vars(exc).keys()
        if kind is not bide.RunFailed:  # see test_a_failure_is_the_same_in_a_copy
            assert vars(twin) == vars(exc)


def test_a_pickle_of_a_version_without_mapped_tasks_is_read(runner: bide.Runner) -> None:
    now = plain(runner.run(GOOD)._snapshot)  # type: ignore[arg-type]
    names = ("id", "workflow", "key", "status", "blocked_by", "failure", "started_at", "ended_at")
    rows = {name: {key: value for key, value in row.items() if key != "progress"} for name, row in now.rows.items()}
    old = PlainSnapshot.__new__(PlainSnapshot)
    old.__setstate__([*[getattr(now, name) for name in names], rows, now.returned, now.values])
    result = bide.RunResult(old)
    assert list(result) == list(result.tasks) == ["point", "pairs", "when", "remember"]
    assert result[point] == Point(1, 2.5)
    assert (result.parent, result.tasks["point"].progress) == (None, None)
    assert result.context.to_dict() == {"seen": {"rows": [1, 2]}}
