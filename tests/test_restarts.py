"""Many runs of every kind across many restarts: everything ends, and nothing committed is done again.

Here closes and kills come at random moments; other tests choose the moment.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import bide
from processes import Child, eventually, ledger, ran


def busy_task(n: int, random_: random.Random) -> Callable[..., int]:
    """A task that steps, sleeps, waits, fails at times, and writes to the context."""
    rounds = random_.randrange(3)
    polls = [random_.randrange(3) for _ in range(rounds)]

    def body(handle: bide.TaskHandle, context: bide.Context) -> int:
        for k in range(rounds):
            handle.step(int, k, name=f"step {k}")
            handle.sleep(0.001 * k, name=f"sleep {k}")
            left = iter([False] * polls[k] + [True] * 100)
            handle.defer_until(lambda left=left: next(left), 1, name=f"wait {k}")  # type: ignore[misc]
        context[f"k{n}"] = n
        if n % 5 == handle.attempt:
            raise ValueError("now and then")
        return n

    return bide.task(body, name=f"t{n}", retry=bide.Retry(attempts=20, delay=0.001))


def test_runs_survive_any_number_of_closes_at_any_moment(file: Path) -> None:
    random_ = random.Random(7)  # noqa: S311 - not for cryptography
    workflows = [bide.Workflow(f"f{m}", [busy_task(n, random_) for n in range(15)]) for m in range(4)]
    for _ in range(6):
        with bide.Runner(file, slots=3, workflows=workflows) as runner:
            for workflow in workflows:
                runner.submit_many(workflow, [None] * 3)
            threading.Event().wait(random_.random() * 0.1)  # any moment
    with bide.Runner(file, slots=3, workflows=workflows) as runner:
        eventually(lambda: all(run.status is bide.RunStatus.Completed for run in runner.runs()), "all runs have ended")
        runs = runner.runs()
        assert len(runs) == 72
        for run in runs:
            assert run.outputs == {f"t{n}": n for n in range(15)}
            assert run.context.to_dict() == {f"k{n}": n for n in range(15)}


KILLED = """
def body(n):
    def work(handle: bide.TaskHandle) -> int:
        def charge(m: int) -> int:
            note("charged", handle.run_id, n, m)
            return m
        got = 0
        for m in range(3):
            got += handle.step(charge, m, name=f"charge {m}")
            note("committed", handle.run_id, n, m)
            handle.sleep(0.002, name=f"sleep {m}")
        return got
    return bide.task(work, name=f"t{n}")

tasks = [body(n) for n in range(4)]

@bide.task
def total(t0: int, t1: int, t2: int, t3: int) -> int:
    return t0 + t1 + t2 + t3

workflow = bide.Workflow("w", [*tasks, total])
runner = bide.Runner(db, slots=2, workflows=[workflow])
handles = [runner.submit(workflow, key=str(n)) for n in range(5)]
say("submitted")
for handle in handles:
    assert handle.result()["total"] == 12
say("all done")
"""


def test_runs_survive_kills_and_no_committed_step_is_done_again(file: Path) -> None:
    random_ = random.Random(11)  # noqa: S311
    for _ in range(8):
        with Child(KILLED, file) as child:
            child.expect("submitted")
            threading.Event().wait(random_.random() * 0.05)  # any moment
            child.kill(or_ended=True)
    assert ran(KILLED, file)[-1] == "all done"
    committed: Counter[str] = Counter()
    for line in ledger(file):
        word, step = line.split(" ", 1)
        if word == "charged":
            assert not committed[step], f"a committed step was done again: {step}"
        else:
            committed[step] += 1
    assert len(committed) == 5 * 4 * 3
