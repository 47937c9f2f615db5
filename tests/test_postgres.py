"""Runners on PostgreSQL, and servers that cannot be used: each error says what to do and shows no password."""

import logging
import re
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

import bide
import postgres_server
from bide._cli._file import check
from bide.testing import rehearse
from processes import eventually


@bide.task
def double(n: int) -> int:
    return 2 * n


@bide.task
def increment(double: int) -> int:
    return double + 1


flow = bide.Workflow("flow", tasks=[double, increment])


def test_a_workflow_runs_and_its_run_is_there_for_the_next_runner(postgres: str) -> None:
    with bide.Runner(postgres, slots=2) as runner:
        result = runner.run(flow, {"n": 20}, key="once")
        assert result["increment"] == 41
    with bide.Runner(postgres, slots=2) as runner:
        assert runner.run(flow, {"n": 20}, key="once").id == result.id
        assert [run.key for run in runner.runs()] == ["once"]


def test_a_run_that_waits_is_continued_by_another_runner(postgres: str) -> None:
    entered = threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> int:
        entered.set()
        return handle.wait_for("go", int)

    workflow = bide.Workflow("waits", tasks=[waits])
    with bide.Runner(postgres, slots=2) as runner:
        run = runner.submit(workflow, key="waits")
        assert entered.wait(30)
    with bide.Client(postgres) as client:
        client.signal(run.id, "go", 7)
    with bide.Runner(postgres, slots=2, workflows=[workflow]) as runner:
        assert runner.run(workflow, key="waits")["waits"] == 7


def test_a_runner_shows_its_store_without_the_password(postgres: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with bide.Runner(postgres, slots=1) as runner:
        assert runner.run(flow, {"n": 1})["increment"] == 3
        shown = repr(runner)
    assert shown.startswith("<Runner on 'postgresql://bide@127.0.0.1:")
    assert "secret" not in shown
    assert "secret" not in caplog.text


def test_a_client_makes_no_schema(postgres: str) -> None:
    with pytest.raises(bide.StoreError, match=r"has no tables of bide's, and a Client makes none: open a Runner"):
        bide.Client(postgres)


def changed(url: str, old: str, new: str) -> str:
    assert old in url
    return url.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":secret@", ":other-secret@", "the password of user bide is wrong"),
        ("//bide:", "//nobody-secret:", "the password of user nobody-secret is wrong"),
        ("127.0.0.1", "no-such-host.invalid", r"the host no-such-host\.invalid is not known .*; check its name"),
        ("127.0.0.1:", "127.0.0.1:1,127.0.0.1:", None),
        ("/bide?", "/nowhere?", "has no database nowhere; create it, or name another"),
        ("?schema=", "?sslmode=verify-full&schema=", "no encrypted connection to 127.0.0.1"),
        ("?schema=", "?pool=secret&schema=", "bide knows no option pool of it"),
        ("?schema=t", "?schema=Secret", "its option schema has a value that bide does not know"),
        (":secret@", ":sec/ret@", "its database has an @ or a / in it"),
        ("postgresql://", " postgresql://", "this is what other programs use to connect to a database"),
        ("postgresql://", "postgresql:/", "this is what other programs use to connect to a database"),
        ("postgresql://", "jdbc:postgresql://", "this is what other programs use to connect to a database"),
        ("postgresql://bide:", "host=here user=bide password=", "this is what other programs use to connect"),
    ],
)
def test_a_server_that_cannot_be_used_is_refused_with_the_reason(
    postgres: str, old: str, new: str, message: str | None
) -> None:
    url = changed(postgres, old, new)
    if message is None:
        bide.Runner(url, slots=1).close()
        return
    with pytest.raises(bide.StoreError, match=message) as raised:
        bide.Runner(url, slots=1)
    assert ":secret" not in str(raised.value)
    assert "=secret" not in str(raised.value)
    assert "other-secret" not in str(raised.value)


def test_a_schema_may_be_named_by_a_word_of_sql(postgres: str) -> None:
    schema = postgres.rpartition("=")[2]
    url = postgres.replace(schema, "select")
    with bide.Runner(url, slots=2) as runner:
        assert runner.run(flow, {"n": 20})["increment"] == 41
        assert [run.workflow for run in runner.runs()] == ["flow"]
    postgres_server.sql(postgres, 'DROP SCHEMA "select" CASCADE')


