"""Names in messages, log lines and reprs are escaped: a name breaks no line and cannot control a terminal."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bide
from bide._text import shown

BAD = [
    "a\nb",
    "a\r\nb",
    "\x1b[31mred\x1b[0m",
    "bell\x07\x00",
    "a\u2028b\u2029c",
    "\u202eevil\u2066",
    "c1\x9b31m\x85",
    "\ufeffbom",
]
names = pytest.mark.parametrize("name", BAD, ids=ascii)


def printable(text: object) -> bool:
    return str(text).isprintable()


@given(st.text())
def test_only_unprintable_characters_are_escaped(text: str) -> None:
    assert shown(text).isprintable()
    assert shown(shown(text)) == shown(text)
    if text.isprintable():
        assert shown(text) is text
    else:
        assert shown(text) == "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class Lines(logging.Handler):
    """A handler that keeps what a console would show."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(bide.LogFilter())
        self.setFormatter(logging.Formatter("%(message)s | %(task)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    handler, logger = Lines(), logging.getLogger("bide")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


def refused(make: Callable[[], object]) -> str:
    try:
        made = make()
    except (bide.BideError, KeyError, TypeError) as problem:
        return problem.args[0] if isinstance(problem, KeyError) else str(problem)
    raise AssertionError(f"not refused: {made!r}")


def constant() -> int:
    return 1


def generator() -> Iterator[int]:
    yield 1


def waits_for(name: str) -> Callable[..., Any]:
    def body(x: Annotated[int, bide.From(name)]) -> None: ...

    return body


def input_of(name: str) -> Callable[..., Any]:
    def body(x: Annotated[int, bide.Input(name)]) -> int:
        return x

    return body


@names
def test_what_is_refused_is_named_without_its_effects(name: str, runner: bide.Runner) -> None:
    def run(*tasks: Callable[..., Any]) -> Callable[[], object]:
        return lambda: runner.run(bide.Workflow(name, tasks))

    one = bide.task(constant, name=name)
    given = bide.Workflow(name, [bide.task(input_of(name), name="body")])
    runner.run(given, {name: 1}, key=name)
    cases: list[Callable[[], object]] = [
        run(),
        run(one, bide.task(constant, name=name)),
        run(bide.task(waits_for(name + "2"), name="other", depends_on=[name + "2"])),
        run(bide.task(constant, name=name, depends_on=[name])),
        run(bide.task(constant, name="x", depends_on=[name])),
        run(one, bide.task(constant, name=name + "1", depends_on=[name + "2"])),
        run(
            bide.task(constant, name=name + "1", depends_on=[name + "2"]),
            bide.task(constant, name=name + "2", depends_on=[name + "1"]),
        ),
        lambda: bide.task(generator, name=name),
        lambda: bide.task(generator, run_if=name),
        lambda: bide.task(generator, name="x", tolerate=name),  # type: ignore[call-overload]
        lambda: runner.run(given, {}),
        lambda: runner.run(given, {name: "text"}),
        lambda: runner.run(given, {name: 1, name + "2": 1}),
        lambda: runner.run(given, {name: 2}, key=name),
        lambda: runner.get(name + "2"),
        lambda: runner.get(name, workflow=name + "2"),
        lambda: list(runner.runs(status=name)),
        lambda: runner.get(name)[name],
        lambda: runner.get(name).tasks["body"].error or runner.get(name)["no\n" + name],
        lambda: bide.until(bool, on_error=name),  # type: ignore[call-overload]
        lambda: bide.Runner(f"/no/such/{name}/directory".replace("\0", "")),
        lambda: bide.Runner(f"{name}://x"),
    ]
    for number, case in enumerate(cases):
        assert printable(refused(case)), (number, refused(case))
    for thing in (given, runner.get(name), runner.get(name).tasks, as_repr(one)):
        assert printable(repr(thing))


def as_repr(task: object) -> object:
    return getattr(task, "__bide_task__", task)


@names
def test_a_run_shows_its_names_on_one_line(name: str, logged: list[str], store: str) -> None:
    asked = threading.Event()

    def fails(handle: bide.TaskHandle) -> None:
        logging.getLogger("bide").warning("in the body")
        assert printable(repr(handle))
        wrong: list[Callable[[], object]] = [
            lambda: handle.defer_until(lambda: object(), 5, name=name),
            lambda: handle.step(lambda: {1, 2}, name=name),
            lambda: handle.step(lambda: handle.sleep(0), name=name + "2"),
            lambda: handle.defer_until(lambda: handle.sleep(0), 5, name=name + "3"),
            lambda: handle.step(int, name=7),  # type: ignore[call-overload]
            lambda: handle.defer_until(bool, 5, timeout=0.02, name=name + "4"),
        ]
        for number, call in enumerate(wrong):
            assert printable(refused(call)), (number, refused(call))
        raise ValueError("failed")

    def slow(handle: bide.TaskHandle) -> None:
        while not handle.suspending:
            handle.step(time.sleep, 0.001)  # until its time is used up

    def never() -> bool:
        asked.set()
        return False

    def unstorable() -> object:
        return object()

    def context(context: bide.Context) -> None:
        context.set(name, {1})

    tasks: list[Callable[..., Any]] = [
        bide.task(fails, name=name),
        bide.task(constant, name="after", depends_on=[name]),
        bide.task(slow, name=name + " slow", timeout=0.02),
        bide.task(constant, name=name + " gated", gate=bide.until(never, every=0.01, timeout=0.05, name=name)),
        bide.task(unstorable, name=name + " value"),
        bide.task(context, name=name + " context"),
    ]
    with bide.Runner(store) as runner:
        failed = refused_run(runner, bide.Workflow(name, tasks))
        assert isinstance(failed.result, bide.RunResult)
        assert printable(failed)
        assert set(failed.errors) == {one for one in failed.result.tasks if one != "after"}
        for error in failed.errors.values():
            assert printable(error)
        for task in failed.result.tasks.values():
            assert task.blocked_by is None or printable(task.blocked_by)
        assert failed.result.tasks["after"].blocked_by == shown(name)
        waiting = runner.submit(
            bide.Workflow(name + "2", [bide.task(slow, name=name, gate=bide.until(never, every=0.01, name=name))])
        )
        asked.clear()
        assert asked.wait(30)
        blocked = runner.get(waiting.id).tasks[name].blocked_by
        assert blocked is not None
        assert printable(blocked)
    assert any("in the body" in line for line in logged)
    assert all(map(printable, logged))


def refused_run(runner: bide.Runner, workflow: bide.Workflow) -> bide.RunFailed:
    with pytest.raises(bide.RunFailed) as failed:
        runner.run(workflow)
    return failed.value


@names
def test_a_class_with_an_odd_name_breaks_no_line(name: str, runner: bide.Runner) -> None:
    def fails() -> None:
        raise type(name, (Exception,), {"__module__": name})("failed")

    failed = refused_run(runner, bide.Workflow("w", [fails]))
    assert printable(failed)
    assert printable(failed.errors["fails"])


def test_a_message_of_a_users_own_stays_as_it_is(runner: bide.Runner) -> None:
    def fails() -> None:
        raise ValueError("two\nlines")

    def skips() -> None:
        raise bide.Skip("no need")

    failed = refused_run(runner, bide.Workflow("w", [fails, skips]))
    error = failed.errors["fails"]
    assert isinstance(error, bide.TaskFailed)
    assert error.message == "two\nlines"
    with contextlib.suppress(KeyError):
        runner.get("nobody")
