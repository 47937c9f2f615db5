"""bide's rows about waits: the cost of an open wait, the delay of its end, and other work beside it."""

import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import bide

from . import measure
from .bide_workflows import Body, one_workflow, open_runner


def waiting_workflow(release: measure.Release) -> bide.Workflow:
    """Plain functions that all wait for the release, as many as it counts."""

    def waiter(number: int) -> Body:
        def wait(handle: bide.TaskHandle) -> None:
            handle.defer_until(lambda: release.ask(number), poll_interval_ms=int(measure.POLL_SECONDS * 1e3))

        return bide.task(wait, name=f"wait-{number}")

    return bide.Workflow("waits", [waiter(number) for number in range(release.count)])


def row_gates(setting: measure.Setting) -> measure.Metrics:
    """Runs of one task behind a gate, submitted together; the caller keeps their handles."""
    shut = measure.Shut()

    def noop() -> int:
        return 1

    gate = bide.until(shut.ask, every=measure.POLL_SECONDS)
    workflow = bide.Workflow("gated", [bide.task(noop, name="noop", gate=gate)])
    handles: list[bide.RunHandle] = []

    def all_ended() -> None:
        for handle in handles:
            handle.result()

    with open_runner(setting) as runner:
        runner.run(one_workflow)
        runner.register(workflow)
        return measure.measure_gates(
            shut, lambda: handles.extend(runner.submit_many(workflow, [None] * measure.GATES)), all_ended
        )


def parked(what: str, count: int, setting: measure.Setting) -> measure.Metrics:
    release = measure.Release(count)
    workflow = waiting_workflow(release)
    handles: list[bide.RunHandle] = []
    with open_runner(setting) as runner:
        runner.run(one_workflow)
        return measure.measure_waiting(
            what,
            setting,
            release,
            lambda: handles.append(runner.submit(workflow)),
            lambda: handles.pop().result(),
        )


def row_waiting(setting: measure.Setting) -> measure.Metrics:
    return parked("wait", measure.DEFERRED, setting)


def row_parked(setting: measure.Setting) -> measure.Metrics:
    return parked("parked", measure.PARKED, setting)


def row_latency(setting: measure.Setting) -> measure.Metrics:
    """Measure a run that is submitted while one slot serves all those waits."""
    release = measure.Release(measure.DEFERRED)
    with open_runner(setting, slots=1) as runner:
        handle = runner.submit(waiting_workflow(release))
        release.settle()
        seconds = []
        for _ in range(measure.LATENCY_RUNS):
            seconds.append(measure.timed(partial(runner.run, one_workflow)))
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

    workflow = bide.Workflow("late", [waiter(number) for number in range(measure.LATE_BODIES)])
    with open_runner(setting) as runner:
        runner.run(one_workflow)
        due_times += measure.due_times(time.monotonic())
        runner.run(workflow)
    return measure.lateness(late)


def row_resume(setting: measure.Setting) -> measure.Metrics:
    """Measure a body that waits RESUMES times, each time for a condition that is true at its first poll."""
    seconds: list[float] = []

    def body(handle: bide.TaskHandle) -> None:
        for _ in range(measure.RESUMES):
            second = measure.Second()
            wait = partial(handle.defer_until, second.ask, poll_interval_ms=measure.RESUME_POLL_SECONDS * 1e3)
            seconds.append(measure.timed(wait))

    with open_runner(setting) as runner:
        runner.run(one_workflow)
        runner.run(bide.Workflow("resume", [bide.task(body, name="wait")]))
    return measure.resume_lateness(seconds)


def row_behind(_setting: measure.Setting) -> measure.Metrics:
    """Measure when another process can read the result of a quick body, followed by a long one on the only slot."""
    ended: list[float] = []

    def quick() -> None:
        ended.append(time.monotonic())

    def long() -> None:
        began = time.monotonic()
        while time.monotonic() < began + measure.BEHIND_SECONDS:
            pass

    workflow = bide.Workflow("behind", [bide.task(quick, name="quick"), bide.task(long, name="long")])
    with measure.scratch() as name, bide.Runner(Path(name) / "bide.db", slots=1) as runner:
        runner.register(workflow)
        reader = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.reader", str(Path(name) / "bide.db"), str(2 * measure.BEHIND_RUNS)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdout is not None  # noqa: S101 - for mypy
        reader.stdout.readline()
        for _ in range(measure.BEHIND_RUNS):
            runner.run(workflow)
        seen = json.loads(reader.communicate(timeout=measure.PATIENCE)[0])
    # The rows come in pairs: the quick task's, then the long one's.
    late = [seen - end for seen, end in zip(seen[::2], ended, strict=True)]
    return {"behind": measure.percentile(late, 0.99) * 1e3}


ROWS = {
    "waiting": row_waiting,
    "parked": row_parked,
    "gates": row_gates,
    "latency": row_latency,
    "late": row_late,
    "resume": row_resume,
    "behind": row_behind,
}
