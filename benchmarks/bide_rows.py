"""bide's rows, on the store that the setting names.

Workflows are built and registered before the clock starts, since one defines them once
(what registering costs is a line of its own); a run is timed from the call until its
result is there, which on SQLite means committed.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import bide

from . import measure

Body = Callable[..., object]


@contextmanager
def open_runner(setting: measure.Setting, slots: int | None = None) -> Iterator[bide.Runner]:
    """A runner; a file is on this checkout's disk, where /tmp might be memory."""
    if setting.store == "memory":
        with bide.Runner(":memory:", slots=slots) as runner:
            yield runner
        return
    folder = Path("target/bench")
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        bide.Runner(
            Path(name) / "bide.db", slots=slots, durability="full" if setting.store == "full" else "normal"
        ) as runner,
    ):
        yield runner


def noop_named(name: str) -> Body:
    """A task with a function of its own, as a user's tasks have."""

    def noop() -> int:
        return 1

    return bide.task(noop, name=name)


def wide_flow(size: int) -> bide.Workflow:
    return bide.Workflow(f"wide-{size}", [noop_named(f"task-{number}") for number in range(size)])


def chain_flow(length: int) -> bide.Workflow:
    """Each task takes the one before's value, and adds one."""

    def first() -> int:
        return 1

    def hop_after(previous: str) -> Body:
        def increment(value: Annotated[int, bide.From(previous)]) -> int:
            return value + 1

        return increment

    hops = [bide.task(hop_after(f"task-{n - 1}"), name=f"task-{n}") for n in range(1, length)]
    return bide.Workflow(f"chain-{length}", [bide.task(first, name="task-0"), *hops])


one_flow = bide.Workflow("one", [noop_named("noop")])


def row_wide(setting: measure.Setting) -> measure.Metrics:
    flow = wide_flow(measure.WIDE)
    with open_runner(setting) as runner:
        runner.run(wide_flow(100))
        registered = measure.timed(lambda: runner.register(flow))
        return {
            "wide": measure.WIDE / measure.timed(lambda: runner.run(flow)),
            "register": registered * 1e3,
        }


def row_growth(setting: measure.Setting) -> measure.Metrics:
    with open_runner(setting) as runner:

        def runs_of(size: int) -> Callable[[], object]:
            flow = wide_flow(size)
            return lambda: runner.run(flow)

        return measure.growth(runs_of)


def row_sleeps(setting: measure.Setting) -> measure.Metrics:
    def sleeper(number: int) -> Body:
        def sleep() -> None:
            time.sleep(measure.SLEEP_SECONDS)

        return bide.task(sleep, name=f"sleep-{number}")

    flow = bide.Workflow("sleeps", [sleeper(number) for number in range(measure.SLEEPS)])
    with open_runner(setting, slots=4) as runner:
        runner.run(one_flow)
        return {"sleeps": measure.timed(lambda: runner.run(flow))}


def row_chain(setting: measure.Setting) -> measure.Metrics:
    flow = chain_flow(measure.CHAIN)
    with open_runner(setting) as runner:
        runner.run(chain_flow(100))
        runner.register(flow)
        return {"chain": measure.CHAIN / measure.timed(lambda: runner.run(flow))}


def row_single(setting: measure.Setting) -> measure.Metrics:
    with open_runner(setting) as runner:
        runner.run(one_flow)
        return {"single": measure.rate_of_calls(lambda: runner.run(one_flow))}


def row_many(setting: measure.Setting) -> measure.Metrics:
    with open_runner(setting) as runner:
        runner.run(one_flow)

        def together() -> None:
            for handle in runner.submit_many(one_flow, [{}] * measure.MANY):
                handle.result()

        return {"many": measure.MANY / measure.timed(together)}


def waiting_flow(release: measure.Release) -> bide.Workflow:
    """DEFERRED plain functions that all wait for the same moment."""

    def waiter(number: int) -> Body:
        def wait(handle: bide.TaskHandle) -> None:
            handle.defer_until(lambda: release.ask(number), poll_interval_ms=int(measure.POLL_SECONDS * 1e3))

        return bide.task(wait, name=f"wait-{number}")

    return bide.Workflow("waits", [waiter(number) for number in range(measure.DEFERRED)])


def row_gates(setting: measure.Setting) -> measure.Metrics:
    """Runs of one task behind a gate, submitted together; whoever submitted keeps their handles."""
    shut = measure.Shut()

    def noop() -> int:
        return 1

    gate = bide.until(shut.ask, every=measure.POLL_SECONDS)
    flow = bide.Workflow("gated", [bide.task(noop, name="noop", gate=gate)])
    handles: list[bide.RunHandle] = []

    def all_ended() -> None:
        for handle in handles:
            handle.result()

    with open_runner(setting) as runner:
        runner.run(one_flow)
        runner.register(flow)
        return measure.measure_gates(
            shut, lambda: handles.extend(runner.submit_many(flow, [None] * measure.GATES)), all_ended
        )


def row_waiting(setting: measure.Setting) -> measure.Metrics:
    release = measure.Release()
    flow = waiting_flow(release)
    handles: list[bide.RunHandle] = []
    with open_runner(setting) as runner:
        runner.run(one_flow)
        return measure.measure_waiting(
            setting,
            release,
            lambda: handles.append(runner.submit(flow)),
            lambda: handles.pop().result(),
        )


def row_latency(setting: measure.Setting) -> measure.Metrics:
    """How long a run takes that is submitted when one slot serves all those waits."""
    release = measure.Release()
    with open_runner(setting, slots=1) as runner:
        handle = runner.submit(waiting_flow(release))
        release.settle()
        seconds = []
        for _ in range(measure.LATENCY_RUNS):
            seconds.append(measure.timed(partial(runner.run, one_flow)))
            time.sleep(0.1)  # so that they meet the polls at different moments
        release.given = True
        handle.result()
        return {"latency": statistics.median(seconds) * 1e3}


def row_late(setting: measure.Setting) -> measure.Metrics:
    late: list[float] = []
    due_times: list[list[float]] = []

    def waiter(number: int) -> Body:
        def wait(handle: bide.TaskHandle) -> None:
            for moment in due_times[number]:

                def is_due(moment: float = moment) -> bool:
                    return time.monotonic() >= moment

                handle.defer_until(is_due, poll_interval_ms=int(measure.LATE_POLL_SECONDS * 1e3))
                late.append(time.monotonic() - moment)

        return bide.task(wait, name=f"wait-{number}")

    flow = bide.Workflow("late", [waiter(number) for number in range(measure.LATE_BODIES)])
    with open_runner(setting) as runner:
        runner.run(one_flow)
        due_times += measure.due_times(time.monotonic())
        runner.run(flow)
    return measure.lateness(late)


if __name__ == "__main__":
    measure.main(
        {
            "wide": row_wide,
            "growth": row_growth,
            "sleeps": row_sleeps,
            "chain": row_chain,
            "single": row_single,
            "many": row_many,
            "waiting": row_waiting,
            "gates": row_gates,
            "latency": row_latency,
            "late": row_late,
        }
    )
