"""`handle.transaction` in plain functions: the user's rows and the step's record are committed together, once."""

import contextlib
import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bide
import bide.testing
import databases
import postgres_server
from bide import _drivers
from databases import statement


def case(name: str, kind: str, place: str) -> Any:
    return pytest.param(kind, place, id=name)


CASES = [
    case("psycopg, the store's database", "psycopg", "same"),
    case("SQLAlchemy's connection, the store's database", "alchemy", "same"),
    case("SQLAlchemy's session, the store's database", "session", "same"),
    case("psycopg, another database", "psycopg", "other"),
    case("SQLAlchemy's session, another database", "session", "other"),
    case("psycopg, a store in memory", "psycopg", "memory"),
    case("sqlite3, a store in memory", "sqlite3", "memory"),
    case("sqlite3, a store in a file", "sqlite3", "file"),
]


class Place:
    """A store, the user's database, and a way to connect to that."""

    def __init__(self, kind: str, place: str, folder: Path) -> None:
        self.kind, self.place = kind, place
        if place in {"same", "other"}:
            self.store = postgres_server.fresh_schema()
        else:
            self.store = ":memory:" if place == "memory" else str(folder / "bide.db")
        if kind == "sqlite3":
            self.database = databases.in_file(folder)
        elif place == "same":
            self.database = databases.beside(self.store)
        else:
            self.database = databases.beside(databases.another_database(postgres_server.shared()))
        self.table = self.database.table

    def connect(self) -> contextlib.AbstractContextManager[Any]:
        return self.database.connected(self.kind)

    def insert(self, connection: Any, amount: int) -> None:
        connection.execute(statement(connection, f"INSERT INTO {self.table} VALUES ({amount})"))

    def pays(self, called: list[int] | None = None) -> Callable[[Any, int], str]:
        def pay(connection: Any, amount: int) -> str:
            if called is not None:
                called.append(amount)
            self.insert(connection, amount)
            return f"paid {amount}"

        return pay

    def run(self, body: Callable[..., Any], *, attempts: int = 1, **options: Any) -> Any:
        """Run a body once and return its result."""
        task = bide.task(body, name="body", retry=bide.Retry(attempts=attempts, delay=0), **options)
        with bide.Runner(self.store) as runner:
            return runner.run(bide.Workflow("payments", [task]))["body"]

    def failure(self, body: Callable[..., Any], **options: Any) -> BaseException:
        """Run a body that fails and return what it has raised."""
        with pytest.raises(bide.RunFailed) as failed:
            self.run(body, **options)
        assert failed.value.__cause__ is not None
        return failed.value.__cause__


every_place = pytest.mark.parametrize(("kind", "where"), CASES)


@every_place
def test_a_row_and_its_record_are_committed_once(kind: str, where: str, tmp_path: Path) -> None:
    place, called, entered, got = Place(kind, where, tmp_path), list[int](), list[int](), list[str]()
    pay = place.pays(called)

    def body(handle: bide.TaskHandle) -> str:
        entered.append(1)
        with place.connect() as connection, handle.transaction(connection) as step:
            receipt = step(pay, connection, 7)
            # Beside the step: it counts once, too.
            place.insert(connection, 8)
        got.append(receipt)
        if len(entered) == 1:
            raise OSError
        return receipt

    assert place.run(body, attempts=2) == "paid 7"
    assert (called, len(entered), got) == ([7], 2, ["paid 7", "paid 7"])
    assert place.database.amounts() == [7, 8]


@every_place
def test_an_error_rolls_back_and_records_nothing(kind: str, where: str, tmp_path: Path) -> None:
    place, called, entered = Place(kind, where, tmp_path), list[int](), list[int]()
    pay = place.pays(called)

    def body(handle: bide.TaskHandle) -> str:
        entered.append(1)
        with place.connect() as connection, handle.transaction(connection) as step:
            receipt = step(pay, connection, 7)
            if len(entered) == 1:
                raise OSError
        return receipt

    assert place.run(body, attempts=2) == "paid 7"
    assert called == [7, 7]
    assert place.database.amounts() == [7]


