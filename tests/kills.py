"""Kills processes at random moments and compares what they did with what they should have done.

The killing process forks its victims, so that a life costs milliseconds; one or two of them live at a
time. Each submits two runs of every kind of wait, step and retry, and executes every run it finds. The bodies keep a
ledger that survives any kill; `judge` reads it in order, and then the results.

As a program with any number of kills: `python tests/kills.py KILLS [SEED]`.
"""

import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import bide
from processes import Child, ledger

AFTER = {
    "orders": (),
    "flaky": (),
    "polls": (),
    "mail": (),
    "opened": (),
    "gated": ("orders",),
    "last": ("gated", "flaky", "polls"),
}
"""The dependencies of each task."""

SIGNALS = 4
"""How many signals the task `mail` of each run waits for. Living processes and one that only sends send them all, again
and again, each under its id."""

GATE = 0.02
ROUNDING = 2e-6
"""Stored times are whole microseconds."""

LIVES = """
import contextlib, random
seed, kills = int(words[0]), int(words[1])

def record(handle, what, *more):
    note(what, handle.run_id, handle.task_name, *more)

def soon(span):
    return time.time() + span

def step(handle, name, value):
    def charge(value):
        record(handle, "did", name)
        return value
    got = handle.step(charge, value, name=name)
    record(handle, "got", name, got)
    return got

def sleep(handle, k, span):
    due = handle.step(soon, span, name=f"due-{k}")
    handle.sleep(span, name=f"sleep-{k}")
    record(handle, "woke", due, time.time())

def enter(handle):
    record(handle, "enter", handle.attempt, time.time())

def leave(handle):
    record(handle, "leave", time.time())

@bide.task
def orders(n: int, handle: bide.TaskHandle, context: bide.Context) -> int:
    enter(handle)
    total = 0
    for k in range(n % 3 + 1):
        handle.emit(k)
        total += step(handle, f"charge-{k}", k + 1)
        sleep(handle, k, 0.01 * (n % 4))
    context["orders"] = total
    context["who"] = ["orders"]
    leave(handle)
    return total

@bide.task(retry=bide.Retry(attempts=5, delay=0.01, jitter=0))
def flaky(n: int, handle: bide.TaskHandle) -> int:
    enter(handle)
    kept = step(handle, "kept", n)
    if handle.attempt < 3:
        raise ValueError("not yet")
    leave(handle)
    return 2 * kept

@bide.task
def polls(n: int, handle: bide.TaskHandle, context: bide.Context) -> int:
    enter(handle)
    due = handle.step(soon, 0.03, name="due")
    handle.defer_until(lambda: time.time() >= due, 5, name="poll")
    record(handle, "woke", due, time.time())
    context["polls"] = n
    late = handle.step(soon, 0.02, name="late")
    try:
        handle.defer_until(lambda: False, 5, timeout=0.02, name="never")
    except bide.WaitTimeout:
        record(handle, "woke", late, time.time())
        leave(handle)
        return -1
    raise AssertionError("a wait for what never happens was satisfied")

@bide.task
def mail(handle: bide.TaskHandle) -> list:
    enter(handle)
    values = []
    for k in range(SIGNALS):
        if k % 2:
            value = handle.wait_for("n", int)
        else:
            fired, late = handle.wait_any(bide.signal("n", int), bide.after(3600))
            value = fired.value
        record(handle, "got", f"signal-{k}", value)
        values.append(value)
    leave(handle)
    return values

@bide.task(gate=bide.all_of(bide.signal("open", int), bide.after(0.01)))
def opened(handle: bide.TaskHandle) -> int:
    enter(handle)
    leave(handle)
    return 7

@bide.task(gate=bide.after(0.02))
def gated(orders: int, handle: bide.TaskHandle) -> int:
    enter(handle)
    leave(handle)
    return orders + 100

@bide.task
def last(gated: int, flaky: int, polls: int, handle: bide.TaskHandle, context: bide.Context) -> int:
    enter(handle)
    context["who"] = [*context["who"], "last"]
    leave(handle)
    return gated + flaky + polls

workflow = bide.Workflow("killed", [orders, flaky, polls, mail, opened, gated, last], signals=["n", "open"])
SIGNALS = int(words[2])

def signal_all(runner, run):
    with contextlib.suppress(bide.SignalRejected):  # it has ended
        runner.signal(run, "open", 1, id="open")
        for k in range(SIGNALS):
            runner.signal(run, "n", k, id=str(k))

def send():
    with bide.Runner(db) as runner:  # it has no workflow: it executes nothing
        while True:
            for run in runner.runs(status="Running"):
                signal_all(runner, run.id)
            time.sleep(0.01)

def live(life, up):
    runner = bide.Runner(db, slots=4, workflows=[workflow])
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(up, b".")
    for n in (2 * life, 2 * life + 1):
        runner.submit(workflow, {"n": n}, key=str(n))
        note("submitted", n)
    for run in runner.runs(status="Running"):
        signal_all(runner, run.id)
    stay()

def finish():
    with bide.Runner(db, slots=4, workflows=[workflow]) as runner:
        while left := runner.runs(status="Running"):
            for run in left:
                signal_all(runner, run.id)
                with contextlib.suppress(bide.BideError):  # it may be paused
                    runner.submit(workflow, {"n": int(run.key)}, key=run.key).result(60)

def born(act, *arguments):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        act(*arguments)
        code = 0
    finally:
        os._exit(code)

chance = random.Random(seed)
alive, lives = [], 0
sender = born(send)
for kill in range(kills):
    for _ in range(chance.choice([1, 1, 2]) - len(alive)):
        hear, up = os.pipe()
        alive.append(born(live, lives, up))
        lives += 1
        os.close(up)
        if chance.random() < 0.8:  # else it may be killed while it opens the file
            os.read(hear, 1)
        os.close(hear)
    time.sleep(chance.uniform(0.01, 0.3))
    victim = alive.pop(chance.randrange(len(alive)))
    os.kill(victim, signal.SIGKILL)
    _, status = os.waitpid(victim, 0)
    if not os.WIFSIGNALED(status):
        sys.exit("a process ended by itself")
    say("killed", kill + 1)
for pid in alive:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
_, status = os.waitpid(born(finish), 0)
os.kill(sender, signal.SIGKILL)
os.waitpid(sender, 0)
sys.exit(status)
"""


