"""Bad input is refused with a specific error whose message names the culprit, and leaves nothing behind.

Errors in building a workflow are in `test_workflow.py` and `test_task.py`; here everything goes through a
runner, and each case checks that the store is as it was.
"""

import math
import re
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import ran
from refusals import load, refused


@bide.task
def count(load: str) -> int:
    return len(load)


def named(name: str, *parameters: str, **options: Any) -> Callable[..., Any]:
    """Return a task of this name with these parameters."""
    scope: dict[str, Any] = {}
    exec(f"def body({', '.join(parameters)}): return None", scope)  # noqa: S102
    return bide.task(scope["body"], name=name, **options)


# --- the workflow --------------------------------------------------------------------------------------------------

DEFINITIONS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "unknown dependency": (
        lambda: bide.Workflow("w", [load, named("count", depends_on=["laod"])]),
        ["'w'", "'count'", "'laod'", "did you mean 'load'?"],
    ),
    "cycle": (
        lambda: bide.Workflow("w", [named("a", "c"), named("b", "a"), named("c", "b")]),
        ["'w'", "a", "b", "c", "cycle"],
    ),
    "a task that needs itself": (lambda: bide.Workflow("w", [named("a", "a")]), ["'w'", "a -> a"]),
    "duplicate name": (lambda: bide.Workflow("w", [load, named("load")]), ["'w'", "two tasks", "'load'", "name="]),
    "empty workflow name": (lambda: bide.Workflow("", [load]), ["name", "empty"]),
    "blank workflow name": (lambda: bide.Workflow("  ", [load]), ["name", "empty"]),
    "task that is not callable": (lambda: bide.Workflow("w", [load, 3]), ["'w'", "callable", "3"]),  # type: ignore[list-item]
    "task named context": (lambda: named("context"), ["'context'", "Context", "name="]),
    "task named handle": (lambda: named("handle"), ["'handle'"]),
    "*args": (lambda: bide.Workflow("w", [named("load", "*args")]), ["'load'", "*args"]),
    "unresolvable annotation": (
        lambda: bide.Workflow("w", [named("load", "path: 'pathlib.Pth'")]),
        ["'load'", "'path'", "pathlib.Pth"],
    ),
    "undecodable annotation": (
        lambda: bide.Workflow("w", [named("load", "lock: __import__('threading').Event")]),
        ["'load'", "'lock'", "Event", "bide.codec"],
    ),
    "lambda without a name": (lambda: bide.Workflow("w", [lambda: None]), ["lambda", "name="]),
    "a condition that is not callable": (lambda: bide.until(True), ["condition", "callable", "True"]),  # type: ignore[call-overload]
    "zero interval": (lambda: bide.until(lambda: True, every=0), ["every", "positive", "0"]),
    "negative interval": (lambda: bide.until(lambda: True, every=-1), ["every", "positive", "-1"]),
    "NaN as an interval": (lambda: bide.until(lambda: True, every=math.nan), ["every", "NaN"]),
    "negative timeout": (lambda: bide.until(lambda: True, timeout=-1), ["timeout", "-1"]),
    "naive datetime": (lambda: bide.at(datetime(2026, 1, 1)), ["at(datetime)", "naive", "time zone"]),  # noqa: DTZ001
    "no attempts": (lambda: bide.Retry(attempts=0), ["attempts", "0"]),
    "retry on what is no exception": (lambda: bide.Retry(on=int), ["on=", "int"]),  # type: ignore[arg-type]
    "unknown run_if": (lambda: named("t", run_if="sometimes"), ["'t'", "run_if", "'sometimes'"]),
    "no slots": (lambda: bide.Runner(":memory:", slots=0), ["slots=0", "a store in memory"]),
    "more slots than threads can be": (lambda: bide.Runner(":memory:", slots=2**40), ["slots", "65,536"]),
    "one workflow instead of a list": (
        lambda: bide.Runner(":memory:", workflows=bide.Workflow("w", [load])),  # type: ignore[arg-type]
        ["list of workflows", "'w'"],
    ),
    "unknown durability": (lambda: bide.Runner(":memory:", durability="some"), ["durability", "'some'"]),  # type: ignore[arg-type]
    "a store that is no path": (lambda: bide.Runner(3), ["3", "path"]),  # type: ignore[arg-type]
    "an empty path": (lambda: bide.Runner(""), ["empty"]),
}


