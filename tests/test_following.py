"""A caller follows its run to another process that claims it, and to its end if no runner has it any more.

For a runner that was stopped beyond its lease see test_stopped_runners.py.
"""

from pathlib import Path

import pytest

import bide
from processes import Child, eventually, killed, ledger, ran

SHARED = """
flag = Path(db).with_suffix(".flag")

@bide.task
def work(handle: bide.TaskHandle) -> int:
    note("enter", os.getpid())
    say("in work")
    handle.defer_until(flag.exists, poll_interval_ms=10)
    return os.getpid()

workflow = bide.Workflow("w", [work])
with bide.Runner(db) as runner:
    handle = runner.submit(workflow, key="k")
    say("submitted")
    say("result", handle.result()["work"])
"""


def test_callers_in_other_processes_follow_the_run_of_one_that_is_killed(file: Path) -> None:
    with Child(SHARED, file) as first:
        first.expect("in work")
        with Child(SHARED, file) as second, Child(SHARED, file) as third:
            second.expect("submitted")
            third.expect("submitted")
            first.kill()
            eventually(lambda: len(ledger(file)) == 2, "one of the others has taken the run over")
            file.with_suffix(".flag").touch()
            by = {int(child.after("result")) for child in (second, third)}
            assert by <= {second.pid, third.pid}
            assert len(by) == 1
            second.join()
            third.join()
    assert ledger(file) == [f"enter {first.pid}", f"enter {by.pop()}"]


ONE = """
@bide.task
def one() -> int:
    return 1

with bide.Runner(db) as runner:
    print(runner.run(bide.Workflow("w", [one]), key="k").id)
"""


@bide.task
def one() -> int:
    return 1


workflow = bide.Workflow("w", [one])


def test_a_caller_of_a_deleted_run_gets_an_error(file: Path) -> None:
    (run,) = ran(ONE, file)
    with bide.Runner(file) as runner, bide.Runner(file) as other:
        handle = runner.submit(workflow, key="k")
        assert handle.id == run
        other.delete(run)
        with pytest.raises(bide.BideError, match=f"run {run} is not in the store any more: it was deleted"):
            handle.result(20)
        with pytest.raises(bide.BideError, match=f"run {run} is not in the store any more: it was deleted"):
            handle.status()
        with pytest.raises(KeyError, match=run):
            runner.get(run)
        again = runner.submit(workflow, key="k")  # the key is free
        assert again.id != run
        assert again.result(20)["one"] == 1


def test_a_waiting_caller_gets_an_error_if_its_run_is_deleted_elsewhere(file: Path) -> None:
    with Child(SHARED, file) as child:
        child.expect("in work")

        @bide.task
        def work(handle: bide.TaskHandle) -> int:
            raise AssertionError(handle)

        with bide.Runner(file) as runner:
            handle = runner.submit(bide.Workflow("w", [work]), key="k")
            with pytest.raises(bide.BideError, match="has not ended"):
                runner.delete("k")
            file.with_suffix(".flag").touch()
            child.join()
            runner.delete("k")  # the handle may have seen the end before the deletion, or not
            with pytest.raises(bide.BideError, match=f"run {handle.id} is not in the store any more: it was deleted"):
                handle.result(20)


def test_a_handle_keeps_the_result_of_a_deleted_run_that_ended_here(store: str) -> None:
    with bide.Runner(store) as runner:
        handle = runner.submit(workflow, key="k")
        handle.result(20)
        runner.delete("k")
        assert handle.result(20)["one"] == 1


def test_a_caller_can_ask_again_after_no_runner_here_claimed_its_run(file: Path) -> None:
    killed(SHARED, file, at="in work")

    @bide.task
    def renamed() -> int:
        return 1

    with bide.Runner(file) as runner:
        handle = runner.submit(bide.Workflow("w", [renamed]), key="k")
        with pytest.raises(bide.BideError, match="no runner continues the run"):
            handle.result(20)
        file.with_suffix(".flag").touch()
        with Child(SHARED, file) as child:
            by = child.after("result")
            child.join()
        assert handle.result(20).outputs == {"work": int(by)}
