"""The demo's view: which task runs, waits or is done, and the timeline at the end.

It shows `bide.RunResult` snapshots, independent of the process that executes the run.
On a terminal it draws a live table; otherwise it prints a line for each change.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

import bide

from .worker import SLOTS

if TYPE_CHECKING:
    from types import TracebackType

STYLE = {"runs": "bold green", "waits": "yellow", "done": "dim", "not started": "dim"}
BAR_WIDTH = 60


def describe(task: bide.TaskResult) -> tuple[str, str]:
    """Return one word for what a task does, and what it waits for, if it waits."""
    if task.status == bide.TaskStatus.Completed:
        return "done", ""
    if task.status == bide.TaskStatus.Running:
        if task.sub_status == bide.SubStatus.Deferred:
            return "waits", task.blocked_by or "a wait"
        return "runs", ""
    if task.status in {bide.TaskStatus.Pending, bide.TaskStatus.Ready}:
        return ("waits", task.blocked_by) if task.blocked_by else ("not started", "")
    return str(task.status).lower(), task.blocked_by or ""


@dataclass
class View:
    """A context manager that shows snapshots: call `show` for each."""

    console: Console = field(default_factory=Console)
    began: float = field(default_factory=time.monotonic)
    executed_by: str = "nobody"
    _since: dict[str, tuple[str, float]] = field(default_factory=dict)
    _live: Live | None = None

    def __enter__(self) -> Self:
        """Start drawing, if there is a terminal."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; the last table stays."""
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print an event outside of the run: a process is started or killed, a file is delivered."""
        line = f"{time.monotonic() - self.began:5.1f} s  {text}"
        if self._live is None:
            print(line, flush=True)
        else:
            self._live.console.print(line, highlight=False)

    def show(self, run: bide.RunResult) -> None:
        """Show the run as it is now."""
        now = time.monotonic()
        table = Table(
            title=f"run {run.id}, key {run.key}, {run.status}",
            title_justify="left",
            min_width=BAR_WIDTH,
        )
        for column in ("task", "does", "for", "on"):
            table.add_column(column, min_width=9)
        used = 0
        for name, task in run.tasks.items():
            word, reason = describe(task)
            used += word == "runs"
            if self._since.get(name, ("", 0.0))[0] != word:
                self._since[name] = (word, now)
                if self._live is None and word != "not started":
                    print(
                        f"{now - self.began:5.1f} s    {name} {word} {reason and f'on {reason}'}",
                        flush=True,
                    )
            passed = f"{now - self._since[name][1]:.1f} s" if word in {"runs", "waits"} else ""
            table.add_row(name, word, passed, reason, style=STYLE.get(word, "red"))
        if self._live is not None:
            table.caption = f"executed by {self.executed_by}, slots in use: {used} of {SLOTS}"
            self._live.update(table, refresh=True)


def timeline(run: bide.RunResult, killed: datetime, restarted: datetime, encoding: str) -> list[str]:
    """Draw when each task started and ended, and where the process was killed and started again."""
    runs, waits = ("█", "░") if encoding.lower().startswith("utf") else ("#", ".")
    start = run.started_at
    if start is None or run.ended_at is None:
        return [f"the run has not ended: {run.status}"]
    seconds_per_cell = (run.ended_at - start).total_seconds() / BAR_WIDTH or 1.0

    def cell(moment: datetime) -> int:
        return max(0, min(BAR_WIDTH, round((moment - start).total_seconds() / seconds_per_cell)))

    marks = [" "] * (BAR_WIDTH + 1)
    marks[cell(killed)] = "X"
    marks[cell(restarted)] = ">"
    lines = [f"{'':14} {''.join(marks)}   X killed, > started again"]
    for name, task in run.tasks.items():
        if task.first_started_at is None or task.ended_at is None:
            lines.append(f"{name:14} did not run: {task.status}")
            continue
        first, last = cell(task.first_started_at), cell(task.ended_at)
        length = (task.ended_at - task.first_started_at).total_seconds()
        if task.waited > length:  # a gate: the wait was before the body started
            first = cell(task.first_started_at - timedelta(seconds=task.waited))
        mark = waits if task.waited > length / 2 else runs
        bar = " " * first + mark * max(1, last - first)
        note = f"{length:.1f} s" + (f", {task.waited:.1f} s waiting" if task.waited else "")
        lines.append(f"{name:14} {bar:{BAR_WIDTH + 1}}   {note}")
    return lines
