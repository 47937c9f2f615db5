"""bide's rows that ask whether cost or memory grows: with a run's size, with a store's runs, with time."""

import statistics
from collections.abc import Callable

import bide

from . import measure
from .bide_flows import one_flow, open_runner, wide_flow


def row_growth(setting: measure.Setting) -> measure.Metrics:
    with open_runner(setting) as runner:

        def runs_of(size: int) -> Callable[[], object]:
            flow = wide_flow(size)
            return lambda: runner.run(flow)

        return measure.growth(runs_of)


def costs(runner: bide.Runner) -> tuple[float, float]:
    """Microseconds for a run of one task: in turn, and of a thousand that are submitted together."""
    thousand: list[None] = [None] * 1_000

    def together() -> None:
        for handle in runner.submit_many(one_flow, thousand):
            handle.result()

    def in_turn() -> None:
        for _ in thousand:
            runner.run(one_flow)

    def cost(action: Callable[[], object]) -> float:
        action()
        return statistics.median(measure.timed(action) for _ in range(9)) / len(thousand) * 1e6

    return cost(in_turn), cost(together)


def beside(what: str, before: tuple[float, float], after: tuple[float, float]) -> measure.Metrics:
    """What a run costs now that there are so many others, and by how much that is more than without them."""
    return {
        f"{what}_single": after[0],
        f"{what}_single_growth": after[0] / before[0],
        f"{what}_many": after[1],
        f"{what}_many_growth": after[1] / before[1],
    }


def row_unfinished(setting: measure.Setting) -> measure.Metrics:
    """Runs beside others that wait for a time that does not come while this is measured."""

    def noop() -> int:
        return 1

    waiting = bide.Workflow("waiting", [bide.task(noop, name="noop", gate=bide.after(86_400))])
    with open_runner(setting) as runner:
        runner.submit(waiting)
        before = costs(runner)
        for _ in range(measure.UNFINISHED // measure.BATCH):
            runner.submit_many(waiting, [None] * measure.BATCH)
        return beside("unfinished", before, costs(runner))


def row_million(setting: measure.Setting) -> measure.Metrics:
    """A runner that has executed a million runs: what the next one costs, and the memory it has come to."""

    def execute(count: int) -> None:
        for _ in range(count // measure.BATCH):
            for handle in runner.submit_many(one_flow, [None] * measure.BATCH):
                handle.result()

    with open_runner(setting) as runner:
        before = costs(runner)
        execute(measure.ENDED_EARLY)
        early = measure.resident_mb()
        execute(measure.ENDED - measure.ENDED_EARLY)
        late = measure.resident_mb()
        memory = {"million_mb": late, "million_mb_growth": late / early}
        return memory | beside("million", before, costs(runner))


ROWS = {"growth": row_growth, "unfinished": row_unfinished, "million": row_million}
