"""Other programs that lock the file or read an old state of it: waiting callers get an error, and nothing stops."""

import time
from pathlib import Path

import pytest

import bide
from kept_runs import kept
from processes import PATIENCE, Child, eventually

LOCK = """
import sqlite3
other = sqlite3.connect(db, isolation_level=None)
other.execute("BEGIN IMMEDIATE")
say("locked")
sys.stdin.readline() if words else stay()
other.execute("ROLLBACK")
"""


@bide.task
def held(go: str) -> str:
    eventually(Path(go).exists, "the file is locked")
    return "done"


def locked_for(caplog: pytest.LogCaptureFixture, seconds: int, file: Path) -> bool:
    return any(f"{file} was locked by another process for {seconds}s" in record.message for record in caplog.records)


def test_a_lock_that_is_held_for_half_a_minute_is_waited_for(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two runners with unfinished runs: both report the lock, neither stops, and neither thinks the other dead."""
    second = """
    go = Path(words[0])

    @bide.task
    def theirs(handle: bide.TaskHandle) -> str:
        note("theirs")
        handle.defer_until(go.exists, poll_interval_ms=20)
        return "done"

    import logging
    logging.basicConfig(stream=sys.stderr)
    with bide.Runner(db, workflows=[]) as runner:
        handle = runner.submit(bide.Workflow("theirs", [theirs]), key="k")
        while runner.get("k").tasks["theirs"].sub_status is not bide.SubStatus.Deferred:
            time.sleep(0.005)
        say("waits")
        say(handle.result()["theirs"])
    """
    go = file.with_name("go")
    with Child(second, file, str(go)) as other, bide.Runner(file) as runner:
        other.expect("waits")
        handle = runner.submit(bide.Workflow("w", [kept, held]), {"go": str(go)}, key="w")
        with Child(LOCK, file) as lock:
            lock.expect("locked")
            since = time.monotonic()
            go.touch()
            # Reading needs no lock.
            assert runner.get("w").status is bide.RunStatus.Running
            eventually(lambda: locked_for(caplog, 10, file), "it is said that the file is locked")
            eventually(lambda: time.monotonic() - since > 30, "half a minute is over")
            assert runner.get("w").status is bide.RunStatus.Running
            lock.kill()
        assert time.monotonic() - since > 30
        assert handle.result(timeout=PATIENCE)["held"] == "done"
        other.expect("done")
        other.join()
    assert file.with_suffix(".ledger").read_text() == "theirs\n", "it was executed twice"
    assert "lost" not in caplog.text + other.errors
    assert f"{file} was locked by another process for 10s" in other.errors


def test_submit_and_open_raise_after_ten_seconds_if_the_file_is_locked(file: Path) -> None:
    opening = """
    try:
        bide.Runner(db)
    except bide.StoreError as error:
        say(error)
    """
    with bide.Runner(file) as runner, Child(LOCK, file) as lock:
        lock.expect("locked")
        since = time.monotonic()
        other = Child(opening, file)
        with pytest.raises(bide.StoreError, match="locked by another process for 10s") as raised:
            runner.submit(bide.Workflow("w", [kept]))
        assert 9 < time.monotonic() - since < PATIENCE
        assert str(file) in str(raised.value)
        with other:
            assert f"{file} was locked by another process for 10s" in other.join()[0]
        lock.kill()
        assert runner.run(bide.Workflow("w", [kept]), timeout=PATIENCE)["kept"] == "kept"


# -- a reader that pins the log


def test_a_reader_that_pins_the_log_is_reported_and_the_log_shrinks_later(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = """
    import sqlite3
    other = sqlite3.connect(db, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM run").fetchall()
    say("reads")
    stay()
    """

    @bide.task
    def big(n: int) -> str:
        return "x" * 900_000

    workflow = bide.Workflow("w", [big])
    log = file.with_name("bide.db-wal")
    warning = f"{file}: its write-ahead log has grown to"
    with bide.Runner(file) as runner:
        with Child(reader, file) as other:
            other.expect("reads")
            n = 0
            while log.stat().st_size < 68 << 20:
                runner.run(workflow, {"n": (n := n + 1)}, timeout=PATIENCE)
            eventually(lambda: warning in caplog.text, "the reader is reported")
            other.kill()
        assert caplog.text.count(warning) == 1
        assert "a reader keeps an old state open" in caplog.text

        def is_cut() -> bool:
            runner.run(bide.Workflow("small", [kept]), timeout=PATIENCE)
            return log.stat().st_size <= 64 << 20

        eventually(is_cut, "the log is cut")
