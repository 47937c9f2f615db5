"""`Dask`: executes bodies on the workers of a Dask cluster, where their results outlive this process.

Each call has a key of its own, under which its future is published: the scheduler then keeps it although the client
that submitted it is gone. A body that is entered again attaches to what is published, and the result is unpublished
once the end of the body is committed.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from bide._errors import BideError, DefinitionError, not_picklable
from bide._executors import Begun, Call, RemoteExecutor, Report, extra
from bide._remote_call import Ended, Failed, execute

_Future: TypeAlias = Any
"""A `distributed.Future`: see `extra`."""


class Dask(RemoteExecutor):
    """Executes bodies by a `dask.distributed.Client`, `pip install 'bide[dask]'`.

    What a worker executes continues if this process dies, and is executed once: a runner that takes over waits for the
    same call. The client stays yours: keep it open until the runner is closed. A task's `timeout` and a cancelled run
    cancel the call, which Dask does before it starts; one that executes is left to its end, and its result is dropped.
    """

    _blocks = True

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - see `extra`
        """Keep the client, which has to be a synchronous one."""
        if not isinstance(client, extra("distributed", "bide.Dask", "dask").Client):
            msg = f"bide.Dask takes a dask.distributed.Client, not {client!r}"
            raise DefinitionError(msg)
        if client.asynchronous:
            msg = "bide.Dask takes a synchronous client, and this one is asynchronous: make it outside of an event loop"
            raise DefinitionError(msg)
        self._client = client

    def __repr__(self) -> str:
        """Show the scheduler."""
        scheduler = getattr(self._client, "scheduler", None)
        return f"bide.Dask({getattr(scheduler, 'address', 'closed')!r})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = "Dask"
        raise not_picklable(what, "make one in each process that has a runner")

    def _begin(self, call: Call, report: Report) -> Begun:
        key = _key(call)
        try:
            future = self._published(key) or self._submit(key, call)
        except Exception as error:
            msg = (
                f"task {call.task!r}: {self!r} has not taken it: {type(error).__name__}: {error}. Is its scheduler up?"
            )
            raise BideError(msg) from error
        begun = _BegunDask(self, future, call)
        future.add_done_callback(lambda done: report(begun.ended(done)))
        return begun

    def _published(self, key: str) -> _Future:
        """Return what an earlier process has published, unless that is lost or was cancelled."""
        found: Any = self._client.get_dataset(key, default=None)
        if found is None or found.status not in {"cancelled", "lost"}:
            return found
        self._forget(key)
        return None

    def _submit(self, key: str, call: Call) -> _Future:
        future = self._client.submit(execute, call.fn, call.task, call.args, call.kwargs, key=key, pure=False)
        self._client.publish_dataset(**{key: future})
        return future

    def _forget(self, key: str) -> None:
        with contextlib.suppress(Exception):  # it is gone, or its scheduler is
            self._client.unpublish_dataset(key)

    def _committed(self, call: Call) -> Callable[[], None]:
        return lambda: self._forget(_key(call))


class _BegunDask:
    def __init__(self, executor: Dask, future: _Future, call: Call) -> None:
        self._executor, self._future, self._call = executor, future, call

    def cancel(self) -> None:
        with contextlib.suppress(Exception):
            self._future.cancel()
        self._executor._forget(_key(self._call))

    def leave(self) -> None:
        """Leave it published: the runner that enters the body again attaches to it."""

    def where(self) -> str:
        status = self._future.status
        what = "waits or executes in" if status == "pending" else f"is {status} in"
        return f"{what} {self._executor!r} as {_key(self._call)!r}"

    def ended(self, future: _Future) -> Ended:
        what = f"task {self._call.task!r}: {self._executor!r}"
        if future.status == "finished":
            try:
                ended: Ended = future.result()
            except Exception as error:  # noqa: BLE001 - the network's, or of the class of an exception
                return Failed(_error(f"{what} could not give the result: {type(error).__name__}: {error}", error))
            return ended
        if future.status == "error":
            problem = future.exception()
            return Failed(_error(f"{what} could not execute it: {type(problem).__name__}: {problem}", problem))
        return Failed(
            BideError(
                f"{what} has lost the call, which is {future.status}: its scheduler is gone, or somebody has"
                " cancelled it"
            )
        )


def _error(message: str, cause: BaseException | None) -> BideError:
    error = BideError(message)
    error.__cause__ = cause
    return error


def _key(call: Call) -> str:
    return f"bide-{call.run}-{call.task}-{call.attempt}"
