"""What a limit costs: runs through one, beside runs without, and starts that keep to a rate.

python -m benchmarks.bide_limits
"""

import bisect
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import bide

RUNS = 10_000
IN_FLIGHT = 100
RATE = 1_000
SECONDS = 5


def workflow(name: str, limit: bide.Limit | None) -> bide.Workflow:
    """Return a workflow of one task that does nothing."""

    @bide.task(limit=limit)
    def work() -> None: ...

    return bide.Workflow(name, [work])


def through(store: str, limit: bide.Limit | None) -> float:
    """Return how many runs end in a second."""
    with bide.Runner(store) as runner:
        begun = time.perf_counter()
        for handle in runner.submit_many(workflow("runs", limit), [None] * RUNS):
            handle.result()
        return RUNS / (time.perf_counter() - begun)


def in_flight() -> float:
    """Return the runs in a second with a limit of attempts in flight, in relation to those without."""
    ratios = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            without = through(str(Path(folder) / "without.db"), None)
            limited = through(str(Path(folder) / "limited.db"), bide.Limit("all", in_flight=IN_FLIGHT))
        print(f"in flight: {without:,.0f} runs/s without, {limited:,.0f} runs/s with a limit of {IN_FLIGHT}")
        ratios.append(limited / without)
    return statistics.median(ratios)


def rate() -> tuple[float, int]:
    """Return the starts in a second under a rate, and the most of any second."""
    with tempfile.TemporaryDirectory() as folder, bide.Runner(Path(folder) / "bide.db") as runner:
        limited = workflow("rate", bide.Limit("rate", rate=(RATE, 1)))
        handles = runner.submit_many(limited, [None] * RATE * SECONDS)
        started = sorted(at for handle in handles if (at := handle.result().tasks["work"].started_at) is not None)
    second = timedelta(seconds=1)
    most = max(bisect.bisect_right(started, first + second) - at for at, first in enumerate(started))
    # The last burst has its second for itself.
    return len(started) / ((started[-1] - started[0]).total_seconds() + 1), most


def main() -> None:
    """Print the figures."""
    print(f"in flight: {in_flight():.2f} of the runs without a limit")
    per_second, most = rate()
    print(f"rate of {RATE}: {per_second:,.1f} starts/s, at most {most} in a second")


if __name__ == "__main__":
    main()
