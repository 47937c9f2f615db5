"""Methods that are designed and not there yet: accessing one raises a `BideError` that says so.

They are not offered by a type checker, `hasattr` or tab completion on an object.
"""

from collections.abc import Callable
from typing import NoReturn, TypeVar

from bide._errors import BideError, not_yet

T = TypeVar("T")


class NotThereYet(BideError, AttributeError):
    """Raised by accessing such a method; as an `AttributeError` too, so that `hasattr` returns False."""


class _Absent:
    """Such a method, as its class has it.

    A `__getattr__` of the class would need none, but then each access to any attribute takes several times as long.
    """

    __slots__ = ("_feature",)

    def __init__(self, feature: str) -> None:
        self._feature = feature

    def __get__(self, _owner: object, _kind: type) -> NoReturn:
        raise NotThereYet(*not_yet(self._feature).args)


def lacks(*names: str) -> Callable[[type[T]], type[T]]:
    """Return a decorator for a class that will have these methods."""

    def listed(owner: object) -> list[str]:
        return [name for name in object.__dir__(owner) if name not in names]

    def decorate(kind: type[T]) -> type[T]:
        for name in names:
            setattr(kind, name, _Absent(f"{kind.__name__}.{name}"))
        kind.__dir__ = listed  # type: ignore[method-assign, assignment] # a type checker takes it for an instance's
        return kind

    return decorate


def of_task_handle(owner: object, name: str) -> NoReturn:
    """Raise the error for an attribute that `TaskHandle` does not have. Called by the extension."""
    msg = f"'TaskHandle' object has no attribute {name!r}"
    raise AttributeError(msg, name=name, obj=owner)
