"""Several processes, runners and clients on one PostgreSQL."""

import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path

import pytest

import bide
import postgres_server
from postgres_torture import judge, torture
from processes import Child, eventually, ledger

SERVE = """
import asyncio
store, version = words[0], words[1] if len(words) > 1 else "old"
paid = bide.signal("paid", int)
ask = bide.request("ask", int, int)

@bide.task
def waits(name: str, handle: bide.TaskHandle) -> int:
    handle.emit(f"{name} waits")
    try:
        return handle.wait(paid)
    except bide.Cancelled:
        note("cancelled", name)
        raise

@bide.task
def serves(handle: bide.TaskHandle) -> int:
    asked = handle.wait(ask)
    asked.reply(asked.value + 1)
    return asked.value

@bide.task
def who() -> int:
    time.sleep(0.001)
    return os.getpid()

@bide.task
def more(who: int) -> int:
    return os.getpid()

known = [
    bide.Workflow("waiting", [waits], signals=[paid]),
    bide.Workflow("serving", [serves], signals=[ask]),
    bide.Workflow("who", [who] if version == "old" else [who, more]),
]
with bide.Runner(store, slots=4, workflows=known) as runner:
    say("ready")
    stay()
"""

PAID = bide.signal("paid", int)
ASK = bide.request("ask", int, int)


@bide.task
def waits(name: str, handle: bide.TaskHandle) -> int:
    raise AssertionError("executed elsewhere")


@bide.task
def serves(handle: bide.TaskHandle) -> int:
    raise AssertionError("executed elsewhere")


@bide.task
def who() -> int:
    raise AssertionError("executed elsewhere")


@bide.task
def more(who: int) -> int:
    raise AssertionError("executed elsewhere")


WAITING = bide.Workflow("waiting", [waits], signals=[PAID])
SERVING = bide.Workflow("serving", [serves], signals=[ASK])
WHO = bide.Workflow("who", [who])
WHO_MORE = bide.Workflow("who", [who, more])


@pytest.fixture
def elsewhere(file: Path) -> Callable[..., Child]:
    """What starts another process with a runner."""
    return lambda store, *words: Child(SERVE, file, store, *words)


# --- from another process --------------------------------------------------------------------------------------------


def test_signals_events_and_results_go_between_processes(
    postgres: str, elsewhere: Callable[..., Child], file: Path
) -> None:
    with bide.Runner(postgres, slots=0) as submits, elsewhere(postgres) as other:
        other.expect("ready")
        run = submits.submit(WAITING, {"name": "a"}, key="a")
        assert next(submits.follow(run.id)).value == "a waits"
        submits.signal("a", PAID, 7)
        assert run.result(timeout=20)["waits"] == 7


def test_a_request_is_answered_by_another_process(postgres: str, elsewhere: Callable[..., Child]) -> None:
    bide.Runner(postgres).close()
    with bide.Client(postgres) as client, elsewhere(postgres) as other:
        other.expect("ready")
        run = client.submit(SERVING)
        assert client.request(run.id, ASK, 41, timeout=20) == 42


def test_a_run_is_cancelled_from_another_process_and_cleans_up(
    postgres: str, elsewhere: Callable[..., Child], file: Path
) -> None:
    bide.Runner(postgres).close()
    with bide.Client(postgres) as client, elsewhere(postgres) as other:
        other.expect("ready")
        run = client.submit(WAITING, {"name": "a"})
        next(client.follow(run.id))
        client.cancel(run.id, by="ana")
        with pytest.raises(bide.RunFailed, match="was cancelled by ana"):
            run.result(timeout=20)
        assert ledger(file) == ["cancelled a"]


