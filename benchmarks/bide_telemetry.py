"""bide's row about OpenTelemetry: what the spans of a run cost, beside the same spans made without bide.

The SDK is not needed by any other row: without it, `python -m benchmarks` skips this one.
"""

import time
from typing import TYPE_CHECKING

from . import measure
from .bide_workflows import open_runner, wide_workflow

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

TURNS = 3


def provider(ended: "list[ReadableSpan]") -> "TracerProvider":
    """Return a provider of which all spans come into a list when they end."""
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: PLC0415 - no other row needs it

    class Kept(SpanProcessor):
        def on_end(self, span: "ReadableSpan") -> None:
            ended.append(span)

    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(Kept())
    return made


def traced(setting: measure.Setting, size: int) -> float:
    """Run a wide workflow, and return the seconds until its last span has ended."""
    from bide.otel import Telemetry  # noqa: PLC0415 - no other row needs it

    ended: list[ReadableSpan] = []
    workflow = wide_workflow(size)
    with open_runner(setting, on_event=Telemetry(provider(ended))) as runner:
        runner.run(wide_workflow(100))
        runner.register(workflow)
        measure.wait_until(lambda: len(ended) == 101, "the first spans have ended")  # noqa: PLR2004 - with the run's
        ended.clear()
        start = time.perf_counter()
        runner.run(workflow)
        measure.wait_until(lambda: len(ended) == size + 1, "all spans have ended")
        return time.perf_counter() - start


def plain(setting: measure.Setting, size: int) -> float:
    """Run the same without anything that observes."""
    workflow = wide_workflow(size)
    with open_runner(setting) as runner:
        runner.run(wide_workflow(100))
        runner.register(workflow)
        return measure.timed(lambda: runner.run(workflow))


def bare(size: int) -> float:
    """Make the same spans without bide: with the same times, attributes and parent."""
    from opentelemetry import trace  # noqa: PLC0415 - no other row needs it

    ended: list[ReadableSpan] = []
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

    seconds = measure.timed(make)
    assert len(ended) == size + 1  # noqa: S101 - a measurement of nothing is worse than none
    return seconds


def row_traced(setting: measure.Setting) -> measure.Metrics:
    """Measure a wide run with tracing, by the same without it and the same spans made bare, in turns."""
    size, with_spans, added = measure.WIDE, 0.0, 0.0
    for _ in range(TURNS):
        with_spans += traced(setting, size)
        added += plain(setting, size) + bare(size)
    return {"traced": TURNS * size / with_spans, "traced_growth": with_spans / added}


ROWS = {"traced": row_traced}
