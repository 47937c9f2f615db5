"""What a body finds in its journal on re-entry if the world or its own code has changed meanwhile.

A record is reused only if it is provably the same wait; see docs/waiting.md, "Re-entry".
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import Child, eventually, killed, ledger, ran

PATIENCE = 30.0

# -------------------------------------------------------------------------------- a job that is submitted before a wait

JOBS = """
from functools import partial

def submit():
    job = 1 + sum(line.startswith("submit") for line in (ledger.read_text().splitlines() if ledger.exists() else []))
    note("submit", job)
    return job

def done(job):
    note("ask", job)
    say("ask", job)
    return Path(db).with_suffix(f".job{job}").exists()

class Job:
    def __init__(self, number):
        self.number = number
    def done(self):
        return done(self.number)
    def __reduce__(self):
        return Job, (self.number,)

def by_function(job):
    def satisfied():
        return done(job)
    return satisfied

current = None
def by_global(job):
    global current
    current = job
    return lambda: done(current)

FORMS = {
    "a closure": lambda job: lambda: done(job),
    "a nested closure": lambda job: lambda: (lambda: done(job))(),
    "a function": by_function,
    "a default": lambda job: lambda job=job: done(job),
    "a partial": lambda job: partial(done, job),
    "a partial by keyword": lambda job: partial(done, job=job),
    "a method": lambda job: Job(job).done,
    "a global": by_global,
}

form, how, stage = words

def at(here):
    say("at", here)
    if stage == here:
        stay()

@bide.task
def train(handle: bide.TaskHandle) -> int:
    job = handle.step(submit) if how == "step" else submit()
    at("submitted")
    handle.defer_until(FORMS[form](job), poll_interval_ms=5, name="trained")
    at("trained")
    return job

with bide.Runner(db) as runner:
    say("result", runner.run(bide.Workflow("w", [train]), key="k")["train"])
