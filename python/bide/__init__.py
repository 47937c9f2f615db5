"""bide: durable workflows inside your own Python process, where a task that waits costs next to nothing."""

import typing as _typing

# Imported first: it refuses a second interpreter of the process before anything that would crash there is imported.
from bide._core import Channel, TaskHandle, __version__

# isort: split
from bide._async_handle import AsyncTaskHandle
from bide._bind import FailureOf, From, Gate
from bide._client import Client
from bide._codec import Pickle, codec
from bide._context import Context
from bide._current import current
from bide._errors import (
    BideError,
    CallbackRejected,
    Cancelled,
    DefinitionError,
    ReplayMismatch,
    RequestRefused,
    RunFailed,
    RunnerClosed,
    SerializationError,
    SignalRejected,
    Skip,
    StepInterrupted,
    StoreError,
    Suspended,
    TaskFailed,
    TaskTimeout,
    Unrecorded,
    WaitTimeout,
)
from bide._events import Event, Follower, Progress, channel
from bide._history import HistoryEntry
from bide._limits import Limit
from bide._map import Each, Input, Mapped
from bide._result import RunResult, TaskResult
from bide._retry import Retry
from bide._run_handle import RunHandle
from bide._runner import Runner
from bide._schedules import Cron, Schedule
from bide._signals import AsyncReceived, Received, Request, Signal, request, signal
from bide._status import RunStatus, SubStatus, TaskStatus
from bide._task import task
from bide._waits import After, At, Tolerate, Until, after, at, until
from bide._waits import WaitBase as Wait
from bide._watches import Watch
from bide._workflow import Workflow

if _typing.TYPE_CHECKING:
    from bide._callbacks import Callback
    from bide._children import ChildRun
    from bide._combine import AllOf, AnyOf, Fired, First, all_of, any_of
    from bide._limits import HeldBack, LimitInfo, LimitUse
    from bide._logging import LogFilter, install_log_record_factory
    from bide._metrics import metrics
    from bide._observe import RunEvent, RunEventKind
    from bide._transactions import AsyncTransaction, Transaction
    from bide._why import HeldBy, HeldTask, OpenWait, RunnerInfo, WaitKind, Why

__all__ = [
    "After",
    "AllOf",
    "AnyOf",
    "AsyncReceived",
    "AsyncTaskHandle",
    "AsyncTransaction",
    "At",
    "BideError",
    "Callback",
    "CallbackRejected",
    "Cancelled",
    "Channel",
    "ChildRun",
    "Client",
    "Context",
    "Cron",
    "DefinitionError",
    "Each",
    "Event",
    "FailureOf",
    "Fired",
    "First",
    "Follower",
    "From",
    "Gate",
    "HeldBack",
    "HeldBy",
    "HeldTask",
    "HistoryEntry",
    "Input",
    "Limit",
    "LimitInfo",
    "LimitUse",
    "LogFilter",
    "Mapped",
    "OpenWait",
    "Pickle",
    "Progress",
    "Received",
    "ReplayMismatch",
    "Request",
    "RequestRefused",
    "Retry",
    "RunEvent",
    "RunEventKind",
    "RunFailed",
    "RunHandle",
    "RunResult",
    "RunStatus",
    "Runner",
    "RunnerClosed",
    "RunnerInfo",
    "Schedule",
    "SerializationError",
    "Signal",
    "SignalRejected",
    "Skip",
    "StepInterrupted",
    "StoreError",
    "SubStatus",
    "Suspended",
    "TaskFailed",
    "TaskHandle",
    "TaskResult",
    "TaskStatus",
    "TaskTimeout",
    "Tolerate",
    "Transaction",
    "Unrecorded",
    "Until",
    "Wait",
    "WaitKind",
    "WaitTimeout",
    "Watch",
    "Why",
    "Workflow",
    "__version__",
    "after",
    "all_of",
    "any_of",
    "at",
    "channel",
    "codec",
    "current",
    "install_log_record_factory",
    "metrics",
    "request",
    "signal",
    "task",
    "until",
]


def __getattr__(name: str) -> object:
    """Import names that few programs use when they are first accessed: `logging` takes half as long as bide."""
    if name in {"LogFilter", "install_log_record_factory"}:
        from bide import _logging  # noqa: PLC0415 - see above

        return getattr(_logging, name)
    if name == "metrics":
        from bide._metrics import metrics  # noqa: PLC0415 - see above

        return metrics
    if name == "Callback":
        from bide._callbacks import Callback  # noqa: PLC0415 - see above

        return Callback
    if name in {"AllOf", "AnyOf", "Fired", "First", "all_of", "any_of"}:
        from bide import _combine  # noqa: PLC0415 - see above

        return getattr(_combine, name)
    if name in {"RunEvent", "RunEventKind"}:
        from bide import _observe  # noqa: PLC0415 - see above

        return getattr(_observe, name)
    if name in {"HeldBy", "HeldTask", "OpenWait", "RunnerInfo", "WaitKind", "Why"}:
        from bide import _why  # noqa: PLC0415 - see above

        return getattr(_why, name)
    if name in {"HeldBack", "LimitInfo", "LimitUse"}:
        from bide import _limits  # noqa: PLC0415 - see above

        return getattr(_limits, name)
    if name in {"AsyncTransaction", "Transaction"}:
        from bide import _transactions  # noqa: PLC0415 - see above

        return getattr(_transactions, name)
    if name == "ChildRun":
        from bide import _children  # noqa: PLC0415 - see above

        return _children.ChildRun
    msg = f"module 'bide' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
