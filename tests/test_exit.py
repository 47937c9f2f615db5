"""The interpreter may exit, or the process fork, at any moment.

It ends promptly, quietly and with the given exit code, and a run that has
not ended by then is finished by the next process.

Each case of `exit_cases` is a script that each installed CPython (`pythons.py`) runs in its own process, some of
them at the same time. ``BIDE_EXIT_REPEAT`` runs each case that many times.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import note
from exit_cases import CASES, FINISH, Case
from pythons import OLDEST, PYTHONS, VERSIONS, Done, Jobs, Place, jobs

pytestmark = pytest.mark.alone  # exits are to be prompt, and the first test starts the jobs that all wait for

REPEAT = int(os.environ.get("BIDE_EXIT_REPEAT", "1"))
PROMPT = 1.0
"""Seconds from the end of a script to the end of its process, on an idle machine."""
TRIES = 4
"""The best of this many tries must be prompt: a busy machine is late at times, but not always."""
HUNG = 14.0
"""Seconds that no try may take. (A lease expires after 15.)"""


def prompt() -> float:
    """Return the seconds that an exit may take now, with its share of the processors."""
    return PROMPT * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """The outcomes of the selected cases."""
    slowest: dict[str, tuple[float, str]] = {}
    with jobs() as running:
        for item in request.session.items:
            if isinstance(item, pytest.Function) and item.module is request.module and "outcomes" in item.fixturenames:
                version, name = item.callspec.params["version"], item.callspec.params["name"]
                memory = "memory" in item.name.split("[")[0]
                files = tmp_path_factory.mktemp("exit")
                running.start((version, name, memory), try_case, version, name, files, slowest, memory)
        yield running
    for version, (seconds, name) in sorted(slowest.items()):
        note(request.config, f"CPython {version}: the slowest exit took {seconds:.2f} s ({name})")


@pytest.mark.parametrize("version", VERSIONS)
def test_each_cpython_is_at_hand(version: str) -> None:
    """Name the interpreters that the other tests did not try, in the summary."""
    if version not in PYTHONS:
        pytest.skip(f"no CPython {version} with msgspec at hand (make pythons)")


def try_case(version: str, name: str, files: Path, slowest: dict[str, tuple[float, str]], memory: bool) -> None:
    """Run a case, and again if it was slow."""
    case = CASES[name]
    for n in range(REPEAT):
        best = HUNG
        for again in range(TRIES):
            here = files / f"{n}-{again}"
            here.mkdir()
            took = run_case(case, Place(PYTHONS[version], here, "" if memory else str(here)))
            assert took < HUNG, f"it took {took} s to exit"
            best = min(best, took)
            if best < prompt():
                break
        assert best < prompt(), f"it took {best} s to exit, at best, and may take {prompt()}"
        if best > slowest.get(version, (0.0, ""))[0]:
            slowest[version] = best, name


LOGGED = re.compile(r"task '.+' of run \S+ of '.+': attempt \d+ failed |run \S+ of '.+' (has failed|is paused)")
"""What bide logs of bodies that fail, as these do on purpose."""


def run_case(case: Case, place: Place) -> float:
    """Run a case and compare; return the time its process took to exit."""
    done = place.run(case.script)
    lines = done.out.splitlines(keepends=True)
    printed = "".join(line for line in lines if not line.startswith("end "))
    complaints = "".join(line for line in done.err.splitlines(keepends=True) if not LOGGED.match(line))
    assert (done.code, complaints, printed) == (case.code, "", case.out)
    if place.store and case.again:
        ended(place.run(FINISH), f"{case.again}\n")
    if place.store and case.then:
        ended(place.run(case.then), case.then_out)
    return max((done.ended - float(line.split()[1]) for line in lines if line.startswith("end ")), default=0.0)


def ended(done: Done, out: str) -> None:
    """Compare the outcome of the next process."""
    assert (done.code, done.err, done.out) == (0, "", out)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("version", PYTHONS)
def test_exit_is_prompt_and_quiet(version: str, name: str, outcomes: Jobs) -> None:
    """With any bodies the process exits at once as the script asked; the next process finishes its runs."""
    outcomes.result((version, name, False))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.memory])
@pytest.mark.parametrize("version", [OLDEST])
def test_exit_with_a_store_in_memory_is_prompt_and_quiet(version: str, name: str, outcomes: Jobs) -> None:
    """The same with a store in memory."""
    outcomes.result((version, name, True))
