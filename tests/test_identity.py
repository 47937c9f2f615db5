"""Matching records: of a step, a wait and a run, when a body is entered again or a run is requested again.

`test_canonical.py` and `test_mutants.py` test equality; this file tests its consequences.
"""

import dataclasses
import gc
import itertools
import os
import sqlite3
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic
import pytest

import bide
import stable_values
from bide._digest_v1 import digest_of_arguments
from processes import eventually

PATIENCE = 30.0

Body = Callable[[bide.TaskHandle], Any]


class World:
    """A run whose body several processes enter in turn, each with its own code."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.done: list[Any] = []
        self.released = False

    def do(self, item: Any) -> Any:
        """Do something that must be done once."""
        self.done.append(item)
        return item

    def hold(self, handle: bide.TaskHandle) -> None:
        """Wait until the second process has started."""
        handle.defer_until(lambda: self.released, 1, name="hold")

    def enter(self, body: Body) -> None:
        """Enter the body up to its hold, and kill the process there."""
        with bide.Runner(self.file) as runner:
            runner.submit(workflow_of(body), key="k")
            eventually(lambda: waiting(runner) == "waits for hold", "the body holds")
        self.done.clear()

    def enter_again(self, body: Body) -> Any:
        """Enter another body for the same run; return its result."""
        self.released = True
        with bide.Runner(self.file) as runner:
            return runner.run(workflow_of(body), key="k", timeout=PATIENCE)["work"]

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Open the file to read or change it."""
        with closing(sqlite3.connect(self.file)) as database, database:
            return database.execute(statement, values).fetchall()


def workflow_of(body: Body) -> bide.Workflow:
    return bide.Workflow("w", [bide.task(body, name="work")])


def waiting(runner: bide.Runner) -> str | None:
    found = runner.get("k").tasks.get("work")
    return found.blocked_by if found is not None else None


@pytest.fixture
def world(file: Path) -> World:
    return World(file)


# --------------------------------------------------------------------------------------------- a step and its record


def steps(world: World, items: Iterable[Any]) -> Body:
    def work(handle: bide.TaskHandle) -> list[Any]:
        results = [handle.step(world.do, item, name="do") for item in items]
        world.hold(handle)
        return results

    return work


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_a_loop_that_comes_back_in_another_order_finds_each_items_record(world: World, order: tuple[str, ...]) -> None:
    world.enter(steps(world, "abc"))
    assert world.enter_again(steps(world, order)) == list(order)
    assert world.done == []


def test_the_same_arguments_have_a_record_for_each_use(world: World) -> None:
    world.enter(steps(world, ["a", "a", "b"]))
    assert world.enter_again(steps(world, ["b", "a", "a", "a"])) == ["b", "a", "a", "a"]
    assert world.done == ["a"], "the third of them has no record yet"


def test_an_item_that_is_new_is_recorded_beside_those_of_a_shuffled_loop(world: World) -> None:
    world.enter(steps(world, "ab"))
    assert world.enter_again(steps(world, "bca")) == ["b", "c", "a"]
    assert world.done == ["c"]
    assert [n for (n,) in world.sql("SELECT n FROM journal WHERE name = 'do' ORDER BY n")] == [1, 2, 3]


def test_a_new_item_in_place_of_another_is_a_mismatch_with_advice(world: World) -> None:
    world.enter(steps(world, "ab"))
    with pytest.raises(bide.ReplayMismatch) as caught:
        world.enter_again(steps(world, "cab"))
    message = str(caught.value)
    assert "item='a' was recorded, and now it is item='c'" in message
    assert "sorted(...)" in message
    assert "key=str(item)" in message
    assert world.done == []


def test_a_mismatch_shows_only_the_argument_that_differs(world: World) -> None:
    def fetch(path: str, retries: int, *, headers: dict[str, str]) -> str:
        return f"{path} {retries} {headers}"

    def body(headers: dict[str, str], token: str) -> Body:
        def work(handle: bide.TaskHandle) -> None:
            handle.step(fetch, "x" * 1000, 3, headers=headers, name="fetch")
            handle.step(lambda: token, name="token")
            world.hold(handle)

        return work

    world.enter(body({"accept": "json", "a": "1"}, "t1"))
    with pytest.raises(bide.ReplayMismatch) as caught:
        world.enter_again(body({"accept": "text", "a": "1"}, "t1"))
    message = str(caught.value)
    assert "headers={'a': '1', 'accept': 'json'} was recorded" in message
    assert "headers={'a': '1', 'accept': 'text'}" in message
    assert "retries" not in message
    assert "xxx" not in message


