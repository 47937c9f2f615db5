"""A check that the tests of refusals share."""

from collections.abc import Callable

import pytest

import bide


@bide.task
def load(path: str) -> str:
    return path


def refused(
    error: type[BaseException], words: list[str], call: Callable[[], object], runner: bide.Runner | None = None
) -> None:
    """Check the error and its message, and that no run was created."""
    before = len(runner.runs()) if runner is not None else 0
    with pytest.raises(error) as raised:
        call()
    for word in words:
        assert word in str(raised.value), f"{word!r} is not in: {raised.value}"
    if runner is not None:
        assert len(runner.runs()) == before
