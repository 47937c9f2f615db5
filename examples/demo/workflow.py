"""The demo's workflow: a nightly ingest, shortened to a few seconds.

Each body first writes a line to a ledger, a plain file outside of bide. With it the
demo checks, independently of bide, which bodies ran and how often.
"""

import csv
import os
import time
from pathlib import Path

import bide

KEY = "2026-11-24"
QUIET_SECONDS = 2.0


def note(ledger: str, task: str) -> None:
    """Record that this process entered this body; the record survives SIGKILL."""
    line = f"{task} {os.getpid()}\n".encode()
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@bide.task
def wait_for_data(path: str, ledger: str, handle: bide.TaskHandle) -> str:
    """Wait for a file that will be delivered some day, without holding a slot."""
    note(ledger, "wait_for_data")
    handle.defer_until(Path(path).exists, poll_interval_ms=200, timeout=3600)
    return path


@bide.task
def load_rates(ledger: str) -> dict[str, float]:
    """Do some work that needs a slot, while the other task waits."""
    note(ledger, "load_rates")
    time.sleep(1.0)
    return {"EUR": 1.0, "CHF": 1.5}


@bide.task
def process_data(wait_for_data: str, load_rates: dict[str, float], ledger: str) -> float:
    """Add up what was delivered, in euro."""
    note(ledger, "process_data")
    time.sleep(1.0)
    with Path(wait_for_data).open(newline="") as file:
        return sum(float(row["amount"]) * load_rates[row["currency"]] for row in csv.DictReader(file))


@bide.task(gate=bide.after(QUIET_SECONDS))
def publish(process_data: float, ledger: str) -> str:
    """Publish after a quiet period, which is a gate: until it ends there is neither a body nor a thread."""
    note(ledger, "publish")
    return f"total {process_data:.2f} EUR"


ingest = bide.Workflow("ingest", [wait_for_data, load_rates, process_data, publish])
