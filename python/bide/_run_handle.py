"""`RunHandle`: a submitted run to wait for. How it is submitted is in `_access.py`."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 - a method returns one: who looks at its annotation finds it
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from bide._duration import optional_seconds
from bide._errors import BideError, no_run, not_picklable
from bide._events import DEFAULT, Event, Follower
from bide._here import refuse_in_body, refuse_on_loop
from bide._in_thread import twin
from bide._result import RunResult
from bide._status import RunStatus
from bide._twins import RunHandleTwins

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from bide import _core
    from bide._access import StoreAccess
    from bide._core import Channel
    from bide._history import HistoryEntry
    from bide._signals import Request, Signal
    from bide._waits import Duration
    from bide._why import Why

T = TypeVar("T")
A = TypeVar("A")


class RunHandle(RunHandleTwins):
    """A submitted run. Wait for it with `handle.result()` or `await handle`."""

    __slots__ = ("__weakref__", "_core", "_runner", "key")

    def __init__(self, core: _core.RunHandle, runner: StoreAccess, key: str | None) -> None:
        """Wrap the engine's handle, which keeps the result in memory."""
        self._core = core
        self._runner = runner
        self.key = key

    @property
    def id(self) -> str:
        """The run's id, a UUIDv7."""
        return self._core.id

    def status(self) -> RunStatus:
        """Return the run's current status."""
        return self._snapshot().status

    def signal(self, signal: str | Signal[Any], value: object = None, *, id: str | None = None) -> None:  # noqa: A002
        """Send the run a signal: see `Runner.signal`."""
        self._runner.signal(self, signal, value, id=id)

    @overload
    def request(
        self, request: Request[T, A], value: T, *, timeout: Duration | None = None, id: str | None = None
    ) -> A: ...
    @overload
    def request(
        self, request: Request[None, A], value: None = None, *, timeout: Duration | None = None, id: str | None = None
    ) -> A: ...
    @overload
    def request(
        self, request: str, value: object = None, *, timeout: Duration | None = None, id: str | None = None
    ) -> Any: ...  # noqa: ANN401 - what the body answers
    def request(
        self,
        request: str | Request[Any, Any],
        value: object = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,  # noqa: A002 - the designed name
    ) -> Any:
        """Send the run a request and return its answer: see `Runner.request`."""
        return self._runner.request(self, request, value, timeout=timeout, id=id)

    def cancel(self, *, by: str | None = None, reason: str | None = None, force: bool = False) -> None:
        """Cancel the run: see `Runner.cancel`."""
        self._runner.cancel(self, by=by, reason=reason, force=force)

    def pause(self, *, by: str | None = None, reason: str | None = None) -> None:
        """Pause the run: see `Runner.pause`."""
        self._runner.pause(self, by=by, reason=reason)

    def resume(self, *, by: str | None = None, reason: str | None = None) -> None:
        """Continue the run after a pause: see `Runner.resume`."""
        self._runner.resume(self, by=by, reason=reason)

    def retry(
        self,
        *,
        from_task: str | None = None,
        fresh: bool = False,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Continue the run after it failed or was cancelled: see `Runner.retry`."""
        self._runner.retry(self, from_task=from_task, fresh=fresh, by=by, reason=reason)

    def fork(
        self,
        *,
        start_at: str | Iterable[str],
        inputs: Mapping[str, Any] | None = None,
        edit: Mapping[str, Any] | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> RunHandle:
        """Start a new run with outcomes of this one: see `Runner.fork`."""
        return self._runner.fork(self, start_at=start_at, inputs=inputs, edit=edit, by=by, reason=reason)

    def history(self) -> list[HistoryEntry]:
        """Return what has happened to the run: see `Runner.history`."""
        return self._runner.history(self)

    cancel_async = twin(cancel)
    pause_async = twin(pause)
    resume_async = twin(resume)
    retry_async = twin(retry)
    fork_async = twin(fork)
    history_async = twin(history)

    def result(self, timeout: Duration | None = None) -> RunResult:
        """Wait until the run ends and return its result; raise `RunFailed` if it failed.

        `timeout` limits this wait only (`TimeoutError`): the run continues.
        """
        refuse_in_body("RunHandle.result()")
        refuse_on_loop("RunHandle.result()", "`await handle`, or `await handle.result_async(timeout)`")
        limit = optional_seconds(timeout, "timeout", zero=True)
        if not self._core.wait(limit):
            self._core.give_up()
            msg = f"run {self.id} has not ended within {limit} s; it continues"
            raise TimeoutError(msg)
        return self._settled()

    @overload
    def events(self, channel: str = DEFAULT, *, after: int = 0) -> Iterator[Event[Any]]: ...
    @overload
    def events(self, channel: Channel[T], *, after: int = 0) -> Iterator[Event[T]]: ...
    def events(self, channel: str | Channel[Any] = DEFAULT, *, after: int = 0) -> Iterator[Event[Any]]:
        """Iterate over the events that the run has emitted so far, like `Runner.events`."""
        return self._runner.events(self, channel, after=after)

    @overload
    def follow(self, channel: str = DEFAULT, *, after: int = 0) -> Follower[Any]: ...
    @overload
    def follow(self, channel: Channel[T], *, after: int = 0) -> Follower[T]: ...
    def follow(self, channel: str | Channel[Any] = DEFAULT, *, after: int = 0) -> Follower[Any]:
        """Iterate over the events of the run as they come, like `Runner.follow`."""
        return self._runner.follow(self, channel, after=after)

    @overload
    def latest(self, channel: str = DEFAULT) -> Event[Any] | None: ...
    @overload
    def latest(self, channel: Channel[T]) -> Event[T] | None: ...
    def latest(self, channel: str | Channel[Any] = DEFAULT) -> Event[Any] | None:
        """Return the last event of a channel of the run; None if there is none."""
        return self._runner.latest(self, channel)

    def why(self) -> Why:
        """Return what holds each unfinished task of the run, like `Runner.why`."""
        return self._runner.why(self)

    why_async = twin(why)

    def __await__(self) -> Generator[Any, None, RunResult]:
        """Wait on the running event loop."""
        return self._wait_async().__await__()

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = "RunHandle"
        raise not_picklable(what, "pass its id on, and use runner.get(id)")

    def __repr__(self) -> str:
        """Show the id."""
        return f"<RunHandle of run {self.id}>"

    async def _wait_async(self) -> RunResult:
        refuse_in_body("awaiting a RunHandle")
        while not self._core.wait(0):  # again if another runner has claimed the run
            await self._runner._caller_loop().settled(self._core)
        return self._settled()

    async def _result_within(self, limit: float | None) -> RunResult:
        if limit is None:
            return await self._wait_async()
        import asyncio  # noqa: PLC0415 - the caller has imported it

        try:
            async with asyncio.timeout(limit):
                return await self._wait_async()
        except TimeoutError:
            msg = f"run {self.id} has not ended within {limit} s; it continues"
            raise TimeoutError(msg) from None

    def _snapshot(self) -> RunResult:
        snapshot = self._core.snapshot()
        if snapshot is None:
            raise BideError(no_run(self.id))
        return RunResult(snapshot)

    def _settled(self) -> RunResult:
        result = self._snapshot()
        if result.status in {RunStatus.Failed, RunStatus.Cancelled}:
            originals = dict(self._core.take_originals())
            first = result.error
            result._cause = originals.get(first.task or "") if first is not None else None
            result.raise_for_status()
        return result
