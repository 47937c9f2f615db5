"""What a body finds in its journal after a crash if its code or its requests have changed."""

from pathlib import Path

import pytest

import bide
from processes import killed, ledger, ran


def test_a_wait_for_a_resubmitted_job_waits_for_the_new_job(file: Path) -> None:
    script = """
    done = Path(db).with_suffix(".done")

    def submit() -> int:
        note("submit")
        return len(ledger.read_text().splitlines())

    def is_done(job: int) -> bool:
        note("asked", job)
        return done.exists() and str(job) in done.read_text().split()

    @bide.task
    def work(handle: bide.TaskHandle) -> int:
        job = submit() if "plain" in words else handle.step(submit)
        handle.defer_until(lambda: is_done(job), poll_interval_ms=10)
        say("past the wait")
        if "stay" in words:
            stay()
        return job

    with bide.Runner(db) as runner:
        say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
    """
    # Without a step it submits a new job and must wait for it; the satisfied wait was for another job.
    done = file.with_suffix(".done")
    done.write_text("1 ")
    killed(script, file, "plain", "stay", at="past the wait")
    assert ledger(file) == ["submit", "asked 1"]
    done.write_text("1 3")
    assert ran(script, file, "plain")[-1] == "3"
    assert ledger(file)[2] == "submit"
    assert set(ledger(file)[3:]) == {"asked 3"}
    # With a step it submits one job, and does not repeat the wait for it.
    for path in file.parent.iterdir():
        path.unlink()
    done.write_text("1")
    killed(script, file, "stay", at="past the wait")
    assert ran(script, file)[-1] == "1"
    assert ledger(file) == ["submit", "asked 1"]


CHANGED = """
version, stop = words[0], "stay" in words

def asked(name, value="yes"):
    note("asked", name)
    return value

def one():
    return asked("one")

def two():
    return asked("two")

def first(handle):
    limit = 1
    handle.defer_until(lambda: asked("captured") and limit, name="captured")
    handle.defer_until(one)
    handle.defer_until(two)

def reordered(handle):
    handle.defer_until(two)
    handle.defer_until(one)
    limit = 1
    handle.defer_until(lambda: asked("captured") and limit, name="captured")

def other_capture(handle):
    limit = 2
    handle.defer_until(lambda: asked("captured") and limit, name="captured")
    handle.defer_until(one)
    handle.defer_until(two)

def renamed(handle):
    limit = 1
    handle.defer_until(lambda: asked("captured") and limit, name="other name")
    handle.defer_until(one)

def added(handle):
    handle.defer_until(lambda: asked("added"), name="added")
    first(handle)

def removed(handle):
    handle.defer_until(two)

@bide.task
def work(handle: bide.TaskHandle) -> str:
    globals()[version](handle)
    if stop:
        say("past")
        stay()
    return "done"

with bide.Runner(db) as runner:
    say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
"""


@pytest.mark.parametrize(
    ("version", "asked_again"),
    [
        ("first", []),
        ("other_capture", ["asked captured"]),
        ("renamed", ["asked captured"]),
        ("added", ["asked added"]),
        ("removed", []),
    ],
)
def test_changed_code_asks_only_waits_again_that_are_not_provably_the_same(
    file: Path, version: str, asked_again: list[str]
) -> None:
    killed(CHANGED, file, "first", "stay", at="past")
    assert ledger(file) == ["asked captured", "asked one", "asked two"]
    assert ran(CHANGED, file, version)[-1] == "done"
    assert ledger(file)[3:] == asked_again


def test_reordered_waits_are_found_by_their_names(file: Path) -> None:
    killed(CHANGED, file, "first", "stay", at="past")
    assert ran(CHANGED, file, "reordered")[-1] == "done"
    assert [line for line in ledger(file)[3:] if line != "asked captured"] == []


MISMATCH = """
@bide.task
def work(handle: bide.TaskHandle) -> str:
    def charge(amount: int) -> str:
        note("charge", amount)
        return f"charged {amount}"
    got = handle.step(charge, int(words[0]))
    say("past")
    if "stay" in words:
        stay()
    return got

with bide.Runner(db) as runner:
    try:
        say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
    except bide.ReplayMismatch as error:
        say(type(error).__name__, error)
        say(runner.get("k").status, runner.get("k").blocked_by)
"""


def test_a_step_with_other_arguments_pauses_the_run_and_the_caller_knows(file: Path) -> None:
    killed(MISMATCH, file, "1", "stay", at="past")
    raised, paused = ran(MISMATCH, file, "2")
    assert raised.startswith("ReplayMismatch ")
    assert paused.startswith("Paused ")
    for said in (raised, paused):
        assert "'work'" in said
        assert "charge" in said
    assert ledger(file) == ["charge 1"]
    # It stays paused, even for matching code, until it is resumed.
    assert ran(MISMATCH, file, "1")[0].startswith("ReplayMismatch ")
    with bide.Runner(file) as reader:
        assert reader.get("k").status is bide.RunStatus.Paused
        assert [run.key for run in reader.runs(status=bide.RunStatus.Paused)] == ["k"]


def test_a_wait_under_the_name_of_a_step_is_a_mismatch(file: Path) -> None:
    script = """
    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        if words[0] == "step":
            handle.step(str, "x", name="it")
        else:
            handle.sleep(0.01, name="it")
        say("past")
        if "stay" in words:
            stay()

    with bide.Runner(db) as runner:
        try:
            runner.run(bide.Workflow("w", [work]), key="k")
        except bide.BideError as error:
            say(type(error).__name__)
    """
    killed(script, file, "step", "stay", at="past")
    assert ran(script, file, "sleep") == ["ReplayMismatch"]


def test_a_loop_of_same_named_entries_is_replayed_in_order(file: Path) -> None:
    script = """
    @bide.task
    def work(handle: bide.TaskHandle) -> list[int]:
        def draw(n: int) -> int:
            note("draw", n)
            return n * n
        got = []
        for n in range(4):
            got.append(handle.step(draw, n))
            handle.sleep(0.001)
            handle.defer_until(lambda: n + 1)
            if n == 2 and "stay" in words:
                say("in round 2")
                stay()
        return got

    with bide.Runner(db) as runner:
        say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
    """
    killed(script, file, "stay", at="in round 2")
    assert ran(script, file) == ["[0, 1, 4, 9]"]
    assert ledger(file) == ["draw 0", "draw 1", "draw 2", "draw 3"]
