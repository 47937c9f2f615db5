"""Names are data: any text can name a workflow, task, input, key, step or wait; invalid text is refused."""

import logging
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide

PLANES = {f"plane {plane}": chr(plane * 0x10000 + 0xABCD) for plane in range(17)}

NAMES = {
    **PLANES,
    "the last character of each plane": "".join(chr(plane * 0x10000 + 0xFFFF) for plane in range(17)),
    "emoji of several characters": "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪",
    "combining marks": "Z̷̡̛͚͙a͎̅͟l̸̃g̶͖̐o̵",
    "right to left": "\u202e\u05d7\u05dc\u05d5\u05dd\u202c \u0645\u0631\u062d\u0628\u0627",
    "control characters": "a\tb\nc\r\x1b[31m\x7f\x85",
    "NUL": "a\0b",
    "NUL at the end": "ab\0",
    "line and paragraph separators": "a\u2028b\u2029c\ufeff",
    "quotes of all kinds": "'\"`\u00b4\\;--{}%s$",
    "a long one": "ä" * 10_000,
}

ALIKE = [unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"), "e", "E", "a\0b", "a\0c", "a"]


@pytest.mark.parametrize("case", NAMES)
def test_any_text_is_a_name_and_is_found_again_by_another_runner(file: Path, case: str) -> None:
    name = NAMES[case]
    flag = threading.Event()
    steps: list[str] = []

    def submit(what: str) -> str:
        steps.append(what)
        return what + "!"

    @bide.task(name=name)
    def first(
        given: Annotated[str, bide.Input(name + "in")], ctx: bide.Context, handle: bide.TaskHandle
    ) -> dict[str, str]:
        said = handle.step(submit, given, name=name)
        handle.sleep(0.001, name=name + "sleep")
        handle.defer_until(flag.is_set, 5, name=name + "wait")
        ctx.set(name, given)
        return {name: said}

    @bide.task(name=name + "2", gate=bide.until(lambda: True, every=0.01, name=name))
    def second(before: Annotated[dict[str, str], bide.From(name)], ctx: bide.Context) -> str:
        return before[name] + str(ctx[name])

    workflow = bide.Workflow(name, [first, second])
    with bide.Runner(file) as runner:
        handle = runner.submit(workflow, {name + "in": name}, key=name)
        while runner.get(handle.id).tasks[name].sub_status is not bide.SubStatus.Deferred or not steps:
            pass
    with bide.Runner(file, workflows=[workflow]) as runner:
        flag.set()
        result = runner.run(workflow, {name + "in": name}, key=name, timeout=30)
        assert result.id == handle.id
        assert (result.workflow, result.key) == (name, name)
        assert result.outputs == {name: {name: name + "!"}, name + "2": name + "!" + name}
        assert dict(result.context) == {name + "in": name, name: name}
        assert steps == [name]  # the record was found
        assert [run.id for run in runner.runs(workflow=name)] == [handle.id]
        assert runner.get(name).id == handle.id
        runner.delete(name, workflow=workflow)
        assert runner.runs() == []
    assert workflow.to_mermaid()
    assert workflow._repr_html_()


def test_names_that_look_alike_are_different_ones(store: str) -> None:
    tasks = [bide.task(lambda n=n: n, name=name) for n, name in enumerate(ALIKE)]
    with bide.Runner(store) as runner:
        workflow = bide.Workflow("w", tasks)
        assert runner.run(workflow).outputs == {name: n for n, name in enumerate(ALIKE)}
        runs = [runner.run(workflow, key=name) for name in ALIKE]
        assert len({run.id for run in runs}) == len(ALIKE)
        assert [runner.get(name).id for name in ALIKE] == [run.id for run in runs]
        for name in ALIKE:
            runner.run(bide.Workflow(name, tasks[:1]))
        assert [len(runner.runs(workflow=name)) for name in ALIKE] == [1] * len(ALIKE)


def test_a_name_of_any_kind_is_shown_when_its_task_fails(runner: bide.Runner, caplog: pytest.LogCaptureFixture) -> None:
    name = "".join(NAMES.values())

    def body() -> None:
        raise ValueError(name)

    with pytest.raises(bide.RunFailed) as failed, caplog.at_level(logging.DEBUG):
        runner.run(bide.Workflow(name, [bide.task(body, name=name)]))
    assert name in str(failed.value.errors[name])


# --- invalid text -----------------------------------------------------------------------------------------------------

LONE = "a\ud800b"


def task(name: str = "t", **options: Any) -> Callable[[], int]:
    return bide.task(lambda: 1, name=name, **options)


def takes_context(context: bide.Context) -> int:
    return len(context)


def renamed() -> Callable[[], int]:
    def body() -> int:
        return 1

    body.__name__ = body.__qualname__ = LONE
    return body


REFUSED: dict[str, Callable[[bide.Runner], object]] = {
    "workflow": lambda _: bide.Workflow(LONE, [task()]),
    "task": lambda _: task(LONE),
    "a function's own": lambda _: bide.task(renamed()),
    "dependency": lambda _: bide.Workflow("w", [task(depends_on=[LONE])]),
    "From": lambda _: bide.From(LONE),
    "Input": lambda _: bide.Input(LONE),
    "run_if": lambda _: task(run_if=LONE),
    "wait": lambda _: bide.until(bool, name=LONE),
    "key": lambda runner: runner.run(bide.Workflow("w", [task()]), key=LONE),
    "one of many keys": lambda runner: runner.submit_many(bide.Workflow("w", [task()]), [{}, {}], ["k", LONE]),
    "input": lambda runner: runner.run(bide.Workflow("w", [task()]), {LONE: 1}),
    "input of a workflow whose tasks take the context": lambda runner: runner.run(
        bide.Workflow("w", [bide.task(takes_context)]), {LONE: 1}
    ),
    "status": lambda runner: runner.runs(status=LONE),
    "store": lambda _: bide.Runner(LONE),
    "store's URL": lambda _: bide.Runner("sqlite:///" + LONE),
    "durability": lambda _: bide.Runner(":memory:", durability=LONE),  # type: ignore[arg-type]
    "context key": lambda _: bide.Context({LONE: 1}),
    "context key in JSON": lambda _: bide.Context.from_json('{"a\\ud800b": 1}'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_name_with_a_lone_surrogate_is_refused_and_shown(runner: bide.Runner, case: str) -> None:
    with pytest.raises(bide.DefinitionError) as raised:
        REFUSED[case](runner)
    assert repr(LONE)[1:-1] in str(raised.value)
    assert runner.runs() == []


IN_BODY: dict[str, Callable[[bide.TaskHandle, bide.Context], object]] = {
    "step": lambda handle, _: handle.step(int, name=LONE),
    "wait": lambda handle, _: handle.defer_until(bool, name=LONE),
    "sleep": lambda handle, _: handle.sleep(0, name=LONE),
    "empty sleep": lambda handle, _: handle.sleep(0, name=""),
    "sleep_until": lambda handle, _: handle.sleep_until(handle.now(), name=LONE),
    "context": lambda _, context: context.set(LONE, 1),
    "context, new": lambda _, context: context.insert(LONE, 1),
    "context, by item": lambda _, context: context.__setitem__(LONE, 1),
}


@pytest.mark.parametrize("case", IN_BODY)
def test_in_a_body_it_is_refused_where_it_is_used(runner: bide.Runner, case: str) -> None:
    raised: list[str] = []

    @bide.task
    def work(handle: bide.TaskHandle, context: bide.Context) -> str:
        with pytest.raises(bide.DefinitionError) as problem:
            IN_BODY[case](handle, context)
        raised.append(str(problem.value))
        handle.step(str, "x", name="after")  # the body can continue
        return "went on"

    assert runner.run(bide.Workflow("w", [work]), timeout=30)["work"] == "went on"
    assert "''" in raised[0] if case.startswith("empty") else repr(LONE)[1:-1] in raised[0]


def test_what_is_asked_for_by_no_text_is_not_there(runner: bide.Runner) -> None:
    result = runner.run(bide.Workflow("w", [task()]), key="k")
    asked: list[Callable[[], object]] = [
        lambda: result[LONE],
        lambda: result.tasks[LONE],
        lambda: result.context[LONE],
        lambda: runner.get(LONE),
        lambda: runner.get("k", workflow=LONE),
        lambda: runner.delete(LONE),
    ]
    for ask in asked:
        with pytest.raises(KeyError) as raised:
            ask()
        assert "ud800" in str(raised.value)
    assert LONE not in result.tasks
    assert LONE not in result.context
    assert runner.runs(workflow=LONE) == []


def test_a_function_name_that_is_not_valid_text_is_escaped_in_the_journal(runner: bide.Runner) -> None:
    @bide.task(gate=bide.until(renamed(), every=0.01))
    def work(handle: bide.TaskHandle) -> int:
        return handle.step(renamed()) + handle.defer_until(renamed())

    assert runner.run(bide.Workflow("w", [work]), timeout=30)["work"] == 2
