"""`@task`: turns a function into a task without changing it, and `TaskDef`, what was said about it.

The decorator returns the same function object with an attribute on it. Only what cannot carry an attribute (a
bound method, a builtin) or already carries another task is wrapped. What is known at decoration is refused there;
the signature is read when a workflow is built (`_bind.py`).
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeGuard, TypeVar, overload

import msgspec

from bide._callables import is_async, is_generator, is_plain
from bide._duration import optional_seconds
from bide._errors import DefinitionError
from bide._limits import Limit
from bide._retry import Retry
from bide._text import is_text
from bide._waits import Duration, Wait, WaitBase

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from bide._executors import RemoteExecutor

P = ParamSpec("P")
R = TypeVar("R")

ATTRIBUTE = "__bide_task__"
RESERVED = frozenset({"context", "ctx", "handle", "task_handle"})
BELOW = "what @bide.task says: put @bide.task below the decorator that made it"
RUN_IF = ("succeeded", "none_failed", "failed", "done")
NO_SETTINGS = ((), None, None, None, "succeeded", 0, None, None)
"""What `task` gets for all settings but the name if it gets none, in the order of `_define`."""


class TaskDef(msgspec.Struct, frozen=True):
    """A task as it was decorated."""

    name: str
    fn: Callable[..., Any]
    depends_on: tuple[str, ...] = ()
    retry: Retry | None = None
    timeout: float | None = None
    gate: Wait | None = None
    run_if: str = "succeeded"
    carrier: object = None
    """The object that this definition was put on: `functools.wraps` copies attributes, and a copy is told by it."""
    tolerate: float = 0
    """How many elements of a mapped task may fail: a count as an int, a share as a float."""
    limit: Limit | None = None
    executor: "Executor | RemoteExecutor | None" = None
    """What executes the body, if not the runner."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay behind when the object that it was put on is pickled for another process, which needs that alone."""
        return type(None), ()

    def __copy__(self) -> "TaskDef":
        """Return it: it never changes."""
        return self

    def __deepcopy__(self, _seen: object) -> "TaskDef":
        """Return it, as above."""
        return self