def test_tables_of_another_program_and_missing_rights_are_named(postgres: str) -> None:
    schema = postgres.rpartition("=")[2]
    postgres_server.sql(postgres, f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.other (x int)")
    with pytest.raises(bide.StoreError, match=f"its schema {schema} has tables of another program; name another one"):
        bide.Runner(postgres)
    postgres_server.sql(postgres, f"DROP SCHEMA {schema} CASCADE; CREATE ROLE {schema} LOGIN PASSWORD 'secret'")
    with pytest.raises(bide.StoreError, match="its role may not create what bide needs") as raised:
        bide.Runner(changed(postgres, "//bide:", f"//{schema}:"))
    assert f'CREATE SCHEMA "{schema}";' in str(raised.value)
    assert ":secret" not in str(raised.value)


def test_a_server_that_says_nothing_is_refused_after_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=1"
        for opens in (bide.Runner, bide.Client):
            with pytest.raises(bide.StoreError, match="has taken the connection and says nothing for 3s") as raised:
                opens(url)
            assert "secret" not in str(raised.value)


def test_a_listen_url_that_cannot_be_used_is_named(postgres: str) -> None:
    wrong = quote(changed(postgres, ":secret@", ":wrong@").partition("?")[0], safe="")
    with pytest.raises(bide.StoreError, match="in listen_url: the password of user bide is wrong"):
        bide.Runner(f"{postgres}&listen_url={wrong}")


LONG = "".join(chr(0x4E00 + (n * 7919) % 20_000) for n in range(1000))
"""3,000 bytes that cannot be made shorter: more than a row of an index of PostgreSQL can have."""


def in_body(act: Callable[[bide.TaskHandle], object]) -> Callable[[bide.Runner], object]:
    """Return a call that executes something in a body."""

    def body(handle: bide.TaskHandle) -> None:
        act(handle)

    return lambda runner: runner.run(bide.Workflow("long", [bide.task(body)]))


@bide.task
def waits_for_nobody(handle: bide.TaskHandle) -> None:
    handle.wait_for("never")


def task_with(**given: Any) -> Callable[[bide.Runner], object]:
    """Return a call that executes a task which is declared like this."""

    def noop() -> int:
        return 1

    return lambda runner: runner.run(bide.Workflow("long", [bide.task(noop, **{"name": "task", **given})]))


LONG_NAMES: dict[str, tuple[Callable[[bide.Runner], object], str]] = {
    "a key": (lambda runner: runner.run(flow, {"n": 1}, key=LONG), "key"),
    "one of many keys": (lambda runner: runner.submit_many(flow, [{"n": 1}] * 2, keys=["a", LONG]), "key"),
    "a tag": (lambda runner: runner.submit(flow, {"n": 1}, tags={"a": LONG}), "text of a tag"),
    "a step's key": (in_body(lambda handle: handle.step(int, key=LONG)), "name, or name and key,"),
    "a step's name": (in_body(lambda handle: handle.step(int, name=LONG)), "name, or name and key,"),
    "a condition": (in_body(lambda handle: handle.defer_until(bool, name=LONG)), "name, or name and key,"),
    "one of several": (
        in_body(lambda handle: handle.wait_any(bide.after(9), bide.signal(LONG))),
        "name, or name and key,",
    ),
    "a child": (in_body(lambda handle: handle.start(flow, {"n": 1}, key=LONG)), "name, or name and key,"),
    "a callback": (in_body(lambda handle: handle.callback(LONG)), "name, or name and key,"),
    "a channel": (in_body(lambda handle: handle.emit(1, channel=LONG)), "channel"),
    "a signal's id": (
        lambda runner: runner.submit(bide.Workflow("w", [waits_for_nobody])).signal("never", 1, id=LONG),
        "id",
    ),
    "a workflow": (lambda runner: runner.run(bide.Workflow(LONG, [double]), {"n": 1}), "name of a workflow"),
    "a task": (task_with(name=LONG), "name of a task"),
    "a gate": (task_with(gate=bide.until(lambda: False, name=LONG)), "name of a gate"),
    "one of a gate's waits": (
        task_with(gate=bide.any_of(bide.after(0), bide.until(lambda: False, name=LONG))),
        "name of a gate",
    ),
    "a limit": (task_with(limit=bide.Limit(LONG, in_flight=1)), "name of a limit"),
}


@pytest.mark.parametrize("name", LONG_NAMES)
def test_a_name_that_is_too_long_fails_its_call_alone(name: str, postgres: str) -> None:
    act, what = LONG_NAMES[name]
    with bide.Runner(postgres, slots=2) as runner:
        with pytest.raises(bide.BideError) as raised:
            act(runner)
        error = raised.value.__cause__ if isinstance(raised.value, bide.RunFailed) else raised.value
        assert re.search(rf"the {what} '.*…' has 30\d\d bytes, and the store takes \d+ at most", str(error)), error
        assert runner.run(flow, {"n": 20})["increment"] == 41


def test_long_keys_of_items_and_of_limits_stop_nobody(postgres: str) -> None:
    @bide.task(limit=bide.Limit("each", in_flight=1, key="customer"))
    def serves(customer: str) -> int:
        return len(customer)

    limited = bide.Workflow("limited", [serves])
    with bide.Runner(postgres, slots=2) as runner:
        assert runner.run(limited, {"customer": LONG})["serves"] == 1000
        runner.watch("items", limited, lambda _: ([(LONG, {"customer": "x"})], None), every=0.05)
        eventually(lambda: runner.watches()[0].error is not None, "the source has failed")
        assert "has 3000 bytes, and the store takes" in str(runner.watches()[0].error)
        assert runner.run(flow, {"n": 20})["increment"] == 41


@pytest.mark.parametrize("url", ["postgresql://me:secret\0@host/db", "postgresql://me:secret\ud800@host/db"])
def test_a_url_that_is_no_text_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(bide.DefinitionError) as raised:
        bide.Runner(url)
    assert "secret" not in str(raised.value)


def test_what_works_on_files_alone_shows_no_password() -> None:
    url = "postgresql://me:secret@host/db"
    with pytest.raises(bide.DefinitionError, match="there is no file 'postgresql://…'"):
        rehearse(url, [])
    with pytest.raises(bide.StoreError, match="postgresql://… is no file"):
        check(url)


def test_a_pooler_needs_a_way_past_it(own_postgres: postgres_server.Server) -> None:
    pooler = own_postgres.pooler()
    with pytest.raises(bide.StoreError, match=r"pool_mode = transaction.*add listen_url="):
        bide.Runner(pooler, slots=1)
    with bide.Runner(f"{pooler}?listen_url={quote(own_postgres.url, safe='')}", slots=2) as runner:
        assert runner.run(flow, {"n": 20})["increment"] == 41


def test_runs_go_on_after_the_server_was_killed(own_postgres: postgres_server.Server) -> None:
    entered = threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> int:
        entered.set()
        return handle.wait_for("go", int)

    workflow = bide.Workflow("waits", tasks=[waits])
    with bide.Runner(own_postgres.url, slots=2) as runner:
        run = runner.submit(workflow)
        assert entered.wait(30)
        own_postgres.kill()
        own_postgres.start_again()
        runner.signal(run.id, "go", 7)
        assert run.result()["waits"] == 7
        assert runner.run(flow, {"n": 20})["increment"] == 41


def test_ctrl_c_reaches_a_caller_while_the_server_is_away(
    own_postgres: postgres_server.Server, caplog: pytest.LogCaptureFixture
) -> None:
    with bide.Runner(own_postgres.url, slots=2) as runner:
        runner.run(flow, {"n": 1})
        own_postgres.kill()
        eventually(lambda: "the call is made again" in caplog.text, "the loss is reported")
        interrupt = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            runner.submit(flow, {"n": 2}, key="interrupted")
        own_postgres.start_again()
        assert runner.run(flow, {"n": 3})["double"] == 6
        assert runner.runs(key_prefix="interrupted") == []