@pytest.mark.parametrize("case", DEFINITIONS)
def test_a_definition_that_is_wrong_is_refused_where_it_is_made(case: str) -> None:
    call, words = DEFINITIONS[case]
    refused(bide.DefinitionError, words, call)


def test_a_workflow_without_tasks_is_refused_at_its_first_use(runner: bide.Runner) -> None:
    refused(bide.DefinitionError, ["'empty'", "no task"], lambda: runner.run(bide.Workflow("empty", [])), runner)


# --- the inputs ----------------------------------------------------------------------------------------------------

INPUTS: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "missing": ({}, bide.DefinitionError, ["'load'", "'path'"]),
    "none at all": (None, bide.DefinitionError, ["'load'", "'path'"]),
    "misspelt": ({"pth": "x"}, bide.DefinitionError, ["'pth'", "did you mean 'path'?"]),
    "one too many": ({"path": "x", "other": 1}, bide.DefinitionError, ["'other'"]),
    "named like a task": ({"path": "x", "load": 1}, bide.DefinitionError, ["'load'", "task"]),
    "no mapping": (["path"], bide.DefinitionError, ["mapping", "list"]),
    "a name that is no text": ({1: "x"}, bide.DefinitionError, ["1"]),
    "of another type": ({"path": 3}, bide.SerializationError, ["'path'", "'load'", "str"]),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_do_not_fit_are_refused_and_make_no_run(runner: bide.Runner, case: str) -> None:
    inputs, error, words = INPUTS[case]
    workflow = bide.Workflow("w", [load, count])
    refused(error, words, lambda: runner.run(workflow, inputs), runner)
    refused(error, words, lambda: runner.submit(workflow, inputs, key="k"), runner)
    refused(error, words, lambda: runner.submit_many(workflow, [{"path": "fine"}, inputs]), runner)
    assert runner.run(workflow, {"path": "abc"}, key="k")["count"] == 3  # and the key is free


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

VALUES: dict[str, tuple[Any, list[str]]] = {
    "NaN three levels deep": ({"a": [1, {"b": math.nan}]}, ['["a"][1]["b"]', "nan"]),
    "infinity": ([math.inf], ["[0]"]),
    "a lock": ({"a": [threading.Lock()]}, ['["a"][0]', "lock"]),
    "a cycle": (CYCLE, []),
    "a set, which would come back as a list": ({"a": {1}}, ['["a"]', "set"]),
    "a tuple, which would come back as a list": ({"a": (1, 2)}, ['["a"]', "tuple"]),
    "keys that are no text": ({"a": {1: 2}}, ["1"]),
    "a lone surrogate": (["\ud800"], []),
}


@pytest.mark.parametrize("case", VALUES)
def test_an_input_that_cannot_be_stored_says_where_in_it(runner: bide.Runner, case: str) -> None:
    value, words = VALUES[case]

    @bide.task
    def take(thing: Any) -> None: ...

    workflow = bide.Workflow("w", [take])
    refused(bide.SerializationError, ["'thing'", *words], lambda: runner.run(workflow, {"thing": value}), runner)


@pytest.mark.parametrize("case", VALUES)
def test_a_return_value_that_cannot_be_stored_fails_its_task_with_its_path(runner: bide.Runner, case: str) -> None:
    value, words = VALUES[case]

    @bide.task
    def give() -> Any:
        return value

    @bide.task
    def other() -> str:
        return "kept"

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [give, other]))
    cause = failed.value.__cause__
    assert isinstance(cause, bide.SerializationError)
    for word in ["'give'", *words]:
        assert word in str(cause)
    result = failed.value.result
    assert isinstance(result, bide.RunResult)
    assert result.outputs == {"other": "kept"}


