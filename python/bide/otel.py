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
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

from bide import __version__, _core
from bide._errors import DefinitionError
from bide._observe import EPOCH, RunEvent, RunEventKind, context_of, dated, event_of
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

# Read once: to look a member up takes longer than what else is done with it for each span.
_TASK_ENDED: Final = RunEventKind.TaskEnded.value
_FAILED: Final = TaskStatus.Failed.value
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
        self._run = _Run("", "")
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

    def _take(self, event: tuple[Any, ...]) -> None:
        """Take an event as the extension says it. Most are ends of tasks: of these no object is made."""
        kind, run, workflow, _, task, attempt, status, _, _, at, error, rest = event
        since = rest[1]
        if kind != _TASK_ENDED or since is None:
            self._with_context(event_of(dated(event)), context_of(event))
        elif attempt:
            known = self._run_of(run, workflow)
            own, attributes = known.of_attempt(task, attempt)
            failed = _error(error) if status == _FAILED else None
            self._make(known, own, (task, known.context, attributes), (since, at), failed)

    def _with_context(self, event: RunEvent, submitter: contextvars.Context | None) -> None:
        """Take an event; `submitter` are the contextvars with which the run was submitted, if it was here."""
        if event.wait_kind is not None or event.kind is _RUN_ENDED:
            self._metrics.take(event)
        if event.since is None or event.status is _PAUSED:
            return
        run = self._run_of(event.run, event.workflow)
        times = _micros(event.since), _micros(event.at)
        own, what = _describe(event, run, times[0])
        if own:
            links = _links(event, submitter) if event.kind is _RUN_ENDED else []
            self._make(run, own, what, times, _error(event.error) if _has_failed(event) else None, links)

    def _run_of(self, run: str, workflow: str) -> "_Run":
        if self._run.id != run:
            self._run = _Run(run, workflow)
        return self._run

    def _make(
        self,
        run: "_Run",
        own: int,
        what: "_What",
        times: tuple[int, int],
        failed: trace.Status | None,
        links: Sequence[trace.Link] = (),
    ) -> None:
        """Make a span with this id, between times in microseconds since 1970."""
        tracer = self._tracer or self._find_tracer()
        if tracer is None:
            return
        name, above, attributes = what
        start, end = times
        with self._lock:
            self._ids.trace_id, self._ids.span_id = run.trace_id, own
            span = tracer.start_span(name, above, attributes=attributes, links=links, start_time=start * 1_000)
        if failed is not None:
            span.set_status(failed)
        span.end(max(start, end) * 1_000)

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


_What: TypeAlias = tuple[str, Context, dict[str, str | int]]
"""The name of a span, its parent and its attributes."""


class _Run:
    """What the spans of a run have in common. Most events are of the same run as the one before."""

    def __init__(self, run: str, workflow: str) -> None:
        self.id, self.workflow = run, workflow
        self.trace_id, self.root = (UUID(run).int, span_id(run)) if run else (0, 0)
        self.context = _below(self.trace_id, self.root)
        self._ids = hashlib.blake2b(f"{run} ".encode(), digest_size=8)

    def of_attempt(self, task: str, attempt: int) -> tuple[int, dict[str, str | int]]:
        """Return the id of the span of an attempt, which is that of `f"{run} {attempt} {task}"`, and its attributes."""
        digest = self._ids.copy()
        digest.update(f"{attempt} {task}".encode())
        return int.from_bytes(digest.digest(), "big") or 1, {
            "bide.run.id": self.id,
            "bide.workflow.name": self.workflow,
            "bide.task.name": task,
            "bide.task.attempt": attempt,
        }


def _describe(event: RunEvent, run: _Run, start: int) -> tuple[int, _What]:
    """Return the id of a span and what it is; no id if nothing was executed."""
    attributes: dict[str, str | int] = {"bide.run.id": run.id, "bide.workflow.name": run.workflow}
    if event.kind is _RUN_ENDED:
        if event.version is not None:
            attributes["bide.workflow.version"] = event.version
        return run.root, (run.workflow, Context(), attributes)
    task, attempt = event.task or "", event.attempt
    own = 0
    if attempt:
        own, attributes = run.of_attempt(task, attempt)
    else:
        attributes["bide.task.name"] = task
    if event.wait is None:
        return own, (task, run.context, attributes)
    if event.wait_kind is not None:
        attributes["bide.wait.kind"] = str(event.wait_kind)
    if event.polls is not None:
        attributes["bide.wait.polls"] = event.polls
    attributes["bide.wait.name"] = event.wait
    # Without an attempt it is a gate, before the first one.
    above = _below(run.trace_id, own) if own else run.context
    wait = f"{run.id} wait {attempt} {event.use} {start * 1_000} {len(task)} {task} {event.wait}"
    return span_id(wait), (event.wait, above, attributes)


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

    def should_sample(
        self,
        _parent: object,
        trace_id: int,
        name: str,
        kind: Any = None,  # noqa: ANN401 - passed on
        attributes: Any = None,  # noqa: ANN401 - passed on
        links: Any = None,  # noqa: ANN401 - passed on
        **more: Any,  # noqa: ANN401 - passed on
    ) -> Any:  # noqa: ANN401 - as above
        known, digest = self._last
        if known != trace_id:
            hashed = hashlib.blake2b(trace_id.to_bytes(16, "big"), digest_size=16).digest()
            digest = int.from_bytes(hashed, "big")
            self._last = trace_id, digest
        return self._sampler.should_sample(self._no_parent, digest, name, kind, attributes, links, **more)

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


def _error(text: str | None) -> trace.Status:
    return trace.Status(trace.StatusCode.ERROR, text)


def _micros(at: datetime) -> int:
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
