"""The commands about what holds for many runs: schedules, watches and limits."""

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from bide._cli import _output
from bide._cli._output import Column, Item, output_option, write_one
from bide._cli._store import client_of, since_of, store_and
from bide._client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from bide._limits import LimitInfo, LimitUse
    from bide._schedules import Schedule
    from bide._sources import Watch

ANY_NUMBER = 10**9
"""How many ticks `backfill --yes` takes."""

SCHEDULE_COLUMNS: list[Column] = [
    ("name", lambda one: one["name"]),
    ("workflow", lambda one: one["workflow"]),
    ("when", lambda one: one["cron"] or f"every {one['every']:g} s"),
    ("zone", lambda one: one["zone"]),
    ("next", lambda one: one["next"] or "paused"),
    ("last", lambda one: one["last"]),
    ("run", lambda one: one["last_run"]),
    ("queued", lambda one: len(one["queued"]) or None),
]


def _state(one: Item) -> str:
    if one["paused_at"] is not None:
        return "paused"
    if not one["served"]:
        return "no runner"
    return "fails" if one["error"] is not None else "served"


WATCH_COLUMNS: list[Column] = [
    ("name", lambda one: one["name"]),
    ("workflow", lambda one: one["workflow"]),
    ("every", lambda one: f"{one['every']:g} s"),
    ("state", _state),
    ("started", lambda one: one["started"]),
    ("last", lambda one: one["last"]),
    ("error", lambda one: one["error"]),
]
LIMIT_COLUMNS: list[Column] = [
    ("limit", lambda one: one["name"]),
    ("key", lambda one: one["key"]),
    ("executing", lambda one: _of(one, "executing", "most_executing")),
    ("in flight", lambda one: _of(one, "in_flight", "most_in_flight")),
    ("started", lambda one: _of(one, "started", "most_started")),
    ("held back", lambda one: one["waiting"] or None),
]


def _of(one: Item, used: str, most: str) -> str | None:
    return None if one[most] is None else f"{one[used]} of {one[most]}"


def schedule_item(one: "Schedule") -> Item:
    """Return what is printed of a schedule."""
    is_span = isinstance(one.when, timedelta)
    return {
        "name": one.name,
        "workflow": one.workflow,
        "cron": None if is_span else one.when.expression,  # type: ignore[union-attr]
        "zone": None if is_span else str(one.when.tz),  # type: ignore[union-attr]
        "every": one.when.total_seconds() if isinstance(one.when, timedelta) else None,
        "inputs": one.inputs,
        "on_miss": one.on_miss,
        "overlap": one.overlap,
        "jitter": one.jitter,
        "created_at": one.created_at,
        "paused_at": one.paused_at,
        "next": one.next,
        "last": one.last,
        "last_run": one.last_run,
        "queued": list(one.queued),
    }


def watch_item(one: "Watch") -> Item:
    """Return what is printed of a watch."""
    return {
        "name": one.name,
        "workflow": one.workflow,
        "every": one.every,
        "cursor": one.cursor,
        "created_at": one.created_at,
        "paused_at": one.paused_at,
        "served": one.served,
        "started": one.started,
        "last": one.last,
        "last_run": one.last_run,
        "error": one.error,
        "failing_since": one.failing_since,
    }


def limit_item(one: "LimitInfo", use: "LimitUse | None") -> Item:
    """Return what is printed of a limit, for one value of its key."""
    limit = one.limit
    times, span = limit.rate or (None, None)
    return {
        "name": limit.name,
        "by": limit.key,
        "key": None if use is None else use.key,
        "executing": 0 if use is None else use.executing,
        "most_executing": limit.executing,
        "in_flight": 0 if use is None else use.in_flight,
        "most_in_flight": limit.in_flight,
        "started": 0 if use is None else use.started,
        "most_started": times,
        "rate_seconds": span,
        "waiting": 0 if use is None else use.waiting,
    }


@click.command("schedules")
@store_and()
@output_option
def schedules_command(store: str, *, form: str) -> None:
    """List the schedules, by name."""
    with client_of(store) as client:
        items = [schedule_item(one) for one in client.schedules()]
        _output.write_all(form, items, SCHEDULE_COLUMNS, nothing="there are no schedules")


@click.command("limits")
@store_and()
@output_option
def limits_command(store: str, *, form: str) -> None:
    """List the limits, by name, and how much of each is used."""
    with client_of(store) as client:
        items = [limit_item(one, use) for one in client.limits() for use in one.uses or (None,)]
        _output.write_all(form, items, LIMIT_COLUMNS, nothing="there are no limits")


@click.command("watches")
@store_and()
@output_option
def watches_command(store: str, *, form: str) -> None:
    """List the watches, by name."""
    with client_of(store) as client:
        items = [watch_item(one) for one in client.watches()]
        _output.write_all(form, items, WATCH_COLUMNS, nothing="there are no watches")


def _changes(act: "Callable[[Client, str], None]", done: str, help_text: str) -> click.Command:
    """Make the command that does this to a schedule or watch; `done` is what is said of it then."""
    what = "watch" if "watch" in act.__name__ else "schedule"

    @click.command(act.__name__.replace("_", "-"), help=help_text)
    @store_and("name")
    @output_option
    def command(store: str, name: str, *, form: str) -> None:
        with client_of(store) as client:
            act(client, name)
            write_one(form, {what: name}, lambda: f"{what} {name!r} {done}")

    return command


pause_schedule_command = _changes(
    Client.pause_schedule, "is paused", "Have a schedule start no runs until it is resumed."
)
resume_schedule_command = _changes(Client.resume_schedule, "goes on", "Have a paused schedule start runs again.")
unschedule_command = _changes(Client.unschedule, "was removed", "Remove a schedule; the runs that it has started stay.")
pause_watch_command = _changes(
    Client.pause_watch, "is paused", "Have the source of a watch not called until it is resumed."
)
resume_watch_command = _changes(Client.resume_watch, "goes on", "Have the source of a paused watch called again.")
unwatch_command = _changes(
    Client.unwatch, "was removed", "Remove a watch; the runs that it has started stay, and its keys start no run again."
)


@click.command("trigger")
@store_and("name")
@output_option
def trigger_command(store: str, name: str, *, form: str) -> None:
    """Start a run of a schedule now."""
    with client_of(store) as client:
        run = client.trigger(name).id
        write_one(form, {"schedule": name, "run": run}, lambda: run)


@click.command("backfill")
@store_and("name", "since", "until")
@click.option("--yes", is_flag=True, help="Start more than 10,000 runs, too.")
@output_option
def backfill_command(store: str, name: str, since: str, until: str, *, yes: bool, form: str) -> None:
    """Start a run for each tick of a schedule from SINCE to UNTIL that has none."""
    from bide._schedules import MOST

    first, last = since_of(since), since_of(until)
    with client_of(store) as client:
        most = ANY_NUMBER if yes else MOST
        handles = client._backfill(name, first, last, most, "pass --yes to start that many")
        items: list[Item] = [{"run": handle.id} for handle in handles]
        _output.write_all(form, items, [("run", lambda one: one["run"])], nothing="no tick is left to run")
