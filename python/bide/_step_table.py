"""Where the record of a step is written by a transaction of the user's: in the store's own database, or in a table.

Each place says by generators what is to be executed on the connection; `_transactions.py` executes it, blocking or not.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeAlias

from bide._drivers import POSTGRES, is_aborted
from bide._errors import DefinitionError, ReplayMismatch

if TYPE_CHECKING:
    from bide._core import OpenStep
    from bide._drivers import Driver

Op: TypeAlias = tuple[Any, ...]
"""What is to be done: the name of a method of the driver, or of `_transactions.py`, and its arguments."""

Steps: TypeAlias = Generator[Op, Any, "bytes | None"]

MARKER = "bide_step.marker"
"""A setting of the transaction. It is gone once the savepoint or transaction in which it was made is rolled back."""

STORE_FILE = 0x62696465
"""The `application_id` of a file in which bide keeps runs."""

_COLUMNS = (
    ("run", "text"),
    ("task", "text"),
    ("element", "integer"),
    ("name", "text"),
    ("n", "bigint"),
    ("turn", "bigint"),
)
"""What a record is found by: `turn` is the number of the body's last checkpoint, after which names count anew."""

_CREATE = {
    "postgresql": "bytea",
    "sqlite": "blob",
}


class Fenced(Exception):
    """Another runner has the run."""


class Taken(Exception):
    """The step is recorded already, by another attempt."""


def table(dialect: str) -> str:
    """Return the statement that makes the table."""
    columns = ", ".join(f"{name} {kind} NOT NULL" for name, kind in _COLUMNS)
    blob, key = _CREATE[dialect], ", ".join(name for name, _ in _COLUMNS)
    recorded = "timestamptz" if dialect == POSTGRES else "text"
    return (
        f"CREATE TABLE IF NOT EXISTS bide_step ({columns}, value {blob} NOT NULL, proof {blob}, "
        f"recorded_at {recorded} NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY ({key}))"
    )


def swallowed(step: str) -> DefinitionError:
    """Return the error for a record that was lost before the commit."""
    return DefinitionError(
        f"the step {step!r} was undone within the block of handle.transaction, by the rollback of a savepoint around "
        "it or by a commit or rollback of the transaction: its record must be committed together with what it did. Put "
        "the savepoint into the step's function, and leave commit and rollback to the block; what is left of the "
        "transaction is rolled back"
    )


class InStore:
    """The database of the store: the transaction writes the entry of the journal itself."""

    def __init__(self, driver: "Driver", step: "OpenStep", marker: str) -> None:
        """Keep what is asked; `marker` is this transaction's alone."""
        self._driver, self._step, self._marker = driver, step, marker

    def find(self) -> Steps:
        """Return what is recorded: nothing, for the journal was read before."""
        yield from ()
        return None

    def write(self, _encoded: bytes) -> Steps:
        """Mark the transaction: the record is written last, so that its locks are held for a moment only."""
        yield ("flush",)
        yield ("one", f"SELECT pg_catalog.set_config('{MARKER}', '{self._marker}', true)")
        return None

    def confirm(self, encoded: bytes) -> Steps:
        """Write the record, before the commit."""
        yield ("flush",)
        holds, is_marked, written = yield ("one", self._step.statement(self._marker, encoded))
        if not holds:
            raise Fenced
        if not is_marked:
            raise swallowed(self._step.name)
        if not written:
            raise Taken
        return None

    def outcome(self) -> Steps:
        """Return what is recorded after a commit that has failed: it may have been made."""
        holds, value = yield ("blocking", self._step.outcome)
        if not holds:
            raise Fenced
        found: bytes | None = value
        return found


