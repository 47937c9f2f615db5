"""Shared by all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import bide

settings.register_profile("bide", deadline=None)  # a loaded machine is slow now and then, which is no failure
settings.load_profile("bide")

NOTES = pytest.StashKey[list[str]]()


def note(config: pytest.Config, line: str) -> None:
    """Have a line printed at the end: what was measured where nothing is asserted of it."""
    config.stash.setdefault(NOTES, []).append(line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the lines."""
    for line in config.stash.get(NOTES, []):
        terminalreporter.write_line(line)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store in a file."""
    return tmp_path / "bide.db"


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, file: Path) -> str:
    """Each kind of store in turn."""
    return ":memory:" if request.param == "memory" else str(file)


@pytest.fixture
def runner(store: str) -> Iterator[bide.Runner]:
    """A runner with four slots on each kind of store."""
    with bide.Runner(store, slots=4) as runner:
        yield runner