def test_a_captured_value_that_differs_is_a_mismatch(world: World) -> None:
    def body(token: str) -> Body:
        def work(handle: bide.TaskHandle) -> str:
            got = handle.step(lambda: token, name="token")
            world.hold(handle)
            return got

        return work

    world.enter(body("t1"))
    with pytest.raises(
        bide.ReplayMismatch, match="captured token='t1' was recorded, and now it is captured token='t2'"
    ):
        world.enter_again(body("t2"))


FIRST_VERSION: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((1, "a", 2.5, None, True, b"x"), {"k": [1, (2,), {"a": 1}, {3}]}, "da51f916cdea81544d979f50d7cb98f0"),
    (
        (
            stable_values.Mode.FAST,
            stable_values.Config(frozenset("ab"), {"x": 1}),
            stable_values.load,
            stable_values.Config,
        ),
        {},
        "699379e6f879c5c8f6f1b8cf9c8850e6",
    ),
    ((datetime(2024, 1, 1, 2, 3, tzinfo=UTC),), {}, "02729036a1c6d131aacbe338a42c01fd"),
]


@pytest.mark.parametrize(("args", "kwargs", "digest"), FIRST_VERSION)
def test_the_first_versions_digest_never_changes(args: tuple[Any, ...], kwargs: dict[str, Any], digest: str) -> None:
    assert (digest_of_arguments(args, kwargs) or b"").hex() == digest


@pytest.mark.parametrize("changed", [False, True])
def test_a_step_of_the_first_version_is_compared_as_it_was_made(world: World, changed: bool) -> None:
    world.enter(steps(world, ["a", {"b": [1, 2]}, "c"]))
    for n, item in ((1, "a"), (2, {"b": [1, 2]})):  # the third uses today's form: both are in one journal
        world.sql("UPDATE journal SET proof = ? WHERE name = 'do' AND n = ?", digest_of_arguments((item,), {}), n)
    if changed:
        with pytest.raises(bide.ReplayMismatch, match="its result does not belong to this call"):
            world.enter_again(steps(world, ["a", {"b": [1, 3]}, "c"]))
    else:
        items = ["c", {"b": [1, 2]}, "a"]
        assert world.enter_again(steps(world, items)) == items
    assert world.done == []


# -------------------------------------------------------------------- the same in another process: seeds and modules

SCRIPT = """
import bide, enum, os, sys, pydantic

class Mode(enum.StrEnum):
    FAST = "fast"

class Model(pydantic.BaseModel):
    tags: set[str] = set()

def use(*values: object) -> int:
    return len(values)

MODEL = Model(tags={"alpha", "beta", "gamma", "delta", "eps"})

@bide.task
def body(model: Model, handle: bide.TaskHandle) -> int:
    count = handle.step(use, MODEL, dict.fromkeys(MODEL.tags, 1), Mode.FAST, use, Model)
    if sys.argv[2] == "die":
        os._exit(3)
    return count

def main():
    with bide.Runner(sys.argv[1]) as runner:
        print(runner.run(bide.Workflow("w", [body]), {"model": MODEL}, key="k", timeout=30)["body"])

if __name__ == "__main__":
    main()
"""


