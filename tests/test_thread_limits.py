"""Without more threads from the system, a runner continues with those it has and says so: no hang, abort or flood."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import bide
from processes import Child, eventually

START = threading.Thread.start


class Threads:
    """Limit how many more threads with a name the system allows."""

    def __init__(self, name: str, left: int) -> None:
        self.name = name
        self.left = left
        self.refused = 0

    @contextmanager
    def limited(self) -> Iterator[None]:
        def start(thread: threading.Thread) -> None:
            if thread.name == self.name:
                if self.left <= 0:
                    self.refused += 1
                    raise RuntimeError("can't start new thread")
                self.left -= 1
            START(thread)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            yield


@bide.task
def noop(n: int) -> int:
    return n


NOOP = bide.Workflow("noop", [noop])


def waiting_for(flag: threading.Event) -> bide.Workflow:
    @bide.task
    def waits(n: int, handle: bide.TaskHandle) -> int:
        handle.defer_until(flag.is_set, 20)
        return n

    return bide.Workflow("waits", [waits])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "thread" in record.getMessage()]


@pytest.mark.parametrize("threads", [2, 3, 4, 5, 9])
def test_one_worker_stays_free_for_others_at_any_number_of_workers(
    store: str, threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    flag = threading.Event()
    workflow = waiting_for(flag)
    with Threads("bide-worker", threads).limited(), bide.Runner(store, slots=4) as runner:
        handles = runner.submit_many(workflow, [{"n": n} for n in range(20)])
        eventually(lambda: runner._core.load()[2] == threads - 1, "all but one thread are parked")
        for n in range(50):
            assert runner.run(NOOP, {"n": n}, timeout=10)["noop"] == n
        parked = f"parked bodies {threads - 1}/{threads - 1}"
        blocked = [runner.get(handle.id).tasks["waits"].blocked_by for handle in handles]
        assert blocked.count(parked) == 20 - (threads - 1), blocked
        flag.set()
        assert [handle.result(30)["waits"] for handle in handles] == list(range(20))
    said = warnings(caplog)
    assert 1 <= len(said) <= 5, said
    assert "can't start new thread" in said[-1]
    assert f"no more than {threads - 1} " in said[-1]


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_a_body_that_may_wait_never_takes_the_last_thread(store: str, threads: int) -> None:
    flag, entered = threading.Event(), threading.Semaphore(0)

    @bide.task
    def waits(handle: bide.TaskHandle) -> int:
        entered.release()
        flag.wait()  # has its thread and its slot, and may defer at its next line
        handle.sleep(0.001)
        return 1

    with Threads("bide-worker", threads).limited(), bide.Runner(store, slots=4) as runner:
        handles = runner.submit_many(bide.Workflow("waits", [waits]), [{}] * 10)
        for _ in range(threads - 1):
            assert entered.acquire(timeout=30)
        for n in range(20):
            assert runner.run(NOOP, {"n": n}, timeout=10)["noop"] == n
        flag.set()
        assert [handle.result(30)["waits"] for handle in handles] == [1] * 10


def test_with_one_worker_others_are_delayed_until_it_is_free(store: str, caplog: pytest.LogCaptureFixture) -> None:
    flag = threading.Event()
    with Threads("bide-worker", 1).limited(), bide.Runner(store, slots=4) as runner:
        parked = runner.submit(waiting_for(flag), {"n": 7})
        eventually(lambda: runner._core.load()[2] == 1, "it is parked")
        delayed = runner.submit(NOOP, {"n": 3})
        with pytest.raises(TimeoutError):
            delayed.result(0.2)
        assert "nothing else is executed" in warnings(caplog)[0]
        flag.set()
        assert parked.result(30)["waits"] == 7
        assert delayed.result(30)["noop"] == 3


def test_with_one_worker_others_continue_once_there_are_threads_again(store: str) -> None:
    flag = threading.Event()
    threads = Threads("bide-worker", 1)
    with threads.limited(), bide.Runner(store, slots=4) as runner:
        parked = runner.submit(waiting_for(flag), {"n": 7})
        eventually(lambda: runner._core.load()[2] == 1, "it is parked")
        delayed = runner.submit(NOOP, {"n": 3})
        threads.left = 100
        assert delayed.result(30)["noop"] == 3
        flag.set()
        assert parked.result(30)["waits"] == 7


def test_the_limit_is_lifted_once_there_are_threads_again(store: str) -> None:
    flag = threading.Event()
    workflow = waiting_for(flag)
    threads = Threads("bide-worker", 4)
    with threads.limited(), bide.Runner(store, slots=4, max_parked=50) as runner:
        handles = runner.submit_many(workflow, [{"n": n} for n in range(20)])
        eventually(lambda: runner._core.load()[2:] == (3, 3), "three are parked, and no more may be")
        threads.left = 100

        def more() -> bool:  # each body that wants to start is a reason to try again
            handles.append(runner.submit(workflow, {"n": 0}))
            time.sleep(0.05)
            return runner._core.load()[2:] == (len(handles), 50)

        eventually(more, "all are parked")
        flag.set()
        for handle in handles:
            handle.result(30)


def system_threads() -> list[str]:
    """Return the names of this process's threads, without those that end meanwhile."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names.append((task / "comm").read_text())
    return names


