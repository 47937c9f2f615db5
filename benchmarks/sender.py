"""Send a signal to a run of another process, or commit a row: `python -m benchmarks.sender FILE RUN BARE`.

One line of the standard input is a signal, the next one a row in the file BARE, and so on.
"""

import json
import sqlite3
import sys
import time

import bide


def main() -> None:
    """Print the times (CLOCK_MONOTONIC) just before each, after the end of the input."""
    file, run, bare = sys.argv[1:]
    connection = sqlite3.connect(bare, isolation_level=None)
    connection.execute("PRAGMA synchronous=NORMAL")
    times = []
    with bide.Runner(file) as runner:
        for number, _ in enumerate(sys.stdin):
            times.append(time.monotonic())
            if number % 2 == 0:
                runner.signal(run, "go", number)
            else:
                connection.execute("INSERT INTO row DEFAULT VALUES")
    connection.close()
    print(json.dumps(times))


if __name__ == "__main__":
    main()
