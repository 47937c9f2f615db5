"""Every command on a store that is not there, has a newer schema, or has a row that does not read back."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import bide
import shop
from bide._cli._main import PLACES, cli
from processes import eventually

RUN = "order-7"
WORDS: dict[str, list[str]] = {
    **{name: [RUN] for name in ("show", "why", "events", "history", "watch", "follow", "export")},
    **{name: [RUN] for name in ("cancel", "pause", "resume", "retry", "delete")},
    **{name: ["yearly"] for name in ("pause-schedule", "resume-schedule", "trigger", "unschedule")},
    **{name: ["inbox"] for name in ("pause-watch", "resume-watch", "unwatch")},
    "signal": [RUN, "approved", "--text", "bo"],
    "resolve": ["TOKEN", "--value", "7"],
    "reject": ["TOKEN", "no"],
    "fork": [RUN, "--start-at", "price", "--app", "shop:workflows"],
    "satisfy": [RUN, "approval", "--text", "bo"],
    "extend": [RUN, "approval", "1h"],
    "skip": [RUN, "approval"],
    "backfill": ["yearly", "2025-01-01", "2026-01-01"],
    "serve": ["shop:workflows"],
    "backup": ["copy.db"],
    "move": ["moved.db"],
}
"""What follows the store, for each command that takes more than that."""

OF_THE_RUN = [name for name, words in WORDS.items() if words[0] == RUN]
WHOLE = {"backup", "check"}
"""The commands that take any file of SQLite."""


def called(name: str, store: Path, token: str = "") -> Result:
    words = [token if word == "TOKEN" else word for word in WORDS.get(name, [])]
    return CliRunner().invoke(cli, [name, str(store), *words], env={"BIDE_STORE": None, "BIDE_APP": None})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """The content of a store in which a run waits, and the token of its callback."""
    file = tmp_path_factory.mktemp("made") / "bide.db"
    with bide.Runner(file, workflows=shop.workflows) as runner:
        run = runner.submit(shop.order, {"items": [1]}, key=RUN)
        eventually(lambda: len(list(runner.events(run))) == 1, "it has a token")
        token = next(event.value for event in runner.events(run))
    return file.read_bytes(), token


@pytest.fixture
def store(made: tuple[bytes, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # for what a command might make
    file = tmp_path / "bide.db"
    file.write_bytes(made[0])
    return file


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize("name", PLACES)
def test_a_command_on_a_missing_store_says_so_and_never_creates_one(
    name: str, made: tuple[bytes, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = tmp_path / "missing.db"
    done = called(name, missing, made[1])
    assert done.exit_code == 3, done.output
    assert f"there is no store {missing}: a Runner makes one, or `bide serve --create`" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in PLACES if name not in WHOLE])
def test_a_command_on_a_newer_schema_says_so_and_leaves_it_as_it_is(
    name: str, made: tuple[bytes, str], store: Path
) -> None:
    change(store, "PRAGMA user_version = 99")
    before = store.read_bytes()
    done = called(name, store, made[1])
    assert done.exit_code == 1, done.output
    assert f"{store}: its schema has version 99, this bide knows versions up to" in done.stderr
    assert store.read_bytes() == before


def test_check_and_backup_work_on_a_newer_schema(store: Path) -> None:
    change(store, "PRAGMA user_version = 99")
    done = called("check", store)
    assert (done.exit_code, "the store: its schema has version 99" in done.stdout) == (1, True)
    assert called("backup", store).exit_code == 0


CORRUPT = {
    "run.status": "UPDATE run SET status = 77",
    "task.status": "UPDATE task SET status = 77",
    "journal.kind": "UPDATE journal SET kind = 77",
}


@pytest.mark.parametrize("column", CORRUPT)
@pytest.mark.parametrize("name", OF_THE_RUN)
def test_a_command_on_a_corrupt_row_names_the_run_and_the_column(name: str, column: str, store: Path) -> None:
    change(store, CORRUPT[column])
    done = called(name, store)
    assert done.exit_code == 1, done.output
    assert f"the column {column} does not read back (77 is not one of its values)" in done.stderr
    assert done.stderr.endswith("or is damaged; `bide check` finds all that does not read back\n")
    checked = called("check", store)
    assert (checked.exit_code, checked.stdout.count("does not read back")) == (1, 1), checked.stdout
