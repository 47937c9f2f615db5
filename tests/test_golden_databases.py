"""Files of every released schema, with runs in every state there is, open, migrate and finish.

The released bide wrote them by `scripts/write-golden`; the workflows are in `golden_workflows.py`.
"""

import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import bide
import golden_workflows as workflows
from processes import eventually

ROOT = Path(__file__).parent.parent
GOLDEN = sorted((ROOT / "tests" / "golden").glob("schema-*.sqlite"))
MIGRATIONS = sorted((ROOT / "rust" / "store" / "src" / "sqlite" / "migrations").glob("*.sql"))

OUTPUTS = {
    "asleep": {"sleeps": "job 1"},
    "busy": {"holds_a_slot": "done"},
    "caught": {"catches": "the remote said no; True"},
    "gated": {"behind_a_condition": "open", "behind_a_time": "reached"},
    "grown": {"was_there": 1, "is_new": 2},
    "late": {"is_late": "too late"},
    "queued": {"has_not_begun": 7},
    "released": {"waits": "job 2", "uses_it": "JOB 2"},
    "retrying": {"tries": ["job 3", 2]},
    "shared": {"starts": None, "left": None, "right": None, "joins": {"rows": [0, 1, 2], "left": {"a": 1}}},
    "suspected": {"suspect": "survived"},
    "values": workflows.VALUES,
    "waiting": {"waits": "job 2", "uses_it": "JOB 2"},
}
"""The outcome of each run of the first schema, by its key."""

OUTPUTS_4 = {
    "asked": {"desk": [1, 2]},
    "deciding": {"decided": "decided", "told": False, "patient": 5.0},
    "interrupted": {"pays_once": "interrupted"},
    "held": {"is_held": "went on"},
    "limited": {"in_flight": "landed", "in_line": "landed too"},
    "listening": {"listens": [1, "both", 42, 2, 7]},
    "looping": {"turns": 1},
    "parent": {"waits_for_it": 3},
    "mapped": {"numbers": [1, 2, 3], "tenfold": [10, 20, 30], "total": 60},
}
"""Likewise of the runs that a file has since schema 4."""

SINCE_WAITS = 4
KINDS = set(range(13))
"""The kinds of journal entries."""


@pytest.fixture(params=GOLDEN, ids=lambda golden: golden.stem)
def golden(request: pytest.FixtureRequest, file: Path) -> Path:
    shutil.copy(request.param, file)
    return file


def test_there_is_one_for_each_schema() -> None:
    versions = [version_of(golden) for golden in GOLDEN]
    assert versions == list(range(1, len(MIGRATIONS) + 1)), "scripts/write-golden writes that of a new schema"


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.stem)
def test_it_names_no_machine(golden: Path) -> None:
    content = golden.read_bytes()
    assert not re.search(rb'File \\"/|/home/|/tmp/|site-packages', content)
    with sqlite3.connect(f"file:{golden}?immutable=1", uri=True) as database:
        assert database.execute("SELECT DISTINCT host, pid FROM runner").fetchall() in ([], [("", 0)])


def test_unfinished_runs_keep_their_state(golden: Path) -> None:
    outputs = outputs_of(golden)
    with bide.Runner(golden) as runner:  # a runner without any of the workflows
        assert runner.get("values")["big"] == workflows.VALUES["big"]
        stand = {run.key: str(run.status) for run in runner.runs()}
        assert stand.pop(None) == "Running"
        if "held" in outputs:
            assert [stand.pop(key) for key in ("held", "cancelling", "cancelled")] == ["Paused", "Running", "Cancelled"]
            assert runner.get("later").tags == {"customer": "7"}
            assert stand.pop("later") == "Running"
            stand["held"] = "Running"
        expected = dict.fromkeys([*outputs, "far", "shrunk"], "Running")
        expected |= dict.fromkeys(["values", "skipped"], "Completed")
        expected |= {"failed": "Failed", "killer": "Paused", "mismatch": "Paused"}
        assert stand == expected
        deferred = runner.get("waiting").tasks["waits"]
        assert (deferred.status, deferred.sub_status) == ("Running", "Deferred")
        assert "is not registered here" in str(runner.get("waiting").blocked_by)
        assert runner.get("retrying").tasks["tries"].attempts == 1
        assert runner.get("suspected").tasks["suspect"].status is bide.TaskStatus.Running


def test_schedules_read_back(golden: Path) -> None:
    names = {"hourly", "yearly"} if int(golden.read_bytes()[60:64].hex(), 16) >= SINCE_WAITS else set()
    with bide.Runner(golden, workflows=[workflows.later]) as runner:
        found = {one.name: one for one in runner.schedules()}
        assert found.keys() == names
        assert all(one.paused and one.workflow == "later" for one in found.values())
        if names:
            assert found["yearly"].when == bide.Cron("30 2 1 1 *", "Europe/Berlin")
            runner.resume_schedule("yearly")
            assert next(one.next for one in runner.schedules() if one.name == "yearly") is not None


