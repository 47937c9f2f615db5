"""A `Client` submits, sends and looks at runs that runners of this or of another process execute."""

import asyncio
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import bide
from processes import Child, eventually, ledger

APPROVAL = bide.signal("approval", str)


@bide.task
def review(handle: bide.TaskHandle, title: str) -> str:
    handle.emit(f"reviewing {title}")
    return f"{title}: {handle.wait(APPROVAL)}"


REVIEW = bide.Workflow("review", [review], signals=[APPROVAL])


@bide.task
def only() -> int:
    return 1


one = bide.Workflow("one", [only])


@bide.task
def read() -> list[int]:
    return [1, 2, 3]


@bide.task
def total(read: list[int], factor: int) -> int:
    return sum(read) * factor


TOTAL = bide.Workflow("totals", [read, total])

RUNNER = """
approval = bide.signal("approval", str)

@bide.task
def review(handle: bide.TaskHandle, title: str) -> str:
    note("review", title)
    handle.emit(f"reviewing {title}")
    return f"{title}: {handle.wait(approval)}"

with bide.Runner(db, workflows=[bide.Workflow("review", [review], signals=[approval])]) as runner:
    say("ready")
    stay()
"""


def test_a_run_that_a_client_submits_is_executed_by_the_runner_of_another_process(file: Path) -> None:
    with Child(RUNNER, file) as child:
        child.expect("ready")
        with bide.Client(file) as client:
            handle = client.submit(REVIEW, {"title": "a"}, key="k")
            for event in client.follow(handle):
                assert event.value == "reviewing a"
                handle.signal(APPROVAL, "yes")
            result = handle.result(timeout=30)
            assert result["review"] == "a: yes"
            assert [event.value for event in client.events("k")] == ["reviewing a"]
            assert client.get("k")["review"] == "a: yes"
            assert [run.id for run in client.runs()] == [handle.id]
            # The same key again is the same run.
            assert client.submit(REVIEW, {"title": "a"}, key="k").id == handle.id


def test_a_run_of_a_client_continues_after_its_runner_was_killed(file: Path) -> None:
    with Child(RUNNER, file) as first:
        first.expect("ready")
        client = bide.Client(file)
        handle = client.submit(REVIEW, {"title": "a"})
        eventually(lambda: len(client.waiting()) == 1, "it waits")
        first.kill()
    handle.signal(APPROVAL, "meanwhile")
    with Child(RUNNER, file) as second:
        second.expect("ready")
        assert handle.result(timeout=30)["review"] == "a: meanwhile"
    assert ledger(file) == ["review a", "review a"]
    client.close()


def test_a_run_that_no_runner_has_waits_for_one_and_says_so(file: Path) -> None:
    with bide.Runner(file):
        pass
    with bide.Client(file) as client:
        handle = client.submit(REVIEW, {"title": "a"})
        assert handle.status() is bide.RunStatus.Pending
        why = handle.why()
        assert why.held_by is bide.HeldBy.NoRunner
        assert "no runner has it" in str(why)
        with pytest.raises(TimeoutError):
            handle.result(timeout=0.05)
        handle.signal(APPROVAL, "later")
        with bide.Runner(file, workflows=[REVIEW]):
            assert handle.result(timeout=30)["review"] == "a: later"


def test_a_client_never_executes_a_run_even_if_it_has_the_workflow(file: Path) -> None:
    with bide.Client(runner := bide.Runner(file)) as client:
        runner.close()
        handle = client.submit(REVIEW, {"title": "a"})
        with bide.Client(file) as other:
            other.submit(REVIEW, {"title": "b"})
            with pytest.raises(TimeoutError):
                handle.result(timeout=0.2)
            assert {run.status for run in other.runs()} == {bide.RunStatus.Pending}


