"""How the calls of an `AsyncTaskHandle` are carried out on the event loop.

The extension (`_core.Call`) says what a call needs: to be awaited, a condition to be asked, a step to be executed. What
that means for the run is decided below, as for plain functions.
"""

import functools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from bide import _core
from bide._callables import is_async
from bide._errors import DefinitionError, Unrecorded
from bide._here import BODY, CONDITION, STEP, AsyncHandle, here, running_loop
from bide._waits import After, At, Duration, check_name

if TYPE_CHECKING:
    from asyncio import Future

    from bide._children import ChildRun
    from bide._combine import Plan
    from bide._core import Call
    from bide._loop import BodyLoop
    from bide._result import RunResult
    from bide._workflow import Workflow

T = TypeVar("T")

_DONE, _EXECUTE, _CREATE, _CANCELLED, _ASKING = -2, -3, -4, -5, -6
"""What `await call` asks for; any other number is that of a condition to ask."""


class Begun:
    """A condition that has made its first step, and awaits something."""

    __slots__ = ("awaited", "coroutine", "error")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> None:  # noqa: ANN401 - a future or None
        """Keep the coroutine and what it awaits."""
        self.coroutine, self.awaited = coroutine, awaited
        self.error: BaseException | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        """Make the other steps; raise `error` in the first of them, if there is one."""
        coroutine, awaited = self.coroutine, self.awaited
        try:
            if self.error is not None:
                awaited = coroutine.throw(self.error)
            while True:
                try:
                    value = yield awaited
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                    awaited = coroutine.throw(error)
                else:
                    awaited = coroutine.send(value)
        except StopIteration as ended:
            return ended.value


Refusal: TypeAlias = tuple[str, int, str]
"""A request that cannot be read: its name, its number, and why it is refused."""


class Rare:
    """What few bodies need."""

    __slots__ = ("left", "refusals")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.left: dict[tuple[object, ...], list[ChildRun]] = {}
        """The child runs that the body was about to wait for when it cancelled that, by what it has run."""
        self.refusals: list[Refusal] = []
        """Requests that are refused once their wait is over."""


