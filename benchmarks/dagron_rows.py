"""The rows of dagron: a DAG engine in memory, without durability. Its chain passes no values.

It runs in an environment of its own (`make bench-peers`).
"""

import itertools
from collections.abc import Callable

from dagron import DAGBuilder, DAGExecutor

from . import measure


def noop() -> int:
    return 1


def runs_of(size: int, *, chained: bool = False) -> Callable[[], object]:
    """Return a function that runs a graph of this size, built beforehand."""
    builder = DAGBuilder()
    names = [f"task-{number}" for number in range(size)]
    for name in names:
        builder.add_node(name)
    if chained:
        for before, after in itertools.pairwise(names):
            builder.add_edge(before, after)
    executor = DAGExecutor(builder.build(), max_workers=4)
    bodies = dict.fromkeys(names, noop)

    def run() -> None:
        result = executor.execute(bodies)
        if result.succeeded != size:
            raise RuntimeError(f"{result.succeeded} of {size} tasks succeeded")

    return run


def row_wide(_setting: measure.Setting) -> measure.Metrics:
    runs_of(100)()
    return {"wide": measure.WIDE / measure.timed(runs_of(measure.WIDE))}


def row_growth(_setting: measure.Setting) -> measure.Metrics:
    return measure.growth(runs_of)


def row_chain(_setting: measure.Setting) -> measure.Metrics:
    runs_of(100, chained=True)()
    return {"chain": measure.CHAIN / measure.timed(runs_of(measure.CHAIN, chained=True))}


def row_single(_setting: measure.Setting) -> measure.Metrics:
    return {"single": measure.rate_of_calls(runs_of(1))}


if __name__ == "__main__":
    measure.main({"wide": row_wide, "growth": row_growth, "chain": row_chain, "single": row_single})
