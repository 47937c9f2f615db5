"""What the extension calls for an attribute that an object does not have."""

from typing import NoReturn


def of_task_handle(owner: object, name: str) -> NoReturn:
    """Raise the error for an attribute that `TaskHandle` does not have. Called by the extension."""
    msg = f"'TaskHandle' object has no attribute {name!r}"
    raise AttributeError(msg, name=name, obj=owner)
