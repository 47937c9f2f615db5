"""The rows of DBOS: on SQLite as DBOS sets it up (rollback journal, synchronous=FULL), or on a PostgreSQL.

It runs in an environment of its own (`make bench-peers`). It executes fewer tasks
than bide, because it would take minutes otherwise; the rates do not depend on
the number of tasks.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbos import DBOS, SendMessage

from . import measure

STEPS = 500
WORKFLOWS = 500
EVENTS = 500
MESSAGES = 500
RECEIVED = 20


@DBOS.step()
def noop() -> int:
    return 1


@DBOS.step()
def increment(value: int) -> int:
    return value + 1


@DBOS.step()
async def async_noop() -> int:
    return 1


@DBOS.workflow()
def one() -> int:
    return noop()


@DBOS.workflow()
def chain(length: int) -> int:
    value = 0
    for _ in range(length):
        value = increment(value)
    return value


@DBOS.workflow()
async def wide(size: int) -> int:
    return sum(await asyncio.gather(*(async_noop() for _ in range(size))))


@DBOS.workflow()
def emit(size: int) -> None:
    for number in range(size):
        DBOS.write_stream("events", number)


@DBOS.workflow()
def parent(size: int) -> int:
    return sum(handle.get_result() for handle in [DBOS.start_workflow(one) for _ in range(size)])


@DBOS.workflow()
def parent_in_turn(size: int) -> int:
    return sum(one() for _ in range(size))


@DBOS.workflow()
def idle() -> None:
    DBOS.recv("end")


received: list[float] = []


@DBOS.workflow()
def receive(count: int) -> None:
    for _ in range(count):
        DBOS.recv("go")
        received.append(time.monotonic())


@DBOS.workflow()
def drain(count: int) -> float:
    DBOS.recv("start")
    return measure.timed(lambda: [DBOS.recv("go") for _ in range(count)])


@contextmanager
def launched(setting: measure.Setting, database: str | None = None) -> Iterator[None]:
    """Start DBOS on a new database of the server, or on a file on the checkout's disk, ready to run workflows."""
    with measure.scratch() as name:
        url = f"sqlite:///{name}/dbos.sqlite"
        if setting.store.startswith("postgresql:"):
            url = f"{setting.store.rpartition('/')[0]}/{database or f'dbos{time.time_ns()}'}"
        DBOS(config={"name": "bench", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR"})
        DBOS.launch()
        try:
            one()
            yield
        finally:
            DBOS.destroy()


def row_wide(setting: measure.Setting) -> measure.Metrics:
    with launched(setting):
        return {"wide": STEPS / measure.timed(lambda: asyncio.run(wide(STEPS)))}


def row_chain(setting: measure.Setting) -> measure.Metrics:
    with launched(setting):
        return {"chain": STEPS / measure.timed(lambda: chain(STEPS))}


def row_single(setting: measure.Setting) -> measure.Metrics:
    with launched(setting):
        return {"single": measure.rate_of_calls(one)}


def row_many(setting: measure.Setting) -> measure.Metrics:
    with launched(setting):

        def together() -> None:
            for handle in [DBOS.start_workflow(one) for _ in range(WORKFLOWS)]:
                handle.get_result()

        return {"many": WORKFLOWS / measure.timed(together)}


def row_submitters(setting: measure.Setting) -> measure.Metrics:
    with launched(setting):
        return {"submitters": measure.rate_of_threads(one)}


def row_drain(setting: measure.Setting) -> measure.Metrics:
    """Measure four processes that work through a queue, from its first entry until all have ended."""
    database = f"dbos{time.time_ns()}"
    command = [sys.executable, "-m", "benchmarks.dbos_rows", "serve", "--store", f"{setting.store}|{database}"]
    with launched(setting, database):
        queue = DBOS.register_queue("drained", worker_concurrency=50, polling_interval_sec=0.1)
        workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
        for worker in workers:
            assert worker.stdout is not None  # noqa: S101 - for mypy
            worker.stdout.readline()

        def together() -> None:
            for handle in [queue.enqueue(one) for _ in range(WORKFLOWS)]:
                handle.get_result()

        rate = WORKFLOWS / measure.timed(together)
        for worker in workers:
            worker.kill()
            worker.wait()
    return {"drain": rate}


def serve(setting: measure.Setting) -> measure.Metrics:
    """Work through the queue of another process, until killed."""
    url, _, database = setting.store.partition("|")
    with launched(measure.Setting(url, busy=False), database):
        DBOS.register_queue("drained", worker_concurrency=50, polling_interval_sec=0.1)
        print("ready", flush=True)
        sys.stdin.read()
    return {}


def row_emit(setting: measure.Setting) -> measure.Metrics:
    with launched(setting):
        return {"emit": EVENTS / measure.timed(lambda: emit(EVENTS))}


def row_children(setting: measure.Setting) -> measure.Metrics:
    with launched(setting):
        return {
            "children": WORKFLOWS / measure.timed(lambda: parent(WORKFLOWS)),
            "children_single": WORKFLOWS / measure.timed(lambda: parent_in_turn(WORKFLOWS)),
        }


def row_signals(setting: measure.Setting) -> measure.Metrics:
    """Measure messages to a workflow that does not take them."""
    with launched(setting):
        handle = DBOS.start_workflow(idle)
        bulk = [SendMessage(handle.workflow_id, number, topic="go") for number in range(MESSAGES)]
        metrics = {
            "signals": measure.rate_of_calls(lambda: DBOS.send(handle.workflow_id, 1, "go")),
            "signals_many": MESSAGES / measure.timed(lambda: DBOS.send_bulk(bulk)),
        }
        DBOS.send(handle.workflow_id, None, "end")
        handle.get_result()
    return metrics


def row_received(setting: measure.Setting) -> measure.Metrics:
    """Measure messages by the time of sending and receiving them. Many are sent in one call, and received in turn."""

    def in_turn(workflow: str) -> None:
        for number in range(MESSAGES):
            DBOS.send(workflow, number, "go")

    def together(workflow: str) -> None:
        DBOS.send_bulk([SendMessage(workflow, number, topic="go") for number in range(MESSAGES)])

    def rate(send: Callable[[str], None]) -> float:
        handle = DBOS.start_workflow(drain, MESSAGES)
        seconds = measure.timed(lambda: send(handle.workflow_id))
        DBOS.send(handle.workflow_id, None, "start")
        return MESSAGES / (seconds + handle.get_result())

    with launched(setting):
        return {"received": rate(in_turn), "received_many": rate(together)}


def row_signal(setting: measure.Setting) -> measure.Metrics:
    """Measure from a message until its workflow continues; DBOS polls for messages."""
    sent = []
    with launched(setting):
        handle = DBOS.start_workflow(receive, RECEIVED)
        for number in range(RECEIVED):
            time.sleep(0.1 + number / RECEIVED)  # it waits by then, and its polls are a second apart
            sent.append(time.monotonic())
            DBOS.send(handle.workflow_id, number, "go")
            measure.wait_until(lambda number=number: len(received) > number, "the workflow has the message")
        handle.get_result()
    return {"signal": measure.percentile((at - start for at, start in zip(received, sent, strict=True)), 0.99) * 1e3}


if __name__ == "__main__":
    measure.main(
        {
            "wide": row_wide,
            "chain": row_chain,
            "single": row_single,
            "many": row_many,
            "submitters": row_submitters,
            "drain": row_drain,
            "serve": serve,
            "emit": row_emit,
            "children": row_children,
            "signals": row_signals,
            "received": row_received,
            "signal": row_signal,
        }
    )
