"""Each entry of a body runs in its own contextvars: a copy of the submitter's, or empty in another process."""

import asyncio
import contextvars
import decimal
import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import killed, ran

user = contextvars.ContextVar("user", default="nobody")


@pytest.fixture
def runner(store: str) -> Iterator[bide.Runner]:
    """One slot, so that a body follows another on its thread."""
    with bide.Runner(store, slots=1) as runner:
        yield runner


@pytest.fixture(autouse=True)
def variables_of_the_test() -> Iterator[None]:
    """Restore the main thread's contextvars after each test."""
    token = user.set("nobody")
    yield
    user.reset(token)


def one(body: Callable[..., object], name: str = "t", **settings: Any) -> bide.Workflow:
    return bide.Workflow(name, [bide.task(**settings, name=name)(body)])


def sees() -> str:
    return user.get()


# What a body may change, and how another body would see the change.


def set_user() -> None:
    user.set("somebody else")


def get_user() -> str:
    return user.get()


def set_precision() -> None:
    decimal.getcontext().prec = 3


def set_traps() -> None:
    decimal.getcontext().traps[decimal.Inexact] = True


def set_context() -> None:
    decimal.setcontext(decimal.Context(prec=5))


def divide() -> str:
    return str(Decimal(1) / Decimal(7))


def never_resets() -> None:
    decimal.localcontext(prec=4).__enter__()


LEAKS = {
    "a variable": (set_user, get_user),
    "decimal's precision": (set_precision, divide),
    "decimal's traps": (set_traps, divide),
    "decimal's context": (set_context, divide),
    "a local context that is not left": (never_resets, divide),
}


