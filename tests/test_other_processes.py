"""`@bide.task(executor=...)`: bodies in other processes, and in threads of executors."""

import copy
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
import bide.testing
import remote_bodies
from processes import Child, eventually, ran

TESTS = Path(__file__).parent

SCRIPT = f"""
sys.path.insert(0, {str(TESTS)!r})
import remote_bodies
processes = bide.Processes(1)
folder = Path(db).parent
"""


@pytest.fixture
def processes() -> Iterator[bide.Processes]:
    with bide.Processes(2) as processes:
        yield processes


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture(params=["Processes", "ThreadPoolExecutor", "ProcessPoolExecutor"])
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each executor that needs nothing but Python."""
    made: dict[str, Callable[[], Any]] = {
        "Processes": lambda: bide.Processes(2),
        "ThreadPoolExecutor": lambda: ThreadPoolExecutor(2),
        "ProcessPoolExecutor": lambda: ProcessPoolExecutor(2, get_context("spawn")),
    }
    with made[request.param]() as executor:
        yield executor


def alone(fn: Callable[..., Any], executor: Any, **settings: Any) -> bide.Workflow:
    """Return a workflow of one task."""
    return bide.Workflow("alone", [bide.task(fn, name="body", executor=executor, **settings)])


def is_there(pid: int) -> bool:
    """Whether a process executes."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not is_there(pid)


# --- what goes there and comes back ----------------------------------------------------------------------------------


def test_values_go_through_executors_and_are_stored_as_always(executor: Any, store: str) -> None:
    first = bide.task(remote_bodies.squares, executor=executor)
    second = bide.task(remote_bodies.total, executor=executor)
    workflow = bide.Workflow("w", [first, second])
    with bide.Runner(store) as runner:
        result = runner.run(workflow, {"count": 4}, key="k")
        assert (result["squares"], result["total"]) == ([0, 1, 4, 9], 14)
        again = runner.get("k", workflow=workflow)
    assert again is not None
    assert again["squares"] == [0, 1, 4, 9]


def test_a_body_executes_in_another_process_without_a_slot(processes: bide.Processes, tmp_path: Path) -> None:
    workflow = bide.Workflow("w", [bide.task(remote_bodies.returns_when_told, executor=processes)])

    @bide.task
    def tells(folder: Path) -> int:
        (folder / "go").touch()
        return os.getpid()

    other = bide.Workflow("other", [tells])
    with bide.Runner(":memory:", slots=1, async_slots=1) as runner:
        runs = [runner.submit(workflow, {"folder": tmp_path}) for _ in range(2)]
        eventually(lambda: len(remote_bodies.notes(tmp_path, "entered")) == 2, "both execute, and there is one slot")
        here = runner.run(other, {"folder": tmp_path})["tells"]
        pids = {run.result()["returns_when_told"] for run in runs}
    assert len(pids) == 2
    assert here not in pids


def test_elements_of_a_map_execute_side_by_side_and_are_read(processes: bide.Processes, tmp_path: Path) -> None:
    body = bide.task(remote_meets, name="each", executor=processes)
    reader = bide.task(remote_sum, name="reader", executor=processes)
    with bide.Runner(":memory:", slots=1) as runner:
        result = runner.run(bide.Workflow("w", [body, reader]), {"folder": tmp_path, "items": [1, 2]})
    assert result["reader"] == 2
    assert len(set(result["each"])) == 2


def remote_meets(folder: Path, item: Annotated[int, bide.Each(bide.Input("items"))]) -> int:
    """Meet another element."""
    return remote_bodies.meets(folder, item)


def remote_sum(each: bide.Mapped[int]) -> int:
    """Count the elements."""
    return len(each.succeeded)


