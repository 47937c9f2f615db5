"""Commit runs to a bide file, about a hundred a second, until killed: `python -m benchmarks.writer FILE`."""

import sys
import time

import bide

from .bide_workflows import noop_named


def main() -> None:
    """Print a line when writing begins, and continue until killed."""
    workflow = bide.Workflow("written", [noop_named("noop")])
    with bide.Runner(sys.argv[1]) as runner:
        print("writing", flush=True)
        while True:
            runner.run(workflow)
            time.sleep(0.01)


if __name__ == "__main__":
    main()
