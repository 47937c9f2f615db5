"""The arguments that commands share, opening stores, finding runs, and importing the application."""

import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
import msgspec

from bide._cli._main import NotFound
from bide._client import Client
from bide._result import RunResult
from bide._status import RunStatus
from bide._workflow import Workflow

if TYPE_CHECKING:
    from bide._core import Snapshot

Command: TypeAlias = Callable[..., Any]

STORE, APP = "BIDE_STORE", "BIDE_APP"

STDIN = "-"
"""Instead of a value: read it from the standard input."""

MANY = 10
"""How many runs are named of those that the beginning of an id may mean."""

app_option = click.option(
    "--app",
    envvar=APP,
    metavar="MODULE:OBJECT",
    help="The workflows, or a list of them, for the types of values (default: BIDE_APP).",
)
workflow_option = click.option("--workflow", metavar="NAME", help="The workflow, if runs of several have this key.")


def store_and(*names: str) -> Callable[[Command], Command]:
    """Give a command the arguments [STORE] and these; without the first one BIDE_STORE names the store."""
    return _arguments([name.upper() for name in names], lambda _count, _options: names)


def store_and_runs(command: Command) -> Command:
    """Give a command the arguments [STORE] and RUN, or in place of RUN the options of a filter: see `filter_of`."""
    for option in _FILTER:
        command = option(command)
    return _arguments(["[RUN]"], _run_or_filter)(command)


def _arguments(
    shown: list[str], names_of: Callable[[int, dict[str, Any]], tuple[str, ...]]
) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        @click.argument("args", nargs=-1, metavar=" ".join(["[STORE]", *shown]), type=click.Path())
        @functools.wraps(command)
        def with_store(args: tuple[str, ...], **options: Any) -> None:
            store, *rest = _with_store(args, names_of(len(args), options))
            command(store, *rest, **options)

        return with_store

    return decorate


def _run_or_filter(count: int, options: dict[str, Any]) -> tuple[str, ...]:
    """Return the name of RUN, unless a filter is given. The workflow alone is one if there is no run beside it."""
    ctx = click.get_current_context()
    beside_store = count - (0 if os.environ.get(STORE) else 1)
    is_filter = any(options[name] for name in ("status", "since", "tags", "everything"))
    if is_filter and count > 1:
        msg = f"{ctx.info_name} takes a RUN or a filter ({_FILTERS}, --all), not both"
        raise click.UsageError(msg, ctx)
    if is_filter or (options["workflow"] is not None and beside_store == 0):
        return ()
    if beside_store == 0:
        msg = f"{ctx.info_name} takes a RUN, or a filter ({_FILTERS}); --all means every run of the store"
        raise click.UsageError(msg, ctx)
    return ("run",)


def filter_of(options: dict[str, Any]) -> dict[str, Any]:
    """Take the filter out of the options of `store_and_runs`, as the arguments of the methods of a client."""
    status, since, tags, everything = (options.pop(name) for name in ("status", "since", "tags", "everything"))
    return {"status": status, "since": since, "tags": dict(tags) or None, "all": everything}


