"""The commands that send something to runs or ask something of them."""

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
    find,
    json_value,
    pair_of,
    span_of,
    store_and,
    workflow_of,
    workflow_option,
)

if TYPE_CHECKING:
    from datetime import timedelta

    from bide._cli._output import Item
    from bide._client import Client
    from bide._codec import Codec
    from bide._result import RunResult


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


def _ask(what: str, act: Callable[["Client", "RunResult"], object], store: str, run: str, options: "Item") -> None:
    with client_of(store) as client:
        found = find(client, run, options["workflow"])
        act(client, found)
        _done(options["form"], {"run": found.id, "asked": what}, f"run {found.id}: {what} is asked for")


@click.command("cancel")
@store_and("run")
@_who_and_why
@click.option("--force", is_flag=True, help="End it at once: its bodies do not clean up.")
@workflow_option
@output_option
def cancel_command(
    store: str,
    run: str,
    *,
    by: str | None,
    reason: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Cancel a run: nothing new starts, and its bodies clean up."""
    _ask("cancel", lambda client, found: client.cancel(found, by=by, reason=reason, force=force), store, run, options)


@click.command("pause")
@store_and("run")
@_who_and_why
@workflow_option
@output_option
def pause_command(store: str, run: str, *, by: str | None, reason: str | None, **options: Any) -> None:
    """Pause a run: no body of it starts or resumes."""
    _ask("pause", lambda client, found: client.pause(found, by=by, reason=reason), store, run, options)


@click.command("resume")
@store_and("run")
@_who_and_why
@workflow_option
@output_option
def resume_command(store: str, run: str, *, by: str | None, reason: str | None, **options: Any) -> None:
    """Continue a paused run."""
    _ask("resume", lambda client, found: client.resume(found, by=by, reason=reason), store, run, options)


@click.command("retry")
@store_and("run")
@_who_and_why
@click.option("--from-task", metavar="TASK", help="Go back to this task, even if it has completed.")
@click.option("--fresh", is_flag=True, help="Drop what the bodies have recorded.")
@workflow_option
@output_option
def retry_command(
    store: str,
    run: str,
    *,
    by: str | None,
    reason: str | None,
    from_task: str | None,
    fresh: bool,
    **options: Any,
) -> None:
    """Continue a run that failed or was cancelled from what has failed."""

    def retry(client: "Client", found: "RunResult") -> None:
        client.retry(found, from_task=from_task, fresh=fresh, by=by, reason=reason)

    _ask("retry", retry, store, run, options)


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


@click.command("satisfy")
@store_and("run", "task")
@_value_options
@_who_and_why
@workflow_option
@output_option
def satisfy_command(
    store: str,
    run: str,
    task: str,
    *,
    value: str | None,
    text: str | None,
    by: str | None,
    reason: str | None,
    **options: Any,
) -> None:
    """Satisfy what a task waits for."""
    given = _given(value, text)

    def satisfy(client: "Client", found: "RunResult") -> None:
        client.satisfy(found, task, given, by=by, reason=reason)

    _ask("satisfy", satisfy, store, run, options)


@click.command("extend")
@store_and("run", "task", "span")
@_who_and_why
@workflow_option
@output_option
def extend_command(
    store: str,
    run: str,
    task: str,
    span: str,
    *,
    by: str | None,
    reason: str | None,
    **options: Any,
) -> None:
    """Give what a task waits for more time: a SPAN is seconds, or a number with s, m, h, d or w."""
    more: timedelta = span_of(span)
    _ask("extend", lambda client, found: client.extend(found, task, more, by=by, reason=reason), store, run, options)


@click.command("skip")
@store_and("run", "task")
@_who_and_why
@workflow_option
@output_option
def skip_command(
    store: str,
    run: str,
    task: str,
    *,
    by: str | None,
    reason: str | None,
    **options: Any,
) -> None:
    """Skip a task that has not ended, and what depends on it."""
    _ask("skip", lambda client, found: client.skip(found, task, by=by, reason=reason), store, run, options)
