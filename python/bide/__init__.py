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
    ProcessDied,
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
from bide._workflow import Workflow

if _typing.TYPE_CHECKING:
    from bide._callbacks import Callback
    from bide._children import ChildRun
    from bide._combine import AllOf, AnyOf, Fired, First, all_of, any_of
    from bide._dask import Dask
    from bide._history import HistoryEntry
    from bide._limits import HeldBack, LimitInfo, LimitUse
    from bide._logging import LogFilter, install_log_record_factory
    from bide._metrics import metrics
    from bide._observe import RunEvent, RunEventKind
    from bide._processes import Processes
    from bide._ray import Ray
    from bide._sources import Watch
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
    "Dask",
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
    "ProcessDied",
    "Processes",
    "Progress",
    "Ray",
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


_LATE = {
    **dict.fromkeys(("LogFilter", "install_log_record_factory"), "_logging"),
    **dict.fromkeys(("AllOf", "AnyOf", "Fired", "First", "all_of", "any_of"), "_combine"),
    **dict.fromkeys(("RunEvent", "RunEventKind"), "_observe"),
    **dict.fromkeys(("AsyncTransaction", "Transaction"), "_transactions"),
    **dict.fromkeys(("HeldBy", "HeldTask", "OpenWait", "RunnerInfo", "WaitKind", "Why"), "_why"),
    **dict.fromkeys(("HeldBack", "LimitInfo", "LimitUse"), "_limits"),
    "Callback": "_callbacks",
    "ChildRun": "_children",
    "Dask": "_dask",
    "HistoryEntry": "_history",
    "Processes": "_processes",
    "Ray": "_ray",
    "Watch": "_sources",
    "metrics": "_metrics",
}
"""Names that few programs use, with the module that each is imported from when it is first accessed: `logging` takes
half as long as bide."""


def __getattr__(name: str) -> object:
    """Import one of these names."""
    module = _LATE.get(name)
    if module is None:
        msg = f"module 'bide' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(__import__(f"bide.{module}", fromlist=[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
