"""What happens to the file under a runner: a full disk, a file that disappears, damage.

In each case every waiting caller gets an error that names the file; whatever the fault did not destroy is still
there; and the runner continues, or stops with the reason. docs/hostile.md has the table.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import bide
from kept_runs import has_kept, kept, waiting, waits
from processes import PATIENCE, ran

NOTICED = 1.0
"""Seconds within which a missing file is noticed."""


# -- a full disk


DISK = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def room(size=resource.RLIM_INFINITY):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
"""


def test_a_disk_that_is_full_after_any_number_of_bytes_loses_nothing(file: Path) -> None:
    script = (
        DISK
        + """
@bide.task
def first() -> str:
    note("first", db)
    return "kept"

@bide.task
def second(first: str) -> str:
    if left is not None:
        room(Path(db + "-wal").stat().st_size + left)
    return first + "x" * 20_000

workflow = bide.Workflow("w", [first, second])
failed = 0
base = db
for left in range(0, 60_000, 2_000):
    db = f"{base}.{left}"
    runner = bide.Runner(db)
    try:
        runner.run(workflow, key="k", timeout=20)
    except bide.StoreError as error:
        assert db in str(error) and "space" in str(error), error
        failed += 1
    room()
    runner.close()
    left = None
    with bide.Runner(db) as runner:
        assert runner.run(workflow, key="k", timeout=20)["second"] == "kept" + "x" * 20_000
    assert ledger.read_text().count(db + chr(10)) == 1, "what was committed was executed again"
say("failed", failed)
"""
    )
    assert int(ran(script, file)[-1].split()[1]) in range(10, 30)


def test_a_limit_on_the_size_of_files_is_named(file: Path) -> None:
    script = (
        DISK
        + """
room(20_000)
try:
    bide.Runner(db)
except bide.StoreError as error:
    say(error)
"""
    )
    assert "ulimit -f" in ran(script, file)[-1]


def test_submit_raises_on_a_full_disk_and_works_once_there_is_space(file: Path) -> None:
    script = (
        DISK
        + """
@bide.task
def work(text: str) -> int:
    return len(text)

with bide.Runner(db) as runner:
    workflow = bide.Workflow("w", [work])
    runner.run(workflow, {"text": ""}, key="before")
    room(Path(db + "-wal").stat().st_size + 5_000)
    try:
        runner.submit(workflow, {"text": "x" * 100_000}, key="k")
    except bide.StoreError as error:
        assert db in str(error) and "space" in str(error), error
        say("refused")
room()
with bide.Runner(db) as runner:
    say(runner.run(workflow, {"text": "short"}, key="k", timeout=20)["work"], runner.get("before")["work"])
"""
    )
    assert ran(script, file) == ["refused", "5 0"]


# -- a file that disappears


def delete(suffix: str) -> Callable[[Path], None]:
    return lambda file: Path(f"{file}{suffix}").unlink()


def replace(file: Path) -> None:
    other = file.with_name("other.db")
    bide.Runner(other).close()
    shutil.move(other, file)


