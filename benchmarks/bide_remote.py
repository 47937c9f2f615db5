"""bide's rows about bodies in child processes: what two of them add to one thread, and what a call costs."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated

import bide

from . import measure
from .bide_workflows import open_runner

PROCESSES = 2
"""How many child processes execute bodies: as many as the machine has processors for."""

BODIES, ROUNDS = 24, 1_000_000
"""How many bodies compute, and for how many rounds of a loop each."""

CALLS = 2_000
"""How many bodies do nothing."""


def compute(_number: int) -> int:
    value = 1
    for _ in range(ROUNDS):
        value = value * 1_103_515_245 % 2_147_483_647
    return value


def noop(number: int) -> int:
    return number


def compute_each(_item: Annotated[int, bide.Each(bide.Input("items"))]) -> int:
    return compute(_item)


def noop_each(item: Annotated[int, bide.Each(bide.Input("items"))]) -> int:
    return item


def row_processes(setting: measure.Setting) -> measure.Metrics:
    """Measure CPU-bound bodies in two processes by the same calls on one thread, and calls by a process pool's."""
    processes = bide.Processes(PROCESSES)
    busy = bide.Workflow("busy", [bide.task(compute_each, executor=processes)])
    idle = bide.Workflow("idle", [bide.task(noop_each, executor=processes)])
    with open_runner(setting) as runner, ProcessPoolExecutor(PROCESSES) as pool:

        def run(workflow: bide.Workflow, items: int) -> Callable[[], float]:
            inputs = {"items": list(range(items))}
            return lambda: measure.timed(lambda: runner.run(workflow, inputs))

        def here() -> float:
            return measure.timed(lambda: [compute(number) for number in range(BODIES)])

        def by_pool() -> float:
            return measure.timed(lambda: [one.result() for one in [pool.submit(noop, n) for n in range(CALLS)]])

        run(idle, 100)()
        by_pool()
        here_seconds, there = measure.in_turns(here, run(busy, BODIES))
        calls, pooled = measure.in_turns(run(idle, CALLS), by_pool)
    return {
        "processes": here_seconds / there,
        "processes_calls": CALLS / calls,
        "processes_calls_growth": pooled / calls,
    }


ROWS = {"processes": row_processes}
