"""Measure the rows of every subject and print one table: `python -m benchmarks`.

Each row of each subject runs in a process of its own, so that none inherits
another's threads, memory or caches. The subjects take turns within a row, and
everything is repeated, so that a slow minute of the machine affects all of them.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from . import table

TIMEOUT = 300.0
RESULTS = Path("target/bench/last.json")
BASELINE_ROWS = (
    "wide",
    "wide_async",
    "first",
    "growth",
    "sleeps",
    "chain",
    "single",
    "many",
    "submitters",
    "application",
    "waiting",
    "parked",
    "gates",
    "async_waiting",
    "signal_gates",
    "late",
    "resume",
)
BIDE_ROWS = (
    *BASELINE_ROWS,
    "map",
    "children",
    "levels",
    "latency",
    "signal",
    "signals",
    "received",
    "async_signal",
    "cancel",
    "emit",
    "traced",
    "why",
    "open_waits",
    "unfinished",
    "million",
    "workflows",
    "schedules",
    "limits",
    "rate",
    "processes",
)


@dataclass(frozen=True)
class Subject:
    """One column of the table: a module of this package, executed by an interpreter."""

    name: str
    module: str
    rows: tuple[str, ...]
    python: str = sys.executable
    store: str = "memory"
    busy: bool = True
    """Whether it is also measured beside a busy Python thread."""


SUBJECTS = [
    Subject(table.MEMORY, "bide_rows", ("import", *BIDE_ROWS, "tested")),
    Subject(
        table.NORMAL,
        "bide_rows",
        (*BIDE_ROWS, "bare", "behind", "signal_elsewhere", "elsewhere", "take_over", "idle", "follow"),
        store="normal",
    ),
    Subject(
        table.FULL,
        "bide_rows",
        ("wide", "chain", "single", "many", "bare", "grouped", "children", "received", "emit"),
        store="full",
        busy=False,
    ),
    Subject(table.BASELINE, "asyncio_rows", ("import", *BASELINE_ROWS)),
    Subject(
        table.THREADS,
        "threads_rows",
        tuple(
            row
            for row in BASELINE_ROWS
            if row not in {"first", "many", "gates", "async_waiting", "signal_gates", "wide_async"}
        ),
    ),
]
PEERS = [
    Subject(
        table.DBOS,
        "dbos_rows",
        ("wide", "chain", "single", "many", "children", "signal", "signals", "received", "emit"),
        ".venv-peers/dbos/bin/python",
        busy=False,
    ),
    Subject(
        "dagron memory",
        "dagron_rows",
        ("wide", "growth", "chain", "single"),
        ".venv-peers/dagron/bin/python",
        busy=False,
    ),
    Subject(
        table.SAYIIR,
        "sayiir_rows",
        ("wide", "chain", "single"),
        ".venv-peers/sayiir/bin/python",
        busy=False,
    ),
    Subject(
        "cairnq SQLite FULL",
        "cairnq_rows",
        ("chain", "single", "many"),
        ".venv-peers/cairnq/bin/python",
        busy=False,
    ),
    Subject(
        "Dask threads",
        "dask_rows",
        ("wide", "chain", "single"),
        ".venv-peers/dask/bin/python",
        busy=False,
    ),
]


def run(subject: Subject, row: str, *, busy: bool) -> dict[str, float] | str:
    """Measure one row of one subject; return a string with the reason if there is no value."""
    command = [subject.python, "-m", f"benchmarks.{subject.module}", row, "--store", subject.store]
    try:
        done = subprocess.run(
            command + ["--busy"] * busy,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no result after {TIMEOUT:.0f} s"
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        return said[-1] if said else f"exit code {done.returncode}"
    metrics: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return metrics


def measure_all(subjects: list[Subject], rows: list[str], repetitions: int) -> tuple[table.Samples, dict[str, str]]:
    """Return all samples, and the reasons why some are missing. A row that failed is not repeated."""
    samples: table.Samples = {subject.name: {} for subject in subjects}
    missing: dict[str, str] = {}
    for repetition in range(1, repetitions + 1):
        for row, busy in [(row, False) for row in rows] + [(row, True) for row in rows if row in table.BUSY_ROWS]:
            for subject in subjects:
                what = f"{subject.name}, {row}{', busy thread' if busy else ''}"
                again = repetition > 1 and row in table.ONCE_ROWS
                if row not in subject.rows or (busy and not subject.busy) or what in missing or again:
                    continue
                print(f"{repetition}/{repetitions} {what}", file=sys.stderr, flush=True)
                metrics = run(subject, row, busy=busy)
                if isinstance(metrics, str):
                    missing[what] = metrics
                    continue
                for key, value in metrics.items():
                    samples[subject.name].setdefault(table.BUSY * busy + key, []).append(value)
    return samples, missing


def machine() -> str:
    """Describe the machine."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {python}, Linux {platform.release()}"


def main() -> int:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="measure the peers too, where they are installed")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=sorted(table.METRICS),
        metavar="ROW",
        help=", ".join(table.METRICS),
    )
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()

    subjects, skipped = list(SUBJECTS), []
    for peer in PEERS:
        if options.peers and Path(peer.python).exists():
            subjects.append(peer)
        else:
            skipped.append(f"{peer.name}: not installed or not asked for (make bench-peers)")
    rows = [row for row in table.METRICS if not options.only or row in options.only]
    if "traced" in rows and not (find_spec("opentelemetry") and find_spec("opentelemetry.sdk")):
        rows.remove("traced")
        skipped.append("the row traced: pip install opentelemetry-sdk")
    samples, missing = measure_all(subjects, rows, options.repetitions)

    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine(), "samples": samples}, indent=1))
    print(f"{machine()}; median of {options.repetitions}; in parentheses: by {table.BASELINE}'s\n")
    print(table.render(samples, [subject.name for subject in subjects], rows))
    print()
    print("\n".join(table.judge(samples)))
    for what, why in missing.items():
        print(f"failed   {what}: {why}")
    for subject in subjects:
        if subject.python != sys.executable:
            version = subprocess.run([subject.python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
            print(f"peer     {subject.name}: in an environment of its own, {version}")
    for name in skipped:
        print(f"skipped  {name}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