@every_place
def test_an_error_of_the_step_may_be_caught_within_the_block(kind: str, where: str, tmp_path: Path) -> None:
    place = Place(kind, where, tmp_path)

    def refuses(connection: Any) -> None:
        place.insert(connection, 1)
        raise ValueError

    def body(handle: bide.TaskHandle) -> str:
        with place.connect() as connection, handle.transaction(connection) as step, contextlib.suppress(ValueError):
            step(refuses, connection)
        with place.connect() as connection, handle.transaction(connection) as step:
            return step(place.pays(), connection, 2)

    assert place.run(body) == "paid 2"
    assert place.database.amounts() == [2]


@every_place
def test_uses_keys_arguments_and_checkpoints_are_those_of_steps(kind: str, where: str, tmp_path: Path) -> None:
    place, entered = Place(kind, where, tmp_path), list[int]()
    pay = place.pays()

    def body(handle: bide.TaskHandle) -> list[str]:
        entered.append(1)
        got = []
        with place.connect() as connection:
            turn = handle.last_checkpoint(int, 0)
            for amount in [1, 2] if turn == 0 else [11, 12]:
                with handle.transaction(connection) as step:
                    got.append(step(pay, connection, amount))
            with handle.transaction(connection) as step:
                got.append(step(pay, connection, 3 + 10 * turn, key="it's 100% \N{SNOWMAN} :a"))
            if turn == 0:
                handle.checkpoint(1)
            if len(entered) < 3:
                raise OSError
        return got

    assert place.run(body, attempts=3) == ["paid 11", "paid 12", "paid 13"]
    assert place.database.amounts() == [1, 2, 3, 11, 12, 13]


@every_place
def test_a_step_and_a_transaction_share_the_journal(kind: str, where: str, tmp_path: Path) -> None:
    place, called = Place(kind, where, tmp_path), list[str]()

    def note(connection: Any) -> str:
        called.append("note")
        return "noted"

    def body(handle: bide.TaskHandle) -> list[str]:
        with place.connect() as connection, handle.transaction(connection) as step:
            first = step(functools.partial(note, connection), name="note")
        second = handle.step(note, None)
        if len(called) == 2:
            called.append("fails")
            raise OSError
        return [first, second]

    with bide.Runner(place.store) as runner:
        task = bide.task(body, retry=bide.Retry(attempts=2, delay=0))
        run = runner.submit(bide.Workflow("notes", [task]))
        assert run.result()["body"] == ["noted", "noted"]
        history = [event.name for event in run.history() if event.name]
    assert called == ["note", "note", "fails"]
    assert sum("note" in name for name in history) >= 2, history


@every_place
def test_large_and_strange_values_are_recorded(kind: str, where: str, tmp_path: Path) -> None:
    place, entered = Place(kind, where, tmp_path), list[int]()
    value = {"text": "\0 % \\ ' \" :a $1 ?" + "x" * 2_000_000, "bytes": [1, None, 2.5]}

    def body(handle: bide.TaskHandle) -> bool:
        entered.append(1)
        with place.connect() as connection, handle.transaction(connection) as step:
            got = step(lambda: value, name="odd ' % \N{SNOWMAN}", key="\0")
        if len(entered) == 1:
            raise OSError
        return got == value

    assert place.run(body, attempts=2) is True


# --- what is refused -----------------------------------------------------------------------------------------------


def refusal(place: Place, body: Callable[[bide.TaskHandle, Any], Any]) -> str:
    """Return the message of the error that a body with a connection gets; nothing may be committed."""

    def connected(handle: bide.TaskHandle) -> None:
        with place.connect() as connection:
            body(handle, connection)

    error = place.failure(connected)
    assert isinstance(error, bide.DefinitionError), repr(error)
    assert place.database.amounts() == []
    return str(error)


BLOCKING = [*CASES[:4], CASES[-1]]


@pytest.mark.parametrize(("kind", "where"), BLOCKING)
def test_a_transaction_that_is_open_already_is_refused(kind: str, where: str, tmp_path: Path) -> None:
    place = Place(kind, where, tmp_path)

    def body(handle: bide.TaskHandle, connection: Any) -> None:
        place.insert(connection, 1)
        with handle.transaction(connection) as step:
            step(place.pays(), connection, 2)

    assert "has a transaction open already" in refusal(place, body)


