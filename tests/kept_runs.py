"""A run that waits forever after its first task, and a check that its committed part is still there."""

from pathlib import Path

import bide
from processes import PATIENCE, eventually


@bide.task
def kept() -> str:
    return "kept"


@bide.task(gate=bide.until(lambda: False, every=3600))
def never(kept: str) -> str:
    return kept


@bide.task(gate=bide.until(lambda: True))
def ever(kept: str) -> str:
    return kept


waiting = bide.Workflow("w", [kept, never])
"""A run of it waits forever."""


def waits(runner: bide.Runner) -> bide.RunHandle:
    """Submit a run and return once it only waits."""
    handle = runner.submit(waiting, key="k")
    eventually(lambda: runner.get("k").tasks["kept"].status is bide.TaskStatus.Completed, "the first task ends")
    return handle


def has_kept(file: Path) -> None:
    """Check that a new runner finds the committed part, and end the run."""
    with bide.Runner(file) as runner:
        assert runner.get("k")["kept"] == "kept"
    renamed = bide.task(ever, name="never")
    with bide.Runner(file) as runner:
        assert runner.run(bide.Workflow("w", [kept, renamed]), key="k", timeout=PATIENCE)["never"] == "kept"
