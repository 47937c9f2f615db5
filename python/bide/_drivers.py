"""The connections that `handle.transaction` takes: how each driver begins, ends and executes.

Drivers are recognised by their module and never imported here: who passes a connection has imported its driver. The
methods of an asynchronous driver return awaitables.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias, cast

from bide._errors import DefinitionError

Row: TypeAlias = tuple[Any, ...] | None

POSTGRES, SQLITE = "postgresql", "sqlite"

_TAKES = (
    "handle.transaction takes a connection of psycopg, asyncpg or sqlite3, or a connection or session of SQLAlchemy"
)


class Driver:
    """A connection, and the transaction that bide has begun on it."""

    dialect = POSTGRES
    is_async = False
    may_commit_each = False
    """Whether only the server can tell that each statement is committed by itself."""

    def __init__(self, connection: Any, name: str) -> None:
        """Keep the connection; `name` is how messages call it."""
        self.connection, self.name = connection, name
        self._block: Any = None

    def refused(self, why: str) -> DefinitionError:
        """Return the error for a connection that cannot be used."""
        return DefinitionError(f"handle.transaction: the {self.name} {why}")

    def autocommits(self) -> DefinitionError:
        """Return the error for a connection that commits each statement."""
        return self.refused(
            "is in autocommit mode: what the step does would be committed before its record is written. Turn "
            "autocommit off, and leave BEGIN and COMMIT to handle.transaction"
        )

    def has_begun(self) -> DefinitionError:
        """Return the error for a connection with a transaction."""
        return self.refused(
            "has a transaction open already, which would be committed together with the step's record: commit it or "
            "roll it back before (a SELECT begins one too)"
        )

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return bool(self.connection.closed)

    def check(self) -> Any:
        """Raise an error if no transaction can begin."""
        if self.is_closed:
            why = "is closed: pass an open one"
            raise self.refused(why)

    def begin(self) -> Any:
        """Begin a transaction."""
        raise NotImplementedError

    def commit(self) -> Any:
        """Commit it."""
        raise NotImplementedError

    def rollback(self) -> Any:
        """Roll it back."""
        raise NotImplementedError

    def flush(self) -> Any:
        """Send what the connection has gathered."""

    def one(self, sql: str, *parameters: Any) -> Any:
        """Execute a statement and return its first row, if it has any."""
        raise NotImplementedError


class _Psycopg(Driver):
    """A connection of psycopg 3. Its own block refuses `commit()` and `rollback()` within."""

    def check(self) -> None:
        super().check()
        status = self.connection.info.transaction_status.name
        if status == "INERROR":
            why = "has a transaction that an error has aborted: roll it back before"
            raise self.refused(why)
        if status != "IDLE":
            raise self.has_begun()
        if self.connection.autocommit:
            raise self.autocommits()

    def begin(self) -> Any:
        self._block = self.connection.transaction()
        return self._block.__enter__()

    def commit(self) -> Any:
        return self._block.__exit__(None, None, None)

    def rollback(self) -> Any:
        error = self._rolls_back()
        return self._block.__exit__(type(error), error, None)

    @staticmethod
    def _rolls_back() -> BaseException:
        from psycopg import Rollback  # noqa: PLC0415 - see the module's docstring

        return Rollback()

    def _cursor(self) -> Any:
        if self.connection.info.pipeline_status.name != "OFF":
            why = "is in pipeline mode, in which an answer comes later: leave the pipeline before the block"
            raise self.refused(why)
        from psycopg.rows import tuple_row  # noqa: PLC0415 - see the module's docstring

        return self.connection.cursor(row_factory=tuple_row)

    def one(self, sql: str, *_parameters: Any) -> Any:
        with self._cursor() as cursor:
            cursor.execute(sql, prepare=False)
            return cursor.fetchone() if cursor.description else None


class _AsyncPsycopg(_Psycopg):
    is_async = True

    def begin(self) -> Any:
        self._block = self.connection.transaction()
        return self._block.__aenter__()

    def commit(self) -> Any:
        return self._block.__aexit__(None, None, None)

    def rollback(self) -> Any:
        error = self._rolls_back()
        return self._block.__aexit__(type(error), error, None)

    async def one(self, sql: str, *_parameters: Any) -> Row:
        async with self._cursor() as cursor:
            await cursor.execute(sql, prepare=False)
            row: Row = await cursor.fetchone() if cursor.description else None
            return row


class _Asyncpg(Driver):
    is_async = True

    @property
    def is_closed(self) -> bool:
        return bool(self.connection.is_closed())

    def check(self) -> None:
        super().check()
        if self.connection.is_in_transaction():
            raise self.has_begun()

    def begin(self) -> Any:
        self._block = self.connection.transaction()
        return self._block.start()

    def commit(self) -> Any:
        return self._block.commit()

    def rollback(self) -> Any:
        return self._block.rollback()

    async def one(self, sql: str, *_parameters: Any) -> Row:
        row = await self.connection.fetchrow(sql)
        return None if row is None else tuple(row)


class _Sqlite(Driver):
    """A connection of sqlite3. It belongs to its thread, so that also a coroutine uses it there."""

    dialect = SQLITE

    @property
    def is_closed(self) -> bool:
        try:
            self.connection.cursor().close()
        except sqlite3.ProgrammingError as error:
            if "thread" in str(error):
                why = f"was opened on another thread than this body's ({error}): open it within the body"
                raise self.refused(why) from error
            return True
        return False

    def check(self) -> None:
        super().check()
        mode = getattr(self.connection, "autocommit", None)  # from Python 3.12 on
        if mode is True or (mode is not False and self.connection.isolation_level is None):
            raise self.autocommits()
        if mode is not False and self.connection.in_transaction:
            raise self.has_begun()

    def begin(self) -> None:
        # With `autocommit=False` it has begun already.
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def one(self, sql: str, *parameters: Any) -> Row:
        cursor = self.connection.cursor()
        cursor.row_factory = None
        row: Row = cursor.execute(sql, parameters).fetchone()
        cursor.close()
        return row


class _Alchemy(Driver):
    """A connection or session of SQLAlchemy."""

    may_commit_each = True

    def __init__(self, connection: Any, name: str, *, is_session: bool) -> None:
        super().__init__(connection, name)
        self._is_session = is_session

    @property
    def is_closed(self) -> bool:
        return not self._is_session and bool(self.connection.closed)

    def check(self) -> None:
        super().check()
        if self.connection.in_transaction():
            raise self.has_begun()

    def _connected(self) -> Any:
        return self.connection.connection() if self._is_session else self.connection

    def begin(self) -> None:
        self._block = self.connection.begin()
        connection = self._connected()
        self.dialect = connection.dialect.name
        if self.dialect == SQLITE:
            # The driver begins a transaction before the first change only, if it has not been told otherwise.
            raw = connection.connection.driver_connection
            if not raw.in_transaction:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif self.dialect != POSTGRES:
            self._block.rollback()
            why = f"is one to {self.dialect}: the database must be PostgreSQL or SQLite"
            raise self.refused(why)

    def commit(self) -> None:
        if self._is_session:
            self.connection.commit()
        else:
            self._block.commit()

    def rollback(self) -> None:
        if self._is_session:
            self.connection.rollback()
        else:
            self._block.rollback()
            if self.connection.in_transaction():  # another one, if the step has ended its own
                self.connection.rollback()

    def flush(self) -> None:
        if self._is_session:
            self.connection.flush()

    def one(self, sql: str, *parameters: Any) -> Row:
        options = {} if parameters else {"no_parameters": True}
        result = self._connected().exec_driver_sql(sql, parameters or None, execution_options=options)
        row = result.first() if result.returns_rows else None
        return None if row is None else tuple(row)


class _AsyncAlchemy(Driver):
    """An asynchronous one: what the other one does, where it can await."""

    is_async = True
    may_commit_each = True

    def __init__(self, connection: Any, name: str, *, is_session: bool) -> None:
        super().__init__(connection, name)
        sync = connection.sync_session if is_session else connection.sync_connection
        if sync is None:
            why = "is not open: await engine.connect() before"
            raise self.refused(why)
        self._sync = _Alchemy(sync, name, is_session=is_session)

    @property
    def is_closed(self) -> bool:
        return self._sync.is_closed

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return self._sync.dialect

    async def _within(self, method: str, *arguments: Any) -> Any:
        act = getattr(self._sync, method)
        return await self.connection.run_sync(lambda _: act(*arguments))

    def check(self) -> Any:
        return self._within("check")

    def begin(self) -> Any:
        return self._within("begin")

    def commit(self) -> Any:
        return self._within("commit")

    def rollback(self) -> Any:
        return self._within("rollback")

    def flush(self) -> Any:
        return self._within("flush")

    def one(self, sql: str, *parameters: Any) -> Any:
        return self._within("one", sql, *parameters)


class _Kind(NamedTuple):
    """A class of connections."""

    driver: Any
    is_session: bool | None = None


_KINDS = {
    "psycopg.Connection": _Kind(_Psycopg),
    "psycopg.AsyncConnection": _Kind(_AsyncPsycopg),
    "asyncpg.Connection": _Kind(_Asyncpg),
    "asyncpg.PoolConnectionProxy": _Kind(_Asyncpg),
    "sqlalchemy.Connection": _Kind(_Alchemy, is_session=False),
    "sqlalchemy.Session": _Kind(_Alchemy, is_session=True),
    "sqlalchemy.scoped_session": _Kind(_Alchemy, is_session=True),
    "sqlalchemy.AsyncConnection": _Kind(_AsyncAlchemy, is_session=False),
    "sqlalchemy.AsyncSession": _Kind(_AsyncAlchemy, is_session=True),
    "sqlalchemy.async_scoped_session": _Kind(_AsyncAlchemy, is_session=True),
    "sqlite3.Connection": _Kind(_Sqlite),
}


_REGISTRIES = {"sqlalchemy.scoped_session", "sqlalchemy.async_scoped_session"}
"""What returns the session of this thread or task when it is called."""


def driver_of(connection: object, *, in_coroutine: bool) -> Driver:
    """Return what executes on a connection; refuse what is none, and one that does not fit the body."""
    for cls in type(connection).__mro__:
        name = f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"
        if (kind := _KINDS.get(name)) is None:
            continue
        if name in _REGISTRIES:
            connection = cast("Callable[[], object]", connection)()
        shown = f"{cls.__qualname__} of {name.partition('.')[0]}"
        more = {} if kind.is_session is None else {"is_session": kind.is_session}
        if kind.driver.is_async and not in_coroutine:
            msg = (
                f"handle.transaction: {name} is asynchronous, and this body is a plain `def`: make the body "
                "`async def`, or pass a blocking connection"
            )
            raise DefinitionError(msg)
        if in_coroutine and not kind.driver.is_async and kind.driver is not _Sqlite:
            msg = (
                f"handle.transaction: {name} blocks, and this body is a coroutine: pass an asynchronous connection "
                "(psycopg.AsyncConnection, asyncpg, AsyncConnection or AsyncSession of SQLAlchemy), or make the body a "
                "plain `def`"
            )
            raise DefinitionError(msg)
        driver: Driver = kind.driver(connection, shown, **more)
        return driver
    # Its text may have a password.
    cls = type(connection)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    msg = f"{_TAKES}, not an object of {name}{_remedy(connection)}"
    raise DefinitionError(msg)


def _remedy(given: object) -> str:
    if isinstance(given, str):
        return ": connect to it first"
    if any(hasattr(given, name) for name in ("connect", "acquire", "getconn")):
        return ": take a connection from it first"
    return ": await it first" if isinstance(given, Awaitable) else ""


def state_of(error: BaseException) -> str | None:
    """Return the code by which PostgreSQL has reported an error (SQLSTATE), if it was that."""
    seen: BaseException | None = error
    while seen is not None:
        for name in ("sqlstate", "pgcode"):
            if isinstance(code := getattr(seen, name, None), str):
                return code
        seen = getattr(seen, "orig", None) or seen.__cause__
    return None
