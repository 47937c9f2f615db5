"""bide's rows about several runners of one PostgreSQL. `python -m benchmarks.bide_runners ROW --store URL`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bide

from . import measure
from .bide_workflows import fresh_schema, one_workflow, open_waits

RUNNERS = 4
STARTS = 100
TAKE_OVERS = 3
CLAIMED, HELD = 10_000, 8
IDLE_SECONDS = 10.0


@bide.task
def started() -> float:
    """Say when it was started: on one machine the clock is the same for all processes."""
    return time.monotonic()


@bide.task
def stays(file: str, process: str) -> None:
    """Say which process executes it, and stay there until that is another one than the first."""
    entered = Path(f"{file}.{os.getpid()}")
    entered.write_text(repr(time.monotonic()))
    if not process or str(os.getpid()) == process:
        time.sleep(3600)


started_workflow = bide.Workflow("started", [started])
stays_workflow = bide.Workflow("stays", [stays])


@contextmanager
def serving(
    store: str, count: int = RUNNERS, *prefix: str, starts: Callable[["subprocess.Popen[str]"], None] | None = None
) -> Iterator[list["subprocess.Popen[str]"]]:
    """Start processes that execute the runs of a store; killed in the end."""
    command = [*prefix, sys.executable, "-m", "benchmarks.bide_runners", "serve", "--store", store]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for process in processes:
            if starts is not None:
                starts(process)
            assert process.stdout is not None  # noqa: S101 - for mypy
            process.stdout.readline()
        yield processes
    finally:
        for process in processes:
            process.kill()
            # Also closes its pipes.
            process.communicate()


def serve(setting: measure.Setting) -> measure.Metrics:
    """Execute the runs of a store until its standard input is closed."""
    with bide.Runner(setting.store) as runner:
        for workflow in (one_workflow, started_workflow, stays_workflow):
            runner.register(workflow)
        print("ready", flush=True)
        sys.stdin.read()
    return {}


def drained(store: str, count: int) -> float:
    """Return the seconds until runs that were submitted here have all ended elsewhere."""
    with bide.Client(store) as client:

        def together() -> None:
            for handle in client.submit_many(one_workflow, [{}] * count):
                handle.result(timeout=measure.PATIENCE)

        return measure.timed(together)


def row_drain(setting: measure.Setting) -> measure.Metrics:
    store = fresh_schema(setting.store)
    bide.Runner(store).close()
    with serving(store):
        drained(store, 100)
        return {"drain": measure.MANY / drained(store, measure.MANY)}


def row_start_elsewhere(setting: measure.Setting) -> measure.Metrics:
    """Measure from the submission in one process to the first line of the body in another."""
    store = fresh_schema(setting.store)
    late = []
    with bide.Runner(store, slots=0) as runner, serving(store, 1):
        for number in range(STARTS):
            time.sleep(0.05 * (number % 10) / 10)
            before = time.monotonic()
            late.append(runner.run(started_workflow, timeout=measure.PATIENCE)[started] - before)
    return {"start_elsewhere": measure.percentile(late, 0.99) * 1e3}


def row_held(setting: measure.Setting) -> measure.Metrics:
    """Measure the last of eight times 10,000 runs beside a transaction that keeps what was deleted, and without."""

    def last_rate(*, held: bool) -> float:
        store = fresh_schema(setting.store)
        bide.Runner(store).close()
        holder = subprocess.Popen(
            ["psql", "-qAtX", setting.store], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdin is not None  # noqa: S101 - for mypy
        assert holder.stdout is not None  # noqa: S101 - for mypy
        if held:
            print("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;", file=holder.stdin, flush=True)
            holder.stdout.readline()
        with serving(store):
            seconds = [drained(store, CLAIMED) for _ in range(HELD)]
        holder.kill()
        holder.wait()
        return CLAIMED / seconds[-1]

    free, beside = last_rate(held=False), last_rate(held=True)
    return {"held": beside / free}


def row_idle(setting: measure.Setting) -> measure.Metrics:
    """Measure the transactions a second of a process in which 100,000 gates wait for signals."""
    go_on = bide.signal("go on")

    @bide.task(gate=go_on)
    def gated() -> None: ...

    workflow = bide.Workflow("gated", [gated])

    def transactions() -> int:
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        done = subprocess.run(["psql", "-qAtX", setting.store, "-c", query], check=True, capture_output=True, text=True)
        return int(done.stdout)

    with bide.Runner(fresh_schema(setting.store)) as runner:
        runner.submit_many(workflow, [{}] * measure.GATES)
        open_waits(runner, measure.GATES)
        before, start = transactions(), time.monotonic()
        time.sleep(IDLE_SECONDS)
        return {"idle": (transactions() - before - 1) / (time.monotonic() - start)}


def take_over(
    store: str,
    end: Callable[["subprocess.Popen[str]"], None],
    *prefix: str,
    first_store: str | None = None,
    starts: Callable[["subprocess.Popen[str]"], None] | None = None,
) -> float:
    """Return the seconds from the end of a process to the first line of its body in another one."""
    with measure.scratch() as folder, bide.Runner(store, slots=0) as runner:
        file = str(Path(folder) / "entered")
        with serving(first_store or store, 1, *prefix, starts=starts) as [first]:
            run = runner.submit(stays_workflow, {"file": file, "process": ""})
            measure.wait_until(lambda: len(list(Path(folder).iterdir())) == 1, "the body is entered")
            time.sleep(0.5)
            with serving(store, 1):
                ended = time.monotonic()
                end(first)
                measure.wait_until(lambda: len(list(Path(folder).iterdir())) == 2, "another process has entered it")  # noqa: PLR2004
                seconds = time.monotonic() - ended
                runner.cancel(run, force=True)
                first.send_signal(signal.SIGCONT)
    return seconds


HERE, THERE = "10.213.7.1", "10.213.7.2"
"""The two ends of a cable to what looks like another host."""


@contextmanager
def cable() -> Iterator[str]:
    """Lay a cable to be plugged in elsewhere, and start a server at this end of it; yield the server's URL there."""
    folder = Path("target/bench-host").resolve()

    def call(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    call("ip", "link", "add", "bide0", "type", "veth", "peer", "name", "bide1")
    try:
        call("ip", "address", "add", f"{HERE}/30", "dev", "bide0")
        call("ip", "link", "set", "bide0", "up")
        near = call("scripts/postgres", "start", str(folder))
        access = folder / "data" / "pg_hba.conf"
        if HERE not in access.read_text():
            with access.open("a") as lines:
                lines.write(f"host all all {HERE}/30 scram-sha-256\n")
        call("scripts/postgres", "stop", str(folder))
        call("scripts/postgres", "start", str(folder), f"listen_addresses = '127.0.0.1, {HERE}'")
        try:
            yield near
        finally:
            call("scripts/postgres", "stop", str(folder))
    finally:
        # It is gone already if the host at its other end is.
        subprocess.run(["ip", "link", "delete", "bide0"], check=False, capture_output=True)


PLUG_IN = f"""
while ! ip link show bide1 >/dev/null 2>&1; do sleep 0.05; done
ip address add {THERE}/30 dev bide1
ip link set bide1 up
exec "$@"
"""


@dataclass(frozen=True)
class OtherHost:
    """What looks like another host, beside a server of this one."""

    store: str
    """The URL of the store, from here."""

    def unplug(self, process: "subprocess.Popen[str]") -> None:
        """Pull the cable of a process there."""
        inside = ["nsenter", "--net", "--target", str(process.pid)]
        subprocess.run([*inside, "ip", "link", "set", "bide1", "down"], check=True)

    def take_over(self, end: Callable[["subprocess.Popen[str]"], None]) -> float:
        """Return the seconds from the end of a process there to the first line of its body in one of this host."""

        def plug(process: "subprocess.Popen[str]") -> None:
            # It begins in this namespace.
            here = Path("/proc/self/ns/net").readlink()
            measure.wait_until(lambda: Path(f"/proc/{process.pid}/ns/net").readlink() != here, "it is another host")
            subprocess.run(["ip", "link", "set", "bide1", "netns", str(process.pid)], check=True)

        far = self.store.replace("127.0.0.1", HERE)
        return take_over(self.store, end, *APART, "sh", "-c", PLUG_IN, "sh", first_store=far, starts=plug)


APART = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


@contextmanager
def other_host() -> Iterator[OtherHost]:
    """Have another host. Only root can."""
    with cable() as near:
        store = fresh_schema(near)
        bide.Runner(store).close()
        yield OtherHost(store)


def row_host_gone(_: measure.Setting) -> measure.Metrics:
    """Measure how soon another process continues after a host is gone from the network without a word."""
    with other_host() as host:
        return {"host_gone": host.take_over(host.unplug)}


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a process, and those below it."""
    subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
    process.kill()


def stop(process: "subprocess.Popen[str]") -> None:
    """Stop a process, as one that hangs."""
    process.send_signal(signal.SIGSTOP)


def row_take_over(setting: measure.Setting) -> measure.Metrics:
    """Measure how soon another process goes on: killed here, killed on what looks like another host, and hung."""
    store = fresh_schema(setting.store)
    bide.Runner(store).close()
    found = {
        "take_over_here": max(take_over(store, kill) for _ in range(TAKE_OVERS)),
        "take_over_hung": take_over(store, stop),
    }
    # In a process namespace of its own it is one of another host.
    apart = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode == 0:
        found["take_over_elsewhere"] = max(take_over(store, kill, *apart) for _ in range(TAKE_OVERS))
    return found


ROWS: dict[str, measure.Row] = {
    "drain": row_drain,
    "start_elsewhere": row_start_elsewhere,
    "held": row_held,
    "idle": row_idle,
    "take_over": row_take_over,
    "host_gone": row_host_gone,
    "serve": serve,
}

if __name__ == "__main__":
    measure.main(ROWS)
