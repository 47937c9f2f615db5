"""Methods that are designed and not there yet: to ask for one is a `BideError` that says so.

They are not attributes, so that neither a stub nor tab completion offers them. A class names its own with `absent`.
"""

from collections.abc import Callable
from typing import NoReturn

from bide._errors import BideError, not_yet


class NotThereYet(BideError, AttributeError):
    """What asking for such a method raises: for `hasattr` it does not exist."""


def absent(*names: str) -> Callable[[object, str], NoReturn]:
    """Return the `__getattr__` of a class that will have these methods."""

    def find(owner: object, name: str) -> NoReturn:
        kind = type(owner).__name__
        if name in names:
            raise NotThereYet(*not_yet(f"{kind}.{name}").args)
        msg = f"{kind!r} object has no attribute {name!r}"
        raise AttributeError(msg, name=name, obj=owner)

    return find


of_task_handle = absent("wait_any", "wait_all", "wait_for", "progress")
"""Called by the extension."""
