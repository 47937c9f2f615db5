"""bide's rows about several processes of one file: how soon one sees what happens in another."""

import json
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import bide

from . import measure, take_over


def row_elsewhere(_setting: measure.Setting) -> measure.Metrics:
    """Measure the time from the last line of a body until a caller in another process has the run's result."""
    ended: list[float] = []
    release = Event()

    def body() -> int:
        release.wait()
        release.clear()
        ended.append(time.monotonic())
        return 1

    workflow = bide.Workflow("watched", [bide.task(body, name="body")])
    with measure.scratch() as folder, bide.Runner(Path(folder) / "bide.db") as runner:
        command = [sys.executable, "-m", "benchmarks.watcher", str(Path(folder) / "bide.db")]
        watcher = subprocess.Popen(
            [*command, str(measure.ELSEWHERE_RUNS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert watcher.stdin is not None  # noqa: S101 - for mypy
        assert watcher.stdout is not None  # noqa: S101 - for mypy
        for number in range(measure.ELSEWHERE_RUNS):
            handle = runner.submit(workflow, key=str(number))
            print(file=watcher.stdin, flush=True)
            watcher.stdout.readline()
            # At any moment between two change polls, which are 50 ms apart.
            time.sleep(0.05 * number / measure.ELSEWHERE_RUNS)
            release.set()
            handle.result()
        seen = json.loads(watcher.communicate(timeout=measure.PATIENCE)[0])
    late = [seen - end for seen, end in zip(seen, ended, strict=True)]
    return {"elsewhere": measure.percentile(late, 0.99) * 1e3}


def row_take_over(_setting: measure.Setting) -> measure.Metrics:
    """Measure the time from a SIGKILL until another process has entered the body again."""
    with measure.scratch() as folder:
        return {"take_over": measure.percentile(take_over.measure(Path(folder), measure.KILLS), 0.99)}


ROWS = {"elsewhere": row_elsewhere, "take_over": row_take_over}