# --- within a body -------------------------------------------------------------------------------------------------

HANDLE: dict[str, tuple[Callable[[bide.TaskHandle], object], type[BaseException], list[str]]] = {
    "a condition that is not callable": (lambda h: h.defer_until(True), bide.DefinitionError, ["callable", "True"]),  # type: ignore[arg-type]
    "zero interval": (lambda h: h.defer_until(bool, 0), bide.DefinitionError, ["poll_interval_ms", "positive"]),
    "negative interval": (lambda h: h.defer_until(bool, -5), bide.DefinitionError, ["poll_interval_ms", "-5"]),
    "an interval that is no number": (
        lambda h: h.defer_until(bool, timedelta(1)),  # type: ignore[arg-type]
        bide.DefinitionError,
        ["poll_interval_ms", "milliseconds"],
    ),
    "a misspelt setting": (
        lambda h: h.defer_until(bool, tiemout=1),  # type: ignore[call-arg]
        TypeError,
        ["defer_until", "tiemout"],
    ),
    "naive datetime": (lambda h: h.sleep_until(datetime(2026, 1, 1)), ValueError, ["naive"]),  # noqa: DTZ001
    "negative sleep": (lambda h: h.sleep(-1), bide.DefinitionError, ["-1"]),
    "a wait that is none": (lambda h: h.wait(3), bide.DefinitionError, ["bide.until", "not 3"]),  # type: ignore[arg-type]
    "a step that is not callable": (lambda h: h.step(3), bide.DefinitionError, ["handle.step", "3"]),  # type: ignore[call-overload]
    "step within a step": (
        lambda h: h.step(lambda: h.step(int, name="inner"), name="outer"),
        bide.DefinitionError,
        ["step", "outer"],
    ),
    "a wait within a step": (
        lambda h: h.step(lambda: h.defer_until(bool), name="outer"),
        bide.DefinitionError,
        ["wait", "outer"],
    ),
    "a sleep within a step": (lambda h: h.step(lambda: h.sleep(1), name="outer"), bide.DefinitionError, ["outer"]),
    "a step within a condition": (
        lambda h: h.defer_until(lambda: h.step(int), name="cond", on_error="raise"),
        bide.DefinitionError,
        ["step", "cond"],
    ),
    "a condition's value that cannot be stored": (
        lambda h: h.defer_until(threading.Lock),
        bide.SerializationError,
        ["bool(...)"],
    ),
    "a step's result that cannot be stored": (
        lambda h: h.step(threading.Lock, name="locks"),
        bide.SerializationError,
        ["'locks'"],
    ),
    "a step's argument that cannot be stored": (
        lambda h: h.step(repr, threading.Lock(), name="locks"),
        bide.SerializationError,
        ["'locks'"],
    ),
}


@pytest.mark.parametrize("case", HANDLE)
def test_a_handle_that_is_used_wrongly_says_so_in_the_body(runner: bide.Runner, case: str) -> None:
    call, error, words = HANDLE[case]
    raised: list[BaseException] = []

    @bide.task
    def work(handle: bide.TaskHandle) -> str:
        try:
            call(handle)
        except BaseException as problem:  # noqa: BLE001 - the test checks its type
            raised.append(problem)
        handle.step(str, "x", name="after")  # the body can continue
        return "went on"

    assert runner.run(bide.Workflow("w", [work]), timeout=30)["work"] == "went on"
    assert [type(problem) for problem in raised] == [error] or isinstance(raised[0], error)
    for word in words:
        assert word in str(raised[0]), f"{word!r} is not in: {raised[0]}"


def test_a_handle_is_over_when_its_body_has_returned(runner: bide.Runner) -> None:
    kept: list[bide.TaskHandle] = []

    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        kept.append(handle)

    runner.run(bide.Workflow("w", [work]))
    for call in (lambda h: h.step(int), lambda h: h.sleep(1), lambda h: h.defer_until(bool), lambda h: h.now()):
        refused(bide.BideError, ["'work'", "no longer valid"], lambda call=call: call(kept[0]))  # type: ignore[misc]


