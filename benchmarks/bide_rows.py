"""bide's rows, on the store of the setting; rows about waits, commits and growth are in other modules.

Workflows are built and registered before the clock starts, because a program defines them
once (a separate row measures that cost). A run is timed from the call until its
result is returned, which on SQLite means committed.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import bide

from . import (
    asyncio_rows,
    bide_children,
    bide_commits,
    bide_coroutines,
    bide_events,
    bide_growth,
    bide_limits,
    bide_looks,
    bide_processes,
    bide_remote,
    bide_schedules,
    bide_signals,
    bide_telemetry,
    bide_testing,
    bide_waits,
    measure,
)
from .bide_workflows import (
    Body,
    chain_workflow,
    map_workflow,
    one_workflow,
    open_runner,
    wide_async_workflow,
    wide_workflow,
)


def row_wide(setting: measure.Setting) -> measure.Metrics:
    workflow = wide_workflow(measure.WIDE)
    with open_runner(setting) as runner:
        runner.run(wide_workflow(100))
        registered = measure.timed(lambda: runner.register(workflow))
        return {
            "wide": measure.WIDE / measure.timed(lambda: runner.run(workflow)),
            "register": registered * 1e3,
        }


def row_wide_async(setting: measure.Setting) -> measure.Metrics:
    workflow = wide_async_workflow(measure.WIDE)
    with open_runner(setting) as runner:
        runner.run(wide_async_workflow(100))
        runner.register(workflow)
        return {"wide_async": measure.WIDE / measure.timed(lambda: runner.run(workflow))}


def row_first(setting: measure.Setting) -> measure.Metrics:
    """Measure a program that builds its workflow and runs it once, and the ratio to asyncio, in turns."""

    def build_and_run() -> float:
        with open_runner(setting) as runner:
            runner.run(wide_workflow(100))
            return measure.timed(lambda: runner.run(wide_workflow(measure.WIDE)))

    own, theirs = measure.in_turns(build_and_run, asyncio_rows.first)
    return {"first": own * 1e3, "first_growth": own / theirs}


def row_map(setting: measure.Setting) -> measure.Metrics:
    """Measure a map over many items, and its ratio to as many independent tasks, in turns."""
    mapped, wide = map_workflow(measure.WIDE), wide_workflow(measure.WIDE)
    with open_runner(setting) as runner:
        for workflow in (map_workflow(100), wide_workflow(100)):
            runner.run(workflow)
        for workflow in (mapped, wide):
            runner.register(workflow)
        own, tasks = measure.in_turns(
            lambda: measure.timed(lambda: runner.run(mapped)), lambda: measure.timed(lambda: runner.run(wide))
        )
    return {"map": measure.WIDE / own, "map_growth": tasks / own}


def row_sleeps(setting: measure.Setting) -> measure.Metrics:
    def sleeper(number: int) -> Body:
        def sleep() -> None:
            time.sleep(measure.SLEEP_SECONDS)

        return bide.task(sleep, name=f"sleep-{number}")

    workflow = bide.Workflow("sleeps", [sleeper(number) for number in range(measure.SLEEPS)])
    with open_runner(setting, slots=4) as runner:
        runner.run(one_workflow)
        return {"sleeps": measure.timed(lambda: runner.run(workflow))}


def row_chain(setting: measure.Setting) -> measure.Metrics:
    workflow = chain_workflow(measure.CHAIN)
    with open_runner(setting) as runner:
        runner.run(chain_workflow(100))
        runner.register(workflow)
        return {"chain": measure.CHAIN / measure.timed(lambda: runner.run(workflow))}


def row_single(setting: measure.Setting) -> measure.Metrics:
    with open_runner(setting) as runner:
        runner.run(one_workflow)
        return {"single": measure.rate_of_calls(lambda: runner.run(one_workflow))}


def row_many(setting: measure.Setting) -> measure.Metrics:
    with open_runner(setting) as runner:
        runner.run(one_workflow)

        def together() -> None:
            for handle in runner.submit_many(one_workflow, [{}] * measure.MANY):
                handle.result()

        return {"many": measure.MANY / measure.timed(together)}


def row_submitters(setting: measure.Setting) -> measure.Metrics:
    with open_runner(setting) as runner:
        runner.run(one_workflow)
        return {"submitters": measure.rate_of_threads(lambda: runner.run(one_workflow))}


def row_application(setting: measure.Setting) -> measure.Metrics:
    with open_runner(setting) as runner:
        runner.run(one_workflow)
        own = asyncio.run(measure.application(lambda: runner.run_async(one_workflow)))
        threads = asyncio.run(measure.application(measure.in_thread))
    return own | {"application_growth": own["application"] / threads["application"]}


def row_import(_setting: measure.Setting) -> measure.Metrics:
    own, asyncios = measure.import_times("bide", "asyncio")
    return {"import": own, "import_growth": own / asyncios, "command": command_ms()}


def command_ms() -> float:
    """Return the milliseconds of `bide runs`: the median."""
    with measure.scratch() as folder:
        store = Path(folder) / "bide.db"
        bide.Runner(store).close()
        command = [sys.executable, "-m", "bide", "runs", str(store), "-o", "json"]
        return statistics.median(
            measure.timed(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)) * 1e3
            for _ in range(measure.LOOKS)
        )


ROWS = {
    "import": row_import,
    "wide": row_wide,
    "wide_async": row_wide_async,
    "first": row_first,
    "map": row_map,
    "sleeps": row_sleeps,
    "chain": row_chain,
    "single": row_single,
    "many": row_many,
    "submitters": row_submitters,
    "application": row_application,
}

if __name__ == "__main__":
    modules = (
        bide_children,
        bide_commits,
        bide_coroutines,
        bide_events,
        bide_growth,
        bide_limits,
        bide_looks,
        bide_processes,
        bide_remote,
        bide_schedules,
        bide_signals,
        bide_telemetry,
        bide_testing,
        bide_waits,
    )
    measure.main(ROWS | {name: row for module in modules for name, row in module.ROWS.items()})