class InTable:
    """Another database: a table there has the record until the journal has it."""

    def __init__(self, driver: "Driver", step: "OpenStep", task: str) -> None:
        """Keep what is asked."""
        self._driver, self._step = driver, step
        run, element, name, n, turn, self._proof = step.place()
        self._key: tuple[Any, ...] = (run, task, element, name, n, turn)
        self._is_new = False

    @property
    def _is_postgres(self) -> bool:
        return self._driver.dialect == POSTGRES

    def _statement(self, sql: str, *values: Any) -> Op:
        """Fill a statement in. SQLite limits its length, and every driver of SQLite has the same parameters."""
        if self._is_postgres:
            return ("one", sql.replace("?", "{}").format(*map(_literal, values)))
        return ("one", sql, *values)

    def _where(self) -> str:
        return " AND ".join(f"{name} = ?" for name, _ in _COLUMNS)

    def find(self) -> Steps:
        """Return what is recorded; make the table if there is none."""
        yield from self._make()
        row = yield self._statement(f"SELECT value, proof FROM bide_step WHERE {self._where()}", *self._key)
        if row is None:
            return None
        value, proof = row
        # The rest of a proof describes the arguments, and differs where their texts do.
        if (bytes(proof)[:17] if proof is not None else None) != (self._proof and self._proof[:17]):
            msg = (
                f"step {self._step.name!r} was recorded in the table bide_step with other arguments: its result does "
                "not belong to this call. Deploy code that calls it as it was called, or give the step a key"
            )
            raise ReplayMismatch(msg)
        return bytes(value)

    @property
    def _there(self) -> str:
        """The question whether there is a table."""
        if self._is_postgres:
            return "SELECT (pg_catalog.to_regclass('bide_step') IS NOT NULL)::int4"
        return "SELECT count(*) FROM sqlite_master WHERE name = 'bide_step'"

    def _make(self) -> Generator[Op, Any, None]:
        if (yield ("one", self._there))[0]:
            return
        self._is_new = True
        if not self._is_postgres:
            yield ("one", table(self._driver.dialect))
            return
        yield ("one", "SAVEPOINT bide_step")
        try:
            yield ("one", table(POSTGRES))
        except Exception as error:
            yield ("one", "ROLLBACK TO SAVEPOINT bide_step")
            if not (yield ("one", self._there))[0]:
                msg = (
                    f"the table bide_step, in which steps are recorded, cannot be created here ({_first_line(error)}): "
                    f"have it created by one who may: {table(POSTGRES)}"
                )
                raise DefinitionError(msg) from error
        yield ("one", "RELEASE SAVEPOINT bide_step")

    def write(self, encoded: bytes) -> Steps:
        """Write the record. Returns what another transaction has recorded meanwhile."""
        yield ("flush",)
        names = ", ".join(name for name, _ in _COLUMNS)
        row = yield self._statement(
            f"INSERT INTO bide_step ({names}, value, proof) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING RETURNING 1",
            *self._key,
            encoded,
            self._proof,
        )
        if row is not None:
            return None
        yield ("rollback",)
        yield ("begin",)
        return (yield from self.find())

    def confirm(self, _encoded: bytes) -> Steps:
        """See that the record is there, before the commit."""
        yield ("flush",)
        # The body may have ended, or its runner may have lost the run.
        self._step.place()
        # A savepoint may have undone the table, too.
        if self._is_new and not (yield ("one", self._there))[0]:
            raise swallowed(self._step.name)
        row = yield self._statement(f"SELECT 1 FROM bide_step WHERE {self._where()}", *self._key)
        if row is None:
            raise swallowed(self._step.name)
        return None

    def outcome(self) -> Steps:
        """Return nothing: the next entry of the body looks into the table."""
        yield from ()
        return None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _literal(value: object) -> str:
    """Return a value as SQL, without a character that a driver or a setting of the server could read."""
    if value is None:
        return "NULL::bytea"
    if isinstance(value, int):
        return f"({value})::int8"
    if isinstance(value, bytes):
        return f"pg_catalog.decode('{value.hex()}', 'hex')"
    # A text of PostgreSQL cannot have U+0000.
    text = str(value).replace("\ue000", "\ue0001").replace("\0", "\ue0000")
    return f"pg_catalog.convert_from(pg_catalog.decode('{text.encode().hex()}', 'hex'), 'UTF8')"


def aborted(step: str, error: BaseException) -> BaseException:
    """Return the error to raise for one of the driver's."""
    if not is_aborted(error):
        return error
    msg = (
        f"the step {step!r} has left its transaction aborted: one of its statements failed, and the error was caught. "
        "Let the error through, or put the statement into a savepoint; the transaction is rolled back"
    )
    return DefinitionError(msg)
