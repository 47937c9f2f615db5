"""`bide move`: unfinished runs go from a file into PostgreSQL, none is lost, and none is in both."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import bide
from commands import call, start
from processes import eventually

GO = bide.signal("go", int)
MARK = "it is being moved to"


@bide.task
def first(n: int) -> int:
    return n


@bide.task
def waits(first: int, handle: bide.TaskHandle) -> int:
    kept: int = handle.step(lambda n: 10 * n, first, name="kept")
    handle.emit(f"waits {first}")
    handle.progress(1, 2)
    early = handle.wait_for("early", int)
    return kept + early + handle.wait(GO)


@bide.task
def inner(n: int, handle: bide.TaskHandle) -> int:
    return n + handle.wait_for("inner", int)


CHILD = bide.Workflow("moved child", [inner])


@bide.task
def outer(first: int, handle: bide.TaskHandle) -> int:
    return int(handle.run(CHILD, {"n": first})["inner"])


@bide.task
def last(waits: int, outer: int) -> int:
    return waits + outer


WORK = bide.Workflow("moved", [first, waits, outer, last])


def begun(file: Path, count: int) -> None:
    """Have a file with runs that wait, one that has ended, and one that is paused."""
    with bide.Runner(file, workflows=[WORK, CHILD]) as runner:
        runs = runner.submit_many(
            WORK, [{"n": n} for n in range(count)], keys=[str(n) for n in range(count)], tags={"of": "test"}
        )
        for run in runs:
            runner.signal(run.id, "early", 1)
            next(runner.follow(run.id))
        eventually(lambda: len(runner.runs(workflow=CHILD)) == count, "all children are there")
        runner.run(bide.Workflow("ended", [first]), {"n": 1}, key="ended")
        runner.pause("1", workflow=WORK, by="ana")
        eventually(lambda: runner.get("1", workflow=WORK).status is bide.RunStatus.Paused, "it is paused")


def finished(store: str, count: int) -> None:
    """Finish all runs of a store, and check them."""
    with bide.Runner(store, workflows=[WORK, CHILD]) as runner:
        assert runner.get("1", workflow=WORK).blocked_by == "paused on request by ana"
        runner.resume("1", workflow=WORK)
        for n in range(count):
            runner.signal(str(n), GO, n, workflow=WORK)
        for child in runner.runs(workflow=CHILD):
            runner.signal(child.id, "inner", 100)
        for n in range(count):
            run = runner.submit(WORK, {"n": n}, key=str(n)).result(timeout=20)
            assert run["last"] == 10 * n + 1 + n + n + 100
            assert run.tags == {"of": "test"}
            assert run.tasks["first"].attempts == 1
            assert next(event.value for event in runner.events(run)) == f"waits {n}"


def test_runs_that_wait_move_with_all_that_is_recorded_and_go_on(file: Path, postgres: str) -> None:
    begun(file, 5)
    with bide.Client(file) as client:
        before = {run.id: (run.key, run.started_at, run.parent) for run in client.runs(status="Running")}
    said = call("move", file, postgres, "-o", "json")
    assert said.code == 0, said.err
    moved = json.loads(said.out)
    assert sum(family["runs"] for family in moved["moved"]) == 10
    assert moved["kept"] == []
    with bide.Client(postgres) as client:
        after = {run.id: (run.key, run.started_at, run.parent) for run in client.runs(status="Running")}
    assert after == before
    with bide.Client(file) as client:
        assert [run.key for run in client.runs()] == ["ended"]
    finished(postgres, 5)
    assert call("move", file, postgres).out == "0 runs moved\n"


def test_a_file_that_a_runner_has_is_refused_and_nothing_moves(file: Path, postgres: str) -> None:
    with bide.Runner(file, workflows=[WORK, CHILD]) as runner:
        run = runner.submit(WORK, {"n": 1}, key="1")
        next(run.follow())
        said = call("move", file, postgres)
        assert said.code == 1
        assert "in use" in said.err
        assert "close all runners" in said.err
        with bide.Client(postgres) as client:
            assert client.runs() == []
        runner.signal(run.id, "early", 1)
        eventually(lambda: "go" in str(runner.why(run.id)), "it goes on in the file")


def test_a_run_whose_key_is_taken_stays_and_continues_in_the_file(file: Path, postgres: str) -> None:
    begun(file, 3)
    with bide.Runner(postgres, workflows=[WORK, CHILD]) as runner:
        runner.submit(WORK, {"n": 7}, key="2")
    said = call("move", file, postgres)
    assert said.code == 1
    assert "4 runs moved" in said.out
    assert "stays: its key '2' belongs to run" in said.out
    with bide.Client(file) as client:
        kept = client.get("2", workflow=WORK)
        assert kept.status is bide.RunStatus.Running
        assert MARK not in (kept.blocked_by or "")


@pytest.mark.parametrize("seed", range(3))
def test_a_move_that_is_killed_anywhere_has_each_run_in_one_store_and_goes_on(
    seed: int, file: Path, postgres: str
) -> None:
    count = 40
    begun(file, count)
    bide.Runner(postgres).close()
    chance = random.Random(seed)  # noqa: S311 - moments of kills
    before = time.monotonic()
    assert call("runs", file).code == 0
    takes = time.monotonic() - before
    for _ in range(3):
        mover = start("move", file, postgres)
        time.sleep(takes * chance.uniform(0.7, 1.6))
        mover.send_signal(signal.SIGKILL)
        mover.communicate()
        with bide.Client(file) as old, bide.Client(postgres) as new:
            there = {run.id for run in new.runs()}
            here = {run.id for run in old.runs() if run.status in {"Running", "Paused"}}
            # One that is in both is paused in the file.
            assert all(MARK in (old.get(run).blocked_by or "") for run in there & here)
            assert len(there | here) == 2 * count
    said = call("move", file, postgres)
    assert said.code == 0, said.err + said.out
    with bide.Client(file) as client:
        assert [run.key for run in client.runs()] == ["ended"]
    finished(postgres, count)


def test_a_store_is_not_moved_into_itself_and_wrong_stores_are_named(file: Path, tmp_path: Path, postgres: str) -> None:
    begun(file, 2)
    link = tmp_path / "link.db"
    link.symlink_to(file)
    for target in (file, link):
        said = call("move", file, target)
        assert said.code == 1
        assert "the store from which" in said.err
    assert call("move", tmp_path / "missing.db", postgres).code == 3
    wrong = call("move", file, postgres.replace("secret", "hunter2"))
    assert wrong.code == 1
    assert "password" in wrong.err
    assert "hunter2" not in wrong.err
    copy = tmp_path / "copy.db"
    shutil.copy(file, copy)
    assert call("move", file, postgres).code == 0
    said = call("move", copy, postgres)
    assert said.code == 1
    assert said.out.count("one of the two is a copy") == 2


def test_commands_take_a_url_and_never_show_its_password(postgres: str) -> None:
    with bide.Runner(postgres, workflows=[WORK, CHILD]) as runner:
        run = runner.submit(WORK, {"n": 1}, key="a")
        next(run.follow())
        for words in (["runs"], ["show", "a"], ["why", "a"], ["waiting"], ["events", "a"], ["export", "a"]):
            said = call(*words, BIDE_STORE=postgres)
            assert said.code == 0, said.err
            assert "secret" not in said.out + said.err
        assert "waits 1" in call("export", postgres, "a").out
        assert call("signal", postgres, "a", "early", "--value", "1").code == 0
        eventually(lambda: "go" in str(runner.why(run.id)), "the signal has come")
        for words in (
            ["check", postgres],
            ["backup", postgres, "to.db"],
            ["runs", postgres + "&schema=Wrong!"],
            ["serve", postgres, "shop"],
        ):
            said = call(*words)
            assert said.code in {1, 2}
            assert "secret" not in said.out + said.err


def test_runs_move_from_postgresql_into_a_file_too(file: Path, postgres: str) -> None:
    begun(file, 2)
    assert call("move", file, postgres).code == 0
    assert call("move", postgres, file).code == 0
    finished(str(file), 2)