def test_an_exception_is_itself_again_and_retried_by_its_type(executor: Any) -> None:
    retry = bide.Retry(attempts=2, delay=0, on=remote_bodies.Declined)
    with bide.Runner(":memory:") as runner, pytest.raises(bide.RunFailed) as failed:
        runner.run(alone(remote_bodies.declines, executor, retry=retry))
    error = failed.value.__cause__
    assert isinstance(error, remote_bodies.Declined)
    assert (error.card, error.code) == ("7", 402)
    task = failed.value.result.tasks["body"]
    assert task.attempts == 2
    assert task.error is not None
    assert 'raise Declined("7", 402)' in task.error.traceback
    assert "_remote_call" not in task.error.traceback


def test_an_exception_without_a_pickle_is_a_task_failed(processes: bide.Processes) -> None:
    with bide.Runner(":memory:") as runner, pytest.raises(bide.RunFailed) as failed:
        runner.run(alone(remote_bodies.raises_alone, processes))
    error = failed.value.__cause__
    assert isinstance(error, bide.TaskFailed)
    assert error.type.endswith("NeverPickled")
    assert error.message == "too private"


def test_an_error_that_cannot_be_read_again_fails_its_attempt_alone(executor: Any) -> None:
    with bide.Runner(":memory:") as runner, pytest.raises(bide.RunFailed, match="Hostile: mine"):
        runner.run(alone(remote_bodies.raises_hostile, executor))


def test_callables_with_a_state_go_there(executor: Any) -> None:
    with bide.Runner(":memory:") as runner:
        assert runner.run(alone(remote_bodies.Adder(3), executor), {"value": 4})["body"] == 7
        assert runner.run(alone(partial(remote_bodies.squares, count=3), executor))["body"] == [0, 1, 4]


def test_a_mark_stays_behind_in_pickles_and_is_kept_by_copies() -> None:
    doubles = bide.task(partial(pow, exp=2), name="squares", timeout=3.0)
    assert copy.deepcopy(doubles)(5) == 25
    assert list(bide.Workflow("w", [copy.deepcopy(doubles)]).tasks) == ["squares"]
    assert pickle.loads(pickle.dumps(doubles))(5) == 25  # noqa: S301 - our own bytes


def test_skips_and_exits_mean_what_they_mean_here(executor: Any) -> None:
    with bide.Runner(":memory:") as runner:
        skipped = runner.run(alone(remote_bodies.skips, executor)).tasks["body"]
        assert (skipped.status, skipped.blocked_by) == (bide.TaskStatus.Skipped, "nothing to do")
        with pytest.raises(bide.RunFailed, match="SystemExit: no more"):
            runner.run(bide.Workflow("leaves", [bide.task(remote_bodies.leaves, executor=executor)]))


def test_a_value_that_cannot_be_stored_names_the_task(executor: Any) -> None:
    with bide.Runner(":memory:") as runner, pytest.raises(bide.RunFailed, match="task 'body': result") as failed:
        runner.run(alone(remote_bodies.returns_a_set, executor))
    assert isinstance(failed.value.__cause__, bide.SerializationError)


def test_an_argument_without_a_pickle_is_named(processes: bide.Processes) -> None:
    makes_it, takes_it = bide.task(makes), bide.task(takes_it_alone, name="takes", executor=processes)
    with bide.Runner(":memory:") as runner, pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [makes_it, takes_it]))
    error = failed.value.__cause__
    assert isinstance(error, bide.SerializationError)
    assert str(error).startswith(
        "task 'takes': parameter 'makes' cannot be pickled for bide.Processes(2): it stays here"
    )


