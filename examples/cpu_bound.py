"""Numbers that are searched for in child processes, one of which is killed.

    python examples/cpu_bound.py

`search` computes in Python, which one interpreter does for one thread at a time. `bide.Processes(2)` executes its
elements in two child processes, without a slot of the runner. The script kills one of them with SIGKILL while it
computes: its attempt fails and is retried in a new child, and nobody else notices.
"""

import os
import signal
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import bide

processes = bide.Processes(2)
STEP = 2_000


@bide.task
def ranges(until: int) -> list[int]:
    """Divide the numbers into ranges."""
    return list(range(0, until, STEP))


@bide.task(executor=processes, retry=bide.Retry(attempts=3, delay=0))
def search(begin: Annotated[int, bide.Each("ranges")], folder: Path) -> list[int]:
    """Return the primes of a range, the slow way."""
    begun = folder / str(begin)
    begun.write_text(f"{begun.read_text() if begun.exists() else ''}{os.getpid()} ")
    if begin == 0 and begun.read_text().count(" ") == 1:
        threading.Event().wait()  # until it is killed
    return [number for number in range(max(begin, 2), begin + STEP) if all(number % one for one in range(2, number))]


@bide.task
def count(search: list[list[int]]) -> int:
    """Count what was found."""
    return sum(map(len, search))


primes = bide.Workflow("primes", [ranges, search, count])


def main() -> None:
    """Search, kill a child in between, and check the result."""
    with TemporaryDirectory() as name, bide.Runner(":memory:", slots=1) as runner:
        folder = Path(name)
        run = runner.submit(primes, {"until": 8_000, "folder": folder})
        while not (folder / "0").exists() or not (folder / "0").read_text():
            threading.Event().wait(0.01)
        [victim] = map(int, (folder / "0").read_text().split())
        where = next(line.strip() for line in str(run.why()).splitlines() if "search[0]" in line)
        print(f"why:      {where.partition(';')[0]}")
        os.kill(victim, signal.SIGKILL)
        result = run.result()
        pids = {pid for file in folder.iterdir() for pid in file.read_text().split()}
        attempts = [result.tasks[f"search[{number}]"].attempts for number in range(4)]
    print(f"killed:   process {victim}, which searched the first range")
    print(f"attempts: {attempts}, by {len(pids)} processes")
    print(f"primes:   {result['count']}")
    assert str(os.getpid()) not in pids
    assert result["count"] == 1007
    assert attempts == [2, 1, 1, 1]


if __name__ == "__main__":
    main()