@pytest.mark.parametrize(("kind", "where"), BLOCKING)
def test_a_savepoint_that_undoes_the_step_is_noticed(kind: str, where: str, tmp_path: Path) -> None:
    place = Place(kind, where, tmp_path)

    def body(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            connection.execute(statement(connection, "SAVEPOINT mine"))
            step(place.pays(), connection, 2)
            connection.execute(statement(connection, "ROLLBACK TO SAVEPOINT mine"))

    assert "was undone within the block" in refusal(place, body)


@pytest.mark.parametrize(("kind", "where"), BLOCKING)
def test_a_block_without_a_step_and_two_steps_are_refused(kind: str, where: str, tmp_path: Path) -> None:
    place = Place(kind, where, tmp_path)

    def none(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection):
            place.insert(connection, 1)

    def two(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            step(place.pays(), connection, 1)
            step(place.pays(), connection, 2)

    def nested(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step, place.connect() as other, handle.transaction(other) as second:
            step(place.pays(), connection, 1)
            second(place.pays(), other, 2)

    def waits(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            step(place.pays(), connection, 1)
            handle.sleep(1)

    def later(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            step(place.pays(), connection, 1)
            raise_from = step
            connection.execute(statement(connection, f"DELETE FROM {place.table}"))
        raise_from(place.pays(), connection, 2)

    def before(handle: bide.TaskHandle, connection: Any) -> None:
        handle.transaction(connection)(place.pays(), connection, 1)

    def retried(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            untyped: Any = step
            untyped(place.pays(), connection, 1, retry=bide.Retry())

    for body, words in {
        none: "has called no step",
        two: "records one step",
        nested: "is open already",
        waits: "inside the step",
        later: "is over",
        before: "has not begun",
        retried: "takes no retry=",
    }.items():
        assert words in refusal(place, body), words
        place.store = ":memory:" if where == "file" else postgres_server.fresh_schema()


@pytest.mark.parametrize("how", ["COMMIT", "ROLLBACK", "commit", "close"])
@pytest.mark.parametrize(("kind", "where"), BLOCKING)
def test_a_step_that_ends_its_transaction_is_noticed(kind: str, where: str, how: str, tmp_path: Path) -> None:
    place = Place(kind, where, tmp_path)

    def ends(connection: Any) -> None:
        if how.isupper():
            connection.execute(statement(connection, how))
        else:
            getattr(connection, how)()

    def body(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            step(ends, connection)

    if kind == "psycopg" and how == "commit":
        pytest.skip("the driver itself refuses it")
    if kind == "alchemy" and how == "close":
        pytest.skip("the driver itself refuses it")
    assert ("was closed" if how == "close" and kind != "session" else "has ended its transaction") in refusal(
        place, body
    )


@pytest.mark.parametrize(("kind", "where"), BLOCKING)
def test_a_closed_connection_is_named(kind: str, where: str, tmp_path: Path) -> None:
    if kind == "session":
        pytest.skip("a session opens another connection")
    place = Place(kind, where, tmp_path)

    def before(handle: bide.TaskHandle, connection: Any) -> None:
        connection.close()
        with handle.transaction(connection) as step:
            step(place.pays(), connection, 1)

    def within(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            step(place.pays(), connection, 1)
            connection.close()

    assert "is closed" in refusal(place, before)
    place.store = ":memory:" if where == "file" else postgres_server.fresh_schema()
    assert "was closed within the block" in refusal(place, within)


def test_autocommit_is_refused(tmp_path: Path) -> None:
    psycopg, alchemy = pytest.importorskip("psycopg"), pytest.importorskip("sqlalchemy")
    place = Place("psycopg", "same", tmp_path)
    file = databases.in_file(tmp_path)
    engine = alchemy.create_engine(databases.alchemy(place.database.url), isolation_level="AUTOCOMMIT")
    connects: list[Callable[[], Any]] = [
        lambda: psycopg.connect(place.database.url, autocommit=True),
        lambda: sqlite3.connect(file.url, isolation_level=None),
        engine.connect,
    ]

    def pays(connect: Callable[[], Any]) -> Callable[[bide.TaskHandle], None]:
        def body(handle: bide.TaskHandle) -> None:
            connection = connect()
            try:
                with handle.transaction(connection) as step:
                    step(place.pays(), connection, 1)
            finally:
                connection.close()

        return body

    for connect in connects:
        error = place.failure(pays(connect))
        assert isinstance(error, bide.DefinitionError), repr(error)
        assert "is in autocommit mode" in str(error)
        place.store = postgres_server.fresh_schema()
    assert place.database.amounts() == []
    engine.dispose()


@pytest.mark.parametrize("where", ["same", "other"])
@pytest.mark.parametrize("kind", ["psycopg", "alchemy"])
def test_an_aborted_transaction_is_refused(kind: str, where: str, tmp_path: Path) -> None:
    place = Place(kind, where, tmp_path)

    def fails(connection: Any) -> None:
        with contextlib.suppress(Exception):
            connection.execute(statement(connection, "SELECT nonsense"))

    def within(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            step(fails, connection)

    def before(handle: bide.TaskHandle, connection: Any) -> None:
        fails(connection)
        with handle.transaction(connection) as step:
            step(place.pays(), connection, 1)

    assert "has left its transaction aborted" in refusal(place, within)
    place.store = postgres_server.fresh_schema()
    words = "an error has aborted" if kind == "psycopg" else "has a transaction open already"
    assert words in refusal(place, before)


def test_what_is_no_connection_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    place = Place("psycopg", "same", tmp_path)

    def refused(connection: object, same: Any, words: str) -> Callable[[bide.TaskHandle], None]:
        def body(handle: bide.TaskHandle) -> None:
            with pytest.raises(bide.DefinitionError, match=words):
                handle.transaction(connection, same_database=same)

        return body

    class AsyncConnection:
        __module__, __qualname__ = "psycopg", "AsyncConnection"

    place.run(refused(object(), None, "takes a connection of psycopg, asyncpg or sqlite3"))
    engine = pytest.importorskip("sqlalchemy").create_engine(databases.alchemy(place.database.url))
    place.run(refused(engine, None, "not an object of sqlalchemy.*Engine: take a connection from it first"))
    # Its text, which may have a password, is not shown.
    place.run(refused(place.database.url, None, "of SQLAlchemy, not an object of str: connect to it first$"))
    place.run(refused(AsyncConnection(), None, "psycopg.AsyncConnection is asynchronous, and this body is a plain"))
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        place.run(refused(connection, "yes", "same_database must be True, False or None, not 'yes'"))


def test_a_connection_of_another_thread_is_named(tmp_path: Path) -> None:
    place = Place("sqlite3", "file", tmp_path)
    with contextlib.closing(sqlite3.connect(place.database.url)) as connection:

        def body(handle: bide.TaskHandle) -> None:
            with handle.transaction(connection) as step:
                step(place.pays(), connection, 1)

        assert "was opened on another thread than this body's" in str(place.failure(body))


def test_a_pipeline_is_refused(tmp_path: Path) -> None:
    place = Place("psycopg", "same", tmp_path)

    def body(handle: bide.TaskHandle, connection: Any) -> None:
        with connection.pipeline(), handle.transaction(connection) as step:
            step(place.pays(), connection, 1)

    assert "is in pipeline mode" in refusal(place, body)


@pytest.mark.parametrize("where", ["same", "other"])
def test_a_read_only_transaction_is_named(where: str, tmp_path: Path) -> None:
    place = Place("psycopg", where, tmp_path)

    def body(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            step(lambda: connection.execute("SET TRANSACTION READ ONLY").statusmessage, name="reads")

    assert "has a transaction that is read-only" in refusal(place, body)


@pytest.mark.parametrize("where", ["same", "other"])
def test_a_step_may_change_where_names_are_looked_up(where: str, tmp_path: Path) -> None:
    place, called = Place("psycopg", where, tmp_path), list[int]()

    def pay(connection: Any) -> str:
        called.append(1)
        place.insert(connection, 7)
        connection.execute("SET LOCAL search_path = elsewhere")
        return "paid"

    def body(handle: bide.TaskHandle) -> str:
        with place.connect() as connection, handle.transaction(connection) as step:
            receipt = step(pay, connection)
        if handle.attempt == 1:
            raise OSError
        return receipt

    assert place.run(body, attempts=2) == "paid"
    assert (called, place.database.amounts()) == ([1], [7])


def test_a_registry_of_sessions_is_taken(tmp_path: Path) -> None:
    alchemy, orm = pytest.importorskip("sqlalchemy"), pytest.importorskip("sqlalchemy.orm")
    place = Place("session", "same", tmp_path)
    engine = alchemy.create_engine(databases.alchemy(place.database.url))
    registry = orm.scoped_session(orm.sessionmaker(engine))

    def body(handle: bide.TaskHandle) -> str:
        try:
            with handle.transaction(registry) as step:
                return step(place.pays(), registry, 7)
        finally:
            registry.remove()

    assert place.run(body) == "paid 7"
    engine.dispose()
    assert place.database.amounts() == [7]


@pytest.mark.parametrize(("kind", "where"), [("psycopg", "other"), ("sqlite3", "file")])
def test_another_database_is_refused_where_the_same_is_asked_for(kind: str, where: str, tmp_path: Path) -> None:
    place = Place(kind, where, tmp_path)

    def body(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection, same_database=True) as step:
            step(place.pays(), connection, 1)

    assert "is not one to the database of the store" in refusal(place, body)


def test_the_same_database_can_have_the_table_instead(tmp_path: Path) -> None:
    place = Place("psycopg", "same", tmp_path)

    def body(handle: bide.TaskHandle) -> str:
        with place.connect() as connection, handle.transaction(connection, same_database=False) as step:
            return step(place.pays(), connection, 1)

    assert place.run(body) == "paid 1"
    found = place.database.execute("SELECT count(*) FROM bide_step WHERE task = 'body' AND name LIKE '%pay'")
    assert found[0][0] >= 1


def test_the_file_of_a_store_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "bide.db"

    def body(handle: bide.TaskHandle) -> None:
        connection = sqlite3.connect(tmp_path / "copy.db")
        with contextlib.closing(connection), handle.transaction(connection) as step:
            step(print)

    def nothing() -> None:
        pass

    with bide.Runner(store) as runner:
        runner.run(bide.Workflow("nothing", [bide.task(nothing)]))
    with (
        contextlib.closing(sqlite3.connect(store)) as source,
        contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as target,
    ):
        source.backup(target)
    with bide.Runner(":memory:") as runner, pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [bide.task(body)]))
    assert "in which bide keeps runs" in str(failed.value.__cause__)


def test_who_may_not_create_the_table_gets_the_statement(tmp_path: Path) -> None:
    place = Place("psycopg", "other", tmp_path)
    server = place.database
    role = f"r_{place.table}"
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    server.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    server.execute(f"GRANT INSERT ON {place.table} TO {role}")
    psycopg = pytest.importorskip("psycopg")

    def body(handle: bide.TaskHandle) -> None:
        connection = psycopg.connect(server.url, user=role, password="secret")  # noqa: S106 - of a test's role
        with connection, handle.transaction(connection) as step:
            step(place.pays(), connection, 1)

    error = place.failure(body)
    assert isinstance(error, bide.DefinitionError), repr(error)
    assert "CREATE TABLE IF NOT EXISTS bide_step (run text NOT NULL" in str(error)
    assert server.amounts() == []


@pytest.mark.parametrize(("kind", "where"), [case for case in CASES if case.values[1] in {"other", "file"}])
def test_a_table_that_somebody_else_has_made_is_named_and_left_as_it_is(kind: str, where: str, tmp_path: Path) -> None:
    place = Place(kind, where, tmp_path)
    place.database.execute("CREATE TABLE bide_step (run text, task text, turns bigint)")

    def body(handle: bide.TaskHandle, connection: Any) -> None:
        with handle.transaction(connection) as step:
            step(place.pays(), connection, 1)

    said = refusal(place, body)
    assert "bide has not made: it has no column 'element', 'name', 'n', 'turn', 'value', 'proof'. Rename it" in said
    assert place.database.execute("SELECT run, task, turns FROM bide_step") == []


def test_other_arguments_are_a_mismatch_in_the_table_too(tmp_path: Path) -> None:
    place, entered = Place("sqlite3", "memory", tmp_path), list[int]()

    def body(handle: bide.TaskHandle) -> None:
        entered.append(1)
        with place.connect() as connection, handle.transaction(connection) as step:
            step(place.pays(), connection, len(entered))
            # What the process has done when it dies after its commit.
            connection.commit()
            raise OSError

    error = place.failure(body, attempts=2)
    assert isinstance(error, bide.ReplayMismatch), repr(error)
    assert place.database.amounts() == [1]


def test_a_commit_of_unknown_outcome_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, called = Place("psycopg", "same", tmp_path), list[int]()
    real = _drivers._Psycopg.commit
    made = [True, False]

    def commit(self: Any) -> None:
        if made.pop(0):
            real(self)
        self.connection.close()
        raise ConnectionError("the connection was lost")

    monkeypatch.setattr(_drivers._Psycopg, "commit", commit)

    def body(handle: bide.TaskHandle) -> str:
        with place.connect() as connection, handle.transaction(connection) as step:
            return step(place.pays(called), connection, 1)

    def lost(handle: bide.TaskHandle) -> str:
        with place.connect() as connection, handle.transaction(connection) as step:
            return step(place.pays(called), connection, 2)

    assert place.run(body) == "paid 1"
    assert isinstance(place.failure(lost), ConnectionError)
    assert place.database.amounts() == [1]


def test_another_role_needs_what_the_documentation_grants(tmp_path: Path) -> None:
    psycopg = pytest.importorskip("psycopg")
    place = Place("psycopg", "same", tmp_path)
    role, schema = f"r_{place.table}", place.store.rpartition("=")[2]
    server = place.database
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    server.execute(f"GRANT INSERT ON {place.table} TO {role}")

    def body(handle: bide.TaskHandle) -> str:
        connection = psycopg.connect(server.url, user=role, password="secret")  # noqa: S106 - of a test's role
        with connection, handle.transaction(connection, same_database=True) as step:
            return step(place.pays(), connection, 1)

    error = place.failure(body)
    assert isinstance(error, bide.DefinitionError), repr(error)
    assert "grant USAGE on the schema of the store, SELECT and UPDATE on its table runner" in str(error)
    assert server.amounts() == []
    server.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    server.execute(f"GRANT SELECT, UPDATE ON {schema}.runner TO {role}")
    server.execute(f"GRANT SELECT, INSERT ON {schema}.journal TO {role}")
    assert place.run(body) == "paid 1"
    assert server.amounts() == [1]


@pytest.mark.parametrize(("kind", "where"), [("psycopg", "same"), ("psycopg", "other"), ("sqlite3", "file")])
def test_an_attempt_whose_time_is_over_commits_nothing(kind: str, where: str, tmp_path: Path) -> None:
    place, called = Place(kind, where, tmp_path), list[int]()
    pay = place.pays(called)

    def slow(connection: Any, handle: bide.TaskHandle) -> str:
        paid = pay(connection, 1)
        with contextlib.suppress(bide.TaskTimeout):
            while len(called) == 1:
                handle.progress(0)
        return paid

    def body(handle: bide.TaskHandle) -> str:
        with place.connect() as connection, handle.transaction(connection) as step:
            return step(functools.partial(slow, connection), handle, key="slow")

    assert place.run(body, attempts=2, timeout=2) == "paid 1"
    assert called == [1, 1]
    assert place.database.amounts() == [1]


def test_a_test_can_stub_the_step(tmp_path: Path) -> None:
    place = Place("sqlite3", "memory", tmp_path)

    def pay(connection: Any) -> str:
        raise AssertionError(connection)

    def body(handle: bide.TaskHandle) -> str:
        with place.connect() as connection, handle.transaction(connection) as step:
            return step(pay, connection, name="pay")

    with bide.testing.Runner() as runner:
        runner.stub_step("pay", "stubbed")
        assert runner.run(bide.Workflow("stubbed", [bide.task(body)]))["body"] == "stubbed"


@pytest.mark.parametrize("level", ["REPEATABLE_READ", "SERIALIZABLE"])
def test_a_stricter_transaction_is_fenced_too(level: str, tmp_path: Path) -> None:
    psycopg = pytest.importorskip("psycopg")
    place, called = Place("psycopg", "same", tmp_path), list[int]()
    runner, pay = f"{place.store.rpartition('=')[2]}.runner", place.pays(called)

    def body(handle: bide.TaskHandle) -> str:
        with place.connect() as connection:
            connection.isolation_level = psycopg.IsolationLevel[level]
            with handle.transaction(connection) as step:
                receipt = step(pay, connection, 1)
                if len(called) == 1:
                    # As one who has found this runner dead.
                    with psycopg.connect(place.database.url) as other:
                        other.execute(f"SELECT 1 FROM {runner} FOR UPDATE")
                        other.execute(f"UPDATE {runner} SET epoch = epoch + 1")
        return receipt

    with contextlib.suppress(bide.RunFailed):
        # The transaction fails by itself, or the body is suspended and entered again.
        place.run(body)
    assert place.database.amounts() == [1] * (len(called) - 1)
