"""The scripts of `test_exit.py` and the expected outcome of each, by subject.

Each script begins with all names of `exit_prelude.py`.
"""

from exit_cases import bodies, callers, forks, idle_and_busy, interpreters, references, signals, waits
from exit_cases.case import FINISH, Case

__all__ = ["CASES", "FINISH", "Case"]

SUBJECTS = (idle_and_busy, bodies, waits, references, callers, forks, interpreters, signals)
CASES: dict[str, Case] = {name: case for subject in SUBJECTS for name, case in subject.CASES.items()}
assert len(CASES) == sum(len(subject.CASES) for subject in SUBJECTS), "two cases have one name"
