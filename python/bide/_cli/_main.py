"""The commands by name, and what becomes of their errors: messages and exit codes."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import click

from bide._core import __version__

MODULES = {
    "_look": ("runs", "show", "why", "waiting", "events", "history"),
    "_live": ("watch", "follow"),
    "_act": (
        "signal",
        "resolve",
        "reject",
        "cancel",
        "pause",
        "resume",
        "retry",
        "delete",
        "fork",
        "satisfy",
        "extend",
        "skip",
    ),
    "_rules": (
        "schedules",
        "pause-schedule",
        "resume-schedule",
        "trigger",
        "backfill",
        "unschedule",
        "watches",
        "pause-watch",
        "resume-watch",
        "unwatch",
        "limits",
    ),
    "_keep": ("export", "check", "backup"),
    "_move": ("move",),
    "_serve": ("serve",),
}
"""The commands by the module that has them; it is imported when one of them is called."""

PLACES = {name: module for module, names in MODULES.items() for name in names}

FAILED, USAGE, NOT_FOUND, INTERRUPTED = 1, 2, 3, 130
"""Exit codes. `FAILED`: the run failed, or what was asked could not be done."""


class Failure(click.ClickException):
    """What was asked could not be done."""

    exit_code = FAILED


class NotFound(click.ClickException):
    """There is no such run or store."""

    exit_code = NOT_FOUND


class Commands(click.Group):
    """The commands, each imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click has it
        """Return the names, in the order of the documentation."""
        return list(PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as click has it
        """Return a command."""
        place = PLACES.get(cmd_name)
        if place is None:
            return None
        found: click.Command = getattr(
            importlib.import_module(f"bide._cli.{place}"), f"{cmd_name.replace('-', '_')}_command"
        )
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; name the nearest one of a mistyped one."""
        if args and args[0] not in PLACES and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], PLACES, 1)
            hint = f", did you mean {near[0]!r}?" if near else "; `bide --help` lists what there is"
            msg = f"there is no command {args[0]!r}{hint}"
            raise click.UsageError(msg, ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke a command, and turn errors of bide into messages."""
        return reported(lambda: super(Commands, self).invoke(ctx))


IN_PYTHON = {
    "force=True": "--force",
    "runner.resume(run)": "`bide resume`",
    "runner.retry(run, from_task=..., fresh=True)": "`bide retry --from-task ... --fresh`",
    "retry(run, from_task=...)": "`bide retry --from-task ...`",
    "runner.retry(run)": "`bide retry`",
    "runner.fork(run, start_at=...)": "`bide fork --start-at ...`",
}
"""What messages say of Python, and what it is called here."""


def in_words(error: BaseException) -> str:
    """Return what an error says, in words of the command line."""
    text = str(error)
    for python, command in IN_PYTHON.items():
        text = text.replace(python, command)
    return f"{text}; `bide check` finds all that does not read back" if text.endswith(" or is damaged") else text


def reported(act: Callable[[], Any]) -> Any:
    """Call something, and turn errors of bide into messages with exit codes."""
    from bide._errors import BideError, DefinitionError, SerializationError

    try:
        return act()
    except (DefinitionError, SerializationError) as error:
        raise click.UsageError(in_words(error), click.get_current_context(silent=True)) from None
    except (BideError, TimeoutError) as error:
        raise Failure(in_words(error)) from None
    except KeyError as error:
        # What a lookup says; one of a mistake in bide says only a name.
        if not error.args or " " not in str(error.args[0]):
            raise
        raise NotFound(str(error.args[0])) from None
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Look at the runs of a store, and act on them, from outside of the processes that execute them.

    STORE is the path of the store, or the URL of one in PostgreSQL. Without it the environment variable BIDE_STORE
    names one: then the password of a URL is in no list of processes. A RUN is named by its id, the beginning of its id,
    or its key.

    Exit codes: 0 done, 1 the run failed or what was asked could not be done, 2 a mistake in the command, 3 no such
    store or run.
    """
