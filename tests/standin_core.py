"""A stand-in for `bide._core`, as much as the tests of the pure-Python modules need: the graph and a handle."""

import hashlib
from typing import Any

__version__ = "0.0.0"


class TaskHandle:
    """Stands for the extension's handle where a signature asks for one."""


TaskHandle.__module__ = "bide"


class Graph:
    """Order and version of a graph, in the simplest way."""

    def __init__(self, name: str, tasks: list[tuple[str, list[str], str]]) -> None:
        from bide._errors import DefinitionError  # noqa: PLC0415 - bide imports this file first

        if not tasks:
            raise DefinitionError(f"workflow {name!r} has no tasks")
        self._above = {task: above for task, above, _ in tasks}
        self.levels: list[list[str]] = []
        placed: set[str] = set()
        while len(placed) < len(tasks):
            level = [t for t, above, _ in tasks if t not in placed and placed.issuperset(above)]
            if not level:
                raise DefinitionError(f"workflow {name!r} has a cycle: {self._cycle(placed)}")
            placed.update(level)
            self.levels.append(level)
        below = {one for above in self._above.values() for one in above}
        self.roots = [t for t, above in self._above.items() if not above]
        self.leaves = [t for t in self._above if t not in below]
        self.version = hashlib.blake2b(repr((name, tasks)).encode(), digest_size=4).hexdigest()

    def topological_sort(self) -> list[str]:
        return [task for level in self.levels for task in level]

    def _cycle(self, placed: set[str]) -> str:
        path = [next(t for t in self._above if t not in placed)]
        while path.count(path[-1]) == 1:
            path.append(next(a for a in self._above[path[-1]] if a not in placed))
        return " -> ".join(path[path.index(path[-1]) :])


def __getattr__(name: str) -> Any:
    raise AttributeError(name)
