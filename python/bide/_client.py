"""`Client`: submits runs, sends to them, controls them and looks at them, on a store that runners use."""

import os
from typing import Self

from bide import _core, _surroundings
from bide._access import StoreAccess, store_name
from bide._runner import Runner


class Client(StoreAccess):
    """Submits, forks, signals, controls and looks, and executes nothing: runs continue where their runners are.

    `store` is the path or URL of a store that is there: a client creates none. A store in memory belongs to its runner:
    `Client(runner)` is one on that runner's store. What is submitted belongs to nobody at first, and is executed by a
    runner that has registered the workflow, soon after it starts at the latest.

    Use it as a sync or async context manager; without one it is closed when the interpreter exits.
    """

    _does = "submits runs of"

    def __init__(self, store: str | os.PathLike[str] | Runner) -> None:
        """Open the store; a `StoreError` says why it cannot be used."""
        _surroundings.check()
        if isinstance(store, Runner):
            core = store._core.client_here()
        else:
            core = _core.Runner.client(store_name(store, "Client"))
        super().__init__(core)

    def close(self) -> None:
        """Close the store. Calling it twice is fine."""
        self._core.close(0.0, _nothing_to_cancel)

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    def __repr__(self) -> str:
        """Show the store."""
        return f"<Client of {self._core.store!r}{' (closed)' if self._core.closed else ''}>"


def _nothing_to_cancel() -> None:
    """Cancel the coroutines that a client executes: none."""
