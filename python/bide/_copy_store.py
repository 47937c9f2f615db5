"""Copies a store: executed by `_rehearse.py` in a process of its own, because the other may have the file open.

There it is open by bide, whose locks a second SQLite library would drop when it closes the file.
"""

import sqlite3
import sys
from pathlib import Path


def copy(path: str, into: str) -> None:
    """Copy the database at `path`, which may be in use, into a file."""
    source = sqlite3.connect(Path(path).absolute().as_uri() + "?mode=ro", uri=True)
    target = sqlite3.connect(into)
    source.backup(target)
    target.close()
    source.close()


if __name__ == "__main__":
    copy(*sys.argv[1:])
