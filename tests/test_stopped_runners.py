"""A runner that was stopped for longer than its lease, and continues when others have its runs.

It must start nothing before it learns that it is fenced, and change no row. The lease lasts 15 s and nothing
makes it shorter, so all cases stop in parallel and wait for it once.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import bide
from processes import PATIENCE, Child, eventually, ledger

LEASE = 15.0 + 5.0
"""Seconds until a lease has expired and the others have noticed it."""

RUNS = 100
BUSY = 2
"""The number of executing bodies of the stopped runner, beside the body with a step; its other runs are queued."""
LOST = "log the lease was lost: another runner has claimed the runs"

SCRIPT = """
import logging
logging.basicConfig(stream=sys.stdout, format="log %(message)s", force=True)
me = words[0]
go = Path(db).with_suffix(f".{me}.go")
opened = Path(db).with_suffix(".open")

def stay_until_go(what):
    if not go.exists():
        say(what)
        while not go.exists():
            time.sleep(0.001)
        say(what, "returns")

@bide.task
def busy(n: int) -> str:
    note("start", me, n)
    stay_until_go("busy")
    return me

@bide.task
def waits(handle: bide.TaskHandle) -> str:
    note("enter", me)
    def ask() -> bool:
        note("ask", me)
        return opened.exists()
    try:
        handle.defer_until(ask, poll_interval_ms=200)
    except BaseException as error:
        say("waits", type(error).__name__)
        raise
    return me

@bide.task
def steps(handle: bide.TaskHandle) -> str:
    note("enter", me)
    stay_until_go("steps")
    try:
        handle.step(note, "step", me, name="step")
    except BaseException as error:
        say("steps", type(error).__name__)
        raise
    return me

workflows = {one.__name__: bide.Workflow(one.__name__, [one]) for one in (busy, waits, steps)}
"""

STOPPED = (
    SCRIPT
    + """
with bide.Runner(db, slots=3) as runner:
    waiting = runner.submit(workflows["waits"], key="waits")
    while waiting._snapshot().tasks["waits"].sub_status is not bide.SubStatus.Deferred:
        time.sleep(0.001)
    stepping = runner.submit(workflows["steps"], key="steps")
    many = runner.submit_many(workflows["busy"], [{"n": n} for n in range(int(words[1]))])
    say("submitted")
    say("busy-by", *sorted({handle.result()["busy"] for handle in many}))
    say("steps-by", stepping.result()["steps"])
    say("waits-by", waiting.result()["waits"])
    say("again", runner.run(workflows["busy"], {"n": -1})["busy"])
"""
)

OTHER = (
    SCRIPT
    + """
go.touch()
runner = bide.Runner(db, slots=2, workflows=workflows.values())
say("serving")
runner.serve()
"""
)

HOLDS = """
import sqlite3
file = sqlite3.connect(db, isolation_level=None)
file.execute("BEGIN IMMEDIATE")
say("held")
stay()
"""

DUMP = """
import json, sqlite3, sys
with sqlite3.connect(sys.argv[1]) as file:
    tables = [file.execute(f"SELECT * FROM {table}").fetchall() for table in ("run", "task", "journal")]
    print(json.dumps(tables, default=bytes.hex))
