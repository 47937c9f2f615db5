"""OpenTelemetry for `Runner(on_event=bide.otel.Telemetry())`: a trace for each run, and metrics.

Needs `pip install 'bide[otel]'`, and a provider of the OpenTelemetry SDK to see anything. A span is made when it ends,
of what was committed, with the recorded times and an id that follows from what it is of: a run is one trace, whichever
processes have executed it. See docs/telemetry.md.
"""

import contextvars
import copy
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from bide import __version__, _core
from bide._errors import DefinitionError
from bide._observe import RunEvent, RunEventKind
from bide._status import RunStatus, TaskStatus

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
except ImportError as error:
    msg = "bide.otel needs the package opentelemetry-api: pip install 'bide[otel]'"
    raise ImportError(msg) from error

__all__ = ["Telemetry"]

_SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.SAMPLED)

_SCOPE: Final = "bide"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# Read once: to look a member up takes longer than what else is done with it for each span.
_RUN_ENDED: Final = RunEventKind.RunEnded
_RETRY: Final = RunEventKind.Retry
_STEP_ENDED: Final = RunEventKind.StepEnded
_WAIT_OPENED: Final = RunEventKind.WaitOpened
_PAUSED: Final = RunStatus.Paused
_RUN_FAILED: Final = RunStatus.Failed
_TASK_FAILED: Final = TaskStatus.Failed


class Telemetry:
    """Make spans and metrics of what happens to runs: `Runner(on_event=bide.otel.Telemetry())`.

    Uses these providers, or the global ones once they are set. A run's id is its trace id. One of these may serve
    several runners. The span of a run links to the one in which this process submitted it, and to that of its parent.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        """Use these providers; `DefinitionError` if a tracer provider is not one of the OpenTelemetry SDK."""
        self._ids, self._lock = _Ids(), threading.Lock()
        self._tracer: trace.Tracer | None = None
        self._refused = False
        self._run = _Run(None)
        if tracer_provider is not None:
            self._use(tracer_provider)
            if self._refused:
                msg = (
                    f"bide.otel.Telemetry needs a TracerProvider of the OpenTelemetry SDK, not {tracer_provider!r}: "
                    "the ids of its spans follow from the run"
                )
                raise DefinitionError(msg)
        self._metrics = _Metrics(meter_provider)

    def _commits(self, runner: _core.Runner) -> Callable[[float], None]:
        """Return what takes the seconds that each commit of a runner takes."""
        return self._metrics.serve(runner)

    def __call__(self, event: RunEvent) -> None:
        """Take an event of a runner."""
        self._with_context(event, None)

    def _with_context(self, event: RunEvent, submitter: contextvars.Context | None) -> None:
        """Take an event; `submitter` are the contextvars with which the run was submitted, if it was here."""
        if event.wait_kind is not None or event.kind is _RUN_ENDED:
            self._metrics.take(event)
        since, tracer = event.since, self._tracer or self._find_tracer()
        if since is None or event.status is _PAUSED or tracer is None:
            return
        run = self._run
        if run.id != event.run:
            self._run = run = _Run(event)
        start, end = _ns(since), _ns(event.at)
        name, own, context, attributes = _describe(event, run, start)
        if not own:
            return
        links = _links(event, submitter) if event.kind is _RUN_ENDED else ()
        with self._lock:
            self._ids.trace_id, self._ids.span_id = run.trace_id, own
            span = tracer.start_span(name, context, attributes=attributes, links=links, start_time=start)
        if _has_failed(event):
            span.set_status(trace.Status(trace.StatusCode.ERROR, event.error))
        span.end(max(start, end))

    def _find_tracer(self) -> trace.Tracer | None:
        provider = trace.get_tracer_provider()
        if not self._refused and not isinstance(provider, trace.ProxyTracerProvider):
            self._use(provider)
            if self._refused:
                message = "bide.otel makes no spans: %r is no TracerProvider of the OpenTelemetry SDK"
                logging.getLogger("bide").warning(message, provider)
        return self._tracer

    def _use(self, provider: trace.TracerProvider) -> None:
        """Take a tracer of the provider that gives spans our ids. A provider that is off has one without ids."""
        # A copy, because the provider gives the same tracer to all who ask by this name.
        tracer: Any = copy.copy(provider.get_tracer(_SCOPE, __version__))
        if hasattr(tracer, "id_generator") and hasattr(tracer, "sampler"):
            tracer.id_generator, tracer.sampler = self._ids, _Sampler(tracer.sampler)
        elif not isinstance(tracer, trace.NoOpTracer):
            self._refused = True
            return
        self._tracer = tracer


class _Run:
    """What the spans of a run have in common. Most events are of the same run as the one before."""

    def __init__(self, event: RunEvent | None) -> None:
        self.id = self.workflow = ""
        self.trace_id = self.root = 0
        if event is not None:
            self.id, self.workflow = event.run, event.workflow
            self.trace_id, self.root = UUID(event.run).int, span_id(event.run)
        self.context = _below(self.trace_id, self.root)


def _describe(event: RunEvent, run: _Run, start: int) -> tuple[str, int, Context, dict[str, str | int]]:
    """Return the name of a span, its id, its parent and its attributes; no id if nothing was executed."""
    attributes: dict[str, str | int] = {"bide.run.id": run.id, "bide.workflow.name": run.workflow}
    if event.kind is _RUN_ENDED:
        if event.version is not None:
            attributes["bide.workflow.version"] = event.version
        return run.workflow, run.root, Context(), attributes
    task, attempt = event.task or "", event.attempt
    attributes["bide.task.name"] = task
    above, own = run.context, 0
    if attempt:
        attributes["bide.task.attempt"] = attempt
        own = span_id(f"{run.id} {attempt} {task}")
    if event.wait is None:
        return task, own, above, attributes
    if event.wait_kind is not None:
        attributes["bide.wait.kind"] = str(event.wait_kind)
    if event.polls is not None:
        attributes["bide.wait.polls"] = event.polls
    attributes["bide.wait.name"] = event.wait
    if own:  # else it is a gate, before the first attempt
        above = _below(run.trace_id, own)
    wait = f"{run.id} wait {attempt} {event.use} {start} {len(task)} {task} {event.wait}"
    return event.wait, span_id(wait), above, attributes


def _below(trace_id: int, parent: int) -> Context:
    above = trace.SpanContext(trace_id, parent, is_remote=False, trace_flags=_SAMPLED)
    return trace.set_span_in_context(trace.NonRecordingSpan(above), Context())


class _Ids:
    """Gives a span the ids that were set before: the id generator of our tracer."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id

    def is_trace_id_random(self) -> bool:
        """Return False: the first half of a run's id is the time."""
        return False


