"""`PlainSnapshot`: a run's snapshot as plain values, which copies and pickles of a result have instead of the engine's.

It has the methods of `_core.Snapshot`. Each returned value is pickled by itself and unpickled when it is read, so one
that cannot be pickled, or cannot be read in the other process, does not affect the rest of the result.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from bide._errors import BideError

if TYPE_CHECKING:
    from bide import _core
    from bide._core import _TaskRow

Output: TypeAlias = bytes | str | None
"""A returned value, pickled; or why it could not be; or None without one."""


@dataclass(frozen=True, slots=True)
class PlainSnapshot:
    """A run as it stood when it was copied or pickled.

    A pickle has the values of the fields in their order: a new field comes last, with a default for older pickles.
    """

    id: str
    workflow: str
    key: str | None
    status: str
    blocked_by: str | None
    failure: bytes | None
    started_at: datetime
    ended_at: datetime | None
    rows: "dict[str, _TaskRow]"
    returned: dict[str, Output]
    values: dict[str, bytes]
    parent: str | None = None
    tasks: list[str] | None = None
    """The names of the tasks; None in pickles of a version without mapped tasks: `rows` has no others."""

    given: dict[str, Output] | None = None
    """The inputs; None in pickles of older versions."""
    tags: dict[str, str] | None = None

    def __setstate__(self, state: list[Any]) -> None:
        """Take the values of a pickle; a field that it does not have yet gets its default."""
        for number, field in enumerate(fields(self)):
            object.__setattr__(self, field.name, state[number] if number < len(state) else field.default)

    def names(self) -> list[str]:
        """Return the names of the tasks, in declaration order."""
        return list(self.rows) if self.tasks is None else self.tasks

    def elements(self) -> list[str]:
        """Return the names of the elements of mapped tasks, in order."""
        tasks = set(self.names())
        return [name for name in self.rows if name not in tasks]

    def completed(self) -> Iterator[str]:
        """Return the names of the tasks that returned something, even if it cannot be pickled."""
        return (name for name in self.names() if self.returned[name] is not None)

    def task(self, task: str) -> "_TaskRow | None":
        """Return the row of a task; None for an unknown one."""
        return self.rows.get(task)

    def output(self, task: str) -> list[Any] | None:
        """Return what a task returned, in a list of one; an empty list if nothing (yet); None for an unknown task."""
        if task not in self.rows:
            return None
        returned = self.returned[task]
        if isinstance(returned, str):
            msg = f"what task {task!r} returned is not in this copy of the result, because {returned}"
            raise BideError(msg)
        return [] if returned is None else [pickle.loads(returned)]  # noqa: S301 - as much trusted as the pickle it is in

    def decoded_inputs(self) -> dict[str, Any]:
        """Return the inputs as the tasks read them."""
        if self.given is None:
            msg = "this copy of the result was pickled by a version of bide that left the inputs out"
            raise BideError(msg)
        inputs: dict[str, Any] = {}
        for name, data in self.given.items():
            if not isinstance(data, bytes):
                msg = f"the input {name!r} is not in this copy of the result, because {data}"
                raise BideError(msg)
            inputs[name] = pickle.loads(data)  # noqa: S301 - as in `output`
        return inputs

    def context_values(self) -> dict[str, bytes]:
        """Return the context after the tasks' changes: names with encoded values."""
        return self.values


def plain(snapshot: "_core.Snapshot") -> PlainSnapshot:
    """Return a snapshot as plain values."""
    rows = {name: row for name in [*snapshot.names(), *snapshot.elements()] if (row := snapshot.task(name)) is not None}
    return PlainSnapshot(
        id=snapshot.id,
        workflow=snapshot.workflow,
        key=snapshot.key,
        status=snapshot.status,
        blocked_by=snapshot.blocked_by,
        failure=snapshot.failure,
        started_at=snapshot.started_at,
        ended_at=snapshot.ended_at,
        rows=rows,
        returned={name: _returned(snapshot, name) for name in rows},
        values=snapshot.context_values(),
        parent=snapshot.parent,
        tasks=snapshot.names(),
        given=_given(snapshot),
        tags=snapshot.tags,
    )


def _given(snapshot: "_core.Snapshot") -> dict[str, Output]:
    try:
        inputs = snapshot.decoded_inputs()
    except Exception as problem:  # noqa: BLE001 - as in `_returned`
        why = f"{type(problem).__name__}: {problem}"
        return {name: why for name, _ in snapshot.inputs()}
    return {name: _pickled(value) for name, value in inputs.items()}


def _pickled(value: object) -> Output:
    try:
        return pickle.dumps(value)
    except Exception as problem:  # noqa: BLE001 - as in `_returned`
        return f"{type(problem).__name__}: {problem}"


def _returned(snapshot: "_core.Snapshot", task: str) -> Output:
    try:
        output = snapshot.output(task)
        return pickle.dumps(output[0]) if output else None
    except Exception as problem:  # noqa: BLE001 - raised by the value's own code; reported when the value is read
        return f"{type(problem).__name__}: {problem}"


def reduced(snapshot: "_core.Snapshot") -> tuple[Any, ...]:
    """Reduce a snapshot to plain values, for a copy or pickle."""
    return _same, (plain(snapshot),)


def _same(snapshot: PlainSnapshot) -> PlainSnapshot:
    return snapshot
