"""A step of the wall clock (NTP after a resume, an administrator) ends no lease: leases are measured in uptime.

A shim, loaded before the C library's clock, lets a test set the wall clock of its children.
"""

import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from processes import Child, ledger

STEPS = [-86_400, 16, 365 * 86_400]
"""Steps of the clock in seconds, larger than a lease (15 s); the idle process is stopped for less than that."""

WORKFLOWS = """
@bide.task
def work() -> str:
    note("enter", words[0])
    say("in work")
    while not Path(db).with_suffix(".go").exists():
        time.sleep(0.001)
    return words[0]

@bide.task
def other() -> float:
    return time.time()

workflow, others = bide.Workflow("work", [work]), bide.Workflow("other", [other])
"""

FIRST = WORKFLOWS + 'say("result", bide.Runner(db).run(workflow)["work"])\n'

OTHER = (
    WORKFLOWS
    + """
for step in words[1:]:
    while not Path(db).with_suffix("." + step).exists():
        time.sleep(0.001)
    with bide.Runner(db, workflows=[workflow]) as runner:
        say("clock", runner.run(others)["other"])
"""
)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("clock_shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def wall(shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file whose first number is the offset of the children's wall clock, in microseconds."""
    file = tmp_path / "wall"
    file.write_bytes(bytes(4096))
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("SHIM_FILE", str(file))
    return file


def test_a_stepped_wall_clock_ends_no_lease(file: Path, wall: Path) -> None:
    with Child(FIRST, file, "first") as first, Child(OTHER, file, "other", *map(str, STEPS)) as other:
        first.expect("in work")
        first.send(signal.SIGSTOP)  # alive, and nobody renews its lease
        for step in STEPS:
            with wall.open("r+b") as offset:
                offset.write(struct.pack("q", step * 1_000_000))
            # A new runner, which looks for runs of dead runners.
            file.with_suffix(f".{step}").touch()
            assert abs(float(other.after("clock")) - time.time() - step) < 60
        other.join()
        first.send(signal.SIGCONT)
        file.with_suffix(".go").touch()
        assert first.after("result") == "first"
        first.join()
    assert ledger(file) == ["enter first"]
