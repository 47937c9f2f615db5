"""Which coroutine executes here, and whether within a step or a condition: a contextvar that the loop sets.

Callers who would block what executes here are refused.

It is a separate module because `bide.current()` and every waiting call ask it, and few programs have coroutines.
"""

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

from bide import _core
from bide._errors import DefinitionError

if TYPE_CHECKING:
    import asyncio

    from bide._core import Coroutine

BODY, STEP, CONDITION = 0, 1, 2
"""What a call is made within, as the extension reads it."""

Here: TypeAlias = "Coroutine | tuple[Coroutine, int] | None"

here: ContextVar[Here] = ContextVar("bide.here", default=None)
"""The coroutine whose code executes; with what that is within, if it is not its body. Code that it starts inherits it.
Set by the extension."""


class AsyncHandle:
    """The base of `AsyncTaskHandle`, by which signatures know it without importing what its methods need."""

    __slots__ = ()


def place_here() -> "tuple[Coroutine, int] | None":
    """Return the coroutine whose code executes here, and what that is within."""
    place = here.get()
    return place if place is None or isinstance(place, tuple) else (place, BODY)


def in_coroutine() -> bool:
    """Whether code of a coroutine of any runner executes here, also on a thread that it was given to."""
    place = place_here()
    return place is not None and not place[0].ended


def running_loop() -> "asyncio.AbstractEventLoop | None":
    """Return the event loop that runs on this thread; asyncio is not imported for that."""
    module = sys.modules.get("asyncio")
    # Another thread may be about to import it.
    get = getattr(module, "_get_running_loop", None)
    return None if get is None else get()


def refuse_on_loop(what: str, instead: str) -> None:
    """Refuse to block a thread whose event loop is running: what the caller waits for may need that loop."""
    if running_loop() is not None:
        msg = f"{what} blocks its thread, and this one has a running event loop: use {instead}"
        raise DefinitionError(msg)


def refuse_in_body(what: str) -> None:
    """Refuse to wait for a run on the thread of a body or condition: if all of them waited, no run could continue."""
    if _core.in_body() or in_coroutine():
        msg = (
            f"{what} waits for a run, which a task's body or condition must not do: if every slot is held by a body "
            "that waits, no run can continue. A body that takes a handle runs it as a child of its own run, without "
            "a slot: result = handle.run(workflow, inputs); or it starts several children with "
            "child = handle.start(workflow, inputs) and waits for them with handle.wait(child)"
        )
        raise DefinitionError(msg)
