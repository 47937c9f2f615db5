"""Runners on PostgreSQL, and servers that cannot be used: each error says what to do and shows no password."""

import logging
import threading
from urllib.parse import quote

import pytest

import bide
import postgres_server
from bide._cli._file import check
from bide.testing import rehearse


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
    assert "other-secret" not in str(raised.value)


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
