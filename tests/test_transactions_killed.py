"""Processes that are killed, stopped or fenced around the commit of `handle.transaction`: both or neither, once."""

import signal
from pathlib import Path

import pytest

import databases
import postgres_server
from bide._step_table import table
from databases import Database
from processes import Child, killed, ledger, ran

SCRIPT = """
    import asyncio, sqlite3
    from bide import _core, _drivers

    kind, store, url, table, point = words

    def at(name):
        if point == name:
            say("there")
            stay()

    def around(cls):
        real = cls.commit
        def commit(self):
            at("before the commit")
            done = real(self)
            if hasattr(done, "__await__"):
                async def awaited():
                    await done
                    at("after the commit")
                return awaited()
            at("after the commit")
        cls.commit = commit

    for cls in (_drivers._Psycopg, _drivers._AsyncPsycopg, _drivers._Asyncpg, _drivers._Sqlite, _drivers._Alchemy):
        around(cls)

    def sql(amount):
        return f"INSERT INTO {table} VALUES ({amount})"

    def pay(connection, amount):
        note("pay", amount)
        if kind == "alchemy":
            from sqlalchemy import text
            connection.execute(text(sql(amount)))
        else:
            connection.execute(sql(amount))
        at("in the step")
        return f"paid {amount}"

    async def pay_async(connection, amount):
        note("pay", amount)
        await connection.execute(sql(amount))
        at("in the step")
        return f"paid {amount}"

    def connect():
        if kind == "sqlite3":
            return sqlite3.connect(url)
        if kind == "alchemy":
            from sqlalchemy import create_engine
            return create_engine(url.replace("postgresql:", "postgresql+psycopg:")).connect()
        import psycopg
        return psycopg.connect(url)

    @bide.task(name="order")
    def order(handle: bide.TaskHandle) -> str:
        with connect() as connection, handle.transaction(connection) as step:
            receipt = step(pay, connection, 1)
        at("after the block")
        handle.step(note, "shipped")
        return receipt

    @bide.task(name="order")
    async def order_async(handle: bide.AsyncTaskHandle) -> str:
        import asyncpg
        connection = await asyncpg.connect(url)
        async with handle.transaction(connection) as step:
            receipt = await step(pay_async, connection, 1)
        await connection.close()
        at("after the block")
        await handle.step(note, "shipped")
        return receipt

    workflow = bide.Workflow("orders", [order_async if kind == "asyncpg" else order])
    with bide.Runner(store) as runner:
        say("result", runner.submit(workflow, key="one").result(timeout=60)["order"])
"""

POINTS = ["in the step", "before the commit", "after the commit", "after the block"]
CASES = [("psycopg", "same"), ("asyncpg", "same"), ("alchemy", "same"), ("psycopg", "other"), ("asyncpg", "other")]


def payments(kind: str, where: str, folder: Path) -> tuple[str, Database]:
    """Return a store and the user's database."""
    if kind == "sqlite3":
        store = str(folder / "bide.db") if where == "file" else postgres_server.fresh_schema()
        return store, databases.in_file(folder)
    store = postgres_server.fresh_schema()
    if where == "same":
        return store, databases.beside(store)
    return store, databases.beside(databases.another_database(postgres_server.shared()))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("kind", "where"), [*CASES, ("sqlite3", "file"), ("sqlite3", "postgres")])
def test_a_kill_leaves_both_or_neither(kind: str, where: str, point: str, tmp_path: Path) -> None:
    store, database = payments(kind, where, tmp_path)
    words = (kind, store, database.url, database.table)
    killed(SCRIPT, tmp_path / "kill.db", *words, point, at="there")
    committed = point.startswith("after")
    assert database.amounts() == ([1] if committed else [])
    printed = ran(SCRIPT, tmp_path / "kill.db", *words, "nowhere")
    assert printed == ["result paid 1"]
    assert database.amounts() == [1]
    assert ledger(tmp_path / "kill.db") == ["pay 1"] * (1 if committed else 2) + ["shipped"]


FENCED = """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
""" + SCRIPT.replace("stay()", "signal.sigwait({signal.SIGUSR1})").replace('note("pay", amount)', 'say("pays")')


def hang(first: Child, store: str) -> None:
    """Stop the process of a runner, and have its lease run out."""
    first.expect("there")
    first.send(signal.SIGSTOP)
    url, _, schema = store.partition("?schema=")
    databases.execute(url, f"UPDATE {schema}.runner SET expires = 1")


@pytest.mark.parametrize("kind", ["psycopg", "asyncpg", "alchemy"])
@pytest.mark.parametrize("point", ["in the step", "before the commit"])
def test_a_fenced_runner_commits_nothing(kind: str, point: str, tmp_path: Path) -> None:
    store, database = payments(kind, "same", tmp_path)
    words = (kind, store, database.url, database.table)
    with Child(FENCED, tmp_path / "first.db", *words, point) as first:
        hang(first, store)
        # Before the commit the first one holds the lock that the second one needs: its transaction is ended.
        assert ran(SCRIPT, tmp_path / "second.db", *words, "nowhere") == ["result paid 1"]
        assert database.amounts() == [1]
        first.send(signal.SIGCONT)
        first.send(signal.SIGUSR1)
        assert first.after("result") == "paid 1"
        first.join()
    assert database.amounts() == [1]
    assert ledger(tmp_path / "second.db") == ["pay 1", "shipped"]
    assert ledger(tmp_path / "first.db") == []


@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("point", ["in the step", "before the commit"])
def test_a_fenced_runner_may_win_in_another_database_once(kind: str, point: str, tmp_path: Path) -> None:
    store, database = payments(kind, "other", tmp_path)
    database.execute(table("postgresql"))
    words = (kind, store, database.url, database.table)
    with Child(FENCED, tmp_path / "first.db", *words, point) as first:
        hang(first, store)
        with Child(FENCED, tmp_path / "second.db", *words, "nowhere") as second:
            # It waits for the first one's row, if that is written.
            second.expect("pays")
            first.send(signal.SIGCONT)
            first.send(signal.SIGUSR1)
            assert second.after("result") == "paid 1"
            second.join()
        assert first.after("result") == "paid 1"
        first.join()
    assert database.amounts() == [1]
    shipped = [*ledger(tmp_path / "first.db"), *ledger(tmp_path / "second.db")]
    assert shipped == ["shipped"]
