"""The commands about what is stored: export, check, backup. What they do to the file is in `_file.py`."""

import sys
from typing import TYPE_CHECKING

import click

from bide._cli import _output, _shapes
from bide._cli._main import FAILED
from bide._cli._output import output_option, write
from bide._cli._store import app_option, client_of, find, snapshot_of, store_and, workflow_option

if TYPE_CHECKING:
    from bide._cli._output import Item


@click.command("export")
@store_and("run")
@workflow_option
@app_option
def export_command(store: str, run: str, *, workflow: str | None, app: str | None) -> None:
    """Print all that is stored of a run as JSON lines: the run, its tasks, journal, events and history.

    Each line has a "type": run, task, journal, event or history. Secrets of callbacks are left out, unless a body has
    emitted one.
    """
    with client_of(store, app) as client:
        result = find(client, run, workflow)
        item = _shapes.full_item(result)
        tasks: list[Item] = item.pop("tasks")
        write(_output.json_of({"type": "run", **item}))
        for task in tasks:
            write(_output.json_of({"type": "task", **task}))
        for entry in snapshot_of(result).journal():
            write(_output.json_of({"type": "journal", **_shapes.journal_item(entry)}))
        for channel in client._core.channels(result.id):
            for event in client.events(result, channel):
                write(_output.json_of({"type": "event", "channel": channel, **_shapes.event_item(event)}))
        for happened in client.history(result):
            write(_output.json_of({"type": "history", **_shapes.history_item(happened)}))


@click.command("check")
@store_and()
@output_option
def check_command(store: str, *, form: str) -> None:
    """Read everything in a store, and say what of it does not read back; exit with 1 if something does not.

    It reads a copy in the directory for temporary files (TMPDIR), so that it changes nothing and disturbs nobody.
    """
    from bide._cli import _file

    item = _file.check(store)
    problems = item["problems"]

    def text() -> str:
        counts = ", ".join(f"{item[name]:,} {name}" for name in _file.COUNTED)
        head = f"{store}: schema {item['schema']}, {counts}"
        if not problems:
            return f"{head}\neverything reads back"
        lines = [f"  {_output.cell(one['where'])}: {_output.cell(one['what'])}" for one in problems]
        return "\n".join([head, f"problems: {len(problems)}", *lines])

    _output.write_one(form, item, text)
    if problems:
        sys.exit(FAILED)


@click.command("backup")
@store_and("to")
@output_option
def backup_command(store: str, to: str, *, form: str) -> None:
    """Copy a store into a new file, TO, as it stands at one moment, while others use it.

    The copy appears under its name once it is complete.
    """
    from bide._cli import _file

    size = _file.backup(store, to)
    _output.write_one(form, {"store": store, "to": to, "bytes": size}, lambda: f"{to}: {size:,} bytes")
