"""Guarantee 7: `close()`, and interpreter exit without it, is prompt and safe.

Everything left can be claimed again.
"""

import signal
import threading
import time
from pathlib import Path

import pytest

import bide
from processes import Child, ledger, ran


def waiting_workflow(flag: threading.Event, log: list[str]) -> bide.Workflow:
    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        log.append("enter")
        try:
            handle.defer_until(flag.is_set, poll_interval_ms=5)
        finally:
            log.append("suspended" if handle.suspending else "left")
        return "done"

    return bide.Workflow("w", [waits])


@pytest.mark.alone
def test_close_suspends_waiting_runs_and_another_runner_resumes_them(file: Path) -> None:
    flag, log = threading.Event(), list[str]()
    workflow = waiting_workflow(flag, log)
    runner = bide.Runner(file)
    handle = runner.submit(workflow, key="k")
    while handle._snapshot().tasks["waits"].sub_status is not bide.SubStatus.Deferred:
        time.sleep(0.001)
    began = time.monotonic()
    runner.close()
    assert time.monotonic() - began < 1
    assert log == ["enter", "suspended"]
    with pytest.raises(bide.RunnerClosed):
        handle.result()
    flag.set()
    with bide.Runner(file) as second:
        assert second.run(workflow, key="k")["waits"] == "done"
    assert log == ["enter", "suspended", "enter", "left"]


def test_a_body_that_ends_within_the_grace_is_committed(file: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    @bide.task
    def work() -> str:
        entered.set()
        release.wait(30)
        return "in time"

    runner = bide.Runner(file)
    handle = runner.submit(bide.Workflow("w", [work]), key="k")
    assert entered.wait(30)
    closing = threading.Thread(target=runner.close)
    closing.start()
    release.set()
    closing.join(30)
    assert handle.result()["work"] == "in time"
    with bide.Runner(file) as second:
        assert second.get("k")["work"] == "in time"


@pytest.mark.alone
def test_a_body_that_never_ends_is_abandoned_and_changes_nothing(file: Path) -> None:
    entered, release, returned = threading.Event(), threading.Event(), threading.Event()
    rounds: list[int] = []

    @bide.task
    def work(handle: bide.TaskHandle) -> int:
        rounds.append(handle.attempt)
        mine = len(rounds)
        if mine == 1:
            entered.set()
            release.wait(30)
            try:
                handle.step(lambda: 1, name="late")
            except BaseException as refused:
                late.append(refused)
                raise
            finally:
                returned.set()
        return mine

    late: list[BaseException] = []
    workflow = bide.Workflow("w", [work])
    runner = bide.Runner(file)
    handle = runner.submit(workflow, key="k")
    assert entered.wait(30)
    began = time.monotonic()
    runner.close(grace=0.1)
    assert time.monotonic() - began < 1
    with pytest.raises(bide.RunnerClosed):
        handle.result()
    with bide.Runner(file) as second:
        assert second.run(workflow, key="k")["work"] == 2
        release.set()
        assert returned.wait(30)
        assert isinstance(late[0], (bide.Suspended, bide.BideError))
        assert second.get("k")["work"] == 2


@bide.task
def nothing() -> None: ...


def test_closing_twice_is_fine_and_a_closed_runner_says_so(runner: bide.Runner) -> None:
    workflow = bide.Workflow("w", [nothing])
    runner.close()
    runner.close()
    calls: dict[str, list[object]] = {
        "run": [workflow],
        "submit": [workflow],
        "submit_many": [workflow, [{}]],
        "register": [workflow],
        "get": ["x"],
        "runs": [],
    }
    for method, arguments in calls.items():
        with pytest.raises(bide.RunnerClosed, match="closed"):
            getattr(runner, method)(*arguments)
    assert "closed" in repr(runner)


PARKED = """
flag = Path(db).with_suffix(".flag")

def waiter(n):
    def waits(handle: bide.TaskHandle) -> int:
        try:
            handle.defer_until(flag.exists, poll_interval_ms=20)
        finally:
            if handle.suspending:
                note("suspended", n)
        return n
    return bide.task(waits, name=f"w{n}")

workflow = bide.Workflow("w", [waiter(n) for n in range(20)])
runner = bide.Runner(db)
handle = runner.submit(workflow, key="k")
if "leave" in words:
    while not all(t.sub_status is bide.SubStatus.Deferred for t in handle._snapshot().tasks.values()):
        time.sleep(0.005)
    say("leaving")
else:
    say(sum(handle.result().outputs.values()))
"""


@pytest.mark.alone
def test_interpreter_exit_without_close_is_quiet_and_everything_resumes(file: Path) -> None:
    with Child(PARKED, file, "leave") as child:
        child.expect("leaving")
        began = time.monotonic()
        child.join()
        assert time.monotonic() - began < 2
        assert child.errors == ""
    assert sorted(ledger(file)) == sorted(f"suspended {n}" for n in range(20))
    file.with_suffix(".flag").touch()
    assert ran(PARKED, file) == [str(sum(range(20)))]


@pytest.mark.alone
def test_ctrl_c_ends_the_callers_wait_and_the_run_can_be_claimed(file: Path) -> None:
    script = """
    flag = Path(db).with_suffix(".flag")

    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        say("in body")
        handle.defer_until(flag.exists, poll_interval_ms=20)
        return "done"

    try:
        with bide.Runner(db) as runner:
            say(runner.run(bide.Workflow("w", [waits]), key="k")["waits"])
    except KeyboardInterrupt:
        say("interrupted")
    """
    with Child(script, file) as child:
        child.expect("in body")
        began = time.monotonic()
        child.send(signal.SIGINT)
        child.expect("interrupted")
        child.join()
        assert time.monotonic() - began < 2
    file.with_suffix(".flag").touch()
    assert ran(script, file) == ["in body", "done"]


def test_a_dropped_runner_releases_its_runs(file: Path) -> None:
    flag, log = threading.Event(), list[str]()
    workflow = waiting_workflow(flag, log)
    runner = bide.Runner(file)
    runner.submit(workflow, key="k")
    while runner.get("k").tasks["waits"].sub_status is not bide.SubStatus.Deferred:
        time.sleep(0.001)
    del runner
    flag.set()
    with bide.Runner(file) as second:
        assert second.run(workflow, key="k", timeout=20)["waits"] == "done"


def test_a_with_block_closes_on_an_error_too(file: Path) -> None:
    with pytest.raises(ZeroDivisionError), bide.Runner(file) as runner:
        _ = 1 / 0
    with pytest.raises(bide.RunnerClosed):
        runner.runs()
