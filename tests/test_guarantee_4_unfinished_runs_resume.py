"""Guarantee 4: on restart, unfinished runs of registered workflows resume by themselves.

A dead runner's runs are claimed at once; a run whose workflow is not registered here is left alone and says why.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import bide
from processes import Child, eventually, killed, ledger, ran

FLOW = """
@bide.task
def work(number: int) -> int:
    note("enter")
    say("in work", time.time())
    if "stay" in words:
        stay()
    return number + 1

workflow = bide.Workflow("ingest", [work])
"""
SUBMITS = FLOW + "bide.Runner(db).run(workflow, {'number': 41}, key='k')\n"
SERVES = FLOW + "say('serving')\nbide.Runner(db, workflows=[workflow]).serve()\n"


def finished(file: Path) -> bide.RunResult:
    with bide.Runner(file) as reader:
        eventually(lambda: reader.get("k").status is bide.RunStatus.Completed, "the run has completed")
        return reader.get("k")


def test_a_run_resumes_as_soon_as_its_workflow_is_registered_again(file: Path) -> None:
    with Child(SUBMITS, file, "stay") as child:
        assert child.next().startswith("in work")
        child.kill()
    with Child(SERVES, file):  # no caller asks for the run
        assert finished(file)["work"] == 42
    assert ledger(file) == ["enter", "enter"]


EXPIRES = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as file:
    print(file.execute("SELECT expires FROM runner WHERE pid = ?", [sys.argv[2]]).fetchone()[0] / 1e6)
"""


def expires(file: Path, pid: int) -> float:
    """Return the end of a process's lease, read by a process that does nothing else with the file."""
    asked = subprocess.run([sys.executable, "-c", EXPIRES, file, str(pid)], check=True, capture_output=True, text=True)
    return float(asked.stdout)


def test_a_live_runner_claims_a_dead_runners_run_at_once(file: Path) -> None:
    with Child(SUBMITS, file, "stay") as first:
        assert first.next().startswith("in work")
        with Child(SERVES, file) as second:
            second.expect("serving")
            eventually(lambda: len(waiting(file)) == 1, "the second runner is there")
            until = expires(file, first.pid)
            first.kill()
            assert (
                float(second.after("in work")) < until
            )  # it did not wait for the lease; `make bench-take-over` measures the time
            assert finished(file)["work"] == 42


def waiting(file: Path) -> list[bide.RunResult]:
    with bide.Runner(file) as reader:
        return reader.runs(status="Running")


def test_a_run_of_a_process_that_ends_at_once_is_claimed_by_another(file: Path) -> None:
    script = FLOW + "bide.Runner(db).submit(workflow, {'number': 1}, key='k')\nos._exit(0)\n"
    with Child(SERVES, file) as server:
        server.expect("serving")
        ran(script, file)
        assert finished(file)["work"] == 2


def test_a_caller_with_the_key_gets_the_result_of_another_process(file: Path) -> None:
    with Child(SERVES, file) as server:
        server.expect("serving")
        said = ran(FLOW + "say(bide.Runner(db).run(workflow, {'number': 1}, key='k')['work'])", file)
        assert said[-1] == "2"
        assert ran(FLOW + "say(bide.Runner(db).run(workflow, {'number': 1}, key='k')['work'])", file) == ["2"]
    assert ledger(file) == ["enter"]


def test_a_caller_waits_for_a_run_that_another_process_executes(file: Path) -> None:
    script = """
    flag = Path(db).with_suffix(".flag")

    @bide.task
    def work(handle: bide.TaskHandle) -> int:
        note("enter")
        say("in work")
        handle.defer_until(flag.exists, poll_interval_ms=10)
        return os.getpid()

    handle = bide.Runner(db).submit(bide.Workflow("w", [work]), key="k")
    say("submitted")
    say(handle.result()["work"])
    """
    with Child(script, file) as first, Child(script, file) as second:
        first.expect("submitted")
        second.expect("submitted")
        file.with_suffix(".flag").touch()
        pids = {first.join()[-1], second.join()[-1]}
    assert len(pids) == 1
    assert ledger(file) == ["enter"]