def kill(file: Path, seed: int, kills: int) -> None:
    """Kill this many processes, let one more finish the remaining runs, and check everything."""
    with Child(LIVES, file, str(seed), str(kills), str(SIGNALS)) as killer:
        for number in range(kills):
            killer.expect(f"killed {number + 1}")
        killer.join()
    lines = ledger(file)
    judge(lines)
    submitted = {line.split()[1] for line in lines if line.startswith("submitted ")}
    with bide.Runner(file) as reader:
        runs = reader.runs()
        shown = {run.id: [event.value for event in reader.events(run)] for run in runs}
    assert submitted <= {run.key for run in runs}
    for run in runs:
        events_are_there(shown[run.id], run.id, lines)
        if run.status is bide.RunStatus.Paused:
            killed_its_processes(run, lines)
        else:
            equals_one_without_a_crash(run)
    assert sum(run.status is bide.RunStatus.Paused for run in runs) <= 1 + len(runs) // 50


def judge(lines: Iterable[str]) -> None:
    """Read the ledger in order; a line in a wrong place breaks a guarantee."""
    got: dict[tuple[str, ...], str] = {}
    attempts: dict[tuple[str, str], int] = {}
    left: dict[tuple[str, str], float] = {}
    for line in lines:
        what, run, *more = line.split()
        if what == "submitted":
            continue
        task, *more = more
        match what:
            case "did":
                assert (run, task, *more) not in got, f"a committed step runs again: {line}"
            case "got":
                name, value = more
                assert got.setdefault((run, task, name), value) == value, f"a step returns something else: {line}"
            case "enter":
                attempt, at = int(more[0]), float(more[1])
                for other, dependencies in AFTER.items():
                    assert task not in dependencies or (run, other) not in attempts, f"a committed task again: {line}"
                assert all((run, on) in left for on in AFTER[task]), f"before what it depends on: {line}"
                assert attempts.get((run, task), 1) <= attempt, f"an attempt that was over: {line}"
                attempts[run, task] = attempt
                if task == "gated":
                    assert at >= left[run, "orders"] + GATE - ROUNDING, f"a gate opens early: {line}"
            case "leave":
                left.setdefault((run, task), float(more[0]))
            case "woke":
                due, now = map(float, more)
                assert now >= due - ROUNDING, f"an early wake: {line}"
            case _:
                raise AssertionError(line)


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
        if whose != run.id or what == "did":
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
    assert run.outputs == {**outputs, "last": orders + 100 + 2 * n - 1}
    assert run.context.to_dict() == {"n": n, "orders": orders, "polls": n, "who": ["orders", "last"]}
    assert {name: task.attempts for name, task in run.tasks.items()} == {**dict.fromkeys(AFTER, 1), "flaky": 3}


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
