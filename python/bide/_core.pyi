"""The extension. Only `Channel`, `TaskHandle` and `__version__` are public, and `bide` re-exports them.

`_workflow.py`, `_runner.py` and `_result.py` wrap the rest, whose values are stored bytes.
"""

from asyncio import Future, Task
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from collections.abc import Coroutine as AbstractCoroutine
from contextvars import Context as ContextVars
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, ParamSpec, Self, TypeAlias, TypedDict, TypeVar, final, overload
from weakref import ref

from bide._async_calls import Begun
from bide._async_handle import AsyncTaskHandle
from bide._callbacks import Callback
from bide._children import ChildRun
from bide._codec import Codec
from bide._combine import Fired, First, Plan
from bide._compiled import CompiledTask
from bide._control import Asked
from bide._loop import BodyLoop
from bide._options import Options
from bide._repair import Forking
from bide._result import RunResult
from bide._retry import Retry
from bide._transactions import Transaction
from bide._waits import OnError, WaitBase
from bide._workflow import Workflow as _Workflow

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")
_T = TypeVar("_T")
_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_D = TypeVar("_D")
_E = TypeVar("_E")

_Happened: TypeAlias = tuple[datetime, str, str | None, str | None, str | None, str | None]
_Sent: TypeAlias = tuple[str, list[str]]
# A wait and a task as `_why.py` reads them.
_ShownWait: TypeAlias = tuple[
    str,
    str,
    datetime,
    datetime | None,
    datetime | None,
    int | None,
    datetime | None,
    str | None,
    str | None,
    list[str],
    str | None,
]
_ShownTask: TypeAlias = tuple[
    str,
    str,
    str | None,
    int,
    datetime | None,
    datetime | None,
    str | None,
    bytes | None,
    tuple[str, ...],
    list[_ShownWait],
    tuple[str, str | None, str | None, int, int] | None,
]
_Shown: TypeAlias = tuple[
    str,
    str,
    str | None,
    str,
    str | None,
    tuple[str, bool] | None,
    tuple[str, int | None, str | None],
    str | None,
    list[_ShownTask | tuple[str, tuple[str, ...]]],
    tuple[str | None, str | None, str] | None,
    datetime | None,
    list[tuple[datetime, str, str | None, str | None, str | None]],
]
# An entry of a journal: opened and closed, due and deadline are pairs.
_Entry: TypeAlias = tuple[
    str,
    str,
    int,
    str,
    str,
    tuple[datetime, datetime | None],
    tuple[datetime | None, datetime | None],
    bytes | None,
    bytes | None,
]
_Position: TypeAlias = tuple[int, int, int, int, int]

__all__ = [
    "Awaited",
    "Call",
    "Callers",
    "Channel",
    "Coroutine",
    "Driver",
    "Follower",
    "GateWatch",
    "LoopQueue",
    "OpenStep",
    "Pending",
    "RunHandle",
    "Runner",
    "Snapshot",
    "TaskHandle",
    "TestClock",
    "Wait",
    "Workflow",
    "__version__",
    "_callback_token",
    "_current",
    "_executes_here",
    "_hold_after_commit",
    "_is_held",
    "_panic_once_at",
    "_read_callback_token",
    "_release",
    "_start_loop_thread",
    "_system_time",
    "_transfer",
    "counts",
    "in_body",
    "in_step",
    "metrics",
]

__version__: str

def counts() -> tuple[int, int, int]:
    """Return how often this process has attached, committed and woken a thread: for tests."""

def metrics() -> dict[str, Any]:
    """Return what all runners of this process have counted, also those that are gone, and what they have now."""

def in_step() -> bool:
    """Whether the calling thread executes a step."""

def in_body() -> bool:
    """Return whether the calling thread executes a body or a condition of any runner of this process."""

def _current(last: TaskHandle | None) -> TaskHandle:
    """Return the handle of the body that executes on this thread; `last` is one that was found in its contextvars."""

def _callback_token(run: str, secret: str) -> str:
    """Return the token of a callback of a run with a secret."""

def _read_callback_token(token: str) -> tuple[str, str] | None:
    """Return the run and the secret of a token, None if bide has not made it."""

def _executes_here() -> bool:
    """Return whether the calling thread executes the body of a plain function."""

def _start_loop_thread(run: Callable[[], object]) -> None:
    """Start the thread of a runner's own event loop: a daemon thread that calls `run()`."""

def _panic_once_at(place: Literal["caller", "body", "gate", "commit", "worker", "lease"]) -> None:
    """Make the next thread that reaches a place panic there: for tests."""

def _hold_after_commit(nth: int) -> None:
    """Have the thread that makes the nth commit from now on wait after it, until `_release`: for tests. 0: none."""

def _is_held() -> bool:
    """Return whether a thread waits after its commit."""

def _release() -> None:
    """Let the thread that waits after its commit continue."""

def _system_time() -> float:
    """Return the system's clock in seconds since 1970, even if Python's clock is patched."""

def _transfer(source: str, target: str) -> list[tuple[str, int, str | None]]:
    """Move the unfinished runs of a store to another one; return the top of each family, its runs, and why it stays."""

@final
class Channel(Generic[_T]):
    """A channel of events: its name, the type of its values, and how many it keeps. Made by `bide.channel`."""

    def __new__(cls, name: str, type_name: str, keep: int | None, codec: Codec) -> Channel[_T]: ...
    def __class_getitem__(cls, _item: Any) -> type[Channel[Any]]: ...
    @property
    def name(self) -> str:
        """Its name."""

    @property
    def keep(self) -> int | None:
        """How many of the last events it keeps; None: all."""

_EventFields: TypeAlias = tuple[Any, int, datetime, str, int, str | None]

