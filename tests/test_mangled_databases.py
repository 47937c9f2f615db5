"""Files that another program changed: bide says what it cannot read, and never fails in another way.

Each column of each table in turn holds wrong values, a different one in each row, with the schema's own
guards (STRICT, NOT NULL) removed; then the file is opened, read and executed.
"""

import itertools
import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import bide
import golden_workflows as workflows

GOLDEN = max((Path(__file__).parent / "golden").glob("schema-*.sqlite"), key=lambda file: (len(file.name), file.name))
WORKFLOWS = [workflow for workflow in workflows.WORKFLOWS if workflow is not workflows.killer]

SAID: list[str] = []
"""What bide reported about the file."""

STRANGERS: list[Any] = [
    *(None, 0, 3, 7, -1, 2**31 - 1, -(2**63), 2**63 - 1, 0.5, float("inf")),
    *("", "x", "null", "[]", '{"type": 1}', '{"type": "x", "message": "m", "traceback": 3}', '[[0, "waits", ["x"]]]'),
    *(b"", b"i", b"ix", b"i7", b"s\xff", b"j{", b"d1e999", b"d", b"n\0", b"p\x80", b"\xff" * 12, b"\x04path\x02t"),
]


ROWIDS = {
    ("workflow", "id"),
    ("version", "id"),
    ("runner", "id"),
    ("run", "id"),
    ("message", "seq"),
    ("message_gone", "id"),
    ("answer", "number"),
    ("watch", "id"),
    ("limit_key", "id"),
}
"""The columns that SQLite itself keeps valid."""

NOTICED = {"journal.kind", "journal.value", "run.inputs", "run.uuid", "task.attempts", "task.output", "task.status"}
"""bide must report at least these as unreadable: this checks that the file is really damaged."""


def columns() -> list[tuple[str, str]]:
    with sqlite3.connect(f"file:{GOLDEN}?immutable=1", uri=True) as database:
        query = (
            "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c "
            "WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY 1, c.cid"
        )
        return database.execute(query).fetchall()


def mangle(file: Path, table: str, column: str, first: int) -> None:
    strangers = itertools.cycle(STRANGERS[first:] + STRANGERS[:first])
    if (table, column) in ROWIDS:
        strangers = itertools.cycle([5, 2**63 - 1, -1, 10**9, -(2**63), 0][first % 6 :])
    database = sqlite3.connect(file)
    database.create_function("stranger", 0, lambda: next(strangers))
    database.executescript(
        "PRAGMA journal_mode = DELETE; PRAGMA writable_schema = ON;"
        "UPDATE sqlite_schema SET sql = replace(replace(sql, ') STRICT, ', ') '), ') STRICT', ')');"
        "UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE type = 'table';"
        "PRAGMA writable_schema = RESET;"
    )
    database.execute(f"UPDATE OR IGNORE {table} SET {column} = stranger()")  # noqa: S608 - a name from the schema
    database.commit()
    database.close()


def look(result: bide.RunResult) -> None:
    """Read everything about a run."""
    reads: list[Callable[[], object]] = [
        lambda: (result.id, result.key, result.status, result.blocked_by, result.started_at, result.ended_at),
        lambda: (result.error, repr(result), result.context),
        lambda: result.outputs,
        result.raise_for_status,
    ]
    for task in result.tasks.values():
        reads += [
            lambda task=task: (task.status, task.sub_status, task.attempts, task.waited),  # type: ignore[misc]
            lambda task=task: (task.first_started_at, task.started_at, task.ended_at),  # type: ignore[misc]
            lambda task=task: (task.blocked_by, task.error, repr(task)),  # type: ignore[misc]
        ]
    for read in reads:
        is_fine(read)


def look_at_all(runner: bide.Runner) -> None:
    for result in runner.runs():
        look(result)


def is_fine(act: Callable[[], object]) -> None:
    """Allow only the expected error; any other fails the test."""
    try:
        act()
    except (bide.BideError, TimeoutError) as error:
        SAID.append(str(error))


def use(file: Path) -> None:
    def run(workflow: bide.Workflow) -> None:
        inputs = {"n": 7} if workflow is workflows.queued else None
        look(runner.submit(workflow, inputs, key=workflow.name).result(0.05))

    try:
        with bide.Runner(file, slots=2) as runner:
            for workflow in WORKFLOWS:
                is_fine(partial(runner.register, workflow))
            is_fine(lambda: look_at_all(runner))
            for workflow in (workflows.values, workflows.queued, workflows.waiting):
                is_fine(partial(run, workflow))
    except bide.BideError as error:
        SAID.append(str(error))


@pytest.mark.parametrize(("table", "column"), columns())
def test_any_content_of_a_column_is_read_or_refused(
    file: Path, table: str, column: str, capfd: pytest.CaptureFixture[str]
) -> None:
    SAID.clear()
    for first in (0, 14):
        shutil.copy(GOLDEN, file)
        mangle(file, table, column, first)
        use(file)
    assert not [said for said in SAID if "bug in bide" in said]
    assert "panicked" not in capfd.readouterr().err
    if f"{table}.{column}" in NOTICED:
        assert any("does not read back" in said or "was changed by another program" in said for said in SAID)
