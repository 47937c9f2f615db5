"""bide's rows about growth of cost or memory: with the size of a run, the runs of a store, the workflows."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import bide

from . import measure
from .bide_looks import find_rare, submit_rare
from .bide_workflows import noop_named, one_workflow, open_runner, wide_workflow


def row_growth(setting: measure.Setting) -> measure.Metrics:
    with open_runner(setting) as runner:

        def runs_of(size: int) -> Callable[[], object]:
            workflow = wide_workflow(size)
            return lambda: runner.run(workflow)

        return measure.growth(runs_of)


def cost(runners: Sequence[bide.Runner], action: Callable[[bide.Runner], object]) -> list[float]:
    """Return the microseconds of a run on each runner: medians of nine batches of a thousand, taking turns."""
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(10):
        for runner, spent in zip(runners, seconds, strict=True):
            spent.append(measure.timed(partial(action, runner)))
    return [statistics.median(spent[1:]) * 1e3 for spent in seconds]


def in_turn(runner: bide.Runner) -> None:
    for _ in range(1_000):
        runner.run(one_workflow)


def together(runner: bide.Runner) -> None:
    for handle in runner.submit_many(one_workflow, [None] * 1_000):
        handle.result()


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep every thread on the same core.

    Waking a thread on another core takes three times as long as on the same core, and the system chooses the core: with
    two cores, the choice changes at random every few thousand runs.
    """
    cores = os.sched_getaffinity(0)

    def put_on(some: set[int]) -> None:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), some)

    put_on({min(cores)})
    try:
        yield
    finally:
        put_on(cores)


def beside(what: str, empty: bide.Runner, full: bide.Runner) -> measure.Metrics:
    """Measure the cost of a run of one task beside many others, and its ratio to the cost without them."""
    with on_one_core():
        single, single_there = cost([empty, full], in_turn)
    many, many_there = cost([empty, full], together)
    return {
        f"{what}_single": single_there,
        f"{what}_single_growth": single_there / single,
        f"{what}_many": many_there,
        f"{what}_many_growth": many_there / many,
    }


def row_unfinished(setting: measure.Setting) -> measure.Metrics:
    """Measure runs beside others that wait for a time that does not come during the measurement."""

    def noop() -> int:
        return 1

    waiting = bide.Workflow("waiting", [bide.task(noop, name="noop", gate=bide.after(86_400))])
    with open_runner(setting) as empty, open_runner(setting) as full:
        empty.submit(waiting)
        for _ in range(measure.UNFINISHED // measure.BATCH):
            full.submit_many(waiting, [None] * measure.BATCH)
        return beside("unfinished", empty, full)


def row_million(setting: measure.Setting) -> measure.Metrics:
    """Measure a runner that has executed a million runs: the cost of the next run, the memory, and a few found."""
    with open_runner(setting) as full:
        if setting.store != "memory":  # which keeps the newest alone
            submit_rare(full)

        def execute(count: int) -> None:
            for _ in range(count // measure.BATCH):
                for handle in full.submit_many(one_workflow, [None] * measure.BATCH):
                    handle.result()

        execute(measure.ENDED_EARLY)
        early = measure.resident_mb()
        execute(measure.ENDED - measure.ENDED_EARLY)
        late = measure.resident_mb()
        with open_runner(setting) as empty:
            costs = beside("million", empty, full)
        found = find_rare(full, "million") if setting.store != "memory" else {}
    return found | {"million_mb": late, "million_mb_growth": late / early} | costs


def register(runner: bide.Runner, number: int) -> float:
    """Register one more workflow; return the CPU seconds of the process."""
    workflow = bide.Workflow(f"tenant-{number}", [noop_named("noop")])
    start = time.process_time()
    runner.register(workflow)
    return time.process_time() - start


def row_workflows(setting: measure.Setting) -> measure.Metrics:
    """Measure runs beside many workflows, and the registration of more."""
    with open_runner(setting) as empty, open_runner(setting) as full:
        for number in range(measure.WORKFLOWS):
            register(full, number)
        costs = beside("workflows", empty, full)
        for number in range(measure.WORKFLOWS, measure.REGISTERED - 100):
            register(full, number)
        both = [[register(runner, number) for runner in (empty, full)] for number in range(-100, 0)]
    early, late = (statistics.median(seconds) for seconds in zip(*both, strict=True))
    return costs | {"workflows_register": late * 1e6, "workflows_register_growth": late / early}


def row_idle(_setting: measure.Setting) -> measure.Metrics:
    """Measure an idle runner with many workflows, while another process commits to its file."""
    with measure.scratch() as folder, bide.Runner(Path(folder) / "bide.db") as runner:
        for number in range(measure.WORKFLOWS):
            register(runner, number)
        writer = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.writer", str(Path(folder) / "bide.db")], stdout=subprocess.PIPE
        )
        try:
            assert writer.stdout is not None  # noqa: S101 - for mypy
            writer.stdout.readline()
            time.sleep(measure.SETTLE_SECONDS)
            return {"idle_cpu": measure.cpu_percent()}
        finally:
            writer.kill()
            writer.communicate()


ROWS = {
    "growth": row_growth,
    "unfinished": row_unfinished,
    "million": row_million,
    "workflows": row_workflows,
    "idle": row_idle,
}