@final
class Follower:
    """The reader of a channel of a run."""

    def read(self, after: int, most: int) -> tuple[list[_EventFields], bool]:
        """Return about `most` events after an offset; True with none of them if the run has ended."""

    def wait(self) -> None:
        """Wait until there may be something new since the last `read`, or until `patience` is over."""

    def on_ring(self, callback: Callable[[], object]) -> None:
        """Call `callback()` on a thread of the runner once there may be something new since the last `read`."""

    @property
    def patience(self) -> float:
        """After how many seconds to read again without having been called."""

@final
class OpenStep:
    """A step that a transaction of the user's records, being executed. See `_transactions.py`."""

    def __new__(cls, name: str, call: Call) -> OpenStep:
        """Return the step of a coroutine that this call is to execute."""

    @property
    def name(self) -> str:
        """Its name."""

    def place(self) -> tuple[str, int, str, int, int, bytes | None]:
        """Return run, element, name, use, the number of the last checkpoint, and the proof of the arguments."""

    def store(self) -> str:
        """Return the name of the store."""

    def database(self) -> tuple[str, str] | None:
        """Return an expression, and what it is in the store's database. Blocks."""

    def statement(self, marker: str, value: bytes) -> str:
        """Return the statement that records it in the store's database."""

    def outcome(self) -> tuple[bool, bytes | None]:
        """Return whether the runner still has the run, and what is recorded there for certain. Blocks."""

    def encode(self, value: object) -> bytes:
        """Return a result as it is stored."""

    def decode(self, value: bytes) -> Any:
        """Return the result that is stored so."""

    def execute(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Call its function."""

    def finish(self, value: bytes) -> None:
        """Commit that it has returned this; of a coroutine's step once its call is awaited."""

    def lose(self) -> None:
        """Have the body return, because another runner has the run."""

    def abandon(self) -> None:
        """Leave it without a record."""

@final
class TaskHandle:
    """A body's access to the executor: a parameter annotated `bide.TaskHandle`, or named `handle`.

    Use it only in the body that received it, on the body's own thread, and not within a step or a condition. Steps with
    a key work on other threads and within steps too; `emit` and `progress` also within conditions. Every wait is
    recorded before its slot is released: after a crash the body is entered again, and a condition whose value is
    recorded is not called again.
    """

    def defer_until(
        self,
        condition: Callable[[], _T | None],
        poll_interval_ms: float = 1000,
        *,
        timeout: float | timedelta | None = None,
        backoff: float = 1.0,
        max_interval_ms: float | None = None,
        jitter: float = 0.0,
        on_error: OnError = ...,
        name: str | None = None,
    ) -> _T:
        """Wait until `condition()` is truthy, without holding a slot, and return its value.

        `poll_interval_ms` is in milliseconds, as is `max_interval_ms`; `timeout` is seconds or a `timedelta`.

        The condition is called once before the slot is released, then every `poll_interval_ms`, times `backoff`
        after each call, at most every `max_interval_ms`, each interval up to `jitter` (0 to 1) longer or shorter.
        After `timeout` the wait raises `bide.WaitTimeout`; the deadline is absolute, so a crash does not extend it.

        `on_error` says what the condition's exceptions do: with `bide.Tolerate(5, seconds=30)`, the default, the fifth
        in a row ends the wait, or the first one after it that comes 30 seconds after the first; with `"raise"` the
        first one; with `"ignore"` none.

        The condition's value is recorded, so it must be one that can be stored; if only its truth matters, return
        `bool(...)`. `name` names the wait in the journal instead of the condition's own name, so that waits keep
        their records when code is moved around.
        """

    def wait(self, wait: WaitBase[_T], /, timeout: float | timedelta | None = None) -> _T:
        """Wait without holding a slot, and return the value of the wait.

        `wait` is a `bide.until`, `bide.after`, `bide.at`, `bide.signal`, `bide.request`, a callback, a child run, or a
        combination of several (`bide.any_of`, `bide.all_of`). After `timeout`, seconds or a `timedelta`, the wait
        raises `bide.WaitTimeout`; the deadline is absolute, so a crash does not extend it.
        """

    @overload
    def wait_for(self, name: str, *, timeout: float | timedelta | None = None) -> Any: ...
    @overload
    def wait_for(self, name: str, type: type[_T], timeout: float | timedelta | None = None) -> _T:
        """Wait for a signal without holding a slot, and return its value, which is read as `type`.

        Example::

            approved = handle.wait_for("approved", bool, timeout=timedelta(days=1))

        After `timeout`, seconds or a `timedelta`, it raises `bide.WaitTimeout`. Raises `bide.DefinitionError` for a
        signal that `bide.Workflow(signals=)` does not name. It is `handle.wait(bide.signal(name, type), timeout)`.
        """
    @overload
    def callback(self, name: str) -> Callback[Any]: ...
    @overload
    def callback(self, name: str, type: type[_T]) -> Callback[_T]:
        """Make a callback, which anybody with its `token` can answer by `runner.resolve` or `runner.reject`.

        It is a wait: `handle.wait(callback)` returns the answer, or raises `bide.CallbackRejected`. A re-entered body
        gets the same callback.
        """

    def _reply(self, name: str, number: int, answer: bytes | None, reason: str) -> None:
        """Answer a request, or refuse it: see `bide.Received`."""

    @overload
    def wait_any(
        self, a: WaitBase[_A], /, *, timeout: float | timedelta | None = None, name: str | None = None
    ) -> tuple[Fired[_A] | None]: ...
    @overload
    def wait_any(
        self, a: WaitBase[_A], b: WaitBase[_B], /, *, timeout: float | timedelta | None = None, name: str | None = None
    ) -> tuple[Fired[_A] | None, Fired[_B] | None]: ...
    @overload
    def wait_any(
        self,
        a: WaitBase[_A],
        b: WaitBase[_B],
        c: WaitBase[_C],
        /,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
    ) -> tuple[Fired[_A] | None, Fired[_B] | None, Fired[_C] | None]: ...
    @overload
    def wait_any(
        self,
        a: WaitBase[_A],
        b: WaitBase[_B],
        c: WaitBase[_C],
        d: WaitBase[_D],
        /,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
    ) -> tuple[Fired[_A] | None, Fired[_B] | None, Fired[_C] | None, Fired[_D] | None]: ...
    @overload
    def wait_any(
        self,
        a: WaitBase[_A],
        b: WaitBase[_B],
        c: WaitBase[_C],
        d: WaitBase[_D],
        e: WaitBase[_E],
        /,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
    ) -> tuple[Fired[_A] | None, Fired[_B] | None, Fired[_C] | None, Fired[_D] | None, Fired[_E] | None]: ...
    @overload
    def wait_any(
        self, *, timeout: float | timedelta | None = None, name: str | None = None, **named: WaitBase[Any]
    ) -> First: ...
    @overload
    def wait_any(
        self, *waits: WaitBase[_A], timeout: float | timedelta | None = None, name: str | None = None
    ) -> tuple[Fired[_A] | None, ...]:
        """Wait for the first of several waits, without holding a slot.

        Returns a tuple with `bide.Fired(value)` for the wait that came first and None for the others; of waits given by
        keyword it returns `bide.First(name, value)`.

        Example::

            paid, late = handle.wait_any(bide.signal("paid", int), bide.after(3600))

        A wait that fails is out; if all of them fail, that is an `ExceptionGroup`. After `timeout`, seconds or a
        `timedelta`, it raises `bide.WaitTimeout`. `name` names the combination in the journal. It is
        `handle.wait(bide.any_of(...), timeout)`.
        """
    @overload
    def wait_all(
        self, a: WaitBase[_A], /, *, timeout: float | timedelta | None = None, name: str | None = None
    ) -> tuple[_A]: ...
    @overload
    def wait_all(
        self, a: WaitBase[_A], b: WaitBase[_B], /, *, timeout: float | timedelta | None = None, name: str | None = None
    ) -> tuple[_A, _B]: ...
    @overload
    def wait_all(
        self,
        a: WaitBase[_A],
        b: WaitBase[_B],
        c: WaitBase[_C],
        /,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
    ) -> tuple[_A, _B, _C]: ...
    @overload
    def wait_all(
        self,
        a: WaitBase[_A],
        b: WaitBase[_B],
        c: WaitBase[_C],
        d: WaitBase[_D],
        /,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
    ) -> tuple[_A, _B, _C, _D]: ...
    @overload
    def wait_all(
        self,
        a: WaitBase[_A],
        b: WaitBase[_B],
        c: WaitBase[_C],
        d: WaitBase[_D],
        e: WaitBase[_E],
        /,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
    ) -> tuple[_A, _B, _C, _D, _E]: ...
    @overload
    def wait_all(
        self, *, timeout: float | timedelta | None = None, name: str | None = None, **named: WaitBase[Any]
    ) -> dict[str, Any]: ...
    @overload
    def wait_all(
        self, *waits: WaitBase[_A], timeout: float | timedelta | None = None, name: str | None = None
    ) -> tuple[_A, ...]:
        """Wait for all of several waits, without holding a slot.

        Returns a tuple of their values, or of waits given by keyword a dictionary.

        Example::

            lawyer, price = handle.wait_all(bide.signal("lawyer", str), bide.signal("price", int), timeout=3600)

        The first wait that fails ends it with its exception. After `timeout`, seconds or a `timedelta`, it raises
        `bide.WaitTimeout`. `name` names the combination in the journal. It is `handle.wait(bide.all_of(...), timeout)`.
        """
    def sleep(self, duration: float | timedelta, *, name: str | None = None) -> None:
        """Sleep for `duration`, seconds or a `timedelta`, without holding a slot.

        The moment of waking is recorded: a crash does not extend it.
        """

    def sleep_until(self, moment: datetime, *, name: str | None = None) -> None:
        """Sleep until `moment`, a datetime with a time zone, without holding a slot."""

    def start(
        self, workflow: _Workflow, inputs: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> ChildRun:
        """Start a run as a child of this one, and return the wait for its end.

        The child is committed together with the record of its start. A re-entered body gets the same child: the n-th
        start of a workflow is the n-th one recorded, and if its inputs are not equal to the recorded ones, that is a
        `bide.ReplayMismatch`. `key` says instead what is the same; it is no key of the run.

        A child is a run like any other; it is kept as long as its parent, and deleted with it. Raises
        `bide.DefinitionError` beyond 100 levels.
        """

    def start_many(
        self,
        workflow: _Workflow,
        inputs: Iterable[Mapping[str, Any] | None],
        keys: Iterable[str | None] | None = None,
    ) -> list[ChildRun]:
        """Start many runs as children of this one, 1,024 in one commit, and return them in the order of the inputs."""

    def run(
        self,
        workflow: _Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: float | timedelta | None = None,
    ) -> RunResult:
        """Run a workflow as a child of this run, without holding a slot, and return its result.

        It is `start` and `wait` in one. Raises `bide.RunFailed` if the child failed.
        """

    @overload
    def step(
        self,
        fn: Callable[..., _R],
        /,
        *args: Any,
        name: str,
        key: str | None = None,
        retry: Retry | None = None,
        once: bool = False,
        **kwargs: Any,
    ) -> _R: ...
    @overload
    def step(
        self,
        fn: Callable[..., _R],
        /,
        *args: Any,
        name: str | None = None,
        key: str,
        retry: Retry | None = None,
        once: bool = False,
        **kwargs: Any,
    ) -> _R: ...
    @overload
    def step(
        self,
        fn: Callable[..., _R],
        /,
        *args: Any,
        name: str | None = None,
        key: str | None = None,
        retry: Retry,
        once: bool = False,
        **kwargs: Any,
    ) -> _R: ...
    @overload
    def step(
        self,
        fn: Callable[..., _R],
        /,
        *args: Any,
        name: str | None = None,
        key: str | None = None,
        retry: Retry | None = None,
        once: bool,
        **kwargs: Any,
    ) -> _R: ...
    @overload
    def step(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `fn(*args, **kwargs)` once and record what it returns or raises; a re-entered body gets the record.

        The result is stored by the return annotation of `fn`, like a task's. If a re-entered body passes other
        arguments than the recorded ones, that is a `bide.ReplayMismatch`, and the run is paused.

        `key` says what is the same, instead of the arguments and the order of calls. Steps with different keys may
        run side by side, on any thread of the body.

        `retry` calls the step again after the exceptions that the policy covers. The slot is released during the
        delays, and attempts and delays survive a crash.

        With `once=True` the step is called at most once: after a crash in the middle of it, the re-entered body gets a
        `bide.StepInterrupted`.

        `raise bide.Unrecorded(exc_or_value)` in the step leaves it unrecorded.
        """

    def transaction(self, connection: object, *, same_database: bool | None = None) -> Transaction:
        """Begin a transaction that commits a step's record together with what the step does: both or neither, once.

        `connection` is a connection of psycopg, of sqlite3, or a `Connection` or `Session` of SQLAlchemy, with no
        transaction begun. Example::

            with handle.transaction(connection) as step:
                receipt = step(pay, connection, order)

        `step(fn, *args, name=None, key=None, **kwargs)` is `handle.step` within the transaction: after a crash, or in
        the next attempt, `fn` is not called again if that was committed, and what it returned is returned again. The
        connection itself, where it is an argument, is not compared. At the end of the block bide commits; an exception
        rolls back, and nothing is recorded. A `with` block cannot be skipped: where the step was recorded before, what
        the block does beside it is rolled back.

        If the connection is one to the database of the store, the transaction writes the entry of the journal. In any
        other PostgreSQL or SQLite database it writes into a table `bide_step`, which is made there.
        `same_database=True` asks for the first, False for the second.
        """

    def _open_step(self, described: tuple[str, bytes | None, Codec, str | None, bool]) -> Any:
        """Begin the step of a transaction: an `OpenStep`, or what is recorded."""

    def checkpoint(self, state: object) -> None:
        """Record `state` and forget the steps and waits that the body has recorded until now, in one commit.

        A body that loops for long keeps the journal of one turn. Read the state with `last_checkpoint`.
        """

    @overload
    def last_checkpoint(self, type: type[_S], default: None = None) -> _S | None: ...
    @overload
    def last_checkpoint(self, type: type[_S], default: _T) -> _S | _T:
        """Return the state of the last checkpoint as a value of `type`, or `default` if there was none."""

    def now(self) -> datetime:
        """Return the current time in UTC and record it; a re-entered body gets the recorded time."""

    @overload
    def emit(self, value: object, *, channel: str | None = ...) -> None: ...
    @overload
    def emit(self, value: _T, *, channel: Channel[_T]) -> None:
        """Append `value` to a channel of the run: `runner.follow(run)` sees it at most 50 ms later, usually sooner.

        `channel` is a name (default: "events") or a `bide.channel(...)`, which has a type. Allowed within steps and
        conditions, and on any thread of the body. It is committed before anything that the body records later. A
        re-entered body emits again, unless it emits within a recorded step.
        """

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the body has come: the last call is shown as `TaskResult.progress`.

        It is written once a second at most, and when the attempt ends. Allowed wherever `emit` is.
        """

    def is_slot_held(self) -> bool:
        """Return whether the body holds a slot now; it holds none while it waits."""

    @property
    def run_id(self) -> str:
        """The run's id."""

    @property
    def parent(self) -> str | None:
        """The id of the run whose body has started this one with `handle.start`; None for any other."""

    @property
    def task_name(self) -> str:
        """The task's name."""

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""

    @property
    def is_replaying(self) -> bool:
        """Whether the body only reads what an earlier entry of it has recorded; for callers who must not count twice.

        It is true after a re-entry until the body has come to the end of its records, and false within a step.
        """

    @property
    def in_step(self) -> bool:
        """Whether a step is executing on this thread."""

    @property
    def suspending(self) -> bool:
        """Whether the body is being suspended: it must return now, and is entered again later."""

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled: the body must clean up and return."""

@final
class Workflow:
    """A compiled workflow: its graph, validated, and its tasks."""

    def __new__(
        cls,
        name: str,
        fail_fast: bool,
        tasks: Sequence[CompiledTask],
        signals: list[str] | None = None,
        timeout: float | None = None,
        renamed: Sequence[tuple[str, str]] = ...,
    ) -> Workflow: ...
    @property
    def is_async(self) -> bool:
        """Whether a body, or the condition of a gate, is a coroutine function."""

    @property
    def levels(self) -> list[list[str]]:
        """The tasks by their distance from the roots."""

    @property
    def roots(self) -> list[str]:
        """The tasks that depend on nothing."""

    @property
    def leaves(self) -> list[str]:
        """The tasks that nothing depends on."""

    @property
    def version(self) -> str:
        """The stable hash of the graph."""

    def topological_sort(self) -> list[str]:
        """Return all tasks in topological order, ties in declaration order."""

@final
class Runner:
    """An engine on a store, with its threads."""

    def __new__(
        cls,
        store: str,
        slots: int | None,
        durability: Literal["normal", "full"],
        max_parked: int | None,
        retention: float | None,
        async_slots: int,
        cancel_grace: tuple[float, float],
        clock: TestClock | None = None,
        crashed: Runner | None = None,
    ) -> Runner: ...
    @staticmethod
    def client(store: str) -> Runner:
        """Open one on a store that is there: it submits, sends and looks, and executes nothing."""

    def client_here(self) -> Runner:
        """Open a client on the store of this runner."""

    def register(self, workflow: Workflow) -> None:
        """Register a workflow and continue its unfinished runs."""

    def observe(
        self,
        callback: Callable[[tuple[Any, ...]], object],
        commits: Callable[[float], object] | None,
        in_micros: bool,
    ) -> None:
        """Have `callback(event)` called with all that happens from here on, and `commits(seconds)` with each commit.

        Times are datetimes, or with `in_micros` microseconds since 1970. See `_observe.py`.
        """

    def explain(self, id: str) -> _Shown | None:  # noqa: A002 - as the extension names it
        """Return what holds a run; None if there is none. See `_why.py`."""

    def limits(
        self,
    ) -> list[
        tuple[
            str,
            int | None,
            int | None,
            int | None,
            float | None,
            str | None,
            list[tuple[str, int, int, int, int]],
        ]
    ]:
        """Return the limits of the store. See `_limits.py`."""

    def open_waits(
        self, after: _Position | None, most: int
    ) -> list[tuple[str, str | None, str, str, _Position, _ShownWait]]:
        """Return a page of open waits: run, key, workflow, task, position, and the wait. See `_why.py`."""

    def submit(
        self,
        workflow: Workflow,
        runs: list[tuple[list[tuple[str, bytes]], str | None]],
        contextvars: list[ContextVars],
        linger: bool,
        many: bool,
        options: Options | None = None,
        awaited: bool = False,
    ) -> list[RunHandle]:
        """Create runs, each from inputs and a key, in one commit; or attach to the runs that their keys name.

        Each body runs in a new copy of its run's `contextvars`, of which there may be one for all. If a key belongs to
        a run with other inputs, none is created. With `linger` this may return only when the first run has ended, or
        after 50 ms. With `many` an error names the run. `awaited`: the caller waits for them, or calls `give_up`.
        """

    def schedule(self, workflow: Workflow, asked: object) -> dict[str, Any]:
        """Define a schedule, or change it, and return it. See `_schedules.py`."""

    def schedules(self) -> list[dict[str, Any]]:
        """Return all schedules."""

    def alter_schedule(
        self, name: str, what: Literal["pause", "resume", "remove", "trigger"]
    ) -> tuple[str, str] | None:
        """Pause, resume or remove a schedule, or start a run of it and return id and key. KeyError if there is none."""

    def backfill(self, name: str, since: int, until: int, most: int) -> list[tuple[str, str]]:
        """Start the runs of past ticks, and return their ids and keys. OverflowError if there are more than `most`."""

    def watch(self, workflow: Workflow, asked: object) -> dict[str, Any]:
        """Define a watch, or change it, have its source called here, and return it. See `_watches.py`."""

    def watches(self) -> list[dict[str, Any]]:
        """Return all watches."""

    def alter_watch(self, name: str, what: Literal["pause", "resume", "remove"]) -> None:
        """Pause, resume or remove a watch. KeyError if there is none."""

    def source_is_ready(self, source: int) -> None:
        """Have the answer of a source taken that was to answer later: the number that it was called with."""

    def find(self, text: str, workflow: str | None) -> list[tuple[str, str]]:
        """Return id and workflow of the runs with this id or key."""

    def channels(self, id: str) -> list[str]:  # noqa: A002 - as the extension names it
        """Return the names of the channels that a run has emitted to."""

    def attach(self, id: str) -> RunHandle:  # noqa: A002 - as the extension names it
        """Return a handle of a run that exists."""

    def snapshot(self, id: str) -> Snapshot | None:  # noqa: A002 - as the extension names it
        """Return the current state of a run; None if there is none."""

    def send(self, letters: Sequence[tuple[str, str, bytes, str | None]]) -> list[_Sent]:
        """Send signals: run, name, value and id; return what became of each. See `_mail.py`."""

    def answer(self, callback: tuple[str, str], value: bytes | None, reason: str, id: str | None) -> _Sent:  # noqa: A002
        """Answer a callback, given as run and secret, with a value, or reject it for a reason. See `_mail.py`."""

    def request(
        self,
        run: str,
        name: str,
        value: bytes,
        id: str | None,  # noqa: A002 - as the extension names it
        timeout: float | None,
    ) -> tuple[_Sent, bytes | None]:
        """Send a request and wait for its answer; return what became of it and the answer, None if time is over."""

    def ask(self, runs: list[str], asked: Asked) -> list[_Sent]:
        """Ask something of runs; return of each what became of that. See `_control.py`."""

    def fork(self, workflow: Workflow, asked: Forking, contextvars: ContextVars) -> RunHandle:
        """Fork a run of a workflow. See `_repair.py`."""

    def adopt(self, workflow: Workflow, run: str, by: str | None, reason: str | None) -> _Sent:
        """Have a run continue with a workflow; return what became of that. See `_repair.py`."""

    def history(self, id: str) -> list[_Happened] | None:  # noqa: A002 - as the extension names it
        """Return what has happened to a run, oldest first; None if there is none."""

    def pending_requests(self) -> int:
        """Return how many requests wait for their answers here: for tests."""

    def runs(
        self,
        status: str | None,
        workflow: str | None,
        since: int | None,
        limit: int | None,
        tags: dict[str, str] | None = None,
        key_prefix: str | None = None,
        parent: str | None = None,
        ids: tuple[str, str] | None = None,
    ) -> list[Snapshot]:
        """Return runs as they stand, newest first; `since` is microseconds since 1970, `ids` the first and last id."""

    def latest(self, id: str, channel: Channel[Any]) -> _EventFields | None:  # noqa: A002 - as the extension names it
        """Return the last event of a channel of a run; None if there is none."""

    def follow(self, id: str, channel: Channel[Any]) -> Follower:  # noqa: A002 - as the extension names it
        """Return a reader of a channel of a run."""

    def delete(self, id: str) -> bool:  # noqa: A002 - as the extension names it
        """Delete an ended run; return False if it has not ended."""

    def metrics(self) -> dict[str, Any]:
        """Return what it has counted, and what it has now, by name."""

    def load(self) -> tuple[int, int, int, int]:
        """Return used slots, all slots, bodies with a handle that execute or are parked, and the limit of these."""

    @property
    def store(self) -> str:
        """The store's name, without secrets."""

    @property
    def closed(self) -> bool:
        """Whether the runner is closed or has stopped."""

    @property
    def elsewhere(self) -> bool:
        """Whether this process was forked from the one that the runner belongs to."""

    def loop_queue(self) -> LoopQueue:
        """Return what its event loop works on."""

    def close(self, grace: float, cancel: Callable[[], object]) -> bool:
        """Suspend deferred bodies, wait `grace` seconds for others, and close the store. False: another call does so.

        `cancel()` has coroutines cancelled whose grace is over.
        """

@final
class Awaited:
    """What a coroutine keeps while it awaits something of `Callers`."""

    def give_up(self) -> None:
        """Stop awaiting it: if the run fails, that is logged."""

@final
class Callers:
    """The callers of a runner on one event loop. See `_caller_loop.py`."""

    def __new__(cls, runner: Runner) -> Self:
        """Begin without any."""

    def fileno(self) -> int:
        """Return what the loop reads from when something has come."""

    def submit(
        self,
        workflow: Workflow,
        run: tuple[list[tuple[str, bytes]], str | None],
        contextvars: ContextVars,
        options: Options | None,
        awaited: bool,
        until_end: bool,
        future: ref[Future[RunHandle]],
    ) -> Awaited:
        """Submit a run after the next `flush`; its handle completes the future.

        That is once it is submitted, or with `until_end` once it has ended. `awaited`: the caller waits for the end, or
        calls `give_up`.
        """

    def flush(self) -> None:
        """Have what was put submitted."""

    def settled(self, run: RunHandle, future: ref[Future[None]]) -> Awaited:
        """Complete the future once `wait(0)` of the run's handle returns True or raises."""

    def clear(self) -> None:
        """Drop what has come: all callers have left."""

    def turn(self, most: int) -> list[tuple[ref[Future[Any]], RunHandle | BaseException | None]]:
        """Return at most `most` futures to complete, each with its result or its exception."""

@final
class LoopQueue:
    """What the event loop of a runner works on. See `_loop.py`."""

    def fileno(self) -> int:
        """Return what the loop reads from when there is something to do."""

    def turn(self) -> list[Future[None]]:
        """Begin a turn of the loop, and return the futures to complete."""

    def next_poll(self) -> float | None:
        """Return in how many seconds the next condition is due that the loop asks itself."""

    def needs_drivers(self) -> int:
        """Return how many more drivers are to execute what is ready."""

    def driver(self, vars: ContextVars) -> Driver:  # noqa: A002 - the name that it has in Rust
        """Return the coroutine of a task with these contextvars that executes what is ready."""

    def when_wanted(self, callback: Callable[[], object]) -> None:
        """Call `callback()` on a thread of the runner once there is something to do and no loop yet."""

    def set_bodies(self, bodies: BodyLoop | None) -> None:
        """Keep the loop for the handles of bodies, until it is None."""

    def take_gates(self) -> list[GateWatch]:
        """Return gates to poll."""

    def interrupted(self) -> list[Task[None]]:
        """Return the tasks of bodies that are to be cancelled because their runs were."""

    def suspend(self, closing: bool, all: bool) -> list[Task[None]]:  # noqa: A002 - the name in Rust
        """Suspend the bodies of lost runs and, if the runner closes, the deferred ones or all; return their tasks."""

    def attach(self, body: Coroutine) -> None:
        """Give a body that waits without a task one, in which it continues."""

    def needs_spare(self) -> None:
        """Make the task in which the conditions of bodies without one are asked, unless it is there."""

    def abandon(self) -> None:
        """Suspend the bodies that wait, whose loop was closed: none of them continues here."""

    def take_spare(self) -> Task[None] | None:
        """Take the task in which the conditions of bodies without a task are asked."""

    def take_lost(self) -> bool:
        """Return whether the runner has lost its runs since this was last asked."""

    @property
    def tested(self) -> bool:
        """Whether the clock of the runner is moved by hand."""

    @property
    def asked(self) -> int:
        """The number of the last question whether nothing is ready on the loop."""

    def answer(self, number: int) -> None:
        """Answer a question: what was ready on the loop then has had its turn."""

    def wake(self) -> None:
        """Wake the loop."""

    @property
    def closing(self) -> bool:
        """Whether the runner closes."""

    @property
    def bodies(self) -> int:
        """How many coroutines execute or are deferred."""

    @property
    def suspended(self) -> int:
        """How many bodies have suspended and not ended."""

@final
class Driver(AbstractCoroutine[Any, Any, None]):
    """The coroutine of a task that executes bodies. See `_loop.py`."""

    def __next__(self) -> Any:
        """Make a step."""

    def __await__(self) -> Generator[Any, Any]:
        """Return itself."""

    def send(self, _value: Any) -> Any:
        """Make a step."""

    def takes(self, body: Coroutine, task: Task[None], vars: ContextVars) -> Future[None] | None:  # noqa: A002 - as above
        """Have its task, which is the spare one, continue a body; return what the task awaits."""

    def throw(self, exception: Any, value: Any = None, _traceback: Any = None) -> Any:
        """Throw an exception into the body."""

    def close(self) -> None:
        """End it."""

@final
class Wait(AbstractCoroutine[Any, Any, Any]):
    """A wait of a coroutine's handle, to be awaited once. See `_async_calls.py`."""

    __name__: str
    __qualname__: str

    def __new__(cls, handle: object, plan: Plan, what: str) -> Self:
        """Make the wait of a plan; `what` is the method that it is for."""

    def __next__(self) -> Any:
        """Make a step."""

    def __await__(self) -> Generator[Any, Any, Any]:
        """Return itself, once."""

    def send(self, _value: Any) -> Any:
        """Make a step."""

    def throw(self, exception: Any, value: Any = None, _traceback: Any = None) -> Any:
        """Throw an exception into the wait."""

    def close(self) -> None:
        """Leave it."""

@final
class Pending:
    """Something that the event loop waits for."""

    def poll(self) -> bool:
        """Return whether it is done."""

    def park(self, future: Future[None]) -> None:
        """Complete `future` once `poll` is to be called again."""

@final
class Coroutine:
    """One entry of an `async def` body. See `_loop.py`."""

    @property
    def task(self) -> Task[None] | None:
        """The task that executes it, which is made now if it waits without one; None before it has suspended."""

    @property
    def bodies(self) -> BodyLoop | None:
        """The loop that executes it, until that has ended."""

    @property
    def handle(self) -> AsyncTaskHandle:
        """Its handle."""

    def suspend(self) -> None:
        """Have it return: what it does from here on does not count, and it continues later from its journal."""

    def take_interrupt(self) -> bool:
        """Return whether it is to be interrupted now, because its run was cancelled: true once."""

    def when_timed_out(self, future: Future[None]) -> None:
        """Complete `future` when the `timeout` of the task is over."""

    def wake(self) -> None:
        """Have the condition of its wait asked at once."""

    def when_recorded(self, callback: Callable[[], object]) -> None:
        """Call this once the end of the body is committed. To be called before the end."""

    def emit(self, value: object, channel: str | Channel[Any] | None) -> None:
        """Append a value to a channel of the run."""

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """Say how far it has come."""

    def last_checkpoint(self, type: type[Any], default: object) -> Any:  # noqa: A002 - as TaskHandle has it
        """Return the state of the last checkpoint, or `default`."""

    @property
    def has_timeout(self) -> bool:
        """Whether its task has a `timeout`."""

    @property
    def timed_out(self) -> bool:
        """Whether that is over."""

    @property
    def deferred(self) -> bool:
        """Whether it holds no slot."""

    @property
    def lost(self) -> bool:
        """Whether another runner has the run."""

    @property
    def ended(self) -> bool:
        """Whether it has returned."""

    @property
    def has_older_steps(self) -> bool:
        """Whether its journal has steps of the first version of bide."""

    @property
    def is_slot_held(self) -> bool:
        """Whether it holds a slot."""

    @property
    def run_id(self) -> str:
        """The run's id."""

    @property
    def parent(self) -> str | None:
        """The id of the run that has started its run."""

    @property
    def task_name(self) -> str:
        """The task's name."""

    @property
    def attempt(self) -> int:
        """The number of this attempt."""

    @property
    def is_replaying(self) -> bool:
        """Whether it only reads its records."""

    @property
    def suspending(self) -> bool:
        """Whether it is being suspended."""

    @property
    def cancelled(self) -> bool:
        """Whether its run was cancelled."""

    @property
    def cancellation(self) -> str | None:
        """By whom and why its run was cancelled, in words, if it was."""

@final
class Call:
    """A call of a coroutine's handle, in progress. See `_async_calls.py`."""

    @staticmethod
    def wait(coroutine: Coroutine, plan: Plan, within: int) -> Call:
        """Begin a wait."""

    @staticmethod
    def step(
        coroutine: Coroutine,
        described: tuple[str, bytes | None, Codec, str | None, bool],
        retry: Retry | None,
        older: bytes | None,
        within: int,
    ) -> Call:
        """Begin a step."""

    @staticmethod
    def checkpoint(coroutine: Coroutine, value: object, within: int) -> Call:
        """Begin a checkpoint."""

    @staticmethod
    def now(coroutine: Coroutine, within: int) -> Call:
        """Begin to record the time."""

    @staticmethod
    def callback(coroutine: Coroutine, name: str, within: int) -> Call:
        """Begin to record a callback."""

    @staticmethod
    def reply(coroutine: Coroutine, name: str, number: int, answer: bytes | None, reason: str, within: int) -> Call:
        """Begin to answer a request."""

    @staticmethod
    def start(coroutine: Coroutine, described: tuple[Any, ...], within_number: int) -> Call:
        """Begin to start children. Blocks."""

    def __await__(self) -> Generator[Any, Any, int]:
        """Continue; return what is to be done, as numbers that `_async_calls.py` names."""

    def __next__(self) -> Any:
        """Make a step of that."""

    def condition(self, part: int) -> Callable[[], Any]:
        """Return the condition that is this part."""

    def asking(self) -> tuple[int, Begun] | None:
        """Return the part and the rest of a condition that was begun outside of the task."""

    def tested_step(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is called in place of this step in a test."""

    def asked(self, part: int, value: object) -> None:
        """Report what a condition has returned."""

    def ask_raised(self, part: int, exception: BaseException) -> None:
        """Report what a condition has raised."""

    def step_returned(self, value: object) -> None:
        """Report what a step has returned."""

    def step_raised(self, exception: BaseException) -> None:
        """Report what a step has raised."""

    def step_unrecorded(self) -> None:
        """Leave a step without a record."""

    def create(self) -> None:
        """Create children. Blocks."""

    def abandon(self) -> None:
        """Leave the call as it is."""

    def has_children(self) -> bool:
        """Return whether it waits for a child run."""

    def outcomes(self) -> list[Any]:
        """Return the outcomes of the parts of a wait."""

    def step_result(self) -> Any:
        """Return what a step has returned, or raise what it has raised."""

    def recorded(self, is_time: bool) -> Any:
        """Return what was recorded."""

    def started(self) -> list[tuple[str, str]]:
        """Return the children that were started, and their names as waits."""

    def commits(self) -> Future[None] | None:
        """Return what to await while a commit of it is under way."""

@final
class GateWatch:
    """An open gate whose condition is a coroutine function, or whose time one computes. See `_loop.py`."""

    def contextvars(self) -> ContextVars:
        """Return the contextvars that its function is called in."""

    def check(self) -> Pending | None:
        """Find out whether it is to be polled; return None if that is known."""

    @property
    def may_poll(self) -> bool:
        """Whether it is to be polled."""

    def call(self) -> Any:
        """Call the function and return its coroutine."""

    def asked(self, value: object) -> Pending | None:
        """Report what it has returned; return what to wait for before it is called again, if it is."""

    def raised(self, exception: BaseException) -> Pending | None:
        """Report what it has raised, likewise."""

@final
class RunHandle:
    """A run that a caller may wait for."""

    @property
    def id(self) -> str:
        """The run's id."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds; return True if the run has ended. Raise if no runner here can continue it."""

    def give_up(self) -> None:
        """Its caller does not wait any more: if the run fails, that is logged."""

    def snapshot(self) -> Snapshot | None:
        """Return the current state of the run; None if it was deleted."""

    def take_originals(self) -> list[tuple[str, BaseException]]:
        """Return the original exceptions of tasks whose last attempt failed in this process, by task; only once."""

class _TaskRow(TypedDict):
    status: str
    sub_status: str | None
    attempts: int
    first_started_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    waited: float
    blocked_by: str | None
    failure: bytes | None
    progress: tuple[float, float | None, str | None, datetime] | None

@final
class TestClock:
    """The clock of runners in tests: its time passes only when it is moved."""

    def __new__(cls, start: int) -> TestClock: ...
    @property
    def micros(self) -> int:
        """The time that it shows, in microseconds since 1970."""

    def hold(self) -> None:
        """Let no time pass for those who wait for a run, until `release` is called: a call of the test begins."""

    def release(self) -> None:
        """Undo one `hold`."""

    def prescribe(self, answers: int) -> None:
        """Say how many answers are prescribed for conditions and not given yet: while there are, each poll is made."""

    def settle(self) -> None:
        """Wait until nothing happens any more, without moving the time."""

    def advance(self, seconds: float) -> None:
        """Move the time from alarm to alarm; return when nothing happens any more."""

    def elapse(self, seconds: float) -> None:
        """Move the time from alarm to alarm while bodies execute: for them it passes, too."""

    def drive(
        self, run: RunHandle | None, moves: bool, seconds: float | None = None, once: bool = False
    ) -> Literal["ended", "nothing", "timeout", "moved"]:
        """Wait until a run ends, or nothing happens any more by itself, or `seconds` of this clock have passed.

        With `moves` the time moves to the next alarm whenever nothing happens; with `once` one time at most.
        """

    @staticmethod
    def crash(runner: Runner) -> bool:
        """End a runner as if the process died now; return False if it was closed before."""

    @staticmethod
    def crash_at(runner: Runner, commit: int, after: bool) -> None:
        """Have a runner crash before or after a commit to come, counted from its first."""

    @staticmethod
    def number(runner: Runner) -> int:
        """Tell a runner from the others of the process."""

    @staticmethod
    def commits(runner: Runner) -> int:
        """Return how many commits a runner has begun."""

    @staticmethod
    def has_crashed(runner: Runner) -> bool:
        """Whether a runner has crashed."""

@final
class Snapshot:
    """The state of a run when it was read."""

    @property
    def id(self) -> str:
        """The run's id."""

    @property
    def workflow(self) -> str:
        """The workflow's name."""

    def inputs(self) -> list[tuple[str, bytes]]:
        """Return the inputs as they are stored."""

    def decoded_inputs(self) -> dict[str, Any]:
        """Return the inputs as the tasks read them."""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the run."""

    @property
    def key(self) -> str | None:
        """The caller's key."""

    @property
    def parent(self) -> str | None:
        """The id of the run whose body has started this one; None for any other."""

    @property
    def status(self) -> str:
        """The run's status."""

    @property
    def blocked_by(self) -> str | None:
        """Why the run does not continue; None if it does."""

    @property
    def failure(self) -> bytes | None:
        """The first committed failure, as stored."""

    @property
    def started_at(self) -> datetime:
        """When the run was created."""

    @property
    def ended_at(self) -> datetime | None:
        """When it ended."""

    def names(self) -> list[str]:
        """Return the names of the tasks, in declaration order."""

    def output(self, task: str) -> list[Any] | None:
        """Return what a task returned, in a list of one; an empty list if nothing (yet); None for an unknown task."""

    def journal(self) -> list[_Entry]:
        """Return what the tasks have recorded: task, name, use, kind, state, times, value and failure as stored."""

    def elements(self) -> list[str]:
        """Return the names of the elements of mapped tasks, in order."""

    def task(self, task: str) -> _TaskRow | None:
        """Return the row of a task; None for an unknown one."""

    def context_values(self) -> dict[str, bytes]:
        """Return the context after the tasks' changes: names with encoded values."""