OTHER = """
@bide.task
def work(number: int) -> int:
    return number

@bide.task
def more(work: int) -> int:
    return -work

@bide.task
def other() -> None: ...
"""


def test_a_run_whose_workflow_is_not_here_says_so_and_is_left_alone(file: Path) -> None:
    with Child(SUBMITS, file, "stay") as child:
        child.next()
        child.kill()
    with bide.Runner(file) as reader:
        run = reader.get("k")
        assert run.blocked_by is not None
        assert run.blocked_by.startswith("ingest v")
        assert run.blocked_by.endswith(" is not registered here")
        assert [one.id for one in reader.runs(workflow="ingest")] == [run.id]
        assert run.status is bide.RunStatus.Running
    assert ledger(file) == ["enter"]


def test_a_run_of_another_version_says_which_is_here(file: Path) -> None:
    with Child(SUBMITS, file, "stay") as child:
        child.next()
        child.kill()

    @bide.task
    def renamed(number: int) -> int:
        return number

    other = bide.Workflow("ingest", [renamed])
    with bide.Runner(file, workflows=[other]) as runner:
        run = runner.get("k")
        assert run.blocked_by is not None
        assert f" is not registered here (have v{other.version[:4]}): it has no task 'work'" in run.blocked_by
        with pytest.raises(bide.BideError, match="is not registered here"):
            runner.run(other, {"number": 41}, key="k", timeout=20)
        assert runner.get("k").status is bide.RunStatus.Running
    with Child(SERVES, file):  # the right version still can
        assert finished(file)["work"] == 42


def test_tasks_that_a_new_version_has_added_simply_run(file: Path) -> None:
    with Child(SUBMITS, file, "stay") as child:
        child.next()
        child.kill()
    script = (
        OTHER
        + "say(bide.Runner(db).run(bide.Workflow('ingest', [work, more, other]), {'number': 41}, key='k')['more'])"
    )
    assert ran(script, file) == ["-41"]


def test_a_run_whose_task_has_other_dependencies_now_is_left_alone(file: Path) -> None:
    killed(
        """
        @bide.task
        def a() -> int:
            return 1

        @bide.task
        def b(a: int) -> int:
            say("in b")
            stay()

        bide.Runner(db).run(bide.Workflow("ingest", [a, b]), key="k")
        """,
        file,
        at="in b",
    )

    @bide.task
    def a() -> int:
        return 1

    @bide.task
    def b() -> int:
        return 2

    with bide.Runner(file, workflows=[bide.Workflow("ingest", [a, b])]) as runner:
        assert "is not registered here (have v" in (runner.get("k").blocked_by or "")


def test_a_run_that_always_kills_its_process_is_paused_and_names_the_task(file: Path) -> None:
    script = """
    @bide.task
    def deadly() -> None:
        note("enter")
        die()

    with bide.Runner(db) as runner:
        runner.run(bide.Workflow("w", [deadly]), key="k")
    """
    for _ in range(6):
        ran(script, file, code=-9)
    with Child(script, file) as child:
        child.join(code=1)
        assert "BideError" in child.errors
        assert "'deadly'" in child.errors
    assert len(ledger(file)) == 6
    with bide.Runner(file) as reader:
        assert reader.get("k").status is bide.RunStatus.Paused
        assert "'deadly'" in (reader.get("k").blocked_by or "")


def test_a_run_that_merely_waits_survives_any_number_of_deaths(file: Path) -> None:
    script = """
    flag = Path(db).with_suffix(".flag")

    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        handle.defer_until(flag.exists, poll_interval_ms=10)
        return "done"

    @bide.task
    def neighbour() -> None: ...

    workflow = bide.Workflow("w", [waits, neighbour])
    with bide.Runner(db) as runner:
        handle = runner.submit(workflow, key="k")
        while handle._snapshot().tasks["waits"].sub_status is not bide.SubStatus.Deferred and not flag.exists():
            time.sleep(0.002)
        say("waits")
        say(handle.result()["waits"])
    """
    for _ in range(8):
        killed(script, file, at="waits")
    file.with_suffix(".flag").touch()
    assert ran(script, file)[-1] == "done"
