"""Limits, schedules and watches hold across the processes that share a PostgreSQL, also when one of them dies."""

import itertools
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import bide
from processes import Child, eventually, ledger

LIMITED = """
@bide.task(limit=bide.Limit("single", executing=1))
def alone(n: int) -> int:
    note("in", os.getpid())
    time.sleep(0.005)
    note("out", os.getpid())
    return os.getpid()

with bide.Runner(words[0], slots=4, workflows=[bide.Workflow("limited", [alone])]) as runner:
    say("ready")
    stay()
"""

SERVING = """
from datetime import timedelta

@bide.task
def ticks(scheduled_at: str) -> str:
    return scheduled_at

@bide.task
def served(n: int) -> int:
    return n

began = float(words[1])

def source(cursor: int | None):
    count = int((time.time() - began) * 50)
    # The last three are returned again.
    return [(str(n), {"n": n}) for n in range(max(0, (cursor or 0) - 3), count)], count

ticking, watched = bide.Workflow("ticking", [ticks]), bide.Workflow("watched", [served])
with bide.Runner(words[0], slots=4, workflows=[ticking, watched]) as runner:
    runner.schedule("ticks", ticking, timedelta(seconds=0.1), on_miss="all")
    runner.watch("items", watched, source, every=0.05)
    say("ready")
    stay()
"""


@bide.task
def alone(n: int) -> int:
    raise AssertionError("executed elsewhere")


def test_a_limit_holds_across_processes_and_the_death_of_one(postgres: str, file: Path) -> None:
    bide.Runner(postgres).close()
    workflow = bide.Workflow("limited", [alone])
    with Child(LIMITED, file, postgres) as one, Child(LIMITED, file, postgres) as two, bide.Client(postgres) as client:
        one.expect("ready")
        two.expect("ready")
        runs = [client.submit(workflow, {"n": n}) for n in range(80)]
        eventually(lambda: len(ledger(file)) > 20, "some are done")
        dead, other = (one, two) if ledger(file)[-1].endswith(str(one.pid)) else (two, one)
        dead.kill()
        assert {run.result(timeout=60)["alone"] for run in runs} >= {other.pid}
        lines = [line.split() for line in ledger(file)]
        of_dead = [at for at, (_, pid) in enumerate(lines) if pid == str(dead.pid)]
        if lines[of_dead[-1]][0] == "in":
            del lines[of_dead[-1]]  # it was killed within the body
        for (what, pid), (then, by) in itertools.pairwise(lines):
            assert (what, then, pid == by) in {("in", "out", True), ("out", "in", True), ("out", "in", False)}, lines
        [limit] = client.limits()
        assert all((use.executing, use.in_flight) == (0, 0) for use in limit.uses)


def test_each_tick_and_each_item_starts_one_run_whoever_notices_it(postgres: str, file: Path) -> None:
    bide.Runner(postgres).close()
    began = str(datetime.now().astimezone().timestamp())
    with bide.Client(postgres) as client, Child(SERVING, file, postgres, began) as one:
        one.expect("ready")
        with Child(SERVING, file, postgres, began) as two:
            two.expect("ready")
            eventually(lambda: len(client.runs(workflow="ticking")) > 5, "there are ticks")
            eventually(lambda: len(client.runs(workflow="watched")) > 20, "there are items")
            one.kill()
            so_far = len(client.runs(workflow="ticking")), len(client.runs(workflow="watched"))
            eventually(lambda: len(client.runs(workflow="ticking")) > so_far[0] + 5, "the other one has ticks")
            eventually(lambda: len(client.runs(workflow="watched")) > so_far[1] + 20, "the other one has items")
            client.pause_schedule("ticks")
            client.pause_watch("items")
            eventually(lambda: not client.runs(status="Running"), "all have ended")
            two.kill()
        keys = Counter(run.key or "" for run in client.runs())
        [watch] = client.watches()
    assert set(keys.values()) == {1}, keys
    moments = sorted(datetime.fromisoformat(key.removeprefix("ticks@")) for key in keys if key.startswith("ticks@"))
    assert {later - earlier for earlier, later in itertools.pairwise(moments)} == {timedelta(seconds=0.1)}
    items = {int(key.removeprefix("items@")) for key in keys if key.startswith("items@")}
    assert items == set(range(watch.started))
