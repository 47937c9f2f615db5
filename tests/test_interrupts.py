"""Ctrl-C at any point of `with bide.Runner(…) as runner: runner.run(…)`: before the run is begun, until it is closed.

The caller gets a `KeyboardInterrupt`, nothing of the runner is left running, and the next run of the key returns
its result without repeating a step that was done before. `interrupted.py` goes through all points, on each
installed CPython. (Ctrl-C within a body, a step and a wait is a case of `exit_cases/signals.py`.)
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pythons import HERE, PYTHONS, Done, Jobs, Place, jobs

pytestmark = pytest.mark.xdist_group("interrupts")  # the first of them starts the jobs that all wait for


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with jobs() as running:
        for version in PYTHONS:
            running.start(version, at_all_points, version, tmp_path_factory.mktemp("interrupts"))
        yield running


def at_all_points(version: str, files: Path) -> Done:
    python = PYTHONS[version]
    return Place(python, files, "").call([python, str(HERE / "interrupted.py"), str(files / "bide.db"), "1", "1"])


@pytest.mark.parametrize("version", PYTHONS)
def test_ctrl_c_at_any_point_raises_in_the_caller_and_the_run_resumes(version: str, outcomes: Jobs) -> None:
    done = outcomes.result(version)
    assert (done.code, done.err) == (0, "")
    points, places = map(int, re.findall(r"\d+", done.out))
    # With fewer points the test would miss the ones that matter.
    assert points > 100
    assert places > 50
