"""bide's rows about signals: many waits for one each, the delay from a signal to its body, and how many can be sent."""

import itertools
import json
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bide
from bide import _core

from . import measure
from .bide_commits import COMMITS_OF_A_RUN, bare_commits, in_turns
from .bide_workflows import one_workflow, open_runner

go = bide.signal("go", int)


def row_signal_gates(setting: measure.Setting) -> measure.Metrics:
    """Runs of one task behind a gate that a signal opens, submitted together; the caller keeps their handles."""

    def noop() -> int:
        return 1

    workflow = bide.Workflow("gated", [bide.task(noop, name="noop", gate=go)])
    handles: list[bide.RunHandle] = []

    with open_runner(setting) as runner:
        runner.run(one_workflow)
        runner.register(workflow)

        def open_all() -> None:
            runner.signal_many((handle, go, 1) for handle in handles)
            for handle in handles:
                handle.result()

        return measure.measure_signal_gates(
            lambda: handles.extend(runner.submit_many(workflow, [None] * measure.GATES)), open_all, commits
        )


def commits() -> int:
    """Return how many batches this process has committed. The renewal of its lease, every five seconds, is none."""
    return _core.counts()[1]


class Receiver:
    """A run whose body takes one signal after the other and notes when it had each."""

    def __init__(self, runner: bide.Runner, count: int) -> None:
        """Submit the run."""
        self.at: list[float] = []
        self.taken = threading.Event()
        self.handle: bide.TaskHandle | None = None

        def body(handle: bide.TaskHandle) -> None:
            self.handle = handle
            for _ in range(count):
                handle.wait(go)
                self.at.append(time.monotonic())
                self.taken.set()

        self.run = runner.submit(bide.Workflow("receiver", [bide.task(body, name="body")]))
        measure.wait_until(lambda: self.handle is not None, "the body has started")

    def waits(self) -> None:
        """Wait until the body has released its slot: from then on it waits for the next signal."""
        assert self.handle is not None  # noqa: S101 - for mypy
        while self.handle.is_slot_held():
            time.sleep(0.0002)

    def delay_of(self, send: Callable[[], object]) -> float:
        """Return the seconds from a call that sends a signal until the body has it."""
        self.waits()
        self.taken.clear()
        start = time.monotonic()
        send()
        self.taken.wait(measure.PATIENCE)
        return self.at[-1] - start


class Waiter:
    """The same without bide: a thread that waits for an event, which is set after a bare commit."""

    def __init__(self) -> None:
        """Start the thread."""
        self.at = 0.0
        self.go, self.taken, self.waiting = threading.Event(), threading.Event(), threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while True:
            self.waiting.set()
            self.go.wait()
            self.at = time.monotonic()
            self.go.clear()
            self.taken.set()

    def delay_of(self, commit: Callable[[], object]) -> float:
        """Return the seconds from a call that commits until the thread is awake."""
        self.waiting.wait()
        self.waiting.clear()
        self.taken.clear()
        time.sleep(0.0002)  # as the receiver, so that the thread sleeps
        start = time.monotonic()
        commit()
        self.go.set()
        self.taken.wait(measure.PATIENCE)
        return self.at - start


def row_signal(setting: measure.Setting) -> measure.Metrics:
    """Measure from a signal until its body continues, beside a bare commit and a `threading.Event`, one by one."""
    with bare_commits(setting) as commit, open_runner(setting) as runner:
        receiver, waiter = Receiver(runner, measure.SIGNALS), Waiter()
        own, bare = [], []
        for number in range(measure.SIGNALS):
            own.append(receiver.delay_of(partial(receiver.run.signal, go, number)))
            bare.append(waiter.delay_of(commit))
        receiver.run.result()
    late, bare_late = (measure.percentile(seconds, 0.99) * 1e3 for seconds in (own, bare))
    return {
        "signal": late,
        "signal_median": statistics.median(own) * 1e3,
        "signal_bare": bare_late,
        "signal_growth": late / bare_late,
    }


