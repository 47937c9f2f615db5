"""`handle.checkpoint`: a body that loops for long keeps the journal of one turn."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import ledger, ran


def within(runner: bide.Runner, body: Any, **options: Any) -> Any:
    """Run one task with this body and return its result."""
    return runner.run(bide.Workflow("w", [bide.task(body, name="work", **options)]), timeout=60)["work"]


@dataclass
class Turn:
    number: int
    seen: list[str]


def test_the_last_state_is_returned_by_its_type_and_else_the_default(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> list[Any]:
        found: list[Any] = [handle.last_checkpoint(int), handle.last_checkpoint(int, default=7)]
        handle.checkpoint(3)
        found.append(handle.last_checkpoint(int))
        handle.checkpoint(Turn(2, ["a"]))
        turn = handle.last_checkpoint(Turn, default=None)
        assert turn == Turn(2, ["a"])
        handle.checkpoint(None)
        found.append(handle.last_checkpoint(type(None), default=None))
        return found

    assert within(runner, work) == [None, 7, 3, None]


def test_use_counts_start_anew_and_keys_are_forgotten(runner: bide.Runner) -> None:
    calls: list[str] = []

    def work(handle: bide.TaskHandle) -> list[str]:
        for turn in range(3):
            handle.step(calls.append, "step")
            handle.step(calls.append, "keyed", key="k")
            handle.sleep(0.001)
            handle.checkpoint(turn)
        return calls

    assert within(runner, work) == ["step", "keyed"] * 3


LOOP = """
import sqlite3

def entries():
    with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as file:
        return file.execute("SELECT count(*) FROM journal").fetchone()[0]

def turn(n):
    note("turn", n)
    if words and n == int(words[0]):
        die()
    return n + 1

@bide.task
def work(handle: bide.TaskHandle):
    n = handle.last_checkpoint(int, default=0)
    note("from", n)
    most = 0
    while n < 50:
        n = handle.step(turn, n)
        handle.sleep(0)
        handle.checkpoint(n)
    return n

with bide.Runner(db) as runner:
    say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
"""


def test_a_loop_keeps_the_journal_of_one_turn_and_continues_where_it_was(file: Path) -> None:
    for dies_at in (0, 17, 49):
        ran(LOOP, file, str(dies_at), code=-9)
        with sqlite3.connect(file) as database:
            assert database.execute("SELECT count(*) FROM journal").fetchone()[0] <= 1
    assert ran(LOOP, file) == ["50"]
    assert [line for line in ledger(file) if line.startswith("from")] == ["from 0", "from 0", "from 17", "from 49"]
    turns = [int(line.split()[1]) for line in ledger(file) if line.startswith("turn")]
    assert sorted(turns) == sorted([*range(50), 0, 17, 49])
    with sqlite3.connect(file) as database:
        kinds = database.execute("SELECT name, kind FROM journal").fetchall()
    assert kinds == [("checkpoint", 10)]


def test_a_retry_of_the_task_continues_where_the_checkpoint_is_unless_it_is_fresh(runner: bide.Runner) -> None:
    for fresh, found in [(False, [None, 1]), (True, [None, None])]:
        states: list[int | None] = []

        def work(handle: bide.TaskHandle, states: Any = states) -> None:
            states.append(handle.last_checkpoint(int))
            handle.checkpoint(1)
            if handle.attempt == 1:
                msg = "again"
                raise OSError(msg)

        def body(handle: bide.TaskHandle, work: Any = work) -> None:
            work(handle)

        within(runner, lambda handle: body(handle), retry=bide.Retry(attempts=2, delay=0, fresh=fresh))
        assert states == found


@pytest.mark.parametrize("key", [None, "k"])
def test_a_checkpoint_within_a_step_is_refused(runner: bide.Runner, key: str | None) -> None:
    def work(handle: bide.TaskHandle) -> str:
        def step() -> str:
            with pytest.raises(bide.DefinitionError) as refused:
                handle.checkpoint(1)
            return str(refused.value)

        text = handle.step(step) if key is None else handle.step(step, key=key)
        assert handle.last_checkpoint(int) is None
        return text

    assert "task 'work': the checkpoint inside " in within(runner, work)


def test_a_checkpoint_while_a_wait_is_open_is_refused(runner: bide.Runner) -> None:
    texts: list[str] = []

    def work(handle: bide.TaskHandle) -> None:
        def condition() -> bool:
            with pytest.raises(bide.DefinitionError) as refused:
                handle.checkpoint(1)
            texts.append(str(refused.value))
            return True

        handle.defer_until(condition)

    within(runner, work)
    assert "the checkpoint inside the wait 'test_" in texts[0]


def test_a_checkpoint_while_a_step_executes_on_another_thread_is_refused(runner: bide.Runner) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert go_on.wait(30)
        return "slow"

    def work(handle: bide.TaskHandle) -> str:
        with ThreadPoolExecutor(1) as threads:
            step = threads.submit(lambda: handle.step(slow, name="slow", key="k"))
            assert begun.wait(30)
            with pytest.raises(bide.DefinitionError) as refused:
                handle.checkpoint(1)
            go_on.set()
            assert step.result() == "slow"
        handle.checkpoint(2)
        return str(refused.value)

    text = within(runner, work)
    assert text == "task 'work': the checkpoint while steps are under way ('slow \"k\"'): it would drop their records"


def test_a_child_that_was_started_with_a_key_is_the_same_after_a_checkpoint(runner: bide.Runner) -> None:
    @bide.task
    def inner(n: int) -> int:
        return n

    child = bide.Workflow("child", [inner])

    def work(handle: bide.TaskHandle) -> list[Any]:
        keyed, other = handle.start(child, {"n": 1}, key="k"), handle.start(child, {"n": 2})
        handle.checkpoint(1)
        again = [handle.start(child, {"n": 1}, key="k").id == keyed.id, handle.start(child, {"n": 2}).id == other.id]
        return [*again, handle.wait(keyed)["inner"]]

    assert within(runner, work) == [True, False, 1]


def test_a_state_that_cannot_be_stored_is_refused_and_the_journal_stays(runner: bide.Runner) -> None:
    calls: list[int] = []

    def work(handle: bide.TaskHandle) -> None:
        if handle.last_checkpoint(int) is None:
            handle.checkpoint(1)
        handle.step(calls.append, handle.attempt, name="call", key="call")
        with pytest.raises((bide.SerializationError, bide.DefinitionError), match="the state of a checkpoint"):
            handle.checkpoint({"lock": object()})
        assert handle.last_checkpoint(int) == 1
        with pytest.raises(bide.SerializationError, match="the state of a checkpoint"):
            handle.last_checkpoint(str)
        if handle.attempt == 1:
            raise OSError

    within(runner, work, retry=bide.Retry(attempts=2, delay=0.0))
    assert calls == [1]
