"""Guarantee 1: bodies run at least once; a committed output or step never runs again, unless `fresh=True` asks."""

from pathlib import Path

import pytest

import bide
from processes import Child, killed, ledger, ran

CHAIN = """
last = words[0]

def body(name):
    note(name)
    if name == last:
        say("in", name)
        stay()
    return name

@bide.task
def a() -> str:
    return body("a")

@bide.task
def b(a: str) -> str:
    return a + body("b")

@bide.task
def c(b: str) -> str:
    return b + body("c")

with bide.Runner(db) as runner:
    say(runner.run(bide.Workflow("chain", [a, b, c]), key="k")["c"])
"""


def test_a_body_that_a_crash_interrupts_runs_again(file: Path) -> None:
    killed(CHAIN, file, "a", at="in a")
    assert ran(CHAIN, file, "nowhere") == ["abc"]
    assert ledger(file) == ["a", "a", "b", "c"]


def test_committed_outputs_are_not_made_again_after_any_number_of_deaths(file: Path) -> None:
    for name in "abc":
        killed(CHAIN, file, name, at=f"in {name}")
    assert ran(CHAIN, file, "nowhere") == ["abc"]
    assert ledger(file) == ["a", "a", "b", "b", "c", "c"]


def test_a_finished_run_is_not_run_again_by_its_key(file: Path) -> None:
    for _ in range(2):
        assert ran(CHAIN, file, "nowhere") == ["abc"]
    assert ledger(file) == ["a", "b", "c"]


def test_a_failure_that_is_committed_stands(file: Path) -> None:
    script = """
    @bide.task
    def fails():
        note("fails")
        raise ValueError("no such customer")

    with bide.Runner(db) as runner:
        try:
            runner.run(bide.Workflow("w", [fails]), key="k")
        except bide.RunFailed as failed:
            say(type(failed.__cause__).__name__, failed.__cause__)
    """
    assert ran(script, file) == ["ValueError no such customer"]
    assert ran(script, file) == ["TaskFailed task 'fails': ValueError: no such customer"]
    assert ledger(file) == ["fails"]


STEPS = """
@bide.task
def work(handle: bide.TaskHandle) -> list[int]:
    def charge(n: int) -> int:
        note("step", n)
        return n * 10

    got = []
    for n in range(3):
        got.append(handle.step(charge, n))
        note("after", n)
        if str(n) in words:
            say("after", n)
            stay()
    return got

with bide.Runner(db) as runner:
    say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
"""


def test_a_step_that_is_committed_is_not_done_again(file: Path) -> None:
    killed(STEPS, file, "0", at="after 0")
    killed(STEPS, file, "1", at="after 1")
    assert ran(STEPS, file) == ["[0, 10, 20]"]
    assert [line for line in ledger(file) if line.startswith("step")] == ["step 0", "step 1", "step 2"]
    assert [line for line in ledger(file) if line.startswith("after")] == [
        "after 0",
        *("after 0", "after 1"),
        *("after 0", "after 1", "after 2"),
    ]


def test_a_step_that_raised_raises_the_same_again(file: Path) -> None:
    script = """
    @bide.task
    def work(handle: bide.TaskHandle) -> str:
        def charge() -> int:
            note("charge")
            raise KeyError("card")
        try:
            handle.step(charge)
        except KeyError as error:
            caught = repr(error)
        say("caught", caught)
        if "stay" in words:
            stay()
        return caught

    with bide.Runner(db) as runner:
        say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
    """
    killed(script, file, "stay", at="caught KeyError('card')")
    assert ran(script, file) == ["caught KeyError('card')", "KeyError('card')"]
    assert ledger(file) == ["charge"]


@pytest.mark.parametrize("fresh", [False, True])
def test_only_a_fresh_retry_does_a_committed_step_again(runner: bide.Runner, fresh: bool) -> None:
    charged: list[int] = []

    @bide.task(retry=bide.Retry(attempts=2, delay=0, fresh=fresh))
    def work(handle: bide.TaskHandle) -> int:
        def charge() -> int:
            charged.append(handle.attempt)
            return handle.attempt

        value = handle.step(charge)
        if handle.attempt == 1:
            raise ValueError("try again")
        return value

    result = runner.run(bide.Workflow("w", [work]))
    assert charged == ([1, 2] if fresh else [1])
    assert result["work"] == (2 if fresh else 1)


def test_two_processes_with_one_key_run_the_bodies_once(file: Path) -> None:
    with Child(CHAIN, file, "b") as first:
        first.expect("in b")
        with Child(CHAIN, file, "nowhere") as second:
            first.kill()
            assert second.join() == ["abc"]
    assert ledger(file)[0] == "a"
    assert ledger(file).count("a") == 1
