"""Print when another process can read each ended task of a bide file: `python -m benchmarks.reader FILE COUNT`.

It is a separate process because an application must not open its store's file
with a second SQLite library, and because a body that computes would delay it.
"""

import json
import sqlite3
import sys
import time


def main() -> None:
    """Print a line when reading begins, then the times (CLOCK_MONOTONIC) at which COUNT tasks became readable."""
    connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
    count = int(sys.argv[2])
    seen: list[float] = []
    print("reading", flush=True)
    while len(seen) < count:
        (rows,) = connection.execute("SELECT count(*) FROM task WHERE ended_at IS NOT NULL").fetchone()
        seen += [time.monotonic()] * (rows - len(seen))
        time.sleep(0.0001)  # leave the core to the measured process
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
