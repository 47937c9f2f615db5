"""Kills processes at random moments and compares what they did with what they should have done.

The killing process forks its victims, so that a life costs milliseconds; one or two of them live at a
time. Each submits two runs of every kind of wait, step and retry, and executes every run it finds. Runs are cancelled,
or paused and resumed, at random moments too, by the process that has submitted them and by another one. All serve a
schedule and a watch. The bodies keep a ledger that survives any kill; `judge` reads it in order, and then the results.
What the victims execute is in killed.py.

As a program with any number of kills: `python tests/kills.py KILLS [SEED]`.
"""

import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import bide
from killed import LIVES
from processes import Child, ledger

AFTER = {
    "orders": (),
    "flaky": (),
    "polls": (),
    "mail": (),
    "opened": (),
    "gated": ("orders",),
    "last": ("gated", "flaky", "polls"),
    "asks": (),
    "serves": (),
    "starts": (),
    "loops": (),
    "items": (),
    "each": ("items",),
    "follows": ("each",),
    "gathers": ("items",),
    "works": (),
    "courier": (),
    # They depend on others, whatever these come to.
    "tidies": (),
}
"""The dependencies of each task; of an element those of the same index."""

MAPPED = ("each", "follows")
"""The tasks that have no body but those of their elements."""

CHILD = "works"
"""The task of a child run."""

SIGNALS = 4
"""How many signals the task `mail` of each run waits for. Living processes and one that only sends send them all, again
and again, each under its id."""

ITEMS = 1
"""How many attempts of the task `items` are in flight at once."""

GATHERS = (3, 0.05)
"""How many attempts of the task `gathers` start in how many seconds."""

GATE = 0.02
ROUNDING = 2e-6
"""Stored times are whole microseconds."""


def kill(file: Path, seed: int, kills: int) -> None:
    """Kill this many processes, let one more finish the remaining runs, and check everything."""
    with Child(LIVES, file, *map(str, (seed, kills, SIGNALS, ITEMS, *GATHERS))) as killer:
        for number in range(kills):
            killer.expect(f"killed {number + 1}")
        killer.join()
    lines = ledger(file)
    judge(lines)
    submitted = {line.split()[1] for line in lines if line.startswith("submitted ")}
    served_once(file)
    with bide.Runner(file) as reader:
        runs, children = reader.runs(workflow="killed"), reader.runs(workflow="killed child")
        shown = {run.id: [event.value for event in reader.events(run)] for run in runs}
        nothing_leaks(reader.limits())
    no_limit_is_exceeded(runs)
    assert submitted <= {run.key for run in runs}
    started_once(children, lines)
    stuck = {child.parent for child in children if child.status is bide.RunStatus.Paused}
    is_cancelled = {run.id for run in runs if run.status is bide.RunStatus.Cancelled}
    for child in children:
        assert child.status is not bide.RunStatus.Cancelled or child.parent in is_cancelled, f"child {child.id}"
    for run in [*runs, *children]:
        if run.status is bide.RunStatus.Paused:
            killed_its_processes(run, lines)
    for run in runs:
        events_are_there(shown[run.id], run.id, lines)
        if run.id in is_cancelled:
            has_cleaned_up(run, lines)
        elif run.status is not bide.RunStatus.Paused and run.id not in stuck:
            equals_one_without_a_crash(run)
    for child in children:
        if child.status is bide.RunStatus.Cancelled:
            has_cleaned_up(child, lines)
    paused = sum(run.status is bide.RunStatus.Paused for run in [*runs, *children])
    assert paused <= 1 + len(runs) // 50


