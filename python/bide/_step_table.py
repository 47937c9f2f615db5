"""Where the record of a step is written by a transaction of the user's: in the store's own database, or in a table.

Each place says by generators what is to be executed on the connection; `_transactions.py` executes it, blocking or not.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeAlias

from bide._drivers import POSTGRES, state_of
from bide._errors import DefinitionError, ReplayMismatch

if TYPE_CHECKING:
    from bide._core import OpenStep
    from bide._drivers import Driver

Op: TypeAlias = tuple[Any, ...]
"""What is to be done: the name of a method of the driver, or of `_transactions.py`, and its arguments."""

Steps: TypeAlias = Generator[Op, Any, "bytes | None"]

MARKER = "bide_step.marker"
"""A setting of the transaction. It is gone once the savepoint or transaction in which it was made is rolled back, and
with the end of the transaction."""

BEGUN = "begun"
"""What the marker is while the step executes."""

SAVEPOINT = "bide_step"
"""A savepoint, which says the same of a transaction of SQLite."""

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


def ended(step: str) -> DefinitionError:
    """Return the error for a step whose function has committed or rolled back, after which a new transaction began."""
    return DefinitionError(
        f"the step {step!r} has ended its transaction: what it did before was committed or rolled back without its "
        "record. Leave commit, rollback and close to the block of handle.transaction, and use savepoints in the step's "
        "function; the step is not recorded, and the next attempt calls it again"
    )


class InStore:
    """The database of the store: the transaction writes the entry of the journal itself."""

    needs = (
        "USAGE on the schema of the store, SELECT and UPDATE on its table runner, and SELECT and INSERT on its table "
        "journal"
    )
    """What the role of the connection has to be granted."""

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
        is_same = f"pg_catalog.current_setting('{MARKER}', true) = '{BEGUN}'"
        mark = f"CASE WHEN {is_same} THEN '{self._marker}' ELSE '' END"
        if (yield ("one", f"SELECT pg_catalog.set_config('{MARKER}', {mark}, true)"))[0] != self._marker:
            raise ended(self._step.name)
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

    needs = "SELECT and INSERT on the table bide_step"
    """As above."""

    def __init__(self, driver: "Driver", step: "OpenStep", task: str) -> None:
        """Keep what is asked."""
        self._driver, self._step = driver, step
        run, element, name, n, turn, self._proof = step.place()
        self._key: tuple[Any, ...] = (run, task, element, name, n, turn)
        self._is_new = False
        self._table = "bide_step"

    @property
    def _is_postgres(self) -> bool:
        return self._driver.dialect == POSTGRES

    def _statement(self, sql: str, *values: Any) -> Op:
        """Fill a statement in. SQLite limits its length, and every driver of SQLite has the same parameters."""
        if self._is_postgres:
            # The step may change where names are looked up.
            filled = sql.replace("?", "{}").format(*map(_literal, values))
            return ("one", filled.replace(" bide_step", f" {self._table}"))
        return ("one", sql, *values)

    def _where(self) -> str:
        return " AND ".join(f"{name} = ?" for name, _ in _COLUMNS)

    def find(self) -> Steps:
        """Return what is recorded; make the table if there is none."""
        yield from self._make()
        row = yield self._statement(f"SELECT value, proof FROM bide_step WHERE {self._where()}", *self._key)
        if row is None:
            if not self._is_postgres:
                yield ("one", f"SAVEPOINT {SAVEPOINT}")
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

    def _is_there(self) -> Generator[Op, Any, bool]:
        """Return whether there is a table; remember which one. Refuse one that somebody else has made."""
        if self._is_postgres:
            table = self._table.replace("'", "''")
            sql = (
                "SELECT pg_catalog.quote_ident(n.nspname), (SELECT pg_catalog.string_agg(a.attname, ',') FROM "
                "pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0) FROM pg_catalog.pg_class c JOIN "
                "pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = "
                f"pg_catalog.to_regclass('{table}')"
            )
            row = yield ("one", sql)
            if row is None:
                return False
            self._table = f"{row[0]}.bide_step"
            columns = row[1]
        else:
            columns = (yield ("one", "SELECT group_concat(name) FROM pragma_table_info('bide_step')"))[0]
            if columns is None:
                return False
        known = set((columns or "").split(","))
        missing = [name for name in (*(name for name, _ in _COLUMNS), "value", "proof") if name not in known]
        if missing:
            msg = (
                f"there is a table {self._table} in this database that bide has not made: it has no column "
                f"{', '.join(map(repr, missing))}. Rename it: bide records the steps of handle.transaction in a table "
                "of this name"
            )
            raise DefinitionError(msg)
        return True

    def _make(self) -> Generator[Op, Any, None]:
        if (yield from self._is_there()):
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
            if not (yield from self._is_there()):
                msg = (
                    f"the table bide_step, in which steps are recorded, cannot be created here ({_first_line(error)}): "
                    f"have it created by one who may: {table(POSTGRES)}"
                )
                raise DefinitionError(msg) from error
        yield ("one", "RELEASE SAVEPOINT bide_step")
        yield from self._is_there()

    def write(self, encoded: bytes) -> Steps:
        """Write the record. Returns what another transaction has recorded meanwhile."""
        yield ("flush",)
        yield from self._goes_on()
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

    def _goes_on(self) -> Generator[Op, Any, None]:
        """Refuse a step that has ended its transaction."""
        if self._is_postgres:
            if (yield ("one", f"SELECT pg_catalog.current_setting('{MARKER}', true)"))[0] != BEGUN:
                raise ended(self._step.name)
            return
        try:
            yield ("one", f"RELEASE {SAVEPOINT}")
        except Exception as error:
            if self._driver.is_closed:
                raise
            raise ended(self._step.name) from error

    def confirm(self, _encoded: bytes) -> Steps:
        """See that the record is there, before the commit."""
        yield ("flush",)
        # The body may have ended, or its runner may have lost the run.
        self._step.place()
        # A savepoint may have undone the table, too.
        if self._is_new and not (yield from self._is_there()):
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


def explained(step: str, error: BaseException, place: InStore | InTable) -> BaseException:
    """Return the error to raise for one of the driver's."""
    match state_of(error):
        case "25P02":
            msg = (
                f"the step {step!r} has left its transaction aborted: one of its statements failed, and the error was "
                "caught. Let the error through, or put the statement into a savepoint; the transaction is rolled back"
            )
        case "25006":
            msg = (
                f"the step {step!r} has a transaction that is read-only, in which its record cannot be written: make "
                "the transaction one that writes, or record the step by handle.step"
            )
        case "42501":
            msg = (
                f"the record of the step {step!r} cannot be written ({_first_line(error)}): grant {place.needs} to the "
                "role of the connection, and have a step that changes its role (SET ROLE) change it back"
            )
        case _:
            return error
    return DefinitionError(msg)
