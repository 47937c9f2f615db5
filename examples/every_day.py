"""A body that loops for a year, one round a day, and keeps the journal of one round.

    python examples/every_day.py

Each round sleeps until the day is over, closes its books, and records a checkpoint, which replaces all that the body
has recorded before. A day takes five milliseconds here. The script starts itself as a worker twice, and kills each
of them with SIGKILL in the middle of the year; then it continues the run itself. Days that ended while no process was
running are closed late, so no day is missed.

A step that is interrupted is called again. So a report is named by its day: closing the day again makes no second one.
"""

import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import bide

DAYS = 365
DAY = timedelta(milliseconds=5)
KILLED_AFTER = (60, 180)
KEY = "2026"


@dataclass
class Books:
    """All that the loop needs in its next round: older records are gone."""

    day: int
    ends: datetime
    cents: int


def close_day(reports: Path, day: int) -> int:
    """Write the report of a day and return what was earned; each call adds a line, to count the calls."""
    with (reports / f"day-{day:03}.txt").open("a") as file:
        file.write(f"{100 + day} cents\n")
    return 100 + day


@bide.task
def keep_books(reports: Path, days: int, day_length: timedelta, handle: bide.TaskHandle) -> Books:
    books = handle.last_checkpoint(Books) or Books(day=0, ends=handle.now() + day_length, cents=0)
    while books.day < days:
        handle.sleep_until(books.ends)
        earned = handle.step(close_day, reports, books.day)
        books = Books(books.day + 1, books.ends + day_length, books.cents + earned)
        handle.checkpoint(books)
    return books


workflow = bide.Workflow("accounting", [keep_books])


def run(folder: Path, days: int = DAYS) -> bide.RunResult:
    """Start the run, or continue it if it exists; return its result."""
    with bide.Runner(folder / "bide.db") as runner:
        return runner.run(workflow, {"reports": folder / "reports", "days": days, "day_length": DAY}, key=KEY)


def kill_after(days: int, folder: Path) -> str:
    """Start a worker, kill it once `days` reports exist, and return the signal that ended it."""
    with subprocess.Popen([sys.executable, __file__, str(folder)]) as worker:
        while len(list((folder / "reports").iterdir())) < days and worker.poll() is None:
            threading.Event().wait(0.01)
        worker.kill()
    return signal.Signals(-worker.returncode).name


def main() -> None:
    """Kill two workers, finish the year, and check the reports, the sum and the size of the store."""
    with tempfile.TemporaryDirectory() as name:
        year, one_day = Path(name) / "year", Path(name) / "day"
        for folder in (year, one_day):
            (folder / "reports").mkdir(parents=True)
        for days in KILLED_AFTER:
            ended_by = kill_after(days, year)
            print(f"worker:   ended by {ended_by} after {len(list((year / 'reports').iterdir()))} days")
        result = run(year)
        run(one_day, days=1)
        sizes = [(folder / "bide.db").stat().st_size // 1024 for folder in (year, one_day)]
        reports = sorted((year / "reports").iterdir())
        calls = sum(len(report.read_text().splitlines()) for report in reports)

    books = result[keep_books]
    print(f"reports:  {len(reports)} days by {calls} calls")
    print(f"books:    {books.cents / 100:.2f} earned")
    print(f"store:    {sizes[0]} KiB after a year, {sizes[1]} KiB after a day")
    assert [report.name for report in reports] == [f"day-{day:03}.txt" for day in range(DAYS)], "a day was missed"
    assert calls <= DAYS + len(KILLED_AFTER), "a day that was recorded was closed again"
    assert books.cents == sum(100 + day for day in range(DAYS)), "a day counts twice, or not at all"
    assert sizes[0] < sizes[1] + 16, "the journal has grown with the days"
    assert result.tasks["keep_books"].attempts == 1
    assert result.ended_at is not None
    assert result.ended_at - result.started_at >= DAYS * DAY, "a day was closed before its end"


if __name__ == "__main__":
    run(Path(sys.argv[1])) if sys.argv[1:] else main()
