"""What waits for a run of a `bide.testing.Runner` and lets its time pass: the handle of the run, and its follower."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bide._core import Channel
from bide._duration import optional_seconds
from bide._events import Follower
from bide._here import refuse_in_body, refuse_on_loop
from bide._in_thread import in_thread
from bide._result import RunResult
from bide._run_handle import RunHandle as ProgramHandle
from bide._waits import Duration

if TYPE_CHECKING:
    from bide import _core
    from bide._test_runner import Runner


class RunHandle(ProgramHandle):
    """A handle of a run of a test: who waits for it lets the time pass, if the runner is to."""

    __slots__ = ("_runner_no",)
    _runner: "Runner"

    def __init__(self, core: "_core.RunHandle", runner: "Runner", key: str | None) -> None:
        """Wrap the engine's handle."""
        super().__init__(core, runner, key)
        self._runner_no = runner._restarts

    def steps(self, name: str) -> int:
        """Return how often this run has called steps of a name, also across restarts."""
        return self._runner._stubs.calls(self.id, name)

    def result(self, timeout: Duration | None = None) -> RunResult:
        """Wait like `bide.RunHandle.result`. `timeout` is time of the test's clock."""
        refuse_in_body("RunHandle.result()")
        refuse_on_loop("RunHandle.result()", "`await handle`, or `await handle.result_async(timeout)`")
        self._drive(optional_seconds(timeout, "timeout", zero=True))
        return super().result()

    async def _wait_async(self) -> RunResult:
        return await self._result_within(None)

    async def _result_within(self, limit: float | None) -> RunResult:
        refuse_in_body("awaiting a RunHandle")
        await in_thread(self._drive, limit)
        return await super()._wait_async()

    def _drive(self, limit: float | None) -> None:
        self._renew()
        came = self._runner._drive(self._core, limit)
        if came != "ended":
            self._core.give_up()
        if came == "timeout":
            msg = f"run {self.id} has not ended within {limit} s; it continues"
            raise TimeoutError(msg)
        if came == "nothing":
            raise self._runner._never_satisfied(self.id)

    def _snapshot(self) -> RunResult:
        self._renew()
        return super()._snapshot()

    def _renew(self) -> None:
        """Take the run from the runner as it was started again."""
        if self._runner_no != self._runner._restarts:
            self._core = self._runner._core.attach(self.id)
            self._runner_no = self._runner._restarts


class TimedFollower(Follower[Any]):
    """A follower that lets the time pass, if its runner is to."""

    __slots__ = ("_run", "_runner")

    def __init__(self, runner: "Runner", run: str, channel: str | Channel[Any], after: int) -> None:
        """Follow a run that exists."""
        super().__init__(runner._core, run, channel, after)
        self._run, self._runner = run, runner

    def _wait(self) -> None:
        """Wait until something has happened."""
        if self._runner._step() == "nothing":
            # What was shown last may be committed a little later than anything else.
            super()._wait()
            found, ends = self._core.read(self.after, 1)
            if not found and not ends and self._runner._step() == "nothing":
                raise self._runner._never_satisfied(self._run)

    async def _wait_async(self) -> None:
        await in_thread(self._wait)


def hold_calls(cls: type, base: type, but: set[str]) -> None:
    """Give a class the awaitable twins of its base, but for some: they hold the time while they are under way."""
    for name in dir(base):
        if name.endswith("_async") and not name.startswith("_") and name not in but:
            setattr(cls, name, _held(getattr(base, name)))


def _held(awaitable: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(awaitable)
    async def held(self: "Runner | RunHandle", /, *args: Any, **settings: Any) -> Any:  # noqa: ANN401 - those of the twin
        runner = self._runner if isinstance(self, RunHandle) else self
        with runner.clock._hold():
            return await awaitable(self, *args, **settings)

    return held


hold_calls(RunHandle, ProgramHandle, {"result_async"})
