"""Methods that are designed and not there yet: accessing one raises a `BideError` that says so.

They are no attributes, so that neither a type checker nor tab completion offers them.
"""

from collections.abc import Callable
from typing import NoReturn

from bide._errors import BideError, not_yet


class NotThereYet(BideError, AttributeError):
    """Raised by accessing such a method; as an `AttributeError` too, so that `hasattr` returns False."""


def absent(*names: str) -> Callable[[object, str], NoReturn]:
    """Return the `__getattr__` for a class that will have these methods."""

    def find(owner: object, name: str) -> NoReturn:
        kind = type(owner).__name__
        if name in names:
            raise NotThereYet(*not_yet(f"{kind}.{name}").args)
        msg = f"{kind!r} object has no attribute {name!r}"
        raise AttributeError(msg, name=name, obj=owner)

    return find


of_task_handle = absent("progress")
"""Called by the extension."""
