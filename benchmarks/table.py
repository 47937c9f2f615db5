"""The table: its rows, the figures that must be reached, and its format. Runs no measurement."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import measure

BASELINE = "asyncio.TaskGroup"
MEMORY, NORMAL, FULL = "bide memory", "bide SQLite NORMAL", "bide SQLite FULL"
THREADS = "ThreadPoolExecutor(4)"
DBOS, SAYIIR = "DBOS SQLite FULL", "sayiir memory, checkpoints"
BUSY = "busy:"


@dataclass(frozen=True)
class Metric:
    """One line of the table."""

    key: str
    title: str
    unit: str
    digits: int = 0
    ratio: bool = True
    """Whether a ratio to the baseline is meaningful."""


def _costs(key: str, where: str) -> list[Metric]:
    return [
        Metric(f"{key}_single", f"cost of a run {where}, in turn", "µs", 1, ratio=False),
        Metric(f"{key}_single_growth", "by the same without them", "", 2, ratio=False),
        Metric(f"{key}_many", f"cost of a run {where}, submitted together", "µs", 1, ratio=False),
        Metric(f"{key}_many_growth", "by the same without them", "", 2, ratio=False),
    ]


METRICS = {
    "import": [
        Metric("import", "a process that imports the module and ends", "ms", 1, ratio=False),
        Metric("import_growth", "by one that imports asyncio, in turns", "", 2, ratio=False),
        Metric("command", "`bide runs` of an empty store, from its start to its end", "ms", 1, ratio=False),
    ],
    "wide": [
        Metric("wide", f"{measure.WIDE:,} independent no-op tasks", "tasks/s"),
        Metric("register", f"registering a workflow of {measure.WIDE:,} tasks, once", "ms", ratio=False),
    ],
    "wide_async": [Metric("wide_async", f"{measure.WIDE:,} independent no-op coroutines", "tasks/s")],
    "first": [
        Metric("first", f"build, register and first run of {measure.WIDE:,} tasks", "ms", 1, ratio=False),
        Metric("first_growth", "by asyncio.TaskGroup's same, in turns in one process", "", 2, ratio=False),
    ],
    "map": [
        Metric("map", f"a task mapped over {measure.WIDE:,} items", "elements/s"),
        Metric("map_growth", f"by the rate of {measure.WIDE:,} independent tasks, in turns", "", 2, ratio=False),
    ],
    "children": [
        Metric("children", f"{measure.MANY:,} children of one body, awaited together", "runs/s"),
        Metric("children_growth", f"by the rate of {measure.MANY:,} submitted together, in turns", "", 2, ratio=False),
        Metric("children_single", "children of one body, one after the other", "runs/s", ratio=False),
    ],
    "levels": [
        Metric("levels", f"{measure.LEVELS} levels of children on one slot", "ms", 2, ratio=False),
        Metric("levels_growth", "by one run, in turns", "", 1, ratio=False),
    ],
    "tested": [
        Metric("tested_sleeps", f"{measure.SLEPT_DAYS:,} sleeps of a day, under the test clock", "s", 3, ratio=False),
        Metric("tested_sleeps_async", "the same by a coroutine", "s", 3, ratio=False),
        Metric("crash_points", "all crash points of the README's workflow", "s", 3, ratio=False),
    ],
    "growth": [
        Metric("cost_small", f"cost per task, {measure.SMALL:,} tasks", "µs", 2),
        Metric("cost_large", f"cost per task, {measure.LARGE:,} tasks", "µs", 2),
        Metric("growth", "the latter by the former", "", 2, ratio=False),
    ],
    "sleeps": [
        Metric(
            "sleeps",
            f"{measure.SLEEPS} sleeps of {measure.SLEEP_SECONDS} s, 4 slots",
            "s",
            3,
            ratio=False,
        )
    ],
    "chain": [Metric("chain", f"chain of {measure.CHAIN:,} tasks", "hops/s")],
    "single": [Metric("single", "runs of one task, one after the other", "runs/s")],
    "many": [Metric("many", f"{measure.MANY:,} runs of one task, submitted together", "runs/s")],
    "submitters": [Metric("submitters", f"runs of one task, {measure.SUBMITTERS} threads, each in turn", "runs/s")],
    "bare": [
        Metric("bare", "two bare commits of SQLite, in turns with the next two lines", "/s", ratio=False),
        Metric("bare_single", "runs of one task, one after the other, by that", "", 2, ratio=False),
        Metric("bare_many", f"{measure.MANY:,} runs of one task, submitted together, by that", "", 2, ratio=False),
    ],
    "grouped": [
        Metric("grouped", f"runs of one task, {measure.SUBMITTERS} threads and slots", "runs/s", ratio=False),
        Metric("grouped_bare", "by two bare commits of SQLite for each", "", 2, ratio=False),
        Metric(
            "steps", f"{measure.STEPS:,} bodies that record a step, {measure.SUBMITTERS} slots", "steps/s", ratio=False
        ),
        Metric("steps_bare", "by a bare commit of SQLite for each", "", 2, ratio=False),
    ],
    "application": [
        Metric("application", f"runs of one task, {measure.CALLERS} coroutines, each awaits its own", "runs/s"),
        Metric("application_growth", "by asyncio.to_thread of a no-op by the same coroutines", "", 2, ratio=False),
        Metric("tick", "their event loop late meanwhile, p99", "ms", 2, ratio=False),
    ],
    "waiting": [
        Metric("wait_kb", f"{measure.DEFERRED:,} deferred bodies, 1 s poll: memory each", "KB", 1),
        Metric("wait_cpu", f"{measure.DEFERRED:,} deferred bodies: CPU", "% of a core", 1),
        Metric("wait_resume", f"{measure.DEFERRED:,} deferred bodies: until all have ended", "s", 2, ratio=False),
    ],
    "parked": [
        Metric("parked_kb", f"{measure.PARKED:,} deferred bodies, 1 s poll: memory each", "KB", 1),
        Metric("parked_cpu", f"{measure.PARKED:,} deferred bodies: CPU", "% of a core", 1),
        Metric("parked_resume", f"{measure.PARKED:,} deferred bodies: until all have ended", "s", 2, ratio=False),
    ],
    "gates": [
        Metric("gate_kb", f"{measure.GATES:,} gates, 1 s poll: memory each", "KB", 2),
        Metric("gate_cpu", f"{measure.GATES:,} gates: CPU", "% of a core", 1),
        Metric("gate_resume", f"{measure.GATES:,} gates: until all runs have ended", "s", 2, ratio=False),
    ],
    "async_waiting": [
        Metric("async_wait_kb", f"{measure.GATES:,} deferred coroutines, 1 s poll: memory each", "KB", 2),
        Metric("async_wait_cpu", f"{measure.GATES:,} deferred coroutines: CPU", "% of a core", 1),
        Metric(
            "async_wait_resume", f"{measure.GATES:,} deferred coroutines: until all have ended", "s", 2, ratio=False
        ),
    ],
    "signal_gates": [
        Metric("signal_gate_kb", f"{measure.GATES:,} gates that wait for a signal: memory each", "KB", 2),
        Metric("signal_gate_cpu", f"{measure.GATES:,} of them: CPU", "% of a core", 2, ratio=False),
        Metric("signal_gate_commits", "commits meanwhile", "", ratio=False),
        Metric("signal_gate_resume", "all are signalled in one call: until all runs have ended", "s", 2, ratio=False),
    ],
    "signal": [
        Metric("signal", "signal until its body continues, p99", "ms", 2, ratio=False),
        Metric("signal_median", "the same, median", "ms", 2, ratio=False),
        Metric("signal_bare", "bare commit and threading.Event, one by one with that: p99", "ms", 2, ratio=False),
        Metric("signal_growth", "the first by the third", "", 2, ratio=False),
    ],
    "async_signal": [Metric("async_signal", "signal until its coroutine continues, p99", "ms", 2, ratio=False)],
    "cancel": [
        Metric("cancel_gates", f"cancel of {measure.MANY:,} runs: they wait at a gate", "s", 2, ratio=False),
        Metric("cancel_coroutines", "a coroutine of each waits", "s", 2, ratio=False),
        Metric("cancel_parked", "a plain function of each is parked", "s", 2, ratio=False),
    ],
    "signal_elsewhere": [
        Metric("signal_elsewhere", "signal of another process until its body continues, p99", "ms", 2, ratio=False),
        Metric("signal_elsewhere_bare", "its bare commit, found by polling each ms, p99", "ms", 2, ratio=False),
    ],
    "signals": [
        Metric("signals", "signals to one run, one after the other", "signals/s", ratio=False),
        Metric("signals_bare", "by bare commits of SQLite, in turns", "", 2, ratio=False),
        Metric("signals_many", f"{measure.MANY:,} signals in one call", "signals/s", ratio=False),
    ],
    "received": [
        Metric("received", "signals sent one after the other, and then received so", "signals/s", ratio=False),
        Metric("received_bare", "by two bare commits of SQLite for each, in turns", "", 2, ratio=False),
        Metric("bare_commits", "these bare commits", "/s", ratio=False),
        Metric(
            "received_many", f"{measure.MANY:,} signals in one call, received by one wait", "signals/s", ratio=False
        ),
    ],
    "latency": [
        Metric(
            "latency",
            f"a no-op run beside {measure.DEFERRED:,} deferred, 1 slot",
            "ms",
            2,
            ratio=False,
        )
    ],
    "late": [
        Metric(
            "late",
            f"wake-up late beyond its poll, p99, {measure.LATE_BODIES} deferred",
            "ms",
            2,
            ratio=False,
        )
    ],
    "resume": [
        Metric(
            "resume",
            f"wait that its first poll ends, {measure.RESUME_POLL_SECONDS * 1e3:.0f} ms: longer than the poll, p99",
            "ms",
            2,
            ratio=False,
        )
    ],
    "behind": [
        Metric("behind", "result before a long body, 1 slot: readable elsewhere after, p99", "ms", 2, ratio=False)
    ],
    "emit": [Metric("emit", f"one body emits {measure.EMITTED:,} integers, until all are committed", "events/s")],
    "traced": [
        Metric("traced", f"{measure.WIDE:,} independent no-op tasks, traced by OpenTelemetry", "tasks/s", ratio=False),
        Metric(
            "traced_growth", "time of that by the same untraced and the same spans made bare, added", "", 2, ratio=False
        ),
    ],
    "follow": [
        Metric("follow", "an event of a body, seen by a follower in another process: p99", "ms", 1, ratio=False)
    ],
    "elsewhere": [
        Metric("elsewhere", "end of a run: a caller in another process has its result after, p99", "ms", 2, ratio=False)
    ],
    "take_over": [
        Metric("take_over", "SIGKILL: another process enters the body again after, p99", "ms", 2, ratio=False)
    ],
    "why": [
        Metric("why", f"what holds a run of {measure.WIDE:,} tasks, none of which has ended", "ms", 1, ratio=False),
        Metric("why_client", "the same by a client, from its rows", "ms", 1, ratio=False),
    ],
    "open_waits": [
        Metric("open_waits", f"the first page of {measure.GATES:,} open waits", "ms", 2, ratio=False),
        Metric("open_waits_last", "the last page", "ms", 2, ratio=False),
    ],
    "schedules": [
        Metric("schedules_cpu", "10,000 schedules of which none is due, of a core", "%", 2, ratio=False),
        Metric("schedules_late_p50", "the run of a tick beside them: its lateness, median", "ms", 2, ratio=False),
        Metric("schedules_late_p99", "the same, p99", "ms", 2, ratio=False),
    ],
    "limits": [
        Metric("limits", "runs through a limit of 100 in flight", "runs/s", ratio=False),
        Metric("limits_free", "by those without a limit, in turns", "", 2, ratio=False),
    ],
    "rate": [
        Metric("rate", "a rate of 1,000 in a second: bodies that start, over ten seconds", "/s", 1, ratio=False),
        Metric("rate_worst", "the most in any second", "", ratio=False),
    ],
    "processes": [
        Metric(
            "processes", "CPU-bound bodies in two child processes, by the same calls on one thread", "", 2, ratio=False
        ),
        Metric("processes_calls", "2,000 no-op bodies in two child processes", "calls/s", ratio=False),
        Metric("processes_calls_growth", "by a ProcessPoolExecutor(2), in turns", "", 2, ratio=False),
    ],
    "unfinished": _costs("unfinished", f"beside {measure.UNFINISHED:,} unfinished"),
    "million": [
        *_costs("million", f"after {measure.ENDED:,} ended"),
        Metric("million_mb", f"resident memory after {measure.ENDED:,} runs", "MB", ratio=False),
        Metric("million_mb_growth", f"by that after {measure.ENDED_EARLY:,}", "", 2, ratio=False),
        Metric("million_tag", f"{measure.PAGE} older runs listed by a tag", "ms", 2, ratio=False),
        Metric("million_failed", f"{measure.PAGE} others, which have failed, by their status", "ms", 2, ratio=False),
        Metric("million_running", f"{measure.PAGE} others, which wait, by their status", "ms", 2, ratio=False),
        Metric("million_key", "the first ones, by the beginning of their keys", "ms", 2, ratio=False),
    ],
    "workflows": [
        *_costs("workflows", f"beside {measure.WORKFLOWS:,} workflows"),
        Metric("workflows_register", f"registering {measure.REGISTERED:,} workflows, the last hundred, each", "µs"),
        Metric("workflows_register_growth", "by the first hundred, in turns", "", 2, ratio=False),
    ],
    "idle": [
        Metric(
            "idle_cpu", f"idle with {measure.WORKFLOWS:,} workflows, another process commits: CPU", "%", 2, ratio=False
        )
    ],
}
"""By row, which one process measures: the lines of the table that it gives."""

BUSY_ROWS = ("wide", "chain", "single", "many", "waiting", "latency", "late")
"""The rows that are also measured beside a busy Python thread."""

ONCE_ROWS = ("parked", "async_waiting", "unfinished", "million")
"""The slow rows, which are not repeated."""


@dataclass(frozen=True)
class Goal:
    """A figure that must be reached."""

    key: str
    subject: str
    least: float | None = None
    most: float | None = None
    against: str | None = None
    """The subject to whose value of the same metric `least` and `most` are relative; None if they are absolute."""


GOALS = (
    Goal("import_growth", MEMORY, most=1.0),
    Goal("command", MEMORY, most=150),
    Goal("wide", MEMORY, least=5.0, against=BASELINE),
    Goal("wide", NORMAL, least=2.0, against=BASELINE),
    Goal("wide", NORMAL, least=5.0, against=THREADS),
    Goal("wide", FULL, least=200, against=DBOS),
    Goal("wide_async", MEMORY, least=4.0, against=BASELINE),
    Goal("wide_async", NORMAL, least=1.8, against=BASELINE),
    Goal("map_growth", NORMAL, least=0.8),
    Goal("children_growth", NORMAL, least=0.5),
    Goal("children", FULL, least=50, against=DBOS),
    Goal("children_single", FULL, least=10, against=DBOS),
    Goal("levels_growth", NORMAL, most=20),
    Goal("tested_sleeps", MEMORY, most=0.5),
    Goal("tested_sleeps_async", MEMORY, most=0.5),
    Goal("crash_points", MEMORY, most=2.0),
    Goal("first_growth", MEMORY, most=2.0),
    Goal("first_growth", NORMAL, most=3.0),
    Goal("chain", MEMORY, least=8.0, against=SAYIIR),
    Goal("chain", FULL, least=12, against=DBOS),
    Goal("chain", NORMAL, least=140, against=DBOS),
    Goal("single", NORMAL, least=60, against=DBOS),
    Goal("many", NORMAL, least=400, against=DBOS),
    Goal("bare_single", NORMAL, least=0.5),
    Goal("bare_many", NORMAL, least=3.0),
    Goal("grouped_bare", FULL, least=4.0),
    Goal("steps_bare", FULL, least=4.0),
    Goal("signal_gate_cpu", NORMAL, most=0.5),
    Goal("signal_gate_commits", NORMAL, most=0),
    Goal("signal_growth", NORMAL, most=3),
    Goal("signal", NORMAL, most=1),
    Goal("async_signal", NORMAL, most=1),
    Goal("async_wait_kb", MEMORY, most=1.0, against=BASELINE),
    Goal("async_wait_kb", NORMAL, most=1.0, against=BASELINE),
    Goal("async_wait_cpu", MEMORY, most=0.33, against=BASELINE),
    Goal("async_wait_cpu", NORMAL, most=0.33, against=BASELINE),
    Goal("cancel_gates", NORMAL, most=1),
    Goal("cancel_coroutines", NORMAL, most=1.5),
    Goal("cancel_parked", NORMAL, most=3),
    Goal("application_growth", NORMAL, least=0.5),
    Goal("tick", NORMAL, most=1.5),
    Goal("signal_elsewhere", NORMAL, most=5),
    Goal("signals_bare", NORMAL, least=0.5),
    Goal("signals_many", NORMAL, least=100_000),
    Goal("received", FULL, least=10, against=DBOS),
    Goal("received_many", FULL, least=50, against=DBOS),
    Goal("gate_kb", NORMAL, most=0.5, against=BASELINE),
    Goal("gate_cpu", NORMAL, most=0.05, against=BASELINE),
    Goal("parked_kb", MEMORY, most=1.1, against=THREADS),
    Goal("parked_kb", NORMAL, most=1.1, against=THREADS),
    Goal("parked_resume", MEMORY, most=1.5),
    Goal("parked_resume", NORMAL, most=1.5),
    Goal("resume", MEMORY, most=0.3),
    Goal("resume", NORMAL, most=0.3),
    Goal("behind", NORMAL, most=5),
    Goal("emit", MEMORY, least=200_000),
    Goal("emit", NORMAL, least=200_000),
    Goal("emit", FULL, least=50, against=DBOS),
    *(Goal("traced_growth", subject, most=1.3) for subject in (MEMORY, NORMAL)),
    Goal("follow", NORMAL, most=60),
    Goal("elsewhere", NORMAL, most=5),
    Goal("take_over", NORMAL, most=10),
    *(Goal("schedules_cpu", subject, most=0.5) for subject in (MEMORY, NORMAL)),
    *(Goal("schedules_late_p99", subject, most=20) for subject in (MEMORY, NORMAL)),
    Goal("limits_free", NORMAL, least=0.7),
    *(Goal("processes", subject, least=1.8) for subject in (MEMORY, NORMAL)),
    *(Goal("rate", subject, least=990) for subject in (MEMORY, NORMAL)),
    *(Goal("rate_worst", subject, most=1000) for subject in (MEMORY, NORMAL)),
    *(
        Goal(key, subject, most=50)
        for key in ("why", "why_client", "open_waits", "open_waits_last")
        for subject in (MEMORY, NORMAL)
    ),
    *(
        Goal(key, subject, most=1.3)
        for key in (
            "growth",
            "unfinished_single_growth",
            "unfinished_many_growth",
            "million_single_growth",
            "million_many_growth",
            "workflows_single_growth",
            "workflows_many_growth",
            "workflows_register_growth",
        )
        for subject in (MEMORY, NORMAL)
    ),
    Goal("million_mb_growth", MEMORY, most=1.1),
    Goal("million_mb_growth", NORMAL, most=1.1),
    *(Goal(f"million_{key}", NORMAL, most=100) for key in ("tag", "failed", "running", "key")),
    Goal("idle_cpu", NORMAL, most=1.0),
    Goal("sleeps", MEMORY, most=0.4),
    Goal("sleeps", NORMAL, most=0.4),
    Goal("chain", NORMAL, least=20_000),
    Goal("single", NORMAL, least=4_000),
    Goal("latency", NORMAL, most=50),
    Goal("late", NORMAL, most=5),
)

Samples = dict[str, dict[str, list[float]]]
"""By subject and metric (with the prefix `BUSY` beside a busy thread): one value for each repetition."""


def median(samples: Samples, subject: str, key: str) -> float | None:
    """Return the median of the repetitions, if there are any."""
    values = samples.get(subject, {}).get(key)
    return statistics.median(values) if values else None


def lines(rows: Sequence[str]) -> list[tuple[str, Metric]]:
    """Return the table's lines in order, each with the prefix of its key."""
    plain = [("", metric) for row in rows for metric in METRICS[row]]
    busy = [(BUSY, metric) for row in rows if row in BUSY_ROWS for metric in METRICS[row]]
    not_again = {"wait_kb", "wait_cpu", "register"}
    return plain + [(prefix, metric) for prefix, metric in busy if metric.key not in not_again]


