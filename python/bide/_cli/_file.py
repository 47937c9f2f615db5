"""Reading the file of a store with Python's own SQLite: to copy it, and to check a copy.

That is a second SQLite library in the process: its connections to a store are closed before bide opens that store, and
the other way round.
"""

import os
import sqlite3
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bide._cli import _shapes
from bide._cli._main import NotFound
from bide._cli._store import check_there, of_ids, path_of
from bide._client import Client
from bide._codec import Codec
from bide._errors import BideError, SerializationError, StoreError
from bide._result import RunResult
from bide._text import shown_store

if TYPE_CHECKING:
    from bide._cli._output import Item

OURS = 0x6269_6465
"""The application id in the header of a store."""

COUNTED = ("runs", "tasks", "journal", "messages", "events")
TABLES = {"runs": "run", "tasks": "task", "journal": "journal", "messages": "message", "events": "event"}

OF_RUNS = ("task", "journal", "message", "event", "progress", "run_tag", "answer")
"""The tables whose rows belong to runs."""

VALUES = {
    "task": "SELECT run, output FROM task WHERE output IS NOT NULL",
    "journal": "SELECT run, value FROM journal WHERE value IS NOT NULL AND state <> 0",
    "message": "SELECT run, value FROM message WHERE value IS NOT NULL AND kind < 3",
    "answer": "SELECT run, value FROM answer WHERE value IS NOT NULL",
}
"""What reads values. An open step has another one, how far it has come, and so has a request to control a run."""

OTHERS = b"prb"
"""The tags of values that the plain codec does not read: pickles, taken requests, and values of Rust bodies."""

MOST = 100
"""How many problems of one kind are named."""

PAGE = 500
"""How many runs are read at once."""


@contextmanager
def _opened(store: str) -> Generator[sqlite3.Connection, None, None]:
    """Open a store for reading; errors of SQLite become errors of bide."""
    check_there(store)
    path = path_of(store)
    if path is None:
        msg = f"{shown_store(store)} is no file: this works on a store in a file alone"
        raise StoreError(msg)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != OURS:
                msg = f"{store}: it is the database of another program; name another path"
                raise StoreError(msg)
            yield connection
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            msg = f"{store}: it is not a database; name another path or move that file away"
        else:
            msg = f"{store} cannot be read ({error}): restore it from a backup if it is damaged"
        raise StoreError(msg) from None


