"""The demo's worker, a separate process: it runs the workflow, or continues its run.

    python -m examples.demo.worker DATABASE FILE LEDGER

It does the same thing when it is started again after it was killed.
"""

import sys

import bide

from .workflow import KEY, ingest

SLOTS = 1


def main(database: str, path: str, ledger: str) -> None:
    """Run to the end and print the last task's value."""
    with bide.Runner(database, slots=SLOTS) as runner:
        result = runner.run(ingest, {"path": path, "ledger": ledger}, key=KEY)
        print(result.id, result["publish"])


if __name__ == "__main__":
    main(*sys.argv[1:])
