"""`handle.transaction` in coroutines, with every asynchronous driver."""

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import bide
import databases
import postgres_server
from bide import _drivers
from databases import statement

KINDS = [
    "psycopg",
    "asyncpg",
    "pool",
    "alchemy over psycopg",
    "session over psycopg",
    "session over asyncpg",
    "sqlite3",
]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_place = pytest.mark.parametrize("where", ["same", "other"])


class Place:
    """A store, the user's database, and a way to connect to that."""

    def __init__(self, kind: str, where: str, folder: Path) -> None:
        self.kind = kind
        self.store = postgres_server.fresh_schema()
        if kind == "sqlite3":
            self.database = databases.in_file(folder)
        elif where == "same":
            self.database = databases.beside(self.store)
        else:
            self.database = databases.beside(databases.another_database(postgres_server.shared()))

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        url = self.database.url
        if self.kind == "sqlite3":
            with contextlib.closing(sqlite3.connect(url)) as file:
                yield file
        elif self.kind == "psycopg":
            psycopg = pytest.importorskip("psycopg")
            async with await psycopg.AsyncConnection.connect(url) as connection:
                yield connection
        elif self.kind == "asyncpg":
            asyncpg = pytest.importorskip("asyncpg")
            connection = await asyncpg.connect(url)
            try:
                yield connection
            finally:
                await connection.close()
        elif self.kind == "pool":
            asyncpg = pytest.importorskip("asyncpg")
            async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
                yield connection
        else:
            alchemy = pytest.importorskip("sqlalchemy.ext.asyncio")
            engine = alchemy.create_async_engine(databases.alchemy(url, self.kind.rpartition(" ")[2]))
            is_session = self.kind.startswith("session")
            try:
                async with alchemy.AsyncSession(engine) if is_session else engine.connect() as connection:
                    yield connection
            finally:
                await engine.dispose()

    async def execute(self, connection: Any, sql: str) -> None:
        done = connection.execute(statement(connection, sql))
        if self.kind != "sqlite3":
            await done

    async def insert(self, connection: Any, amount: int) -> None:
        await self.execute(connection, f"INSERT INTO {self.database.table} VALUES ({amount})")

    def pays(self, called: list[int]) -> Callable[[Any, int], Coroutine[Any, Any, str]]:
        async def pay(connection: Any, amount: int) -> str:
            called.append(amount)
            await self.insert(connection, amount)
            return f"paid {amount}"

        return pay

    def run(self, body: Callable[..., Any], *, attempts: int = 1) -> Any:
        task = bide.task(body, name="body", retry=bide.Retry(attempts=attempts, delay=0))
        with bide.Runner(self.store) as runner:
            return runner.run(bide.Workflow("payments", [task]))["body"]


@every_place
@every_kind
def test_a_row_and_its_record_are_committed_once(kind: str, where: str, tmp_path: Path) -> None:
    place, called, entered, got = Place(kind, where, tmp_path), list[int](), list[int](), list[str]()
    pay = place.pays(called)

    async def body(handle: bide.AsyncTaskHandle) -> str:
        entered.append(1)
        async with place.connect() as connection, handle.transaction(connection) as step:
            receipt: str = await step(pay, connection, 7)
            await place.insert(connection, 8)
        got.append(receipt)
        if len(entered) == 1:
            raise OSError
        return receipt

    assert place.run(body, attempts=2) == "paid 7"
    assert (called, got) == ([7], ["paid 7", "paid 7"])
    assert place.database.amounts() == [7, 8]


@every_place
@every_kind
def test_an_error_rolls_back_and_records_nothing(kind: str, where: str, tmp_path: Path) -> None:
    place, called, entered = Place(kind, where, tmp_path), list[int](), list[int]()

    async def body(handle: bide.AsyncTaskHandle) -> str:
        entered.append(1)
        async with place.connect() as connection, handle.transaction(connection) as step:
            receipt: str = await step(functools.partial(place.pays(called), connection), 7, name="pay", key="one")
            if len(entered) == 1:
                raise OSError
        return receipt

    assert place.run(body, attempts=2) == "paid 7"
    assert called == [7, 7]
    assert place.database.amounts() == [7]