def test_threads_of_bodies_that_were_parked_end_but_for_some_spare_ones(store: str) -> None:
    flag, others = threading.Event(), threading.active_count()
    with bide.Runner(store, slots=2) as runner:
        runs = runner.submit_many(waiting_for(flag), [{"n": n} for n in range(60)])
        eventually(lambda: threading.active_count() - others > 60, "each body has a thread")
        flag.set()
        assert [run.result()["waits"] for run in runs] == list(range(60))
        # Two slots, 16 spare threads, and the one that logs.
        eventually(lambda: threading.active_count() - others == 19, "the others end")
        assert runner.run(NOOP, {"n": 1})["noop"] == 1


def test_a_runner_without_a_worker_is_refused_and_leaves_nothing(file: Path) -> None:
    before = threading.active_count()
    for name in ("bide-worker", "bide-notify"):
        with Threads(name, 0).limited(), pytest.raises(bide.BideError, match="can't start new thread") as refused:
            bide.Runner(file)
        assert "thread" in str(refused.value)
    eventually(lambda: threading.active_count() <= before, "no thread is left")
    eventually(lambda: not any("bide-" in name for name in system_threads()), "nor one of the system's")
    with bide.Runner(file) as runner:
        assert runner.run(NOOP, {"n": 1})["noop"] == 1


def test_gates_without_a_thread_are_refused_and_work_once_there_is_one(store: str) -> None:
    @bide.task(gate=bide.until(lambda: True, every=0.01))
    def gated() -> int:
        return 1

    workflow = bide.Workflow("gated", [gated])
    with bide.Runner(store, slots=4) as runner:
        with Threads("bide-gates", 0).limited(), pytest.raises(bide.BideError, match="can't start new thread"):
            runner.run(workflow)
        assert runner.runs() == []
        assert runner.run(workflow, timeout=30)["gated"] == 1


def test_gates_continue_without_a_spare_thread(store: str, caplog: pytest.LogCaptureFixture) -> None:
    flag = threading.Event()

    @bide.task(gate=bide.until(flag.is_set, every=0.001))
    def gated(n: int) -> int:
        return n

    threads = Threads("bide-gates", 1)
    with threads.limited(), bide.Runner(store, slots=4) as runner:
        handles = runner.submit_many(bide.Workflow("gated", [gated]), [{"n": n} for n in range(50)])
        eventually(lambda: threads.refused, "a spare is refused")
        polled_until = time.monotonic() + 0.3
        while time.monotonic() < polled_until:
            runner.run(NOOP, {"n": 1})
        flag.set()
        assert [handle.result(30)["gated"] for handle in handles] == list(range(50))
        assert threads.refused <= 3  # not at every poll
        assert len(warnings(caplog)) == 1


# --- the system's own limits -----------------------------------------------------------------------------------------

PARKED = """
@bide.task
def waits(n: int, handle: bide.TaskHandle) -> int:
    handle.defer_until(flag.exists, 50)
    return n

@bide.task
def noop(n: int) -> int:
    return n

import logging
logging.basicConfig(stream=sys.stdout, format="log %(message)s")
flag = Path(db).with_suffix(".flag")
workflow = bide.Workflow("waits", [waits])
noops = bide.Workflow("noop", [noop])

def all_wait_and_others_continue(most):
    with bide.Runner(db, slots=4) as runner:
        limit()
        handles = runner.submit_many(workflow, [{"n": n} for n in range(most)])
        while (now := runner._core.load()[2:])[0] != now[1]:
            time.sleep(0.01)
        say("parked", now[0] == now[1], now[0])
        for n in range(20):
            assert runner.run(noops, {"n": n}, timeout=20)["noop"] == n
        say("others go on")
        flag.touch()
        for n, handle in enumerate(handles):
            assert handle.result(30)["waits"] == n
        say("all have ended")
"""

NPROC = """
import resource
def limit():
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)  # root has no such limit
    resource.setrlimit(resource.RLIMIT_NPROC, (40, 40))

all_wait_and_others_continue(100)
"""

MAPS = """
import mmap
def limit():
    # Maps of alternating rights are not joined: all but a few of those that the process may have are used up.
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    used = len(Path("/proc/self/maps").read_text().splitlines())
    keep.extend(
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | (mmap.PROT_WRITE if n % 2 else 0)) for n in range(most - used - room)
    )
keep = []
room = int(words[0])
all_wait_and_others_continue(200)
"""


def passes(script: str, file: Path, *words: str) -> list[str]:
    with Child(PARKED + script, file, *words) as child:
        said = child.join()
    assert [line for line in said if not line.startswith("log")][1:] == ["others go on", "all have ended"], said
    assert any("a worker thread could not be started" in line for line in said), said
    return said


def test_a_limit_on_processes_is_reached_and_others_continue() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become a user who has no other processes")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        file = Path(name) / "bide.db"
        passes("os.umask(0)\nPath(db).touch(0o666)\n" + NPROC, file)


@pytest.mark.parametrize("room", [200, 400])
def test_max_map_count_is_reached_and_others_continue(file: Path, room: int) -> None:
    if int(Path("/proc/sys/vm/max_map_count").read_text()) > 300_000:
        pytest.skip("max_map_count is too high to be reached in short time")
    said = passes(MAPS, file, str(room))
    # Not at the limit itself, where a thread is created but cannot begin.
    assert any("vm.max_map_count" in line for line in said), said
