"""The rows of sayiir: durable workflows on its store in memory, which keeps a checkpoint of each task.

Its durable store is PostgreSQL, a server, which is not measured here.

It runs in an environment of its own (`make bench-peers`).
"""

import itertools
from collections.abc import Callable

from sayiir import Flow, InMemoryBackend, run_durable_workflow

from . import measure

runs = itertools.count()


def noop(_value: int) -> int:
    return 1


def increment(value: int) -> int:
    return value + 1


def add_up(branches: dict[str, int]) -> int:
    return sum(branches.values())


def runs_of(flow: Flow, expected: int) -> Callable[[], object]:
    """Return a function that runs a flow durably, each time as a new instance on an empty store."""
    workflow = flow.build()

    def run() -> None:
        status = run_durable_workflow(workflow, f"run-{next(runs)}", 0, InMemoryBackend())
        if not status.is_completed() or status.output != expected:
            raise RuntimeError(str(status))

    return run


def wide(size: int) -> Callable[[], object]:
    """Build a fork with this many branches; the task that joins them is not counted."""
    fork = Flow(f"wide-{size}").fork()
    for number in range(size):
        fork = fork.branch(noop, name=f"task-{number}")
    return runs_of(fork.join(add_up), size)


def chain(length: int) -> Callable[[], object]:
    """Build a chain in which each task adds one to the value of the previous task."""
    flow = Flow(f"chain-{length}")
    for number in range(length):
        flow = flow.then(increment, name=f"task-{number}")
    return runs_of(flow, length)


def row_wide(_setting: measure.Setting) -> measure.Metrics:
    wide(100)()
    return {"wide": measure.WIDE / measure.timed(wide(measure.WIDE))}


def row_chain(_setting: measure.Setting) -> measure.Metrics:
    chain(100)()
    return {"chain": measure.CHAIN / measure.timed(chain(measure.CHAIN))}


def row_single(_setting: measure.Setting) -> measure.Metrics:
    return {"single": measure.rate_of_calls(chain(1))}


if __name__ == "__main__":
    measure.main({"wide": row_wide, "chain": row_chain, "single": row_single})