def test_a_handle_belongs_to_its_bodys_thread(runner: bide.Runner) -> None:
    raised: list[BaseException] = []

    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        def elsewhere() -> None:
            try:
                handle.sleep(1)
            except bide.BideError as problem:
                raised.append(problem)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    runner.run(bide.Workflow("w", [work]))
    assert "thread" in str(raised[0])


# --- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_with_other_inputs_is_refused_and_names_the_input(runner: bide.Runner) -> None:
    workflow = bide.Workflow("w", [load])
    first = runner.run(workflow, {"path": "a"}, key="k")
    refused(
        bide.DefinitionError, ["'k'", "'w'", "'path'", first.id], lambda: runner.run(workflow, {"path": "b"}, key="k")
    )
    assert [run.id for run in runner.runs()] == [first.id]
    assert runner.get("k")["load"] == "a"


@pytest.mark.parametrize("key", ["", 3, b"k", "\ud800"])
def test_a_key_that_is_invalid_text_is_refused(runner: bide.Runner, key: Any) -> None:
    refused(
        bide.DefinitionError, ["key", repr(key)], lambda: runner.run(bide.Workflow("w", [load]), {"path": "x"}, key=key)
    )


def test_more_keys_than_inputs_are_refused(runner: bide.Runner) -> None:
    workflow = bide.Workflow("w", [load])
    inputs = [{"path": "a"}]
    refused(bide.DefinitionError, ["1 inputs", "2 keys"], lambda: runner.submit_many(workflow, inputs, ["k", "l"]))
    refused(bide.DefinitionError, ["list of keys", "'k'"], lambda: runner.submit_many(workflow, inputs, "k"))
    assert runner.runs() == []


def test_unknown_runs_are_key_errors(runner: bide.Runner) -> None:
    for call in (runner.get, runner.delete):
        with pytest.raises(KeyError, match="nothing-of-the-kind"):
            call("nothing-of-the-kind")
        with pytest.raises(KeyError):
            call("\ud800")
        # To delete without a run is to delete by a filter, of which there is none.
        with pytest.raises(bide.DefinitionError, match=r"None|needs all=True"):
            call(None)  # type: ignore[arg-type]


# --- the runner ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow", [load, "w", None])
def test_an_object_that_is_not_a_workflow_cannot_be_run(runner: bide.Runner, workflow: Any) -> None:
    for call in (runner.run, runner.submit, runner.register):
        with pytest.raises(bide.DefinitionError, match=re.escape("bide.Workflow")):
            call(workflow)


def test_a_status_that_is_none_is_refused(runner: bide.Runner) -> None:
    refused(bide.DefinitionError, ["'Done'", "Completed"], lambda: runner.runs(status="Done"))
    refused(bide.DefinitionError, ["since", "naive"], lambda: runner.runs(since=datetime(2026, 1, 1)))  # noqa: DTZ001
    refused(bide.DefinitionError, ["limit", "0"], lambda: runner.runs(limit=0))


def test_a_closed_runner_refuses(runner: bide.Runner) -> None:
    runner.close()
    refused(bide.RunnerClosed, ["closed"], lambda: runner.run(bide.Workflow("w", [load]), {"path": "x"}))


def test_a_runner_used_after_a_fork_raises_and_the_parents_continues(file: Path) -> None:
    script = """
    import warnings
    warnings.simplefilter("ignore")

    @bide.task
    def work() -> int:
        return 1

    workflow = bide.Workflow("w", [work])
    runner = bide.Runner(db)
    handle = runner.submit(workflow, key="k")
    handle.result()
    pid = os.fork()
    if pid == 0:
        for call in (lambda: runner.run(workflow), lambda: runner.get("k"), runner.close, handle.result):
            try:
                call()
            except RuntimeError as error:
                say(type(error).__name__, "fork" in str(error))
        os._exit(0)
    os.waitpid(pid, 0)
    say(runner.run(workflow, key="other")["work"])
    """
    assert ran(script, file) == ["RunnerClosed True"] * 4 + ["1"]