"""
FORMS = [
    "a closure",
    "a nested closure",
    "a function",
    "a default",
    "a partial",
    "a partial by keyword",
    "a method",
    "a global",
]


@pytest.mark.parametrize("form", FORMS)
def test_a_body_waits_for_the_job_that_it_has_now(file: Path, form: str) -> None:
    file.with_suffix(".job1").touch()
    killed(JOBS, file, form, "plain", "trained", at="at trained")
    with Child(JOBS, file, form, "plain", "nowhere") as child:
        # The record says that job 1 is done. The body has job 2, which is not done.
        child.expect("ask 2").expect("ask 2")
        file.with_suffix(".job2").touch()
        child.expect("result 2")
        child.join()
    assert [line for line in ledger(file) if line.startswith("submit")] == ["submit 1", "submit 2"]


@pytest.mark.parametrize("form", FORMS)
def test_a_job_submitted_in_a_step_is_submitted_and_awaited_once(file: Path, form: str) -> None:
    killed(JOBS, file, form, "step", "submitted", at="at submitted")
    killed(JOBS, file, form, "step", "trained", at="ask 1")
    file.with_suffix(".job1").touch()
    killed(JOBS, file, form, "step", "trained", at="at trained")
    asked = ledger(file)
    said = ran(JOBS, file, form, "step", "nowhere")
    assert said[-1] == "result 1"
    assert [line for line in ledger(file) if line.startswith("submit")] == ["submit 1"]
    if form != "a method":  # an object that only pickle could store is not compared
        assert ledger(file) == asked


# --------------------------------------------------------------------------------------------- another body than before

asked: list[str] = []
answers: dict[str, Any] = {}


def ask(what: str) -> Any:
    asked.append(what)
    return answers.get(what)


def do(what: str) -> str:
    asked.append(what)
    return what


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    asked.clear()
    answers.clear()
    yield
    asked.clear()
    answers.clear()


Body = Callable[[bide.TaskHandle], Any]


def workflow_of(body: Body) -> bide.Workflow:
    return bide.Workflow("w", [bide.task(body, name="work")])


def entered(file: Path, body: Body, until: str = "hold") -> None:
    """Enter a body, and kill the process when it waits for this."""
    with bide.Runner(file) as runner:
        runner.submit(workflow_of(body), key="k")
        eventually(lambda: until in asked, f"the body waits for {until}")
        eventually(lambda: runner.get("k").tasks["work"].sub_status is bide.SubStatus.Deferred, "the body waits")
    asked.clear()


def hold(handle: bide.TaskHandle) -> None:
    handle.defer_until(lambda: ask("hold"), 1, name="hold")


def entered_again(file: Path, body: Body) -> list[str]:
    """Enter another body for the same run; return what it asked and did, without "hold"."""
    answers["hold"] = True
    with bide.Runner(file) as runner:
        assert runner.run(workflow_of(body), key="k", timeout=PATIENCE).tasks["work"].attempts == 1
    return [what for what in asked if what != "hold"]


def waits(*names: str) -> Body:
    """Waits in this order. A condition is asked by its name until it has an answer."""

    def work(handle: bide.TaskHandle) -> None:
        for name in names:
            if name == "a":
                handle.defer_until(lambda: ask("a"), 1, name="wait a")
            elif name == "b":
                handle.defer_until(lambda: ask("b"), 1, name="wait b")
            elif name == "added":
                handle.defer_until(lambda: ask("added"), 1, name="wait added")
            else:
                hold(handle)

    return work


def test_waits_that_are_reordered_are_found_by_their_names(file: Path) -> None:
    answers.update(a=True, b=True)
    entered(file, waits("a", "b", "hold"))
    answers.clear()
    assert entered_again(file, waits("b", "a", "hold")) == []


def test_of_reordered_waits_only_the_open_one_is_asked(file: Path) -> None:
    answers.update(a=True)
    entered(file, waits("a", "b", "hold"), until="b")
    answers.update(a=False, b=True)
    assert entered_again(file, waits("b", "a")) == ["b"]


def test_a_wait_that_is_renamed_is_another_wait(file: Path) -> None:
    answers.update(a=True)

    def named(name: str) -> Body:
        def work(handle: bide.TaskHandle) -> None:
            handle.defer_until(lambda: ask("a"), 1, name=name)
            hold(handle)

        return work

    entered(file, named("old"))
    assert entered_again(file, named("new")) == ["a"]


def test_a_wait_that_is_added_is_asked_and_the_others_are_not(file: Path) -> None:
    answers.update(a=True, b=True, added=True)

    entered(file, waits("a", "b", "hold"))
    assert entered_again(file, waits("added", "a", "b", "hold")) == ["added"]


def test_a_lambda_that_is_added_before_another_is_not_taken_for_it(file: Path) -> None:
    answers.update(a=True)

    def body(*, added: bool) -> Body:
        def work(handle: bide.TaskHandle) -> None:
            if added:
                handle.defer_until(lambda: ask("added"), 1)
            handle.defer_until(lambda: ask("a"), 1)
            hold(handle)

        return work

    entered(file, body(added=False))
    answers["added"] = True
    # Both have the recorded name, and the first one its number, but the record is of the other wait.
    assert entered_again(file, body(added=True)) == ["added", "a"]


def test_a_wait_that_is_removed_while_it_is_open_is_not_waited_for(file: Path) -> None:
    entered(file, waits("a"), until="a")
    assert entered_again(file, waits("hold")) == []


@pytest.mark.parametrize("changed", ["captured", "code", "global"])
def test_a_changed_satisfied_condition_gets_one_new_deadline(
    file: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = 1.0

    def body(limit: int, *, other: bool = False) -> Body:
        def work(handle: bide.TaskHandle) -> str:
            if other:
                condition = lambda: ask("again") and limit  # noqa: E731
            elif changed == "global":
                condition = lambda: ask("again" if LIMIT > 1 else "once")  # noqa: E731
            else:
                condition = lambda: ask("again" if limit > 1 else "once")  # noqa: E731
            try:
                handle.defer_until(condition, 1, timeout=timeout, name="wait")
            except bide.WaitTimeout:
                ended.append(time.time())
                return "timed out"
            hold(handle)
            return "satisfied"

        return work

    ended: list[float] = []
    answers["once"] = True
    entered(file, body(1))
    recorded = deadline(file)
    if changed == "global":
        monkeypatch.setitem(globals(), "LIMIT", 2)
    answers["hold"] = True
    second = body(2 if changed == "captured" else 1, other=changed == "code")
    with bide.Runner(file) as runner:
        runner.submit(workflow_of(second), key="k")
        eventually(lambda: "again" in asked, "it is asked again")
        eventually(lambda: runner.get("k").tasks["work"].sub_status is bide.SubStatus.Deferred, "the body waits")
    renewed = deadline(file)
    assert renewed > recorded, "the first deadline belonged to a wait that is over"
    with bide.Runner(file) as runner:
        assert runner.run(workflow_of(second), key="k", timeout=PATIENCE)["work"] == "timed out"
    assert set(asked) == {"again"}
    # Not `timeout` after the third entry.
    assert deadline(file) == renewed
    assert ended[0] * 1e6 >= renewed


def deadline(file: Path) -> int:
    """Return the recorded deadline of the wait."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        ((recorded,),) = database.execute("SELECT deadline FROM journal WHERE name = 'wait'").fetchall()
    assert isinstance(recorded, int)
    return recorded


