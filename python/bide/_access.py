"""What a `Runner` and a `Client` have in common: they submit runs, send to them, control them and look at them."""

from __future__ import annotations

import contextvars
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload
from weakref import WeakKeyDictionary

from bide import _core, _options
from bide._control import Controls
from bide._errors import DefinitionError, not_picklable
from bide._here import refuse_on_loop
from bide._in_thread import in_thread
from bide._inputs import paired
from bide._reads import Reads, Run
from bide._repair import Repairs
from bide._run_handle import RunHandle
from bide._schedules import Schedules
from bide._text import check_text, is_text, shown_store
from bide._twins import StoreTwins
from bide._watches import Watches
from bide._workflow import Workflow

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from types import TracebackType

    from bide._caller_loop import CallerLoop
    from bide._result import RunResult
    from bide._signals import Request, Signal
    from bide._waits import Duration

T = TypeVar("T")
A = TypeVar("A")


class StoreAccess(Reads, Controls, Repairs, Schedules, Watches, StoreTwins):
    """The runs of a store, for a runner or a client."""

    _does = "runs"
    """What it does with workflows, for messages."""

    _time_passes = True
    """Whether runs come to their ends by themselves."""

    def __init__(self, core: _core.Runner) -> None:
        """Wrap the engine, or its client."""
        super().__init__(core)
        self._workflows: dict[str, tuple[Workflow, _core.Workflow]] = {}
        self._caller_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, CallerLoop] = WeakKeyDictionary()

    # --- submitting ------------------------------------------------------------------------------------------------

    def submit(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
        priority: int = 0,
        start_at: datetime | None = None,
        start_after: Duration | None = None,
    ) -> RunHandle:
        """Commit a run and return a handle to wait for it.

        `tags` are texts by which `runs` finds it, such as `{"customer": "7"}`. Of the tasks that are ready, those of
        runs with a higher `priority` start first. `start_at`, a datetime with a time zone, or `start_after`, seconds or
        a `timedelta`, says when the run begins: it is committed at once, and nothing of it starts before. All of this
        is said once: a call that attaches to the run of its `key` changes nothing.
        """
        said = _options.options("submit", tags, priority, start_at, start_after, self._time)
        return self._submit_one(workflow, inputs, key, said)

    def submit_many(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        workflow: Workflow,
        inputs: Iterable[Mapping[str, Any] | None],
        keys: Iterable[str | None] | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        priority: int = 0,
        start_at: datetime | None = None,
        start_after: Duration | None = None,
    ) -> list[RunHandle]:
        """Commit many runs at once and return their handles, in the order of the inputs.

        A key that exists attaches, as in `run`. If one key or one of the inputs is refused, nothing is submitted. Tags,
        priority and start are those of `submit`, for all of them.
        """
        said = _options.options("submit_many", tags, priority, start_at, start_after, self._time)
        compiled = self._core_workflow(workflow)
        given, names = paired(inputs, keys, "submit_many")
        encode = workflow._compiled().encode_inputs
        encoded = [encode(one) for one in given]
        return self._submit(compiled, list(zip(encoded, names, strict=True)), said, many=True)

    # --- sending ---------------------------------------------------------------------------------------------------

    def signal(
        self,
        run: Run,
        signal: str | Signal[Any],
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
        from bide._mail import check_sent, letter  # noqa: PLC0415 - for those who send signals

        found = self._find_run(run, workflow)
        letters = [letter(found, signal, value, id, self._declared(found, signal))]
        check_sent(letters, self._core.send(letters))

    def signal_many(
        self,
        signals: Iterable[tuple[Any, ...]],
        *,
        workflow: Workflow | str | None = None,
    ) -> None:
        """Send many signals at once, each as (run, signal, value) or (run, signal, value, id), in this order.

        Those to runs that this runner executes are one commit. If one of the values is refused, nothing is sent; if
        one of the runs refuses its signal, the others are sent and the first refusal is raised.
        """
        from bide import _mail  # noqa: PLC0415 - for those who send signals

        letters = []
        last, found = None, ""
        for number, one in enumerate(signals):
            if not isinstance(one, (tuple, list)) or not 3 <= len(one) <= 4:  # noqa: PLR2004 - as the message says
                msg = f"signals[{number}] must be (run, signal, value) or (run, signal, value, id), not {one!r}"
                raise DefinitionError(msg)
            run, signal, value = one[:3]
            if run is not last or not found:
                found, last = self._find_run(run, workflow), run
            message_id = None if len(one) == 3 else one[3]  # noqa: PLR2004 - it has no id
            letters.append(_mail.letter(found, signal, value, message_id, self._declared(found, signal)))
        _mail.check_sent(letters, self._core.send(letters))

    @overload
    def request(
        self,
        run: Run,
        request: Request[T, A],
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
        request: Request[None, A],
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
        request: str | Request[Any, Any],
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
        refuse_on_loop(f"{type(self).__name__}.request()", "`await runner.request_async(run, request, value)`")
        return self._request(run, request, value, timeout=timeout, id=id, workflow=workflow)

    def _request(
        self,
        run: str | RunHandle | RunResult,
        request: str | Request[Any, Any],
        value: object,
        *,
        timeout: Duration | None,
        id: str | None,  # noqa: A002 - the designed name
        workflow: Workflow | str | None = None,
    ) -> Any:  # noqa: ANN401 - what the body answers
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

    async def close_async(self) -> None:
        """Close it like `close`, without blocking the event loop."""
        await in_thread(self.close)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close it without blocking the event loop. In the child of a fork there is nothing to close."""
        if not self._core.elsewhere:
            await self.close_async()

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = type(self).__name__
        raise not_picklable(what, "create one there, on the same file")

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _core_workflow(self, workflow: Workflow) -> _core.Workflow:
        if not isinstance(workflow, Workflow):
            msg = f"a {type(self).__name__} {self._does} a bide.Workflow, not {workflow!r}"
            raise DefinitionError(msg)
        known = self._workflows.get(workflow.name)
        if known is not None and known[0] is workflow:
            return known[1]
        compiled = self._compile(workflow)
        self._workflows[workflow.name] = (workflow, compiled)
        return compiled

    def _compile(self, workflow: Workflow) -> _core.Workflow:
        return workflow._compiled().core

    def _handle(self, core: _core.RunHandle, key: str | None) -> RunHandle:
        return RunHandle(core, self, key)

    def _submit_one(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None,
        key: str | None,
        said: _options.Options | None,
        *,
        linger: bool = False,
        awaited: bool = False,
    ) -> RunHandle:
        compiled = self._core_workflow(workflow)
        encoded = workflow._compiled().encode_inputs(inputs)
        return self._submit(compiled, [(encoded, _check_key(key))], said, linger=linger, awaited=awaited)[0]

    async def _submit_soon(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None,
        key: str | None,
        said: _options.Options | None,
        *,
        awaited: bool = False,
        until_end: bool = False,
    ) -> RunHandle:
        """Submit a run with those of other coroutines; with `until_end` also wait for its end, if that comes."""
        compiled = self._core_workflow(workflow)
        run = workflow._compiled().encode_inputs(inputs), _check_key(key)
        context = contextvars.copy_context()
        until_end = until_end and self._time_passes
        submitted = self._caller_loop().submit(compiled, run, context, said, awaited=awaited, until_end=until_end)
        try:
            return self._handle(await submitted, key)
        except DefinitionError:
            if key is None:
                raise
            # Its recorded inputs may be encoded differently.
            return (await in_thread(self._submit, compiled, [run], said, [context]))[0]

    def _caller_loop(self) -> CallerLoop:
        """Return where coroutines on the running loop await runs."""
        import asyncio  # noqa: PLC0415 - the caller has imported it

        from bide._caller_loop import CallerLoop  # noqa: PLC0415 - it imports asyncio

        loop = asyncio.get_running_loop()
        known = self._caller_loops.get(loop)
        if known is None:
            known = self._caller_loops[loop] = CallerLoop(_core.Callers(self._core))
        return known

    def _submit(  # noqa: PLR0913 - each is said apart
        self,
        compiled: _core.Workflow,
        runs: list[tuple[list[tuple[str, bytes]], str | None]],
        said: _options.Options | None,
        context: list[contextvars.Context] | None = None,
        *,
        linger: bool = False,
        many: bool = False,
        awaited: bool = False,
    ) -> list[RunHandle]:
        context = [contextvars.copy_context()] if context is None else context
        try:
            handles = self._core.submit(compiled, runs, context, linger, many, said, awaited)
        except DefinitionError:
            recorded = self._as_recorded(compiled, runs)
            if recorded == runs:
                raise
            handles = self._core.submit(compiled, recorded, context, linger, many, said, awaited)
        return [self._handle(handle, key) for handle, (_, key) in zip(handles, runs, strict=True)]

    def _as_recorded(
        self, compiled: _core.Workflow, runs: list[tuple[list[tuple[str, bytes]], str | None]]
    ) -> list[tuple[list[tuple[str, bytes]], str | None]]:
        """Return the runs, each with its key's recorded inputs if those are equal but encoded differently."""
        workflow = next((workflow for workflow, core in self._workflows.values() if core is compiled), None)
        if workflow is None:  # its name was registered anew meanwhile
            return runs
        found = []
        for inputs, key in runs:
            ids = [] if key is None else [run for run, _ in self._core.find(key, workflow.name)]
            snapshot = self._core.snapshot(ids[0]) if len(ids) == 1 else None
            recorded = snapshot.inputs() if snapshot is not None and snapshot.key == key else inputs
            found.append((recorded if workflow._compiled().same_inputs(recorded, inputs) else inputs, key))
        return found

    def _declared(self, run: str, signal: object) -> tuple[Signal[Any] | Request[Any, Any], ...] | None:
        """Return what the run's workflow declares, for a signal that is named and so has no type of its own."""
        if not isinstance(signal, str) or not any(workflow._signals for workflow, _ in self._workflows.values()):
            return None
        known = self._workflows.get(self._snapshot(run).workflow)
        return None if known is None else known[0]._signals


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
        msg = f"{what} got {shown_store(name)!r} as its store, which contains a NUL character and is not a path"
        raise DefinitionError(msg)
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise DefinitionError(_not_a_path(shown_store(name), what)) from None
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