def test_a_runner_without_slots_executes_nothing(postgres: str) -> None:
    with bide.Runner(postgres, slots=0, workflows=[WHO]) as submits:
        run = submits.submit(WHO)
        with pytest.raises(TimeoutError):
            run.result(timeout=0.3)

    @bide.task(name="who")
    def here() -> int:
        return os.getpid()

    with bide.Runner(postgres, workflows=[bide.Workflow("who", [here])]) as runner:
        eventually(lambda: runner.get(run.id).status is bide.RunStatus.Completed, "another runner executes it")


def test_four_runners_share_what_one_client_submits(postgres: str, elsewhere: Callable[..., Child]) -> None:
    bide.Runner(postgres).close()
    with (
        elsewhere(postgres) as one,
        elsewhere(postgres) as two,
        elsewhere(postgres) as three,
        elsewhere(postgres) as four,
        bide.Client(postgres) as client,
    ):
        for child in (one, two, three, four):
            child.expect("ready")
        runs = client.submit_many(WHO, [None] * 10_000)
        done = Counter(run.result(timeout=60)["who"] for run in runs)
        assert done.keys() == {child.pid for child in (one, two, three, four)}
        shares = [count / 10_000 for count in done.values()]
        assert min(shares) >= 0.15, shares
        assert max(shares) <= 0.35, shares


def test_a_runner_that_is_alone_keeps_what_it_submits_and_shares_it_once_another_comes(
    postgres: str, elsewhere: Callable[..., Child]
) -> None:
    tenant = ContextVar("tenant", default="nobody")
    seen: set[str] = set()
    go = threading.Event()

    @bide.task
    def who() -> int:
        seen.add(tenant.get())
        assert go.wait(60)
        return os.getpid()

    with bide.Runner(postgres, slots=2) as runner:
        tenant.set("acme")
        runs = runner.submit_many(bide.Workflow("who", [who]), [None] * 2_000)
        # All of them are in its memory, and two have begun.
        with elsewhere(postgres) as child:
            child.expect("ready")
            others = runs[1_000:1_100]
            eventually(
                lambda: sum(run.status() == bide.RunStatus.Completed for run in others) > 20, "the other one has some"
            )
            go.set()
            done = Counter(run.result(timeout=60)["who"] for run in runs)
        assert done.keys() == {os.getpid(), child.pid}
        assert seen == {"acme"}, "runs that came back have the submitter's contextvars"


def test_the_results_of_runs_elsewhere_are_the_same_in_whichever_order_they_are_read(
    postgres: str, elsewhere: Callable[..., Child]
) -> None:
    bide.Runner(postgres).close()
    with elsewhere(postgres) as child, bide.Client(postgres) as client:
        child.expect("ready")
        runs = client.submit_many(WAITING, [{"name": str(number)} for number in range(300)])
        for number, run in enumerate(runs):
            client.signal(run, PAID, number)
        orders = [range(300), reversed(range(300)), [number * 7 % 300 for number in range(300)]]
        for order in orders:
            for number in order:
                assert runs[number].result(timeout=60)[waits] == number


def test_a_run_that_was_left_to_others_and_came_back_is_as_one_that_was_kept(postgres: str) -> None:
    tenant = ContextVar("tenant", default="nobody")

    @bide.task
    def fails(number: int) -> int:
        assert tenant.get() == "acme", "it has the submitter's contextvars"
        if number % 50 == 49:
            raise KeyError(number)
        return number

    with bide.Runner(postgres), bide.Runner(postgres) as runner:
        tenant.set("acme")
        runs = runner.submit_many(bide.Workflow("fails", [fails]), [{"number": number} for number in range(200)])
        for number, run in enumerate(runs):
            if number % 50 == 49:
                with pytest.raises(bide.RunFailed) as failed:
                    run.result(timeout=60)
                assert isinstance(failed.value.__cause__, KeyError), "and its caller gets the original exception"
                assert failed.value.__cause__.args == (number,)
            else:
                assert run.result(timeout=60)[fails] == number


