"""The rows of Dask: a graph of delayed calls on its threaded scheduler, in memory and without durability.

It runs in an environment of its own (`make bench-peers`). The graph is built
before the clock starts, as bide's workflows are.
"""

from collections.abc import Callable

import dask
from dask import delayed

from . import measure

WORKERS = 4


def noop() -> int:
    return 1


def increment(value: int) -> int:
    return value + 1


def runs_of(targets: list[object], expected: int) -> Callable[[], object]:
    """Return a function that computes these targets, without letting Dask merge all tasks into one."""

    def run() -> None:
        values = dask.compute(*targets, scheduler="threads", num_workers=WORKERS, optimize_graph=False)
        if sum(values) != expected:
            raise RuntimeError(f"{sum(values)} instead of {expected}")

    return run


def wide(size: int) -> Callable[[], object]:
    call = delayed(noop, pure=False)
    return runs_of([call() for _ in range(size)], size)


def chain(length: int) -> Callable[[], object]:
    call = delayed(increment, pure=False)
    value = call(0)
    for _ in range(length - 1):
        value = call(value)
    return runs_of([value], length)


def row_wide(_setting: measure.Setting) -> measure.Metrics:
    wide(100)()
    return {"wide": measure.WIDE / measure.timed(wide(measure.WIDE))}


def row_chain(_setting: measure.Setting) -> measure.Metrics:
    chain(100)()
    return {"chain": measure.CHAIN / measure.timed(chain(measure.CHAIN))}


def row_single(_setting: measure.Setting) -> measure.Metrics:
    return {"single": measure.rate_of_calls(wide(1))}


if __name__ == "__main__":
    measure.main({"wide": row_wide, "chain": row_chain, "single": row_single})