@pytest.mark.parametrize(("change", "look"), LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("used_before", [False, True])
def test_no_other_body_sees_a_bodys_changes(
    runner: bide.Runner, change: Callable[[], None], look: Callable[[], str], *, used_before: bool
) -> None:
    def submitter() -> None:
        if used_before:
            divide()  # decimal's context is in the submitter's contextvars from here on, where copies share it
        before = look()
        both = bide.Workflow("both", [bide.task(change, name="change"), bide.task(look, name="look")])
        for _ in range(3):
            runner.run(one(change, "change"))
            assert runner.run(one(look, "look"))["look"] == before
            assert runner.run(both)["look"] == before
        assert look() == before

    contextvars.Context().run(submitter)


def test_a_body_sees_its_submitters_variables(runner: bide.Runner) -> None:
    user.set("alice")
    with decimal.localcontext(prec=2):
        handle = runner.submit(bide.Workflow("w", [bide.task(sees, name="who"), bide.task(divide, name="divide")]))
    user.set("bob")
    assert handle.result().outputs == {"who": "alice", "divide": "0.14"}
    assert runner.run(one(sees))["t"] == "bob"


def test_runs_submitted_together_do_not_see_one_another(runner: bide.Runner) -> None:
    names = itertools.count()

    def body() -> str:
        seen = user.get()
        user.set(f"run {next(names)}")
        return seen

    user.set("submitter")
    handles = runner.submit_many(one(body), [None] * 20)
    assert {handle.result()["t"] for handle in handles} == {"submitter"}


def test_each_attempt_begins_with_a_new_copy(runner: bide.Runner) -> None:
    seen: list[str] = []

    def body() -> None:
        seen.append(user.get())
        user.set(f"attempt {len(seen)}")
        if len(seen) < 3:
            raise OSError

    user.set("submitter")
    runner.run(one(body, retry=bide.Retry(attempts=3, delay=0)))
    assert seen == ["submitter"] * 3


def test_steps_and_conditions_run_in_their_bodys_variables(runner: bide.Runner) -> None:
    asked = itertools.count()

    def condition() -> bool:
        if next(asked) == 0:
            user.set("condition")
            return False
        return user.get() == "condition"

    def step() -> str:
        before = user.get()
        user.set("step")
        return before

    def body(handle: bide.TaskHandle) -> list[str]:
        user.set("body")
        seen = [handle.step(step), user.get()]
        handle.defer_until(condition, poll_interval_ms=1)
        return [*seen, user.get()]

    assert runner.run(one(body))["t"] == ["body", "step", "condition"]
    assert runner.run(one(sees))["t"] == "nobody"


def test_parked_bodies_keep_their_variables_apart(store: str) -> None:
    release = threading.Event()

    def body(handle: bide.TaskHandle, name: str) -> str:
        user.set(name)
        handle.defer_until(release.is_set, poll_interval_ms=1)
        return user.get()

    with bide.Runner(store, slots=1) as runner:
        handles = runner.submit_many(one(body), [{"name": str(n)} for n in range(20)])
        assert runner.run(one(sees, "other"))["other"] == "nobody"
        release.set()
        assert [handle.result()["t"] for handle in handles] == [str(n) for n in range(20)]


def test_each_poll_of_a_gate_has_a_copy(runner: bide.Runner) -> None:
    seen: list[tuple[str, int]] = []

    def condition() -> bool:
        seen.append((user.get(), decimal.getcontext().prec))
        user.set("poll")
        decimal.getcontext().prec = 3
        return len(seen) == 3

    with decimal.localcontext(prec=11):
        user.set("submitter")
        handle = runner.submit(one(sees, gate=bide.until(condition, every=0.001)))
    assert handle.result()["t"] == "submitter"
    assert seen == [("submitter", 11)] * 3


async def test_an_async_callers_variables_are_its_coroutines(store: str) -> None:
    async with bide.Runner(store, slots=1) as runner:

        async def submits(name: str) -> list[str]:
            user.set(name)
            awaited = await runner.run_async(one(sees))
            return [awaited["t"], (await runner.submit(one(sees)))["t"]]

        assert await asyncio.gather(*(submits(str(n)) for n in range(5))) == [[str(n)] * 2 for n in range(5)]


def test_a_body_may_make_contexts_and_event_loops_of_its_own(runner: bide.Runner) -> None:
    def body(*, name: str = "body") -> list[str]:
        user.set(name)

        async def inner() -> str:
            await asyncio.sleep(0)
            seen = user.get()
            user.set("inner")
            return seen

        copied = contextvars.copy_context().run(user.get)
        empty = contextvars.Context().run(user.get)
        looped = asyncio.run(inner())
        with ThreadPoolExecutor(1) as pool:
            threaded = pool.submit(contextvars.copy_context().run, user.get).result()
        return [copied, empty, looped, threaded, user.get()]

    assert runner.run(one(body))["t"] == ["body", "nobody", "body", "body", "body"]


@pytest.mark.parametrize("count", range(9))
def test_arguments_of_any_number_arrive(runner: bide.Runner, count: int) -> None:
    names = [f"a{n}" for n in range(count)]
    for star in ("", "*, "):
        scope: dict[str, Callable[..., list[int]]] = {}
        exec(f"def body({(star if names else '') + ', '.join(names)}): return [{', '.join(names)}]", scope)  # noqa: S102 - a signature of any length
        assert runner.run(one(scope["body"]), {name: at for at, name in enumerate(names)})["t"] == list(range(count))


def test_a_context_lives_no_longer_than_its_run(runner: bide.Runner) -> None:
    class Held:
        pass

    variable: contextvars.ContextVar[Held] = contextvars.ContextVar("held")
    held, made = Held(), Held()
    dead = [weakref.ref(held), weakref.ref(made)]

    def body() -> None:
        variable.get()
        variable.set(box.pop())

    box = [made]
    del made
    context = contextvars.copy_context()
    context.run(variable.set, held)
    context.run(runner.run, one(body))
    del context, held
    runner.run(one(sees, "another"))  # objects dropped without the interpreter are released by now
    gc.collect()
    assert [ref() for ref in dead] == [None, None]


SEES = """
import contextvars, decimal
user = contextvars.ContextVar("user", default="nobody")
user.set("main")
decimal.getcontext().prec = 7

def polled(first: str) -> bool:
    seen.append(user.get())
    user.set("poll")
    return len(seen) == 2

seen = []

def first(handle: bide.TaskHandle) -> str:
    say("entered", user.get(), decimal.getcontext().prec)
    user.set("body")
    if words == ["stay"]:
        stay()
    return user.get()

@bide.task(gate=bide.until(polled, every=0.001))
def second(first: str) -> list[str]:
    return [*seen, user.get()]

workflow = bide.Workflow("w", [first, second])
"""


def test_a_body_and_a_gate_begin_without_variables_after_a_restart(file: Path) -> None:
    killed(SEES + "bide.Runner(db).run(workflow, key='k')", file, "stay", at="entered main 7")
    said = ran(SEES + "say(*bide.Runner(db).run(workflow, key='k')['second'])", file)
    assert said == ["entered nobody 28", "nobody nobody nobody"]