def served_once(file: Path) -> None:
    """Check that each tick and each item has started one run, and that none was left out."""
    with bide.Client(file) as client:
        runs = [*client.runs(workflow="ticking"), *client.runs(workflow="watched")]
        [watch] = client.watches()
    for run in runs:
        deadly = "the process died 5 times in a row" in (run.blocked_by or "")
        assert run.status is bide.RunStatus.Completed or deadly, f"run {run.key} is {run.status}: {run.blocked_by}"
    keys = Counter(run.key or "" for run in runs)
    assert set(keys.values()) == {1}, keys
    moments = sorted(key.removeprefix("ticks@") for key in keys if key.startswith("ticks@"))
    assert moments, "no tick has started a run"
    spans = {after - before for before, after in itertools.pairwise(map(datetime.fromisoformat, moments))}
    assert spans <= {timedelta(seconds=0.1)}, spans
    items = {int(key.removeprefix("items@")) for key in keys if key.startswith("items@")}
    assert items == set(range(watch.cursor)), items ^ set(range(watch.cursor))
    assert watch.started == watch.cursor


def no_limit_is_exceeded(runs: Iterable[bide.RunResult]) -> None:
    """Read the recorded starts and ends of the tasks with limits."""
    spans = [
        (name, task.started_at, task.ended_at)
        for run in runs
        for name in ("items", "gathers")
        if (task := run.tasks[name]).status is bide.TaskStatus.Completed
    ]
    begun = [(start, 1) for name, start, _ in spans if name == "items" and start]
    in_flight = 0
    # Of two at the same time the end came first.
    for _, change in sorted([*begun, *((end, -1) for name, _, end in spans if name == "items" and end)]):
        in_flight += change
        assert in_flight <= ITEMS, "a limit is exceeded by what is in flight"
    count, span = GATHERS
    started = sorted(start for name, start, _ in spans if name == "gathers" and start)
    for early, late in zip(started, started[count:], strict=False):
        assert (late - early).total_seconds() > span - ROUNDING, f"a limit is exceeded by its starts: {early}, {late}"


def nothing_leaks(limits: Iterable[bide.LimitInfo]) -> None:
    """Check that nothing is used of a limit at the end, but for attempts that wait in runs that are paused."""
    for info in limits:
        for use in info.uses:
            assert (use.executing, use.waiting) == (0, 0), f"a limit leaks: {info}"
            assert info.limit.name == "loops" or use.in_flight == 0, f"a limit leaks: {info}"


def judge(lines: Iterable[str]) -> None:
    """Read the ledger in order; a line in a wrong place breaks a guarantee."""
    got: dict[tuple[str, ...], str] = {}
    attempts: dict[tuple[str, str], int] = {}
    left: dict[tuple[str, str], float] = {}
    asked = Asked()
    for line in lines:
        what, run, *more = line.split()
        assert what != "together", f"two processes call the source of a watch at once: {line}"
        if what in ASKED:
            asked.note(what, run)
            continue
        task, *more = more
        asked.judge(what, run, task, more, line)
        match what:
            case "did":
                assert (run, task, *more) not in got, f"a committed step runs again: {line}"
            case "got":
                name, value = more
                assert got.setdefault((run, task, name), value) == value, f"a step returns something else: {line}"
            case "enter":
                in_its_turn(run, task, attempts, left, line)
                assert attempts.get((run, task), 1) <= int(more[0]), f"an attempt that was over: {line}"
                attempts[run, task] = int(more[0])
            case "answered" | "taken":
                assert (what, *more) == ("answered", "11"), f"another answer: {line}"
            case "leave":
                left.setdefault((run, task), float(more[0]))
            case "sleeps" | "raised":
                pass
            case "woke":
                due, now = map(float, more)
                assert now >= due - ROUNDING, f"an early wake: {line}"
            case _:
                raise AssertionError(line)


ASKED = ("submitted", "born", "paused", "resuming", "cancelling", "cancelled")
"""What the ledger has besides what bodies do; the last four are about a run."""


