"""Cancel and pause at every point: after each commit of a run with waits, before anything follows from the commit.

`_core._hold_after_commit` has the thread that has made the nth commit wait there. Meanwhile the run is cancelled or
paused: by the runner that executes it, where the request is carried out before the call returns, or by a `Client` of
the same store, where it is committed then.
"""

import contextlib
import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from bide import _core
from processes import PATIENCE, Child, eventually, ledger, ran

SPAN = 0.004
"""Seconds that bodies sleep."""

LEAST = 8
"""A run makes more commits than that, also on a loaded machine, where several are made in one."""

Body = Callable[["Handle"], Coroutine[Any, Any, Any]]


class Handle:
    """A handle of either kind: its calls are awaited."""

    def __init__(self, handle: bide.TaskHandle | bide.AsyncTaskHandle, log: list[str]) -> None:
        self.handle = handle
        self.name = handle.task_name
        self.log = log

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self.handle, method)(*args, **kwargs)
        return await result if isinstance(self.handle, bide.AsyncTaskHandle) else result

    async def step(self, name: str) -> None:
        await self.call("step", lambda: self.log.append(f"did {self.name} {name}"), name=name)

    async def wait(self, method: str, *args: Any) -> Any:
        self.log.append(f"waits {self.name}")
        result = await self.call(method, *args)
        self.log.append(f"woke {self.name}")
        return result

    @contextlib.asynccontextmanager
    async def noted(self) -> AsyncIterator[None]:
        self.log.append(f"enter {self.name}")
        try:
            yield
        except BaseException:
            if self.handle.cancelled:  # else it is suspended
                self.log.append(f"cancelled {self.name}")
                await self.step("undo")
                await self.call("sleep", SPAN)
            raise
        self.log.append(f"leave {self.name}")


