"""`Runner`: executes workflows on a store. The executor (Rust) decides what is executed when."""

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from bide import _core, _surroundings
from bide._absent import lacks
from bide._access import StoreAccess, store_name
from bide._duration import count, optional_seconds
from bide._errors import BideError, DefinitionError, not_picklable
from bide._result import RunResult
from bide._run_handle import refuse_in_body
from bide._waits import Duration
from bide._workflow import Workflow

if TYPE_CHECKING:
    from bide._observe import RunEvent

MAX_SLOTS = 65_536
"""How many slots a runner may have."""

GRACE = 5.0
"""Seconds that `close()` waits for bodies to end."""

RETENTION = timedelta(days=30)
"""How long ended runs are kept by default."""


@lacks("cancel", "pause", "resume")
class Runner(StoreAccess):
    """Executes workflows on a store: a path, `":memory:"`, or `sqlite:///path`.

    Use it as a sync or async context manager; without one it is closed when the interpreter exits.

    `workflows` are registered at once, so that their unfinished runs continue. `slots` is how many bodies execute at
    the same time (default: processors plus 4, at most 32). With `durability="full"` what is committed also survives
    a loss of power. `max_parked` limits how many plain functions may be deferred at once.

    Ended runs are deleted once they have been kept for `retention`, seconds or a `timedelta` (default: 30 days), or
    never with `retention=None`; runs that have not ended stay, however old they are. If several runners share a
    store, the shortest retention applies. A store in memory keeps only the last 1,000.

    `on_event` is called with a `RunEvent` after each commit that ends a task or a run, opens or closes a wait, or plans
    a retry. It is called on one thread of the runner's, one event after the other; an exception in it is logged and
    changes nothing.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, all but the first by keyword
        self,
        store: str | os.PathLike[str],
        *,
        workflows: Iterable[Workflow] = (),
        slots: int | None = None,
        durability: Literal["normal", "full"] = "normal",
        max_parked: int | None = None,
        retention: Duration | None = RETENTION,
        on_event: "Callable[[RunEvent], object] | None" = None,
    ) -> None:
        """Open the store; a `StoreError` says why it cannot be used."""
        name = store_name(store, "Runner")
        if durability not in {"normal", "full"}:
            msg = f'durability must be "normal" or "full", not {durability!r}'
            raise DefinitionError(msg)
        if isinstance(workflows, Workflow) or not isinstance(workflows, Iterable):
            msg = f"Runner takes a list of workflows, not {workflows!r}"
            raise DefinitionError(msg)
        if on_event is not None and not callable(on_event):
            msg = f"Runner takes a function as on_event, which it calls with each event, not {on_event!r}"
            raise DefinitionError(msg)
        kept = optional_seconds(retention, "retention")
        _surroundings.check()
        core = _core.Runner(
            name,
            None if slots is None else count(slots, "slots", MAX_SLOTS),
            durability,
            None if max_parked is None else count(max_parked, "max_parked"),
            kept,
        )
        super().__init__(core)
        try:
            if on_event is not None:
                from bide import _observe  # noqa: PLC0415 - few runners are observed

                core.observe(_observe.observer(on_event))
            for workflow in workflows:
                self.register(workflow)
        except BaseException:
            self.close(grace=0)
            raise

    # --- running ---------------------------------------------------------------------------------------------------

    def run(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
    ) -> RunResult:
        """Run a workflow and return its result; raise `RunFailed` if it failed.

        With a `key` the call attaches to that workflow's run of the key, if there is one. `timeout` limits this
        wait only (`TimeoutError`): the run continues.
        """
        refuse_in_body("Runner.run()")
        limit = optional_seconds(timeout, "timeout", zero=True)
        return self._submit_one(workflow, inputs, key, linger=limit is None).result(limit)

    async def run_async(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: Duration | None = None,  # noqa: ASYNC109 - the same settings as run
    ) -> RunResult:
        """Run a workflow like `run`, without blocking the event loop."""
        refuse_in_body("Runner.run_async()")
        limit = optional_seconds(timeout, "timeout", zero=True)
        import asyncio  # noqa: PLC0415 - the caller has imported it

        handle = await asyncio.to_thread(self.submit, workflow, inputs, key=key)
        return await asyncio.wait_for(handle._wait_async(), limit)

    def register(self, workflow: Workflow) -> None:
        """Register a workflow and continue its unfinished runs, including those of a runner that died."""
        self._core.register(self._core_workflow(workflow))

    # --- closing ---------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Run until SIGTERM or Ctrl-C, then close. On the main thread only, whose signals these are."""
        import signal  # noqa: PLC0415 - for this alone
        import threading  # noqa: PLC0415 - for this alone

        if threading.current_thread() is not threading.main_thread():
            msg = "serve() waits for signals, which only the main thread receives: call it there"
            raise BideError(msg)
        stop = threading.Event()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            stop.set()

        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            while not stop.wait(0.2):
                if self._core.closed:
                    break
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self.close()

    def close(self, grace: Duration = GRACE) -> None:
        """Suspend waiting bodies, give others `grace` seconds to end, and close the store. Calling it twice is fine."""
        self._core.close(optional_seconds(grace, "grace", zero=True) or 0.0)

    async def __aenter__(self) -> Self:
        """Return the runner itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the runner without blocking the event loop. In the child of a fork there is nothing to close."""
        if not self._core.elsewhere:
            import asyncio  # noqa: PLC0415 - the caller has imported it

            await asyncio.to_thread(self.close)

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = "Runner"
        raise not_picklable(what, "create one there, on the same file")

    def __repr__(self) -> str:
        """Show the store."""
        return f"<Runner on {self._core.store!r}{' (closed)' if self._core.closed else ''}>"