@overload
def task(fn: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def task(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    depends_on: str | Callable[..., Any] | Iterable[str | Callable[..., Any]] = (),
    retry: Retry | None = None,
    timeout: Duration | None = None,
    gate: Wait | None = None,
    run_if: str = "succeeded",
    tolerate: float = 0,
    limit: Limit | None = None,
    executor: "Executor | RemoteExecutor | None" = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
@overload
def task(
    fn: Callable[P, R],
    /,
    *,
    name: str | None = None,
    depends_on: str | Callable[..., Any] | Iterable[str | Callable[..., Any]] = (),
    retry: Retry | None = None,
    timeout: Duration | None = None,
    gate: Wait | None = None,
    run_if: str = "succeeded",
    tolerate: float = 0,
    limit: Limit | None = None,
    executor: "Executor | RemoteExecutor | None" = None,
) -> Callable[P, R]: ...
def task(  # noqa: PLR0913 - each is a setting of its own, all but the first by keyword
    fn: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    depends_on: str | Callable[..., Any] | Iterable[str | Callable[..., Any]] = (),
    retry: Retry | None = None,
    timeout: Duration | None = None,
    gate: Wait | None = None,
    run_if: str = "succeeded",
    tolerate: float = 0,
    limit: Limit | None = None,
    executor: "Executor | RemoteExecutor | None" = None,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a task; it stays the function it was.

    A parameter named after a task receives that task's return value and depends on it; any other is a run input.
    `timeout` limits the execution of one attempt (time deferred excluded), `gate` is waited for before the body
    starts, and `run_if` ("succeeded", "none_failed", "failed", "done") decides once all dependencies have ended.
    `tolerate` is how many elements of a mapped task may fail: a count such as 3, or a share such as 0.1. `limit` is
    what it shares with other tasks and runs: see `Limit`. `executor` executes the body in another process, or wherever
    else it does so: `bide.Processes(n)`, an executor of `concurrent.futures`, `bide.Dask(client)` or `bide.Ray()`.
    """
    settings = (depends_on, retry, timeout, gate, run_if, tolerate, limit, executor)
    if fn is not None:
        return _declare(fn, name, settings)

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        return _declare(fn, name, settings)

    return decorate


def as_task(obj: object) -> TaskDef:
    """Return the definition of a decorated function, or a plain one for any other callable.

    An attribute found on `obj` that was put on something else was copied there (by `functools.wraps`) or belongs to
    the function of a bound method: then `obj` is what runs.
    """
    if isinstance(obj, staticmethod):
        obj = obj.__func__
    definition = getattr(obj, ATTRIBUTE, None)
    if not isinstance(definition, TaskDef):
        return _define(obj, None, NO_SETTINGS)
    if definition.carrier is not obj:
        _check_body(obj, definition.name)
        return msgspec.structs.replace(definition, fn=obj, carrier=obj)
    return definition


def name_of(task: object) -> str:
    """Return the name of the task that a function stands for; a `DefinitionError` if it has none."""
    if isinstance(task, (staticmethod, classmethod)):
        task = task.__func__  # as it is written within the class
    definition = getattr(task, ATTRIBUTE, None)
    return definition.name if isinstance(definition, TaskDef) else _name_of(task)


def check_name(name: object, what: str) -> str:
    """Return the name of a task or workflow after checking it."""
    if _is_simple_name(name):
        return name
    if not isinstance(name, str) or not name.strip():
        msg = f"{what} must have a name that is not empty, not {name!r}"
        raise DefinitionError(msg)
    if not is_text(name):
        msg = f"{what} is named {name!r}, which has a lone surrogate and is not text"
        raise DefinitionError(msg)
    return name


def _is_simple_name(name: object) -> TypeGuard[str]:
    """Whether it is a name, as far as can be seen at once; most are."""
    return type(name) is str and name.isascii() and not name.isspace() and name != ""


def _declare(fn: Callable[P, R], name: object, settings: tuple[Any, ...]) -> Callable[P, R]:
    """Put a definition on the function, also on the one that a static or class method holds."""
    if isinstance(fn, (staticmethod, classmethod)):
        method: Any = fn
        inner = _declare(method.__func__, name, settings)
        return method if inner is method.__func__ else type(method)(inner)  # type: ignore[no-any-return]
    definition = _define(fn, name, settings)
    if is_plain(fn):  # nothing is on it yet, and nothing hides what is put there
        fn.__dict__[ATTRIBUTE] = definition
        return fn
    carrier = _put(fn, definition)
    if _hides_attributes(carrier):
        msg = f"task {definition.name!r}: read from its class, {fn!r} is another object, without {BELOW}"
        raise DefinitionError(msg)
    return carrier


def _put(fn: Callable[P, R], definition: TaskDef) -> Callable[P, R]:
    existing = getattr(fn, ATTRIBUTE, None)
    if not (isinstance(existing, TaskDef) and existing.carrier is fn):
        try:
            setattr(fn, ATTRIBUTE, definition)
        except (AttributeError, TypeError):
            pass
        else:
            return fn

    @functools.wraps(fn)
    def same(*args: P.args, **kwargs: P.kwargs) -> R:
        return fn(*args, **kwargs)

    setattr(same, ATTRIBUTE, msgspec.structs.replace(definition, carrier=same))
    return same


def _hides_attributes(carrier: object) -> bool:
    """Whether a class that has it as an attribute gives something else for it, which does not carry the definition."""
    if isinstance(carrier, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return False
    get = getattr(type(carrier), "__get__", None)
    if get is None:
        return False
    try:
        seen = get(carrier, None, object)
    except Exception:  # noqa: BLE001 - a descriptor of its own mind: the class will have it answer
        return False
    return not isinstance(getattr(seen, ATTRIBUTE, None), TaskDef)


def _define(fn: object, name: object, settings: tuple[Any, ...]) -> TaskDef:
    """Return the definition of a callable; `settings` are those of `task`, in the order of `NO_SETTINGS`."""
    if not callable(fn):
        hint = ": put @bide.task below the decorator that made it" if hasattr(fn, "__get__") else ""
        msg = f"a task must be callable, not {fn!r}{hint}"
        raise DefinitionError(msg)
    if name is None:
        name = _name_of(fn)
    elif not _is_simple_name(name):
        name = check_name(name, f"the task {fn!r}")
    if name in RESERVED:
        msg = f"a task cannot be named {name!r}: a parameter of that name receives the {_meaning(name)}; use name="
        raise DefinitionError(msg)
    if is_plain(fn) and settings == NO_SETTINGS:
        return TaskDef(name, fn, (), None, None, None, "succeeded", fn)
    depends_on, retry, timeout, gate, run_if, tolerate, limit, executor = settings
    what = f"task {name!r}"
    _check_body(fn, name)
    if retry is not None and not isinstance(retry, Retry):
        msg = f"{what}: retry must be a bide.Retry, such as bide.Retry(attempts=3), not {retry!r}"
        raise DefinitionError(msg)
    if gate is not None and not isinstance(gate, WaitBase):
        msg = f"{what}: gate must be a wait, such as bide.until(...), bide.after(...) or bide.signal(...), not {gate!r}"
        raise DefinitionError(msg)
    if run_if not in RUN_IF:
        msg = f"{what}: run_if must be one of {', '.join(map(repr, RUN_IF))}, not {run_if!r}"
        raise DefinitionError(msg)
    if limit is not None and not isinstance(limit, Limit):
        msg = f'{what}: limit must be a bide.Limit, such as bide.Limit("api", in_flight=10), not {limit!r}'
        raise DefinitionError(msg)
    _check_executor(fn, executor, limit, what)
    return TaskDef(
        name=name,
        fn=fn,
        depends_on=_names(depends_on, what),
        retry=retry,
        timeout=optional_seconds(timeout, f"{what}: timeout"),
        gate=gate,
        run_if=str(run_if),
        carrier=fn,
        tolerate=_tolerate(tolerate, what),
        limit=limit,
        executor=executor,
    )


def _check_executor(fn: object, executor: object, limit: Limit | None, what: str) -> None:
    """Refuse an executor that is none, and what has no meaning for a body that it executes."""
    if executor is None:
        return
    from bide._executors import check_executor  # noqa: PLC0415 - few tasks have one

    check_executor(executor, what)
    if is_async(fn):
        msg = f"{what} is an `async def`, which executes on the event loop of the runner: make it a `def`, or leave "
        msg += "executor= out"
        raise DefinitionError(msg)
    if limit is not None and limit.executing is not None:
        msg = (
            f"{what}: Limit({limit.name!r}) has executing=, which counts the bodies that hold a slot, and a body with "
            "executor= holds none: use in_flight="
        )
        raise DefinitionError(msg)


def _tolerate(tolerate: object, what: str) -> float:
    """Return how many elements may fail: a count as an int, a share as a float."""
    if isinstance(tolerate, int) and not isinstance(tolerate, bool) and 0 <= tolerate < 2**31:
        return tolerate
    if isinstance(tolerate, float) and 0.0 <= tolerate <= 1.0:
        return tolerate
    msg = f"{what}: tolerate must be a count such as 3 or a share such as 0.1, not {tolerate!r}"
    raise DefinitionError(msg)


def _name_of(fn: object) -> str:
    if type(fn) is types.FunctionType and fn.__name__.isidentifier():  # a lambda's is none
        return fn.__name__
    name = getattr(fn, "__name__", None)
    if isinstance(fn, functools.partial):
        kind = "a partial"
    elif inspect.ismethod(fn) and not inspect.isclass(fn.__self__):
        kind = "a bound method"
    elif name == "<lambda>":
        kind = "a lambda"
    elif not isinstance(name, str) or not name:
        kind = "an object without __name__"
    else:
        return check_name(name, f"the task {fn!r}")
    msg = f"the task {fn!r} is {kind}: give it a name with bide.task(..., name=...)"
    raise DefinitionError(msg)


def _check_body(fn: object, name: str) -> None:
    """Refuse the kinds of body that cannot run."""
    if is_generator(fn):
        msg = f"task {name!r} is a generator function: a body returns its value; return a list instead of yielding"
        raise DefinitionError(msg)


def _names(depends_on: object, what: str) -> tuple[str, ...]:
    """Return the names in `depends_on`, each once, in order; one name or task may stand alone."""
    if isinstance(depends_on, (str, classmethod)) or callable(depends_on):
        depends_on = (depends_on,)
    if not isinstance(depends_on, Iterable):
        msg = f"{what}: depends_on takes names of tasks or tasks, not {depends_on!r}"
        raise DefinitionError(msg)
    names: dict[str, None] = {}
    for one in depends_on:
        if isinstance(one, str):
            names[one] = None
        elif isinstance(one, (staticmethod, classmethod)) or callable(one):
            names[name_of(one)] = None
        else:
            msg = f"{what}: depends_on takes names of tasks or tasks, not {one!r}"
            raise DefinitionError(msg)
    return tuple(names)


def _meaning(name: str) -> str:
    return "Context" if name in {"context", "ctx"} else "handle"
