"""Bodies in a module whose annotations are strings, some of which exist only for type checkers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import bide

if TYPE_CHECKING:
    from fractions import Fraction


def fine(path: Path, handle: bide.TaskHandle, ctx: bide.Context | None, load: Annotated[int, bide.From("load")]) -> str:
    """All names exist at run time."""
    return f"{path}{handle}{ctx}{load}"


def only_checked(size: Fraction) -> int:
    """The parameter's annotation exists only for type checkers."""
    return int(size)


def only_checked_result() -> Fraction:
    """The result's annotation exists only for type checkers."""
    raise NotImplementedError


def nested(sizes: list[Fraction]) -> int:
    """The same, inside another type."""
    return len(sizes)
