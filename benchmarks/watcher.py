"""Print when a caller sees the end of each run of another process: `python -m benchmarks.watcher FILE COUNT`."""

import json
import sys
import time

import bide

from .bide_workflows import noop_named


def main() -> None:
    """Print a line before each wait, and after the last one the times (CLOCK_MONOTONIC) at which the runs were seen."""
    workflow = bide.Workflow("watched", [noop_named("body")])
    seen = []
    with bide.Runner(sys.argv[1]) as runner:
        for number in range(int(sys.argv[2])):
            # It exists: this process attaches to it.
            sys.stdin.readline()
            handle = runner.submit(workflow, key=str(number))
            print("watching", flush=True)
            handle.result()
            seen.append(time.monotonic())
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
