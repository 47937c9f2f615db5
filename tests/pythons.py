"""The installed CPythons, and scripts that each of them runs in its own process.

bide needs msgspec there, so the interpreters are those of `.venv-pythons` (`make pythons`); ``BIDE_PYTHONS`` (paths,
separated like ``PATH``) names others. Those that do not run are left out, and `test_exit.py` names them.
"""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bide

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
HERE = Path(__file__).parent
PATIENCE = 100.0
"""Seconds after which a process hangs: far more than a loaded machine needs."""


def version_of(python: str) -> str | None:
    """Return ``3.12``, say, for a CPython that runs and has what bide needs, else None."""
    code = "import msgspec, sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    name, version = done.stdout.split()
    return version if name == "cpython" else None


def find_pythons() -> dict[str, str]:
    """Return one interpreter for each version, by version."""
    if named := os.environ.get("BIDE_PYTHONS"):
        candidates = named.split(os.pathsep)
    else:
        candidates = [sys.executable, *map(str, sorted(HERE.parent.glob(".venv-pythons/3.*/bin/python")))]
    found: dict[str, str] = {}
    for python in candidates:
        version = version_of(python)
        if version in VERSIONS and version not in found:
            found[version] = python
    return dict(sorted(found.items()))


PYTHONS = find_pythons()
OLDEST = next(iter(PYTHONS), "none")


@dataclass(frozen=True)
class Done:
    """The outcome of a script."""

    code: int
    out: str
    err: str
    ended: float
    """When its process had ended, by the monotonic clock, which processes share."""


@dataclass(frozen=True)
class Place:
    """The environment in which scripts run."""

    python: str
    files: Path
    store: str
    """A directory for SQLite files; empty: the store is in memory."""

    def environment(self) -> dict[str, str]:
        """Only the bide under test: other packages installed beside it are for another interpreter."""
        packages = self.files / "packages"
        if not packages.exists():
            packages.mkdir()
            (packages / "bide").symlink_to(bide.__path__[0])
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(packages), str(HERE)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BIDE_EXIT_STORE": self.store,
        }

    def run(self, script: str) -> Done:
        """Run a script after `exit_prelude.py`."""
        path = self.files / "script.py"
        path.write_text("from exit_prelude import *\n" + textwrap.dedent(script), encoding="utf-8")
        return self.call([self.python, str(path)])

    def call(self, command: list[str], **environment: str) -> Done:
        """Run a program to its end; if it hangs, fail with everything it printed."""
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment(), **environment},
        ) as process:
            try:
                out, err = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"the process hangs; it said {out}\n{err}") from None
            return Done(process.returncode, out, err, time.monotonic())


class Jobs:
    """Runs in parallel what tests wait for: an exiting process mostly waits, too."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._futures: dict[Any, Future[Any]] = {}

    def start(self, key: object, job: Callable[..., Any], *args: object) -> None:
        """Start a job unless it was started already."""
        if key not in self._futures:
            self._futures[key] = self._pool.submit(job, *args)

    def result(self, key: object) -> Any:
        """Wait for a job; raise what it raised."""
        return self._futures[key].result()


@contextmanager
def jobs() -> Iterator[Jobs]:
    """Run one job more at a time than there are processors."""
    with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
        try:
            yield Jobs(pool)
        finally:
            pool.shutdown(cancel_futures=True)