def empty(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.alone
@pytest.mark.parametrize(
    ("harm", "reason", "survives"),
    [
        pytest.param(delete(""), "deleted or replaced", False, id="deleted"),
        pytest.param(replace, "deleted or replaced", False, id="replaced"),
        pytest.param(empty, "emptied by another program", False, id="emptied"),
        pytest.param(delete("-wal"), "bide.db-wal was deleted or replaced", True, id="log"),
        pytest.param(delete("-shm"), "bide.db-shm was deleted or replaced", True, id="index"),
        pytest.param(delete("-lock"), "bide.db-lock was deleted or replaced", True, id="lock"),
    ],
)
def test_a_file_that_disappears_stops_the_runner_within_a_second(
    file: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    reason: str,
    survives: bool,
) -> None:
    with bide.Runner(file) as runner:
        handle = waits(runner)
        harm(file)
        since = time.monotonic()
        with pytest.raises(bide.StoreError, match=reason) as raised:
            handle.result(timeout=PATIENCE)
        assert time.monotonic() - since < NOTICED
        assert str(file) in str(raised.value)
        for call in (lambda: runner.submit(waiting), lambda: runner.run(waiting, key="k")):
            with pytest.raises(bide.StoreError, match=reason):
                call()
        with pytest.raises(bide.StoreError, match=r"deleted or replaced|emptied"):
            bide.Runner(file)
    assert any("stops" in record.message and reason in record.message for record in caplog.records)
    if survives:
        has_kept(file)


def test_an_index_that_is_cut_short_ends_the_process_and_loses_nothing(file: Path) -> None:
    """SQLite maps that file into memory, so that the kernel answers with SIGBUS."""
    script = """
    @bide.task
    def kept() -> str:
        return "kept"

    runner = bide.Runner(db)
    for n in range(20):
        runner.run(bide.Workflow("w", [kept]), key=str(n))
    os.truncate(db + "-shm", 0)
    runner.run(bide.Workflow("w", [kept]), key="after")
    """
    ran(script, file, code=-signal.SIGBUS)
    with bide.Runner(file) as runner:
        assert [runner.get(str(n))["kept"] for n in range(20)] == ["kept"] * 20


# -- a read-only file


def test_a_read_only_file_is_refused_unless_it_was_already_open(tmp_path: Path) -> None:
    script = """
    home = Path(db).parent

    @bide.task
    def work(n: int) -> int:
        return n

    workflow = bide.Workflow("w", [work])
    with bide.Runner(":memory:") as runner:
        runner.run(workflow, {"n": 0})  # so that all modules are there: whom we become may not read them
    if os.geteuid() == 0:
        os.setuid(65534)  # the modes of a file mean nothing to root
    with bide.Runner(db) as runner:
        runner.run(workflow, {"n": 1}, key="1")
        os.chmod(db, 0o400)
        home.chmod(0o500)
        say(runner.run(workflow, {"n": 2}, key="2", timeout=20)["work"])
    for path, mode in ((home, 0o700), (Path(db), 0o600)):
        try:
            bide.Runner(db)
        except bide.StoreError as error:
            say(error)
        path.chmod(mode)
    with bide.Runner(db) as runner:
        say(runner.get("1")["work"], runner.get("2")["work"])
    """
    home = tmp_path / "home"
    home.mkdir(mode=0o777)
    for parent in (home, *home.parents):
        if parent.owner() == Path.home().owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    home.chmod(0o777)
    if os.geteuid() == 0:
        shutil.chown(home, 65534)
    said = ran(script, home / "bide.db")
    assert said[0] == "2"
    assert "home is read-only for this user" in said[1]
    assert "may not read and write the file" in said[2]
    assert said[3:] == ["1 2"]


# -- damage


def with_runs(file: Path, count: int) -> None:
    """Create a file with this many ended runs."""

    @bide.task
    def work(n: int) -> str:
        return f"marker {n:04}." * 10

    with bide.Runner(file) as runner:
        for handle in runner.submit_many(
            bide.Workflow("runs", [work]), [{"n": n} for n in range(count)], keys=[str(n) for n in range(count)]
        ):
            handle.result(timeout=PATIENCE)


def damage(file: Path, marker: bytes) -> None:
    """Overwrite the page that contains this text."""
    at = file.read_bytes().index(marker) // 2048 * 2048
    with file.open("r+b") as data:
        data.seek(at)
        data.write(b"\xff" * 2048)


def test_a_damaged_page_is_reported_when_read_and_the_rest_is_intact(file: Path) -> None:
    with_runs(file, 100)
    damage(file, b"marker 0042.")
    with bide.Runner(file) as runner:
        intact = 0
        errors = set()
        for n in range(100):
            try:
                intact += runner.get(str(n))["work"] == f"marker {n:04}." * 10
            except bide.StoreError as error:
                errors.add(str(error))
        assert 50 <= intact < 100
        assert all(str(file) in error and "damaged" in error and "backup" in error for error in errors), errors
        # And it is usable.
        assert runner.run(bide.Workflow("w", [kept]), key="after", timeout=PATIENCE)["kept"] == "kept"


def test_a_truncated_file_is_reported_when_it_is_opened(file: Path) -> None:
    with_runs(file, 100)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(bide.StoreError, match=r"damaged.*backup") as raised, bide.Runner(file) as runner:
        runner.run(bide.Workflow("w", [kept]), timeout=PATIENCE)
    assert str(file) in str(raised.value)


def test_damage_that_a_commit_meets_stops_the_runner_with_the_reason(file: Path) -> None:
    """The file is damaged while it is open."""
    script = """
    @bide.task
    def kept() -> str:
        return "kept"

    @bide.task
    def breaks(kept: str) -> str:
        size = os.path.getsize(db)
        with open(db, "r+b") as data:
            data.seek(2048)
            data.write(bytes([255]) * (size - 2048))
        return "x" * 100

    with bide.Runner(db) as runner:
        for n in range(50):
            runner.run(bide.Workflow("other", [kept]), key=str(n))
    say("closed")
    with bide.Runner(db) as runner:
        try:
            # The pages that it has read it has; it has not read all.
            runner.run(bide.Workflow("w", [kept, breaks]), key="k", timeout=20)
            for n in range(50):
                runner.get(str(n))
            for run in runner.runs():
                pass
            for n in range(500):
                runner.run(bide.Workflow("w2", [kept]), key=str(n) * 200, timeout=20)
        except bide.StoreError as error:
            say(error)
    say("out")
    """
    said = ran(script, file)
    assert str(file) in said[1]
    assert "damaged" in said[1]
    assert said[-1] == "out"
