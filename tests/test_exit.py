"""The interpreter may exit, or the process fork, at any moment.

It ends promptly, quietly and with the exit code that it was given, and a run that has
not ended by then is finished by the next process.

Each case of `exit_cases` is a script that each CPython at hand (`pythons.py`) runs in a process of its own, some of
them at the same time. ``BIDE_EXIT_REPEAT`` runs each case that many times.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import note
from exit_cases import CASES, FINISH, Case
from pythons import OLDEST, PYTHONS, VERSIONS, Done, Jobs, Place, jobs

pytestmark = pytest.mark.xdist_group("exit")  # the first of them starts what all wait for

REPEAT = int(os.environ.get("BIDE_EXIT_REPEAT", "1"))
PROMPT = 1.0
"""Seconds from the end of a script to the end of its process, on a machine that has nothing else to do."""
TRIES = 4
"""The best of so many must be prompt: a machine that is busy with others is late, and not always."""
HUNG = 14.0
"""None of the tries may take so long. (A lease runs out after 15.)"""


def prompt() -> float:
    """Seconds that an exit may take now: it has its share of the processors."""
    return PROMPT * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """What the cases that were asked for come to."""
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
    """Name in the summary the interpreters that the other tests did not try."""
    if version not in PYTHONS:
        pytest.skip(f"no CPython {version} with msgspec at hand (make pythons)")


def try_case(version: str, name: str, files: Path, slowest: dict[str, tuple[float, str]], memory: bool) -> None:
    """Run a case, again if it was slow."""
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


def run_case(case: Case, place: Place) -> float:
    """Run a case and compare; return how long its process took to exit."""
    done = place.run(case.script)
    lines = done.out.splitlines(keepends=True)
    printed = "".join(line for line in lines if not line.startswith("end "))
    assert (done.code, done.err, printed) == (case.code, "", case.out)
    if place.store and case.again:
        ended(place.run(FINISH), f"{case.again}\n")
    if place.store and case.then:
        ended(place.run(case.then), case.then_out)
    return max((done.ended - float(line.split()[1]) for line in lines if line.startswith("end ")), default=0.0)


def ended(done: Done, out: str) -> None:
    """Compare what came of the next process."""
    assert (done.code, done.err, done.out) == (0, "", out)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("version", PYTHONS)
def test_exit_is_prompt_and_quiet(version: str, name: str, outcomes: Jobs) -> None:
    """Whatever bodies do, the process ends as the script asked, and at once; the next one finishes its runs."""
    outcomes.result((version, name, False))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.memory])
@pytest.mark.parametrize("version", [OLDEST])
def test_exit_with_a_store_in_memory_is_prompt_and_quiet(version: str, name: str, outcomes: Jobs) -> None:
    """The same where nothing is written."""
    outcomes.result((version, name, True))
