"""`handle.transaction(connection)`: a step whose record is committed by the user's own transaction.

    with handle.transaction(connection) as step:
        receipt = step(pay, connection, order)

Why it is this way: a `with` block cannot be skipped, so what must happen once is the function that is given to `step`,
as with `handle.step`. Whatever else the block does on the connection is rolled back where the step was recorded before:
the whole block counts once. One transaction records one step, which is committed or not, with everything that it did.

The body begins the step, as any other; the place (`_step_table.py`) looks and writes on the connection (`_drivers.py`);
after the commit the journal takes the record up. A process that dies in between finds it: in the journal, which is
where it was written, or in the table.
"""

import asyncio
import functools
import secrets
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Self, TypeVar, overload

from bide import _core
from bide._drivers import Driver, driver_of, state_of
from bide._errors import BideError, DefinitionError, StoreError, Unrecorded
from bide._here import STEP, here
from bide._step_table import BEGUN, MARKER, STORE_FILE, Fenced, InStore, InTable, Op, Taken, explained
from bide._steps import describe_async_step, describe_step_with

if TYPE_CHECKING:
    from bide._async_handle import AsyncTaskHandle
    from bide._core import Call, OpenStep, TaskHandle

P = ParamSpec("P")
R = TypeVar("R")

_DONE, _EXECUTE, _CANCELLED = -2, -3, -5
"""What `await call` asks for, as in `_async_calls.py`."""

NEW, ENTERED, CLOSED, OPEN, WRITTEN, FOUND, RECORDED, LEFT = range(8)
"""Whether the block has begun or is over, and in it the step executes, is written, was found elsewhere, is in the
journal, or has failed."""

_STAND_IN = "the connection of the transaction"
"""What is compared in the place of the connection, which differs in each process."""

_OUT_OF_PLACE = {
    NEW: "the block of handle.transaction has not begun: with handle.transaction(connection) as step: step(function)",
    CLOSED: "the block of handle.transaction is over: call its step within",
}
"""Why a step that is called outside of its block is refused."""

_open: "ContextVar[_Base | None]" = ContextVar("bide.transaction", default=None)
"""The transaction within whose block this code executes."""


