"""Child runs: what `handle.start` needs to know of one, and the wait for its end."""

import contextvars
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from bide import _core
from bide._combine import Part
from bide._compiled import CompiledWorkflow
from bide._errors import DefinitionError, SerializationError
from bide._inputs import paired
from bide._result import RunResult
from bide._sink import SIZE
from bide._steps import VERSION, proof_of_values
from bide._text import check_text
from bide._waits import WaitBase
from bide._workflow import Workflow


class ChildRun(WaitBase[RunResult], frozen=True, gc=False):
    """A run that a body has started, and the wait for its end. Made by `handle.start`.

    `handle.wait(child)` returns its `RunResult`, or raises `RunFailed`. It is a plain value: a body can return it, or
    keep it in a checkpoint, and any body of the same run can wait for it.
    """

    id: str
    workflow: str
    name: str

    def _part(self, name: str | None) -> Part:
        return "child", name or self.name, None, self.id

    def _decode(self, ended: _core.Snapshot) -> RunResult:
        result = RunResult(ended)
        if ended.status == "Completed":
            return result
        # The name of the first one without a key says no more than the workflow.
        return result._raise_for_status(f"{self.name}: " if self.name != f"child {self.workflow}" else "")


Start: TypeAlias = tuple[list[tuple[str, bytes]], bytes | None, str | None]
"""The inputs of a child as they are stored, and what makes it the same: a proof of the inputs, or the caller's key."""


def describe(
    workflow: object, inputs: Mapping[str, Any] | None, key: str | None
) -> "tuple[_core.Workflow, list[Start], contextvars.Context]":
    """Return what the executor starts: the workflow, the start, and the contextvars of the child's bodies."""
    compiled = _compiled(workflow, "handle.start")
    if key is not None:
        check_text(key, "handle.start: key")
    return compiled.core, [_start(compiled, inputs, key)], contextvars.copy_context()


def describe_many(
    workflow: object, inputs: Iterable[Mapping[str, Any] | None], keys: Iterable[str | None] | None
) -> "tuple[_core.Workflow, list[Start], contextvars.Context]":
    """Do the same for many children, each with its inputs and its key."""
    what = "handle.start_many"
    compiled = _compiled(workflow, what)
    given, names = paired(inputs, keys, what)
    starts: list[Start] = []
    without: Start | None = None
    for one, key in zip(given, names, strict=True):
        if one is None or (type(one) is dict and not one):
            # They are the same each time.
            without = without or _start(compiled, one, None)
            starts.append(without if key is None else (without[0], None, key))
        else:
            starts.append(_start(compiled, one, key))
    return compiled.core, starts, contextvars.copy_context()


def _compiled(workflow: object, what: str) -> CompiledWorkflow:
    if not isinstance(workflow, Workflow):
        msg = f"{what} takes a bide.Workflow, not {workflow!r}"
        raise DefinitionError(msg)
    return workflow._compiled()


def _start(compiled: CompiledWorkflow, inputs: Mapping[str, Any] | None, key: str | None) -> Start:
    encoded = compiled.encode_inputs(inputs)
    return encoded, None if key is not None else _proof(compiled.name, inputs, encoded), key


def _proof(workflow: str, inputs: Mapping[str, Any] | None, encoded: list[tuple[str, bytes]]) -> bytes:
    if not inputs:
        return _NOTHING
    try:
        return proof_of_values(inputs, f"the child run {workflow!r}")
    except SerializationError:
        # An input that only its task's annotation can store: it is compared as it is stored.
        whole = hashlib.blake2b(digest_size=SIZE)
        for name, value in sorted(encoded):
            whole.update(f"{len(name)}:{name}{len(value)}:".encode("utf-8", "surrogatepass") + value)
        return VERSION + whole.digest()


_NOTHING = proof_of_values({}, "")