def test_two_versions_of_the_code_execute_each_its_own_runs(postgres: str, elsewhere: Callable[..., Child]) -> None:
    bide.Runner(postgres).close()
    with elsewhere(postgres, "old") as old, elsewhere(postgres, "new") as new, bide.Client(postgres) as client:
        old.expect("ready")
        new.expect("ready")
        for _ in range(20):
            before, after = client.submit(WHO), client.submit(WHO_MORE)
            assert after.result(timeout=20).outputs == {"who": new.pid, "more": new.pid}
            # One that nobody has begun fits the new code too.
            assert before.result(timeout=20)["who"] in {old.pid, new.pid}


# --- opening ---------------------------------------------------------------------------------------------------------


def test_runners_that_make_the_tables_at_once_all_open() -> None:
    for _ in range(5):
        store = postgres_server.fresh_schema()
        together = threading.Barrier(4)

        def opens(store: str = store, together: threading.Barrier = together) -> int:
            together.wait()
            with bide.Runner(store, workflows=[HERE]) as runner:
                return int(runner.run(HERE)["here"])

        with ThreadPoolExecutor(4) as pool:
            assert [future.result(30) for future in [pool.submit(opens) for _ in range(4)]] == [1] * 4


@bide.task
def here() -> int:
    return 1


HERE = bide.Workflow("here", [here])


def test_a_newer_schema_is_refused(postgres: str) -> None:
    bide.Runner(postgres).close()
    schema = postgres.partition("schema=")[2]
    postgres_server.sql(postgres, f"UPDATE {schema}.meta SET version = 2, oldest_writer = 2")  # noqa: S608 - of this test
    for opens in (bide.Runner, bide.Client):
        with pytest.raises(
            bide.StoreError, match="has version 2, this bide knows versions up to 1; upgrade bide"
        ) as raised:
            opens(postgres)
        assert "secret" not in str(raised.value)


def test_a_password_is_shown_nowhere(postgres: str, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = postgres.replace("secret", "hunter2")
    with pytest.raises(bide.StoreError, match="password") as raised:
        bide.Runner(wrong)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(bide.DefinitionError) as refused:
        bide.Runner(wrong + "\0")
    assert "hunter2" not in str(refused.value)
    with bide.Runner(postgres) as runner, bide.Client(postgres) as client:
        assert "secret" not in repr(runner) + repr(client)
    assert "secret" not in "".join(capfd.readouterr())


# --- what breaks -----------------------------------------------------------------------------------------------------


def test_runners_that_are_killed_stopped_and_cut_off_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    counts = torture(tmp_path, 50, int.from_bytes(os.urandom(2)))
    assert counts["killed"], counts
    assert counts["runs"], counts


def test_the_judge_of_the_torture_sees_a_broken_guarantee() -> None:
    lines = ["born 1", "did r charge a 5 1", "did r charge a 5 2", "got r charge a 5 2"]
    assert judge(lines, set()) == 1
    assert judge([*lines, "did r charge a 5 3"], {3}) == 2
    with pytest.raises(AssertionError, match="runs again"):
        judge([*lines, "did r charge a 5 1"], set())
    with pytest.raises(AssertionError, match="something else"):
        judge([*lines, "got r charge a 6 1"], set())


def test_a_transaction_that_is_held_open_holds_up_nothing(postgres: str, elsewhere: Callable[..., Child]) -> None:
    bide.Runner(postgres).close()
    url = postgres.partition("?")[0]
    holder = subprocess.Popen(
        [postgres_server.psql(), "-XqAt", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id() IS NOT NULL;\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "t\n"
        with bide.Client(postgres) as client, elsewhere(postgres) as other:
            other.expect("ready")
            runs = client.submit_many(WAITING, [{"name": str(n)} for n in range(300)])
            client.signal_many([(run.id, PAID, n) for n, run in enumerate(runs)])
            assert [run.result(timeout=30)["waits"] for run in runs] == list(range(300))
    finally:
        holder.communicate("ROLLBACK;\n", timeout=20)
