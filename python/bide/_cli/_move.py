"""The command that moves the unfinished runs of a store to another one."""

import sys

import click

from bide._cli._main import FAILED
from bide._cli._output import cell, output_option, write_one
from bide._cli._store import check_there
from bide._core import _transfer


@click.command("move")
@click.argument("store", metavar="STORE", type=click.Path())
@click.argument("to", metavar="STORE", type=click.Path())
@output_option
def move_command(store: str, to: str, *, form: str) -> None:
    """Move the unfinished runs of the first STORE to the second one, with the runs that they belong to.

    No runner may have the first one. Each run, with all below it, moves in one commit; where this is interrupted, the
    same command goes on. Runs that have ended stay, and so do schedules, watches and limits, which the application
    defines.
    """
    check_there(store)
    families = _transfer(store, to)
    moved = [(run, count) for run, count, why in families if why is None]
    kept = [(run, why) for run, _, why in families if why is not None]
    runs = sum(count for _, count in moved)
    item = {
        "moved": [{"run": run, "runs": count} for run, count in moved],
        "kept": [{"run": run, "reason": why} for run, why in kept],
    }

    def text() -> str:
        lines = [f"{runs:,} {'run' if runs == 1 else 'runs'} moved"]
        lines += [f"  {run} stays: {cell(why)}" for run, why in kept]
        return "\n".join(lines)

    write_one(form, item, text)
    if kept:
        sys.exit(FAILED)
