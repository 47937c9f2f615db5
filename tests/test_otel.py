"""`bide.otel`: one trace for a run, whichever processes execute it, and no span twice."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import bide
import bide.testing
from processes import eventually

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, TraceIdRatioBased

from bide.otel import Telemetry

GO = bide.signal("go")


def traced(sampler: Sampler | None = None) -> tuple[TracerProvider, InMemorySpanExporter]:
    provider, exporter = TracerProvider(sampler=sampler, shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def spans_of(exporter: InMemorySpanExporter, run: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if context(span).trace_id == UUID(run).int]


def context(span: ReadableSpan) -> trace.SpanContext:
    found: trace.SpanContext | None = span.context
    assert found is not None
    return found


def test_a_run_is_a_tree_of_spans_with_the_recorded_times(store: str) -> None:
    provider, exporter = traced()
    tries = []

    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    def flaky() -> None:
        tries.append(1)
        if len(tries) == 1:
            msg = "no network"
            raise OSError(msg)

    def fetch() -> int:
        return 1

    @bide.task
    def works(flaky: None, handle: bide.TaskHandle) -> int:
        handle.sleep(0.01, name="nap")
        return handle.step(fetch, name="fetch")

    with bide.Runner(store, on_event=Telemetry(provider)) as runner:
        result = runner.run(bide.Workflow("w", [flaky, works]))
        eventually(lambda: len(exporter.get_finished_spans()) == 6, "all spans are there")
    spans = spans_of(exporter, result.id)
    by_id = {context(span).span_id: span for span in spans}
    assert len(by_id) == len(spans) == 6
    tree = Counter((span.name, by_id[span.parent.span_id].name if span.parent else None) for span in spans)
    assert tree == {("w", None): 1, ("flaky", "w"): 2, ("works", "w"): 1, ("nap", "works"): 1, ("fetch", "works"): 1}
    failed = [span for span in spans if not span.status.is_unset]
    assert [(span.name, span.status.description) for span in failed] == [("flaky", "OSError: no network")]
    by_name: dict[str, Any] = {span.name: span for span in spans}
    assert dict(by_name["nap"].attributes) == {
        "bide.run.id": result.id,
        "bide.workflow.name": "w",
        "bide.task.name": "works",
        "bide.task.attempt": 1,
        "bide.wait.kind": "time",
        "bide.wait.name": "nap",
    }
    assert by_name["w"].attributes["bide.workflow.version"]
    for name in ("nap", "fetch"):
        assert by_name["works"].start_time <= by_name[name].start_time <= by_name[name].end_time
        assert by_name[name].end_time <= by_name["works"].end_time <= by_name["w"].end_time


def test_spans_of_steps_and_waits_have_their_exact_length() -> None:
    provider, exporter = traced()
    with bide.testing.Runner(auto_advance=True, on_event=Telemetry(provider)) as runner:

        def slow() -> None:
            runner.clock.advance(5, executing=True)

        @bide.task
        def works(handle: bide.TaskHandle) -> None:
            handle.step(slow, name="slow")
            handle.sleep(60, name="nap")

        runner.run(bide.Workflow("w", [works]))
        eventually(lambda: len(exporter.get_finished_spans()) == 4, "all spans are there")
    took = {span.name: (span.end_time or 0) - (span.start_time or 0) for span in exporter.get_finished_spans()}
    second = 1_000_000_000
    assert took == {"slow": 5 * second, "nap": 60 * second, "works": 65 * second, "w": 65 * second}


def test_a_run_links_to_its_submitter_and_its_parent_run(store: str) -> None:
    provider, exporter = traced()

    @bide.task
    def leaf() -> int:
        return 1

    child = bide.Workflow("child", [leaf])

    @bide.task
    def starts(handle: bide.TaskHandle) -> None:
        handle.run(child)

    with bide.Runner(store, workflows=[child], on_event=Telemetry(provider)) as runner:
        with provider.get_tracer("test").start_as_current_span("web request") as request:
            above = runner.run(bide.Workflow("above", [starts]))
        eventually(lambda: len(exporter.get_finished_spans()) == 6, "all spans are there")
    by_name = {span.name: span for span in exporter.get_finished_spans()}
    links = [link.context for link in by_name["above"].links]
    assert links == [request.get_span_context()]
    linked = {(link.context.trace_id, link.context.span_id) for link in by_name["child"].links}
    assert (UUID(above.id).int, context(by_name["above"]).span_id) in linked
    assert context(by_name["child"]).trace_id != UUID(above.id).int


@pytest.mark.parametrize("sampler", [TraceIdRatioBased(0.5), ParentBased(TraceIdRatioBased(0.5))])
def test_a_share_of_runs_is_sampled_whole(sampler: Sampler) -> None:
    provider, exporter = traced(sampler)

    @bide.task
    def one() -> int:
        return 1

    telemetry, seen = Telemetry(provider), []

    def on_event(event: bide.RunEvent) -> None:
        telemetry(event)
        seen.append(event)

    with bide.Runner(":memory:", on_event=on_event) as runner:
        runner.submit_many(bide.Workflow("w", [one]), [None] * 200)
        eventually(lambda: len(seen) == 400, "all events have come")
    spans = Counter(context(span).trace_id for span in exporter.get_finished_spans())
    assert set(spans.values()) == {2}
    assert 50 < len(spans) < 150


def test_no_span_is_made_if_the_sampler_refuses_all() -> None:
    provider, exporter = traced(ALWAYS_OFF)
    telemetry, seen = Telemetry(provider), []

    def on_event(event: bide.RunEvent) -> None:
        telemetry(event)
        seen.append(event)

    @bide.task
    def one() -> int:
        return 1

    with bide.Runner(":memory:", on_event=on_event) as runner:
        runner.run(bide.Workflow("w", [one]))
        eventually(lambda: len(seen) == 2, "all events have come")
    assert exporter.get_finished_spans() == ()


def test_a_provider_that_is_none_of_the_sdk_is_refused() -> None:
    with pytest.raises(bide.DefinitionError, match="needs a TracerProvider of the OpenTelemetry SDK"):
        Telemetry(trace.ProxyTracerProvider())


def test_metrics_count_waits_and_runs_in_seconds(store: str) -> None:
    reader = InMemoryMetricReader()

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        handle.sleep(0.01)
        handle.wait(GO)

    meters = MeterProvider([reader], shutdown_on_exit=False)
    with bide.Runner(store, on_event=Telemetry(traced()[0], meters)) as runner:
        handle = runner.submit(bide.Workflow("w", [waits]))
        eventually(lambda: points(reader).get("bide.wait.open signal"), "the signal is awaited")
        handle.signal(GO)
        handle.result(timeout=30)
        eventually(lambda: "bide.run.duration" in points(reader), "the end of the run has come")
    found = points(reader)
    assert (found["bide.wait.open time"].value, found["bide.wait.open signal"].value) == (0, 0)
    assert 0 < found["bide.wait.duration time"].sum <= found["bide.run.duration"].sum
    assert found["bide.wait.lateness time"].count == found["bide.wait.duration signal"].count == 1
    assert found["bide.run.duration"].sum >= 0.01
    assert "bide.wait.lateness signal" not in found


def test_a_wait_that_is_over_at_once_was_opened_and_closed(store: str) -> None:
    reader = InMemoryMetricReader()

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        handle.wait(GO)
        handle.defer_until(lambda: True)

    meters = MeterProvider([reader], shutdown_on_exit=False)
    with bide.Runner(store, on_event=Telemetry(traced()[0], meters)) as runner:
        handle = runner.submit(bide.Workflow("w", [waits], signals=[GO]), start_after=0.05)
        handle.signal(GO)
        handle.result(timeout=30)
        eventually(lambda: "bide.run.duration" in points(reader), "the end of the run has come")
    found = points(reader)
    assert (found["bide.wait.open signal"].value, found["bide.wait.open condition"].value) == (0, 0)


def test_the_span_of_a_condition_says_how_often_it_was_asked(store: str) -> None:
    provider, exporter = traced()
    gate, body = iter([False, True]), iter([False, False, False, True])

    @bide.task(gate=bide.until(lambda: next(gate), every=0.01, name="gate"))
    def waits(handle: bide.TaskHandle) -> None:
        handle.defer_until(lambda: next(body), 10, name="body")
        handle.wait_any(bide.until(lambda: True, name="at once"), bide.after(30))
        handle.sleep(0.01, name="nap")

    with bide.Runner(store, on_event=Telemetry(provider)) as runner:
        runner.run(bide.Workflow("w", [waits]))
        eventually(lambda: len(exporter.get_finished_spans()) == 8, "all spans are there")
    polls = {span.name: (span.attributes or {}).get("bide.wait.polls") for span in exporter.get_finished_spans()}
    assert polls == {
        "gate": 2,
        "body": 4,
        "at once": 1,
        "any(at once, after)": None,
        "after": None,
        "nap": None,
        "waits": None,
        "w": None,
    }


def test_metrics_show_the_slots_that_are_used_and_how_long_commits_take(file: Path) -> None:
    reader, entered, leave = InMemoryMetricReader(), threading.Event(), threading.Event()

    @bide.task
    def holds() -> None:
        entered.set()
        assert leave.wait(30)

    telemetry = Telemetry(traced()[0], MeterProvider([reader], shutdown_on_exit=False))
    with bide.Runner(file, on_event=telemetry) as first, bide.Runner(":memory:", on_event=telemetry) as second:
        handles = [runner.submit(bide.Workflow("w", [holds])) for runner in (first, second)]
        assert entered.wait(30)
        eventually(lambda: slots(reader) == {"thread": 2, "coroutine": 0}, "a slot of each is used")
        leave.set()
        for handle in handles:
            handle.result()
        eventually(lambda: slots(reader) == {"thread": 0, "coroutine": 0}, "all are free")
        # The creation of the run, and its end; that of a store in memory takes no time.
        eventually(lambda: points(reader)["bide.commit.duration"].count >= 2, "the commits have come")
        assert points(reader)["bide.commit.duration"].count <= first.metrics()["bide.commit.duration"]["count"]
        assert points(reader)["bide.commit.duration"].sum > 0
    assert slots(reader) == {"thread": 0, "coroutine": 0}


def slots(reader: InMemoryMetricReader) -> dict[str, int]:
    found = points(reader)
    return {kind: found[f"bide.slot.used {kind}"].value for kind in ("thread", "coroutine")}


def points(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    scopes = [scope for one in (data.resource_metrics if data else []) for scope in one.scope_metrics]
    found: Sequence[tuple[str, Any]] = [
        (
            " ".join(
                [metric.name, *(str(value) for name, value in (point.attributes or {}).items() if "kind" in name)]
            ),
            point,
        )
        for scope in scopes
        for metric in scope.metrics
        for point in metric.data.data_points
    ]
    return dict(found)


CHILD = """
import json, os, signal, sys
import bide
import bide.testing
from bide.otel import Telemetry
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

