"""`Runner`: executes workflows on a store. The executor (Rust) decides what is executed when."""

import contextvars
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias, TypeVar, overload

from bide import _core, _events, _options, _surroundings
from bide._control import Controls
from bide._core import Channel
from bide._duration import count, moment, optional_seconds, seconds
from bide._errors import BideError, DefinitionError, not_picklable
from bide._events import DEFAULT, Event, Follower
from bide._inputs import paired
from bide._loop_choice import LoopChoice
from bide._repair import Repairs
from bide._result import RunResult
from bide._run_handle import RunHandle, refuse_in_body, refuse_on_loop
from bide._status import RunStatus
from bide._submitter import Submission, Submitter
from bide._text import check_text, escape_surrogates, is_text
from bide._twins import RunnerTwins
from bide._waits import Duration
from bide._workflow import Workflow

if TYPE_CHECKING:
    import asyncio

    from bide._signals import Request, Signal

T = TypeVar("T")
A = TypeVar("A")

Run: TypeAlias = str | RunHandle | RunResult
"""A run: its id, its key, a handle or a result of it."""

MAX_SLOTS = 65_536
"""How many slots a runner may have."""

ASYNC_SLOTS = 1_000
"""How many coroutines execute at once by default."""

GRACE = 5.0
"""Seconds that `close()` waits for bodies to end."""

CANCEL_GRACE, CANCEL_LIMIT = 60.0, 3600.0
"""Seconds that the bodies of a cancelled run may execute to clean up, and that this may take by the wall."""

RETENTION = timedelta(days=30)
"""How long ended runs are kept by default."""


