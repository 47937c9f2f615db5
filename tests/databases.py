"""Databases that a test writes in as a user of bide does, beside the store."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

import postgres_server


def names() -> Iterator[str]:
    """Yield names that no other test has."""
    while True:
        yield postgres_server.fresh_schema().rpartition("=")[2]


_names = names()


def another_database(server: str) -> str:
    """Return the URL of a new database beside the one of this URL."""
    psycopg = pytest.importorskip("psycopg")
    name = next(_names)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def alchemy(url: str, driver: str = "psycopg") -> str:
    """Return a URL as SQLAlchemy reads it."""
    return url.replace("postgresql://", f"postgresql+{driver}://")


def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Execute a statement in a transaction of its own and return its rows."""
    if not url.startswith("postgresql"):
        with contextlib.closing(sqlite3.connect(url)) as file:
            rows = file.execute(sql).fetchall()
            file.commit()
            return rows
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


class Database:
    """A table of payments, in a PostgreSQL or in a file of SQLite."""

    def __init__(self, url: str, table: str) -> None:
        self.url, self.table = url, table
        self.execute(f"CREATE TABLE {table} (amount int)")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Execute a statement in a transaction of its own."""
        return execute(self.url, sql)

    def amounts(self) -> list[int]:
        """Return what was paid."""
        return [amount for (amount,) in self.execute(f"SELECT amount FROM {self.table} ORDER BY amount")]

    @contextlib.contextmanager
    def connected(self, kind: str) -> Iterator[Any]:
        """Connect as a plain function does."""
        if kind == "sqlite3":
            connection = sqlite3.connect(self.url)
            try:
                yield connection
            finally:
                connection.close()
        elif kind == "psycopg":
            psycopg = pytest.importorskip("psycopg")
            with psycopg.connect(self.url) as connection:
                yield connection
        else:
            engine = pytest.importorskip("sqlalchemy").create_engine(alchemy(self.url))
            orm = pytest.importorskip("sqlalchemy.orm")
            try:
                with engine.connect() if kind == "alchemy" else orm.Session(engine) as connection:
                    yield connection
            finally:
                engine.dispose()


def statement(connection: Any, sql: str) -> Any:
    """Return a statement as the connection takes it."""
    if type(connection).__module__.startswith("sqlalchemy"):
        return pytest.importorskip("sqlalchemy").text(sql)
    return sql


def beside(store: str) -> Database:
    """Return payments in the database of a store."""
    return Database(store.partition("?")[0], next(_names))


def in_file(folder: Path) -> Database:
    """Return payments in a file of SQLite."""
    return Database(str(folder / "payments.db"), "payment")