class _Sampler:
    """Decides by the sampler of the provider, for each span as for the first of its trace.

    A span's parent ends after it, so that it is not there to be asked. A sampler of a share of all traces compares the
    second half of the trace id, of which two bits are the same in every UUID: it gets a digest instead, the same for
    all spans of a run in every process.
    """

    def __init__(self, sampler: Any) -> None:  # noqa: ANN401 - that of the SDK, which is not imported here
        self._sampler = sampler
        self._no_parent = Context()
        self._last = 0, 0

    def should_sample(self, _parent: object, trace_id: int, *rest: Any, **named: Any) -> Any:  # noqa: ANN401 - as above
        known, digest = self._last
        if known != trace_id:
            hashed = hashlib.blake2b(trace_id.to_bytes(16, "big"), digest_size=16).digest()
            digest = int.from_bytes(hashed, "big")
            self._last = trace_id, digest
        return self._sampler.should_sample(self._no_parent, digest, *rest, **named)

    def get_description(self) -> str:
        return f"bide({self._sampler.get_description()})"


class _Metrics:
    """The instruments, and what an event adds to them."""

    def __init__(self, provider: metrics.MeterProvider | None) -> None:
        meter = metrics.get_meter(_SCOPE, __version__, provider)
        self._open = meter.create_up_down_counter(
            "bide.wait.open", "{wait}", "Waits that this process has opened, less those that it has closed"
        )
        self._lateness = meter.create_histogram(
            "bide.wait.lateness", "s", "How long after its time a wait for a time, or a timeout, ended"
        )
        self._wait = meter.create_histogram("bide.wait.duration", "s", "How long waits were open")
        self._run = meter.create_histogram("bide.run.duration", "s", "How long runs took, from their creation")
        self._commit = meter.create_histogram("bide.commit.duration", "s", "How long the store took for a commit")
        self._runners: list[_core.Runner] = []
        slots = "Slots of runners in which a body executes"
        meter.create_observable_up_down_counter("bide.slot.used", [self._slots], "{slot}", slots)

    def serve(self, runner: _core.Runner) -> Callable[[float], None]:
        """Show a runner's slots from here on, and return what records its commits."""
        self._runners = [*(known for known in self._runners if not known.closed), runner]
        return self._commit.record

    def _slots(self, _options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        used: Counter[str] = Counter(thread=0, coroutine=0)
        for runner in self._runners:
            if not runner.closed:
                used.update(runner.metrics()["bide.slot.used"])
        for kind, count in used.items():
            yield metrics.Observation(count, {"bide.slot.kind": kind})

    def take(self, event: RunEvent) -> None:
        attributes = {"bide.workflow.name": event.workflow}
        kind, seconds = event.kind, 0.0
        if event.since is not None:
            seconds = max((event.at - event.since).total_seconds(), 0.0)
        if kind is _RUN_ENDED and event.status is not _PAUSED:
            self._run.record(seconds, attributes)
        elif event.wait_kind is not None and kind is not _STEP_ENDED:
            attributes["bide.wait.kind"] = str(event.wait_kind)
            if kind is _WAIT_OPENED:
                self._open.add(1, attributes)
                return
            self._open.add(-1, attributes)
            self._wait.record(seconds, attributes)
            if event.until is not None:
                self._lateness.record(max((event.at - event.until).total_seconds(), 0.0), attributes)


def span_id(of: str) -> int:
    """Return the id of the span of this: the same in every process."""
    return int.from_bytes(hashlib.blake2b(of.encode(), digest_size=8).digest(), "big") or 1


def _links(event: RunEvent, submitter: contextvars.Context | None) -> list[trace.Link]:
    found = []
    if submitter is not None:
        span = submitter.run(trace.get_current_span).get_span_context()
        if span.is_valid:
            found.append(trace.Link(span))
    if event.parent is not None:
        above = trace.SpanContext(UUID(event.parent).int, span_id(event.parent), is_remote=False, trace_flags=_SAMPLED)
        found.append(trace.Link(above))
    return found


def _has_failed(event: RunEvent) -> bool:
    failed = event.status is _TASK_FAILED or event.status is _RUN_FAILED
    return failed or event.outcome == "failed" or event.kind is _RETRY


def _ns(at: datetime) -> int:
    """Return the nanoseconds since 1970 of a time that is known to the microsecond."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000
