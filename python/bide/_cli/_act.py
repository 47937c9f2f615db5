"""The commands that send something to runs or ask something of them."""

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from bide._cli._main import Failure
from bide._cli._output import output_option, write_one
from bide._cli._store import (
    STDIN,
    Command,
    app_option,
    client_of,
    filter_of,
    find,
    json_value,
    pair_of,
    span_of,
    store_and,
    store_and_runs,
    workflow_of,
    workflow_option,
)

if TYPE_CHECKING:
    from bide._cli._output import Item
    from bide._client import Client
    from bide._codec import Codec


def _user() -> str | None:
    """Return who calls, as far as the environment says."""
    return os.environ.get("LOGNAME") or os.environ.get("USER") or None


def _who_and_why(command: Command) -> Command:
    by = click.option("--by", default=_user, help="Who asks, for the history (default: the user).")
    return by(click.option("--reason", help="Why, for the history.")(command))


def _value_options(command: Command) -> Command:
    value = click.option("--value", metavar="JSON", help="The value (default: null); - reads it from standard input.")
    return value(click.option("--text", help="The value, if it is a text: without quotes.")(command))


def _given(value: str | None, text: str | None) -> Any:
    if value is not None and text is not None:
        msg = "--value and --text contradict each other"
        raise click.UsageError(msg, click.get_current_context())
    if text is not None:
        return text
    return None if value is None else json_value(value, "--value")


def _typed(codec: "Codec", value: object) -> Any:
    """Return a value of JSON as one of the type that it is sent to: so it is checked before it is sent."""
    from bide._codec import Codec

    return codec.decode(Codec().encode(value))


def _done(form: str, item: "Item", text: str) -> None:
    write_one(form, item, lambda: text)


# --- messages --------------------------------------------------------------------------------------------------------


@click.command("signal")
@store_and("run", "name")
@_value_options
@click.option("--id", "message_id", help="A run takes one signal with this id.")
@workflow_option
@output_option
@app_option
def signal_command(
    store: str,
    run: str,
    name: str,
    *,
    value: str | None,
    text: str | None,
    message_id: str | None,
    workflow: str | None,
    form: str,
    app: str | None,
) -> None:
    """Send a signal to a run."""
    with client_of(store, app) as client:
        found = find(client, run, workflow)
        given = _given(value, text)
        code = workflow_of(client, found)
        declared = next((one for one in (code._signals if code else None) or () if one.name == name), None)
        if declared is not None:
            given = _typed(declared.codec, given)
        client.signal(found, name, given, id=message_id)
        _done(form, {"run": found.id, "signal": name}, f"run {found.id}: the signal {name!r} was sent")


def _token(token: str) -> str:
    return sys.stdin.read().strip() if token == STDIN else token


@click.command("resolve")
@store_and("token")
@_value_options
@click.option("--id", "message_id", help="The same answer with the same id is accepted again.")
@output_option
def resolve_command(
    store: str, token: str, *, value: str | None, text: str | None, message_id: str | None, form: str
) -> None:
    """Answer the callback that has this TOKEN; - reads the token from standard input."""
    if token == STDIN == value:
        msg = "the token and the value cannot both be read from standard input"
        raise click.UsageError(msg, click.get_current_context())
    with client_of(store) as client:
        client.resolve(_token(token), _given(value, text), id=message_id)
        _done(form, {"answered": True}, "the callback was answered")


@click.command("reject")
@store_and("token", "reason")
@click.option("--id", "message_id", help="The same answer with the same id is accepted again.")
@output_option
def reject_command(store: str, token: str, reason: str, *, message_id: str | None, form: str) -> None:
    """Reject the callback that has this TOKEN, for a REASON; - reads the token from standard input."""
    with client_of(store) as client:
        client.reject(_token(token), reason, id=message_id)
        _done(form, {"rejected": True}, "the callback was rejected")


# --- control ---------------------------------------------------------------------------------------------------------


def _asks(*names: str, filtered: bool = False) -> Callable[[Command], click.Command]:
    """Make a command of what it asks of a run: `act(client, chosen, *names, by=, reason=, **options)`.

    `chosen` are the arguments of the client's method that say which run. A `filtered` command also takes a filter in
    place of RUN; what it calls returns of how many runs it has asked that.
    """

    def decorate(act: Command) -> click.Command:
        what = act.__name__.removesuffix("_command")

        @functools.wraps(act)
        def command(store: str, *args: str, form: str, workflow: str | None, **options: Any) -> None:
            chosen = filter_of(options) if filtered else {}
            with client_of(store) as client:
                if args:
                    found = find(client, args[0], workflow)
                    act(client, {"run": found}, *args[1:], **options)
                    item, said = {"run": found.id}, f"run {found.id}"
                else:
                    count = act(client, {"workflow": workflow, **chosen}, **options)
                    item, said = {"runs": count}, "1 run" if count == 1 else f"{count:,} runs"
                is_done = "is done" if what == "delete" else "is asked for"
                _done(form, {**item, "asked": what}, f"{said}: {what} {is_done}")

        command = output_option(command)
        return click.command(what)(
            store_and_runs(command) if filtered else store_and("run", *names)(workflow_option(command))
        )

    return decorate