def test_watches_go_on_from_their_cursors(golden: Path) -> None:
    names = {"inbox", "outbox"} if int(golden.read_bytes()[60:64].hex(), 16) >= SINCE_WAITS else set()
    seen: list[object] = []

    def source(cursor: object) -> Any:
        seen.append(cursor)
        return [("a", None)], None

    with bide.Runner(golden, workflows=[workflows.later]) as runner:
        found = {one.name: one for one in runner.watches()}
        assert found.keys() == names
        assert all(one.paused and one.workflow == "later" and one.every == 60 for one in found.values())
        if names:
            assert found["outbox"].error == "ZeroDivisionError: division by zero"
            runner.watch("inbox", workflows.later, source, every=0.01)
            runner.resume_watch("inbox")
            eventually(lambda: len(seen) > 1, "it is called")
            assert seen[:2] == [{"page": 2}, None]
            assert {one.name: one for one in runner.watches()}["inbox"].started == 0


def test_every_run_finishes_as_if_nothing_had_happened(golden: Path) -> None:
    workflows.CALLS.clear()
    expected = outputs_of(golden)
    with bide.Runner(golden, workflows=workflows.WORKFLOWS, slots=4) as runner:
        if "asked" in expected:
            assert runner.request("asked", workflows.question, 1, id="first", timeout=30) == 2
            assert runner.request("asked", workflows.question, 2, id="second", timeout=30) == 4
            assert runner.request("asked", workflows.question, 3, timeout=30) == 0
            runner.signal("deciding", workflows.decision, value=False)
            runner.resume("held")
        for key, outputs in expected.items():
            result = runner.submit(by_key(runner, key), inputs_of(key), key=key).result(timeout=30)
            assert result.status is bide.RunStatus.Completed, key
            assert result.outputs == outputs, key
        (unnamed,) = [run for run in runner.runs(workflow="waiting") if run.key is None]
        eventually(lambda: runner.get(unnamed.id).status is bide.RunStatus.Completed, "the run without a key ends")
        if "held" in expected:
            eventually(lambda: runner.get("cancelling").status is bide.RunStatus.Cancelled, "the clean-up ends")
        assert workflows.CALLS == [], "what was recorded was done again"
    assert version_of(golden) == len(MIGRATIONS)


def test_ended_runs_read_back(golden: Path) -> None:
    with bide.Runner(golden, workflows=workflows.WORKFLOWS) as runner:
        with pytest.raises(bide.RunFailed, match="no such path: a/b") as raised:
            runner.run(workflows.failed, {"path": "a/b"}, key="failed")
        result = raised.value.result
        assert isinstance(result, bide.RunResult)
        assert result.tasks["uses"].status is bide.TaskStatus.Skipped
        assert "breaks" in str(result.tasks["uses"].blocked_by)
        assert result["repairs"] == "repaired"
        cause = raised.value.__cause__
        assert isinstance(cause, bide.TaskFailed)
        assert "ValueError" in str(raised.value)
        assert (cause.type, cause.notes) == ("ValueError", ("look again",))
        assert cause.causes[0].type == "KeyError"
        assert runner.run(workflows.skipped, key="skipped").tasks["counts"].status is bide.TaskStatus.Skipped
        with pytest.raises(bide.DefinitionError, match="failed"):
            runner.run(workflows.failed, {"path": "another"}, key="failed")


def test_a_run_that_cannot_continue_says_why(golden: Path) -> None:
    with bide.Runner(golden, workflows=workflows.WORKFLOWS) as runner:
        assert "5 times in a row while it executed 'kills'" in str(runner.get("killer").blocked_by)
        assert "other arguments" in str(runner.get("mismatch").blocked_by)
        assert "shrunk" in str(runner.get("shrunk").blocked_by)
        far = runner.get("far").tasks["sleeps_for_long"]
        assert (far.status, far.sub_status) == ("Running", "Deferred")


@pytest.mark.parametrize("golden", GOLDEN[-1:], ids=lambda golden: golden.stem)
def test_the_newest_has_rows_in_each_table_and_records_of_each_kind(golden: Path) -> None:
    with sqlite3.connect(f"file:{golden}?immutable=1", uri=True) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        empty = [name for name in tables if not database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()]  # noqa: S608
        kinds = {kind for (kind,) in database.execute("SELECT DISTINCT kind FROM journal")}
    assert empty == []
    assert kinds == KINDS


def outputs_of(golden: Path) -> dict[str, object]:
    """Return the outcomes of the unfinished runs that a file has, by key."""
    return OUTPUTS | (OUTPUTS_4 if version_of(golden) >= SINCE_WAITS else {})


def by_key(runner: bide.Runner, key: str) -> bide.Workflow:
    name = "waiting" if key == "released" else key
    return next(workflow for workflow in workflows.WORKFLOWS if workflow.name == name)


def inputs_of(key: str) -> dict[str, object] | None:
    return {"shared": {"unit": "mm"}, "queued": {"n": 7}, "deciding": {"grace": 5.0}}.get(key)  # type: ignore[return-value]


def version_of(file: Path) -> int:
    with sqlite3.connect(f"file:{file}?immutable=1", uri=True) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)
