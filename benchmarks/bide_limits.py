"""bide's rows about limits: what one costs that is kept, and how well starts keep to a rate."""

import bisect
import statistics
from datetime import datetime, timedelta

import bide

from . import measure
from .bide_workflows import open_runner

RUNS = 10_000
IN_FLIGHT = 100
TURNS = 5
RATE = 1_000
SECONDS = 10


def workflow(name: str, limit: bide.Limit | None) -> bide.Workflow:
    """Return a workflow of one task that does nothing."""

    @bide.task(limit=limit)
    def work() -> None: ...

    return bide.Workflow(name, [work])


def through(runner: bide.Runner, workflow: bide.Workflow) -> float:
    """Return how many runs end in a second."""

    def all_end() -> None:
        for handle in runner.submit_many(workflow, [None] * RUNS):
            handle.result()

    return RUNS / measure.timed(all_end)


def row_limits(setting: measure.Setting) -> measure.Metrics:
    """Measure runs through a limit of attempts in flight, and by those without a limit, in turns."""
    free, limited = workflow("free", None), workflow("limited", bide.Limit("all", in_flight=IN_FLIGHT))
    # A runner and a store for each: what has no limit does not pay for one.
    with open_runner(setting) as one, open_runner(setting) as other:
        turns = [(through(one, free), through(other, limited)) for _ in range(TURNS)]
    return {
        "limits": statistics.median(with_limit for _, with_limit in turns),
        "limits_free": statistics.median(with_limit / without for without, with_limit in turns),
    }


def worst(started: list[datetime], window: timedelta) -> int:
    """Return the most starts in any span of this length, its ends included."""
    return max(bisect.bisect_right(started, first + window) - at for at, first in enumerate(started))


def row_rate(setting: measure.Setting) -> measure.Metrics:
    """Measure how many bodies start in the first ten seconds of a rate, and the most in any span of it."""
    limited = workflow("rate", bide.Limit("rate", rate=(RATE, 1)))
    with open_runner(setting) as runner:
        handles = runner.submit_many(limited, [None] * RATE * (SECONDS + 1))
        started = sorted(at for handle in handles if (at := handle.result().tasks["work"].started_at) is not None)
    in_time = bisect.bisect_left(started, started[0] + timedelta(seconds=SECONDS))
    return {"rate": in_time / SECONDS, "rate_worst": worst(started, timedelta(seconds=1))}


ROWS = {"limits": row_limits, "rate": row_rate}