class Unportable:
    """What can be stored and not be pickled."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unportable)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


bide.codec(Unportable, lambda _: 0, lambda _: Unportable())


def makes() -> Unportable:
    """Make one."""
    return Unportable()


def takes_it_alone(makes: Unportable) -> None:
    """Take one."""


# --- children --------------------------------------------------------------------------------------------------------


def test_the_death_of_a_child_fails_only_its_own_attempt(
    processes: bide.Processes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = bide.Workflow("other", [bide.task(remote_bodies.returns_when_told, executor=processes)])
    workflow = alone(remote_bodies.dies_at_first, processes, retry=bide.Retry(attempts=2, delay=0))
    with bide.Runner(":memory:") as runner, caplog.at_level(logging.WARNING, "bide"):
        neighbour = runner.submit(other, {"folder": tmp_path})
        eventually(lambda: remote_bodies.notes(tmp_path, "entered"), "the neighbour executes")
        result = runner.run(workflow, {"folder": tmp_path})
        (tmp_path / "go").touch()
        assert neighbour.result().tasks["returns_when_told"].attempts == 1
    assert (result["body"], result.tasks["body"].attempts) == ("second", 2)
    died = remote_bodies.notes(tmp_path, "died")
    assert f"task 'body': process {died[0]}, which executed it, was killed by SIGKILL" in caplog.text


def test_a_child_that_ends_by_itself_is_an_error_with_its_code(processes: bide.Processes) -> None:
    with bide.Runner(":memory:") as runner, pytest.raises(bide.RunFailed) as failed:
        runner.run(alone(remote_bodies.exits, processes))
    error = failed.value.__cause__
    assert isinstance(error, bide.ProcessDied)
    assert str(error) == f"task 'body': process {error.pid}, which executed it, has ended with exit code 3"


def test_a_child_that_closes_its_pipe_is_killed_and_that_is_said(processes: bide.Processes) -> None:
    with bide.Runner(":memory:") as runner, pytest.raises(bide.RunFailed) as failed:
        runner.run(alone(remote_bodies.closes_everything, processes))
    error = failed.value.__cause__
    assert isinstance(error, bide.ProcessDied)
    assert "memory" not in str(error)


def test_an_executor_that_is_shut_down_or_returns_no_future_is_named() -> None:
    class Strange(Executor):
        def submit(self, *_args: Any, **_kwargs: Any) -> Any:
            return 3

    down = ThreadPoolExecutor(1)
    down.shutdown()
    words = "its executor, a ThreadPoolExecutor, takes no bodies .*: keep it open until the runner is closed"
    with bide.Runner(":memory:") as runner:
        with pytest.raises(bide.RunFailed, match=words):
            runner.run(alone(remote_bodies.pid, down))
        with pytest.raises(bide.RunFailed, match=r"a .*Strange, has returned no Future: 3"):
            runner.run(bide.Workflow("strange", [bide.task(remote_bodies.pid, executor=Strange())]))


def test_a_timeout_kills_the_child(processes: bide.Processes, tmp_path: Path) -> None:
    with bide.Runner(":memory:") as runner, pytest.raises(bide.RunFailed) as failed:
        runner.run(alone(remote_bodies.stays, processes, timeout=0.2), {"folder": tmp_path})
    error = failed.value.__cause__
    [pid] = remote_bodies.notes(tmp_path, "stays")
    assert isinstance(error, bide.TaskTimeout)
    assert str(error) == f"task 'body' was not done after 0.2 s of execution in process {pid}, which was killed"
    assert not is_there(pid)


def test_a_timeout_of_another_executor_fails_the_attempt(threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    with bide.Runner(":memory:") as runner:
        with pytest.raises(bide.RunFailed, match=r"task 'body' was not done 0\.2 s after its executor had it"):
            runner.run(alone(remote_bodies.returns_when_told, threads, timeout=0.2), {"folder": tmp_path})
        (tmp_path / "go").touch()


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_cancelled_run_and_a_closed_runner_kill_the_child(how: str, file: Path, tmp_path: Path) -> None:
    processes = bide.Processes(1)
    with bide.Runner(file) as runner:
        run = runner.submit(alone(remote_bodies.stays, processes), {"folder": tmp_path})
        eventually(lambda: remote_bodies.notes(tmp_path, "stays"), "the body executes")
        [pid] = remote_bodies.notes(tmp_path, "stays")
        if how == "cancel":
            run.cancel()
            with pytest.raises(bide.RunFailed, match="cancelled"):
                run.result()
            eventually(partial(is_gone, pid), "the child is gone")
    assert not is_there(pid)
    assert processes.pids == []


def test_children_end_with_the_last_runner_and_start_again() -> None:
    processes = bide.Processes(1)
    workflow = alone(remote_bodies.pid, processes)
    with bide.Runner(":memory:") as one:
        with bide.Runner(":memory:") as other:
            first = other.run(workflow)["body"]
            assert one.run(workflow)["body"] == first
        assert is_there(first)
        assert processes.pids == [first]
    assert not is_there(first)
    with bide.Runner(":memory:") as runner:
        assert runner.run(workflow)["body"] != first


def test_a_child_that_dies_idle_is_replaced_without_a_failure() -> None:
    processes = bide.Processes(1)
    workflow = alone(remote_bodies.pid, processes)
    with bide.Runner(":memory:") as runner:
        first = runner.run(workflow)["body"]
        os.kill(first, signal.SIGKILL)
        eventually(partial(is_gone, first), "the child is gone")
        second = runner.run(workflow)
    assert second["body"] != first
    assert second.tasks["body"].attempts == 1


def test_a_body_that_forks_ends_once(processes: bide.Processes) -> None:
    with bide.Runner(":memory:") as runner:
        for number in range(3):
            assert runner.run(alone(remote_bodies.forks, processes), key=str(number))["body"] == 1


def test_a_closed_executor_fails_what_it_was_given(tmp_path: Path) -> None:
    processes = bide.Processes(1)
    with bide.Runner(":memory:") as runner:
        runs = [runner.submit(alone(remote_bodies.stays, processes), {"folder": tmp_path}) for _ in range(2)]
        eventually(lambda: remote_bodies.notes(tmp_path, "stays"), "the first one executes")
        processes.close()
        for run in runs:
            with pytest.raises(bide.RunFailed, match=r"bide.Processes\(1\) was closed while it had the body"):
                run.result()
        with pytest.raises(bide.RunFailed, match=r"its executor bide.Processes\(1\) is closed"):
            runner.run(alone(remote_bodies.stays, processes), {"folder": tmp_path})


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_children_do_not_outlive_a_parent_that_is_killed(file: Path, tmp_path: Path) -> None:
    script = f"""{SCRIPT}