def _with_store(args: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    if len(args) == len(names) + 1:
        return args
    wanted = [name.upper() for name in names]
    ctx = click.get_current_context(silent=True)
    called = ctx.info_name if ctx is not None else "runs"
    if len(args) > len(names) + 1:
        msg = f"too many arguments: {called} takes {' '.join(['[STORE]', *wanted])}"
        raise click.UsageError(msg, ctx)
    named = os.environ.get(STORE)
    if len(args) == len(names):
        if named:
            return named, *args
        if args and (path := path_of(args[0])) is not None and path.is_file():
            msg = f"{called} takes {' '.join(['[STORE]', *wanted])}: {wanted[-1]} missing after the store {args[0]}"
            raise click.UsageError(msg, ctx)
        msg = f"which store? Name it first, `bide {' '.join([called or '', 'STORE', *wanted])}`, or set {STORE}"
        raise click.UsageError(msg, ctx)
    needed = wanted if named else ["STORE", *wanted]
    msg = f"{called} takes {' '.join(['[STORE]', *wanted])}: {' and '.join(needed[len(args) :])} missing"
    raise click.UsageError(msg, ctx)


def path_of(store: str) -> Path | None:
    """Return the file of a store; None of a URL of another kind."""
    path = store.removeprefix("sqlite:///")
    return None if "://" in path or path == ":memory:" else Path(path)


def check_there(store: str) -> None:
    """Refuse a store that is not there: none is made."""
    path = path_of(store)
    if path is not None and not path.exists():
        msg = f"there is no store {store}: a Runner makes one, or `bide serve --create`"
        raise NotFound(msg)


@contextmanager
def client_of(store: str, app: str | None = None) -> Generator[Client, None, None]:
    """Open a client on a store that is there; it knows the workflows of the application."""
    check_there(store)
    workflows = load(app) if app is not None else []
    with Client(store) as client:
        for workflow in workflows:
            client._core_workflow(workflow)
        yield client


# --- runs ------------------------------------------------------------------------------------------------------------

_DIGITS = re.compile(r"[0-9a-f]+", re.ASCII)
_DASHES = (8, 13, 18, 23)


def find(client: Client, text: str, workflow: str | None = None) -> RunResult:
    """Return the run of an id, of the beginning of one, or of a key."""
    found = client._core.find(text, workflow) if text else []
    if len(found) == 1:
        return client.get(found[0][0])
    if found:
        names = ", ".join(sorted(repr(name) for _, name in found))
        msg = f"the key {text!r} belongs to runs of {names}: choose one with --workflow"
        raise click.UsageError(msg, click.get_current_context(silent=True))
    begun = _beginning(text)
    runs = [] if begun is None else of_ids(client, begun, MANY + 1)
    runs = [run for run in runs if workflow in {None, run.workflow}]
    if not runs:
        of = "" if workflow is None else f" of workflow {workflow!r}"
        msg = f"no run{of} has the id or key {text!r}, or an id that begins so"
        raise NotFound(msg)
    if len(runs) > 1:
        lines = [f"  {run.id}  {run.status}  {run.workflow}" for run in runs[:MANY]]
        more = ["  ..."] if len(runs) > MANY else []
        msg = "\n".join([f"several ids begin with {text!r}:", *lines, *more])
        raise click.UsageError(msg, click.get_current_context(silent=True))
    return runs[0]


def of_ids(client: Client, ids: tuple[str, str], limit: int | None) -> list[RunResult]:
    """Return the runs with ids from one to another, newest first."""
    return [RunResult(one) for one in client._core.runs(None, None, None, limit, ids=ids)]


def _beginning(text: str) -> tuple[str, str] | None:
    """Return the first and the last id that begin so; None if none can."""
    digits = text.lower()
    if "-" in digits:
        if any(char == "-" and at not in _DASHES for at, char in enumerate(digits)):
            return None
        digits = digits.replace("-", "")
    if not _DIGITS.fullmatch(digits) or len(digits) > 32:  # noqa: PLR2004 - the digits of an id
        return None
    return _id(digits.ljust(32, "0")), _id(digits.ljust(32, "f"))


def _id(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def snapshot_of(result: RunResult) -> "Snapshot":
    """Return what the result of a run in this store wraps."""
    return result._snapshot  # type: ignore[return-value] # pyright: ignore[reportReturnType]


# --- what options say ------------------------------------------------------------------------------------------------

_SPANS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|m|min|h|d|w)?", re.ASCII)


def span_of(text: str) -> timedelta:
    """Return a span of time: seconds, or a number with a unit."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        msg = f"{text!r} is no span: write seconds, or a number with s, m, h, d or w, such as 90m"
        raise click.BadParameter(msg)
    try:
        return timedelta(seconds=float(match[1]) * _SPANS[match[2] or "s"])
    except OverflowError:
        msg = f"{text!r} is too long"
        raise click.BadParameter(msg) from None


def since_of(text: str) -> datetime:
    """Return a moment: a span before now, or a date and time, which are local without a time zone."""
    try:
        if _SPAN.fullmatch(text.strip()):
            return datetime.now(UTC) - span_of(text)
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        msg = f"{text!r} is no time: write 2026-11-28T10:00, or a span before now, such as 2h"
        raise click.BadParameter(msg) from None


def pair_of(text: str) -> tuple[str, str]:
    """Return the name and the text of NAME=TEXT."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        msg = f"{text!r} has no name: write NAME=VALUE"
        raise click.BadParameter(msg)
    return name, value


def json_value(text: str, what: str) -> Any:
    """Return the value of a JSON text; of `-` that of the standard input."""
    source = sys.stdin.read() if text == STDIN else text
    try:
        return msgspec.json.decode(source.encode("utf-8", "surrogatepass"))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        quoted = msgspec.json.encode(source.encode("utf-8", "replace").decode()).decode()
        msg = f"{what} is not JSON ({error}): a text has quotes, '{quoted}'"
        raise click.UsageError(msg, click.get_current_context(silent=True)) from None


# --- which runs ------------------------------------------------------------------------------------------------------

status_option = click.option(
    "--status", type=click.Choice([*RunStatus], case_sensitive=False), help="Only runs of this status."
)
of_workflow_option = click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
since_option = click.option(
    "--since", type=since_of, metavar="TIME", help="Only runs created since then: a time, or a span like 2h."
)
tag_option = click.option(
    "--tag", "tags", type=pair_of, multiple=True, metavar="NAME=VALUE", help="Only runs with this tag."
)
_FILTERS = "--status, --workflow, --tag, --since"
_FILTER = (
    click.option("--all", "everything", is_flag=True, help="Every run of the store."),
    tag_option,
    since_option,
    of_workflow_option,
    status_option,
)

# --- the application -------------------------------------------------------------------------------------------------


def load(app: str) -> list[Workflow]:
    """Import the workflows that MODULE:OBJECT names; MODULE alone means all workflows of it."""
    name, _, path = app.partition(":")
    if not name:
        msg = f"{app!r} names no module: write MODULE:OBJECT"
        raise click.UsageError(msg, click.get_current_context(silent=True))
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(name)
    except Exception as error:
        msg = f"--app {app}: importing {name} raised {type(error).__name__}: {error}"
        raise click.UsageError(msg, click.get_current_context(silent=True)) from error
    try:
        found = functools.reduce(getattr, path.split("."), found) if path else _in_module(found)
    except AttributeError as error:
        msg = f"--app {app}: {error}"
        raise click.UsageError(msg, click.get_current_context(silent=True)) from None
    if callable(found) and not isinstance(found, Workflow):
        found = found()
    workflows = [found] if isinstance(found, Workflow) else found
    if not isinstance(workflows, Iterable) or isinstance(workflows, (str, bytes)):
        workflows = [workflows]
    listed: list[Any] = list(workflows)
    strange = next((one for one in listed if not isinstance(one, Workflow)), None)
    if strange is not None or not listed:
        what = "no workflow" if strange is None else repr(strange)
        msg = f"--app {app}: it must be a bide.Workflow or a list of them, and has {what}"
        raise click.UsageError(msg, click.get_current_context(silent=True))
    return listed


def _in_module(module: object) -> list[Workflow]:
    return list({id(one): one for one in vars(module).values() if isinstance(one, Workflow)}.values())


def workflow_of(client: Client, run: RunResult) -> Workflow | None:
    """Return the workflow of a run, if the application has it."""
    known = client._workflows.get(run.workflow)
    return None if known is None else known[0]
