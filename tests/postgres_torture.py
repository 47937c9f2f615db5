"""Tortures runners on one PostgreSQL and compares what they did with what they should have done.

Four processes execute runs with every kind of wait. At random moments one of them is killed, or stopped and continued,
the server's sessions are ended, or the server is stopped as by a crash and started again; one process is stopped for
longer than its lease. Meanwhile a client submits runs and sends signals, each twice. `judge` reads the ledger of what
the bodies did.

As a program with any number of events: `scripts/postgres run python tests/postgres_torture.py EVENTS [SEED]`.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import bide
import postgres_server
from tortured import SIGNALS, expected, workflow

RUNNERS = 4
LEASE = 15.0
"""How long a runner may be silent until others take its runs over."""

PATIENCE = 180.0

ALL = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'bide'"
SOME = f"{ALL} AND random() < 0.3"
"""End the sessions of all runners, or some."""


class Fleet:
    """The processes that execute runs."""

    def __init__(self, store: str, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.ledger = folder / "ledger"
        self.stopped: set[int] = set()
        self.born = 0
        self.alive: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        self.born += 1
        with (self.folder / f"runner-{self.born}").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("tortured.py")), self.store, str(self.ledger)],
                stdin=subprocess.PIPE,
                stderr=errors,
                stdout=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(bide.__path__[0]).parent)},
            )
        self.alive.append(process)

    def kill(self, victim: subprocess.Popen[str]) -> None:
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(PATIENCE) == -signal.SIGKILL, f"a runner ended by itself:\n{self.said()}"
        self.alive.remove(victim)
        if victim.stdin is not None:
            victim.stdin.close()

    def said(self) -> str:
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("runner-*")))

    def end(self) -> None:
        """Have all end by themselves."""
        for process in self.alive:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.alive:
            assert process.wait(PATIENCE) == 0, f"a runner failed:\n{self.said()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.alive:
            process.kill()
            process.communicate()


def torture(folder: Path, events: int, seed: int) -> dict[str, int]:
    """Do that, and return how often each thing has happened."""
    chance = random.Random(seed)  # noqa: S311 - nothing is secret here
    counts = dict.fromkeys(("killed", "stopped", "sessions ended", "server restarted", "runs", "done twice"), 0)
    with postgres_server.Server() as server, Fleet(postgres_server.fresh_schema(server.url), folder) as fleet:
        bide.Runner(fleet.store, slots=0, workflows=[workflow]).close()
        for _ in range(RUNNERS):
            fleet.start()
        over = threading.Event()
        runs: list[bide.RunHandle] = []
        failed: list[BaseException] = []
        feeder = threading.Thread(target=feed, args=(fleet.store, runs, over, failed))
        feeder.start()
        try:
            hung = stop_when_it_works(fleet)
            until = time.monotonic() + LEASE + 2
            for _ in range(events):
                time.sleep(chance.uniform(0.02, 0.3))
                disturb(chance, server, fleet, counts, hung.pid)
            time.sleep(max(0.0, until - time.monotonic()))
            hung.send_signal(signal.SIGCONT)
        finally:
            over.set()
            feeder.join()
        assert not failed, failed
        finish(fleet, runs)
        fleet.end()
        counts["runs"] = len(runs)
        counts["done twice"] = judge(fleet.ledger.read_text().splitlines(), fleet.stopped)
    return counts


def stop_when_it_works(fleet: Fleet) -> subprocess.Popen[str]:
    """Stop a runner once it has something to do."""
    give_up = time.monotonic() + PATIENCE
    victim = fleet.alive[0]
    while not (fleet.ledger.exists() and f" {victim.pid}\n" in fleet.ledger.read_text().replace("born ", "")):
        assert time.monotonic() < give_up, f"a runner does nothing:\n{fleet.said()}"
        time.sleep(0.02)
    victim.send_signal(signal.SIGSTOP)
    fleet.stopped.add(victim.pid)
    return victim


def disturb(
    chance: random.Random, server: postgres_server.Server, fleet: Fleet, counts: dict[str, int], hung: int
) -> None:
    """Have one thing go wrong."""
    others = [process for process in fleet.alive if process.pid != hung]
    victim = chance.choice(others)
    match chance.choices(("kill", "stop", "sessions", "server"), (4, 3, 3, 1))[0]:
        case "kill":
            fleet.kill(victim)
            fleet.start()
            counts["killed"] += 1
        case "stop":
            victim.send_signal(signal.SIGSTOP)
            time.sleep(chance.uniform(0.01, 0.2))
            victim.send_signal(signal.SIGCONT)
            counts["stopped"] += 1
        case "sessions":
            with contextlib.suppress(postgres_server.SqlError):
                postgres_server.sql(server.url, ALL if chance.random() < 0.5 else SOME)
            counts["sessions ended"] += 1
        case "server":
            server.kill()
            server.start_again()
            counts["server restarted"] += 1


def feed(store: str, runs: list[bide.RunHandle], over: threading.Event, failed: list[BaseException]) -> None:
    """Submit runs and send signals, each twice."""
    try:
        with bide.Client(store) as client:
            n = 0
            while not over.wait(0.05):
                run = client.submit(workflow, {"n": n}, key=str(n))
                runs.append(run)
                for k in range(SIGNALS):
                    client.signal(run.id, "n", k, id=str(k))
                    with contextlib.suppress(bide.SignalRejected):  # its run has ended by now
                        client.signal(run.id, "n", k, id=str(k))
                n += 1
    except BaseException as error:  # noqa: BLE001 - the main thread reports it
        failed.append(error)


def finish(fleet: Fleet, runs: list[bide.RunHandle]) -> None:
    """Wait for the ends of all runs, and compare their results with what they should be."""
    with bide.Client(fleet.store) as client:
        for n, run in enumerate(runs):
            give_up = time.monotonic() + PATIENCE
            while (found := client.get(run.id)).status is bide.RunStatus.Running:
                assert time.monotonic() < give_up, f"run {n} does not end: {client.why(run.id)}\n{fleet.said()}"
                time.sleep(0.02)
            # By chance five processes in a row may have been killed in the same body.
            if found.status is bide.RunStatus.Paused and "the process died 5 times in a row" in (
                found.blocked_by or ""
            ):
                continue
            assert found.status is bide.RunStatus.Completed, f"run {n}: {found.status} {found.blocked_by} {found.error}"
            assert found.outputs["mail"] == list(range(SIGNALS)), f"run {n}: {found.outputs['mail']}"
            assert found.outputs["last"] == expected(n), f"run {n}: {found.outputs}"
        assert {run.key for run in client.runs(workflow=workflow)} == {str(n) for n in range(len(runs))}


def judge(lines: Iterable[str], stopped: set[int]) -> int:
    """Read the ledger in order; return how many steps were done again before anybody had them recorded."""
    got: dict[tuple[str, ...], str] = {}
    did: dict[tuple[str, ...], int] = {}
    for line in lines:
        what, *words = line.split()
        if what == "born":
            continue
        *step, value, pid = words
        key = tuple(step)
        if what == "got":
            assert got.setdefault(key, value) == value, f"a step returns something else: {line}"
        else:
            # One that was stopped beyond its lease does not know yet that it has lost it, and cannot record anything.
            assert key not in got or int(pid) in stopped, f"a committed step runs again: {line}"
            did[key] = did.get(key, 0) + 1
    return sum(count - 1 for count in did.values())


if __name__ == "__main__":
    import tempfile

    wanted = int(sys.argv[1])
    start = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6)
    sys.stdout.write(f"seed {start}\n")
    with tempfile.TemporaryDirectory() as name:
        for happened, often in torture(Path(name), wanted, start).items():
            sys.stdout.write(f"{happened}: {often:,}\n")
