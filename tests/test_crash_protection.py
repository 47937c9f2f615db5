"""A run that kills its process is paused; runs beside it, or killed from outside, continue.

A body is blamed for the death of its process only if no other suspect was executing. After two deaths suspects
are entered one at a time.
"""

from pathlib import Path

import pytest

import bide
from processes import Child, killed, ledger, ran

BESIDE = """
life, *order = words
together = life in ("1", "2")
everyone = threading.Barrier(len(order))
lock, now = threading.Lock(), set()

class Executes:
    "Of suspects of two deaths no two execute at once."
    def __init__(self, name):
        self.name = name
    def __enter__(self):
        with lock:
            now.add(self.name)
            if not together and len(now) > 1:
                note("together", *sorted(now))
    def __exit__(self, *_):
        with lock:
            now.discard(self.name)

def body(name, handle=None):
    note("enter", name)
    with Executes(name):
        if together:
            everyone.wait()
        if name.startswith("poison"):
            die()
        if together:
            stay()
    return name

@bide.task
def plain(name: str) -> str:
    return body(name)

@bide.task
def with_handle(name: str, handle: bide.TaskHandle) -> str:
    return body(name)

@bide.task
def before(name: str) -> str:
    return name

@bide.task
def after(before: str) -> str:
    return body(before)

workflows = {
    "plain": bide.Workflow("plain", [plain]),
    "handle": bide.Workflow("handle", [with_handle]),
    "chain": bide.Workflow("chain", [before, after]),
}
with bide.Runner(db, slots=len(order) + 1, workflows=list(workflows.values())) as runner:
    def submit(word):
        name, workflow = word.split(":")
        return runner.submit(workflows[workflow], {"name": name}, key=name)
    for handle in [submit(word) for word in order]:
        try:
            handle.result()
        except bide.BideError:
            pass
"""

FEW = ["i1", "i2", "i3", "i4"]


@pytest.mark.parametrize(
    ("order", "workflows"),
    [
        (["poison", *FEW], ["plain"]),
        ([*FEW, "poison"], ["plain"]),
        (["i1", "i2", "poison", "i3", "i4"], ["handle"]),
        (["i1", "poison", "i2"], ["handle", "plain"]),
        (["i1", "poison", "i2", "i3"], ["plain", "handle", "chain"]),
        (["i1", "poison", "i2", "poison2"], ["plain", "handle"]),
    ],
)
def test_only_the_run_that_kills_its_process_is_paused(file: Path, order: list[str], workflows: list[str]) -> None:
    words = [f"{name}:{workflows[n % len(workflows)]}" for n, name in enumerate(order)]
    poison = [name for name in order if name.startswith("poison")]
    deaths = 2 + 5 * len(poison)
    for life in range(1, deaths + 1):
        ran(BESIDE, file, str(life), *words, code=-9)
    ran(BESIDE, file, str(deaths + 1), *words)
    with bide.Runner(file) as runner:
        for name in order:
            run = runner.get(name)
            if name in poison:
                assert run.status is bide.RunStatus.Paused, name
                assert "died 5 times in a row while it executed" in str(run.blocked_by)
            else:
                assert run.status is bide.RunStatus.Completed, f"{name}: {run.blocked_by}"
    done = ledger(file)
    assert [line for line in done if line.startswith("together")] == []
    for name in order:
        assert done.count(f"enter {name}") == (7 if name in poison else 3), name


HELD = """
(life,) = words
entered, go = threading.Event(), threading.Event()

@bide.task
def held(name: str) -> str:
    say("enter", name)
    entered.set()
    if life == "kill":
        stay()
    go.wait()
    return name

@bide.task
def quick() -> int:
    return 7

workflow, fresh = bide.Workflow("held", [held]), bide.Workflow("fresh", [quick])
"""

BOTH = (
    HELD
    + """
with bide.Runner(db, slots=2, workflows=[workflow]) as runner:
    a, b = (runner.submit(workflow, {"name": name}, key=name) for name in "ab")
"""
)


def died_twice(file: Path) -> None:
    """Two runs whose bodies two dead processes executed; neither run is blamed."""
    for _ in range(2):
        with Child(BOTH + "    stay()\n", file, "kill") as child:
            assert {child.after("enter") for _ in "ab"} == {"a", "b"}
            child.kill()