def backup(store: str, to: str) -> int:
    """Copy a store into a new file and return its size: the file is there once it is complete."""
    target = Path(to)
    if target.exists() or target.is_symlink():
        msg = f"{to} is there already: name a new file, or move that one away"
        raise click.UsageError(msg, click.get_current_context(silent=True))
    if not target.absolute().parent.is_dir():
        msg = f"there is no directory {target.absolute().parent}"
        raise NotFound(msg)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.absolute().parent) as folder:
            part = Path(folder) / "part"
            _copy(store, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            # A link, unlike a rename, replaces no file that has come meanwhile.
            os.link(part, target)
    except FileExistsError:
        msg = f"{to} is there by now: name a new file"
        raise click.UsageError(msg, click.get_current_context(silent=True)) from None
    except OSError as error:
        msg = f"{to} cannot be written: {error.strerror or error}"
        raise StoreError(msg) from None
    directory = os.open(target.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return target.stat().st_size


def _copy(store: str, part: Path) -> None:
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with _opened(store) as source, closing(sqlite3.connect(part)) as copy:
        source.backup(copy)  # in one step, of one moment


# --- checking --------------------------------------------------------------------------------------------------------


def check(store: str) -> "Item":
    """Read everything in a copy of a store; return how much there is, and what does not read back."""
    with tempfile.TemporaryDirectory(prefix="bide-check-") as folder:
        copy = Path(folder) / "bide.db"
        _copy(store, copy)
        problems: list[dict[str, str]] = []
        with _opened(str(copy)) as connection:
            (schema,) = connection.execute("PRAGMA user_version").fetchone()
            problems += [{"where": "the file", "what": text} for text in _damage(connection)]
            try:
                counts = _counts(connection)
                ids = [uuid for (uuid,) in connection.execute("SELECT uuid FROM run ORDER BY id")]
                problems += _strays(connection)
                problems += _values(connection)
                emitted, mailed = _emitted(connection), _mailed(connection)
            except sqlite3.DatabaseError as error:
                problems.append({"where": "the file", "what": f"it cannot be read any further: {error}"})
                return {"store": store, "schema": schema, **dict.fromkeys(COUNTED, 0), "problems": problems}
        try:
            with Client(copy) as client:
                problems += _runs(client, ids, mailed)
                known = {one["what"] for one in problems}  # no channel of a run can be read that cannot itself
                problems += (one for one in _events(client, emitted) if one["what"] not in known)
        except StoreError as error:
            problems.append({"where": "the store", "what": str(error)})
    for one in problems:
        # Where it is stands before it already.
        one["what"] = one["what"].removeprefix(f"{copy}: ").removeprefix(f"{one['where']}: ").replace(str(copy), store)
    return {"store": store, "schema": schema, **counts, "problems": problems}


def _damage(connection: sqlite3.Connection) -> list[str]:
    """Return what SQLite itself finds wrong with the file."""
    try:
        found = [text for (text,) in connection.execute(f"PRAGMA integrity_check({MOST})")]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return [] if found == ["ok"] else found


def _tables(connection: sqlite3.Connection) -> set[str]:
    """Return the tables that there are: an older schema has fewer."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    there = _tables(connection)
    count = "SELECT count(*) FROM {}"
    return {
        name: connection.execute(count.format(table)).fetchone()[0] if table in there else 0
        for name, table in TABLES.items()
    }


def _emitted(connection: sqlite3.Connection) -> list[tuple[Any, Any]]:
    """Return the channels that runs have emitted to."""
    if "event" not in _tables(connection):
        return []
    query = "SELECT DISTINCT r.uuid, e.channel FROM event e JOIN run r ON r.id = e.run"
    return connection.execute(query).fetchall()


def _mailed(connection: sqlite3.Connection) -> set[Any]:
    """Return the runs that have messages: a listing does not read these."""
    if "message" not in _tables(connection):
        return set()
    query = "SELECT DISTINCT r.uuid FROM message m JOIN run r ON r.id = m.run"
    return {uuid for (uuid,) in connection.execute(query)}


def _strays(connection: sqlite3.Connection) -> Iterator[dict[str, str]]:
    """Yield the rows that belong to no run, and the runs that belong to nothing."""
    stray = "SELECT run, count(*) FROM {0} WHERE run NOT IN (SELECT id FROM run) GROUP BY run LIMIT {1}"
    for table in sorted(_tables(connection).intersection(OF_RUNS)):
        for run, count in connection.execute(stray.format(table, MOST)):
            yield {"where": f"table {table}", "what": f"rows of run number {run}, which is not there: {count}"}
    lost = "SELECT {0}, count(*) FROM run WHERE {0} NOT IN (SELECT id FROM {0}) GROUP BY 1 LIMIT {1}"
    for table in ("workflow", "version"):
        for number, count in connection.execute(lost.format(table, MOST)):
            yield {"where": "table run", "what": f"runs of {table} number {number}, which is not there: {count}"}


def _values(connection: sqlite3.Connection) -> Iterator[dict[str, str]]:
    """Yield the values that do not read back. What a pickle holds is not looked at: reading it runs code."""
    codec = Codec(where="the value", root="value")
    for table in sorted(_tables(connection).intersection(VALUES)):
        found = 0
        for run, data in connection.execute(VALUES[table]):
            why = _unreadable(codec, data)
            if why is not None and found < MOST:
                found += 1
                yield {"where": f"a value in table {table}, run number {run}", "what": why}


def _unreadable(codec: Codec, data: object) -> str | None:
    if not isinstance(data, bytes) or not data:
        return f"it is {'empty' if data == b'' else type(data).__name__} and no value"
    if data[:1] in OTHERS:
        return None
    try:
        codec.decode(data)
    except SerializationError as error:
        return str(error)
    return None


def _runs(client: Client, ids: list[Any], mailed: set[Any]) -> Iterator[dict[str, str]]:
    """Yield what bide cannot read of runs."""
    for at in range(0, len(ids), PAGE):
        page = [_id(uuid) for uuid in ids[at : at + PAGE]]
        try:
            # Those between belong to the page: ids are in the order of the rows.
            found = {run.id: run for run in of_ids(client, (page[0], page[-1]), None)} if all(page) else {}
        except BideError:
            found = {}  # each by itself shows which one it is
        for run_id, uuid in zip(page, ids[at : at + PAGE], strict=True):
            if not run_id:
                yield {"where": "table run", "what": f"the id {uuid!r} of a run does not have 16 bytes"}
                continue
            listed = None if uuid in mailed else found.get(run_id)
            yield from ({"where": f"run {run_id}", "what": text} for text in _of_run(client, run_id, listed))


def _of_run(client: Client, run: str, listed: RunResult | None) -> Iterator[str]:
    if listed is None:
        try:
            listed = client.get(run)
        except KeyError:
            yield "it is not found by its id: its number is another one"
            return
        except BideError as error:
            yield str(error)
            return
    said: set[str] = set()
    reads = (lambda: _shapes.run_item(listed), lambda: listed.error, lambda: _seen(listed))
    for read in reads:
        try:
            read()
        except (BideError, KeyError) as error:
            if str(error) not in said:
                said.add(str(error))
                yield str(error)


def _seen(run: RunResult) -> None:
    """Read the tasks of a run, and its inputs; values are read by `_values`."""
    for task in run.tasks.values():
        _ = task.status, task.error
    _ = run.inputs if not _is_pickled(run) else None


def _is_pickled(run: RunResult) -> bool:
    snapshot: Any = run._snapshot
    return any(data[:1] in OTHERS for _, data in snapshot.inputs())


def _events(client: Client, emitted: list[tuple[Any, Any]]) -> Iterator[dict[str, str]]:
    for uuid, channel in emitted:
        run = _id(uuid)
        if not run or not isinstance(channel, str):
            continue
        try:
            for _ in client.events(run, channel):
                pass
        except SerializationError:
            continue  # of a type that a channel gives it
        except (BideError, KeyError) as error:
            yield {"where": f"channel {channel!r} of run {run}", "what": str(error)}


def _id(uuid: object) -> str:
    if not isinstance(uuid, bytes) or len(uuid) != 16:  # noqa: PLR2004 - the bytes of an id
        return ""
    digits = uuid.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
