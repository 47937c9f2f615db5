"""The interpreter may exit, or the process fork, at any moment.

It ends promptly, quietly and with the exit code that it was given, and a run that has
not ended by then is finished by the next process.

Each case of `exit_cases.py` is a script that each CPython at hand runs in a process of
its own. bide needs msgspec there, so the interpreters are those of `.venv-pythons`
(`make pythons`); ``BIDE_PYTHONS`` (paths, separated like ``PATH``) names others.
``BIDE_EXIT_REPEAT`` runs each case that many times.
"""

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import bide
from exit_cases import CASES, FINISH, Case

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
REPEAT = int(os.environ.get("BIDE_EXIT_REPEAT", "1"))
PROMPT = 1.0
"""Seconds from the end of a script to the end of its process."""
HERE = Path(__file__).parent


def version_of(python: str) -> str | None:
    """``3.12`` for a CPython that runs and has what bide needs, else nothing."""
    code = "import msgspec, sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    name, version = done.stdout.split()
    return version if name == "cpython" else None


def find_pythons() -> dict[str, str]:
    """One interpreter for each version, by version."""
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
OLDEST = next(iter(PYTHONS))


@dataclass(frozen=True)
class Place:
    """Where scripts run."""

    python: str
    packages: str
    """The bide that is tested, alone: what else is installed beside it is for another interpreter."""
    files: Path
    store: str

    def run(self, script: str) -> tuple[subprocess.CompletedProcess[str], float]:
        """Run a script; with it, the time of its end."""
        path = self.files / "script.py"
        path.write_text("from exit_prelude import *\n" + textwrap.dedent(script), encoding="utf-8")
        done = subprocess.run(
            [self.python, str(path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([self.packages, str(HERE)]),
                "PYTHONDONTWRITEBYTECODE": "1",
                "BIDE_EXIT_STORE": self.store,
            },
        )
        return done, time.monotonic()


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("packages")
    (place / "bide").symlink_to(bide.__path__[0])
    return str(place)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_cpython_is_at_hand(version: str) -> None:
    """Name in the summary the interpreters that the other tests did not try."""
    if version not in PYTHONS:
        pytest.skip(f"no CPython {version} with msgspec at hand (make pythons)")


def check(place: Place, case: Case) -> None:
    """Run a case and compare."""
    done, ended = place.run(case.script)
    lines = done.stdout.splitlines(keepends=True)
    printed = "".join(line for line in lines if not line.startswith("end "))
    ends = [float(line.split()[1]) for line in lines if line.startswith("end ")]
    assert (done.returncode, done.stderr, printed) == (case.code, "", case.out)
    assert all(ended - end < PROMPT for end in ends)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("version", PYTHONS)
def test_exit_is_prompt_and_quiet(version: str, name: str, packages: str, tmp_path: Path) -> None:
    """Whatever bodies do, the process ends as the script asked, and at once; the next one finishes its runs."""
    case = CASES[name]
    for n in range(REPEAT):
        files = tmp_path / str(n)
        files.mkdir()
        place = Place(PYTHONS[version], packages, files, str(files))
        check(place, case)
        if case.again and version == OLDEST:
            done, _ = place.run(FINISH)
            assert (done.returncode, done.stderr) == (0, "")
            assert int(done.stdout) == case.again


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.memory])
def test_exit_with_a_store_in_memory_is_prompt_and_quiet(name: str, packages: str, tmp_path: Path) -> None:
    """The same where nothing is written."""
    for _ in range(REPEAT):
        check(Place(PYTHONS[OLDEST], packages, tmp_path, ""), CASES[name])