def test_a_step_and_a_run_are_the_same_in_another_process_and_module(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "steps_script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(tmp_path), str(Path(bide.__file__).parent.parent)])

    def process(seed: str, *command: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)

    assert process("1", str(script), str(file), "die").returncode == 3
    done = process("2", "-c", "import steps_script; steps_script.main()", str(file), "live")
    assert (done.stdout, done.stderr) == ("5\n", "")


# ------------------------------------------------------------------------------------------------ inputs under a key


class Model(pydantic.BaseModel):
    """Encodes its set in any order."""

    tags: set[str] = set()


@dataclasses.dataclass
class Job:
    """An input with a dict."""

    sizes: dict[str, int]


def takes(model: Model, job: Job, table: dict[str, Any], number: float) -> str:
    return f"{sorted(model.tags)} {job} {table} {number}"


def given(order: Callable[[Iterable[str]], list[str]], **changes: Any) -> dict[str, Any]:
    names = order(f"name {n}" for n in range(6))
    values = {
        "model": Model(tags=set(names)),
        "job": Job(dict.fromkeys(names, 1)),
        "table": {name: {"b": 1, "a": [name]} for name in names},
        "number": 1.5,
    }
    return values | changes


def backwards(names: Iterable[str]) -> list[str]:
    return sorted(names, reverse=True)


def test_inputs_in_another_order_are_the_same_inputs(runner: bide.Runner) -> None:
    workflow = bide.Workflow("takes", [bide.task(takes)])
    first = runner.submit(workflow, given(sorted), key="k")
    assert runner.submit(workflow, given(backwards), key="k").id == first.id
    both = runner.submit_many(workflow, [given(backwards), given(sorted)], keys=["k", "other"])
    assert both[0].id == first.id
    assert both[1].id != first.id


@pytest.mark.parametrize(
    "changes",
    [
        {"model": Model(tags={"name 1"})},
        {"job": Job({"name 1": 2})},
        {"table": {"name 1": True}},
        {"number": 2.5},
    ],
)
def test_other_inputs_are_refused_and_named(runner: bide.Runner, changes: dict[str, Any]) -> None:
    workflow = bide.Workflow("takes", [bide.task(takes)])
    runner.submit(workflow, given(sorted), key="k")
    (name,) = changes
    with pytest.raises(bide.DefinitionError, match=f"'{name}'.* differs"):
        runner.submit(workflow, given(backwards, **changes), key="k")


# --------------------------------------------------------------------------------------------- a wait and its record


def noted(notes: list[Any], what: object) -> bool:
    notes.append(what)
    return True


def appending(world: World) -> Body:
    def work(handle: bide.TaskHandle) -> list[str]:
        answers: list[str] = []
        handle.defer_until(lambda: noted(answers, "answer"), 1, name="ask")
        world.hold(handle)
        return answers

    return work


def rebinding(world: World) -> Body:
    def work(handle: bide.TaskHandle) -> list[str]:
        answer = None

        def ready() -> bool:
            nonlocal answer
            answer = "answer"
            return True

        handle.defer_until(ready, 1, name="ask")
        world.hold(handle)
        return [str(answer)]

    return work


def after_polls(world: World) -> Body:
    def work(handle: bide.TaskHandle) -> list[str]:
        polls: list[int] = []
        handle.defer_until(lambda: noted(polls, 1) and len(polls) > 3, 1, name="ask")
        world.hold(handle)
        return ["answer"] if len(polls) == 4 else []

    return work


def in_an_object(world: World) -> Body:
    @dataclasses.dataclass
    class Asks:
        answer: str = "none"

        def ready(self) -> bool:
            self.answer = "answer"
            return True

    def work(handle: bide.TaskHandle) -> list[str]:
        asks = Asks()
        handle.defer_until(asks.ready, 1, name="ask")
        world.hold(handle)
        return [asks.answer]

    return work


def until_it_fails(world: World) -> Body:
    def work(handle: bide.TaskHandle) -> list[str]:
        answers: list[str] = []

        def ready() -> bool:
            answers[:] = ["answer"]
            raise OSError

        with pytest.raises(OSError):  # noqa: PT011 - any ValueError
            handle.defer_until(ready, 1, name="ask", on_error="raise")
        world.hold(handle)
        return answers

    return work


@pytest.mark.parametrize("make", [appending, rebinding, after_polls, in_an_object, until_it_fails])
def test_a_condition_that_stores_its_answer_in_a_capture_is_asked_again(
    world: World, make: Callable[[World], Body]
) -> None:
    world.enter(make(world))
    assert world.sql("SELECT proof FROM journal WHERE name = 'ask'") == [(None,)]
    assert world.enter_again(make(world)) == ["answer"]


asked: list[int] = []


def third_time() -> bool:
    asked.append(1)
    return len(asked) >= 3


def test_a_condition_that_changes_nothing_it_can_read_keeps_its_proof(world: World) -> None:
    def work(handle: bide.TaskHandle) -> str:
        handle.defer_until(lambda: third_time(), 1, name="ask")
        world.hold(handle)
        return "done"

    asked.clear()
    world.enter(work)
    assert world.enter_again(work) == "done"
    assert len(asked) == 3, "the record is reused"


class Opaque:
    """An opaque object about which nothing can be proved."""

    def __init__(self) -> None:
        self.born = time.monotonic()

    def done(self) -> bool:
        """Whether it has existed for long enough."""
        return time.monotonic() - self.born > 0.2


def test_a_wait_that_was_satisfied_has_its_whole_time_again_in_a_retry(file: Path) -> None:
    timeout = 1.0

    @bide.task(retry=bide.Retry(attempts=2, delay=timeout, jitter=0))
    def work(handle: bide.TaskHandle) -> int:
        handle.defer_until(Opaque().done, 5, timeout=timeout)
        if handle.attempt == 1:
            raise OSError
        return handle.attempt

    with bide.Runner(file) as runner:
        assert runner.run(bide.Workflow("w", [work]), timeout=PATIENCE)["work"] == 2


# --------------------------------------------------------------------------------------------------- nothing is kept


class Frame(bytearray):
    """A large object."""


def test_captures_of_steps_and_conditions_are_released(runner: bide.Runner) -> None:
    alive: list[weakref.ref[Frame]] = []

    @bide.task
    def work(handle: bide.TaskHandle) -> int:
        frame = Frame(1000)
        alive.append(weakref.ref(frame))
        handle.defer_until(lambda: len(frame) > 0, 1)
        return handle.step(lambda: len(frame), name="size")

    for _ in range(5):
        runner.run(bide.Workflow("w", [work]))
    gc.collect()
    assert sum(one() is not None for one in alive) <= 1