class Asked:
    """What was asked of runs, as a ledger is read, and the processes that were born so far."""

    def __init__(self) -> None:
        self.lines = 0
        self.born: dict[str, int] = {}
        self.paused: dict[str, int] = {}
        self.cancelled: dict[str, int] = {}
        self.entered: set[tuple[str, str]] = set()
        self.waits: set[tuple[str, str]] = set()

    def note(self, what: str, subject: str) -> None:
        self.lines += 1
        match what:
            case "born":
                self.born[subject] = self.lines
            case "paused":
                self.paused[subject] = self.lines
                self.waits = {(run, task) for run, task in self.waits if run != subject}
            case "resuming" | "cancelling":
                self.paused.pop(subject, None)
            case "cancelled":
                self.cancelled.setdefault(subject, self.lines)

    def judge(self, what: str, run: str, task: str, more: list[str], line: str) -> None:
        """Check what a body does in a run that was paused or cancelled before."""
        self.lines += 1
        if run in self.paused:
            # A body that executes comes to its next wait.
            assert (run, task) not in self.waits, f"a paused run goes on: {line}"
            if what == "sleeps":
                self.waits.add((run, task))
        if what == "enter":
            # A process that has the run already may have begun to enter the body.
            born = self.born.get(more[2], 0) if len(more) > 2 else 0
            assert born <= self.paused.get(run, born), f"a body of a paused run starts: {line}"
            late = born > self.cancelled.get(run, born) and (run, task) not in self.entered
            assert not late or task == "tidies", f"a body of a cancelled run starts: {line}"
            self.entered.add((run, task))


def has_cleaned_up(run: bide.RunResult, lines: Iterable[str]) -> None:
    """Check that somebody has cancelled the run or its parent, and that each body that was cut short has cleaned up."""
    words = [line.split() for line in lines]
    asked = {word[1] for word in words if word[0] == "cancelling"}
    assert asked & {run.id, run.parent}, f"nobody has cancelled run {run.id}"
    mine = [word for word in words if word[1] == run.id and word[0] not in ASKED]
    # One that waits for its next attempt does not execute.
    ended = {task for what, _, task, *_ in mine if what in {"raised", "leave"}}
    undone = {task for what, _, task, *more in mine if what == "got" and more[0] == "undo"}
    for name, task in run.tasks.items():
        if task.status is bide.TaskStatus.Cancelled and task.attempts:
            assert name in undone | ended or name in MAPPED, f"run {run.id}: {name} has not cleaned up"
        if task.status is bide.TaskStatus.Completed:
            assert name not in undone, f"run {run.id}: {name} has completed and cleaned up"
    if "tidies" in run.tasks:
        tidies = run.tasks["tidies"]
        began = next((at for at, word in enumerate(words) if word[:3] == ["enter", run.id, "tidies"]), len(words))
        told = (at for at, word in enumerate(words) if word[0] == "cancelled" and word[1] in {run.id, run.parent})
        # It may be interrupted too, if it executed when the run was cancelled. Who executes a run may carry that out a
        # little after it was asked for: a body may have begun in between, if what it depends on had completed.
        had_begun = began < next(told, len(words)) or (
            began < len(words) and all(run.tasks[on].status is bide.TaskStatus.Completed for on in ("last", "gathers"))
        )
        interrupted = tidies.status is bide.TaskStatus.Cancelled and had_begun
        assert interrupted or tidies.status is bide.TaskStatus.Completed, f"run {run.id}: {run.tasks}\n{mine}"


def in_its_turn(
    run: str, task: str, attempts: dict[tuple[str, str], int], left: dict[tuple[str, str], float], line: str
) -> None:
    """Check that a body is entered after what it depends on has left, and before what depends on it was entered."""
    name, _, index = task.partition("[")
    at = float(line.split()[4])
    for other, dependencies in AFTER.items():
        assert task not in dependencies or (run, other) not in attempts, f"a committed task again: {line}"
    for on in AFTER[name]:
        # An element follows the one of its index.
        same = f"{on}[{index}" if on == "each" else on
        assert (run, same) in left, f"before what it depends on: {line}"
    if name == "gated":
        assert at >= left[run, "orders"] + GATE - ROUNDING, f"a gate opens early: {line}"