def driven(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that awaits nothing, because its handle blocks."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("it awaits something")


class Points:
    """The workflow, what its bodies do, and its plays."""

    def __init__(self, runner: bide.Runner, kind: str) -> None:
        self.runner = runner
        self.splits = False
        """The child run is started by a call of its own, not by the one that waits for it."""
        self.log: list[str] = []
        self.inner = bide.Workflow("inner", [self.made(kind, "inner", self.inner_body)])
        self.meanwhile = bide.Workflow("meanwhile", [self.made(kind, "other", self.other_body)])

        async def waits_body(handle: Handle) -> int:
            value = await handle.wait("wait_for", "go", int)
            if self.splits:
                child = await handle.call("start", self.inner)
                ended = await handle.wait("wait", child)
            else:
                ended = await handle.wait("run", self.inner)
            return int(value + ended["inner"])

        @bide.task
        def items() -> list[int]:
            self.log.append("enter items")
            self.log.append("leave items")
            return [0, 1]

        tasks = [
            self.made(kind, "first", self.first_body),
            self.made(kind, "waits", waits_body, depends_on=["first"]),
            items,
            self.made_each(kind),
            self.made(kind, "last", self.last_body, depends_on=["waits", "each"]),
            self.made(kind, "tidy", self.last_body, depends_on=["last"], run_if="done"),
        ]
        self.workflow = bide.Workflow("points", tasks)

    @staticmethod
    async def inner_body(handle: Handle) -> int:
        await handle.wait("sleep", SPAN)
        await handle.step("work")
        return 7

    @staticmethod
    async def other_body(handle: Handle) -> int:
        # All that the first run could do meanwhile takes less time.
        for _ in range(3):
            await handle.call("sleep", 3 * SPAN)
        return 0

    @staticmethod
    async def first_body(handle: Handle) -> int:
        await handle.step("reserve")
        await handle.wait("sleep", SPAN)
        await handle.step("pay")
        return 1

    @staticmethod
    async def last_body(handle: Handle) -> int:
        await handle.step("charge")
        return 9

    async def noted(self, handle: bide.TaskHandle | bide.AsyncTaskHandle, body: Body) -> Any:
        noting = Handle(handle, self.log)
        async with noting.noted():
            return await body(noting)

    def made(self, kind: str, name: str, body: Body, **options: Any) -> Any:
        if kind == "def":

            @bide.task(name=name, **options)
            def plain(handle: bide.TaskHandle) -> int:
                return int(driven(self.noted(handle, body)))

            return plain

        @bide.task(name=name, **options)
        async def coroutine(handle: bide.AsyncTaskHandle) -> int:
            return int(await self.noted(handle, body))

        return coroutine

    def made_each(self, kind: str) -> Any:
        async def body(handle: Handle) -> int:
            await handle.step("work")
            await handle.wait("sleep", SPAN)
            return 5

        if kind == "def":

            @bide.task(name="each")
            def plain(item: Annotated[int, bide.Each("items")], handle: bide.TaskHandle) -> int:
                return item + int(driven(self.noted(handle, body)))

            return plain

        @bide.task(name="each")
        async def coroutine(item: Annotated[int, bide.Each("items")], handle: bide.AsyncTaskHandle) -> int:
            return item + int(await self.noted(handle, body))

        return coroutine

    def play(self, nth: int, act: Callable[[str], None]) -> tuple[bide.RunResult, bool]:
        """Play a run, and act after its nth commit. Return its result, and whether there was that commit."""
        self.log = []
        over, key = threading.Event(), str(nth)

        def waits_and_acts() -> bool:
            until = time.monotonic() + PATIENCE
            while not _core._is_held():
                assert time.monotonic() < until, f"neither the commit {nth} nor the end: {self.log}"
                if over.wait(0.0005):
                    return False
            try:
                if self.runner.get(key) is not None:  # else it was a commit of something before
                    act(key)
            except BaseException as error:
                error.add_note(f"commit {nth}; {self.runner.why(key)}; what happened: {self.log}")
                self.runner.cancel(key, workflow="points", force=True)
                raise
            finally:
                _core._release()
            return True

        with ThreadPoolExecutor(1) as pool:
            _core._hold_after_commit(nth)
            acting: Future[bool] = pool.submit(waits_and_acts)
            try:
                run = self.runner.submit(self.workflow, key=key)
                with contextlib.suppress(bide.SignalRejected):
                    run.signal("go", 3)
                try:
                    result = run.result(timeout=PATIENCE)
                except bide.RunFailed as failed:
                    result = failed.result
            finally:
                _core._hold_after_commit(0)
                over.set()
                was_held = acting.result()
        eventually(lambda: not self.runner.runs(status="Running"), "child runs end")
        return result, was_held

    def at_every_point(self, act: Callable[[str], None], check: Callable[[bide.RunResult], None]) -> None:
        """Act after the first commit of a run, after the second of another one, and so on."""
        for nth in itertools.count(1):
            result, acted = self.play(nth, act)
            try:
                nothing_is_done_twice(self.log)
                if not acted:
                    completes(result, self.log)
                    assert nth > LEAST
                    return
                check(result)
            except AssertionError as error:
                error.add_note(f"commit {nth}; {result}; what happened: {self.log}")
                raise

    def running(self, key: str) -> tuple[set[str], set[str]]:
        """Return the tasks whose bodies wait, and those whose bodies execute."""
        tasks = self.runner.get(key).tasks
        running = {name for name, task in tasks.items() if task.status == "Running"}
        waiting = {name for name in running if tasks[name].sub_status == "Deferred"}
        return waiting, running - waiting


def nothing_is_done_twice(log: list[str]) -> None:
    counts = Counter(line for line in log if line.startswith(("did", "leave", "cancelled")))
    assert all(count == 1 for count in counts.values()), counts


def completes(result: bide.RunResult, log: list[str]) -> None:
    assert result.status == "Completed", result
    expected = {"first": 1, "waits": 10, "items": [0, 1], "each": [5, 6], "last": 9, "tidy": 9}
    assert result.outputs == expected
    assert not [line for line in log if line.startswith("cancelled")]
    assert Counter(line.split()[0] for line in log)["did"] == 7


def is_cancelled(result: bide.RunResult, log: list[str]) -> None:
    assert result.status == "Cancelled", result
    # It is always started, and cancelled like any other if it had begun before.
    assert "enter tidy" in log
    for name, task in result.tasks.items():
        entered, left = f"enter {name}" in log, f"leave {name}" in log
        cleaned = [f"{what} {name}{more}" in log for what, more in (("cancelled", ""), ("did", " undo"))]
        if name == "each":
            continue
        if task.status == "Completed":
            assert (left, cleaned) == (True, [False, False]), name
        else:
            assert (task.status, left, cleaned) == ("Cancelled", False, [entered, entered]), name


def in_time(asks: Callable[[], object]) -> bool:
    """Ask something of a run. Return whether it had not ended."""
    try:
        asks()
    except bide.BideError as error:
        if "comes too late" not in str(error):
            raise
        return False
    return True


@pytest.fixture(params=["def", "async def"])
def points(request: pytest.FixtureRequest, file: Path) -> Iterator[Points]:
    with bide.Runner(file, slots=4) as runner:
        yield Points(runner, request.param)


@pytest.mark.parametrize("whence", ["here", "elsewhere"])
def test_a_run_is_cancelled_after_any_commit(points: Points, file: Path, whence: str) -> None:
    allowed: set[str] = set()
    mark = [0]
    too_late = [False]

    def cancel(key: str) -> None:
        too_late[0] = not in_time(lambda: control.cancel(key, workflow="points", by="ana"))
        mark[0] = len(points.log)
        allowed.clear()
        allowed.update(*points.running(key), {"tidy", "inner"})

    def check(result: bide.RunResult) -> None:
        if too_late[0] or (whence == "elsewhere" and result.status == "Completed"):
            return completes(result, points.log)
        is_cancelled(result, points.log)
        if whence == "here":
            entered = {line.split()[1] for line in points.log[mark[0] :] if line.startswith("enter ")}
            assert entered <= allowed, "a body starts after the cancellation"
        return None

    with contextlib.ExitStack() as stack:
        control = points.runner if whence == "here" else stack.enter_context(bide.Client(file))
        points.at_every_point(cancel, check)


@pytest.mark.parametrize("whence", ["here", "elsewhere"])
def test_a_run_is_paused_and_resumed_after_any_commit(points: Points, file: Path, whence: str) -> None:
    runner, points.splits = points.runner, True

    def ended(key: str) -> bool:
        return runner.get(key).status not in {"Running", "Paused"}

    def pause(key: str) -> None:
        if not in_time(lambda: control.pause(key, workflow="points", by="ana")):
            return
        if whence == "elsewhere":
            # It is the business of the threads that continue.
            _core._release()
            eventually(lambda: ended(key) or runner.get(key).status == "Paused", "the run is paused")
        if ended(key):
            return
        parked, executing = points.running(key)
        mark = len(points.log)
        _core._release()
        runner.run(points.meanwhile, timeout=PATIENCE)
        stays_paused(points.log[mark:], parked, executing)
        in_time(lambda: control.resume(key, workflow="points", by="bo"))

    with contextlib.ExitStack() as stack:
        control = runner if whence == "here" else stack.enter_context(bide.Client(file))
        points.at_every_point(pause, lambda result: completes(result, points.log))


def stays_paused(lines: list[str], parked: set[str], executing: set[str]) -> None:
    """Check that no body has started, none that waited has continued, and the others came to their next wait."""
    stopped = set(parked)
    for line in lines:
        what, name = line.split()[:2]
        if name in {"inner", "other"}:
            continue
        assert name not in stopped, f"a paused run goes on: {line}"
        assert what != "enter" or name in executing, f"a body of a paused run starts: {line}"
        if what in {"leave", "waits"}:
            stopped.add(name)


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["woke a"], "a paused run goes on: woke a"),
        (["waits b", "woke b"], "a paused run goes on: woke b"),
        (["enter c"], "a body of a paused run starts: enter c"),
    ],
)
def test_a_paused_run_that_goes_on_is_seen(lines: list[str], wrong: str) -> None:
    stays_paused(["enter b", *lines[:-1]], {"a"}, {"b"})
    with pytest.raises(AssertionError, match=wrong):
        stays_paused(lines, {"a"}, {"b"})


EARLY = """
@bide.task
def work(handle: bide.TaskHandle) -> None:
    handle.step(lambda: note("reserve"), name="reserve")
    if "again" not in words:
        runner.cancel("k", by="ana")
        die()
    try:
        handle.wait_for("go")
    except bide.Cancelled:
        handle.step(lambda: note("release"), name="release")
        raise

workflow = bide.Workflow("w", [work])
with bide.Runner(db, workflows=[workflow]) as runner:
    try:
        runner.run(workflow, key="k", timeout=20)
    except bide.RunFailed as error:
        say(error.result.status)
"""


def test_a_body_that_has_recorded_something_cleans_up_after_a_crash(file: Path) -> None:
    with Child(EARLY, file) as child:
        child.join(code=-signal.SIGKILL)
    assert ran(EARLY, file, "again") == ["Cancelled"]
    assert ledger(file) == ["reserve", "release"]
