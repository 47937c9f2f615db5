"""A folder is watched: each file that comes into it starts one run, however often the process is killed.

    python examples/watched_folder.py in
    cp some.csv in/

The cursor is the time of the newest file seen. Files with that time are returned again; their keys start no second run.
"""

import sys
from pathlib import Path
from typing import TypeAlias

import bide

Found: TypeAlias = tuple[list[tuple[str, dict[str, str]]], int]


@bide.task
def count(path: str) -> int:
    """Count the rows of a file."""
    return len(Path(path).read_text().splitlines())


@bide.task
def report(path: str, count: int) -> str:
    """Say how many there are."""
    line = f"{Path(path).name}: {count} rows"
    print(line, flush=True)
    return line


counting = bide.Workflow("counting", [count, report])


class Folder:
    """A source: the files of a folder that are no older than the newest one seen so far."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder."""
        self.folder = folder

    def __call__(self, newest: int | None) -> Found:
        """Return the new files, and the time of the newest one."""
        files = [(file.stat().st_mtime_ns, file) for file in self.folder.glob("*.csv")]
        new = sorted((time, file) for time, file in files if newest is None or time >= newest)
        items = [(f"{file.name}@{time}", {"path": str(file)}) for time, file in new]
        return items, max((time for time, _ in new), default=newest or 0)


def watch(runner: bide.Runner, folder: Path) -> None:
    """Have a run started for each file of a folder."""
    runner.watch("folder", counting, Folder(folder), every=1)


if __name__ == "__main__":
    inbox = Path(sys.argv[1])
    inbox.mkdir(exist_ok=True)
    with bide.Runner("watched.db") as runner:
        watch(runner, inbox)
        runner.serve()
