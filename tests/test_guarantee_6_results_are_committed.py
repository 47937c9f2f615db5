"""Guarantee 6: a result is reported only after it is committed.

No write error is swallowed: the run fails with it, or the runner stops with it.
"""

import threading
from pathlib import Path

import pytest

import bide
from processes import ran


def test_a_reported_result_is_stored_even_if_its_process_dies_at_once(file: Path) -> None:
    script = """
    @bide.task
    def work(n: int) -> int:
        return n * n

    runner = bide.Runner(db)
    workflow = bide.Workflow("w", [work])
    for n in range(50):
        runner.run(workflow, {"n": n}, key=str(n))
    die()
    """
    ran(script, file, code=-9)
    with bide.Runner(file) as reader:
        assert [reader.get(str(n))["work"] for n in range(50)] == [n * n for n in range(50)]


def test_a_submitted_run_is_stored_even_if_its_process_dies_at_once(file: Path) -> None:
    script = """
    @bide.task
    def work(n: int) -> int:
        return n

    runner = bide.Runner(db)
    for handle in runner.submit_many(bide.Workflow("w", [work]), [{"n": n} for n in range(20)]):
        say(handle.id)
    die()
    """
    ids = ran(script, file, code=-9)
    with bide.Runner(file) as reader:
        assert sorted(run.id for run in reader.runs()) == sorted(ids)


def test_a_step_that_returned_is_in_the_store(file: Path) -> None:
    script = """
    @bide.task
    def work(handle: bide.TaskHandle) -> str:
        def charge() -> str:
            note("charge")
            return "paid"
        got = handle.step(charge)
        if words:
            die()
        return got

    say(bide.Runner(db).run(bide.Workflow("w", [work]), key="k")["work"])
    """
    ran(script, file, "die", code=-9)
    assert ran(script, file) == ["paid"]
    assert file.with_suffix(".ledger").read_text() == "charge\n"


FULL = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def fill():
    size = Path(db).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

@bide.task
def first() -> str:
    return "kept"

@bide.task
def second(first: str) -> str:
    if words:
        fill()
        return "x" * 10_000_000
    return first + "!"
"""


def test_a_failed_write_reaches_the_caller_and_earlier_writes_stay(file: Path) -> None:
    script = (
        FULL
        + """
runner = bide.Runner(db)
workflow = bide.Workflow("w", [first, second])
try:
    runner.run(workflow, key="k", timeout=20)
except bide.BideError as error:
    say(type(error).__name__)
else:
    say("nothing was raised")
if words:
    try:
        runner.run(workflow, key="other", timeout=20)
    except bide.BideError as error:
        say(type(error).__name__)
    os._exit(0)
"""
    )
    assert ran(script, file, "fill") == ["StoreError", "StoreError"]
    with bide.Runner(file) as reader:
        run = reader.get("k")
        assert run["first"] == "kept"
        assert run.status is bide.RunStatus.Running
    script = FULL + "say(bide.Runner(db).run(bide.Workflow('w', [first, second]), key='k')['second'])"
    assert ran(script, file) == ["kept!"]


def test_a_return_value_that_cannot_be_stored_fails_its_task(runner: bide.Runner) -> None:
    @bide.task
    def work() -> object:
        return threading.Lock()

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [work]))
    assert isinstance(failed.value.__cause__, bide.SerializationError)
    assert "'work'" in str(failed.value.__cause__)


def test_full_durability_is_an_ordinary_runner(file: Path) -> None:
    @bide.task
    def work() -> int:
        return 1

    with bide.Runner(file, durability="full") as runner:
        assert runner.run(bide.Workflow("w", [work]))["work"] == 1
