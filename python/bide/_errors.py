"""Every error that bide raises, and `Skip`, which a body raises on purpose.

What is stored of an exception, and how it is raised again, is in `_stored_errors.py`.
"""

import copyreg
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bide._result import RunResult


class BideError(Exception):
    """Base class of bide's errors. Raised itself where no other class fits."""


class DefinitionError(BideError, ValueError):
    """A workflow, task, wait, input or option is invalid. The message says which one and why."""


class SerializationError(BideError, TypeError):
    """A value cannot be stored without loss. The message names the task and the path inside the value."""


class StoreError(BideError):
    """The store is not available, not a bide store, or refused a write."""


class ReplayMismatch(BideError):
    """A step was called with other arguments than were recorded; deploy code that matches the record, and resume."""


class SignalRejected(BideError):
    """A message to a run was refused: it has ended or does not understand it, or the callback was answered before."""


class _WithReason(BideError):
    """An error with the reason that somebody gave."""

    def __init__(self, reason: str = "") -> None:
        """Keep the reason."""
        super().__init__(reason)

    @property
    def reason(self) -> str:
        """The reason that was given."""
        return str(self.args[0]) if self.args else ""


class CallbackRejected(_WithReason):
    """Somebody rejected the callback that a body waits for, by `runner.reject(token, reason)`."""


class RequestRefused(_WithReason):
    """A request was refused by the body that took it, or no body can answer it any more."""


class RunnerClosed(BideError, RuntimeError):
    """The runner is closed, or it belongs to the process that this one was forked from."""


class WaitTimeout(BideError, TimeoutError):
    """A wait reached its deadline. The deadline is absolute: a crash does not extend it."""


class TaskTimeout(BideError, TimeoutError):
    """An attempt executed for longer than its task's `timeout`, not counting the time it was deferred."""


class ProcessDied(BideError):
    """A child process of `bide.Processes` died while it executed a body. The message says how; `.pid` is its id."""

    def __init__(self, message: str = "", *, pid: int | None = None) -> None:
        """Keep the id of the process."""
        super().__init__(message)
        self.pid = pid


class Skip(BideError):
    """Raise `Skip(reason)` in a body to skip the task and its dependents without failing the run."""

    def __init__(self, reason: str = "") -> None:
        """Keep the reason, which is shown in the task's `blocked_by`; its dependents' `blocked_by` names the task."""
        super().__init__(reason)

    @property
    def reason(self) -> str:
        """The reason that the body gave."""
        return str(self.args[0]) if self.args else ""


class Unrecorded(BideError):
    """Raise `Unrecorded(exc_or_value)` in a step to leave it unrecorded: it runs again when its body is entered again.

    `handle.step` raises the exception, or returns the value.
    """

    def __init__(self, outcome: object = None) -> None:
        """Keep the exception or the value; an exception class stands for an exception without arguments."""
        if isinstance(outcome, type) and issubclass(outcome, BaseException):
            outcome = outcome()
        super().__init__(outcome)

    @property
    def outcome(self) -> object:
        """The exception that `handle.step` raises, or the value that it returns."""
        return self.args[0] if self.args else None


class StepInterrupted(BideError):
    """A step with `once=True` was begun and has no result, and is not called again: the body decides what to do."""


class Cancelled(BaseException):
    """The run was cancelled: raised at the body's next handle call."""


class Suspended(BaseException):
    """The runner is closing: `finally` and `with` can release local resources; the body is entered again later."""


class TaskFailed(BideError):
    """A task's exception as recorded in the store, where the original object is not available.

    `type` is the qualified name of the original's class, `traceback` its formatted traceback, `notes` what was added
    with `add_note`, and `causes` the exceptions that it came from, nearest first.
    """

    def __init__(
        self,
        message: str = "",
        *,
        type: str = "",  # noqa: A002 - the name that readers of the attribute expect
        traceback: str = "",
        notes: tuple[str, ...] = (),
        causes: tuple["TaskFailed", ...] = (),
        task: str | None = None,
    ) -> None:
        """Keep what was stored."""
        super().__init__(message)
        self.type = type
        self.message = message
        self.traceback = traceback
        self.notes = notes
        self.causes = causes
        self.task = task

    def __str__(self) -> str:
        """Return the last line of the original's traceback."""
        name = self.type if self.type.isprintable() else ascii(self.type)[1:-1]
        text = ": ".join(part for part in (name, self.message) if part)
        return f"task {self.task!r}: {text}" if self.task else text


class RunFailed(BideError):
    """A run failed. `.result` has what its tasks returned until then, `.errors` each failed task's exception.

    `__cause__` is the first committed failure: the original exception in the process that ran it, else a
    `TaskFailed`.
    """

    def __init__(
        self,
        message: str = "",
        *,
        result: "RunResult",
        errors: Mapping[str, BaseException] | None = None,
    ) -> None:
        """Keep the result and every failure."""
        super().__init__(message)
        self.result = result
        self.errors: dict[str, BaseException] = dict(errors or {})

    def __reduce__(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Reduce to class, arguments and state: `__init__` cannot be called without the result, which is state."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        """Restore the state from a copy or pickle, and the cause, which Python does not copy."""
        super().__setstate__(state)
        self.__cause__ = self.result.error


def no_run(run: str) -> str:
    """Return the message for a run that was there a moment ago."""
    return f"run {run} is not in the store any more: it was deleted, or its retention is over"


def not_picklable(what: str, instead: str) -> SerializationError:
    """Return the error for copying or pickling an object that belongs to its process."""
    return SerializationError(f"a {what} can be neither copied nor pickled: it belongs to this process; {instead}")


def _name_publicly() -> None:
    """Give every class here the name that it is imported by, for tracebacks and stored errors."""
    for value in list(globals().values()):
        if isinstance(value, type) and issubclass(value, BaseException):
            value.__module__ = "bide"


_name_publicly()