LIMIT = 1


def test_steps_are_found_by_their_names_wherever_they_stand(file: Path) -> None:
    def before(handle: bide.TaskHandle) -> None:
        for name in ("pay", "ship"):
            handle.step(do, name, name=name)
        hold(handle)

    def after(handle: bide.TaskHandle) -> None:
        for name in ("ship", "insure", "pay"):
            assert handle.step(do, name, name=name) == name
        hold(handle)

    entered(file, before)
    assert entered_again(file, after) == ["insure"]


@pytest.mark.parametrize("change", ["other arguments", "a wait instead"])
def test_a_step_that_differs_from_its_record_pauses_the_run(file: Path, change: str) -> None:
    def right(handle: bide.TaskHandle) -> str:
        receipt = handle.step(do, "100 euros", name="pay")
        hold(handle)
        return receipt

    def wrong(handle: bide.TaskHandle) -> str:
        if change == "a wait instead":
            handle.defer_until(lambda: ask("pay"), 1, name="pay")
        else:
            handle.step(do, "200 euros", name="pay")
        return "not reached"

    entered(file, right)
    answers["hold"] = True
    with bide.Runner(file) as runner:
        with pytest.raises(bide.ReplayMismatch, match="pay"):
            runner.run(workflow_of(wrong), key="k", timeout=PATIENCE)
        assert runner.get("k").status is bide.RunStatus.Paused
        assert "pay" in (runner.get("k").blocked_by or "")
    assert asked == []


# ----------------------------------------------------------------------------------------- another workflow than before


def chain(*names: str) -> bide.Workflow:
    """Tasks in a chain; the last task of the first version waits."""

    def make(name: str, above: str | None) -> Any:
        def work(handle: bide.TaskHandle) -> str:
            handle.step(do, name, name="step")
            if name == "b":
                hold(handle)
            return name

        return bide.task(work, name=name, depends_on=[above] if above else [])

    return bide.Workflow("chain", [make(name, above) for name, above in zip(names, (None, *names), strict=False)])


def left_in_b(file: Path) -> None:
    with bide.Runner(file) as runner:
        runner.submit(chain("a", "b"), key="k")
        eventually(lambda: "hold" in asked, "the body waits")
    asked.clear()


def test_a_version_with_an_added_task_continues_from_the_old_journal(file: Path) -> None:
    left_in_b(file)
    answers["hold"] = True
    with bide.Runner(file) as runner:
        result = runner.run(chain("a", "b", "c"), key="k", timeout=PATIENCE)
        assert result.outputs == {"a": "a", "b": "b", "c": "c"}
    assert [what for what in asked if what != "hold"] == ["c"]


@pytest.mark.parametrize("other", [("a",), ("b",), ("a", "between", "b"), ("b", "a")])
def test_a_version_without_a_task_or_dependency_does_not_claim_the_run(file: Path, other: tuple[str, ...]) -> None:
    left_in_b(file)
    answers["hold"] = True
    with bide.Runner(file, workflows=[chain(*other)]) as runner:
        with pytest.raises(bide.BideError, match="is not registered here"):
            runner.run(chain(*other), key="k", timeout=PATIENCE)
        assert "is not registered here (have v" in (runner.get("k").blocked_by or "")
    assert asked == []
    with bide.Runner(file) as runner:
        assert runner.run(chain("a", "b"), key="k", timeout=PATIENCE).outputs == {"a": "a", "b": "b"}
    assert [what for what in asked if what != "hold"] == []


def test_two_versions_in_one_process_execute_each_its_own_runs(file: Path) -> None:
    left_in_b(file)
    with bide.Runner(file) as old, bide.Runner(file) as new:
        new.register(chain("b", "a"))
        old.register(chain("a", "b"))
        mine = new.submit(chain("b", "a"), key="new")
        answers["hold"] = True
        assert mine.result(PATIENCE).outputs == {"a": "a", "b": "b"}
        assert old.run(chain("a", "b"), key="k", timeout=PATIENCE).outputs == {"a": "a", "b": "b"}
