"""`Runner`: executes workflows on a store. The executor (Rust) decides what is executed when."""

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Self

from bide import _core, _options, _surroundings
from bide._access import StoreAccess, store_name
from bide._callables import is_async
from bide._duration import count, optional_seconds, seconds
from bide._errors import BideError, DefinitionError
from bide._here import refuse_in_body, refuse_on_loop
from bide._loop_choice import LoopChoice
from bide._result import RunResult
from bide._twins import RunnerTwins
from bide._waits import Duration
from bide._watches import Watching
from bide._workflow import Workflow

if TYPE_CHECKING:
    import asyncio

    from bide._observe import RunEvent


MAX_SLOTS = 65_536
"""How many slots a runner may have."""

ASYNC_SLOTS = 1_000
"""How many coroutines execute at once by default."""

GRACE = 5.0
"""Seconds that `close()` waits for bodies to end."""

CANCEL_GRACE, CANCEL_LIMIT = 60.0, 3600.0
"""Seconds that the bodies of a cancelled run may execute to clean up, and that this may take by the wall."""

RETENTION = timedelta(days=30)
"""How long ended runs are kept by default."""


def _slots(slots: int | None, store: str) -> int | None:
    """Check the number of slots. A runner without any is for stores that other runners can have too."""
    if slots == 0 and not isinstance(slots, bool):
        if store == ":memory:":
            msg = (
                "slots=0 is for a store that other runners execute, and a store in memory has none: use a file or a URL"
            )
            raise DefinitionError(msg)
        return 0
    return slots if slots is None else count(slots, "slots", MAX_SLOTS)


class Runner(RunnerTwins, Watching, StoreAccess):
    """Executes workflows on a store: a path, `":memory:"`, `sqlite:///path`, or `postgresql://user@host/database`.

    Use it as a sync or async context manager; without one it is closed when the interpreter exits.

    `workflows` are registered at once, so that their unfinished runs continue. `slots` is how many bodies execute at
    the same time (default: processors plus 4, at most 32); with `slots=0` it executes nothing, and what it submits is
    for other runners. With `durability="full"` what is committed also survives a loss of power. `max_parked` limits how
    many plain functions may be deferred at once.

    Ended runs are deleted once they have been kept for `retention`, seconds or a `timedelta` (default: 30 days), or
    never with `retention=None`; runs that have not ended stay, however old they are. If several runners share a
    store, the shortest retention applies. A store in memory keeps only the last 1,000.

    The bodies of a cancelled run may execute for `cancel_grace` to clean up, and that may take `cancel_limit` by the
    wall; then they are cut off.

    `on_event` is called with a `RunEvent` after each commit that ends a task, a step or a run, opens or closes a wait,
    or plans a retry. It is called on one thread of the runner's, one event after the other; an exception in it is
    logged and changes nothing.
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
        async_slots: int = ASYNC_SLOTS,
        loop_factory: "Callable[[], asyncio.AbstractEventLoop] | None" = None,
        cancel_grace: Duration = CANCEL_GRACE,
        cancel_limit: Duration = CANCEL_LIMIT,
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
        if is_async(on_event):
            msg = (
                "on_event is an `async def`, and is called on a thread that has no event loop: give a plain function, "
                "such as one that calls loop.call_soon_threadsafe"
            )
            raise DefinitionError(msg)
        kept = optional_seconds(retention, "retention")
        grace = seconds(cancel_grace, "cancel_grace", zero=True), seconds(cancel_limit, "cancel_limit", zero=True)
        _surroundings.check()
        core = self._open(
            name,
            _slots(slots, name),
            durability,
            None if max_parked is None else count(max_parked, "max_parked"),
            kept,
            count(async_slots, "async_slots", MAX_SLOTS),
            grace,
        )
        super().__init__(core)
        self._loop = LoopChoice(core, loop_factory)
        self._sources = {}
        try:
            if on_event is not None:
                from bide import _observe  # noqa: PLC0415 - few runners are observed

                _observe.observe(core, on_event)
            for workflow in workflows:
                self.register(workflow)
        except BaseException:
            self.close(grace=0)
            raise

    # --- running ---------------------------------------------------------------------------------------------------

    def run(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        tags: Mapping[str, str] | None = None,
        priority: int = 0,
        start_at: datetime | None = None,
        start_after: Duration | None = None,
    ) -> RunResult:
        """Run a workflow and return its result; raise `RunFailed` if it failed.

        With a `key` the call attaches to that workflow's run of the key, if there is one. `timeout` limits this
        wait only (`TimeoutError`): the run continues. The rest is that of `submit`.
        """
        refuse_in_body("Runner.run()")
        refuse_on_loop("Runner.run()", "`await runner.run_async(workflow, inputs)`")
        limit = optional_seconds(timeout, "timeout", zero=True)
        said = _options.options("run", tags, priority, start_at, start_after, self._time)
        return self._submit_one(workflow, inputs, key, said, linger=limit is None, awaited=True).result(limit)

    def register(self, workflow: Workflow) -> None:
        """Register a workflow and continue its unfinished runs, including those of a runner that died."""
        self._core.register(self._core_workflow(workflow))

    def metrics(self) -> dict[str, Any]:
        """Return figures of this runner, as `bide.metrics()` does of all: open waits, slots, commits and the like."""
        return self._core.metrics()

    # --- closing ---------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Run until SIGTERM or Ctrl-C, then close. On the main thread only, whose signals these are."""
        self._serve(GRACE)

    def _serve(self, grace: Duration) -> bool:
        """Do that; return False if it has ended without a signal."""
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
        self.close(grace)
        return stop.is_set()

    def close(self, grace: Duration = GRACE) -> None:
        """Suspend waiting bodies, give others `grace` seconds to end, and close the store. Calling it twice is fine."""
        self._loop.refuse_own_thread()
        self._close(grace)

    def _close(self, grace: Duration) -> None:
        seconds = optional_seconds(grace, "grace", zero=True) or 0.0
        self._stop_sources()
        self._loop.abandon()
        closes = True
        try:
            closes = self._core.close(seconds, self._loop.cancel_all)
        finally:
            # A call that comes while another one closes must not end the loop on which bodies unwind.
            if closes:
                self._loop.stop()

    async def __aenter__(self) -> Self:
        """Execute `async def` bodies on the running loop from here on, and return the runner itself."""
        self._loop.enter()
        return self

    def __repr__(self) -> str:
        """Show the store."""
        return f"<Runner on {self._core.store!r}{' (closed)' if self._core.closed else ''}>"

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _open(self, *settings: Any) -> "_core.Runner":  # noqa: ANN401 - those of the extension
        return _core.Runner(*settings)

    def _core_workflow(self, workflow: Workflow) -> "_core.Workflow":
        known = self._workflows.get(workflow.name) if isinstance(workflow, Workflow) else None
        compiled = super()._core_workflow(workflow)
        if compiled.is_async:
            if known is not None and known[1] is compiled:
                self._loop.check()
            else:
                self._loop.prepare()
        return compiled
