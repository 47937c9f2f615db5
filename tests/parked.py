"""Workflows that two processes of `exit_cases/waits.py` share: the first exits, the next one continues."""

import os
import threading
from collections import Counter
from pathlib import Path

import bide
from exit_prelude import STORE

flag = Path(STORE) / "flag"
notes = Path(STORE) / "notes"

STAGES = ("before", "in pay", "in the wait", "in ship", "after")


def deferred(handle: bide.RunHandle) -> bool:
    """Whether all tasks of a run are deferred."""
    return all(task.sub_status is bide.SubStatus.Deferred for task in handle._snapshot().tasks.values())


def note(*words: str) -> None:
    """Append a line to a file that survives the process."""
    with notes.open("a") as file:
        file.write(", ".join(words) + "\n")


def noted() -> list[list[str]]:
    """Return all lines of all processes."""
    return [line.split(", ") for line in notes.read_text().splitlines()] if notes.exists() else []


def done() -> Counter[tuple[str, ...]]:
    """Count the executions of each step, by the stage at which its run was left."""
    return Counter((stage, *what) for kind, stage, *what in noted() if kind == "does")


def reached() -> set[str]:
    """Return the stages that were reached, so that the process may exit."""
    return {stage for kind, stage, *_ in noted() if kind == "reached"}


@bide.task
def waits(n: int, handle: bide.TaskHandle) -> list[int]:
    first = handle.step(os.getpid)
    handle.defer_until(flag.exists, 20)
    return [n, first, os.getpid(), handle.attempt]


@bide.task
def swallows(handle: bide.TaskHandle) -> str:
    got = "nothing"
    try:
        handle.defer_until(flag.exists, 20)
        got = "the flag is there"
    except BaseException:  # noqa: BLE001, S110 - careless on purpose
        pass
    return got


@bide.task
def passes(stage: str, handle: bide.TaskHandle) -> str:
    """Pay, wait and ship; stay at one stage until the flag file exists."""

    def stay(here: str) -> None:
        if stage == here and not flag.exists():
            note("reached", stage)
            threading.Event().wait()

    def does(what: str, becomes: str) -> str:
        note("does", stage, what)
        stay(f"in {what}")
        return becomes

    def satisfied() -> bool:
        if stage == "in the wait" and not flag.exists():
            if stage not in reached():
                note("reached", stage)
            return False
        return True

    stay("before")
    paid = handle.step(does, "pay", "paid", name="pay")
    handle.defer_until(satisfied, 1, name="stock")
    shipped = handle.step(does, "ship", "shipped", name="ship")
    stay("after")
    return f"{paid}, {shipped}"


workflow = bide.Workflow("w", [waits])
careless = bide.Workflow("careless", [swallows])
stages = bide.Workflow("stages", [passes])