@_asks(filtered=True)
@_who_and_why
@click.option("--force", is_flag=True, help="End it at once: its bodies do not clean up.")
def cancel_command(client: "Client", chosen: "Item", **options: Any) -> int:
    """Cancel a run, or those that a filter chooses: nothing new starts, and their bodies clean up."""
    return client.cancel(**chosen, **options)


@_asks(filtered=True)
@_who_and_why
def pause_command(client: "Client", chosen: "Item", **options: Any) -> int:
    """Pause a run, or those that a filter chooses: no body of them starts or resumes."""
    return client.pause(**chosen, **options)


@_asks(filtered=True)
@_who_and_why
def resume_command(client: "Client", chosen: "Item", **options: Any) -> int:
    """Continue a paused run, or those that a filter chooses."""
    return client.resume(**chosen, **options)


@_asks(filtered=True)
@_who_and_why
@click.option("--from-task", metavar="TASK", help="Go back to this task, even if it has completed.")
@click.option("--fresh", is_flag=True, help="Drop what the bodies have recorded.")
def retry_command(client: "Client", chosen: "Item", **options: Any) -> int:
    """Continue a run that failed or was cancelled, or those that a filter chooses, from what has failed."""
    if "run" not in chosen and options["from_task"] is not None:
        msg = "--from-task needs a RUN: runs that a filter chooses are retried from what has failed"
        raise click.UsageError(msg, click.get_current_context())
    return client.retry(**chosen, **options)


@_asks(filtered=True)
@click.option("--force", is_flag=True, help="Cancel it first if it has not ended, without clean-up.")
def delete_command(client: "Client", chosen: "Item", **options: Any) -> int:
    """Delete an ended run, or all ended ones that a filter chooses, with the children that they have started."""
    return client.delete(**chosen, **options)


@click.command("fork")
@store_and("run")
@click.option("--start-at", "start_at", multiple=True, required=True, metavar="TASK", help="Do this task again.")
@click.option("--input", "inputs", type=pair_of, multiple=True, metavar="NAME=JSON", help="Another input.")
@click.option("--edit", "edits", type=pair_of, multiple=True, metavar="TASK=JSON", help="Another output of a task.")
@_who_and_why
@workflow_option
@output_option
@app_option
def fork_command(
    store: str,
    run: str,
    *,
    start_at: tuple[str, ...],
    inputs: tuple[tuple[str, str], ...],
    edits: tuple[tuple[str, str], ...],
    by: str | None,
    reason: str | None,
    workflow: str | None,
    form: str,
    app: str | None,
) -> None:
    """Begin a new run with what another one has recorded, all but some tasks and what depends on them.

    It needs the workflow: --app or BIDE_APP. A runner that has it executes the new run.
    """
    if app is None:
        msg = "fork needs the workflow of the run: --app MODULE:OBJECT, or BIDE_APP"
        raise click.UsageError(msg, click.get_current_context())
    with client_of(store, app) as client:
        found = find(client, run, workflow)
        code = workflow_of(client, found)
        if code is None:
            known = ", ".join(sorted(map(repr, client._workflows)))
            msg = f"run {found.id} is of workflow {found.workflow!r}, which {app} does not have; it has {known}"
            raise Failure(msg)
        compiled = code._compiled()
        typed: dict[str, Any] = {}
        for name, text in inputs:
            one, readers = json_value(text, f"--input {name}"), compiled.plan(name).readers
            typed[name] = _typed(readers[0][1].codec, one) if readers else one
        returns = {task.name: task.returns for task in compiled.tasks}
        edit: dict[str, Any] = {}
        for name, text in edits:
            one, codec = json_value(text, f"--edit {name}"), returns.get(name, returns.get(name.rpartition("[")[0]))
            edit[name] = one if codec is None else _typed(codec, one)
        forked = client.fork(
            found, start_at=start_at, inputs=typed or None, edit=edit or None, workflow=code, by=by, reason=reason
        )
        _done(form, {"run": forked.id, "forked_from": found.id}, f"run {forked.id} was forked from run {found.id}")


# --- a hand on a task ------------------------------------------------------------------------------------------------


@_asks("task")
@_value_options
@_who_and_why
def satisfy_command(
    client: "Client", chosen: "Item", task: str, *, value: str | None, text: str | None, **options: Any
) -> None:
    """Satisfy what a task waits for."""
    client.satisfy(chosen["run"], task, _given(value, text), **options)


@_asks("task", "span")
@_who_and_why
def extend_command(client: "Client", chosen: "Item", task: str, span: str, **options: Any) -> None:
    """Give what a task waits for more time: a SPAN is seconds, or a number with s, m, h, d or w."""
    client.extend(chosen["run"], task, span_of(span), **options)


@_asks("task")
@_who_and_why
def skip_command(client: "Client", chosen: "Item", task: str, **options: Any) -> None:
    """Skip a task that has not ended, and what depends on it."""
    client.skip(chosen["run"], task, **options)
