"""Schedules: `schedule`, `backfill` and what else a `Runner` or a `Client` does with them.

A schedule is a row of the store. Which runs it starts, and when, the executor decides (`rust/core/src/schedules/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import msgspec

from bide._codec import Codec
from bide._duration import count, moment, seconds
from bide._errors import DefinitionError, SerializationError
from bide._in_thread import twin
from bide._text import check_text

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from bide._access import StoreAccess
    from bide._run_handle import RunHandle
    from bide._waits import Duration
    from bide._workflow import Workflow

    Zone: TypeAlias = str | ZoneInfo | timezone

MOMENT_INPUT = "scheduled_at"
"""The input that gets the moment of the tick."""

MOST = 10_000
"""How many runs `backfill` starts at most without `most=`."""

_SAMPLE = datetime(2000, 1, 1, tzinfo=UTC)
_SAMPLE_TEXT = "2000-01-01T00:00:00Z"
_MICROSECOND = timedelta(microseconds=1)
_VALUES = Codec(where="an input of a schedule", root="value")


class Cron(msgspec.Struct, frozen=True):
    """A cron expression and the time zone that it counts in.

    The expression has five fields (minute, hour, day of month, month, day of week), or six with seconds before them, or
    is `"@daily"`, `"@hourly"` and the like. The zone is a name such as `"Europe/Berlin"`, or a `ZoneInfo`.
    """

    expression: str
    tz: "Zone" = "UTC"


class Schedule(msgspec.Struct, frozen=True):
    """A schedule as it stands in the store."""

    name: str
    workflow: str
    """The name of the workflow of which it starts runs."""
    when: Cron | timedelta
    """When it has its ticks."""
    inputs: dict[str, Any]
    """The inputs of its runs, decoded without the annotations of the tasks."""
    on_miss: str
    overlap: str
    jitter: float
    """Seconds by which a run starts after its tick at most."""
    created_at: datetime
    paused_at: datetime | None
    """Since when it is paused; None if it is not."""
    next: datetime | None
    """Its next tick; None while it is paused."""
    last: datetime | None
    """The last tick that has started a run."""
    last_run: str | None
    """The id of that run."""
    queued: tuple[datetime, ...]
    """Ticks that wait for an earlier run to end."""

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return self.paused_at is not None


class Asked(msgspec.Struct, frozen=True):
    """What is said about a schedule, as the executor takes it."""

    name: str
    cron: tuple[str, str] | None
    every: int | None
    """Microseconds between ticks."""
    inputs: list[tuple[str, bytes]]
    moment: str | None
    """The tag of the value by which the moment is stored; None if the workflow does not take it."""
    on_miss: str
    overlap: str
    jitter: int
    """Microseconds."""


class Schedules:
    """What a `Runner` or a `Client` does with the schedules of a store."""

    def schedule(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        name: str,
        workflow: Workflow,
        when: Cron | timedelta | str,
        *,
        inputs: Mapping[str, Any] | None = None,
        on_miss: Literal["latest", "all", "skip"] = "latest",
        overlap: Literal["allow", "skip", "queue", "cancel"] = "allow",
        jitter: Duration = 0,
        tz: Zone | None = None,
    ) -> Schedule:
        """Have runs of a workflow started at certain times, until `unschedule(name)`.

        `when` is a cron expression in the time zone `tz` (UTC if there is none), a `bide.Cron`, or a `timedelta`
        between two ticks. The schedule is committed: it is served by every runner of the store that has the workflow,
        also after a restart. Each tick starts one run, with the key `name@<moment>`. A task that takes `scheduled_at`
        gets the moment of the tick, a `datetime` in UTC.

        Of ticks at which no runner was there, `on_miss` starts the `"latest"`, `"all"`, or none (`"skip"`). While a run
        of an earlier tick has not ended, `overlap` starts the next one beside it (`"allow"`), not at all (`"skip"`),
        afterwards (`"queue"`), or afterwards and cancels that one (`"cancel"`). A run starts up to `jitter` after its
        tick.

        The same call again changes nothing; with other settings it changes the schedule, for ticks from now on.
        """
        access = cast("StoreAccess", self)
        name = check_text(name, "schedule: name")
        core = access._core_workflow(workflow)
        cron, every = _when(name, when, tz)
        encoded, tag = _inputs(name, workflow, inputs)
        asked = Asked(
            name,
            cron,
            every,
            encoded,
            tag,
            _one_of("on_miss", on_miss, ("latest", "all", "skip")),
            _one_of("overlap", overlap, ("allow", "skip", "queue", "cancel")),
            int(seconds(jitter, "jitter", zero=True) * 1_000_000),
        )
        return _shown(access._core.schedule(core, asked))

    def schedules(self) -> list[Schedule]:
        """Return all schedules of the store, by name."""
        return [_shown(one) for one in cast("StoreAccess", self)._core.schedules()]

    def pause_schedule(self, name: str) -> None:
        """Have a schedule start no runs until `resume_schedule`; runs that it has started continue."""
        self._alter(name, "pause")

    def resume_schedule(self, name: str) -> None:
        """Have a paused schedule start runs again, from its next tick on."""
        self._alter(name, "resume")

    def trigger(self, name: str) -> RunHandle:
        """Start a run of a schedule now, also if it is paused or another run has not ended, and return its handle.

        `scheduled_at` is the moment of the call.
        """
        started = self._alter(name, "trigger")
        assert started is not None  # noqa: S101 - what it answers to this
        return self._handle_of(started)

    def backfill(self, name: str, since: datetime, until: datetime, *, most: int = MOST) -> list[RunHandle]:
        """Start a run for each tick from `since` to `until`, both included, that has none; return those of all of them.

        They start at once, whatever `overlap` says. More than `most` ticks are refused, and none of them starts a run.
        """
        return self._backfill(name, since, until, most, "pass most= to start that many")

    def _backfill(self, name: str, since: datetime, until: datetime, most: int, more: str) -> list[RunHandle]:
        """Do the same; `more` says in an error how to start more runs."""
        access = cast("StoreAccess", self)
        name = check_text(name, "schedule: name")
        first, last = moment(since, "since"), moment(until, "until")
        if last < first:
            msg = f"backfill: until ({until!r}) is before since ({since!r})"
            raise DefinitionError(msg)
        limit = count(most, "most")
        try:
            started = access._core.backfill(name, _micros(first), _micros(last), limit)
        except KeyError:
            raise self._no_schedule(name) from None
        except OverflowError:
            msg = (
                f"schedule {name!r} has more than {limit:,} ticks from {since} to {until}, each of which would start a "
                f"run: name a shorter time, or {more}"
            )
            raise DefinitionError(msg) from None
        return [self._handle_of(one) for one in started]

    def unschedule(self, name: str) -> None:
        """Remove a schedule. The runs that it has started stay."""
        self._alter(name, "remove")

    schedule_async = twin(schedule)
    schedules_async = twin(schedules)
    pause_schedule_async = twin(pause_schedule)
    resume_schedule_async = twin(resume_schedule)
    trigger_async = twin(trigger)
    backfill_async = twin(backfill)
    unschedule_async = twin(unschedule)

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _alter(self, name: str, what: Literal["pause", "resume", "remove", "trigger"]) -> tuple[str, str] | None:
        name = check_text(name, "schedule: name")
        try:
            return cast("StoreAccess", self)._core.alter_schedule(name, what)
        except KeyError:
            raise self._no_schedule(name) from None

    def _no_schedule(self, name: str) -> KeyError:
        names = ", ".join(repr(one.name) for one in self.schedules()) or "none"
        msg = f"no schedule is named {name!r} (schedules: {names})"
        return KeyError(msg)

    def _handle_of(self, started: tuple[str, str]) -> RunHandle:
        from bide._run_handle import RunHandle  # noqa: PLC0415 - it imports this module's users

        access, (run, key) = cast("StoreAccess", self), started
        return RunHandle(access._core.attach(run), access, key)


def _when(name: str, when: object, tz: object) -> tuple[tuple[str, str] | None, int | None]:
    """Return the expression and zone of a schedule, or its microseconds between ticks."""
    if isinstance(when, timedelta):
        if tz is not None:
            msg = f"schedule {name!r}: tz is for cron expressions; a timedelta is the same in every zone"
            raise DefinitionError(msg)
        seconds(when, f"schedule {name!r}: when")
        return None, when // _MICROSECOND
    if isinstance(when, Cron):
        if tz is not None:
            msg = f"schedule {name!r}: give the zone to bide.Cron or as tz, not both"
            raise DefinitionError(msg)
        expression, tz = when.expression, when.tz
    else:
        expression = when  # type: ignore[assignment] # pyright: ignore[reportAssignmentType] # checked now
    if not isinstance(expression, str):
        msg = (
            f"schedule {name!r}: when must be a cron expression such as '30 2 * * *', a bide.Cron or a timedelta, "
            f"not {when!r}"
        )
        raise DefinitionError(msg)
    return (check_text(expression, f"schedule {name!r}: the cron expression"), _zone_name(name, tz)), None


def _zone_name(name: str, tz: object) -> str:
    if tz is None or tz is UTC:
        return "UTC"
    key = tz if isinstance(tz, str) else getattr(tz, "key", None)
    if not isinstance(key, str) or not key:
        msg = (
            f"schedule {name!r}: tz must be the name of a time zone, such as 'Europe/Berlin', or a ZoneInfo with a "
            f"name, not {tz!r}"
        )
        raise DefinitionError(msg)
    return check_text(key, f"schedule {name!r}: tz")


def _inputs(
    name: str, workflow: Workflow, inputs: Mapping[str, Any] | None
) -> tuple[list[tuple[str, bytes]], str | None]:
    """Return the encoded inputs of the runs of a schedule, and how they get the moment of their tick."""
    compiled = workflow._compiled()
    if MOMENT_INPUT not in compiled.inputs:
        return compiled.encode_inputs(inputs), None
    if inputs is not None and not isinstance(inputs, Mapping):
        compiled.check_names(inputs)
    if inputs is not None and MOMENT_INPUT in inputs:
        msg = f"schedule {name!r}: {MOMENT_INPUT!r} is the moment of the tick: leave it out of the inputs"
        raise DefinitionError(msg)
    plan = compiled.inputs[MOMENT_INPUT]
    for sample, stored, tag in ((_SAMPLE, f'j"{_SAMPLE_TEXT}"', "j"), (_SAMPLE_TEXT, f"s{_SAMPLE_TEXT}", "s")):
        try:
            if plan.encode(sample) != stored.encode():
                continue
        except SerializationError:
            continue
        encoded = compiled.encode_inputs({**(inputs or {}), MOMENT_INPUT: sample})
        return [pair for pair in encoded if pair[0] != MOMENT_INPUT], tag
    readers = ", ".join(repr(task) for task in dict.fromkeys(compiled.readers(MOMENT_INPUT)))
    msg = (
        f"schedule {name!r}: the input {MOMENT_INPUT!r} gets the moment of the tick, a datetime, which does not fit "
        f"what the tasks take it as ({readers}): annotate it datetime or str"
    )
    raise DefinitionError(msg)


def _one_of(what: str, given: object, names: tuple[str, ...]) -> str:
    if not isinstance(given, str) or given not in names:
        msg = f"{what} must be one of {', '.join(map(repr, names))}, not {given!r}"
        raise DefinitionError(msg)
    return given


def _micros(when: datetime) -> int:
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND


def _shown(found: dict[str, Any]) -> Schedule:
    """Return a schedule as the extension shows it."""
    cron, tz, every = found.pop("cron"), found.pop("tz"), found.pop("every")
    when = Cron(cron, tz) if cron is not None else timedelta(microseconds=every)
    inputs = {name: _VALUES.decode(data) for name, data in found.pop("inputs")}
    found["jitter"] /= 1_000_000
    found["queued"] = tuple(found["queued"])
    return Schedule(when=when, inputs=inputs, **found)
