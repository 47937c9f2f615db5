"""What a live run shows: channels of events, how they are read and followed, and the progress of tasks.

Emitting is the engine's; its guarantees are in `docs/live.md`.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

import msgspec

from bide._codec import Codec
from bide._core import Channel
from bide._duration import as_float, count
from bide._errors import DefinitionError
from bide._text import check_text

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Iterator

    from bide import _core

T = TypeVar("T")

DEFAULT = "events"
"""The channel of an `emit` that names none."""

MOST = 1000
"""About how many events are read at once."""

LONGEST_MESSAGE = 1000
"""How many characters the message of a progress may have."""


class Event(msgspec.Struct, Generic[T], frozen=True):
    """A value that a body has emitted: with its offset in the channel, when, and by which task and attempt.

    `entry` names the step or wait within which it was emitted; None outside of one.
    """

    value: T
    offset: int
    time: datetime
    task: str
    attempt: int
    entry: str | None


class Progress(msgspec.Struct, frozen=True):
    """How far a task has come, as its body said last: `done` of `total` (None if it did not say), at `time`."""

    done: float
    total: float | None
    message: str | None
    time: datetime


@overload
def channel(name: str, *, keep: int | None = None) -> Channel[Any]: ...
@overload
def channel(name: str, type: type[T], *, keep: int | None = None) -> Channel[T]: ...
@overload
def channel(name: str, type: Any, *, keep: int | None = None) -> Channel[Any]: ...  # noqa: ANN401 - a union
def channel(name: str, type: Any = Any, *, keep: int | None = None) -> Channel[Any]:  # noqa: A002
    """Return a channel of events, to emit to and to read from: its name, and the type of its values.

    With `keep` it keeps only that many of the last events. A channel has one type within a run.
    """
    check_text(name, "channel(name)")
    kept = None if keep is None else count(keep, f"channel {name!r}: keep")
    codec = Codec(type, f"channel {name!r}", root="event", remedy="give the channel a type by bide.channel(name, type)")
    return Channel(name, codec.type_name, kept, codec)


@functools.lru_cache(maxsize=1024)
def _plain(name: str) -> Channel[Any]:
    return channel(name)


EVENTS = _plain(DEFAULT)
"""The channel of an `emit` that names none."""


def channel_of(given: object) -> Channel[Any]:
    """Return the channel that an argument names: by `bide.channel(...)`, or by its name alone."""
    if isinstance(given, Channel):
        return given
    if not isinstance(given, str):
        msg = f"channel must be a name or a bide.channel(...), not {given!r}"
        raise DefinitionError(msg)
    return _plain(check_text(given, "channel"))


def check_progress(done: object, total: object, message: object) -> tuple[float, float | None, str | None]:
    """Check the arguments of `handle.progress`."""
    if message is not None and (not isinstance(message, str) or not message.isascii()):
        message = check_text(message, "handle.progress: message")
    if message is not None and len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE - 1] + "…"
    return _number(done, "done"), None if total is None else _number(total, "total"), message


def _number(value: object, what: str) -> float:
    given = as_float(value)
    if given is None or not 0 <= given < math.inf:
        msg = f"handle.progress: {what} must be a finite number of at least 0, not {value!r}"
        raise DefinitionError(msg)
    return given


def check_after(after: object) -> int:
    """Check the `after=` of a reader: an offset, or 0."""
    if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after < 2**63:
        msg = f"after must be the offset of an event, or 0 for all events, not {after!r}"
        raise DefinitionError(msg)
    return after


def latest(runner: _core.Runner, run: str, channel: object) -> Event[Any] | None:
    """Return the last event of a channel of a run."""
    found = runner.latest(run, channel_of(channel))
    return None if found is None else Event(*found)


def events(runner: _core.Runner, run: str, channel: object, after: int) -> Iterator[Event[Any]]:
    """Iterate over the events of a channel of a run that are there when they are read."""
    follower, at = runner.follow(run, channel_of(channel)), check_after(after)
    return _read(follower, at)


def _read(follower: _core.Follower, after: int) -> Iterator[Event[Any]]:
    while True:
        found, _ = follower.read(after, MOST)
        if not found:
            return
        for fields in found:
            yield Event(*fields)
        after = found[-1][1]


class Follower(Generic[T]):
    """The events of a channel of a run, those that are there and those that come, until the run has ended.

    An iterator for `for` and for `async for`. `after` is the offset of the last event that it has returned: pass it to
    `follow` to go on from there.
    """

    __slots__ = ("_buffer", "_core", "_loop", "_rung", "_waits", "after")

    def __init__(self, runner: _core.Runner, run: str, channel: object, after: int) -> None:
        """Follow a run that exists."""
        self.after = check_after(after)
        self._core = runner.follow(run, channel_of(channel))
        self._buffer: deque[Event[T]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung: asyncio.Event | None = None
        self._waits = False

    def __iter__(self) -> Self:
        """Return the follower itself."""
        return self

    def __next__(self) -> Event[T]:
        """Wait for the next event."""
        while not self._buffer:
            if self._fill(*self._core.read(self.after, MOST)):
                raise StopIteration
            if not self._buffer:
                self._wait()
        return self._next()

    def __aiter__(self) -> AsyncIterator[Event[T]]:
        """Return the follower itself."""
        return self

    async def __anext__(self) -> Event[T]:
        """Wait for the next event, without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - the caller has imported it

        while not self._buffer:
            if self._fill(*await asyncio.to_thread(self._core.read, self.after, MOST)):
                raise StopAsyncIteration
            if not self._buffer:
                await self._wait_async()
        return self._next()

    def _wait(self) -> None:
        self._core.wait()

    def _fill(self, found: list[_core._EventFields], last: bool) -> bool:  # noqa: FBT001 - as it is read
        self._buffer.extend(Event(*fields) for fields in found)
        return last

    def _next(self) -> Event[T]:
        event = self._buffer.popleft()
        self.after = event.offset
        return event

    async def _wait_async(self) -> None:
        import asyncio  # noqa: PLC0415 - as above

        loop = asyncio.get_running_loop()
        if self._rung is None or self._loop is not loop:
            # An event belongs to the loop in which it is first waited for.
            self._loop, self._rung, self._waits = loop, asyncio.Event(), False
        rung = self._rung
        if not self._waits:

            def on_ring() -> None:
                if self._rung is rung:
                    self._waits = False
                if not loop.is_closed():
                    loop.call_soon_threadsafe(rung.set)

            rung.clear()
            self._waits = True
            self._core.on_ring(on_ring)
        # Not `asyncio.wait_for`: up to 3.11 it loses a cancellation that comes together with the ring.
        with contextlib.suppress(TimeoutError):  # of a run that another process executes nothing rings
            async with asyncio.timeout(self._core.patience):
                await rung.wait()
