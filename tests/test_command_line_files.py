"""`bide check`, `backup` and `export`: nothing is changed, what is damaged is named, and no copy is half a file."""

import json
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bide
import shop
from commands import call, start
from processes import Child, eventually

GOLDEN = sorted((Path(__file__).parent / "golden").glob("schema-*.sqlite"))

EDIT = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).executescript(sys.argv[2])"

LOOSE = """
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(sql, ') STRICT, ', ') '), ') STRICT', ')');
PRAGMA writable_schema = RESET;
"""

DAMAGE = [
    ("PRAGMA user_version = 99", "its schema has version 99, this bide knows versions up to"),
    ("UPDATE run SET status = 77 WHERE key = 'values'", "the column run.status"),
    ("UPDATE run SET uuid = x'07' WHERE key = 'values'", "of a run does not have 16 bytes"),
    ("UPDATE run SET inputs = x'ffff' WHERE key = 'failed'", "the column run.inputs does not read back"),
    ("UPDATE run SET workflow = 999 WHERE key = 'values'", "runs of workflow number 999, which is not there: 1"),
    ("UPDATE task SET status = 'x' WHERE run = (SELECT id FROM run WHERE key = 'failed')", "the column task.status"),
    ("UPDATE task SET output = x'6a7b' WHERE output IS NOT NULL", "a value in table task, run number"),
    (
        "UPDATE task SET run = 5 WHERE run = (SELECT id FROM run WHERE key = 'values')",
        "rows of run number 5, which is not there",
    ),
    ("UPDATE journal SET kind = 99", "the column journal.kind"),
    ("UPDATE journal SET value = x'78' WHERE value IS NOT NULL", "unknown value tag 'x'"),
    ("UPDATE message SET kind = 99", "the column message.kind"),
    ("UPDATE task SET failure = '{' WHERE failure IS NOT NULL", "the column task.failure"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A store with a run in every state."""
    target = tmp_path / "copy.db"
    shutil.copy(GOLDEN[-1], target)
    return target


def edited(file: Path, statement: str) -> None:
    subprocess.run([sys.executable, "-c", EDIT, str(file), LOOSE + statement], check=True, timeout=60)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda file: file.stem)
def test_a_store_of_every_schema_is_sound_and_stays_as_it_is(golden: Path, tmp_path: Path) -> None:
    store = tmp_path / "bide.db"
    shutil.copy(golden, store)
    before = store.read_bytes()
    said = call("check", store, "-o", "json")
    item = json.loads(said.out)
    assert (said.code, item["problems"]) == (0, [])
    assert set(item) == {"store", "schema", "runs", "tasks", "journal", "messages", "events", "problems"}
    assert item["schema"] == int(golden.stem.removeprefix("schema-"))
    assert min(item["runs"], item["tasks"], item["journal"]) > 0
    assert store.read_bytes() == before


@pytest.mark.parametrize(("statement", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_a_damaged_row_is_found_and_named(copy: Path, statement: str, message: str) -> None:
    edited(copy, statement)
    said = call("check", copy)
    assert said.code == 1, said.out
    assert message in said.out
    assert "bide-check" not in said.out
    # Whatever else reads it says what it cannot read, or shows the rest.
    listed = call("runs", copy, "--all")
    assert listed.code in {0, 1}
    assert listed.code == 0 or "Error: " in listed.err
    assert call("show", copy, "values").code in {0, 1, 3}


def test_a_damaged_page_is_found(copy: Path) -> None:
    data = bytearray(copy.read_bytes())
    for at in range(len(data) // 2, len(data), 4096):
        data[at : at + 300] = b"\xa5" * 300
    copy.write_bytes(data)
    said = call("check", copy)
    assert (said.code, "the file: " in said.out + said.err or "damaged" in said.err) == (1, True)


@pytest.mark.parametrize("words", ["check", "backup to.db", "runs", "export run"])
def test_a_file_that_is_no_store_is_refused(tmp_path: Path, words: str) -> None:
    theirs = tmp_path / "theirs.db"
    database = sqlite3.connect(theirs)
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    command, *rest = words.replace("to.db", str(tmp_path / "to.db")).split()
    said = call(command, theirs, *rest)
    assert (said.code, "the database of another program" in said.err) == (1, True)
    assert not (tmp_path / "to.db").exists()


SERVER = """
import shop
with bide.Runner(db, workflows=shop.workflows) as runner:
    runner.submit(shop.waiting, key="stuck")
    say("ready")
    while True:
        runner.run(shop.priced, {"items": [1]})
"""


def test_a_backup_is_a_whole_store_of_one_moment_while_others_write(file: Path, tmp_path: Path) -> None:
    to = tmp_path / "to.db"
    with Child("import sys; sys.path.insert(0, words[0])\n" + SERVER, file, str(Path(__file__).parent)) as child:
        child.expect("ready")
        assert call("check", file).code == 0
        said = call("backup", file, to, "-o", "json")
        assert json.loads(said.out) == {"store": str(file), "to": str(to), "bytes": to.stat().st_size}
        again = call("backup", file, to)
        assert (again.code, "is there already" in again.err) == (2, True)
        child.kill()
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "to"))) == ["to.db"]
    assert call("check", to).code == 0
    with bide.Runner(to, workflows=shop.workflows) as runner:
        assert runner.get("stuck").status == "Running"
        assert runner.runs(status="Completed")


def test_a_backup_that_is_killed_leaves_no_file_under_its_name(copy: Path, tmp_path: Path) -> None:
    edited(copy, "CREATE TABLE filler (x); INSERT INTO filler VALUES (zeroblob(200000000));")
    to = tmp_path / "to.db"
    process = start("backup", copy, to)
    eventually(lambda: any(tmp_path.glob(".to.db-*/part")), "it begins")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not to.exists()


def test_an_export_has_all_that_is_stored_of_a_run_and_no_secret(file: Path) -> None:
    with bide.Runner(file, workflows=shop.workflows) as runner:
        run = runner.submit(shop.order, {"items": [3]}, key="k", tags={"customer": "7"})
        eventually(lambda: runner.waiting(), "it waits")
        token = next(event.value for event in runner.events(run))
        runner.signal(run, "approved", "bo")
        runner.resolve(token, "cy")
        run.result(timeout=30)
        with pytest.raises(bide.RunFailed):
            runner.run(shop.failing, key="broken")
    said = call("export", file, "k").out
    assert token not in said.replace(json.dumps(token), "")  # but where the body has emitted it
    lines = [json.loads(line) for line in said.splitlines()]
    of: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        of.setdefault(line.pop("type"), []).append(line)
    assert [one["inputs"] for one in of["run"]] == [{"items": [3]}]
    assert [(one["name"], one["output"]) for one in of["task"]] == [
        ("price", 3),
        ("approval", "3 approved by bo, paid by cy"),
    ]
    assert {(one["kind"], one["name"], one["state"]) for one in of["journal"]} >= {
        ("signal", "approved", "satisfied"),
        ("answer", "paid", "satisfied"),
    }
    assert [one["value"] for one in of["journal"] if one["kind"] == "callback"] == [None]
    assert {one["channel"] for one in of["event"]} == {"events", "tokens"}
    assert of["history"][-1]["what"] == "completed"
    failed = [json.loads(line) for line in call("export", file, "broken").out.splitlines()]
    (step,) = [line for line in failed if line["type"] == "journal"]
    assert (step["name"], step["value"]) == ("answer", 42)
    assert "the disk is gone" in failed[0]["error"]["message"]