def test_a_body_that_is_held_back_says_why_and_no_slot_waits_with_it(file: Path) -> None:
    died_twice(file)
    more = """
    while not (why := b._snapshot().tasks["held"].blocked_by):
        time.sleep(0.002)
    say("why", why)
    say("beside", runner.run(fresh)["quick"])
    go.set()
    say("done", a.result()["held"], b.result()["held"])
    assert b.result().tasks["held"].blocked_by is None
    """
    said = ran(BOTH + more, file, "go")
    # The first body says its line at any time before the other one begins.
    assert said.index("enter a") < said.index("enter b")
    said.remove("enter a")
    assert "waits to execute alone, because processes have died while it executed" in said[0]
    assert said[1:] == ["beside 7", "enter b", "done a b"]


def test_a_suspect_that_waits_lets_the_next_one_execute(file: Path) -> None:
    died_twice(file)
    more = """
flag = Path(db).with_suffix(".flag")

@bide.task
def held(name: str, handle: bide.TaskHandle) -> str:
    say("enter", name)
    if name == "a":
        handle.defer_until(flag.exists, poll_interval_ms=10)
    flag.touch()
    return name

workflow = bide.Workflow("held", [held])
with bide.Runner(db, slots=1, workflows=[workflow]) as runner:
    say("done", *(runner.submit(workflow, {"name": name}, key=name).result()["held"] for name in "ab"))
"""
    assert ran(HELD + more, file, "go") == ["enter a", "enter b", "done a b"]


def test_a_close_suspends_the_one_that_executes_and_leaves_those_that_wait(file: Path) -> None:
    died_twice(file)
    with Child(BOTH + "    entered.wait()\n    runner.close(0)\n    os._exit(0)", file, "go") as child:
        assert child.join() == ["enter a"]
    # `a` did not die with its process: now only `b` must be entered alone.
    said = ran(BOTH + "    go.set()\n    say('done', a.result()['held'], b.result()['held'])", file, "go")
    assert said[-1] == "done a b"


STEPS = """
@bide.task
def steps(handle: bide.TaskHandle) -> int:
    done = len(ledger.read_text().splitlines()) if ledger.exists() else 0
    for n in range(20):
        handle.step(note, n, name=f"step {n}")
        if n == done and words == ["kill"]:
            say("one more")
            stay()
    return 20

workflow = bide.Workflow("steps", [steps])
with bide.Runner(db, workflows=[workflow]) as runner:
    say("done", runner.run(workflow, key="k")["steps"])
"""


def test_kills_from_outside_pause_nothing_that_makes_progress(file: Path) -> None:
    for _ in range(8):
        killed(STEPS, file, "kill", at="one more")
    assert ran(STEPS, file)[-1] == "done 20"
    assert ledger(file) == [str(n) for n in range(20)]


FILES = """
entered = {name: threading.Event() for name in ("poison", "innocent")}
ready, over = threading.Event(), threading.Event()

@bide.task
def poison() -> None:
    entered["poison"].set()
    ready.wait()
    die()

@bide.task
def innocent() -> None:
    entered["innocent"].set()
    over.wait()

workflows = [bide.Workflow("poison", [poison]), bide.Workflow("innocent", [innocent])]
with bide.Runner(db, workflows=workflows[:1]) as one:
    kills = one.submit(workflows[0], key="k")
    while not entered["poison"].is_set() and kills.status() is not bide.RunStatus.Paused:
        time.sleep(0.002)
    with bide.Runner(db + "2", workflows=workflows[1:]) as two:
        beside = two.submit(workflows[1], key="k")
        while not entered["innocent"].is_set() and not beside._snapshot().tasks["innocent"].blocked_by:
            time.sleep(0.002)
        ready.set()
        try:
            kills.result()
        except bide.BideError:
            over.set()
        beside.result()
"""


def test_suspects_of_all_runners_of_a_process_are_entered_one_at_a_time(file: Path) -> None:
    # In the second process each is the only suspect of its file, and is blamed once.
    for _ in range(6):
        ran(FILES, file, code=-9)
    ran(FILES, file)
    with bide.Runner(file) as one, bide.Runner(f"{file}2") as two:
        assert one.get("k").status is bide.RunStatus.Paused
        assert two.get("k").status is bide.RunStatus.Completed
