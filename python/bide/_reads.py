"""Finding the runs of a store and looking at them: what a `Runner` and a `Client` show."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from bide import _core, _events, _options
from bide._duration import count, moment
from bide._errors import DefinitionError, no_run
from bide._events import DEFAULT, Event, Follower
from bide._here import refuse_in_body
from bide._result import RunResult
from bide._run_handle import RunHandle
from bide._text import check_text, escape_surrogates, is_text
from bide._workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bide._core import Channel
    from bide._limits import LimitInfo
    from bide._status import RunStatus
    from bide._why import OpenWait, Why

T = TypeVar("T")

Run: TypeAlias = str | RunHandle | RunResult
"""A run: its id, its key, a handle or a result of it."""

PAGE = 100
"""How many open waits `waiting()` returns by default."""


class Reads:
    """What reads the runs of a store."""

    def __init__(self, core: _core.Runner) -> None:
        """Wrap the engine, or its client."""
        self._core = core

    def get(self, id_or_key: str, *, workflow: Workflow | str | None = None) -> RunResult:
        """Return a run's current state; raise `KeyError` if there is none, or if runs of two workflows have the key."""
        return RunResult(self._snapshot(self._find(id_or_key, workflow)))

    def runs(  # noqa: PLR0913 - each is a setting of its own, by keyword
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
        """Return runs in their current state, newest first.

        `since` is a time span or a datetime with a time zone. With `tags`, only runs that have all of these; with
        `key_prefix`, only runs whose key begins so; with `parent`, only the runs that the bodies of that run started.
        """
        micros = None
        if since is not None:
            then = (
                self._time() - since.total_seconds()
                if isinstance(since, timedelta)
                else moment(since, "since").timestamp()
            )
            micros = int(then * 1_000_000)
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        most = None if limit is None else count(limit, "limit")
        tagged = _options.check_tags(tags, "runs")
        if name is not None and not is_text(name):
            return []
        prefix = None if key_prefix is None else check_text(key_prefix, "key_prefix")
        above = None if parent is None else self._find_run(parent, None)
        one = None if status is None else escape_surrogates(str(status))
        return [RunResult(found) for found in self._core.runs(one, name, micros, most, tagged, prefix, above)]

    @overload
    def events(
        self, run: Run, channel: str = DEFAULT, *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Iterator[Event[Any]]: ...
    @overload
    def events(
        self, run: Run, channel: Channel[T], *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Iterator[Event[T]]: ...
    def events(
        self, run: Run, channel: str | Channel[Any] = DEFAULT, *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Iterator[Event[Any]]:
        """Iterate over the events that a run has emitted to a channel so far, those after the offset `after`.

        `run` is an id, a key (with `workflow`, if runs of several workflows have it), a handle or a result. It may be
        executed by another process, or have ended.
        """
        return _events.events(self._core, self._find_run(run, workflow), channel, after)

    @overload
    def follow(
        self, run: Run, channel: str = DEFAULT, *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Follower[Any]: ...
    @overload
    def follow(
        self, run: Run, channel: Channel[T], *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Follower[T]: ...
    def follow(
        self, run: Run, channel: str | Channel[Any] = DEFAULT, *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Follower[Any]:
        """Iterate over the events of a run, also those to come, until it ends: by `for` or by `async for`.

        The arguments are those of `events`.
        """
        refuse_in_body(f"{type(self).__name__}.follow()")
        return self._follower(self._find_run(run, workflow), channel, after)

    @overload
    def latest(
        self, run: Run, channel: str = DEFAULT, *, workflow: Workflow | str | None = None
    ) -> Event[Any] | None: ...
    @overload
    def latest(self, run: Run, channel: Channel[T], *, workflow: Workflow | str | None = None) -> Event[T] | None: ...
    def latest(
        self, run: Run, channel: str | Channel[Any] = DEFAULT, *, workflow: Workflow | str | None = None
    ) -> Event[Any] | None:
        """Return the last event that a run has emitted to a channel; None if there is none."""
        return _events.latest(self._core, self._find_run(run, workflow), channel)

    def why(self, run: Run, *, workflow: Workflow | str | None = None) -> Why:
        """Return what holds each unfinished task of a run: structured, and as text by `str()`.

        Polls and the next poll are known if this process executes the run. Raises `KeyError` if there is no such run.
        """
        from bide import _why  # noqa: PLC0415 - for those who look

        return _why.why(self._core, self._find_run(run, workflow), self._test_time())

    def waiting(self, *, limit: int = PAGE, after: OpenWait | str | None = None) -> list[OpenWait]:
        """Return the open waits of all unfinished runs, the oldest first.

        They come in pages of `limit`: `after` is the last wait of the page before, or its `cursor`.
        """
        from bide import _why  # noqa: PLC0415 - as above

        return _why.waiting(self._core, count(limit, "limit"), after, self._test_time())

    def limits(self) -> list[LimitInfo]:
        """Return the limits that were defined in this store, by name, with how much of each is used."""
        from bide import _limits  # noqa: PLC0415 - as above

        return _limits.limits(self._core)

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _test_time(self) -> datetime | None:
        """Return the time of the clock of a test, if this has one."""
        return None

    def _time(self) -> float:
        """Return the time in seconds since 1970, by the clock of the runner."""
        return _core._system_time()

    def _follower(self, run: str, channel: str | Channel[Any], after: int) -> Follower[Any]:
        return Follower(self._core, run, channel, after)

    def _find_run(self, run: Run, workflow: Workflow | str | None) -> str:
        return run.id if isinstance(run, (RunHandle, RunResult)) else self._find(run, workflow)

    def _find(self, id_or_key: str, workflow: Workflow | str | None) -> str:
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        if not isinstance(id_or_key, str) or not (name is None or isinstance(name, str)):
            msg = f"a run is found by its id or key and its workflow, which are strings, not {id_or_key!r}, {name!r}"
            raise DefinitionError(msg)
        known = is_text(id_or_key) and (name is None or is_text(name))
        found = self._core.find(id_or_key, name) if known else []
        if not found:
            msg = f"no run has the id or key {id_or_key!r}" + (f" in workflow {name!r}" if name else "")
            raise KeyError(msg)
        if len(found) > 1:
            names = " and ".join(sorted(repr(one) for _, one in found))
            msg = f"the key {id_or_key!r} belongs to runs of {names}: choose one with workflow="
            raise KeyError(msg)
        return found[0][0]

    def _snapshot(self, run: str) -> _core.Snapshot:
        snapshot = self._core.snapshot(run)
        if snapshot is None:
            raise KeyError(no_run(run))
        return snapshot