def cell(samples: Samples, subject: str, key: str, metric: Metric) -> str:
    """Format a value, and its ratio to the baseline's."""
    value = median(samples, subject, key)
    if value is None:
        return "-"
    text = f"{value:,.{metric.digits}f}".replace(",", "\u202f")
    baseline = median(samples, BASELINE, key)
    if metric.ratio and baseline and subject != BASELINE:
        text += f" ({value / baseline:.2g})" if value < 10 * baseline else f" ({value / baseline:,.0f})"
    return text


def render(samples: Samples, subjects: Sequence[str], rows: Sequence[str]) -> str:
    """Format the table in Markdown, with the ratio to the baseline of the same run in parentheses."""
    body = [["", "unit", *subjects]]
    busy_begun = False
    for prefix, metric in lines(rows):
        if prefix and not busy_begun:
            busy_begun = True
            body.append(["beside one busy Python thread:", "", *("" for _ in subjects)])
        key = prefix + metric.key
        body.append([metric.title, metric.unit, *(cell(samples, name, key, metric) for name in subjects)])
    widths = [max(len(line[column]) for line in body) for column in range(len(body[0]))]

    def write(line: Sequence[str]) -> str:
        cells = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
        cells += [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        return f"| {' | '.join(cells)} |"

    rules = ["-" * width for width in widths[:2]] + ["-" * (width - 1) + ":" for width in widths[2:]]
    return "\n".join([write(body[0]), write(rules), *(write(line) for line in body[1:])])


def judge(samples: Samples, goals: Sequence[Goal] = GOALS) -> list[str]:
    """Report for each figure that must be reached whether it was."""
    titles: Mapping[str, Metric] = {metric.key: metric for row in METRICS.values() for metric in row}
    said = []
    for goal in goals:
        value = median(samples, goal.subject, goal.key)
        measure_of = median(samples, goal.against, goal.key) if goal.against else 1.0
        if value is None or not measure_of:
            continue
        value /= measure_of
        reached = (goal.least is None or value >= goal.least) and (goal.most is None or value <= goal.most)
        bound = f"at least {goal.least:,g}" if goal.least is not None else f"at most {goal.most:,g}"
        unit = f"of {goal.against}'s" if goal.against else titles[goal.key].unit
        word = "reached" if reached else "MISSED "
        said.append(f"{word}  {goal.subject}, {titles[goal.key].title}: {value:,.3g} {unit} ({bound})")
    return said
