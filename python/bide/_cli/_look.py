"""The commands that show runs: runs, show, why, waiting, events, history."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from bide._cli import _output, _shapes
from bide._cli._main import FAILED
from bide._cli._output import Column, Item, note, output_option
from bide._cli._store import (
    app_option,
    client_of,
    find,
    of_ids,
    of_workflow_option,
    since_option,
    status_option,
    store_and,
    tag_option,
    workflow_option,
)
from bide._client import Client
from bide._control import ENDED
from bide._result import RunResult
from bide._status import RunStatus, TaskStatus
from bide._text import shown

NEWEST = 100
"""How many runs are listed by default."""

PAGE = 1000
"""How many are read at once of all."""


def span(since: datetime | None, until: datetime | None) -> str | None:
    """Return how long something took, or takes so far."""
    if since is None:
        return None
    seconds = ((until or datetime.now(UTC)) - since).total_seconds()
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.1f} s"


def task_note(task: Item) -> str | None:
    """Return what there is to say of a task: its error, its progress, what it waits for."""
    if task["error"] is not None and task["status"] == TaskStatus.Failed:
        return f"{task['error']['type']}: {task['error']['message']}"
    progress = task["progress"]
    if progress is not None and task["ended_at"] is None:
        of = "" if progress["total"] is None else f"/{progress['total']:g}"
        return " ".join(filter(None, [f"{progress['done']:g}{of}", progress["message"]]))
    text: str | None = task["blocked_by"]
    return text


RUN_COLUMNS: list[Column] = [
    ("id", lambda run: run["id"]),
    ("status", lambda run: run["status"]),
    ("workflow", lambda run: run["workflow"]),
    ("key", lambda run: run["key"]),
    ("started", lambda run: run["started_at"]),
    ("took", lambda run: span(run["started_at"], run["ended_at"])),
    ("tags", lambda run: " ".join(f"{name}={value}" for name, value in run["tags"].items()) or None),
    ("blocked by", lambda run: run["blocked_by"]),
]
TASK_COLUMNS: list[Column] = [
    ("task", lambda task: task["name"]),
    ("status", lambda task: task["sub_status"] if task["sub_status"] == "Deferred" else task["status"]),
    ("attempts", lambda task: task["attempts"]),
    ("started", lambda task: task["started_at"]),
    ("took", lambda task: span(task["started_at"], task["ended_at"])),
    ("waited", lambda task: f"{task['waited']:.1f} s" if task["waited"] else None),
    ("", task_note),
]
WAIT_COLUMNS: list[Column] = [
    ("since", lambda wait: wait["since"]),
    ("run", lambda wait: wait["run"]),
    ("key", lambda wait: wait["key"]),
    ("workflow", lambda wait: wait["workflow"]),
    ("task", lambda wait: wait["task"]),
    ("kind", lambda wait: wait["kind"]),
    ("waits for", lambda wait: wait["name"]),
    ("due", lambda wait: wait["due"]),
    ("deadline", lambda wait: wait["deadline"]),
    ("error", lambda wait: wait["error"]),
]
HISTORY_COLUMNS: list[Column] = [
    ("at", lambda entry: entry["at"]),
    ("what", lambda entry: entry["what"]),
    ("task", lambda entry: entry["task"]),
    ("name", lambda entry: entry["name"]),
    ("by", lambda entry: entry["by"]),
    ("reason", lambda entry: entry["reason"]),
]
EVENT_COLUMNS: list[Column] = [
    ("offset", lambda event: event["offset"]),
    ("time", lambda event: event["time"]),
    ("task", lambda event: event["task"]),
    ("value", lambda event: event["value"]),
]


@click.command("runs")
@store_and()
@status_option
@of_workflow_option
@since_option
@tag_option
@click.option("--key", help="Only runs with this key.")
@click.option("--key-prefix", metavar="TEXT", help="Only runs whose key begins so.")
@click.option("--parent", metavar="RUN", help="Only runs that bodies of this one have started.")
@click.option("--limit", type=click.IntRange(min=1), help=f"At most this many (default: {NEWEST}).")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@output_option
@app_option
def runs_command(
    store: str,
    *,
    status: RunStatus | None,
    workflow: str | None,
    since: datetime | None,
    tags: tuple[tuple[str, str], ...],
    key: str | None,
    key_prefix: str | None,
    parent: str | None,
    limit: int | None,
    everything: bool,
    form: str,
    app: str | None,
) -> None:
    """List runs, the newest first."""
    if everything and limit is not None:
        msg = "--all and --limit contradict each other"
        raise click.UsageError(msg, click.get_current_context())
    most = NEWEST if limit is None else limit
    with client_of(store, app) as client:
        above = None if parent is None else find(client, parent)
        chosen: dict[str, Any] = {"status": status, "workflow": workflow, "since": since, "tags": dict(tags) or None}
        chosen |= {"key_prefix": key_prefix, "parent": above}
        if key is not None:
            found = _with_key(client, key, chosen)
        elif everything:
            found = _all(client, chosen)
        else:
            found = iter(client.runs(**chosen, limit=most + 1))
        items = (_shapes.run_item(run) for run in found)
        if everything or key is not None:
            _output.write_all(form, items, RUN_COLUMNS, nothing="no such runs")
            return
        listed = list(items)
        _output.write_all(form, listed[:most], RUN_COLUMNS, nothing="no such runs")
        if len(listed) > most and limit is None:
            note(f"the newest {most} runs; --all or --limit lists more")


def _with_key(client: Client, key: str, chosen: dict[str, Any]) -> Iterator[RunResult]:
    """Yield the runs with a key that the other filters choose too."""
    workflow, status, since, tags, parent = (chosen[name] for name in ("workflow", "status", "since", "tags", "parent"))
    prefix = chosen["key_prefix"] or ""
    for run_id, _ in client._core.find(key, workflow):
        run = client.get(run_id)
        fits = run.key == key and key.startswith(prefix) and status in {None, run.status}
        fits = fits and (since is None or run.started_at >= since)
        fits = fits and (tags is None or tags.items() <= run.tags.items())
        if fits and (parent is None or run.parent == parent.id):
            yield run


def _all(client: Client, chosen: dict[str, Any]) -> Iterator[RunResult]:
    """Yield all runs, page by page: with filters they are few, or fit into memory."""
    if any(value is not None for value in chosen.values()):
        yield from client.runs(**chosen)
        return
    first, last = "0" * 8 + "-0000-0000-0000-" + "0" * 12, "f" * 8 + "-ffff-ffff-ffff-" + "f" * 12
    while page := of_ids(client, (first, last), PAGE):
        yield from page
        if len(page) < PAGE:
            return
        last = _before(page[-1].id)


def _before(run: str) -> str:
    digits = f"{int(run.replace('-', ''), 16) - 1:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@click.command("show")
@store_and("run")
@workflow_option
@click.option("--exit-status", is_flag=True, help="Exit with 1 if the run failed or was cancelled.")
@output_option
@app_option
def show_command(store: str, run: str, *, workflow: str | None, exit_status: bool, form: str, app: str | None) -> None:
    """Show a run: its inputs, its tasks and what they returned."""
    with client_of(store, app) as client:
        found = find(client, run, workflow)
        item = _shapes.full_item(found)
        _output.write_one(form, item, lambda: described(item))
    if exit_status and has_failed(found):
        sys.exit(FAILED)


def has_failed(run: RunResult) -> bool:
    """Whether a run has ended and not completed."""
    return run.status in ENDED and run.status is not RunStatus.Completed


def described(item: Item) -> str:
    """Return a run in words."""
    lines = [("run", item["id"]), ("workflow", item["workflow"]), ("status", item["status"])]
    if item["blocked_by"] and item["ended_at"] is None:
        lines.append(("blocked by", item["blocked_by"]))
    if item["key"] is not None:
        lines.append(("key", item["key"]))
    if item["parent"] is not None:
        lines.append(("parent", item["parent"]))
    lines += [("tag", f"{name}={value}") for name, value in item["tags"].items()]
    lines.append(("started", _output.cell(item["started_at"]) + " UTC"))
    if item["ended_at"] is not None:
        took = span(item["started_at"], item["ended_at"])
        lines.append(("ended", f"{_output.cell(item['ended_at'])} UTC, after {took}"))
    if item["inputs"]:
        lines.append(("inputs", _output.json_of(item["inputs"])))
    if item["context"]:
        lines.append(("context", _output.json_of(item["context"])))
    text = [f"{title + ':':<11} {shown(said)}" for title, said in lines]
    cells = [[_output.cell(of(task)) for _, of in TASK_COLUMNS] for task in item["tasks"]]
    if cells:
        text += ["", *("  ".join(row).rstrip() for row in _output.table([title for title, _ in TASK_COLUMNS], cells))]
    outputs = [task for task in item["tasks"] if task["status"] == TaskStatus.Completed and task["output"] is not None]
    if outputs:
        text += ["", *(f"{shown(task['name'])} = {_output.cell(task['output'])}" for task in outputs)]
    if item["error"] is not None and item["error"]["traceback"]:
        text += ["", *map(shown, item["error"]["traceback"].rstrip().splitlines())]
    return "\n".join(text)


@click.command("why")
@store_and("run")
@workflow_option
@output_option
def why_command(store: str, run: str, *, workflow: str | None, form: str) -> None:
    """Say what holds a run, and each of its tasks that has not ended."""
    with client_of(store) as client:
        why = client.why(find(client, run, workflow))
        _output.write_one(form, _shapes.why_item(why), lambda: str(why))


@click.command("waiting")
@store_and()
@click.option("--limit", type=click.IntRange(min=1), default=NEWEST, help=f"At most this many (default: {NEWEST}).")
@click.option("--after", metavar="CURSOR", help="Only those after the wait with this cursor.")
@output_option
def waiting_command(store: str, *, limit: int, after: str | None, form: str) -> None:
    """List the open waits of all runs, the oldest first."""
    with client_of(store) as client:
        waits = client.waiting(limit=limit + 1, after=after)
        items = [_shapes.wait_item(wait) for wait in waits[:limit]]
        _output.write_all(form, items, WAIT_COLUMNS, nothing="nothing waits")
        if len(waits) > limit:
            note(f"the oldest {limit} waits; --after {waits[limit - 1].cursor} lists those after them")


@click.command("history")
@store_and("run")
@workflow_option
@output_option
def history_command(store: str, run: str, *, workflow: str | None, form: str) -> None:
    """Tell what has happened to a run, the oldest first."""
    with client_of(store) as client:
        items = [_shapes.history_item(entry) for entry in client.history(find(client, run, workflow))]
        _output.write_all(form, items, HISTORY_COLUMNS)


@click.command("events")
@store_and("run")
@click.option("--channel", default="events", help="The channel (default: events).")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="OFFSET", help="Only those after this offset.")
@workflow_option
@output_option
def events_command(store: str, run: str, *, channel: str, after: int, workflow: str | None, form: str) -> None:
    """List what a run has emitted to a channel."""
    with client_of(store) as client:
        found = client.events(find(client, run, workflow), channel, after=after)
        items = (_shapes.event_item(event) for event in found)
        nothing = f"nothing was emitted to channel {channel!r}"
        _output.write_all(form, items, EVENT_COLUMNS, nothing=nothing)


def event_line(item: Item) -> str:
    """Return an event in a line."""
    return f"{_output.cell(item['time'])}  {_output.cell(item['task'])}  {_output.cell(item['value'])}"
