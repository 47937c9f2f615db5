"""Rows of `bide.testing`: what a test of a workflow costs that waits for years, or that crashes at each commit."""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import bide
from bide.testing import Runner, crash_points

from . import measure

DAY = 86_400.0
TURNS = 5


@bide.task
def sleeps(handle: bide.TaskHandle) -> None:
    """Sleep for a day, again and again."""
    for _ in range(measure.SLEPT_DAYS):
        handle.sleep(DAY)


@bide.task
async def sleeps_async(handle: bide.AsyncTaskHandle) -> None:
    """Do the same as a coroutine."""
    for _ in range(measure.SLEPT_DAYS):
        await handle.sleep(DAY)


def _readme(path: Path) -> bide.Workflow:
    """Build the workflow of the README."""

    def start_export(_day: str) -> str:
        return str(path)

    @bide.task
    def wait_for_data(day: str, handle: bide.TaskHandle) -> str:
        path = handle.step(start_export, day)
        handle.defer_until(Path(path).exists, poll_interval_ms=200, timeout=3600)
        return path

    @bide.task(retry=bide.Retry(attempts=3, delay=0.5))
    def process_data(wait_for_data: str) -> int:
        return len(Path(wait_for_data).read_text())

    return bide.Workflow("ingest", [wait_for_data, process_data])


def row_tested(_setting: measure.Setting) -> measure.Metrics:
    """Measure sleeps under a clock that the test moves, and all crash points of the README's workflow."""
    seconds: list[float] = []
    for task in (sleeps, sleeps_async):
        workflow = bide.Workflow("sleeps", [task])
        with Runner(auto_advance=True) as runner:
            seconds.append(statistics.median(measure.timed(partial(runner.run, workflow)) for _ in range(TURNS)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        path.write_text("1,2,3")
        readme = _readme(path)
        points = statistics.median(
            measure.timed(lambda: crash_points(readme, {"day": "2026-11-24"})) for _ in range(TURNS)
        )
    return {"tested_sleeps": seconds[0], "tested_sleeps_async": seconds[1], "crash_points": points}


ROWS = {"tested": row_tested}