workflow = bide.Workflow("w", [bide.task(remote_bodies.stays, executor=processes)])
with bide.Runner(db) as runner:
    run = runner.submit(workflow, {{"folder": folder}})
    stay()
"""
    with Child(script, file) as child:
        eventually(lambda: remote_bodies.notes(tmp_path, "stays"), "the body executes")
        [pid] = remote_bodies.notes(tmp_path, "stays")
        assert is_there(pid)
        child.kill()
    eventually(partial(is_gone, pid), "the child is gone")


def test_a_killed_runner_gives_the_call_again_and_nothing_else(file: Path, tmp_path: Path) -> None:
    script = f"""{SCRIPT}
first = bide.task(remote_bodies.squares, executor=processes)
second = bide.task(remote_bodies.returns_when_told, depends_on=first, executor=processes)
workflow = bide.Workflow("w", [first, second])
with bide.Runner(db) as runner:
    run = runner.submit(workflow, {{"count": 3, "folder": folder}}, key="k")
    if words:
        (folder / "go").touch()
        result = run.result()
        say("ended", result.tasks["squares"].attempts, result.tasks["returns_when_told"].attempts)
    else:
        while not remote_bodies.notes(folder, "entered"):
            time.sleep(0.005)
        say("executes", run.why().tasks[0].waits[0].body)
        stay()
"""
    with Child(script, file) as child:
        line = child.after("executes")
        [first] = remote_bodies.notes(tmp_path, "entered")
        assert line == f"executes in process {first}"
        child.kill()
    with bide.Client(file) as client:
        [waiting] = client.waiting()
    assert (waiting.task, waiting.body) == ("returns_when_told", None)
    assert ran(script, file, "again")[-1] == "ended 1 1"
    assert len(remote_bodies.notes(tmp_path, "entered")) == 2


def test_a_crash_between_the_end_of_the_call_and_its_commit_repeats_the_call(file: Path, tmp_path: Path) -> None:
    script = f"""{SCRIPT}
