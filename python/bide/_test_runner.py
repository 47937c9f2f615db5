"""The runner of `bide.testing`: a `bide.Runner` whose time is moved by the test, and that can crash and start again."""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from bide import _core, _surroundings
from bide._core import Channel
from bide._effects import Effects
from bide._errors import DefinitionError, StoreError
from bide._events import Follower
from bide._here import in_coroutine, refuse_in_body, refuse_on_loop
from bide._in_thread import in_thread
from bide._loop_choice import LoopChoice
from bide._reads import Run as AnyRun
from bide._result import RunResult
from bide._run_handle import RunHandle as ProgramHandle
from bide._runner import Runner as ProgramRunner
from bide._status import RunStatus, TaskStatus
from bide._stubs import Stubs
from bide._test_clock import START, Clock, Crashed, NeverSatisfied
from bide._test_handles import RunHandle, TimedFollower, hold_calls
from bide._waits import Duration
from bide._workflow import Workflow

if TYPE_CHECKING:
    import asyncio
    import os

    from bide._observe import RunEvent

UNWINDING = 1.0
"""Seconds for which a crash waits for what executes to notice it."""


class Settings(TypedDict, total=False):
    """The settings of a `bide.Runner`."""

    workflows: Iterable[Workflow]
    slots: int | None
    durability: Literal["normal", "full"]
    max_parked: int | None
    retention: Duration | None
    async_slots: int
    loop_factory: "Callable[[], asyncio.AbstractEventLoop] | None"
    cancel_grace: Duration
    cancel_limit: Duration
    on_event: "Callable[[RunEvent], object] | None"