class AsyncCalls(AsyncHandle):
    """What a handle calls the executor by."""

    __slots__ = ("__weakref__", "_core", "_rare")

    _core: "_core.Coroutine"
    _rare: "Rare | None"
    """What few bodies need: many wait at once."""

    @property
    def _loop(self) -> "BodyLoop":
        bodies = self._core.bodies
        if bodies is None:
            from bide._loop import suspension  # noqa: PLC0415 - it imports asyncio

            raise suspension()
        return bodies

    def _needs(self) -> "Rare":
        if self._rare is None:
            self._rare = Rare()
        return self._rare

    def _within(self) -> int:
        place = here.get()
        return place[1] if isinstance(place, tuple) and place[0] is self._core else BODY

    def _wait_time(self, wait: After | At, what: str, name: str | None) -> Coroutine[Any, Any, None]:
        from bide._combine import plan  # noqa: PLC0415 - as in __init__.py

        made, default = plan(wait, None, what), what.removeprefix("handle.")
        kind, _, limit, of_kind = made.parts[0]
        named = kind, check_name(name, what) or default, limit, of_kind
        return _core.Wait(self, made._replace(parts=[named]), what)

    def _wait(self, wait: object, timeout: Duration | None, what: str) -> Coroutine[Any, Any, Any]:
        from bide._combine import plan  # noqa: PLC0415 - as in __init__.py

        return _core.Wait(self, plan(wait, timeout, what), what)

    # The course of a wait is `_core.Wait`, which calls these methods.

    def _begin_wait(self, plan: "Plan") -> "Call":
        self._refuse_elsewhere()
        return _core.Call.wait(self._core, plan, self._within())

    async def _finish_wait(self, call: "Call", todo: int, finish: Callable[..., Any]) -> Any:  # noqa: ANN401 - its value
        if todo == _CANCELLED:
            self._loop.cancels(self._core)
        # The results of children may have to be read from the store.
        outcomes = await self._loop.in_thread(call.outcomes) if call.has_children() else call.outcomes()
        try:
            return finish(outcomes, self)
        finally:
            if self._rare is not None:
                refusals, self._rare.refusals = self._rare.refusals, []
                for name, number, reason in refusals:
                    await self._send_reply(name, number, None, reason)

    async def _start(self, described: tuple[Any, ...], workflow: "Workflow") -> "list[ChildRun]":
        from bide._children import ChildRun  # noqa: PLC0415 - as in __init__.py

        begun = self._loop.in_thread(functools.partial(_core.Call.start, self._core, described, self._within()))
        try:
            call = await self._to_end(begun)  # registers the workflow
        except BaseException as error:
            if begun.done() and begun.exception() is None:
                await self._leave(begun.result(), error)
            raise
        await self._carry_out(call, None)
        return [ChildRun(run, workflow.name, name) for run, name in call.started()]

    async def _run_child(self, described: tuple[Any, ...], workflow: "Workflow", limit: Duration | None) -> "RunResult":
        from asyncio import CancelledError  # noqa: PLC0415 - as in __init__.py

        # As with every wait, the next use continues the one that was left: it does not start another child.
        what, left = (workflow.name, *described[1][0][1:]), self._needs().left
        child = waiting.pop(0) if (waiting := left.get(what)) else (await self._start(described, workflow))[0]
        try:
            result: RunResult = await self._wait(child, limit, "handle.run")
        except CancelledError:
            left.setdefault(what, []).append(child)
            raise
        return result

    async def _record(self, call: "Call") -> Any:  # noqa: ANN401 - text or None
        await self._carry_out(call, None)
        return call.recorded(False)  # noqa: FBT003 - of the extension

    def _reply(self, name: str, number: int, _answer: bytes | None, reason: str) -> None:
        """Refuse a request that cannot be read, once its wait is over."""
        self._needs().refusals.append((name, number, reason))

    async def _send_reply(self, name: str, number: int, answer: bytes | None, reason: str) -> None:
        await self._record(_core.Call.reply(self._core, name, number, answer, reason, self._within()))

    async def _carry_out(self, call: "Call", step: Callable[[], Any] | None) -> Unrecorded | None:
        """Carry a call out to its end. Returns how a step has left without a record, if it has."""
        left = None
        try:
            self._refuse_elsewhere()
            while (todo := await call) != _DONE and todo != _CANCELLED:
                left = await self._attend(call, todo, step)
        except BaseException as error:
            await self._leave(call, error)
            raise
        if todo == _CANCELLED:
            self._loop.cancels(self._core)
        return left

    def _refuse_elsewhere(self) -> None:
        """Refuse to wait on a loop that nothing of the runner wakes."""
        bodies = self._core.bodies
        # Once that has ended, the executor says what is wrong.
        if bodies is not None and running_loop() is not bodies.loop:
            msg = (
                f"the handle of task {self._core.task_name!r} was awaited on another event loop than the one that "
                "executes its body: await it there, or have it awaited there by asyncio.run_coroutine_threadsafe"
            )
            raise DefinitionError(msg)

    async def _attend(self, call: "Call", todo: int, step: Callable[[], Any] | None) -> Unrecorded | None:
        """Do what a call needs. Returns how a step has left without a record, if it has."""
        if todo == _EXECUTE:
            return await self._execute(call, step)
        if todo == _CREATE:
            await self._to_end(self._loop.in_thread(call.create))
        elif todo == _ASKING:
            if (asking := call.asking()) is not None:
                await self._continue_asking(call, *asking)
        else:
            await self._ask(call, todo)
        return None

    async def _leave(self, call: "Call", error: BaseException) -> bool:
        """Leave a call because of an exception, unless a condition has dealt with that: true then.

        A commit of it that is under way is waited for: what it records is known then.
        """
        from asyncio import CancelledError  # noqa: PLC0415 - it is imported by now

        from bide._loop import check_interrupted  # noqa: PLC0415 - it imports asyncio

        stays = False
        try:
            while (future := call.commits()) is not None:
                try:
                    await future
                except CancelledError:
                    continue
            if (asking := call.asking()) is not None:
                # A condition that was begun outside of this task gets the exception, such as that of its own timeout.
                asking[1].error = error
                await self._continue_asking(call, *asking)
                stays = True
        finally:
            if not stays:
                call.abandon()
                check_interrupted(self._core, error)
        return stays

    async def _to_end(self, future: "Future[T]") -> T:
        """Wait for a part of a call that executes on a worker thread, to its end even if this task is cancelled.

        What it begins or records is known then.
        """
        from asyncio import CancelledError, wait  # noqa: PLC0415 - it is imported by now

        cancelled: CancelledError | None = None
        while not future.done():
            try:
                await wait([future])
            except CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return future.result()

    async def _continue_asking(self, call: "Call", part: int, begun: Begun) -> None:
        """Await a condition that was begun outside of this task."""
        token = here.set((self._core, CONDITION))
        try:
            value = await begun
        except Exception as error:  # noqa: BLE001 - as below
            call.ask_raised(part, error)
        else:
            call.asked(part, value)
        finally:
            here.reset(token)

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
