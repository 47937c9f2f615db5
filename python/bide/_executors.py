"""What `@bide.task(executor=...)` takes: `RemoteExecutor`, the base of bide's own, and those of `_futures.py`.

An executor is given a call and a function to be called once with its end, on any thread. What a body waits for
meanwhile is in `_remote.py`.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from bide._errors import DefinitionError, SerializationError

if TYPE_CHECKING:
    from bide._remote_call import Ended
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


Report: TypeAlias = "Callable[[Ended], None]"


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


def check_executor(given: object, what: str) -> None:
    """Refuse what is no executor."""
    if isinstance(given, RemoteExecutor) or is_of_futures(given):
        return
    hint = f": make one, as in executor={given.__name__}(...)" if isinstance(given, type) else ""
    msg = (
        f"{what}: executor must be a bide.Processes(n), a concurrent.futures.Executor, a bide.Dask(client) or a "
        f"bide.Ray(), not {given!r}{hint}"
    )
    raise DefinitionError(msg)


def is_of_futures(given: object) -> bool:
    """Whether it is an executor of `concurrent.futures`, which who has one has imported."""
    module: Any = sys.modules.get("concurrent.futures")
    return module is not None and isinstance(given, module.Executor)


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


def extra(module: str, what: str, name: str) -> Any:  # noqa: ANN401 - its types are not everywhere that these are checked
    """Import a package that `what` needs, which an extra of bide's of this name installs."""
    import importlib  # noqa: PLC0415 - for those who need one

    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = f"{what} needs {module}: pip install 'bide[{name}]' ({error})"
        raise DefinitionError(msg) from error
