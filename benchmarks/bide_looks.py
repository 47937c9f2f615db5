"""bide's rows about looking: what holds a large run, a page of many open waits, and a few runs among very many."""

from collections.abc import Callable
from contextlib import suppress

import bide

from . import measure
from .bide_workflows import Body, open_runner, open_waits

START = bide.signal("start")


def milliseconds(look: Callable[[], object]) -> float:
    """Return the median of twenty looks."""
    return measure.percentile([measure.timed(look) for _ in range(measure.LOOKS)], 0.5) * 1e3


def chain_behind_a_gate(size: int) -> bide.Workflow:
    def noop() -> int:
        return 1

    first: Body = bide.task(noop, name="first", gate=START)
    rest = [bide.task(noop, name=f"t{n}", depends_on=["first" if n == 1 else f"t{n - 1}"]) for n in range(1, size)]
    return bide.Workflow("chain-behind-a-gate", [first, *rest])


def until_waiting(runner: bide.Runner) -> None:
    while not runner.waiting(limit=1):
        pass


def row_why(setting: measure.Setting) -> measure.Metrics:
    """Measure `why` of a run none of whose tasks has ended, by its runner and by a client."""
    with open_runner(setting) as runner, bide.Client(runner) as client:
        run = runner.submit(chain_behind_a_gate(measure.WIDE))
        until_waiting(runner)
        assert len(client.why(run).tasks) == measure.WIDE  # noqa: S101 - a measurement of nothing is worse than none
        return {"why": milliseconds(run.why), "why_client": milliseconds(lambda: client.why(run.id))}


def row_open_waits(setting: measure.Setting) -> measure.Metrics:
    """Measure the first page of the open waits of many runs, and the last one."""

    def noop() -> int:
        return 1

    gated = bide.Workflow("gated", [bide.task(noop, name="gated", gate=START)])
    with open_runner(setting) as runner:
        for _ in range(measure.GATES // measure.BATCH):
            runner.submit_many(gated, [None] * measure.BATCH)
        waits = open_waits(runner, measure.GATES)
        last = waits[-measure.PAGE - 1]
        assert len(runner.waiting(after=last)) == measure.PAGE  # noqa: S101 - as above
        return {
            "open_waits": milliseconds(runner.waiting),
            "open_waits_last": milliseconds(lambda: runner.waiting(after=last)),
        }


def submit_rare(runner: bide.Runner) -> None:
    """Submit runs of each kind that are to be found among many others."""

    def noop() -> int:
        return 1

    def fails() -> None:
        raise OSError

    tagged = bide.Workflow("tagged", [bide.task(noop, name="noop")])
    keys = [f"order-{n}" for n in range(measure.PAGE)]
    runner.submit_many(tagged, [None] * measure.PAGE, keys, tags={"customer": "7"})
    runner.submit_many(bide.Workflow("gated", [bide.task(noop, name="gated", gate=START)]), [None] * measure.PAGE)
    failing = runner.submit_many(bide.Workflow("failing", [bide.task(fails, name="fails")]), [None] * measure.PAGE)
    for handle in failing:
        with suppress(bide.RunFailed):
            handle.result()


def find_rare(runner: bide.Runner, what: str) -> measure.Metrics:
    """Measure how `bide runs` finds these, by a client: each listing has as many of them as a page."""
    with bide.Client(runner) as client:
        looks: dict[str, Callable[[], list[bide.RunResult]]] = {
            "tag": lambda: client.runs(tags={"customer": "7"}, limit=measure.PAGE),
            "failed": lambda: client.runs(status="Failed", limit=measure.PAGE),
            "running": lambda: client.runs(status="Running", limit=measure.PAGE),
            "key": lambda: client.runs(key_prefix="order-", limit=measure.PAGE),
        }
        for look in looks.values():
            assert len(look()) == measure.PAGE  # noqa: S101 - as above
        return {f"{what}_{name}": milliseconds(look) for name, look in looks.items()}


ROWS = {"why": row_why, "open_waits": row_open_waits}
