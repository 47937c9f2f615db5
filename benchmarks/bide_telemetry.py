"""bide's row about OpenTelemetry: what the spans of a run cost, beside the same spans made without bide.

The SDK is not needed by any other row: without it, `python -m benchmarks` skips this one.
"""

import gc
import threading
import time
from typing import TYPE_CHECKING

from . import measure
from .bide_workflows import open_runner, wide_workflow

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

    import bide

TURNS = 3


class Ended:
    """The spans that have ended, and when the last of those that are awaited did."""

    def __init__(self) -> None:
        """Await nothing yet."""
        self.spans: list[ReadableSpan] = []
        self._awaited = 0
        self._at = 0.0
        self._all = threading.Event()

    def expect(self, count: int) -> None:
        """Forget what there is and await this many."""
        self.spans.clear()
        self._awaited = count
        self._all.clear()

    def add(self, span: "ReadableSpan") -> None:
        """Keep a span that has ended."""
        self.spans.append(span)
        if len(self.spans) == self._awaited:
            self._at = time.perf_counter()
            self._all.set()

    def at(self) -> float:
        """Wait for the last one and return when it ended."""
        if not self._all.wait(measure.PATIENCE):
            raise TimeoutError(f"{len(self.spans)} of {self._awaited} spans have ended")
        return self._at


def provider(ended: Ended) -> "TracerProvider":
    """Return a provider of which all spans are kept when they end."""
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: PLC0415 - no other row needs it

    class Kept(SpanProcessor):
        def on_end(self, span: "ReadableSpan") -> None:
            ended.add(span)

    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(Kept())
    return made


def traced(setting: measure.Setting, workflow: "bide.Workflow") -> float:
    """Run a wide workflow, and return the seconds until its last span has ended."""
    from bide.otel import Telemetry  # noqa: PLC0415 - no other row needs it

    ended = Ended()
    with open_runner(setting, on_event=Telemetry(provider(ended))) as runner:
        ended.expect(101)  # with the run's
        runner.run(wide_workflow(100))
        ended.at()
        runner.register(workflow)
        ended.expect(len(workflow.tasks) + 1)
        gc.collect()
        start = time.perf_counter()
        runner.run(workflow)
        return ended.at() - start


def plain(setting: measure.Setting, workflow: "bide.Workflow") -> float:
    """Run the same without anything that observes."""
    with open_runner(setting) as runner:
        runner.run(wide_workflow(100))
        runner.register(workflow)
        gc.collect()
        return measure.timed(lambda: runner.run(workflow))


def bare(size: int) -> float:
    """Make the same spans without bide: with the same times, attributes and parent."""
    from opentelemetry import trace  # noqa: PLC0415 - no other row needs it

    ended = Ended()
    tracer = provider(ended).get_tracer("bare")
    now = time.time_ns()
    with tracer.start_as_current_span("run") as root:
        above = trace.set_span_in_context(root)

    def make() -> None:
        for number in range(size):
            name = f"task-{number}"
            attributes: dict[str, str | int] = {
                "bide.run.id": "019b76da-a800-7000-af63-ac3dba631bf2",
                "bide.workflow.name": "wide",
                "bide.task.name": name,
                "bide.task.attempt": 1,
            }
            tracer.start_span(name, above, attributes=attributes, start_time=now).end(now)

    gc.collect()
    seconds = measure.timed(make)
    assert len(ended.spans) == size + 1  # noqa: S101 - a measurement of nothing is worse than none
    return seconds


def row_traced(setting: measure.Setting) -> measure.Metrics:
    """Measure a wide run with tracing, by the same without it and the same spans made bare, in turns."""
    size, with_spans, added = measure.WIDE, 0.0, 0.0
    # One for all, because the garbage collector's work grows with what there is.
    workflow = wide_workflow(size)
    for _ in range(TURNS):
        with_spans += traced(setting, workflow)
        added += plain(setting, workflow) + bare(size)
    return {"traced": TURNS * size / with_spans, "traced_growth": with_spans / added}


ROWS = {"traced": row_traced}
