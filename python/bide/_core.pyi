class Graph:
    levels: list[list[str]]
    roots: list[str]
    leaves: list[str]
    version: str
    def __init__(self, name: str, tasks: list[tuple[str, list[str], str]]) -> None: ...
    def topological_sort(self) -> list[str]: ...

class TaskHandle: ...

__version__: str
