"""What a `Runner` and a `Client` have in common: they submit runs, send to them and look at them."""

import contextvars
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, overload

from bide import _core, _events
from bide._core import Channel
from bide._duration import count, moment
from bide._errors import BideError, DefinitionError
from bide._events import DEFAULT, Event, Follower
from bide._inputs import paired
from bide._result import RunResult
from bide._run_handle import RunHandle, refuse_in_body
from bide._status import RunStatus
from bide._text import check_text, escape_surrogates, is_text
from bide._waits import Duration
from bide._workflow import Workflow

if TYPE_CHECKING:
    from bide._signals import Request, Signal
    from bide._why import OpenWait, Why

T = TypeVar("T")
A = TypeVar("A")

Run: TypeAlias = str | RunHandle | RunResult
"""A run: its id, its key, a handle or a result of it."""

PAGE = 100
"""How many open waits `waiting()` returns by default."""


class StoreAccess:
    """The runs of a store, for a runner or a client."""

    _does = "runs"
    """What it does with workflows, for messages."""

    def __init__(self, core: "_core.Runner") -> None:
        """Wrap the engine, or its client."""
        self._core = core
        self._workflows: dict[str, tuple[Workflow, _core.Workflow]] = {}

    # --- submitting ------------------------------------------------------------------------------------------------

    def submit(
        self, workflow: Workflow, inputs: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> RunHandle:
        """Commit a run and return a handle to wait for it."""
        return self._submit_one(workflow, inputs, key, linger=False)

    def submit_many(
        self,
        workflow: Workflow,
        inputs: Iterable[Mapping[str, Any] | None],
        keys: Iterable[str | None] | None = None,
    ) -> list[RunHandle]:
        """Commit many runs at once and return their handles, in the order of the inputs.

        A key that exists attaches, as in `run`. If one key or one of the inputs is refused, nothing is submitted.
        """
        compiled = self._core_workflow(workflow)
        given, names = paired(inputs, keys, "submit_many")
        encode = workflow._compiled().encode_inputs
        encoded = [encode(one) for one in given]
        return self._submit(compiled, list(zip(encoded, names, strict=True)), many=True)

    # --- sending ---------------------------------------------------------------------------------------------------

    def signal(
        self,
        run: Run,
        signal: "str | Signal[Any]",
        value: object = None,
        *,
        id: str | None = None,  # noqa: A002 - the designed name
        workflow: Workflow | str | None = None,
    ) -> None:
        """Send a signal to a run, found by its id, key, handle or result: it is committed when this returns.

        Each signal satisfies one wait for its name, the oldest; one that comes before its wait is queued. A run takes
        one signal with an `id`: the same again is accepted and changes nothing. Raises `SignalRejected` if the run has
        ended or its workflow does not declare the signal, `SerializationError` if the value does not fit its type, and
        `KeyError` if there is no such run.
        """
        self.signal_many([(run, signal, value, id)], workflow=workflow)

    def signal_many(
        self,
        signals: "Iterable[tuple[Any, ...]]",
        *,
        workflow: Workflow | str | None = None,
    ) -> None:
        """Send many signals at once, each as (run, signal, value) or (run, signal, value, id), in this order.

        Those to runs that this runner executes are one commit. If one of the values is refused, nothing is sent; if
        one of the runs refuses its signal, the others are sent and the first refusal is raised.
        """
        from bide import _mail  # noqa: PLC0415 - for those who send signals

        letters = []
        for number, one in enumerate(signals):
            if not isinstance(one, (tuple, list)) or not 3 <= len(one) <= 4:  # noqa: PLR2004 - as the message says
                msg = f"signals[{number}] must be (run, signal, value) or (run, signal, value, id), not {one!r}"
                raise DefinitionError(msg)
            run, signal, value, *rest = one
            found = self._find_run(run, workflow)
            letters.append(_mail.letter(found, signal, value, rest[0] if rest else None, self._declared(found, signal)))
        _mail.check_sent(letters, self._core.send(letters))

    @overload
    def request(
        self,
        run: Run,
        request: "Request[T, A]",
        value: T,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
        workflow: Workflow | str | None = None,
    ) -> A: ...
    @overload
    def request(
        self,
        run: Run,
        request: "Request[None, A]",
        value: None = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
        workflow: Workflow | str | None = None,
    ) -> A: ...
    @overload
    def request(
        self,
        run: Run,
        request: str,
        value: object = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,
        workflow: Workflow | str | None = None,
    ) -> Any: ...  # noqa: ANN401 - what the body answers
    def request(
        self,
        run: Run,
        request: "str | Request[Any, Any]",
        value: object = None,
        *,
        timeout: Duration | None = None,
        id: str | None = None,  # noqa: A002 - the designed name
        workflow: Workflow | str | None = None,
    ) -> Any:
        """Send a request to a run, wait for its answer, and return that.

        Raises `RequestRefused`, with a `reason`, if the body that takes it refuses, or if none can answer it any more;
        and `TimeoutError` after `timeout`: it is then withdrawn, unless a body has taken it. The same `id` again waits
        for the answer to the same request. Otherwise like `signal`.
        """
        from bide import _mail  # noqa: PLC0415 - as in signal_many

        found = self._find_run(run, workflow)
        declared = self._declared(found, request)
        return _mail.request(self._core, found, request, value, timeout=timeout, message_id=id, declared=declared)

    def resolve(self, token: str, value: object = None, *, id: str | None = None) -> None:  # noqa: A002
        """Answer the callback that has this token: the answer is committed when this returns.

        Neither run nor task need be known. Raises `SignalRejected` for a second answer (the same one with the same `id`
        is accepted and changes nothing), for a token that belongs to no callback of this store, and if the run has
        ended.
        """
        from bide import _mail  # noqa: PLC0415 - as in signal_many

        _mail.answer(self._core, token, "resolve", value=value, message_id=id)

    def reject(self, token: str, reason: str, *, id: str | None = None) -> None:  # noqa: A002
        """Reject the callback that has this token: its wait raises `CallbackRejected` with the reason.

        Otherwise like `resolve`.
        """
        from bide import _mail  # noqa: PLC0415 - as in signal_many

        _mail.answer(self._core, token, "reject", reason=reason, message_id=id)

    # --- reading ---------------------------------------------------------------------------------------------------

    def get(self, id_or_key: str, *, workflow: Workflow | str | None = None) -> RunResult:
        """Return a run's current state; raise `KeyError` if there is none, or if runs of two workflows have the key."""
        return RunResult(self._snapshot(self._find(id_or_key, workflow)))

    def runs(
        self,
        *,
        status: RunStatus | str | None = None,
        workflow: Workflow | str | None = None,
        since: datetime | timedelta | None = None,
        limit: int | None = None,
    ) -> list[RunResult]:
        """Return runs in their current state, newest first. `since` is a time span or a datetime with a time zone."""
        micros = None
        if since is not None:
            then = datetime.now().astimezone() - since if isinstance(since, timedelta) else moment(since, "since")
            micros = int(then.timestamp() * 1_000_000)
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        most = None if limit is None else count(limit, "limit")
        if name is not None and not is_text(name):
            return []
        snapshots = self._core.runs(None if status is None else escape_surrogates(str(status)), name, micros, most)
        return [RunResult(snapshot) for snapshot in snapshots]

    @overload
    def events(
        self, run: Run, channel: str = DEFAULT, *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Iterator[Event[Any]]: ...
    @overload
    def events(
        self, run: Run, channel: Channel[T], *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Iterator[Event[T]]: ...
    def events(
        self, run: Run, channel: str | Channel[Any] = DEFAULT, *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Iterator[Event[Any]]:
        """Iterate over the events that a run has emitted to a channel so far, those after the offset `after`.

        `run` is an id, a key (with `workflow`, if runs of several workflows have it), a handle or a result. It may be
        executed by another process, or have ended.
        """
        return _events.events(self._core, self._find_run(run, workflow), channel, after)

    @overload
    def follow(
        self, run: Run, channel: str = DEFAULT, *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Follower[Any]: ...
    @overload
    def follow(
        self, run: Run, channel: Channel[T], *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Follower[T]: ...
    def follow(
        self, run: Run, channel: str | Channel[Any] = DEFAULT, *, after: int = 0, workflow: Workflow | str | None = None
    ) -> Follower[Any]:
        """Iterate over the events of a run, also those to come, until it ends: by `for` or by `async for`.

        The arguments are those of `events`.
        """
        refuse_in_body(f"{type(self).__name__}.follow()")
        return Follower(self._core, self._find_run(run, workflow), channel, after)

    @overload
    def latest(
        self, run: Run, channel: str = DEFAULT, *, workflow: Workflow | str | None = None
    ) -> Event[Any] | None: ...
    @overload
    def latest(self, run: Run, channel: Channel[T], *, workflow: Workflow | str | None = None) -> Event[T] | None: ...
    def latest(
        self, run: Run, channel: str | Channel[Any] = DEFAULT, *, workflow: Workflow | str | None = None
    ) -> Event[Any] | None:
        """Return the last event that a run has emitted to a channel; None if there is none."""
        return _events.latest(self._core, self._find_run(run, workflow), channel)

    def delete(self, id_or_key: str, *, workflow: Workflow | str | None = None) -> None:
        """Delete an ended run, and with it the child runs that its bodies have started."""
        run = self._find(id_or_key, workflow)
        if not self._core.delete(run):
            found = self._snapshot(run)
            if found.parent is not None:
                msg = f"run {run} is kept as long as run {found.parent}, which has started it: delete that one"
            elif RunResult(found).ended_at is not None:
                msg = f"run {run} has ended, but not all of the child runs that it has started: delete it after them"
            else:
                msg = f"run {run} has not ended: only ended runs can be deleted"
            raise BideError(msg)

    def why(self, run: Run, *, workflow: Workflow | str | None = None) -> "Why":
        """Return what holds each unfinished task of a run: structured, and as text by `str()`.

        Polls and the next poll are known if this process executes the run. Raises `KeyError` if there is no such run.
        """
        from bide import _why  # noqa: PLC0415 - for those who look

        return _why.why(self._core, self._find_run(run, workflow))

    def waiting(self, *, limit: int = PAGE, after: "OpenWait | str | None" = None) -> "list[OpenWait]":
        """Return the open waits of all unfinished runs, the oldest first.

        They come in pages of `limit`: `after` is the last wait of the page before, or its `cursor`.
        """
        from bide import _why  # noqa: PLC0415 - as above

        return _why.waiting(self._core, count(limit, "limit"), after)

    # --- closing ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the store."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Close it. In the child of a fork there is nothing to close."""
        if not self._core.elsewhere:
            self.close()

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _core_workflow(self, workflow: Workflow) -> "_core.Workflow":
        if not isinstance(workflow, Workflow):
            msg = f"a {type(self).__name__} {self._does} a bide.Workflow, not {workflow!r}"
            raise DefinitionError(msg)
        known = self._workflows.get(workflow.name)
        if known is not None and known[0] is workflow:
            return known[1]
        compiled = workflow._compiled().core
        self._workflows[workflow.name] = (workflow, compiled)
        return compiled

    def _submit_one(
        self, workflow: Workflow, inputs: Mapping[str, Any] | None, key: str | None, *, linger: bool
    ) -> RunHandle:
        compiled = self._core_workflow(workflow)
        encoded = workflow._compiled().encode_inputs(inputs)
        return self._submit(compiled, [(encoded, _check_key(key))], linger=linger)[0]

    def _submit(
        self,
        compiled: "_core.Workflow",
        runs: list[tuple[list[tuple[str, bytes]], str | None]],
        *,
        linger: bool = False,
        many: bool = False,
    ) -> list[RunHandle]:
        try:
            handles = self._core.submit(compiled, runs, contextvars.copy_context(), linger, many)
        except DefinitionError:
            recorded = self._as_recorded(compiled, runs)
            if recorded == runs:
                raise
            handles = self._core.submit(compiled, recorded, contextvars.copy_context(), linger, many)
        return [RunHandle(handle, self, key) for handle, (_, key) in zip(handles, runs, strict=True)]

    def _as_recorded(
        self, compiled: "_core.Workflow", runs: list[tuple[list[tuple[str, bytes]], str | None]]
    ) -> list[tuple[list[tuple[str, bytes]], str | None]]:
        """Return the runs, each with its key's recorded inputs if those are equal but encoded differently."""
        workflow = next(workflow for workflow, core in self._workflows.values() if core is compiled)
        found = []
        for inputs, key in runs:
            ids = [] if key is None else [run for run, _ in self._core.find(key, workflow.name)]
            snapshot = self._core.snapshot(ids[0]) if len(ids) == 1 else None
            recorded = snapshot.inputs() if snapshot is not None and snapshot.key == key else inputs
            found.append((recorded if workflow._compiled().same_inputs(recorded, inputs) else inputs, key))
        return found

    def _find_run(self, run: Run, workflow: Workflow | str | None) -> str:
        return run.id if isinstance(run, (RunHandle, RunResult)) else self._find(run, workflow)

    def _declared(self, run: str, signal: object) -> "tuple[Signal[Any] | Request[Any, Any], ...] | None":
        """Return what the run's workflow declares, for a signal that is named and so has no type of its own."""
        if not isinstance(signal, str) or not any(workflow._signals for workflow, _ in self._workflows.values()):
            return None
        known = self._workflows.get(self._snapshot(run).workflow)
        return None if known is None else known[0]._signals

    def _find(self, id_or_key: str, workflow: Workflow | str | None) -> str:
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        if not isinstance(id_or_key, str) or not (name is None or isinstance(name, str)):
            msg = f"a run is found by its id or key and its workflow, which are strings, not {id_or_key!r}, {name!r}"
            raise DefinitionError(msg)
        known = is_text(id_or_key) and (name is None or is_text(name))
        found = self._core.find(id_or_key, name) if known else []
        if not found:
            msg = f"no run has the id or key {id_or_key!r}" + (f" in workflow {name!r}" if name else "")
            raise KeyError(msg)
        if len(found) > 1:
            names = " and ".join(sorted(repr(one) for _, one in found))
            msg = f"the key {id_or_key!r} belongs to runs of {names}: choose one with workflow="
            raise KeyError(msg)
        return found[0][0]

    def _snapshot(self, run: str) -> "_core.Snapshot":
        snapshot = self._core.snapshot(run)
        if snapshot is None:
            msg = f"run {run} is not in the store any more: it was deleted, or its retention is over"
            raise KeyError(msg)
        return snapshot


def store_name(store: object, what: str) -> str:
    """Return the path or URL of a store, after checking that it can be one; `what` takes it."""
    if not isinstance(store, (str, os.PathLike)) or isinstance(os.fspath(store), bytes):
        msg = f"{what} takes a path or a URL as its store, not {store!r}"
        raise DefinitionError(msg)
    name: str = os.fspath(store)
    if not name:
        msg = f'{what} takes a path or a URL as its store, not an empty string; to use no file, pass ":memory:"'
        raise DefinitionError(msg)
    if "\0" in name:
        msg = f"{what} got {name!r} as its store, which contains a NUL character and is not a path"
        raise DefinitionError(msg)
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise DefinitionError(_not_a_path(name, what)) from None
    return name


def _not_a_path(name: str, what: str) -> str:
    """Return why the text cannot be a path here, in ASCII: such a process may be able to print nothing else."""
    if is_text(name):
        return (
            f"{what} got {name!a} as its store, but this process can only use paths in {sys.getfilesystemencoding()}: "
            "start it with PYTHONUTF8=1 or in a UTF-8 locale (LC_ALL=C.UTF-8), or use a path in ASCII"
        )
    return f"{what} got {name!a} as its store, which has a lone surrogate and is not a path"


def _check_key(key: str | None, what: str = "key") -> str | None:
    return None if key is None else check_text(key, what)
