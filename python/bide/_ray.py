"""`Ray`: executes bodies on a Ray cluster, each in a detached actor of its own, which outlives this process.

Ray ends the calls of a driver that is gone. So each call belongs to an actor with a name: a body that is entered again
finds it by that, and it is killed once the end of the body is committed.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from bide._errors import BideError, DefinitionError, not_picklable
from bide._executors import Begun, Call, RemoteExecutor, Report, extra
from bide._remote_call import Ended, Failed, execute

NAMESPACE = "bide"
"""The namespace of the actors' names."""


class Owner:
    """Executes one call on a thread of the actor's process, from when that has started."""

    def __init__(self, call: tuple[Any, ...]) -> None:
        """Begin."""
        self._ended: Ended | None = None
        self._thread = threading.Thread(target=self._execute, args=call, daemon=True)
        self._thread.start()

    def result(self) -> Ended:
        """Return how the call has ended, once it has."""
        self._thread.join()
        return self._ended or Failed(BideError("the call has ended without a result"))

    def _execute(self, *call: Any) -> None:  # noqa: ANN401 - what `execute` takes
        self._ended = execute(*call)


class Ray(RemoteExecutor):
    """Executes bodies on the Ray cluster to which `ray.init` has connected this process, `pip install 'bide[ray]'`.

    What is executed continues if this process dies, and is executed once: a runner that takes over, in a process that
    has connected to the same cluster, waits for the same call. `options` are those of an actor, such as `num_cpus=2`
    or `resources={"gpu": 1}`. A task's `timeout` and a cancelled run kill the actor of the call.
    """

    _blocks = True

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - Ray's own
        """Keep the options."""
        self._ray = extra("ray", "bide.Ray", "ray")
        taken = {"name", "namespace", "lifetime", "get_if_exists", "max_concurrency"} & options.keys()
        if taken:
            msg = f"bide.Ray sets {', '.join(sorted(taken))} by itself: leave it out"
            raise DefinitionError(msg)
        self._options = {"num_cpus": 1, **options}

    def __repr__(self) -> str:
        """Show the options."""
        return f"bide.Ray({', '.join(f'{name}={value!r}' for name, value in self._options.items())})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = "Ray"
        raise not_picklable(what, "make one in each process that has a runner")

    def _begin(self, call: Call, report: Report) -> Begun:
        ray = self._ray
        if not ray.is_initialized():
            msg = f"task {call.task!r}: its executor is bide.Ray, and this process is not connected: call ray.init(...)"
            raise BideError(msg)
        name = _name(call)
        try:
            options = {**self._options, "name": name, "namespace": NAMESPACE, "lifetime": "detached"}
            owner = ray.remote(Owner).options(**options, get_if_exists=True, max_concurrency=2)
            actor = owner.remote((call.fn, call.task, call.args, call.kwargs))
            future = actor.result.remote().future()
        except Exception as error:
            msg = f"task {call.task!r}: Ray has not taken it: {type(error).__name__}: {error}"
            raise BideError(msg) from error
        future.add_done_callback(lambda done: report(_ended(done, call)))
        return _BegunRay(actor, name)

    def _committed(self, call: Call) -> Callable[[], None]:
        return lambda: _kill(_name(call))


class _BegunRay:
    def __init__(self, actor: Any, name: str) -> None:  # noqa: ANN401 - of Ray's class
        self._actor, self._name = actor, name

    def cancel(self) -> None:
        _kill(self._name)

    def leave(self) -> None:
        """Leave it: the runner that enters the body again finds it."""

    def where(self) -> str:
        return f"waits or executes on Ray, in the actor {self._name!r}"


def _ended(future: Any, call: Call) -> Ended:  # noqa: ANN401 - of a result
    try:
        ended: Ended = future.result()
    except Exception as error:  # noqa: BLE001 - Ray's own
        failure = BideError(f"task {call.task!r}: Ray has lost the call: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return Failed(failure)
    return ended


def _kill(name: str) -> None:
    ray = extra("ray", "bide.Ray", "ray")
    with contextlib.suppress(Exception):  # it is gone, or its cluster is
        ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def _name(call: Call) -> str:
    return f"bide-{call.run}-{call.task}-{call.attempt}"
