"""Which coroutine executes here, and whether within a step or a condition: a contextvar that the loop sets.

It is a separate module because `bide.current()` and every waiting call ask it, and few programs have coroutines.
"""

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import asyncio

    from bide._core import Coroutine

BODY, STEP, CONDITION = 0, 1, 2
"""What a call is made within, as the extension reads it."""

Here: TypeAlias = "tuple[Coroutine, int] | None"

here: ContextVar[Here] = ContextVar("bide.here", default=None)
"""The coroutine whose code executes, and what that is within. Code that it starts inherits it. Set by the extension."""


class AsyncHandle:
    """The base of `AsyncTaskHandle`, by which signatures know it without importing what its methods need."""

    __slots__ = ()


def in_coroutine() -> bool:
    """Whether code of a coroutine of any runner executes here, also on a thread that it was given to."""
    place = here.get()
    return place is not None and not place[0].ended


def running_loop() -> "asyncio.AbstractEventLoop | None":
    """Return the event loop that runs on this thread; asyncio is not imported for that."""
    module = sys.modules.get("asyncio")
    # Another thread may be about to import it.
    get = getattr(module, "_get_running_loop", None)
    return None if get is None else get()
