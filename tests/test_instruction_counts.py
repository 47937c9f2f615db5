"""The instructions that a task, a hop, a run, a wait and a poll take: a busy machine hardly changes them.

They are those of the build that is tested, which optimises less than a release and checks assertions and overflows. The
bounds leave room for another CPython and another compiler, but not for another algorithm.
"""

import shutil
from pathlib import Path

import pytest
from benchmarks import instructions

MOST = {
    ("memory", "task"): 6_300,
    ("memory", "hop"): 11_500,
    ("memory", "run in turn"): 92_000,
    ("memory", "run of many"): 60_000,
    ("memory", "wait"): 230_000,
    ("memory", "poll"): 12_000,
    ("normal", "task"): 20_000,
    ("normal", "hop"): 46_000,
    ("normal", "run in turn"): 186_000,
    ("normal", "run of many"): 110_000,
    ("normal", "wait"): 340_000,
    ("normal", "poll"): 12_000,
}


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind counts the instructions")
def test_nothing_takes_many_more_instructions_than_it_did(tmp_path: Path) -> None:
    counts = {row: functions.total() for row, functions in instructions.count(tmp_path).items()}
    assert counts.keys() == MOST.keys()
    more = {row: f"{count:,}, not {MOST[row]:,}" for row, count in counts.items() if not 0 < count <= MOST[row]}
    assert not more