def test_a_fork_by_a_client_belongs_to_nobody_until_a_runner_has_its_workflow(file: Path) -> None:
    with bide.Runner(file) as runner:
        done = runner.run(TOTAL, {"factor": 2}, tags={"customer": "7"})
    with bide.Client(file) as client:
        with pytest.raises(bide.BideError, match=r"which this client does not have: pass it, fork\(run, workflow="):
            client.fork(done, start_at="total")
        with pytest.raises(bide.DefinitionError, match="workflow 'totals' has no task 'totl'"):
            client.fork(done, workflow=TOTAL, start_at="totl")
        forked = client.fork(done, workflow=TOTAL, start_at="total", inputs={"factor": 5}, by="ana")
        assert client.why(forked).held_by is bide.HeldBy.NoRunner
        assert client.get(forked.id).tasks["read"].status is bide.TaskStatus.Completed
        counted = subprocess.run([sys.executable, "-c", RUNNERS, file], capture_output=True, text=True, check=True)
        assert counted.stdout == "0\n"
        with bide.Runner(file, workflows=[TOTAL]):
            result = forked.result(timeout=30)
        assert (result["total"], result.tags) == (30, {"customer": "7"})
        assert client.get(done.id)["total"] == 12
        assert [(one.what, one.name) for one in client.history(done.id) if one.by] == [("forked_to", forked.id)]
        assert [(one.what, one.name) for one in client.history(forked) if one.by] == [("forked_from", done.id)]


def test_a_fork_by_a_client_is_executed_by_the_runner_that_is_there(store: str) -> None:
    with bide.Runner(store, workflows=[TOTAL]) as runner, bide.Client(runner) as client:
        done = runner.run(TOTAL, {"factor": 2})
        for factor in range(3, 6):
            forked = client.fork(done, workflow=TOTAL, start_at="total", inputs={"factor": factor})
            assert forked.result(timeout=30)["total"] == 6 * factor
        wider = bide.Workflow("totals", [read, total, only])
        with pytest.raises(bide.DefinitionError, match="'factor' is read by task 'total', whose recorded outcome"):
            client.fork(done, workflow=wider, start_at="only", inputs={"factor": 1})


def test_a_client_adopts_under_the_rules_of_a_runner(file: Path) -> None:
    with bide.Client(bide.Runner(file)) as client:
        run = client.submit(REVIEW, {"title": "a"})
        with pytest.raises(bide.BideError, match="it lacks review"):
            client.adopt(run, one)


def test_many_runs_and_keys_are_submitted_as_by_a_runner(store: str) -> None:
    with bide.Runner(store, workflows=[REVIEW]) as runner, bide.Client(runner) as client:
        handles = client.submit_many(REVIEW, [{"title": str(n)} for n in range(20)], [f"k{n}" for n in range(20)])
        with pytest.raises(bide.DefinitionError, match=r"keys\[1\]: key 'k1' of workflow 'review' belongs to run"):
            client.submit_many(REVIEW, [{"title": "x"}, {"title": "x"}], ["new", "k1"])
        with pytest.raises(KeyError):
            client.get("new")
        client.signal_many([(handle, APPROVAL, "ok") for handle in handles])
        assert [handle.result(timeout=30)["review"] for handle in handles] == [f"{n}: ok" for n in range(20)]


def test_a_client_works_on_the_store_of_a_runner_in_memory() -> None:
    with bide.Runner(":memory:", workflows=[REVIEW]) as runner, bide.Client(runner) as client:
        handle = client.submit(REVIEW, {"title": "a"})
        client.signal(handle, APPROVAL, "yes")
        assert handle.result(timeout=30)["review"] == "a: yes"
        assert runner.get(handle.id)["review"] == "a: yes"


def test_a_client_asks_and_answers(file: Path) -> None:
    question = bide.request("question", str, int)
    tokens: list[str] = []

    @bide.task
    def answering(handle: bide.TaskHandle) -> str:
        asked = handle.wait(question)
        asked.reply(len(asked.value))
        callback = handle.callback("paid", str)
        tokens.append(callback.token)
        return handle.wait(callback)

    workflow = bide.Workflow("answering", [answering])
    with bide.Runner(file, workflows=[workflow]), bide.Client(file) as client:
        handle = client.submit(workflow)
        assert handle.request(question, "four", timeout=30) == 4
        eventually(lambda: bool(tokens), "the callback is made")
        client.resolve(tokens[0], "paid")
        assert handle.result(timeout=30)["answering"] == "paid"


