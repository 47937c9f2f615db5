"""The awaitable twins `<name>_async` of the methods of `Runner`, `Client` and `RunHandle` that block.

Runs are submitted and awaited without a thread for each call. Every other twin calls the method on a worker thread of
the loop (`asyncio.to_thread`): these are rare.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from bide._duration import optional_seconds
from bide._events import DEFAULT
from bide._here import refuse_in_body
from bide._in_thread import in_thread
from bide._options import options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime, timedelta

    from bide._access import StoreAccess
    from bide._core import Channel
    from bide._events import Event
    from bide._limits import LimitInfo
    from bide._reads import Run
    from bide._result import RunResult
    from bide._run_handle import RunHandle
    from bide._runner import Runner
    from bide._signals import Request, Signal
    from bide._status import RunStatus
    from bide._waits import Duration
    from bide._why import OpenWait, Why
    from bide._workflow import Workflow

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")


def _access(twins: StoreTwins) -> StoreAccess:
    return twins  # type: ignore[return-value] # pyright: ignore[reportReturnType] # nothing else has them


def _runner(twins: RunnerTwins) -> Runner:
    return twins  # type: ignore[return-value] # pyright: ignore[reportReturnType] # nothing else has them


def _handle(twins: RunHandleTwins) -> RunHandle:
    return twins  # type: ignore[return-value] # pyright: ignore[reportReturnType] # nothing else has them


class StoreTwins:
    """The twins of what a `Runner` and a `Client` have in common. See the methods of the same name without `_async`."""

    async def submit_async(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
        priority: int = 0,
        start_at: datetime | None = None,
        start_after: Duration | None = None,
    ) -> RunHandle:
        """Submit a run like `submit`, without blocking the event loop."""
        said = options("submit_async", tags, priority, start_at, start_after, _access(self)._time)
        return await _access(self)._submit_soon(workflow, inputs, key, said)

    async def submit_many_async(
        self,
        workflow: Workflow,
        inputs: Iterable[Mapping[str, Any] | None],
        keys: Iterable[str | None] | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        priority: int = 0,
        start_at: datetime | None = None,
        start_after: Duration | None = None,
    ) -> list[RunHandle]:
        """Submit runs like `submit_many`, without blocking the event loop."""
        said: dict[str, Any] = {"tags": tags, "priority": priority, "start_at": start_at, "start_after": start_after}
        return await in_thread(_access(self).submit_many, workflow, inputs, keys, **said)

    async def signal_async(
        self,
        run: Run,
        signal: str | Signal[Any],
        value: object = None,
        *,
        id: str | None = None,
        workflow: Workflow | str | None = None,
    ) -> None:
        """Send a signal like `signal`, without blocking the event loop."""
        await in_thread(_access(self).signal, run, signal, value, id=id, workflow=workflow)

    async def signal_many_async(
        self, signals: Iterable[tuple[Any, ...]], *, workflow: Workflow | str | None = None
    ) -> None:
        """Send signals like `signal_many`, without blocking the event loop."""
        await in_thread(_access(self).signal_many, signals, workflow=workflow)

    @overload
    async def request_async(
        self,
        run: Run,
        request: Request[T, A],
        value: T,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
        workflow: Workflow | str | None = None,
    ) -> A: ...
    @overload
    async def request_async(
        self,
        run: Run,
        request: Request[None, A],
        value: None = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
        workflow: Workflow | str | None = None,
    ) -> A: ...
    @overload
    async def request_async(
        self,
        run: Run,
        request: str,
        value: object = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
        workflow: Workflow | str | None = None,
    ) -> Any: ...
    async def request_async(
        self,
        run: Run,
        request: str | Request[Any, Any],
        value: object = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
        workflow: Workflow | str | None = None,
    ) -> Any:
        """Send a request like `request`, without blocking the event loop."""
        return await in_thread(_access(self)._request, run, request, value, timeout=timeout, id=id, workflow=workflow)

    async def resolve_async(self, token: str, value: object = None, *, id: str | None = None) -> None:
        """Answer a callback like `resolve`, without blocking the event loop."""
        await in_thread(_access(self).resolve, token, value, id=id)

    async def reject_async(self, token: str, reason: str, *, id: str | None = None) -> None:
        """Reject a callback like `reject`, without blocking the event loop."""
        await in_thread(_access(self).reject, token, reason, id=id)

    async def get_async(self, id_or_key: str, *, workflow: Workflow | str | None = None) -> RunResult:
        """Return a run's state like `get`, without blocking the event loop."""
        return await in_thread(_access(self).get, id_or_key, workflow=workflow)

    async def runs_async(
        self,
        *,
        status: RunStatus | str | None = None,
        workflow: Workflow | str | None = None,
        since: datetime | timedelta | None = None,
        tags: Mapping[str, str] | None = None,
        key_prefix: str | None = None,
        parent: Run | None = None,
        limit: int | None = None,
    ) -> list[RunResult]:
        """Return runs like `runs`, without blocking the event loop."""
        return await in_thread(
            _access(self).runs,
            status=status,
            workflow=workflow,
            since=since,
            tags=tags,
            key_prefix=key_prefix,
            parent=parent,
            limit=limit,
        )

    @overload
    async def events_async(
        self, run: Run, channel: str = DEFAULT, *, after: int = 0, workflow: Workflow | str | None = None
    ) -> list[Event[Any]]: ...
    @overload
    async def events_async(
        self, run: Run, channel: Channel[T], *, after: int = 0, workflow: Workflow | str | None = None
    ) -> list[Event[T]]: ...
    async def events_async(
        self,
        run: Run,
        channel: str | Channel[Any] = DEFAULT,
        *,
        after: int = 0,
        workflow: Workflow | str | None = None,
    ) -> list[Event[Any]]:
        """Return the events that `events` iterates over, without blocking the event loop."""
        return await in_thread(lambda: list(_access(self).events(run, channel, after=after, workflow=workflow)))

    @overload
    async def latest_async(
        self, run: Run, channel: str = DEFAULT, *, workflow: Workflow | str | None = None
    ) -> Event[Any] | None: ...
    @overload
    async def latest_async(
        self, run: Run, channel: Channel[T], *, workflow: Workflow | str | None = None
    ) -> Event[T] | None: ...
    async def latest_async(
        self, run: Run, channel: str | Channel[Any] = DEFAULT, *, workflow: Workflow | str | None = None
    ) -> Event[Any] | None:
        """Return the last event like `latest`, without blocking the event loop."""
        return await in_thread(lambda: _access(self).latest(run, channel, workflow=workflow))

    async def why_async(self, run: Run, *, workflow: Workflow | str | None = None) -> Why:
        """Return what holds a run like `why`, without blocking the event loop."""
        return await in_thread(_access(self).why, run, workflow=workflow)

    async def waiting_async(self, *, limit: int = 100, after: OpenWait | str | None = None) -> list[OpenWait]:
        """Return open waits like `waiting`, without blocking the event loop."""
        return await in_thread(_access(self).waiting, limit=limit, after=after)

    async def limits_async(self) -> list[LimitInfo]:
        """Return the limits of the store like `limits`, without blocking the event loop."""
        return await in_thread(_access(self).limits)


