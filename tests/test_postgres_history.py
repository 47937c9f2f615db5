"""A PostgreSQL that has lost what it had confirmed, under a runner that lives: it continues from the rows."""

import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

import bide
import postgres_server
from processes import eventually

GO = bide.signal("go", int)
# What is not committed for the disk gets there only by the process that writes the log.
LAZY = ("bgwriter_lru_maxpages = 0", "wal_level = minimal", "max_wal_senders = 0", "autovacuum = off")

did: Counter[tuple[str, str]] = Counter()
lock = threading.Lock()


def note(what: str, name: str) -> None:
    with lock:
        did[what, name] += 1


@bide.task
def first(name: str) -> str:
    note("first", name)
    return name


@bide.task
def waits(first: str, handle: bide.TaskHandle) -> int:
    note("waits", first)
    handle.step(lambda: note("step", first), name="step")
    handle.emit("waits")
    return handle.wait(GO)


@bide.task
def after(first: str, waits: int) -> int:
    note("after", first)
    return waits + 1


WORK = bide.Workflow("work", [first, waits, after], signals=[GO])


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    did.clear()


class Losing:
    """A server, and what it does to lose its last commits."""

    def __init__(self, store: str, keep: Callable[[], None], lose: Callable[[], None]) -> None:
        self.store, self.keep, self.lose = store, keep, lose


@pytest.fixture(params=["an older copy", "a standby", "asynchronous commits"])
def losing(request: pytest.FixtureRequest) -> Iterator[Losing]:
    lazy = request.param == "asynchronous commits"
    with postgres_server.Server(*(LAZY if lazy else ())) as server:

        def keep() -> None:
            if lazy:
                query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
                [writer] = postgres_server.sql(server.url, query)
                postgres_server.sql(server.url, "CHECKPOINT")
                os.kill(int(writer), signal.SIGSTOP)
                return
            server.stop()
            server.copy()
            server.start_again()

        def lose() -> None:
            server.kill()
            if request.param == "an older copy":
                server.restore()
                server.start_again()
            elif request.param == "a standby":
                server.restore()
                server.promote()
            else:
                server.start_again()

        yield Losing(server.url + ("?synchronous_commit=off" if lazy else ""), keep, lose)


def test_runs_continue_from_the_rows_and_nothing_of_these_runs_again(
    losing: Losing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with bide.Runner(losing.store, slots=4, workflows=[WORK]) as runner:
        names = [f"kept {n}" for n in range(20)]
        kept = runner.submit_many(WORK, [{"name": name} for name in names])
        ended = runner.submit(WORK, {"name": "ended"})
        for run in [*kept, ended]:
            next(runner.follow(run.id))
        runner.signal(kept[0].id, GO, 5)
        assert kept[0].result(timeout=60)["after"] == 6
        losing.keep()
        # From here on, all is lost.
        runner.signal(ended.id, GO, 1)
        assert ended.result(timeout=60)["after"] == 2
        lost = runner.submit(WORK, {"name": "lost"}, key="lost")
        next(runner.follow(lost.id))
        results = []
        waiting = threading.Thread(target=lambda: results.append(outcome(lost)))
        waiting.start()
        losing.lose()
        # The caller of a run that is gone gets an error.
        waiting.join(60)
        assert not waiting.is_alive()
        assert isinstance(results[0], bide.BideError), results
        assert lost.id in str(results[0])
        # The others continue from what is recorded.
        for number, run in enumerate(kept[1:]):
            runner.signal(run.id, GO, number)
        assert [run.result(timeout=60)["after"] for run in kept[1:]] == [n + 1 for n in range(19)]
        assert runner.get(kept[0].id)["after"] == 6
        runner.signal(ended.id, GO, 3)
        eventually(lambda: runner.get(ended.id).status is bide.RunStatus.Completed, "it has ended again")
        assert runner.get(ended.id)["after"] == 4
        # And what is submitted is executed, also under the key of what was lost.
        again = runner.submit(WORK, {"name": "again"}, key="lost")
        assert again.id != lost.id
        runner.signal(again.id, GO, 7)
        assert again.result(timeout=60)["after"] == 8
        assert all(did["first", name] == did["step", name] == 1 for name in [*names, "ended", "again"]), did
        assert did["after", "kept 0"] == 1
        assert did["after", "ended"] == 2
    logged = [record.getMessage() for record in caplog.records]
    assert any("may be lost" in line for line in logged), logged
    assert any("the store has lost commits" in line for line in logged), logged


def outcome(run: bide.RunHandle) -> object:
    try:
        return run.result(timeout=100)
    except Exception as error:  # noqa: BLE001 - it is looked at
        return error


def test_a_workflow_that_was_registered_in_what_is_lost_is_registered_again() -> None:
    @bide.task(limit=bide.Limit("single", executing=1))
    def late(n: int) -> int:
        return n + 1

    @bide.task
    def other(n: int) -> int:
        return n + 2

    one, two = bide.Workflow("one", [late]), bide.Workflow("two", [other])
    with postgres_server.Server() as server:
        bide.Runner(server.url).close()
        server.stop()
        server.copy()
        server.start_again()
        with bide.Runner(server.url, slots=2, workflows=[one]) as runner, bide.Client(server.url) as client:
            assert runner.run(one, {"n": 1})["late"] == 2
            assert client.submit(one, {"n": 1}).result(timeout=60)["late"] == 2
            server.kill()
            server.restore()
            server.start_again()
            # Another process registers a workflow, which gets the number that the other one had.
            with bide.Client(server.url + "?application_name=other") as stranger:
                run = stranger.submit(two, {"n": 1})
                eventually(lambda: len(runner.runs()) == 1, "what was there is gone")
                assert runner.run(one, {"n": 2})["late"] == 3
                assert client.submit(one, {"n": 3}).result(timeout=60)["late"] == 4
                assert runner.run(two, {"n": 4})["other"] == 6
                assert run.result(timeout=60)["other"] == 3