@pytest.mark.parametrize("kind", ["asyncpg", "psycopg"])
def test_transactions_with_keys_run_side_by_side(kind: str, tmp_path: Path) -> None:
    place, called = Place(kind, "same", tmp_path), list[int]()
    pay = place.pays(called)

    async def body(handle: bide.AsyncTaskHandle) -> list[str]:
        async def one(amount: int) -> str:
            async with place.connect() as connection, handle.transaction(connection) as step:
                receipt: str = await step(pay, connection, amount, key=str(amount))
            return receipt

        return list(await asyncio.gather(*map(one, range(4))))

    assert place.run(body) == [f"paid {amount}" for amount in range(4)]
    assert place.database.amounts() == [0, 1, 2, 3]


@every_place
def test_a_cancelled_commit_is_known(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, called = Place("asyncpg", where, tmp_path), list[int]()
    pay, real = place.pays(called), _drivers._Asyncpg.commit
    tasks = list[asyncio.Task[Any]]()

    def commit(self: Any) -> Any:
        async def cancels_first() -> None:
            tasks[0].cancel()
            await asyncio.sleep(0)
            await real(self)

        return cancels_first()

    monkeypatch.setattr(_drivers._Asyncpg, "commit", commit)

    async def body(handle: bide.AsyncTaskHandle) -> str:
        async def one() -> str:
            async with place.connect() as connection, handle.transaction(connection) as step:
                receipt: str = await step(pay, connection, 1, key="one")
            return receipt

        tasks[:] = [asyncio.ensure_future(one())]
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[0]
        monkeypatch.undo()
        # It is in the journal, though its task was cancelled.
        return await one()

    assert place.run(body) == "paid 1"
    assert called == [1]
    assert place.database.amounts() == [1]


@every_kind
def test_a_coroutine_gets_named_errors(kind: str, tmp_path: Path) -> None:
    place = Place(kind, "same", tmp_path)
    pay = place.pays([])

    async def begun(handle: bide.AsyncTaskHandle, connection: Any) -> None:
        if kind in {"asyncpg", "pool"}:
            await connection.transaction().start()
        await place.insert(connection, 1)
        async with handle.transaction(connection) as step:
            await step(pay, connection, 2)

    async def none(handle: bide.AsyncTaskHandle, connection: Any) -> None:
        async with handle.transaction(connection):
            await place.insert(connection, 1)

    async def nested(handle: bide.AsyncTaskHandle, connection: Any) -> None:
        async with (
            handle.transaction(connection) as step,
            place.connect() as other,
            handle.transaction(other) as second,
        ):
            await step(pay, connection, 1)
            await second(pay, other, 2)

    async def undone(handle: bide.AsyncTaskHandle, connection: Any) -> None:
        async with handle.transaction(connection) as step:
            await place.execute(connection, "SAVEPOINT mine")
            await step(pay, connection, 1)
            await place.execute(connection, "ROLLBACK TO SAVEPOINT mine")

    def connected(body: Any) -> Callable[[bide.AsyncTaskHandle], Coroutine[Any, Any, None]]:
        async def with_connection(handle: bide.AsyncTaskHandle) -> None:
            async with place.connect() as connection:
                await body(handle, connection)

        return with_connection

    for body, words in {
        begun: "has a transaction open already",
        none: "has called no step",
        nested: "is open already",
        undone: "was undone within the block",
    }.items():
        with pytest.raises(bide.RunFailed) as failed:
            place.run(connected(body))
        assert isinstance(failed.value.__cause__, bide.DefinitionError), repr(failed.value.__cause__)
        assert words in str(failed.value.__cause__)
        assert place.database.amounts() == []
        place.store = postgres_server.fresh_schema()


def test_a_blocking_connection_is_refused_in_a_coroutine(tmp_path: Path) -> None:
    place = Place("psycopg", "same", tmp_path)

    async def body(handle: bide.AsyncTaskHandle) -> None:
        with place.database.connected("psycopg") as connection:
            handle.transaction(connection)

    with pytest.raises(bide.RunFailed) as failed:
        place.run(body)
    assert "blocks, and this body is a coroutine" in str(failed.value.__cause__)