file, out, dies = sys.argv[1], sys.argv[2], sys.argv[3] == "dies"

class File(SpanExporter):
    def export(self, spans):
        with open(out, "a") as lines:
            for span in spans:
                parent = None if span.parent is None else span.parent.span_id
                line = [span.context.trace_id, span.context.span_id, parent, span.name]
                lines.write(json.dumps(line) + "\\n")
        return SpanExportResult.SUCCESS

def fetch():
    return 1

def leave():
    while "fetch" not in open(out).read():
        pass
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2

@bide.task
def before():
    return 1

@bide.task
def works(before: int, handle: bide.TaskHandle):
    handle.sleep(0.01, name="nap")
    handle.step(fetch, name="fetch")
    return handle.step(leave, name="leave")

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(File()))
with bide.Runner(file, on_event=Telemetry(provider)) as runner:
    print(runner.run(bide.Workflow("w", [before, works]), key="k").id)
"""


def test_a_run_that_outlives_its_process_is_one_trace_without_a_span_twice(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "spans"
    out.touch()

    def execute(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CHILD, str(file), str(out), how]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert execute("dies").returncode < 0
    killed = [json.loads(line) for line in out.read_text().splitlines()]
    assert {name for *_, name in killed} == {"before", "nap", "fetch"}
    done = execute("lives")
    assert done.returncode == 0, done.stderr
    spans = [json.loads(line) for line in out.read_text().splitlines()]
    assert {trace_id for trace_id, *_ in spans} == {UUID(done.stdout.strip()).int}
    names = {span: name for _, span, _, name in spans}
    assert len(names) == len(spans)
    tree = sorted((name, names.get(parent, "")) for _, _, parent, name in spans)
    inner = [(name, "works") for name in ("fetch", "leave", "nap")]
    assert tree == sorted([("before", "w"), *inner, ("w", ""), ("works", "w")])
