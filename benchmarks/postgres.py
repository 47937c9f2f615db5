"""Measure bide and DBOS on one PostgreSQL and print a table with goals: `make bench-postgres`.

    python -m benchmarks.postgres URL [ROW ...]

Each measurement runs in a process of its own; the two take turns, and everything is repeated. Both have the server's
own durability: with the settings of `make bench-postgres` each commit is synced.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from .__main__ import TIMEOUT, machine

DBOS = ".venv-peers/dbos/bin/python"


@dataclass(frozen=True)
class Goal:
    """A line of the table."""

    title: str
    row: str
    metric: str
    goal: float
    module: str = "bide_rows"
    by: str | None = "dbos"
    """What the metric is divided by: that of DBOS, or another metric of this table; None: it stands alone."""
    far: bool = False
    """The server is two milliseconds away."""
    least: bool = True
    """The goal is the least that is to be reached, not the most."""


GOALS = [
    Goal("wide, 10,000 tasks", "wide", "wide", 300),
    Goal("chain, 1,000 tasks", "chain", "chain", 12),
    Goal("single runs in turn", "single", "single", 10),
    Goal("10,000 runs together", "many", "many", 120),
    Goal("16 threads that each run in turn", "submitters", "submitters", 35),
    Goal("four runners drain 10,000 runs", "drain", "drain", 100, module="bide_runners"),
    Goal("2 ms away: chain", "chain", "chain", 8, far=True),
    Goal("2 ms away: single", "single", "single", 7, far=True),
    Goal("2 ms away: wide", "wide", "wide", 300, far=True),
    Goal("2 ms away: 16 threads, by single runs", "submitters", "submitters", 8, by="single", far=True),
    Goal(
        "submit here, start there: p99, ms", "start_elsewhere", "start_elsewhere", 20, "bide_runners", None, least=False
    ),
    Goal("take-over, same host: s", "take_over", "take_over_here", 0.2, "bide_runners", None, least=False),
    Goal("take-over, killed elsewhere: s", "take_over", "take_over_elsewhere", 1.5, "bide_runners", None, least=False),
    Goal("take-over, host gone: s", "host_gone", "host_gone", 6, "bide_runners", None, least=False),
    Goal("take-over, hung: s", "take_over", "take_over_hung", 16, "bide_runners", None, least=False),
    Goal("claims with a held horizon, by without", "held", "held", 0.8, "bide_runners", None),
    Goal("100,000 gates, idle: transactions/s", "idle", "idle", 25, "bide_runners", None, least=False),
]

Samples = dict[tuple[str, str, str, bool], list[float]]


@contextmanager
def far_away(url: str) -> Iterator[str]:
    """Put a proxy before the server."""
    place = urlsplit(url)
    command = [sys.executable, "-m", "benchmarks.delay", str(place.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None  # noqa: S101 - for mypy
        yield url.replace(f":{place.port}/", f":{proxy.stdout.readline().strip()}/")
        proxy.kill()


def run(python: str, module: str, row: str, url: str) -> dict[str, float]:
    """Return what a process has measured; say why if it has not."""
    command = [python, "-m", f"benchmarks.{module}", row, "--store", url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        print(f"failed   {module}, {row}: no result after {TIMEOUT:.0f} s")
        return {}
    if done.returncode != 0:
        print(f"failed   {module}, {row}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return {}
    metrics: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return metrics


def measure_all(url: str, far: str, goals: list[Goal], repetitions: int) -> Samples:
    """Measure each row once a repetition, bide and DBOS in turns."""
    samples: Samples = {}
    rows = dict.fromkeys((goal.module, goal.row, goal.far) for goal in goals)
    rows |= dict.fromkeys((goal.module, goal.by, goal.far) for goal in goals if goal.by not in {None, "dbos"})
    compared = {(goal.row, goal.far) for goal in goals if goal.by == "dbos"}
    for repetition in range(repetitions):
        for module, row, is_far in rows:
            if repetition and module == "bide_runners" and row != "drain":
                continue  # these take long, and repeat what they measure themselves
            print(f"{repetition + 1}/{repetitions} {row}{', 2 ms away' * is_far}", file=sys.stderr, flush=True)
            subjects = [("bide", sys.executable, module)]
            if (row, is_far) in compared:
                subjects.append(("dbos", DBOS, "dbos_rows"))
            for name, python, measured in subjects:
                for metric, value in run(python, measured, row, far if is_far else url).items():
                    samples.setdefault((name, row, metric, is_far), []).append(value)
    return samples


def line(goal: Goal, samples: Samples) -> str:
    """Return a line of the table."""

    def median(name: str, row: str, metric: str) -> float | None:
        values = samples.get((name, row, metric, goal.far))
        return statistics.median(values) if values else None

    own = median("bide", goal.row, goal.metric)
    other = None
    if goal.by is not None:
        other = median("dbos", goal.row, goal.metric) if goal.by == "dbos" else median("bide", goal.by, goal.by)
    if own is None or (goal.by is not None and other is None):
        return f"| {goal.title} | | | | {goal.goal:g} | not measured |"
    reached = own if other is None else own / other
    verdict = "reached" if (reached >= goal.goal if goal.least else reached <= goal.goal) else "missed"
    beside = "" if other is None else f"{other:,.0f}/s"
    shown = f"{own:.3g}" if other is None else f"{own:,.0f}/s"
    return (
        f"| {goal.title} | {shown} | {beside} | {reached:.3g} | {'' if goal.least else '≤ '}{goal.goal:g} | {verdict} |"
    )


def main() -> int:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    goals = [goal for goal in GOALS if not options.rows or goal.row in options.rows]
    with far_away(options.url) as far:
        samples = measure_all(options.url, far, goals, options.repetitions)
    print(f"{machine()}; median of {options.repetitions}\n")
    print("| row | bide | beside | ratio | goal | |\n|---|---:|---:|---:|---:|---|")
    print("\n".join(line(goal, samples) for goal in goals))
    return 0


if __name__ == "__main__":
    sys.exit(main())