def test_a_client_can_be_used_on_an_event_loop(file: Path) -> None:
    async def main() -> str:
        async with bide.Runner(file, workflows=[REVIEW]), bide.Client(file) as client:
            handle = client.submit(REVIEW, {"title": "a"})
            handle.signal(APPROVAL, "yes")
            result = await handle
            return str(result["review"])

    assert asyncio.run(main()) == "a: yes"


RUNNERS = (
    "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM runner').fetchone()[0])"
)


def test_a_client_takes_no_lease(file: Path) -> None:
    with bide.Runner(file):
        pass
    with bide.Client(file) as client:
        client.submit(REVIEW, {"title": "a"})
        counted = subprocess.run([sys.executable, "-c", RUNNERS, file], capture_output=True, text=True, check=True)
        assert counted.stdout == "0\n"


def test_a_client_makes_no_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    with pytest.raises(bide.StoreError, match=r"missing\.db: there is no such file, and a Client makes none"):
        bide.Client(missing)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("store", "error", "message"),
    [
        (":memory:", bide.StoreError, r"belongs to its Runner: pass that one, Client\(runner\)"),
        ("", bide.DefinitionError, "Client takes a path or a URL as its store, not an empty string"),
        (7, bide.DefinitionError, "Client takes a path or a URL as its store, not 7"),
        ("postgresql+psycopg://host/db", bide.StoreError, "names no driver: write postgresql://"),
    ],
)
def test_what_is_no_store_is_refused(store: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bide.Client(store)  # type: ignore[arg-type]


def test_a_closed_client_refuses_and_can_be_closed_again(file: Path) -> None:
    with bide.Runner(file):
        client = bide.Client(file)
        client.close()
        client.close()
        for call in (lambda: client.submit(REVIEW, {"title": "a"}), client.runs, client.waiting):
            with pytest.raises(bide.RunnerClosed, match="this client is closed: create a new one"):
                call()


def test_what_a_client_is_asked_for_and_does_not_have_is_named(file: Path) -> None:
    with bide.Runner(file), bide.Client(file) as client:
        for look in (client.get, client.why):
            with pytest.raises(KeyError, match="no run has the id or key 'nothing'"):
                look("nothing")
        client.submit(REVIEW, {"title": "a"}, key="k")
        client.submit(bide.Workflow("other", [review]), {"title": "a"}, key="k")
        with pytest.raises(
            KeyError, match="the key 'k' belongs to runs of 'other' and 'review': choose one with workflow="
        ):
            client.why("k")
        assert client.why("k", workflow="other").workflow == "other"
        with pytest.raises(bide.DefinitionError, match=r"a Client submits runs of a bide\.Workflow, not 7"):
            client.submit(7)  # type: ignore[arg-type]


def test_a_client_is_not_pickled() -> None:
    with bide.Runner(":memory:") as runner, bide.Client(runner) as client:
        assert repr(client) == "<Client of ':memory:'>"
        with pytest.raises(TypeError, match="Client"):
            pickle.dumps(client)


EVERYTHING = """
question = bide.request("question", str, int)
approval = bide.signal("approval", str)

@bide.task
def clerk(handle: bide.TaskHandle) -> str:
    try:
        asked = handle.wait(question)
        asked.reply(len(asked.value))
        callback = handle.callback("paid", str)
        handle.emit(callback.token)
        paid = handle.wait(callback)
        return paid + " " + handle.wait(approval)
    except bide.Cancelled:
        note("undone")
        raise

@bide.task
def flaky() -> int:
    if not Path(db).with_suffix(".mended").exists():
        raise OSError("broken")
    return 1

workflows = [bide.Workflow("clerk", [clerk]), bide.Workflow("flaky", [flaky])]
"""


def everything(script: str, file: Path) -> dict[str, bide.Workflow]:
    """Return the workflows of the script, as this process submits them: it never executes them."""
    names: dict[str, object] = {"bide": bide, "Path": Path, "db": str(file)}
    exec(script, names)  # noqa: S102 - the same code in both processes
    return {workflow.name: workflow for workflow in names["workflows"]}  # type: ignore[attr-defined]


def test_a_client_does_everything_with_runs_of_another_process(file: Path) -> None:
    workflows = everything(EVERYTHING, file)
    serves = EVERYTHING + "\nwith bide.Runner(db, workflows=workflows):\n    say('ready')\n    stay()\n"
    with Child(serves, file) as child:
        child.expect("ready")
        with bide.Client(file) as client:
            handle = client.submit(workflows["clerk"], key="k", tags={"customer": "7"}, priority=3)
            assert client.request("k", "question", "four", timeout=30) == 4
            token = next(event.value for event in client.follow("k"))
            (wait,) = client.waiting()
            assert (wait.run, wait.kind) == (handle.id, bide.WaitKind.Callback)
            why = client.why("k")
            assert why.runner is not None
            assert why.runner.pid == child.pid
            assert client.pause("k", by="ana", reason="lunch") == 1
            eventually(lambda: client.why("k").by == "ana", "it is paused")
            client.resolve(token, "paid")
            assert client.resume(tags={"customer": "7"}) == 1
            client.signal("k", "approval", "ok")
            assert handle.result(timeout=30)["clerk"] == "paid ok"
            assert [run.tags for run in client.runs(tags={"customer": "7"})] == [{"customer": "7"}]
            asked = [(entry.what, entry.by, entry.reason) for entry in client.history("k") if entry.by]
            assert asked == [("pause", "ana", "lunch")]

            other = client.submit(workflows["clerk"])
            eventually(lambda: len(client.waiting()) == 1, "it waits")
            client.cancel(other, by="ana")
            with pytest.raises(bide.RunFailed):
                other.result(timeout=30)
            assert other.status() is bide.RunStatus.Cancelled
            assert "undone" in ledger(file)

            failed = client.submit(workflows["flaky"])
            with pytest.raises(bide.RunFailed):
                failed.result(timeout=30)
            file.with_suffix(".mended").touch()
            client.retry(failed)
            assert failed.result(timeout=30)["flaky"] == 1
            assert client.delete(all=True) == 3
            assert client.runs() == []


async def test_a_client_has_the_awaitable_twins_of_a_runner(file: Path) -> None:
    async with bide.Runner(file, workflows=[REVIEW]), bide.Client(file) as client:
        handles = await asyncio.gather(*(client.submit_async(REVIEW, {"title": str(n)}) for n in range(3)))
        for handle in handles:
            await client.signal_async(handle, APPROVAL, "yes")
        assert [(await handle)["review"] for handle in handles] == [f"{n}: yes" for n in range(3)]
        assert (await client.why_async(handles[0])).held_by is None
        assert await client.waiting_async() == []
        assert await client.delete_async(handles[0]) == 1


def test_a_run_of_a_client_begins_when_it_says(store: str) -> None:
    with bide.Runner(store, workflows=[REVIEW]) as runner, bide.Client(runner) as client:
        handle = client.submit(REVIEW, {"title": "a"}, start_after=3600, tags={"a": "b"}, priority=7)
        eventually(lambda: runner.why(handle.id).held_by is bide.HeldBy.Start, "the runner has it, and waits")
        assert runner.get(handle.id).tags == {"a": "b"}
        assert runner.waiting() == []


def test_a_client_neither_claims_a_run_that_it_retries_nor_takes_a_lease(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @bide.task
    def fails() -> None:
        raise OSError

    workflow = bide.Workflow("fails", [fails])
    with bide.Runner(file, workflows=[workflow]), bide.Client(file) as client:
        run = client.submit(workflow)
        with pytest.raises(bide.RunFailed):
            run.result(timeout=30)
    with bide.Client(file) as client:
        client.submit(workflow, key="other")  # it knows the workflow
        client.retry(run.id)
        assert client.why(run.id).held_by is bide.HeldBy.NoRunner
        client.cancel(run.id)
        assert client.why(run.id).held_by is bide.HeldBy.NoRunner
        counted = subprocess.run([sys.executable, "-c", RUNNERS, file], capture_output=True, text=True, check=True)
        assert counted.stdout == "0\n"
    assert "lease" not in caplog.text


def test_a_client_ends_a_run_whose_runner_is_dead(file: Path) -> None:
    with Child(RUNNER, file) as child:
        child.expect("ready")
        with bide.Client(file) as client:
            run = client.submit(REVIEW, {"title": "a"})
            eventually(lambda: len(client.waiting()) == 1, "it waits")
            child.kill()
            client.cancel(run, force=True)
            assert run.status() is bide.RunStatus.Cancelled
