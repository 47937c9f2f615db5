"""`crash_points`: runs a workflow once for each of its commits, with a crash before and after it."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias, Unpack

from bide._effects import Effects
from bide._errors import DefinitionError, RunFailed, StoreError
from bide._result import RunResult
from bide._status import TaskStatus
from bide._test_clock import Crashed
from bide._test_handles import RunHandle
from bide._test_runner import Runner, Settings
from bide._workflow import Workflow

KEY = "crash points"
"""The key of the run: after a crash the test submits it again, as a program does that is started again."""

Act: TypeAlias = Callable[[Runner, RunHandle], object]


class Difference(AssertionError):
    """A run that was crashed came to something else than one that was not."""


class EffectRepeated(AssertionError):
    """An effect happened more often in a run that was crashed. `effects` says which, and at which crash points."""

    def __init__(self, message: str = "", effects: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """Keep the effects."""
        super().__init__(message)
        self.effects: dict[str, tuple[str, ...]] = dict(effects or {})


class CrashPoints(NamedTuple):
    """What `crash_points` has found: nothing wrong."""

    points: int
    """How many crashes there were."""
    result: RunResult
    """That of the run that was not crashed."""
    effects: Counter[str]
    """How often each effect happened in that run."""
    may_repeat: dict[str, tuple[str, ...]]
    """Effects in steps that happened again, and at which crash points: the process died after them, before their step
    was recorded. A step with `once=True` raises `StepInterrupted` there instead; an effect with a key of its own on the
    other side is safe, too."""


class _Outcome(NamedTuple):
    result: RunResult
    effects: Effects
    commits: int
    crashed: bool


def crash_points(
    workflow: Workflow,
    inputs: Mapping[str, Any] | None = None,
    *,
    check: Callable[[RunResult, Counter[str]], object] | None = None,
    act: Act | None = None,
    **settings: Unpack[Settings],
) -> CrashPoints:
    """Run a workflow once for each commit that it makes, crash before and after it, and continue.

    Each result is compared with that of a run without a crash: the first `Difference` is raised. So is an
    `EffectRepeated`, with every effect (`bide.testing.effect`) that happened more often. Of an effect in a step that
    is no error but in the result: a step that was not recorded is called again.

    `check(result, effects)` gets each result and how often each effect happened, without what steps repeat.
    `act(runner, run)` is called when the run first waits, and again after the crash, to send what it waits for:
    signals should have an `id`. The time passes by itself. The settings are those of `bide.Runner`.
    """
    if not isinstance(workflow, Workflow):
        msg = f"crash_points takes a bide.Workflow, not {workflow!r}"
        raise DefinitionError(msg)
    expected = _run(workflow, inputs, act, settings, None)
    if check is not None:
        check(expected.result, Counter(expected.effects))
    repeated: dict[str, list[str]] = {}
    may_repeat: dict[str, list[str]] = {}
    points = 0
    for commit in range(1, expected.commits + 1):
        for after in (False, True):
            where = f"a crash {'after' if after else 'before'} commit {commit} of {expected.commits}"
            found = _run(workflow, inputs, act, settings, (commit, after))
            points += found.crashed
            _compare(expected.result, found.result, where)
            again = found.effects.in_steps - expected.effects.in_steps
            counted = Counter(found.effects) - again
            for name in again:
                may_repeat.setdefault(name, []).append(where)
            for name in counted - Counter(expected.effects):
                repeated.setdefault(name, []).append(where)
            if check is not None:
                try:
                    check(found.result, counted)
                except BaseException as error:
                    error.add_note(f"checked after {where}")
                    raise
    if repeated:
        told = "; ".join(f"the effect {name!r} happened again after {_listed(at)}" for name, at in repeated.items())
        msg = f"{told}. A step, or a step with once=True, records that it has happened"
        raise EffectRepeated(msg, {name: tuple(at) for name, at in repeated.items()})
    told_steps = {name: tuple(at) for name, at in may_repeat.items()}
    return CrashPoints(points, expected.result, Counter(expected.effects), told_steps)


def _run(
    workflow: Workflow,
    inputs: Mapping[str, Any] | None,
    act: Act | None,
    settings: Settings,
    crash: tuple[int, bool] | None,
) -> _Outcome:
    """Run the workflow to its end, through a crash if there is to be one."""
    with Runner(auto_advance=True, **settings) as runner:
        crashed = False
        if crash is not None:
            commit, after = crash
            (runner.crash_after if after else runner.crash_before)(commits=commit)
        while True:
            try:
                run = runner.submit(workflow, inputs, key=KEY)
                runner.run_until_waiting()
                if act is not None and runner.get(run.id).ended_at is None:
                    act(runner, run)
                _end(runner, run)
                commits = runner.commits
                break
            except (Crashed, StoreError):
                if not runner.crashed:
                    raise
                crashed = True
                runner.restart()
        return _Outcome(runner.get(run.id), runner.effects, commits, crashed)


def _end(runner: Runner, run: RunHandle) -> None:
    with contextlib.suppress(RunFailed):
        run.result()
    runner.run_until_waiting()


def _compare(expected: RunResult, found: RunResult, where: str) -> None:
    for what, one, other in _differences(expected, found):
        msg = f"after {where}, {what} is {other!r}, and without a crash {one!r}"
        raise Difference(msg)


def _differences(expected: RunResult, found: RunResult) -> Iterator[tuple[str, object, object]]:
    """Yield what differs: its name, and both values."""
    pairs: list[tuple[str, object, object]] = [("the status of the run", str(expected.status), str(found.status))]
    for name in {**expected.tasks, **found.tasks}:
        one, other = expected.tasks.get(name), found.tasks.get(name)
        if one is None or other is None:
            pairs.append((f"whether there is a task {name!r}", one is not None, other is not None))
            continue
        pairs.append((f"the status of task {name!r}", str(one.status), str(other.status)))
        if one.status is TaskStatus.Completed is other.status:
            pairs.append((f"what task {name!r} returned", _returned(expected, name), _returned(found, name)))
        if one.status is TaskStatus.Failed is other.status:
            pairs.append((f"the error of task {name!r}", str(one.error), str(other.error)))
    pairs.append(("the context", dict(expected.context), dict(found.context)))
    yield from (pair for pair in pairs if not _equal(pair[1], pair[2]))


def _returned(result: RunResult, name: str) -> object:
    """Return what a task that completed has returned: a mapped task nothing, if not all of its elements have."""
    try:
        return result[name]
    except KeyError:
        return None


def _equal(one: object, other: object) -> bool:
    return type(one) is type(other) and (one == other or repr(one) == repr(other))


def _listed(places: list[str]) -> str:
    first = "; ".join(places[:2])
    return first if len(places) <= 2 else f"{first}; and {len(places) - 2} more"  # noqa: PLR2004 - as above