from bide import _remote
workflow = bide.Workflow("w", [bide.task(remote_bodies.returns_when_told, executor=processes)])
(folder / "go").touch()
if not words:
    _remote._Execution.outcome = lambda execution: die()  # its wait is closed, and the body has not returned
with bide.Runner(db) as runner:
    say("ended", runner.run(workflow, {{"folder": folder}}, key="k").tasks["returns_when_told"].attempts)
"""
    ran(script, file, code=-signal.SIGKILL)
    assert ran(script, file, "again")[-1] == "ended 1"
    assert len(remote_bodies.notes(tmp_path, "entered")) == 2


def test_a_wait_satisfied_by_hand_has_no_value(processes: bide.Processes, tmp_path: Path) -> None:
    with bide.Runner(":memory:") as runner:
        run = runner.submit(alone(remote_bodies.stays, processes), {"folder": tmp_path})
        eventually(lambda: remote_bodies.notes(tmp_path, "stays"), "the body executes")
        runner.satisfy(run, "body", 7)
        with pytest.raises(bide.RunFailed, match="was satisfied by hand while the body was at its executor"):
            run.result()
        [pid] = remote_bodies.notes(tmp_path, "stays")
        eventually(partial(is_gone, pid), "the child is gone")


def test_the_deadline_of_a_run_and_a_skip_kill_the_child(processes: bide.Processes, tmp_path: Path) -> None:
    body = bide.task(remote_bodies.stays, executor=processes)
    with bide.Runner(":memory:") as runner:
        with pytest.raises(bide.RunFailed, match="TimeoutError"):
            runner.run(bide.Workflow("late", [body], timeout=1), {"folder": tmp_path})
        late = len(remote_bodies.notes(tmp_path, "stays"))
        run = runner.submit(bide.Workflow("skipped", [body]), {"folder": tmp_path})
        eventually(lambda: len(remote_bodies.notes(tmp_path, "stays")) > late, "the second one executes")
        runner.skip(run, "stays")
        assert run.result().tasks["stays"].status == bide.TaskStatus.Skipped
        for pid in remote_bodies.notes(tmp_path, "stays"):
            eventually(partial(is_gone, pid), "the child is gone")


def test_a_paused_run_takes_the_end_of_its_call_and_continues_later(processes: bide.Processes, tmp_path: Path) -> None:
    body = bide.task(remote_bodies.returns_when_told, executor=processes)
    with bide.Runner(":memory:") as runner:
        run = runner.submit(bide.Workflow("w", [body]), {"folder": tmp_path})
        eventually(lambda: remote_bodies.notes(tmp_path, "entered"), "the body executes")
        run.pause()
        (tmp_path / "go").touch()
        eventually(lambda: not runner.waiting(), "the wait is over")
        assert run.why().status == bide.RunStatus.Paused
        run.resume()
        assert run.result().tasks["returns_when_told"].attempts == 1


def test_a_program_that_leaves_without_closing_leaves_no_child(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import bide, remote_bodies

if __name__ == "__main__":
    processes = bide.Processes(1)
    workflow = bide.Workflow("w", [bide.task(remote_bodies.pid, executor=processes)])
    runner = bide.Runner(":memory:")
    print(runner.run(workflow)["pid"])
"""
    )
    code, printed, errors = _run(tmp_path / "program.py", "-X", "dev", "-W", "error")
    assert (code, errors) == (0, "")
    eventually(lambda: not is_there(int(printed)), "the child is gone")


def test_a_main_module_is_imported_by_children_as_by_multiprocessing(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        """
import os
import bide

processes = bide.Processes(1)

@bide.task(executor=processes)
def body() -> list[str]:
    return [__name__, str(os.getpid())]

workflow = bide.Workflow("w", [body])
if __name__ == "__main__":
    with bide.Runner(":memory:") as runner:
        name, pid = runner.run(workflow)["body"]
        print(name, pid != str(os.getpid()))
"""
    )
    assert _run(tmp_path / "program.py") == (0, "__mp_main__ True\n", "")


