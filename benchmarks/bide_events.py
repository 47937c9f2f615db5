"""bide's rows about what a live run shows: how fast a body emits, and when another process sees an event."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import bide

from . import measure
from .bide_workflows import one_workflow, open_runner


def row_emit(setting: measure.Setting) -> measure.Metrics:
    """Measure a body that emits small values, from the first one until all of them are committed."""
    seconds: list[float] = []

    def body(handle: bide.TaskHandle) -> None:
        def emit_all() -> None:
            for number in range(measure.EMITTED):
                handle.emit(number)
            handle.step(int)  # a record: all events are committed with it or before it

        seconds.append(measure.timed(emit_all))

    workflow = bide.Workflow("emit", [bide.task(body)])
    with open_runner(setting) as runner:
        runner.run(one_workflow)
        runs = [runner.run(workflow) for _ in range(measure.EMITTING_RUNS)]
        for run in runs:
            last = runner.latest(run)
            assert last is not None  # noqa: S101 - a measurement of nothing is worse than none
            assert last.offset == measure.EMITTED  # noqa: S101 - as above
    return {"emit": measure.EMITTED / sorted(seconds)[len(seconds) // 2]}


def row_follow(_setting: measure.Setting) -> measure.Metrics:
    """Measure when a follower in another process has an event, from the call of `emit`."""
    chance = random.Random(1)  # noqa: S311 - no secret

    def body(handle: bide.TaskHandle) -> None:
        for _ in range(measure.FOLLOWED):
            time.sleep(chance.uniform(0.001, 0.03))
            handle.emit(time.monotonic())

    workflow = bide.Workflow("follow", [bide.task(body)])
    with measure.scratch() as name, bide.Runner(Path(name) / "bide.db") as runner:
        runner.run(one_workflow)
        handle = runner.submit(workflow)
        follower = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.follower", str(Path(name) / "bide.db"), handle.id],
            stdout=subprocess.PIPE,
            text=True,
        )
        late = json.loads(follower.communicate(timeout=measure.PATIENCE)[0])
        handle.result()
    return {"follow": measure.percentile(late, 0.99) * 1e3}


ROWS = {"emit": row_emit, "follow": row_follow}
