"""bide's rows about schedules: what many of them cost while nothing is due, and how late the run of a tick begins."""

import time
from datetime import datetime, timedelta

import bide

from . import measure
from .bide_workflows import open_runner

SCHEDULES = 10_000
SECONDS = 20.0
"""How long ticks are measured."""


def row_schedules(setting: measure.Setting) -> measure.Metrics:
    """Measure the CPU of many idle schedules, and the lateness of one that has ten ticks a second beside them."""
    late: list[float] = []

    def begins(scheduled_at: datetime) -> None:
        late.append(time.time() - scheduled_at.timestamp())

    def noop() -> int:
        return 1

    idle, timed = bide.Workflow("idle", [bide.task(noop, name="noop")]), bide.Workflow("timed", [bide.task(begins)])
    with open_runner(setting) as runner:
        for n in range(SCHEDULES):
            runner.schedule(f"idle {n}", idle, f"{n % 60} {n // 60 % 24} 29 2 *")
        measure.wait_until(lambda: runner.schedules()[-1].next is not None, "the schedules are known")
        cpu = measure.cpu_percent()
        runner.schedule("ticks", timed, timedelta(seconds=0.1))
        time.sleep(SECONDS)
        runner.unschedule("ticks")
        return {
            "schedules_cpu": cpu,
            "schedules_late_p50": measure.percentile(late, 0.5) * 1e3,
            "schedules_late_p99": measure.percentile(late, 0.99) * 1e3,
        }


ROWS = {"schedules": row_schedules}
