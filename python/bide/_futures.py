"""`Futures`: an executor of `concurrent.futures`, or one that follows it, as an executor of bodies."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bide._errors import BideError
from bide._executors import Begun, Call, RemoteExecutor, Report, portable
from bide._remote_call import Ended, Failed, execute

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from bide._task import TaskDef


class Futures(RemoteExecutor):
    """Gives calls to the executor, and takes its futures."""

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
        try:
            future = self._executor.submit(execute, call.fn, call.task, call.args, call.kwargs)
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # such as that of a broken pool, which tells more
                raise
            msg = (
                f"task {call.task!r}: its executor, a {self._name}, takes no bodies ({error}): keep it open until the "
                "runner is closed"
            )
            raise BideError(msg) from error
        if not hasattr(future, "add_done_callback"):
            msg = f"task {call.task!r}: submit() of its executor, a {self._name}, has returned no Future: {future!r}"
            raise BideError(msg)
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