class _Base:
    """What both kinds of transactions are."""

    _in_coroutine = False

    def __init__(self, handle: "TaskHandle | AsyncTaskHandle", connection: Any, same_database: object) -> None:
        """Keep the connection; `same_database` says whether it must be one to the store's database, or must not."""
        if same_database is not None and not isinstance(same_database, bool):
            msg = f"handle.transaction: same_database must be True, False or None, not {same_database!r}"
            raise DefinitionError(msg)
        self._whose = (handle.run_id, handle.task_name, handle.attempt)
        self._connection = connection
        self._same_database = same_database
        self._driver: Driver
        self._marker = secrets.token_hex(8)
        self._state = NEW
        self._encoded = b""
        self._place: InStore | InTable
        self._step: OpenStep | None = None

    # --- what the parts have in common, as generators of what is to be done ----------------------------------------

    def _enter(self) -> Generator[Op, Any, None]:
        outer = _open.get()
        if outer is not None and outer._whose == self._whose and outer._state != CLOSED:
            msg = (
                f"task {self._whose[1]!r}: a transaction of handle.transaction is open already: leave its block first. "
                "Two that are open at once cannot be committed together"
            )
            raise DefinitionError(msg)
        if self._state != NEW or self._step is not None:
            msg = "a transaction of handle.transaction is used once: call handle.transaction again"
            raise DefinitionError(msg)
        yield ("check",)
        yield ("begin",)
        self._state = ENTERED

    def _describe(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None, key: str | None
    ) -> tuple[Any, ...]:
        if self._state != ENTERED:
            msg = _OUT_OF_PLACE.get(
                self._state,
                "a transaction of handle.transaction records one step: put both into one function, or use another "
                "transaction for the second one",
            )
            raise DefinitionError(msg)
        for option in ("retry", "once"):
            if option in kwargs:
                msg = (
                    f"the step of a transaction takes no {option}=: it takes effect at most once anyway, and an error "
                    "rolls its transaction back. Give the task a retry"
                )
                raise DefinitionError(msg)
        stand_in = functools.partial(_stand_in, self._connection)
        if isinstance(fn, functools.partial):
            fn = functools.partial(fn.func, *map(stand_in, fn.args), **_values(fn.keywords, stand_in))
        describe = describe_async_step if self._in_coroutine else describe_step_with
        return describe(fn, tuple(map(stand_in, args)), _values(kwargs, stand_in), name, key, None, None)

    def _look(self, step: "OpenStep") -> Generator[Op, Any, bytes | None]:
        """Find out where the record belongs, and what is there."""
        self._step = step
        driver, is_same = self._driver, False
        if driver.dialect == "sqlite":
            yield from self._refuse_store(step)
        else:
            known = None if self._same_database is False else (yield ("blocking", step.database))
            question = "NULL::text" if known is None else known[0]
            begins = f"pg_catalog.set_config('{MARKER}', '{BEGUN}', true)"
            answer = (yield ("one", f"SELECT {question}, {begins}"))[0]
            is_same = known is not None and answer == known[1]
        if self._same_database and not is_same:
            store = step.store()
            why = (
                f"is not one to the database of the store ({store}), and same_database=True asks for that: connect to "
                "it, or leave same_database out, and the step is recorded in a table bide_step of this database"
            )
            raise driver.refused(why)
        if driver.may_commit_each and driver.dialect != "sqlite":
            mark = (yield ("one", f"SELECT pg_catalog.current_setting('{MARKER}', true)"))[0]
            if mark != BEGUN:
                raise driver.autocommits()
        if is_same:
            self._place = InStore(driver, step, self._marker)
        else:
            self._place = InTable(driver, step, self._whose[1])
        return (yield from self._place.find())

    def _refuse_store(self, step: "OpenStep") -> Generator[Op, Any, None]:
        """Refuse the file of a store: a second SQLite in the process would drop the locks of the first."""
        if (yield ("one", "PRAGMA application_id"))[0] == STORE_FILE:
            why = (
                f"is one to a file in which bide keeps runs (this body's are in {step.store()}): keep your own tables "
                "in a file of their own"
            )
            raise self._driver.refused(why)

    def _writes(self, encoded: bytes) -> Generator[Op, Any, bytes | None]:
        self._encoded = encoded
        try:
            found = yield from self._place.write(encoded)
        except Exception as error:
            if self._driver.is_closed and state_of(error) is None:
                raise self._was_closed() from error
            self._raise_explained(error)
        self._state = WRITTEN if found is None else FOUND
        if found is not None:
            self._encoded = found
        return found

    def _raise_explained(self, error: BaseException) -> NoReturn:
        """Raise the error of a statement of bide's, in words if they are known."""
        name = self._step.name if self._step is not None else ""
        problem = explained(name, error, self._place)
        if problem is error:
            raise error
        raise problem from error

    def _was_closed(self) -> DefinitionError:
        name = self._step.name if self._step is not None else ""
        return self._driver.refused(f"was closed within the block: the step {name!r} is not recorded")

    def _rolls_back(self) -> Generator[Op, Any, None]:
        """Roll back after an error, which says more than that this fails too."""
        try:
            if not self._driver.is_closed:
                yield ("rollback",)
        except Exception:  # noqa: BLE001, S110 - as above
            pass

    def _leave(self) -> Generator[Op, Any, None]:
        yield from self._rolls_back()
        state, self._state = self._state, LEFT
        if self._step is not None and state in {OPEN, WRITTEN, FOUND}:
            yield ("abandon",)

    def _ends(self, error: BaseException | None) -> Generator[Op, Any, None]:
        """Leave the block."""
        state, step = self._state, self._step
        if error is not None or state in {OPEN, LEFT}:
            yield from self._leave()
        elif state == ENTERED:
            yield from self._rolls_back()
            msg = (
                "the block of handle.transaction has called no step, so that nothing would say that it was done: it is "
                "rolled back. Do its work in a function: with handle.transaction(connection) as step: step(function)"
            )
            raise DefinitionError(msg)
        elif state == RECORDED or step is None:
            # What the block has done beside the step was done before, too.
            yield from self._rolls_back()
        elif state == FOUND:
            yield from self._rolls_back()
            yield ("finish", self._encoded)
        else:
            yield from self._commits(step)

    def _commits(self, step: "OpenStep") -> Generator[Op, Any, None]:
        if self._driver.is_closed:
            yield ("abandon",)
            raise self._was_closed()
        try:
            yield from self._place.confirm(self._encoded)
        except Fenced:
            yield from self._rolls_back()
            yield ("lose",)
            return
        except Taken:
            yield from self._rolls_back()
            yield from self._adopts(step)
            return
        except BaseException as error:  # noqa: BLE001 - it is raised again
            yield from self._leave()
            self._raise_explained(error)
        try:
            yield ("commit",)
        except BaseException:
            # It may have been made. Nothing else may be recorded before that is known.
            yield from self._rolls_back()
            try:
                found = yield from self._place.outcome()
            except Fenced:
                yield ("lose",)
                return
            except StoreError:
                # The next attempt finds what is recorded, when it is about to record the same.
                found = None
            if found != self._encoded:
                self._state = LEFT
                yield ("abandon",)
                raise
        yield ("finish", self._encoded)

    def _adopts(self, step: "OpenStep") -> Generator[Op, Any, None]:
        """Take up what an earlier attempt, which went on after its time was over, has recorded meanwhile."""
        try:
            found = yield from self._place.outcome()
        except Fenced:
            yield ("lose",)
            return
        if found is None:
            yield ("abandon",)
        else:
            yield ("finish", found)
        if found != self._encoded:
            msg = (
                f"the step {step.name!r} was recorded by another attempt of its task meanwhile; what this one did is "
                "rolled back, and the next one gets what was recorded"
            )
            raise BideError(msg)


