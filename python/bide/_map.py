"""`Each` and `Mapped`: a task that runs once for each item of a list, and what its elements came to.

How a reader of a mapped task takes their outputs is decided when the workflow is built (`_elements.py`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from bide._errors import DefinitionError
from bide._task import name_of
from bide._text import check_text

if TYPE_CHECKING:
    from bide._errors import TaskFailed

T = TypeVar("T")


class Input(msgspec.Struct, frozen=True):
    """In ``Annotated[T, bide.Input("path")]``: that run input."""

    name: str

    def __post_init__(self) -> None:
        check_text(self.name, "bide.Input: the name of the input")


class Each(msgspec.Struct, frozen=True):
    """In ``Annotated[T, bide.Each("files")]``: one item of the list that the task "files" returned, for each element.

    Takes the name of a task, its function, or `bide.Input("urls")` for a run input.
    """

    over: str | Input | Callable[..., Any]

    def __post_init__(self) -> None:
        if not isinstance(self.over, Input):
            task_name(self.over, "bide.Each")

    @property
    def task(self) -> str | None:
        """The name of the task; None for an input."""
        return None if isinstance(self.over, Input) else task_name(self.over, "bide.Each")


class Mapped(msgspec.Struct, Generic[T], frozen=True):
    """What the elements of a mapped task came to, for a parameter ``bide.Mapped[T]``; those in no list were skipped."""

    succeeded: list[T]
    """The outputs of the elements that completed, in order."""
    failed: "list[TaskFailed]"
    """The errors of those that failed, in order; `error.task` is the element, such as "process[3]"."""
    total: int
    """How many elements there are."""
    indexes: list[int]
    """The index of each element in `succeeded`."""


class CompiledMap(msgspec.Struct, frozen=True):
    """How a task is mapped, as the executor reads it."""

    tasks: tuple[str, ...]
    """The tasks over whose lists it is mapped."""
    inputs: tuple[str, ...]
    """The inputs over whose lists it is mapped."""
    limit: int | None
    """How many elements may fail,"""
    share: float | None
    """or which share of them."""


def make_mapped(succeeded: list[T], indexes: list[int], failed: list[tuple[str, bytes]], total: int) -> Mapped[T]:
    """Return what a reader gets; called by the executor. A failure is the name of the element and what is stored."""
    from bide._stored_errors import task_failed  # noqa: PLC0415 - most maps have no failure

    return Mapped(succeeded, [task_failed(failure, name) for name, failure in failed], total, indexes)


def task_name(task: object, what: str) -> str:
    """Return the name of a task that is given by name or by its function."""
    if isinstance(task, str):
        return check_text(task, f"{what}: the name of the task")
    if callable(task) or isinstance(task, (staticmethod, classmethod)):
        return name_of(task)
    msg = f"{what} takes the name of a task or its function, not {task!r}"
    raise DefinitionError(msg)
