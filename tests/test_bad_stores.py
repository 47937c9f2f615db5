"""A path or URL that cannot be a store is refused, and nothing is created or changed."""

import sqlite3
import tempfile
from pathlib import Path

import pytest

import bide
from processes import ran
from refusals import load, refused


def test_a_path_in_a_missing_directory_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    refused(bide.StoreError, ["missing", "bide.db"], lambda: bide.Runner(tmp_path / "missing" / "bide.db"))
    assert list(tmp_path.iterdir()) == []


def test_a_path_in_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    script = """
    bide.Runner(":memory:").close()  # all is imported now
    if os.geteuid() == 0:
        os.seteuid(65534)  # root may write anywhere
    try:
        bide.Runner(db)
    except bide.StoreError as error:
        say(db in str(error), error)
    say(os.listdir(Path(db).parent))
    """
    with tempfile.TemporaryDirectory() as name:  # not under tmp_path, into which only this user may look
        Path(name).chmod(0o555)
        said = ran(script, Path(name) / "bide.db")
    assert said[0].startswith("True ")
    assert said[1] == "[]"


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    refused(bide.StoreError, [str(tmp_path)], lambda: bide.Runner(tmp_path))


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(file: Path) -> None:
    file.write_text("name,amount\n" * 1000)
    refused(bide.StoreError, ["bide.db", "not"], lambda: bide.Runner(file))
    assert file.read_text() == "name,amount\n" * 1000


def test_a_database_of_another_program_is_refused_and_unchanged(file: Path) -> None:
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE customers (name)")
    other.close()
    refused(bide.StoreError, ["bide.db"], lambda: bide.Runner(file))
    again = sqlite3.connect(file)
    assert [name for (name,) in again.execute("SELECT name FROM sqlite_master")] == ["customers"]
    again.close()


def test_a_database_of_a_newer_schema_is_refused_and_left_as_it_is(file: Path) -> None:
    with bide.Runner(file) as runner:
        runner.run(bide.Workflow("w", [load]), {"path": "x"}, key="k")
    newer = sqlite3.connect(file)
    (version,) = newer.execute("PRAGMA user_version").fetchone()
    newer.execute(f"PRAGMA user_version = {version + 1}")
    newer.close()
    refused(bide.StoreError, ["bide.db", "newer"], lambda: bide.Runner(file))
    older = sqlite3.connect(file)
    assert older.execute("PRAGMA user_version").fetchone() == (version + 1,)
    older.execute(f"PRAGMA user_version = {version}")
    older.close()
    with bide.Runner(file) as runner:
        assert runner.get("k")["load"] == "x"


def test_a_url_of_another_kind_is_refused_and_no_secret_is_repeated(tmp_path: Path) -> None:
    for url, scheme in (("mysql://me:secret@host/db", "mysql://"), ("sqlite://bide.db", "sqlite:///path")):
        with pytest.raises(bide.StoreError, match=scheme) as raised:
            bide.Runner(url)
        assert "secret" not in str(raised.value)


def test_a_path_need_not_be_text(tmp_path: Path) -> None:
    path = tmp_path / "\udcff.db"
    with bide.Runner(path) as runner:
        runner.run(bide.Workflow("w", [load]), {"path": "x"})
    assert path.exists()