def _stand_in(connection: object, value: object) -> object:
    return _STAND_IN if value is connection else value


def _values(values: dict[str, Any], change: Callable[[object], object]) -> dict[str, Any]:
    return {name: change(value) for name, value in values.items()}


class Transaction(_Base):
    """Commits a step's record together with what the step did: `with handle.transaction(connection) as step`."""

    def __init__(self, handle: "TaskHandle", connection: Any, same_database: object = None) -> None:
        """Keep what is used; see `TaskHandle.transaction`."""
        super().__init__(handle, connection, same_database)
        self._handle = handle
        self._driver = driver_of(connection, in_coroutine=False)

    def _do(self, steps: Generator[Op, Any, R]) -> R:
        try:
            op = next(steps)
            while True:
                try:
                    done = self._one(*op)
                except BaseException as error:  # noqa: BLE001 - it is the generator's
                    op = steps.throw(error)
                else:
                    op = steps.send(done)
        except StopIteration as ended:
            result: R = ended.value
            return result

    def _one(self, what: str, *arguments: Any) -> Any:
        if what == "blocking":
            return arguments[0]()
        if what in {"finish", "abandon", "lose"}:
            return getattr(self._step, what)(*arguments)
        return getattr(self._driver, what)(*arguments)

    def __enter__(self) -> Self:
        """Begin the transaction."""
        self._do(self._enter())
        _open.set(self)
        return self

    @overload
    def __call__(self, fn: Callable[..., R], /, *args: Any, name: str, key: str | None = None, **kwargs: Any) -> R: ...
    @overload
    def __call__(self, fn: Callable[..., R], /, *args: Any, name: str | None = None, key: str, **kwargs: Any) -> R: ...
    @overload
    def __call__(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(  # type: ignore[misc] # as TaskHandle.step
        self, fn: Callable[..., Any], /, *args: Any, name: str | None = None, key: str | None = None, **kwargs: Any
    ) -> Any:
        """Call `fn(*args, **kwargs)` in the transaction and record what it returns; return that if it is recorded."""
        described = self._describe(fn, args, kwargs, name, key)
        step = self._handle._open_step(described)
        if not isinstance(step, _core.OpenStep):
            self._state = RECORDED
            return step
        self._state = OPEN
        found = self._do(self._look(step))
        if found is None:
            try:
                value = step.execute(fn, args, kwargs)
            except Unrecorded as left:
                self._do(self._leave())
                return _outcome(left)
            self._do(self._writes(step.encode(value)))
        else:
            self._encoded, self._state = found, FOUND
        return step.decode(self._encoded)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit what the step did together with its record, or roll back."""
        _open.set(None)
        try:
            self._do(self._ends(error))
        finally:
            self._state = CLOSED


def _outcome(left: Unrecorded) -> Any:
    if isinstance(left.outcome, BaseException):
        raise left.outcome
    return left.outcome


class AsyncTransaction(_Base):
    """Does the same for a coroutine: `async with handle.transaction(connection) as step`, and `await step(...)`."""

    _in_coroutine = True

    def __init__(self, handle: "AsyncTaskHandle", connection: Any, same_database: object = None) -> None:
        """Keep what is used; see `AsyncTaskHandle.transaction`."""
        super().__init__(handle, connection, same_database)
        self._handle = handle
        self._driver = driver_of(connection, in_coroutine=True)
        self._call: Call

    async def _do(self, steps: Generator[Op, Any, R]) -> R:
        try:
            op = next(steps)
            while True:
                try:
                    done = await self._one(*op)
                except BaseException as error:  # noqa: BLE001 - it is the generator's
                    op = steps.throw(error)
                else:
                    op = steps.send(done)
        except StopIteration as ended:
            result: R = ended.value
            return result

    async def _one(self, what: str, *arguments: Any) -> Any:
        if what == "blocking":
            return await self._handle._loop.in_thread(arguments[0])
        if what == "abandon":
            self._call.abandon()
            return None
        if what in {"finish", "lose"}:
            getattr(self._step, what)(*arguments)
            await self._to_end()
            return self._call.step_result()
        done = getattr(self._driver, what)(*arguments)
        return await done if isinstance(done, Awaitable) else done

    async def _to_end(self) -> int:
        todo = await self._call
        if todo == _CANCELLED:
            self._handle._loop.cancels(self._handle._core)
        return todo

    async def __aenter__(self) -> Self:
        """Begin the transaction."""
        self._handle._refuse_elsewhere()
        await self._do(self._enter())
        _open.set(self)
        return self

    @overload
    async def __call__(
        self, fn: Callable[..., Awaitable[R]], /, *args: Any, name: str, key: str | None = None, **kwargs: Any
    ) -> R: ...
    @overload
    async def __call__(
        self, fn: Callable[..., Awaitable[R]], /, *args: Any, name: str | None = None, key: str, **kwargs: Any
    ) -> R: ...
    @overload
    async def __call__(
        self, fn: Callable[..., R], /, *args: Any, name: str, key: str | None = None, **kwargs: Any
    ) -> R: ...
    @overload
    async def __call__(
        self, fn: Callable[..., R], /, *args: Any, name: str | None = None, key: str, **kwargs: Any
    ) -> R: ...
    @overload
    async def __call__(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def __call__(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def __call__(  # type: ignore[misc] # as TaskHandle.step
        self, fn: Callable[..., Any], /, *args: Any, name: str | None = None, key: str | None = None, **kwargs: Any
    ) -> Any:
        """Call `fn(*args, **kwargs)` in the transaction and record what it returns; return that if it is recorded."""
        described, handle = self._describe(fn, args, kwargs, name, key), self._handle
        handle._refuse_elsewhere()
        self._call = _core.Call.step(handle._core, described, None, None, handle._within())
        try:
            todo = await self._to_end()
        except BaseException as error:
            await handle._leave(self._call, error)
            raise
        if todo != _EXECUTE:
            self._state = RECORDED
            return self._call.step_result()
        self._state = OPEN
        step = _core.OpenStep(described[0], self._call)
        found = await self._do(self._look(step))
        if found is None:
            if handle._loop.tested:
                from bide._stubs import tested  # noqa: PLC0415 - for tests alone

                fn = tested(self._call, described[0], fn)
            try:
                value = await self._execute(functools.partial(fn, *args, **kwargs))
            except Unrecorded as left:
                await self._do(self._leave())
                return _outcome(left)
            except BaseException as error:
                from bide._loop import check_interrupted  # noqa: PLC0415 - it imports asyncio

                check_interrupted(handle._core, error)
                raise
            await self._do(self._writes(step.encode(value)))
        else:
            self._encoded, self._state = found, FOUND
        return step.decode(self._encoded)

    async def _execute(self, function: Callable[[], Any]) -> Any:
        if self._driver.is_async:
            return await self._handle._run(function, STEP)
        # The connection belongs to this thread.
        token = here.set((self._handle._core, STEP))
        try:
            value = function()
            return await value if isinstance(value, Awaitable) else value
        finally:
            here.reset(token)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit what the step did together with its record, or roll back."""
        _open.set(None)
        try:
            # Whether it is committed must be known, also if this task is cancelled meanwhile.
            await self._handle._to_end(asyncio.ensure_future(self._do(self._ends(error))))
        finally:
            self._state = CLOSED
