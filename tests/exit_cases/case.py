"""The type of a case, and the script of the next process on the same file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A script and its expected outcome."""

    script: str
    code: int = 0
    out: str = ""
    """The expected output before its end."""
    again: int = 0
    """The number of runs left for the next process on the same file, where their bodies return at once."""
    then: str = ""
    """The script of the next process on the same file; it must exit with 0 and print `then_out`."""
    then_out: str = ""
    memory: bool = False
    """Whether the case also runs with a store in memory."""


FINISH = """
# The next process on the same file: registers the workflow, whose bodies now return at once.
ended = {"Completed", "Failed"}
with bide.Runner(store()) as runner:
    left = [run.id for run in runner.runs() if run.status not in ended]
p = pool(2)
for run in left:
    until(lambda: p.runner.get(run).status in ended)
print(len(left))
p.runner.close()
"""

GO_ON = """
# The next process after runs of `parked.stages` were left at each stage.
from parked import *
flag.touch()
runner = bide.Runner(store(), workflows=[stages])
for stage in STAGES:
    assert runner.run(stages, {"stage": stage}, key=stage)["passes"] == "paid, shipped"
# What was recorded before is not done again; what was being done is.
for stage in STAGES:
    print(f"{stage}: paid {done()[stage, 'pay']}, shipped {done()[stage, 'ship']}")
"""
GONE_ON = """\
before: paid 1, shipped 1
in pay: paid 2, shipped 1
in the wait: paid 1, shipped 1
in ship: paid 1, shipped 2
after: paid 1, shipped 1
"""