"""


def rows(file: Path) -> object:
    """Read all rows of runs in a process that does nothing else with the file."""
    said = subprocess.run([sys.executable, "-c", DUMP, file], check=True, capture_output=True, text=True)
    return json.loads(said.stdout)


def is_stopped(child: Child) -> bool:
    tasks = Path(f"/proc/{child.pid}/task").iterdir()
    return all(task.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


@dataclass
class World:
    """One file, one runner that is stopped during its work, and some others that are not."""

    file: Path
    stopped: Child
    others: list[Child] = field(default_factory=list)

    @classmethod
    def begin(cls, file: Path, stack: ExitStack) -> "World":
        child = stack.enter_context(Child(STOPPED, file, "stopped", str(RUNS)))
        # All its slots have a body that will resume when it continues; the other runs are queued behind them.
        heard: Counter[str] = Counter()
        while heard != {"busy": BUSY, "steps": 1, "submitted": 1}:
            heard[child.next()] += 1
        child.send(signal.SIGSTOP)
        eventually(lambda: is_stopped(child), "the process is stopped")
        return cls(file, child)

    def continue_stopped(self) -> None:
        """Continue it while another process locks the file, so that it cannot learn yet whether it is fenced."""
        before = ledger(self.file)
        with Child(HOLDS, self.file) as holder:
            holder.expect("held")
            self.file.with_suffix(".stopped.go").touch()
            self.stopped.send(signal.SIGCONT)
            heard: Counter[str] = Counter()
            while heard["busy returns"] < BUSY:
                heard[self.stopped.next()] += 1
            threading.Event().wait(0.1)  # a slot is free, and nothing may start: no signal shows that
            started = [line for line in ledger(self.file)[len(before) :] if "stopped" in line]
            holder.kill()
        assert [line for line in started if not line.startswith("ask ")] == []

    def is_claimed_by_others(self) -> bool:
        return self.completed("busy") == RUNS and self.completed("steps") == 1 and "ask other" in self.entries()

    def completed(self, workflow: str) -> int:
        with bide.Runner(self.file) as reader:
            return len(reader.runs(status="Completed", workflow=workflow))

    def entries(self) -> str:
        return "\n".join(ledger(self.file))


def test_a_runner_stopped_beyond_its_lease_starts_and_changes_nothing(file: Path) -> None:
    with ExitStack() as stack:
        worlds = []
        for others in (0, 1, 3):
            place = file.parent / str(others)
            place.mkdir()
            world = World.begin(place / "bide.db", stack)
            names = [f"other{n}" for n in range(others)]
            world.others = [stack.enter_context(Child(OTHER, world.file, name)) for name in names]
            for other in world.others:
                other.expect("serving")
            worlds.append(world)
        alone, *taken = worlds
        for world in taken:
            eventually(world.is_claimed_by_others, "the others have done the stopped runner's work", LEASE + PATIENCE)
        continues_alone(alone)
        for world in taken:
            is_fenced(world)


def continues_alone(world: World) -> None:
    """No other runner took the lease: it is renewed, and the runner continues as if nothing had happened."""
    world.continue_stopped()
    world.file.with_suffix(".open").touch()
    world.stopped.expect("again stopped")
    said = world.stopped.join()
    assert {"busy-by stopped", "steps-by stopped", "waits-by stopped"} <= set(said)
    assert LOST not in said
    starts = [line for line in ledger(world.file) if line.startswith("start ")]
    assert sorted(starts) == sorted(f"start stopped {n}" for n in range(-1, RUNS))


def is_fenced(world: World) -> None:
    before, done = rows(world.file), ledger(world.file)
    world.continue_stopped()
    # All its bodies unwind, and its callers get the results of the other runners.
    missing = {LOST, "waits Suspended", "steps Suspended", "busy-by", "steps-by"} - set(world.stopped.said)
    while missing:
        line = world.stopped.next()
        missing -= {line, line.split()[0]}
        assert "-by" not in line or "stopped" not in line
    assert rows(world.file) == before
    since = ledger(world.file)[len(done) :]
    assert [line for line in since if "stopped" in line and not line.startswith("ask ")] == []
    assert since.count("ask stopped") <= 1  # the step that was executing when it was stopped

    starts = Counter(line for line in ledger(world.file) if line.startswith("start other"))
    assert Counter(line.split()[2] for line in starts) == {str(n): 1 for n in range(RUNS)}
    assert set(starts.values()) == {1}

    # Another runner has the waiting run, and the caller here learns of its end. The runner itself works as before.
    world.file.with_suffix(".open").touch()
    assert world.stopped.after("waits-by").startswith("other")
    assert world.stopped.after("again") == "stopped"
    world.stopped.join()
    for other in world.others:
        os.kill(other.pid, signal.SIGTERM)
        other.join()
