"""What `@bide.task(executor=...)` takes: `RemoteExecutor`, the base of bide's own, and any of `concurrent.futures`.

An executor is given a call and a function to be called once with its end, on any thread. What a body waits for
meanwhile is in `_remote.py`.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from bide._errors import BideError, DefinitionError, SerializationError
from bide._remote_call import Ended, Failed, execute

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from bide._task import TaskDef


class Call(NamedTuple):
    """One call of a task's function."""

    run: str
    task: str
    attempt: int
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    parameters: tuple[str, ...]
    """The names of the positional arguments, for errors."""
    timeout: float | None


class Begun(Protocol):
    """A call that an executor has been given."""

    def cancel(self) -> None:
        """End it, as far as that can be done: nobody waits for it any more."""
        ...

    def leave(self) -> None:
        """Leave it: the runner closes."""
        ...

    def where(self) -> str:
        """Say where it is, as in "executes in process 1234"."""
        ...


Report: TypeAlias = Callable[[Ended], None]


class RemoteExecutor:
    """The base of `bide.Processes`, `bide.Dask` and `bide.Ray`."""

    _limits_time = False
    """It ends a call whose `timeout` is over, and reports that."""
    _blocks = False
    """To begin a call may take a while."""

    def _check(self, one: "TaskDef") -> Callable[..., Any]:
        """Return what it calls for a task; a `DefinitionError` if it cannot."""
        return one.fn

    def _begin(self, call: Call, report: Report) -> Begun:
        raise NotImplementedError

    def _committed(self, _call: Call) -> Callable[[], None] | None:
        """Return what to call once the end of the body is committed, if it keeps results. It may block."""
        return None

    def _used_by(self, user: object) -> None:
        """Count a runner that uses it."""

    def _released_by(self, user: object) -> None:
        """Count no more a runner that has closed."""


class Futures(RemoteExecutor):
    """An executor of `concurrent.futures`, or one that follows it."""

    def __init__(self, executor: "Executor") -> None:
        """Keep the executor, which stays its user's: a runner does not shut it down."""
        self._executor = executor
        kind = type(executor)
        self._name = kind.__qualname__
        self._blocks = not kind.__module__.startswith("concurrent.futures.")

    def __repr__(self) -> str:
        """Show the executor."""
        return repr(self._executor)

    def _check(self, one: "TaskDef") -> Callable[..., Any]:
        module: Any = sys.modules.get("concurrent.futures.process")
        if module is not None and isinstance(self._executor, module.ProcessPoolExecutor):
            return portable(one, self._name)
        return one.fn

    def _begin(self, call: Call, report: Report) -> Begun:
        future = self._executor.submit(execute, call.fn, call.task, call.args, call.kwargs)
        begun = _BegunFuture(future, call, self._name)
        future.add_done_callback(lambda done: report(begun.ended(done)))
        return begun


class _BegunFuture:
    def __init__(self, future: "Future[Ended]", call: Call, name: str) -> None:
        self._future, self._call, self._name = future, call, name

    def cancel(self) -> None:
        self._future.cancel()

    leave = cancel

    def where(self) -> str:
        return f"executes in the {self._name}" if self._future.running() else f"waits in the {self._name}"

    def ended(self, future: "Future[Ended]") -> Ended:
        if future.cancelled():
            return Failed(BideError(f"task {self._call.task!r}: its executor, a {self._name}, has cancelled the body"))
        error = future.exception()
        return future.result() if error is None else Failed(error)


def executor_of(given: object, what: str) -> RemoteExecutor:
    """Return what `executor=` means; a `DefinitionError` if it is none."""
    if isinstance(given, RemoteExecutor):
        return given
    module: Any = sys.modules.get("concurrent.futures")
    if module is not None and isinstance(given, module.Executor):
        return Futures(given)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    hint = f": make one, as in executor={given.__name__}(...)" if isinstance(given, type) else ""
    msg = (
        f"{what}: executor must be a bide.Processes(n), a concurrent.futures.Executor, a bide.Dask(client) or a "
        f"bide.Ray(), not {given!r}{hint}"
    )
    raise DefinitionError(msg)


def portable(one: "TaskDef", executor: str) -> Callable[..., Any]:
    """Return the function of a task as another process finds it; a `DefinitionError` if it does not."""
    import pickle  # noqa: PLC0415 - for tasks with an executor

    problem = None
    for candidate in (one.fn, one.carrier):
        try:
            pickle.dumps(candidate)
        except Exception as error:  # noqa: BLE001 - a callable of the user's may raise anything
            problem = problem or error
        else:
            return candidate  # type: ignore[return-value] # pyright: ignore[reportReturnType]
    msg = (
        f"task {one.name!r}: its function cannot be pickled for another process of the {executor}: {problem}. Define "
        "it at the top level of a module"
    )
    raise DefinitionError(msg)


def pickled(call: Call, executor: str) -> bytes:
    """Return a call as a pickle; a `SerializationError` that names the argument which has none."""
    import pickle  # noqa: PLC0415 - as above

    try:
        return pickle.dumps((call.fn, call.args, call.kwargs), protocol=5)
    except Exception as problem:
        named = [*zip(call.parameters, call.args, strict=False), *call.kwargs.items()]
        for name, value in named:
            try:
                pickle.dumps(value, protocol=5)
            except Exception as of_one:
                msg = f"task {call.task!r}: parameter {name!r} cannot be pickled for {executor}: {of_one}"
                raise SerializationError(msg) from of_one
        msg = f"task {call.task!r} cannot be pickled for {executor}: {problem}"
        raise SerializationError(msg) from problem
