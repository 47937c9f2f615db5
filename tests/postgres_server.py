"""The PostgreSQL of the tests: `scripts/postgres run` starts the one that all share; a test can start its own."""

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "postgres"
ABSENT = 3  # the script's exit code where no server can be started

_numbers = itertools.count()


def shared() -> str:
    """Return the URL of the server that all tests share; skip the test if there is none."""
    if not (url := os.environ.get("BIDE_TEST_POSTGRES")):
        pytest.skip("there is no PostgreSQL for tests: scripts/postgres run COMMAND starts one")
    return url


def fresh_schema(server: str | None = None) -> str:
    """Return the URL of a store in a schema that does not exist yet."""
    name = f"t{os.getpid()}_{next(_numbers)}_{time.time_ns() % 10**9}"
    return f"{server or shared()}?schema={name}"


class SqlError(Exception):
    """What psql says of a statement that failed."""


def sql(url: str, statement: str) -> list[str]:
    """Execute a statement with psql and return its rows, as `psql -At` writes them."""
    done = subprocess.run(
        [psql(), "--no-psqlrc", "-XqAt", "-v", "ON_ERROR_STOP=1", url.partition("?")[0], "-c", statement],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SqlError(done.stderr.strip())
    return done.stdout.splitlines()


def psql() -> str:
    """Return the path of psql."""
    found = shutil.which("psql") or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"), reverse=True)), None
    )
    if found is None:
        pytest.skip("there is no psql here")
    return found


class Server:
    """A server of a test's own: its URL is the same after each start."""

    def __init__(self, *settings: str) -> None:
        shared()  # a test that shall have no PostgreSQL starts none either
        # As root, the server runs as another user, who cannot enter the folders that pytest makes.
        self._directory = tempfile.TemporaryDirectory(prefix="bide-postgres-")
        self.folder = Path(self._directory.name)
        self.folder.chmod(0o755)
        self.url = self._control("start", *settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self._directory.cleanup()

    def stop(self) -> None:
        """Stop it, and with it all sessions."""
        self._control("stop", "fast")

    def kill(self) -> None:
        """Stop it as by a crash: it recovers when it is started again."""
        self._control("stop", "immediate")

    def start_again(self) -> None:
        """Start it again, under the same URL."""
        self._control("start")

    def copy(self) -> None:
        """Copy its data while it is stopped."""
        self._control("copy")

    def restore(self) -> None:
        """Put the copy in the place of its data while it is stopped."""
        self._control("restore")

    def promote(self) -> None:
        """Start it, stopped, as a standby that becomes the primary of a new timeline."""
        self._control("promote")

    def pooler(self, mode: str = "transaction") -> str:
        """Start a pooler before it and return the pooler's URL; skip the test if there is none."""
        return self._control("pooler", mode)

    def _control(self, action: str, *arguments: str) -> str:
        ended = subprocess.run(
            [str(SCRIPT), action, str(self.folder), *arguments], capture_output=True, text=True, check=False
        )
        if ended.returncode == ABSENT:
            pytest.skip(ended.stderr.strip())
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()
