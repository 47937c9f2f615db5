"""The statuses of runs and tasks, with the names that the core's enums have."""

from enum import StrEnum


class RunStatus(StrEnum):
    """The status of a run."""

    Pending = "Pending"
    Running = "Running"
    Paused = "Paused"
    Completed = "Completed"
    Failed = "Failed"
    Cancelled = "Cancelled"


class TaskStatus(StrEnum):
    """The status of a task in a run."""

    Pending = "Pending"
    Ready = "Ready"
    Running = "Running"
    Completed = "Completed"
    Failed = "Failed"
    Skipped = "Skipped"
    Cancelled = "Cancelled"


class SubStatus(StrEnum):
    """Whether a running task holds a slot (`Active`) or has released it while a wait is open (`Deferred`)."""

    Active = "Active"
    Deferred = "Deferred"