class Runner(ProgramRunner):
    """A `bide.Runner` for tests: its time passes only by `advance(seconds)`.

    With `auto_advance=True` it also passes by itself to the next wait that ends, whenever nothing happens and the test
    waits for a run. Everything else is that of `bide.Runner`. `start` is what its clock shows at first; `clock` is one
    that several runners go by.
    """

    _time_passes = False

    def __init__(
        self,
        store: "str | os.PathLike[str]" = ":memory:",
        *,
        start: datetime | None = None,
        clock: Clock | None = None,
        auto_advance: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        """Open the store, in memory by default."""
        if clock is not None and start is not None:
            msg = "Runner takes start= or clock=, not both: a clock has its own start"
            raise DefinitionError(msg)
        self.clock = clock if clock is not None else Clock(START if start is None else start)
        self._auto_advance = auto_advance
        self._restarts = 0
        self._down = self._entered = False
        self._crashed_core: _core.Runner | None = None
        self._stubs = Stubs(self.clock._core.prescribe)
        self._loop_factory, self._on_event = settings.get("loop_factory"), settings.get("on_event")
        self.effects = Effects()
        self.effects.record()
        super().__init__(store, **settings)

    if TYPE_CHECKING:  # with the handles of this module

        def submit(  # noqa: PLR0913 - those of bide.Runner
            self,
            workflow: Workflow,
            inputs: Mapping[str, Any] | None = None,
            *,
            key: str | None = None,
            tags: Mapping[str, str] | None = None,
            priority: int = 0,
            start_at: datetime | None = None,
            start_after: Duration | None = None,
        ) -> RunHandle: ...
        def submit_many(  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # noqa: PLR0913
            self,
            workflow: Workflow,
            inputs: Iterable[Mapping[str, Any] | None],
            keys: Iterable[str | None] | None = None,
            *,
            tags: Mapping[str, str] | None = None,
            priority: int = 0,
            start_at: datetime | None = None,
            start_after: Duration | None = None,
        ) -> list[RunHandle]: ...
        async def submit_async(  # noqa: PLR0913 - as above
            self,
            workflow: Workflow,
            inputs: Mapping[str, Any] | None = None,
            *,
            key: str | None = None,
            tags: Mapping[str, str] | None = None,
            priority: int = 0,
            start_at: datetime | None = None,
            start_after: Duration | None = None,
        ) -> RunHandle: ...

    # --- time ------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time of the test, in UTC."""
        return self.clock.now

    def advance(self, span: Duration, *, executing: bool = False) -> None:
        """Move the time by seconds or a `timedelta`, from wait to wait; return when nothing happens any more.

        With `executing=True`, and in a body, a step or a stub, it also passes for bodies that execute, and their
        `timeout=` ends them: see `Clock.advance`.
        """
        self.clock.advance(span, executing=executing)
        self._notice_crash()

    def run_until_waiting(self, run: AnyRun | None = None) -> None:
        """Wait until nothing happens any more at the present time; raise `RunFailed` if `run` has failed."""
        refuse_in_body("run_until_waiting()")
        refuse_on_loop("run_until_waiting()", "`await runner.run_until_waiting_async()`")
        self.clock._core.settle()
        self._notice_crash()
        if run is not None:
            RunResult(self._snapshot(self._find_run(run, None))).raise_for_status()

    def run_until_idle(self) -> None:
        """Let the time pass until nothing happens any more by itself.

        What remains waits for a message, or for a condition that has been asked once more after everything else.
        """
        refuse_in_body("run_until_idle()")
        refuse_on_loop("run_until_idle()", "`await runner.run_until_idle_async()`")
        self.clock._core.drive(None, True)  # noqa: FBT003 - of the extension
        self._notice_crash()

    async def advance_async(self, span: Duration, *, executing: bool = False) -> None:
        """Move the time like `advance`, without blocking the event loop."""
        await self._held(functools.partial(self.advance, span, executing=executing or in_coroutine()))

    async def run_until_waiting_async(self, run: AnyRun | None = None) -> None:
        """Wait like `run_until_waiting`, without blocking the event loop."""
        await self._held(self.run_until_waiting, run)

    async def run_until_idle_async(self) -> None:
        """Let the time pass like `run_until_idle`, without blocking the event loop."""
        await self._held(self.run_until_idle)

    # --- stubs -----------------------------------------------------------------------------------------------------

    def stub_step(self, name: str, outcome: object) -> None:
        """Give `outcome` in place of each step of a name: a value, an exception to raise, or a function to call."""
        self._stubs.add("step", name, outcome)

    def stub_task(self, name: str, outcome: object) -> None:
        """Give `outcome` in place of each body of a task: a value, an exception to raise, or a function to call.

        A function is called with the arguments of the body, by position. It holds for runs that begin from here on.
        """
        self._stubs.add("task", name, outcome)
        for workflow, _ in list(self._workflows.values()):
            if name in workflow.tasks:
                del self._workflows[workflow.name]
                self.register(workflow)

    def stub_condition(self, name: str, answers: object) -> None:
        """Give `answers` in place of a condition, one after the other: the last one stands. An exception is raised."""
        self._stubs.add("condition", name, answers)

    def check_stubs(self) -> None:
        """Raise an `AssertionError` that names the stubs which were never called. Leaving the runner does so, too."""
        unused = self._stubs.unused()
        if unused is not None:
            raise AssertionError(unused)

    # --- crashes ---------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """End as if the process died now: what is not committed is lost. `restart()` continues on the same store.

        What executes on a thread cannot be stopped; it is suspended at its next call of its handle.
        """
        refuse_in_body("crash()")
        self._crash()

    def crash_after(self, *, commits: int) -> None:
        """Crash right after this many more commits: the call that waits then raises `Crashed`."""
        _core.TestClock.crash_at(self._core, self.commits + _at_least_one(commits), after=True)

    def crash_before(self, *, commits: int) -> None:
        """Crash in place of the commit with this number, counted from here: the call that waits raises `Crashed`."""
        _core.TestClock.crash_at(self._core, self.commits + _at_least_one(commits), after=False)

    @property
    def commits(self) -> int:
        """How many commits of runs there were since the runner was started."""
        return _core.TestClock.commits(self._core)

    @property
    def crashed(self) -> bool:
        """Whether the runner has crashed and was not started again."""
        return _core.TestClock.has_crashed(self._core)

    def restart(self) -> None:
        """Start again on the same store and the same clock, after a crash now if there was none."""
        refuse_in_body("restart()")
        if not self._down:
            self._crash()
        self._crashed_core = self._core
        self._core = self._open(*self._settings)
        self._loop = LoopChoice(self._core, self._loop_factory)
        self._caller_loops.clear()
        if self._on_event is not None:
            from bide import _observe  # noqa: PLC0415 - few runners are observed

            _observe.observe(self._core, self._on_event)
        self._restarts += 1
        self._down = False
        if self._entered:
            self._loop.enter()
        self.effects.record()
        known = [workflow for workflow, _ in self._workflows.values()]
        self._workflows.clear()
        for workflow in known:
            self.register(workflow)
        kept = {one.name for one in self.watches()}
        for name, (workflow, source, every) in list(self._sources.items()):
            if name in kept:
                self.watch(name, workflow, source.source, every=every)

    # --- leaving ---------------------------------------------------------------------------------------------------

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Close the runner; raise an `AssertionError` if a stub was never called."""
        super().__exit__(kind, exc, tb)
        if kind is None:
            self.check_stubs()

    async def __aenter__(self) -> Self:
        """Execute `async def` bodies on the running loop from here on, and return the runner itself."""
        self._entered = True
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the runner without blocking the event loop; raise an `AssertionError` if a stub was never called."""
        await super().__aexit__(kind, exc, tb)
        if kind is None:
            self.check_stubs()

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _close(self, grace: Duration) -> None:
        self.effects.stop()
        super()._close(grace)

    def _open(self, *settings: Any) -> "_core.Runner":  # noqa: ANN401 - those of the extension
        self._settings = settings
        make: Any = _core.Runner
        core: _core.Runner = make(*settings, clock=self.clock._core, crashed=self._crashed_core)
        self._stubs.serve(_core.TestClock.number(core))
        return core

    def _time(self) -> float:
        return self.clock._core.micros / 1_000_000

    def _test_time(self) -> datetime:
        return self.clock.now

    def _handle(self, core: "_core.RunHandle", key: str | None) -> RunHandle:
        return RunHandle(core, self, key)

    def _compile(self, workflow: Workflow) -> "_core.Workflow":
        compiled = workflow._compiled()
        tasks = self._stubs.compiled(compiled)
        if tasks is None:
            return compiled.core
        signals = None if workflow._signals is None else [one.name for one in workflow._signals]
        return _core.Workflow(compiled.name, compiled.fail_fast, tasks, signals, workflow.timeout)

    def _submit(self, *args: Any, **settings: Any) -> list[ProgramHandle]:  # noqa: ANN401 - those of bide.Runner
        settings["linger"] = False  # the time may have to pass before the run ends
        try:
            return super()._submit(*args, **settings)
        except StoreError:
            self._notice_crash()
            raise

    def _drive(self, run: "_core.RunHandle", limit: float | None) -> str:
        _surroundings.check()
        came = self.clock._core.drive(run, self._auto_advance, limit)
        self._notice_crash()
        return came

    def _step(self) -> str:
        """Wait until nothing happens any more, and then let the time pass to the next wait that ends."""
        came = self.clock._core.drive(None, self._auto_advance, None, True)  # noqa: FBT003 - of the extension
        self._notice_crash()
        return came

    def _follower(self, run: str, channel: str | Channel[Any], after: int) -> Follower[Any]:
        return TimedFollower(self, run, channel, after)

    def _request(self, run: Any, request: Any, value: object, **settings: Any) -> Any:  # noqa: ANN401 - as bide.Runner
        """Send a request from another thread, and let the time pass while it is not answered."""
        answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        found, before = self._find_run(run, settings.get("workflow")), self._core.pending_requests()

        def send() -> None:
            try:
                answers.put((True, super(Runner, self)._request(run, request, value, **settings)))
            except BaseException as error:  # noqa: BLE001 - raised by the caller
                answers.put((False, error))

        threading.Thread(target=send, name="bide-request", daemon=True).start()
        while answers.empty():
            if self._core.pending_requests() <= before:
                time.sleep(0.0002)  # it is being sent, or has just been answered
            elif self._step() == "nothing" and self._core.pending_requests() > before and answers.empty():
                raise self._never_satisfied(found)
        is_answer, came = answers.get()
        if not is_answer:
            raise came
        return came

    async def _held(self, method: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - what the method returns
        """Call a method that blocks. Meanwhile those who wait for a run on the same loop let no time pass."""
        with self.clock._hold():
            return await in_thread(method, *args)

    def _notice_crash(self) -> None:
        if not self._down and self.crashed:
            self._crash()
            msg = f"the runner has crashed after {self.commits} commits, as the test has asked for: restart() it"
            raise Crashed(msg)

    def _crash(self) -> None:
        if self._down:
            return
        self._down = True
        self.effects.stop()
        _core.TestClock.crash(self._core)
        self._loop.stop()
        until = time.monotonic() + UNWINDING
        while self._core.load()[2] and time.monotonic() < until:
            time.sleep(0.0005)

    def _never_satisfied(self, run: str) -> NeverSatisfied:
        waits = list(self._waits(run))
        hint = (
            ""
            if self._auto_advance
            else ". The time of the test stands still: move it by advance(), or make the runner with auto_advance=True"
        )
        what = "; ".join(waits) or "it waits, and shows not for what"
        return NeverSatisfied(f"nothing can continue run {run} while the test waits for it: {what}{hint}")

    def _waits(self, run: str) -> Iterable[str]:
        result = self.get(run)
        name = f"run {run} of {result.workflow!r}"
        if result.status is RunStatus.Paused:
            yield f"{name} is paused: {result.blocked_by}"
        for task, state in result.tasks.items():
            if state.status in {TaskStatus.Running, TaskStatus.Pending} and state.blocked_by is not None:
                yield f"{name}: task {task!r} {state.blocked_by}"
        for child in self.runs(parent=run):
            if child.ended_at is None:
                yield from self._waits(child.id)


def _at_least_one(commits: int) -> int:
    if isinstance(commits, bool) or not isinstance(commits, int) or commits < 1:
        msg = f"commits must be a whole number of at least 1, not {commits!r}"
        raise DefinitionError(msg)
    return commits


hold_calls(Runner, ProgramRunner, {"run_async", "submit_async", "close_async", "serve_async"})
