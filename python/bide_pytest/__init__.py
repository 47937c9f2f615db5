"""The pytest plugin of bide: the fixtures `bide_runner` and `bide_clock`; and bide is not rewritten.

It is no part of the package `bide`, so that pytest starts without importing that: only a test that asks for a fixture
does.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bide.testing import Clock, Runner


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Have bide imported as it is: pytest rewrites the `assert`s of every package that brings a plugin.

    bide has none for it. And bodies import parts of bide on their own threads: two threads that compile a rewritten
    module at once fail with a `SystemError` in CPython 3.11.
    """
    rewritten = getattr(early_config.pluginmanager.rewrite_hook, "_must_rewrite", None)
    if isinstance(rewritten, set):  # else pytest has changed
        rewritten.discard("bide")


@pytest.fixture
def bide_clock() -> "Clock":
    """Make the clock of the test: `bide_clock.advance(seconds)` moves its time."""
    from bide.testing import Clock  # noqa: PLC0415 - see above

    return Clock()


@pytest.fixture
def bide_runner(bide_clock: "Clock") -> "Iterator[Runner]":
    """Make a runner in memory that goes by `bide_clock`; its time passes by itself while the test waits for a run."""
    from bide.testing import Runner  # noqa: PLC0415 - see above

    with Runner(clock=bide_clock, auto_advance=True) as runner:
        yield runner