class Runner(Controls, Repairs, RunnerTwins):
    """Executes workflows on a store: a path, `":memory:"`, or `sqlite:///path`.

    Use it as a sync or async context manager; without one it is closed when the interpreter exits.

    `workflows` are registered at once, so that their unfinished runs continue. `slots` is how many bodies execute at
    the same time (default: processors plus 4, at most 32). With `durability="full"` what is committed also survives
    a loss of power. `max_parked` limits how many plain functions may be deferred at once.

    Ended runs are deleted once they have been kept for `retention`, seconds or a `timedelta` (default: 30 days), or
    never with `retention=None`; runs that have not ended stay, however old they are. If several runners share a
    store, the shortest retention applies. A store in memory keeps only the last 1,000.

    The bodies of a cancelled run may execute for `cancel_grace` to clean up, and that may take `cancel_limit` by the
    wall; then they are cut off.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, all but the first by keyword
        self,
        store: str | os.PathLike[str],
        *,
        workflows: Iterable[Workflow] = (),
        slots: int | None = None,
        durability: Literal["normal", "full"] = "normal",
        max_parked: int | None = None,
        retention: Duration | None = RETENTION,
        async_slots: int = ASYNC_SLOTS,
        loop_factory: "Callable[[], asyncio.AbstractEventLoop] | None" = None,
        cancel_grace: Duration = CANCEL_GRACE,
        cancel_limit: Duration = CANCEL_LIMIT,
    ) -> None:
        """Open the store; a `StoreError` says why it cannot be used."""
        if not isinstance(store, (str, os.PathLike)) or isinstance(os.fspath(store), bytes):
            msg = f"Runner takes a path or a URL as its store, not {store!r}"
            raise DefinitionError(msg)
        name = os.fspath(store)
        if not name:
            msg = 'Runner takes a path or a URL as its store, not an empty string; to use no file, pass ":memory:"'
            raise DefinitionError(msg)
        if "\0" in name:
            msg = f"Runner got {name!r} as its store, which contains a NUL character and is not a path"
            raise DefinitionError(msg)
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            raise DefinitionError(_not_a_path(name)) from None
        if durability not in {"normal", "full"}:
            msg = f'durability must be "normal" or "full", not {durability!r}'
            raise DefinitionError(msg)
        if isinstance(workflows, Workflow) or not isinstance(workflows, Iterable):
            msg = f"Runner takes a list of workflows, not {workflows!r}"
            raise DefinitionError(msg)
        kept = optional_seconds(retention, "retention")
        grace = seconds(cancel_grace, "cancel_grace", zero=True), seconds(cancel_limit, "cancel_limit", zero=True)
        _surroundings.check()
        self._workflows: dict[str, tuple[Workflow, _core.Workflow]] = {}
        self._core = _core.Runner(
            name,
            None if slots is None else count(slots, "slots", MAX_SLOTS),
            durability,
            None if max_parked is None else count(max_parked, "max_parked"),
            kept,
            count(async_slots, "async_slots", MAX_SLOTS),
            grace,
        )
        self._loop = LoopChoice(self._core, loop_factory)
        self._submitter = Submitter()
        try:
            for workflow in workflows:
                self.register(workflow)
        except BaseException:
            self.close(grace=0)
            raise

    # --- running ---------------------------------------------------------------------------------------------------

    def run(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        tags: Mapping[str, str] | None = None,
        priority: int = 0,
        start_at: datetime | None = None,
        start_after: Duration | None = None,
    ) -> RunResult:
        """Run a workflow and return its result; raise `RunFailed` if it failed.

        With a `key` the call attaches to that workflow's run of the key, if there is one. `timeout` limits this
        wait only (`TimeoutError`): the run continues. The rest is that of `submit`.
        """
        refuse_in_body("Runner.run()")
        refuse_on_loop("Runner.run()", "`await runner.run_async(workflow, inputs)`")
        limit = optional_seconds(timeout, "timeout", zero=True)
        said = _options.options("run", tags, priority, start_at, start_after)
        return self._submit_one(workflow, inputs, key, said, linger=limit is None).result(limit)

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
        said = _options.options("submit", tags, priority, start_at, start_after)
        return self._submit_one(workflow, inputs, key, said, linger=False)

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
        said = _options.options("submit_many", tags, priority, start_at, start_after)
        compiled = self._core_workflow(workflow)
        given, names = paired(inputs, keys, "submit_many")
        encode = workflow._compiled().encode_inputs
        encoded = [encode(one) for one in given]
        return self._submit(compiled, list(zip(encoded, names, strict=True)), said, many=True)

    def register(self, workflow: Workflow) -> None:
        """Register a workflow and continue its unfinished runs, including those of a runner that died."""
        self._core.register(self._core_workflow(workflow))

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
        refuse_on_loop("Runner.request()", "`await runner.request_async(run, request, value)`")
        return self._request(run, request, value, timeout=timeout, id=id, workflow=workflow)

    def _request(
        self,
        run: "str | RunHandle | RunResult",
        request: "str | Request[Any, Any]",
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

    # --- reading ---------------------------------------------------------------------------------------------------

    def get(self, id_or_key: str, *, workflow: Workflow | str | None = None) -> RunResult:
        """Return a run's current state; raise `KeyError` if there is none, or if runs of two workflows have the key."""
        return RunResult(self._snapshot(self._find(id_or_key, workflow)))

    def runs(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        *,
        status: RunStatus | str | None = None,
        workflow: Workflow | str | None = None,
        since: datetime | timedelta | None = None,
        tags: Mapping[str, str] | None = None,
        key_prefix: str | None = None,
        parent: Run | None = None,
        limit: int | None = None,
    ) -> list[RunResult]:
        """Return runs in their current state, newest first.

        `since` is a time span or a datetime with a time zone. With `tags`, only runs that have all of these; with
        `key_prefix`, only runs whose key begins so; with `parent`, only the runs that the bodies of that run started.
        """
        micros = None
        if since is not None:
            then = datetime.now().astimezone() - since if isinstance(since, timedelta) else moment(since, "since")
            micros = int(then.timestamp() * 1_000_000)
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        most = None if limit is None else count(limit, "limit")
        tagged = _options.check_tags(tags, "runs")
        if name is not None and not is_text(name):
            return []
        prefix = None if key_prefix is None else check_text(key_prefix, "key_prefix")
        above = None if parent is None else self._find_run(parent, None)
        one = None if status is None else escape_surrogates(str(status))
        return [RunResult(found) for found in self._core.runs(one, name, micros, most, tagged, prefix, above)]

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
        refuse_in_body("Runner.follow()")
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

    # --- closing ---------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Run until SIGTERM or Ctrl-C, then close. On the main thread only, whose signals these are."""
        import signal  # noqa: PLC0415 - for this alone
        import threading  # noqa: PLC0415 - for this alone

        if threading.current_thread() is not threading.main_thread():
            msg = "serve() waits for signals, which only the main thread receives: call it there"
            raise BideError(msg)
        stop = threading.Event()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            stop.set()

        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            while not stop.wait(0.2):
                if self._core.closed:
                    break
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self.close()

    def close(self, grace: Duration = GRACE) -> None:
        """Suspend waiting bodies, give others `grace` seconds to end, and close the store. Calling it twice is fine."""
        self._loop.refuse_own_thread()
        self._close(grace)

    def _close(self, grace: Duration) -> None:
        seconds = optional_seconds(grace, "grace", zero=True) or 0.0
        self._submitter.stop()
        closes = True
        try:
            closes = self._core.close(seconds, self._loop.cancel_all)
        finally:
            # A call that comes while another one closes must not end the loop on which bodies unwind.
            if closes:
                self._loop.stop()

    def __enter__(self) -> Self:
        """Return the runner itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Close the runner. In the child of a fork there is nothing to close."""
        if not self._core.elsewhere:
            self.close()

    async def __aenter__(self) -> Self:
        """Execute `async def` bodies on the running loop from here on, and return the runner itself."""
        self._loop.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the runner without blocking the event loop. In the child of a fork there is nothing to close."""
        if not self._core.elsewhere:
            await self.close_async()

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        what = "Runner"
        raise not_picklable(what, "create one there, on the same file")

    def __repr__(self) -> str:
        """Show the store."""
        return f"<Runner on {self._core.store!r}{' (closed)' if self._core.closed else ''}>"

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _core_workflow(self, workflow: Workflow) -> "_core.Workflow":
        if not isinstance(workflow, Workflow):
            msg = f"a Runner runs a bide.Workflow, not {workflow!r}"
            raise DefinitionError(msg)
        known = self._workflows.get(workflow.name)
        if known is not None and known[0] is workflow:
            if known[1].is_async:
                self._loop.check()
            return known[1]
        compiled = workflow._compiled().core
        self._workflows[workflow.name] = (workflow, compiled)
        if compiled.is_async:
            self._loop.prepare()
        return compiled

    def _submit_one(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None,
        key: str | None,
        said: _options.Options | None,
        *,
        linger: bool,
    ) -> RunHandle:
        compiled = self._core_workflow(workflow)
        encoded = workflow._compiled().encode_inputs(inputs)
        return self._submit(compiled, [(encoded, _check_key(key))], said, linger=linger)[0]

    def _submit_soon(
        self, workflow: Workflow, inputs: Mapping[str, Any] | None, key: str | None, said: _options.Options | None
    ) -> "asyncio.Future[RunHandle]":
        """Submit a run together with those of other callers on event loops."""
        compiled = self._core_workflow(workflow)
        encoded = workflow._compiled().encode_inputs(inputs)
        submission = Submission(self._submit_each, compiled, encoded, _check_key(key), said)
        return self._submitter.put(submission)

    def _submit_each(self, runs: list[Submission]) -> list[RunHandle | BaseException]:
        """Submit runs of one workflow with the same options at once; if one is refused, one after the other."""
        compiled, inputs = runs[0].compiled, [(run.inputs, run.key) for run in runs]
        try:
            return [*self._submit(compiled, inputs, runs[0].said, [run.contextvars for run in runs])]
        except DefinitionError as error:
            if len(runs) == 1:
                return [error]
        except BaseException as error:  # noqa: BLE001 - a commit that may have been made is not repeated
            return [error for _ in runs]
        return [result for run in runs for result in self._submit_each([run])]

    @staticmethod
    def _refuse_in_body(what: str) -> None:
        refuse_in_body(what)

    def _submit(
        self,
        compiled: "_core.Workflow",
        runs: list[tuple[list[tuple[str, bytes]], str | None]],
        said: _options.Options | None,
        context: list[contextvars.Context] | None = None,
        *,
        linger: bool = False,
        many: bool = False,
    ) -> list[RunHandle]:
        context = [contextvars.copy_context()] if context is None else context
        try:
            handles = self._core.submit(compiled, runs, context, linger, many, said)
        except DefinitionError:
            recorded = self._as_recorded(compiled, runs)
            if recorded == runs:
                raise
            handles = self._core.submit(compiled, recorded, context, linger, many, said)
        return [RunHandle(handle, self, key) for handle, (_, key) in zip(handles, runs, strict=True)]

    def _as_recorded(
        self, compiled: "_core.Workflow", runs: list[tuple[list[tuple[str, bytes]], str | None]]
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


def _not_a_path(name: str) -> str:
    """Return why the text cannot be a path here, in ASCII: such a process may be able to print nothing else."""
    if is_text(name):
        return (
            f"Runner got {name!a} as its store, but this process can only use paths in {sys.getfilesystemencoding()}: "
            "start it with PYTHONUTF8=1 or in a UTF-8 locale (LC_ALL=C.UTF-8), or use a path in ASCII"
        )
    return f"Runner got {name!a} as its store, which has a lone surrogate and is not a path"


def _check_key(key: str | None, what: str = "key") -> str | None:
    return None if key is None else check_text(key, what)
