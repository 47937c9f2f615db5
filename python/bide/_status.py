"""The statuses of runs and tasks, by the names that the store's own enums have."""

from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run stands."""

    Pending = "Pending"
    Running = "Running"
    Paused = "Paused"
    Completed = "Completed"
    Failed = "Failed"
    Cancelled = "Cancelled"


class TaskStatus(StrEnum):
    """Where a task of a run stands."""

    Pending = "Pending"
    Ready = "Ready"
    Running = "Running"
    Completed = "Completed"
    Failed = "Failed"
    Skipped = "Skipped"
    Cancelled = "Cancelled"


class SubStatus(StrEnum):
    """Whether a running task holds a slot (`Active`) or has given it back while a wait is open (`Deferred`)."""

    Active = "Active"
    Deferred = "Deferred"
