"""Fixtures and hooks for all tests."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import bide
import postgres_server

settings.register_profile("bide", deadline=None)  # a loaded machine is slow at times, which is not a failure
settings.load_profile("bide")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a background job of a shell. Processes that the tests start would ignore Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

NOTES = pytest.StashKey[list[str]]()


def note(config: pytest.Config, line: str) -> None:
    """Print a line at the end of the session: a measurement that no test asserts."""
    config.stash.setdefault(NOTES, []).append(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the lines of a test process to the process that prints."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["notes"] = session.config.stash.get(NOTES, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Receive the lines of a test process."""
    for line in getattr(node, "workeroutput", {}).get("notes", []):
        note(node.config, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the lines."""
    for line in config.stash.get(NOTES, []):
        terminalreporter.write_line(line)


def shown(value: object) -> str:
    """Return a value's text in a test name without addresses, so that every process has the same name."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store in a file."""
    return tmp_path / "bide.db"


@pytest.fixture
def postgres() -> str:
    """A store in a schema of its own, on the PostgreSQL that all tests share."""
    return postgres_server.fresh_schema()


@pytest.fixture
def own_postgres() -> Iterator[postgres_server.Server]:
    """A PostgreSQL that the test may stop, kill and start again."""
    with postgres_server.Server() as server:
        yield server


KINDS = ("memory", "sqlite")
"""The stores on which tests are run; a module names others with `KINDS = (..., "postgres")`."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that has the fixture `store` on each kind of store."""
    given = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    named = {name.strip() for names in given for name in (names.split(",") if isinstance(names, str) else names)}
    its_own = "store" in named or hasattr(metafunc.module, "store")
    if "store" in metafunc.fixturenames and not its_own:
        metafunc.parametrize("store", getattr(metafunc.module, "KINDS", KINDS), indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, file: Path) -> str:
    """Each kind of store in turn."""
    match request.param:
        case "memory":
            return ":memory:"
        case "sqlite":
            return str(file)
        case _:
            return postgres_server.fresh_schema()


@pytest.fixture
def runner(store: str) -> Iterator[bide.Runner]:
    """A runner with four slots on each kind of store."""
    with bide.Runner(store, slots=4) as runner:
        yield runner
