"""A runner for each test of a suite of 500 leaves nothing behind on any installed CPython: see `suite_of_500.py`."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import note
from pythons import HERE, PYTHONS, Done, Jobs, Place, jobs

pytestmark = pytest.mark.xdist_group("leaks")  # the first of them starts the jobs that all wait for

PYTEST = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
"""The dependencies of pytest: pure Python, so that each interpreter can use the ones installed for this one."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with jobs() as running:
        for version in PYTHONS:
            running.start(version, suite, version, tmp_path_factory.mktemp("suite"))
        yield running


def suite(version: str, files: Path) -> Done:
    place = Place(PYTHONS[version], files, "")
    path = place.environment()["PYTHONPATH"]
    for name in PYTEST:
        if (found := importlib.util.find_spec(name)) and found.origin:
            origin = Path(found.origin)
            whole = origin.parent if origin.name == "__init__.py" else origin
            (files / "packages" / whole.name).symlink_to(whole)
    (files / "test_suite.py").symlink_to(HERE / "suite_of_500.py")
    command = [PYTHONS[version], "-m", "pytest", "-q", "-s", "-c", "/dev/null", "--rootdir", str(files)]
    quiet = ["-p", "no:cacheprovider", "--basetemp", str(files / "tmp"), str(files / "test_suite.py")]
    return place.call([*command, *quiet], PYTHONPATH=path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


@pytest.mark.parametrize("version", PYTHONS)
def test_a_runner_for_each_of_500_tests_leaves_nothing_behind(
    version: str, outcomes: Jobs, pytestconfig: pytest.Config
) -> None:
    done = outcomes.result(version)
    assert (done.code, done.err) == (0, ""), done.out
    assert "501 passed" in done.out
    growth = re.search(r"growth (-?\d+)", done.out)
    assert growth
    note(pytestconfig, f"CPython {version}: 400 more runners added {int(growth[1]) / 1024:.0f} KiB to their process")
