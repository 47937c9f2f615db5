"""The command that executes runs: serve."""

import os
import re
import sys
from typing import TYPE_CHECKING, Literal

import click

from bide._cli._main import FAILED
from bide._cli._output import note
from bide._cli._store import APP, STORE, check_there, load, span_of
from bide._text import shown_store

if TYPE_CHECKING:
    from datetime import timedelta

_APP = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[\w.]+")


@click.command("serve")
@click.argument("args", nargs=-1, metavar="[STORE] [MODULE:OBJECT]", type=click.Path())
@click.option("--app", metavar="MODULE:OBJECT", help="The workflows, or a list of them (default: BIDE_APP).")
@click.option("--create", is_flag=True, help="Make the store if it is not there.")
@click.option("--slots", type=click.IntRange(min=1), help="How many bodies may execute at once.")
@click.option("--async-slots", type=click.IntRange(min=1), default=1000, help="How many coroutines (default: 1000).")
@click.option("--durability", type=click.Choice(["normal", "full"]), default="normal", help="What a commit survives.")
@click.option(
    "--grace", type=span_of, metavar="SPAN", default="5", help="How long bodies may go on then (default: 5 s)."
)
def serve_command(
    args: tuple[str, ...],
    *,
    app: str | None,
    create: bool,
    slots: int | None,
    async_slots: int,
    durability: Literal["normal", "full"],
    grace: "timedelta",
) -> None:
    """Execute the runs of an application's workflows, until SIGTERM or Ctrl-C.

    Then bodies that wait are suspended, others have the grace to end, and another process continues their runs.
    """
    import logging

    from bide._runner import Runner

    store, app = _arguments(args, app)
    if not create:
        check_there(store)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    workflows = load(app)
    runner = Runner(store, workflows=workflows, slots=slots, async_slots=async_slots, durability=durability)
    note(f"process {os.getpid()} executes {', '.join(one.name for one in workflows)} on {shown_store(store)}")
    if not runner._serve(grace):
        sys.exit(FAILED)  # it has logged why


def _arguments(args: tuple[str, ...], app: str | None) -> tuple[str, str]:
    """Return the store and the application: arguments before the environment."""
    apps = [one for one in args if _APP.fullmatch(one)] if app is None else []
    stores = [one for one in args if one not in apps[:1]]
    app = next(iter(apps), app) or os.environ.get(APP)
    store = next(iter(stores), None) or os.environ.get(STORE)
    ctx = click.get_current_context(silent=True)
    if len(stores) > 1:
        # They are not shown: the store may be a URL with a password.
        msg = "too many arguments: serve takes [STORE] [MODULE:OBJECT]; a module alone is named by --app MODULE"
        raise click.UsageError(msg, ctx)
    if store is None:
        msg = f"which store? `bide serve STORE MODULE:OBJECT`, or set {STORE}"
        raise click.UsageError(msg, ctx)
    if app is None:
        msg = f"which workflows? `bide serve STORE MODULE:OBJECT`, or set {APP}"
        raise click.UsageError(msg, ctx)
    return store, app