def test_a_program_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        """
import bide

@bide.task(executor=bide.Processes(1))
def body() -> int:
    return 1

runner = bide.Runner(":memory:")
print(runner.run(bide.Workflow("w", [body]))["body"])
"""
    )
    code, _, errors = _run(tmp_path / "program.py")
    assert code == 1
    assert "could not import the main module of the program" in errors
    assert 'put what the program does under `if __name__ == "__main__":`' in errors


def _run(script: Path, *flags: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, *flags, script], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


# --- what is refused -------------------------------------------------------------------------------------------------


def _with_handle(handle: bide.TaskHandle) -> None: ...
def _with_context(context: bide.Context) -> None: ...
async def _async() -> None: ...


REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (_with_handle, {}, "task 'body': parameter 'handle' takes the handle, and the body executes in bide.Processes(1)"),
    (_with_context, {}, "task 'body': parameter 'context' takes the Context, and the body executes in"),
    (_async, {}, "task 'body' is an `async def`, which executes on the event loop of the runner: make it a `def`"),
    (lambda: None, {}, "task 'body': its function cannot be pickled for another process of the bide.Processes(1)"),
    (remote_bodies.pid, {"executor": 3}, "task 'body': executor must be a bide.Processes(n), a concurrent.futures"),
    (remote_bodies.pid, {"executor": bide.Processes}, "make one, as in executor=Processes(...)"),
    (remote_bodies.pid, {"limit": bide.Limit("x", executing=1)}, "task 'body': Limit('x') has executing=, which"),
    (
        remote_bodies.pid,
        {"gate": bide.request("ask", int, int)},
        "task 'body': its gate takes a request, and no parameter receives it",
    ),
]


@pytest.mark.parametrize(("fn", "settings", "message"), REFUSED, ids=lambda one: None)
def test_what_cannot_execute_elsewhere_is_refused(fn: Callable[..., Any], settings: Any, message: str) -> None:
    with pytest.raises(bide.DefinitionError) as refused:
        alone(fn, **{"executor": bide.Processes(1), **settings})
    assert message in str(refused.value)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", 1025])
def test_a_number_of_processes_that_makes_no_sense_is_refused(n: Any) -> None:
    with pytest.raises(bide.DefinitionError, match=r"Processes\(n\)"):
        bide.Processes(n)


def test_a_limit_of_attempts_in_flight_holds_bodies_back(processes: bide.Processes, tmp_path: Path) -> None:
    workflow = alone(remote_bodies.returns_when_told, processes, limit=bide.Limit("one", in_flight=1))
    with bide.Runner(":memory:") as runner:
        runs = [runner.submit(workflow, {"folder": tmp_path}) for _ in range(2)]
        eventually(lambda: "limit" in str(runs[1].why()) or "limit" in str(runs[0].why()), "one is held back")
        assert len(remote_bodies.notes(tmp_path, "entered")) <= 1
        (tmp_path / "go").touch()
        for run in runs:
            run.result()


def test_a_test_executes_bodies_here_and_takes_stubs() -> None:
    processes = bide.Processes(1)
    workflow = bide.Workflow(
        "w", [bide.task(one, executor=processes) for one in (remote_bodies.squares, remote_bodies.total)]
    )
    with bide.testing.Runner() as runner:
        runner.stub_task("squares", lambda count: [count, 6])
        assert runner.run(workflow, {"count": 5})["total"] == 11
    with bide.testing.Runner() as runner:
        assert runner.run(workflow, {"count": 3})["total"] == 5
    assert processes.pids == []


def test_an_executor_of_threads_sees_the_arguments_themselves(threads: ThreadPoolExecutor) -> None:
    seen: list[str] = []

    def body() -> int:
        seen.append(threading.current_thread().name)
        return 1

    with bide.Runner(":memory:") as runner:
        assert runner.run(alone(body, threads))["body"] == 1
    assert seen[0].startswith("ThreadPoolExecutor")