class RunnerTwins:
    """The twins of a `Runner` alone. See the methods of the same name without `_async`."""

    async def run_async(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        tags: Mapping[str, str] | None = None,
        priority: int = 0,
        start_at: datetime | None = None,
        start_after: Duration | None = None,
    ) -> RunResult:
        """Run a workflow like `run`, without blocking the event loop."""
        refuse_in_body("Runner.run_async()")
        limit = optional_seconds(timeout, "timeout", zero=True)
        said = options("run_async", tags, priority, start_at, start_after, _runner(self)._time)
        submitted = _runner(self)._submit_soon(workflow, inputs, key, said, awaited=True, until_end=limit is None)
        return await (await submitted)._result_within(limit)

    async def register_async(self, workflow: Workflow) -> None:
        """Register a workflow like `register`, without blocking the event loop."""
        await in_thread(_runner(self).register, workflow)

    async def close_async(self, grace: Duration = 5.0) -> None:
        """Close the runner like `close`, without blocking the event loop, on which bodies unwind meanwhile."""
        await in_thread(_runner(self)._close, grace)

    async def serve_async(self) -> None:
        """Run until SIGTERM or Ctrl-C like `serve`, without blocking the event loop of the main thread."""
        import asyncio  # noqa: PLC0415 - the caller has imported it
        import signal  # noqa: PLC0415 - for this alone

        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, stop.set)
        try:
            while not _runner(self)._core.closed and not stop.is_set():
                # Not `asyncio.wait_for`: up to 3.11 it loses a cancellation that comes together with the signal.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await stop.wait()
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
        await _runner(self).close_async()


class RunHandleTwins:
    """The twins of a `RunHandle`. See the methods of the same name without `_async`."""

    __slots__ = ()

    async def status_async(self) -> RunStatus:
        """Return the run's status like `status`, without blocking the event loop."""
        return await in_thread(_handle(self).status)

    async def result_async(self, timeout: Duration | None = None) -> RunResult:
        """Wait until the run ends like `result`, without blocking the event loop; `await handle` is short for it."""
        return await _handle(self)._result_within(optional_seconds(timeout, "timeout", zero=True))

    async def signal_async(self, signal: str | Signal[Any], value: object = None, *, id: str | None = None) -> None:
        """Send the run a signal like `signal`, without blocking the event loop."""
        await in_thread(_handle(self).signal, signal, value, id=id)

    @overload
    async def request_async(
        self,
        request: Request[T, A],
        value: T,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
    ) -> A: ...
    @overload
    async def request_async(
        self,
        request: Request[None, A],
        value: None = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
    ) -> A: ...
    @overload
    async def request_async(
        self,
        request: str,
        value: object = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
    ) -> Any: ...
    async def request_async(
        self,
        request: str | Request[Any, Any],
        value: object = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
    ) -> Any:
        """Send the run a request like `request`, without blocking the event loop."""
        return await in_thread(_handle(self)._runner._request, _handle(self), request, value, timeout=timeout, id=id)

    @overload
    async def events_async(self, channel: str = DEFAULT, *, after: int = 0) -> list[Event[Any]]: ...
    @overload
    async def events_async(self, channel: Channel[T], *, after: int = 0) -> list[Event[T]]: ...
    async def events_async(self, channel: str | Channel[Any] = DEFAULT, *, after: int = 0) -> list[Event[Any]]:
        """Return the events that `events` iterates over, without blocking the event loop."""
        return await _handle(self)._runner.events_async(_handle(self), channel, after=after)

    @overload
    async def latest_async(self, channel: str = DEFAULT) -> Event[Any] | None: ...
    @overload
    async def latest_async(self, channel: Channel[T]) -> Event[T] | None: ...
    async def latest_async(self, channel: str | Channel[Any] = DEFAULT) -> Event[Any] | None:
        """Return the last event like `latest`, without blocking the event loop."""
        return await _handle(self)._runner.latest_async(_handle(self), channel)