def started_once(children: list[bide.RunResult], lines: Iterable[str]) -> None:
    """Check that there are no more children than the bodies have got, two of each run, each complete."""
    got = (line.split() for line in lines if " starts child-" in line)
    parents = {child.id: child.parent for child in children}
    assert all(parents[child] == run for _, run, _, _, child in got)
    assert all(count <= 2 for count in Counter(child.parent for child in children).values())
    for child in children:
        if child.status not in {bide.RunStatus.Paused, bide.RunStatus.Cancelled}:
            assert child.status is bide.RunStatus.Completed, f"child {child.id} is {child.status}"
            assert child.tasks[CHILD].attempts == 1


def events_are_there(shown: list[int], run: str, lines: Iterable[str]) -> None:
    """Check that each event is there that was emitted before a step which some process found recorded."""
    charged = (line.split() for line in lines if line.startswith(f"got {run} orders charge-"))
    emitted = {int(name.removeprefix("charge-")) for _, _, _, name, _ in charged}
    assert emitted <= set(shown), f"run {run} has lost events: {shown} of {emitted}"
    # Each entry emits from the first one on, in order.
    assert all(now in {0, before + 1} for before, now in itertools.pairwise([-1, *shown])), f"out of order: {shown}"


def killed_its_processes(run: bide.RunResult, lines: Iterable[str]) -> None:
    """Whether chance killed five processes in a row in the same body, which bide then treats as deadly."""
    assert "the process died 5 times in a row" in (run.blocked_by or ""), run.blocked_by
    entered: Counter[str] = Counter()
    seen = set()
    for line in lines:
        what, whose, *more = line.split()
        if whose != run.id or what in {*ASKED, "did", "sleeps", "raised"}:
            continue
        if what == "enter":
            entered[more[0]] += 1
        elif (record := (what, *more[:2])) not in seen:
            seen.add(record)
            entered.clear()
    assert max(entered.values(), default=0) >= 5, f"run {run.key}: {run.blocked_by}"


def equals_one_without_a_crash(run: bide.RunResult) -> None:
    n = int(run.key or "")
    orders = sum(range(1, n % 3 + 2))
    assert run.status is bide.RunStatus.Completed, f"run {n} is {run.status}: {run.blocked_by}"
    outputs: dict[str, object] = {"orders": orders, "flaky": 2 * n, "polls": -1, "gated": orders + 100}
    # Each signal once, in the order in which all have sent them.
    outputs |= {"mail": list(range(SIGNALS)), "opened": 7}
    outputs |= {"courier": n + 5, "tidies": 3}
    outputs |= {"asks": [5, "no"], "serves": 1, "starts": 4 * n, "loops": 6, "items": list(range(n % 4))}
    each = list(range(n % 4))
    followed = [10 * item for item in each if item != 2]
    outputs |= {"each": each, "gathers": [each, followed, int(2 in each)]}
    if 2 not in each:
        outputs["follows"] = followed
    assert run.outputs == {**outputs, "last": orders + 100 + 2 * n - 1}
    assert run.context.to_dict() == {"n": n, "orders": orders, "polls": n, "who": ["orders", "last"]}
    attempts = {**dict.fromkeys(AFTER, 1), "flaky": 3}
    del attempts[CHILD]
    attempts |= {f"each[{item}]": 1 + (item == 1) for item in each} | {f"follows[{item}]": 1 for item in each}
    assert {name: task.attempts for name, task in run.tasks.items()} == attempts


def main() -> None:
    kills = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6)
    print(f"{kills} kills, seed {seed}", flush=True)  # noqa: T201 - this is a program
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        kill(Path(directory) / "bide.db", seed, kills)
    print(f"no guarantee is broken; {time.monotonic() - begun:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()
