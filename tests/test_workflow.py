"""Workflows: a graph that reports errors where they are made, and is frozen at its first use."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree as ET

import pytest

import bide
from processes import eventually


def load(path: str) -> int:
    return len(path)


def clean(load: int) -> int:
    return load


def report(clean: int, load: int, title: str = "t") -> str:
    return f"{title}{clean}{load}"


def ping(pong: int) -> int:
    return pong


def pong(ping: int) -> int:
    return ping


def workflow() -> bide.Workflow:
    return bide.Workflow("ingest", [report, load, clean], description="what it does")


def test_a_graph_follows_from_the_parameters() -> None:
    one = workflow()
    assert one.name == "ingest"
    assert one.description == "what it does"
    assert list(one.tasks) == ["report", "load", "clean"]
    assert one.tasks["load"] is load
    assert (one.roots, one.leaves) == (["load"], ["report"])
    assert one.levels == [["load"], ["clean"], ["report"]]
    assert one.topological_sort() == ["load", "clean", "report"]
    assert repr(one) == "<Workflow 'ingest': report, load, clean>"


def test_the_version_is_the_graphs() -> None:
    assert workflow().version == workflow().version
    assert workflow().version != bide.Workflow("ingest", [load, clean]).version

    def other(load: int) -> int:
        return -load

    assert (
        bide.Workflow("ingest", [load, clean]).version
        == bide.Workflow("ingest", [load, bide.task(other, name="clean")]).version
    )


def test_the_compiled_form_is_what_the_executor_reads() -> None:
    def ready(path: str, clean: int) -> bool:
        return bool(path) and bool(clean)

    gated = bide.task(
        lambda load=None, handle=None: 1,
        name="gated",
        gate=bide.until(ready, every=2),
        retry=bide.Retry(),
        timeout=3,
        depends_on="report",
    )
    compiled = bide.Workflow("w", [load, clean, report, gated], fail_fast=True)._compiled()
    assert [one.name for one in compiled.tasks] == ["load", "clean", "report", "gated"]
    one = compiled.tasks[3]
    assert one.dependencies == ("load", "clean", "report")
    (ready_binding,) = one.gate_bindings
    assert [source.name for source in ready_binding.positional] == ["path", "clean"]
    assert (one.timeout, one.retry, one.run_if, one.gate is not None) == (3.0, bide.Retry(), "succeeded", True)
    assert one.binding.wants_handle
    assert one.fn() == 1
    assert compiled.required == {"path"}
    assert (compiled.fail_fast, compiled.wants_context) == (True, False)
    assert {name: [task for task, _ in plan.readers] for name, plan in compiled.inputs.items()} == {
        "path": ["load", "gated"],
        "title": ["report"],
    }
    assert compiled.tasks[1].binding.positional[0].codec is not None


def test_tasks_are_added_until_the_first_use() -> None:
    one = bide.Workflow("late", [load])

    @one.task
    def second(load: int) -> int:
        return load

    @one.task(name="third", depends_on="second")
    def other() -> int:
        return 3

    assert second(4) == 4
    assert list(one.tasks) == ["load", "second", "third"]
    assert one.levels == [["load"], ["second"], ["third"]]
    with pytest.raises(bide.DefinitionError, match="workflow 'late' is in use already: add task 'clean'"):
        one.task(clean)


def test_a_task_may_be_in_two_workflows_as_it_is() -> None:
    shared = bide.task(lambda: 1, name="shared", retry=bide.Retry(attempts=7))
    one, two = bide.Workflow("one", [shared]), bide.Workflow("two")
    assert two.task(shared) is shared
    assert one._compiled().tasks[0].retry == two._compiled().tasks[0].retry == bide.Retry(attempts=7)


@pytest.mark.parametrize("runs", [False, True])
def test_a_workflow_whose_own_task_refers_to_it_is_collected(runs: bool) -> None:
    def build() -> list[weakref.ref[Any]]:
        one = bide.Workflow("cycle")

        class Local: ...

        @one.task(retry=bide.Retry(attempts=2), gate=bide.until(lambda: one is not None, every=0.01))
        def first() -> int:
            return len(one.tasks)

        @one.task
        def second(first: int, default: Any = Local) -> int:
            return first + len(one.tasks)

        if runs:
            with bide.Runner(":memory:") as runner:
                assert runner.run(one)["second"] == 4
        else:
            assert one.roots == ["first"]
        return [weakref.ref(one), weakref.ref(first), weakref.ref(Local)]

    left = build()

    def is_collected() -> bool:
        gc.collect()
        return [one() for one in left] == [None, None, None]

    # Threads of the closed runner may be about to end.
    eventually(is_collected, "the workflow, its task and what it refers to are collected")


def test_a_workflow_in_use_survives_a_collection() -> None:
    def build() -> bide.Workflow:
        one = bide.Workflow("cycle")

        @one.task
        def only() -> int:
            return len(one.tasks)

        return one

    with bide.Runner(":memory:") as runner:
        one = build()
        for _ in range(2):
            gc.collect()
            assert runner.run(one)["only"] == 1


def _stars(*args: int) -> int:
    return len(args)


def _cleanup(load: int) -> int:
    return load


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: bide.Workflow("", [load]), "a workflow must have a name that is not empty"),
    (lambda: bide.Workflow(3, [load]), "a workflow must have a name that is not empty, not 3"),  # type: ignore[arg-type]
    (lambda: bide.Workflow("w", []).version, "workflow 'w'.* no task"),
    (lambda: bide.Workflow("w", load), "workflow 'w': tasks must be a list of functions"),  # type: ignore[arg-type]
    (lambda: bide.Workflow("w", "load"), "workflow 'w': tasks must be a list of functions"),  # type: ignore[arg-type]
    (lambda: bide.Workflow("w", [load, 3]), "workflow 'w': a task must be callable, not 3"),  # type: ignore[list-item]
    (lambda: bide.Workflow("w", [load, load]), "workflow 'w' has two tasks named 'load'"),
    (lambda: bide.Workflow("w", [load], description=3), "description must be a text"),  # type: ignore[arg-type]
    (lambda: bide.Workflow("w", [load], fail_fast="yes"), "fail_fast must be True or False"),  # type: ignore[arg-type]
    (
        lambda: bide.Workflow("w", [load, bide.task(lambda: 1, name="x", depends_on="laod")]),  # type: ignore[misc]
        r"task 'x' depends on 'laod', and no task has that name: did you mean 'load'\? \(tasks: load, x\)",
    ),
    (lambda: bide.Workflow("w", [ping, pong]), "ping.*pong.*ping"),
    (lambda: bide.Workflow("w", [_stars]), r"task '_stars' takes \*args"),
    (lambda: bide.Workflow("w", [lambda: 1]), "is a lambda: give it a name"),
    (
        lambda: bide.Workflow("w", [load, bide.task(_cleanup, name="c", run_if="failed")]),
        "task 'c': parameter 'load' needs a default",
    ),
    (
        lambda: bide.Workflow("w", [load, bide.task(lambda load: 1, name="c", run_if="done")]),  # type: ignore[misc]
        "task 'c': parameter 'load' needs a default",
    ),
    (
        lambda: bide.Workflow("w", [bide.task(lambda: 1, name="g", gate=bide.until(lambda handle: 1))]),  # type: ignore[misc]
        "the gate of task 'g': its condition asks for a handle",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_mistakes_are_named_where_they_are_made(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(bide.DefinitionError, match=message):
        make()


def test_inputs_are_stored_as_their_readers_declare() -> None:
    def reads(path: Path, n: float, more: dict[int, str]) -> None: ...

    compiled = bide.Workflow("w", [reads])._compiled()
    assert compiled.encode_inputs({"path": Path("a"), "n": 3, "more": {1: "x"}}) == [
        ("path", b'j"a"'),
        ("n", b"i3"),
        ("more", b'j{"1":"x"}'),
    ]
    assert compiled.encode_inputs({"path": "a", "n": 1.5, "more": {}})[0] == ("path", b"sa")


def _takes_context(context: bide.Context) -> None: ...
def _number(n: int) -> None: ...
def _named(n: Annotated[int, bide.Input("count")]) -> None: ...


BAD_INPUTS: list[tuple[list[Callable[..., Any]], Any, type[Exception], str]] = [
    ([load, clean], {}, bide.DefinitionError, r"task 'load' needs 'path', neither an input"),
    ([load, clean], None, bide.DefinitionError, r"\(inputs given: none; tasks: load, clean\)"),
    ([load, clean], {"pth": "x"}, bide.DefinitionError, "nothing takes the input 'pth': did you mean 'path'"),
    ([load, clean], {"path": "x", "zzz": 1}, bide.DefinitionError, r"nothing takes the input 'zzz' \(inputs: path\)"),
    ([load, clean], {"path": "x", "load": 1}, bide.DefinitionError, "the input 'load' has the name of a task"),
    ([load, clean], {"path": "x", "clean": 1}, bide.DefinitionError, "workflow 'w': the input 'clean'"),
    ([load, clean], [1], bide.DefinitionError, "inputs must be a mapping of names to values, not list"),
    ([load, clean], {3: 1}, bide.DefinitionError, "the names of inputs are str, not 3"),
    ([pong], {}, bide.DefinitionError, "task 'pong' needs 'ping'"),
    ([_number], {"n": "3"}, bide.SerializationError, "input 'n' of workflow 'w' is not what task '_number' takes"),
    ([_named], {"n": 3}, bide.DefinitionError, "nothing takes the input 'n'"),
    ([_takes_context], {"x": {"a": [float("nan")]}}, bide.SerializationError, r"""value\["a"\]\[0\] = nan"""),
    ([load], {"path": "\ud800"}, bide.SerializationError, "input 'path' of workflow 'w' .*surrogate"),
]


@pytest.mark.parametrize(("tasks", "inputs", "error", "message"), BAD_INPUTS)
def test_bad_inputs_are_refused_at_submit(
    tasks: list[Callable[..., Any]], inputs: Any, error: type[Exception], message: str
) -> None:
    compiled = bide.Workflow("w", tasks)._compiled()
    with pytest.raises(error, match=message):
        compiled.encode_inputs(inputs)


def test_a_task_with_a_context_sees_any_input() -> None:
    compiled = bide.Workflow("w", [_takes_context])._compiled()
    assert compiled.encode_inputs({"anything": [1]}) == [("anything", b"j[1]")]


def test_every_reader_of_an_input_must_be_able_to_read_it() -> None:
    other = bide.task(lambda path: path, name="other")

    def counts(path: int) -> None: ...

    compiled = bide.Workflow("w", [load, other, counts])._compiled()
    with pytest.raises(bide.SerializationError, match="is not what task 'counts' takes"):
        compiled.encode_inputs({"path": "x"})


NASTY = "<b>\"a\" & 'ü' \x00\n🙂]"


def test_drawings_escape_names() -> None:
    one = bide.Workflow(NASTY, [load, bide.task(lambda load: 1, name=NASTY)])  # type: ignore[misc]
    root = ET.fromstring(one._repr_html_())  # noqa: S314 - our own
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert texts[0] == "load"
    assert (texts[1] or "").startswith("<b>\"a\" & 'ü'")
    assert len([element for element in root.iter() if element.tag.endswith("path")]) == 1
    text = one.to_mermaid()
    assert text.splitlines()[0] == "flowchart LR"
    assert "    t0 --> t1" in text.splitlines()
    assert len(text.splitlines()) == 4
    assert '"' not in text.splitlines()[2][8:-2]
