"""The commands that go on until a run has ended: watch, follow."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from bide._cli import _output, _shapes
from bide._cli._look import event_line, has_failed, span, task_note
from bide._cli._main import FAILED
from bide._cli._output import Item, output_option
from bide._cli._store import app_option, client_of, find, span_of, store_and, workflow_option
from bide._control import ENDED
from bide._status import TaskStatus

if TYPE_CHECKING:
    from datetime import timedelta

    from rich.console import RenderableType

    from bide._client import Client
    from bide._result import RunResult

ENDED_TASKS = (TaskStatus.Completed, TaskStatus.Failed, TaskStatus.Skipped, TaskStatus.Cancelled)


@click.command("watch")
@store_and("run")
@click.option("--interval", type=span_of, metavar="SPAN", default="0.5", help="How often to look (default: 0.5 s).")
@workflow_option
@output_option
@app_option
def watch_command(
    store: str, run: str, *, interval: "timedelta", workflow: str | None, form: str, app: str | None
) -> None:
    """Show a run live, until it has ended; exit with 1 if it failed or was cancelled.

    In a pipe, or with another output than a table, it prints each state of the run that differs from the one before.
    """
    seconds = max(interval.total_seconds(), 0.05)
    with client_of(store, app) as client:
        found = find(client, run, workflow)
        states = _states(client, found, seconds)
        is_live = form == "table" and sys.stdout.isatty()
        last = _show_live(client, found, states) if is_live else _print_each(found, states, form)
    if has_failed(last):
        sys.exit(FAILED)


def _states(client: "Client", run: "RunResult", seconds: float) -> "Iterator[RunResult]":
    """Yield the run as it stands, until it has ended; its end is seen at once."""
    handle = client._core.attach(run.id)
    while run.status not in ENDED:
        yield run
        handle.wait(seconds)
        run = client.get(run.id)
    yield run


def _print_each(run: "RunResult", states: "Iterator[RunResult]", form: str) -> "RunResult":
    before: list[str] = []
    for state in states:
        run = state
        item = _shapes.full_item(run)
        if form == "table":
            now = list(_lines(item))
            for line in now:
                if line not in before:
                    _output.write(line)
            before = now
            continue
        now = [_output.json_of(item)]
        if now != before:
            if form == "yaml":
                _output.write("---")
            _output.write_one("yaml" if form == "yaml" else "jsonl", item, str)
        before = now
    return run


def _lines(item: Item) -> Iterator[str]:
    """Yield what can be said of a run in lines that stay the same while nothing changes."""
    blocked = f": {item['blocked_by']}" if item["blocked_by"] and item["ended_at"] is None else ""
    yield f"run {item['id']} of {_output.cell(item['workflow'])} is {item['status']}{_output.cell(blocked)}"
    for task in item["tasks"]:
        said = task_note(task)
        status = task["sub_status"] if task["sub_status"] == "Deferred" else task["status"]
        if task["status"] != TaskStatus.Pending or said:
            yield f"task {_output.cell(task['name'])} is {status}{f': {_output.cell(said)}' if said else ''}"


def _show_live(client: "Client", run: "RunResult", states: "Iterator[RunResult]") -> "RunResult":
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for state in states:
            run = state
            waits = {} if run.status in ENDED else _waits(client, run)
            most = max(console.height - 6, 5)
            live.update(_drawn(_shapes.full_item(run), waits, most), refresh=True)
    return run


def _waits(client: "Client", run: "RunResult") -> dict[str, str]:
    """Return what the tasks of a run wait for, by their names."""
    try:
        why = client.why(run.id)
    except KeyError:
        return {}
    return {task.name: ", ".join(wait._described() for wait in task.waits) for task in why.tasks if task.waits}


def _drawn(item: Item, waits: dict[str, str], most: int) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colours = _output.COLOURS
    key = "" if item["key"] is None else f" ({_output.cell(item['key'])})"
    head = Text.assemble(
        f"{_output.cell(item['workflow'])}{key}  {item['id']}  ",
        (item["status"], colours.get(item["status"], "")),
        f"  {span(item['started_at'], item['ended_at'])}",
    )
    if item["blocked_by"] and item["ended_at"] is None:
        head.append(f"\n{_output.cell(item['blocked_by'])}")
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("task", "status", "attempts", "took", ""):
        grid.add_column(title, overflow="fold")
    tasks = item["tasks"]
    if len(tasks) > most:  # first what goes on
        tasks = sorted(tasks, key=_rank)[:most]
    for task in tasks:
        status = task["sub_status"] if task["sub_status"] == "Deferred" else task["status"]
        said = waits.get(task["name"]) or task_note(task) or ""
        grid.add_row(
            Text(_output.cell(task["name"])),
            Text(status, colours.get(status, "")),
            str(task["attempts"]),
            span(task["started_at"], task["ended_at"]) or "",
            Text(_output.cell(said)),
        )
    hidden = len(item["tasks"]) - len(tasks)
    parts: list[Any] = [head, grid]
    if hidden:
        parts.append(Text(f"and {hidden} more tasks", "dim"))
    return Group(*parts)


def _rank(task: Item) -> int:
    if task["status"] == TaskStatus.Failed:
        return 0
    if task["status"] in {TaskStatus.Running, TaskStatus.Ready}:
        return 1
    return 3 if task["status"] in ENDED_TASKS else 2


@click.command("follow")
@store_and("run")
@click.option("--channel", default="events", help="The channel (default: events).")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="OFFSET", help="Only those after this offset.")
@click.option("--raw", is_flag=True, help="Print the values alone; texts without quotes and line breaks between them.")
@workflow_option
@output_option
def follow_command(
    store: str, run: str, *, channel: str, after: int, raw: bool, workflow: str | None, form: str
) -> None:
    """Print what a run emits to a channel as it comes, until the run has ended; exit with 1 if it failed."""
    with client_of(store) as client:
        found = find(client, run, workflow)
        for event in client.follow(found, channel, after=after):
            item = _shapes.event_item(event)
            if raw:
                _write_raw(item["value"])
            elif form == "table":
                _output.write(event_line(item))
            elif form == "yaml":
                _output.write_yaml([item])
            else:
                _output.write(_output.json_of(item))
        last = client.get(found.id)
    if has_failed(last):
        sys.exit(FAILED)


def _write_raw(value: object) -> None:
    sys.stdout.write(value if isinstance(value, str) else _output.json_of(value) + "\n")
    sys.stdout.flush()
