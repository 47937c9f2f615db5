"""bide's rows about commits, each compared with bare SQLite commits: in one process, on one file system, in turns."""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import bide

from . import measure
from .bide_workflows import Body, one_workflow, open_runner

COMMITS_OF_A_RUN = 2
"""One commit creates the run, the other has the end of its only task."""


def row_bare(setting: measure.Setting) -> measure.Metrics:
    """Runs of one task, one after the other and together, compared with two bare commits for each."""
    with bare_commits(setting) as commit, open_runner(setting) as runner:
        runner.run(one_workflow)

        def together() -> None:
            for handle in runner.submit_many(one_workflow, [{}] * measure.MANY):
                handle.result()

        in_turn, of_run = in_turns(lambda: measure.rate_of_calls(lambda: runner.run(one_workflow), 0.2), commit)
        many, of_many = in_turns(lambda: measure.MANY / measure.timed(together), commit, rounds=3)
    return {"bare": of_run, "bare_single": in_turn / of_run, "bare_many": many / of_many}


def row_grouped(setting: measure.Setting) -> measure.Metrics:
    """Threads that commit at the same time, compared with one bare commit for each event."""
    steps = steps_workflow()
    with bare_commits(setting) as commit, open_runner(setting, slots=measure.SUBMITTERS) as runner:
        runner.run(one_workflow)
        runner.register(steps)
        runs, of_run = in_turns(
            lambda: measure.rate_of_threads(lambda: runner.run(one_workflow), 0.5), commit, rounds=3
        )
        recorded, of_step = in_turns(
            lambda: measure.STEPS / measure.timed(lambda: runner.run(steps)), commit, commits=1, rounds=3
        )
    return {
        "grouped": runs,
        "grouped_bare": runs / of_run,
        "steps": recorded,
        "steps_bare": recorded / of_step,
    }


def steps_workflow() -> bide.Workflow:
    """Build a workflow of tasks that each record a step."""

    def step() -> int:
        return 1

    def recorder(number: int) -> Body:
        def body(handle: bide.TaskHandle) -> int:
            return handle.step(step)

        return bide.task(body, name=f"task-{number}")

    return bide.Workflow("steps", [recorder(number) for number in range(measure.STEPS)])


def in_turns(
    rate: Callable[[], float], commit: Callable[[], None], *, commits: int = COMMITS_OF_A_RUN, rounds: int = 10
) -> tuple[float, float]:
    """Return a rate, and the rate of the equivalent bare commits, each the mean of several turns."""
    rates = [(rate(), measure.rate_of_calls(commit, 0.2) / commits) for _ in range(rounds)]
    return sum(one for one, _ in rates) / rounds, sum(bare for _, bare in rates) / rounds


@contextmanager
def bare_commits(setting: measure.Setting) -> Iterator[Callable[[], None]]:
    """Commits one small row to its own file, with the pragmas of bide's file."""
    with measure.scratch() as folder:
        connection = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        connection.execute("PRAGMA page_size=2048")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={setting.store}")
        connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, value BLOB) STRICT")
        ids = itertools.count()

        def commit() -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO row VALUES (?, ?)", (next(ids), b"value"))
            connection.execute("COMMIT")

        try:
            yield commit
        finally:
            connection.close()


ROWS = {"bare": row_bare, "grouped": row_grouped}
