"""How the calls of an `AsyncTaskHandle` are carried out on the event loop.

The extension (`_core.Call`) says what a call needs: to be awaited, a condition to be asked, a step to be executed. What
that means for the run is decided below, as for plain functions.
"""

import functools
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from bide import _core
from bide._callables import is_async
from bide._errors import DefinitionError, Unrecorded
from bide._here import BODY, CONDITION, STEP, AsyncHandle, here, running_loop
from bide._waits import After, At, Duration, check_name

if TYPE_CHECKING:
    from bide._children import ChildRun
    from bide._combine import Plan
    from bide._core import Call
    from bide._loop import BodyLoop
    from bide._workflow import Workflow

_PENDING, _DONE, _EXECUTE, _CREATE, _CANCELLED = -1, -2, -3, -4, -5
"""What `_core.Call.advance` asks for; any other number is that of a condition to ask."""


class AsyncCalls(AsyncHandle):
    """What a handle calls the executor by."""

    __slots__ = ("__weakref__", "_core", "_loop", "_refusals")

    _core: "_core.Coroutine"
    _loop: "BodyLoop"
    _refusals: list[tuple[str, int, str]]
    """Requests that cannot be read, and are refused once their wait is over: name, number and reason."""

    def _within(self) -> int:
        place = here.get()
        return place[1] if place is not None and place[0] is self._core else BODY

    async def _wait_time(self, wait: After | At, what: str, name: str | None) -> None:
        from bide._combine import plan  # noqa: PLC0415 - as in __init__.py

        made, default = plan(wait, None, what), what.removeprefix("handle.")
        named = made.parts[0]._replace(name=check_name(name, what) or default)
        await self._wait_planned(made._replace(parts=[named]))

    async def _wait(self, wait: object, timeout: Duration | None, what: str) -> Any:  # noqa: ANN401, ASYNC109
        from bide._combine import plan  # noqa: PLC0415 - as in __init__.py

        return await self._wait_planned(plan(wait, timeout, what))

    async def _wait_planned(self, plan: "Plan") -> Any:  # noqa: ANN401 - what the wait gives
        call = _core.Call.wait(self._core, plan, self._within())
        await self._carry_out(call, None)
        if any(part.kind == "child" for part in plan.parts):
            outcomes = await self._loop.in_thread(call.outcomes)  # may read the store
        else:
            outcomes = call.outcomes()
        self._refusals = []
        try:
            return plan.finish(outcomes, self)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        finally:
            for name, number, reason in self._refusals:
                await self._send_reply(name, number, None, reason)

    async def _start(self, described: tuple[Any, ...], workflow: "Workflow") -> "list[ChildRun]":
        from bide._children import ChildRun  # noqa: PLC0415 - as in __init__.py

        begin = functools.partial(_core.Call.start, self._core, described, self._within())
        call = await self._loop.in_thread(begin)  # registers the workflow
        await self._carry_out(call, None)
        return [ChildRun(run, workflow.name, name) for run, name in call.started()]

    async def _record(self, call: "Call") -> Any:  # noqa: ANN401 - text or None
        await self._carry_out(call, None)
        return call.recorded(False)  # noqa: FBT003 - of the extension

    def _reply(self, name: str, number: int, _answer: bytes | None, reason: str) -> None:
        """Refuse a request that cannot be read, once its wait is over."""
        self._refusals.append((name, number, reason))

    async def _send_reply(self, name: str, number: int, answer: bytes | None, reason: str) -> None:
        await self._record(_core.Call.reply(self._core, name, number, answer, reason, self._within()))

    async def _carry_out(self, call: "Call", step: Callable[[], Any] | None) -> Unrecorded | None:
        """Carry a call out to its end. Returns how a step has left without a record, if it has."""
        left = None
        try:
            self._refuse_elsewhere()
            while (todo := call.advance()) != _DONE:
                if todo == _PENDING:
                    future = self._loop.future()
                    call.park(future)
                    try:
                        await future
                    except BaseException:
                        await self._end_commit(call)
                        raise
                elif todo == _EXECUTE:
                    left = await self._execute(call, step)
                elif todo == _CREATE:
                    await self._loop.in_thread(call.create)
                elif todo == _CANCELLED:
                    self._loop.cancels(self._core)
                    break
                else:
                    await self._ask(call, todo)
        except BaseException as error:
            call.abandon()
            self._loop.check_interrupted(self._core, error)
            raise
        return left

    def _refuse_elsewhere(self) -> None:
        """Refuse to wait on a loop that nothing of the runner wakes."""
        if running_loop() is not self._loop.loop:
            msg = (
                f"the handle of task {self._core.task_name!r} was awaited on another event loop than the one that "
                "executes its body: await it there, or have it awaited there by asyncio.run_coroutine_threadsafe"
            )
            raise DefinitionError(msg)

    async def _end_commit(self, call: "Call") -> None:
        """Wait for the commit that is under way: what it records is known then. A cancellation is raised after it."""
        from asyncio import CancelledError  # noqa: PLC0415 - it is imported by now

        while call.committing and call.advance() == _PENDING and call.committing:
            future = self._loop.future()
            call.park(future)
            try:
                await future
            except CancelledError:
                continue

    async def _ask(self, call: "Call", part: int) -> None:
        try:
            value = await self._run(call.condition(part), CONDITION)
        except Exception as error:  # noqa: BLE001 - whatever the condition raises
            call.ask_raised(part, error)
        else:
            call.asked(part, value)

    async def _execute(self, call: "Call", step: Callable[[], Any] | None) -> Unrecorded | None:
        try:
            value = await self._run(step, STEP)
        except Unrecorded as left:
            call.step_unrecorded()
            return left
        except Exception as error:  # noqa: BLE001 - whatever the step raises
            call.step_raised(error)
        else:
            call.step_returned(value)
        return None

    async def _run(self, function: Any, within: int) -> Any:  # noqa: ANN401 - code of the user's
        """Run a condition or a step: an `async def` here, a plain function on a worker thread."""
        token = here.set((self._core, within))
        try:
            if is_async(function):
                return await function()
            value = await self._loop.in_thread(functools.partial(copy_context().run, function))
            # A plain function may return a coroutine, as a lambda does that calls an `async def`.
            return await value if isinstance(value, Awaitable) else value
        finally:
            here.reset(token)