def row_signal_elsewhere(_setting: measure.Setting) -> measure.Metrics:
    """Measure the same for a signal of another process, beside a row that it commits and that a thread polls for."""
    with measure.scratch() as folder:
        file, bare = Path(folder) / "bide.db", Path(folder) / "bare.db"
        with bide.Runner(file) as runner:
            runner.run(one_workflow)
            receiver, poller = Receiver(runner, measure.SENT), Poller(bare)
            sender = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.sender", str(file), receiver.run.id, str(bare)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert sender.stdin is not None  # noqa: S101 - for mypy
            for number in range(measure.SENT):
                for one in (receiver, poller):
                    one.waits()
                    # At any moment between two change polls, which are 50 ms apart.
                    time.sleep(0.05 * number / measure.SENT)
                    one.taken.clear()
                    print("send", file=sender.stdin, flush=True)
                    one.taken.wait(measure.PATIENCE)
            receiver.run.result()
            sent = json.loads(sender.communicate(timeout=measure.PATIENCE)[0])
    own = [seen - start for seen, start in zip(receiver.at, sent[::2], strict=True)]
    polled = [seen - start for seen, start in zip(poller.at, sent[1::2], strict=True)]
    return {
        "signal_elsewhere": measure.percentile(own, 0.99) * 1e3,
        "signal_elsewhere_bare": measure.percentile(polled, 0.99) * 1e3,
    }


class Poller:
    """The same without bide: a thread that asks a file every millisecond for a row that another process commits."""

    def __init__(self, file: Path) -> None:
        """Create the file and start the thread."""
        self.at: list[float] = []
        self.taken = threading.Event()
        connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY) STRICT")

        def poll() -> None:
            while len(self.at) < measure.SENT:
                (rows,) = connection.execute("SELECT coalesce(max(id), 0) FROM row").fetchone()
                if rows > len(self.at):
                    self.at.append(time.monotonic())
                    self.taken.set()
                time.sleep(0.001)
            connection.close()

        threading.Thread(target=poll, daemon=True).start()

    def waits(self) -> None:
        """Return at once: it polls all the time."""


def row_signals(setting: measure.Setting) -> measure.Metrics:
    """Measure signals to a run that does not take them: one by one beside bare commits in turns, and in one call."""

    def body(handle: bide.TaskHandle) -> None:
        handle.wait_for("end")

    numbers = itertools.count()
    with bare_commits(setting) as commit, open_runner(setting) as runner:
        run = runner.submit(bide.Workflow("queues", [bide.task(body, name="body")]))
        in_turn, bare = in_turns(
            lambda: measure.rate_of_calls(lambda: runner.signal(run, go, next(numbers)), 0.2), commit, commits=1
        )
        seconds = [
            measure.timed(lambda: runner.signal_many([(run, go, number) for number in range(measure.MANY)]))
            for _ in range(measure.FIRST_TURNS)
        ]
        run.signal("end")
        run.result()
    return {
        "signals": in_turn,
        "signals_bare": in_turn / bare,
        "signals_many": measure.MANY / statistics.median(seconds),
    }


def row_received(setting: measure.Setting) -> measure.Metrics:
    """Measure signals by the time of sending and receiving them: in turn beside bare commits, and together."""

    def in_turn(run: bide.RunHandle) -> None:
        for number in range(measure.SIGNALS):
            run.signal(go, number)

    def receive_in_turn(handle: bide.TaskHandle) -> None:
        for _ in range(measure.SIGNALS):
            handle.wait(go)

    def receive_together(handle: bide.TaskHandle) -> None:
        handle.wait_all(*[go] * measure.MANY)

    with bare_commits(setting) as commit, open_runner(setting) as runner:
        own, bare = in_turns(
            lambda: measure.SIGNALS / sent_and_received(runner, in_turn, receive_in_turn), commit, rounds=3
        )
        seconds = [
            sent_and_received(
                runner,
                lambda run: runner.signal_many([(run, go, number) for number in range(measure.MANY)]),
                receive_together,
            )
            for _ in range(measure.FIRST_TURNS)
        ]
    return {
        "received": own,
        "received_bare": own / bare,
        "bare_commits": bare * COMMITS_OF_A_RUN,
        "received_many": measure.MANY / statistics.median(seconds),
    }


def sent_and_received(
    runner: bide.Runner, send: Callable[[bide.RunHandle], object], receive: Callable[[bide.TaskHandle], object]
) -> float:
    """Return the seconds of sending signals to a run, and then of its body that receives them."""
    seconds: list[float] = []

    def body(handle: bide.TaskHandle) -> None:
        handle.wait_for("start")
        seconds.append(measure.timed(lambda: receive(handle)))

    run = runner.submit(bide.Workflow("receives", [bide.task(body, name="body")]))
    seconds.append(measure.timed(lambda: send(run)))
    run.signal("start")
    run.result()
    return sum(seconds)


ROWS = {
    "signal_gates": row_signal_gates,
    "signal": row_signal,
    "signal_elsewhere": row_signal_elsewhere,
    "signals": row_signals,
    "received": row_received,
}
