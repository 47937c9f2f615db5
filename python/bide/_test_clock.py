"""The clock of `bide.testing`, and the errors of its runner."""

import contextlib
from collections.abc import Generator
from datetime import UTC, datetime, timedelta

from bide import _core, _surroundings
from bide._duration import moment, seconds
from bide._errors import BideError
from bide._here import in_coroutine, refuse_on_loop
from bide._waits import Duration

START = datetime(2026, 1, 1, tzinfo=UTC)
"""What a clock shows at first."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NeverSatisfied(BideError):
    """A run waits for what nothing can bring any more while the test waits for the run."""


class Crashed(BideError):
    """The runner has crashed where the test has asked for it: `restart()` continues on its store."""


class Clock:
    """The clock of one or several runners: its time passes only when it is moved. It begins at `start`."""

    def __init__(self, start: datetime = START) -> None:
        """Show `start` at first, a datetime with a time zone."""
        self._core = _core.TestClock((moment(start, "start") - EPOCH) // timedelta(microseconds=1))

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return EPOCH + timedelta(microseconds=self._core.micros)

    def advance(self, span: Duration, *, executing: bool = False) -> None:
        """Move the time by seconds or a `timedelta`, from wait to wait; return when nothing happens any more.

        Bodies that execute are waited for first, and no time passes for them. With `executing=True` it does: it is
        moved at once, and a body whose `timeout` is over then fails. In a body, a step or a stub that is so anyway: the
        call says how long that takes.
        """
        refuse_on_loop("advance()", "`await runner.advance_async(seconds)`")
        _surroundings.check()
        moved = seconds(span, "advance", zero=True)
        if executing or _core.in_body() or in_coroutine():
            self._core.elapse(moved)
        else:
            self._core.advance(moved)

    @contextlib.contextmanager
    def _hold(self) -> Generator[None, None, None]:
        """Let no time pass for those who wait for a run."""
        self._core.hold()
        try:
            yield
        finally:
            self._core.release()

    def __repr__(self) -> str:
        """Show the time."""
        return f"<Clock at {self.now.isoformat()}>"
