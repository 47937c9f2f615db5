"""A limit is never exceeded and never leaks: by attempts in flight, executing bodies, starts, and per key."""

import asyncio
import contextlib
import itertools
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import pytest

import bide
from bide import HeldBy, RunStatus
from processes import Child, eventually, ledger

KINDS = ("memory", "sqlite", "postgres")

PATIENCE = 30.0


class Tally:
    """Counts who is within a section at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[object] = Counter()
        self.most: Counter[object] = Counter()

    def enter(self, of: object = None) -> None:
        with self._lock:
            self._now[of] += 1
            self.most[of] = max(self.most[of], self._now[of])

    def leave(self, of: object = None) -> None:
        with self._lock:
            self._now[of] -= 1

    def now(self, of: object = None) -> int:
        with self._lock:
            return self._now[of]


def only_use(runner: bide.Runner | bide.Client) -> bide.LimitUse:
    uses = [use for info in runner.limits() for use in info.uses] or [bide.LimitUse(None, 0, 0, 0, 0)]
    assert len(uses) == 1
    return uses[0]


def nothing_is_used(runner: bide.Runner) -> bool:
    return all(use.executing + use.in_flight + use.waiting == 0 for info in runner.limits() for use in info.uses)


def ends(runner: bide.Runner, run: str) -> None:
    ended = {RunStatus.Completed, RunStatus.Cancelled}
    eventually(lambda: runner.get(run).status in ended, f"{run} ends")


def test_attempts_in_flight_count_with_their_waits(runner: bide.Runner) -> None:
    tally = Tally()

    @bide.task(limit=bide.Limit("api", in_flight=3))
    def calls(handle: bide.TaskHandle) -> None:
        tally.enter()
        handle.wait(bide.signal("go", str))
        tally.leave()

    handles = runner.submit_many(bide.Workflow("w", [calls]), [None] * 10)
    for done in range(10):
        eventually(lambda done=done: tally.now() == min(3, 10 - done), "three are in flight")  # type: ignore[misc]
        eventually(lambda done=done: only_use(runner).waiting == max(0, 7 - done), "the others wait")  # type: ignore[misc]
        assert only_use(runner) == bide.LimitUse(None, 0, min(3, 10 - done), 0, max(0, 7 - done))
        handles[done].signal("go", "on")
        handles[done].result(PATIENCE)
    assert tally.most[None] == 3
    assert nothing_is_used(runner)


def test_bodies_that_execute_count_without_their_waits(runner: bide.Runner) -> None:
    inside, waiting = Tally(), Tally()

    @bide.task(limit=bide.Limit("cpu", executing=2))
    def works(handle: bide.TaskHandle) -> None:
        for turn in range(3):
            inside.enter()
            inside.leave()
            waiting.enter(turn)
            handle.wait(bide.signal(f"go{turn}", str))

    handles = runner.submit_many(bide.Workflow("w", [works]), [None] * 8)
    for turn in range(3):
        eventually(lambda turn=turn: waiting.now(turn) == 8, "all of them wait at once")  # type: ignore[misc]
        for handle in handles:
            handle.signal(f"go{turn}", "on")
    for handle in handles:
        handle.result(PATIENCE)
    assert inside.most[None] <= 2
    assert nothing_is_used(runner)


def test_a_body_that_resumes_takes_executing_again(runner: bide.Runner) -> None:
    entered, go_on = threading.Event(), threading.Event()
    limit = bide.Limit("cpu", executing=1)

    @bide.task(limit=limit)
    def waits(handle: bide.TaskHandle) -> None:
        handle.wait(bide.signal("go", str))

    @bide.task(limit=limit)
    def holds() -> None:
        entered.set()
        assert go_on.wait(PATIENCE)

    first = runner.submit(bide.Workflow("waits", [waits]))
    eventually(lambda: bool(runner.waiting()), "it waits")
    second = runner.submit(bide.Workflow("holds", [holds]))
    assert entered.wait(PATIENCE)
    first.signal("go", "on")
    held = bide.HeldBack("cpu", None, "executing", 1, 1)
    eventually(lambda: first.why().tasks[0].limit == held, "it is held back")
    assert first.why().tasks[0].held_by is HeldBy.Limit
    assert "waits for limit 'cpu' (executing), as number 1 of 1" in str(first.why())
    go_on.set()
    first.result(PATIENCE)
    second.result(PATIENCE)
    assert nothing_is_used(runner)


def test_coroutines_are_limited_as_functions_are(runner: bide.Runner) -> None:
    inside, flying = Tally(), Tally()

    @bide.task(limit=bide.Limit("api", in_flight=5, executing=2))
    async def calls(handle: bide.AsyncTaskHandle) -> None:
        flying.enter()
        for _ in range(3):
            inside.enter()
            await asyncio.sleep(0.001)
            inside.leave()
            await handle.sleep(0.001)
        flying.leave()

    for handle in runner.submit_many(bide.Workflow("w", [calls]), [None] * 20):
        handle.result(PATIENCE)
    assert flying.most[None] <= 5
    assert inside.most[None] <= 2
    assert nothing_is_used(runner)


def starts(runner: bide.Runner, workflow: str) -> list[datetime]:
    found = [task.started_at for run in runner.runs(workflow=workflow) for task in run.tasks.values()]
    return sorted(at for at in found if at is not None)


def in_every_window(started: list[datetime], count: int, span: float) -> bool:
    return all(late - early > timedelta(seconds=span) for early, late in zip(started, started[count:], strict=False))


@pytest.mark.parametrize("is_async", [False, True])
def test_bodies_that_record_nothing_are_limited_too(runner: bide.Runner, is_async: bool) -> None:
    tally, limit = Tally(), bide.Limit("api", executing=2, in_flight=3)

    @bide.task(limit=limit)
    def calls() -> None:
        tally.enter()
        tally.leave()

    @bide.task(limit=limit, name="calls")
    async def calls_async() -> None:
        tally.enter()
        await asyncio.sleep(0)
        tally.leave()

    workflow = bide.Workflow("w", [calls_async if is_async else calls])
    for handle in runner.submit_many(workflow, [None] * 1_000):
        handle.result(PATIENCE)
    assert 1 <= tally.most[None] <= 2
    assert nothing_is_used(runner)


@pytest.mark.parametrize("slots", [1, 8])
def test_recorded_starts_never_exceed_the_rate(store: str, slots: int) -> None:
    @bide.task(limit=bide.Limit("api", rate=(10, 0.2)))
    def calls() -> None: ...

    @bide.task
    def other() -> None:
        threading.Event().wait(0.02)  # so that some bodies queue for a slot for longer than their grant lasts

    with bide.Runner(store, slots=slots) as runner:
        others = runner.submit_many(bide.Workflow("others", [other]), [None] * 40)
        for handle in [*runner.submit_many(bide.Workflow("w", [calls]), [None] * 50), *others]:
            handle.result(PATIENCE)
        started = starts(runner, "w")
    assert len(started) == 50
    assert in_every_window(started, 10, 0.2)


def test_a_rate_is_used_up_and_says_so(runner: bide.Runner) -> None:
    @bide.task(limit=bide.Limit("api", rate=(2, 3600)))
    def calls() -> None: ...

    handles = runner.submit_many(bide.Workflow("w", [calls]), [None] * 5)
    eventually(lambda: sum(handle.status() is RunStatus.Completed for handle in handles) == 2, "two have started")
    eventually(lambda: only_use(runner).waiting == 3, "the others wait")
    assert only_use(runner) == bide.LimitUse(None, 0, 0, 2, 3)
    held = [handle.why().tasks[0].limit for handle in handles if handle.status() is not RunStatus.Completed]
    assert sorted(one.place for one in held if one is not None) == [1, 2, 3]
    assert {one.counts for one in held if one is not None} == {"rate"}


def test_each_value_of_the_key_has_a_limit_of_its_own(runner: bide.Runner) -> None:
    tally = Tally()

    @bide.task
    def customer(number: int) -> str:
        return f"customer {number % 3}"

    @bide.task(limit=bide.Limit("api", in_flight=2, key="customer"))
    def calls(handle: bide.TaskHandle, customer: str) -> None:
        tally.enter(customer)
        handle.wait(bide.signal("go", str))
        tally.leave(customer)

    workflow = bide.Workflow("w", [customer, calls])
    handles = runner.submit_many(workflow, [{"number": number} for number in range(12)])
    names = [f"customer {number}" for number in range(3)]
    eventually(lambda: [tally.now(name) for name in names] == [2, 2, 2], "two of each are in flight")
    eventually(lambda: [use.waiting for use in runner.limits()[0].uses] == [2, 2, 2], "two of each wait")
    assert [use.key for use in runner.limits()[0].uses] == [f'"{name}"' for name in names]
    text = str(runner.limits()[0])
    assert text.splitlines()[:2] == ["limit 'api' by 'customer'", '  "customer 0": 2 of 2 in_flight, 2 held back']
    for handle in handles:
        handle.signal("go", "on")
    for handle in handles:
        handle.result(PATIENCE)
    assert tally.most == Counter(dict.fromkeys(names, 2))


def test_an_input_is_a_key_and_elements_of_a_mapped_task_are_limited(runner: bide.Runner) -> None:
    tally = Tally()

    @bide.task
    def numbers() -> list[int]:
        return list(range(12))

    @bide.task(limit=bide.Limit("api", executing=2, key="tenant"))
    def each(tenant: str, number: Annotated[int, bide.Each("numbers")]) -> int:
        tally.enter(tenant)
        threading.Event().wait(0.002)
        tally.leave(tenant)
        return number

    workflow = bide.Workflow("w", [numbers, each])
    for handle in runner.submit_many(workflow, [{"tenant": name} for name in "aab"]):
        assert handle.result(PATIENCE).outputs["each"] == list(range(12))
    assert tally.most["a"] <= 2
    assert tally.most["b"] <= 2


def test_a_retry_delay_is_free_and_a_failed_attempt_leaks_nothing(runner: bide.Runner) -> None:
    failed = threading.Event()

    @bide.task(limit=bide.Limit("api", in_flight=1), retry=bide.Retry(attempts=2, delay=3600))
    def fails() -> None:
        failed.set()
        raise ValueError

    first = runner.submit(bide.Workflow("fails", [fails]))
    assert failed.wait(PATIENCE)
    eventually(lambda: first.why().tasks[0].held_by is HeldBy.Retry, "its next attempt is due in an hour")

    @bide.task(limit=bide.Limit("api", in_flight=1))
    def calls() -> None: ...

    runner.run(bide.Workflow("calls", [calls]), timeout=PATIENCE)
    assert nothing_is_used(runner)


def test_what_is_cancelled_leaks_nothing(runner: bide.Runner) -> None:
    @bide.task(limit=bide.Limit("api", in_flight=1, executing=1))
    def calls(handle: bide.TaskHandle) -> None:
        handle.wait(bide.signal("go", str))

    workflow = bide.Workflow("w", [calls])
    handles = runner.submit_many(workflow, [None] * 5)
    eventually(lambda: only_use(runner).waiting == 4, "four wait")
    for handle in handles[:4]:
        handle.cancel()
        ends(runner, handle.id)
    handles[4].signal("go", "on")
    handles[4].result(PATIENCE)
    assert nothing_is_used(runner)


def test_a_higher_priority_goes_first_and_then_the_older_run(runner: bide.Runner) -> None:
    order: list[int] = []

    @bide.task(limit=bide.Limit("api", in_flight=1))
    def calls(handle: bide.TaskHandle, number: int) -> None:
        order.append(number)
        handle.wait(bide.signal("go", str))

    workflow = bide.Workflow("w", [calls])
    priorities = [0, 0, 7, 0, 7, -1]
    handles = []
    for number, priority in enumerate(priorities):
        handles.append(runner.submit(workflow, {"number": number}, priority=priority))
        eventually(lambda: order == [0], "the first one is in flight")
    for number in (expected := [0, 2, 4, 1, 3, 5]):
        handles[number].signal("go", "on")
    for handle in handles:
        handle.result(PATIENCE)
    assert order == expected


def test_the_newest_definition_counts_and_a_warning_says_so(
    runner: bide.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    tally = Tally()

    def workflow(name: str, limit: bide.Limit) -> bide.Workflow:
        @bide.task(limit=limit)
        def calls(handle: bide.TaskHandle) -> None:
            tally.enter()
            handle.wait(bide.signal("go", str))

        return bide.Workflow(name, [calls])

    handles = runner.submit_many(workflow("one", bide.Limit("api", in_flight=1)), [None] * 4)
    eventually(lambda: only_use(runner).waiting == 3, "three wait")
    with caplog.at_level(logging.WARNING, "bide"):
        runner.register(workflow("other", bide.Limit("api", in_flight=3, rate=(100, 60))))
    eventually(lambda: "limit 'api'" in caplog.text, "the warning is logged")
    assert "limit 'api' (in_flight=3, rate=(100, 60)) replaces what was defined before: limit 'api' (in_flight=1)" in (
        caplog.text
    )
    eventually(lambda: tally.now() == 3, "three are in flight")
    for handle in handles:
        handle.signal("go", "on")
        handle.result(PATIENCE)


def test_a_definition_of_another_runner_counts_here_and_that_one_says_so(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tally = Tally()

    def workflow(limit: bide.Limit) -> bide.Workflow:
        @bide.task(limit=limit)
        def calls(handle: bide.TaskHandle) -> None:
            tally.enter()
            handle.wait(bide.signal("go", str))

        return bide.Workflow("w", [calls])

    with bide.Runner(file) as runner:
        handles = runner.submit_many(workflow(bide.Limit("api", in_flight=1)), [None] * 4)
        eventually(lambda: only_use(runner).waiting == 3, "three wait")
        with (
            caplog.at_level(logging.WARNING, "bide"),
            bide.Runner(file, workflows=[workflow(bide.Limit("api", in_flight=3))]),
        ):
            eventually(lambda: "(in_flight=3) replaces" in caplog.text, "the warning is logged")
            eventually(lambda: tally.now() == 3, "three are in flight, by the definition of the other one")
        for handle in handles:
            handle.signal("go", "on")
            handle.result(PATIENCE)
        assert nothing_is_used(runner)


CALLS = """
    @bide.task(limit=bide.Limit("api", in_flight=2, executing=1))
    def calls(handle: bide.TaskHandle) -> None:
        note("enter", handle.run_id)
        handle.wait(bide.signal("go", str))
        note("leave", handle.run_id)

    workflow = bide.Workflow("w", [calls])
"""


def test_an_attempt_keeps_its_share_when_its_process_dies(file: Path) -> None:
    """The waits of a killed process stay in flight; who takes its runs over starts nothing beside them."""
    script = (
        CALLS
        + """
    with bide.Runner(db, slots=4) as runner:
        handles = runner.submit_many(workflow, [None] * 5, [str(number) for number in range(5)])
        while len(runner.waiting()) < 2:
            time.sleep(0.001)
        say("waits")
        stay()
    """
    )
    with Child(script, file) as child:
        child.expect("waits").kill()
    entered = [line.split()[1] for line in ledger(file) if line.startswith("enter")]
    assert len(entered) == 2

    tally: defaultdict[str, int] = defaultdict(int)

    @bide.task(limit=bide.Limit("api", in_flight=2, executing=1))
    def calls(handle: bide.TaskHandle) -> None:
        tally[handle.run_id] += 1
        handle.wait(bide.signal("go", str))

    with bide.Runner(file, workflows=[bide.Workflow("w", [calls])], slots=4) as runner:
        eventually(lambda: only_use(runner).waiting == 3, "the others are held back")
        assert only_use(runner).in_flight == 2
        assert {run for run in tally if run not in entered} == set()
        for run in runner.runs(workflow="w"):
            runner.signal(run.id, "go", "on")
        for run in runner.runs(workflow="w"):
            ends(runner, run.id)
        assert nothing_is_used(runner)
        assert len(tally) == 5


def test_a_dead_process_gives_back_what_executed(file: Path) -> None:
    script = """
    @bide.task(limit=bide.Limit("api", executing=1, in_flight=1))
    def calls() -> None:
        say("executes")
        stay()

    runner = bide.Runner(db, slots=4)
    runner.submit(bide.Workflow("dies", [calls]))
    stay()
    """

    @bide.task(limit=bide.Limit("api", executing=1, in_flight=1))
    def calls() -> None: ...

    with bide.Runner(file) as runner, Child(script, file) as child:
        child.expect("executes")
        handle = runner.submit(bide.Workflow("w", [calls]))
        eventually(lambda: handle.why().tasks[0].held_by is HeldBy.Limit, "it is held back by the other process")
        child.kill()
        handle.result(PATIENCE)
        # The other run is in flight no more until somebody who knows it executes it.
        assert nothing_is_used(runner)


def test_one_limit_holds_across_processes_and_each_gets_its_turn(file: Path) -> None:
    script = """
    @bide.task(limit=bide.Limit("api", in_flight=2))
    def calls() -> None:
        note("enter")
        time.sleep(0.002)
        note("leave")

    with bide.Runner(db, slots=4) as runner:
        say("ready")
        while not Path(words[0]).exists():
            time.sleep(0.001)
        workflow = bide.Workflow("w", [calls])
        handles = [runner.submit(workflow) for _ in range(8)]
        for _ in range(32):
            handles.pop(0).result(30)
            handles.append(runner.submit(workflow))
        for handle in handles:
            handle.result(30)
        say("ended", len(ledger.read_text().splitlines()))
    """
    go = file.with_suffix(".go")
    with Child(script, file, str(go)) as one, Child(script, file, str(go)) as other:
        one.expect("ready")
        other.expect("ready")
        go.touch()
        ends = [int(child.after("ended")) for child in (one, other)]
        one.join()
        other.join()
    now = most = 0
    for line in ledger(file):
        now += 1 if line == "enter" else -1
        most = max(most, now)
    assert (now, most) == (0, 2)
    # By then the other one, whose runs are as old, has had its turns: one that only waited would have done nothing.
    assert min(ends) > 2 * (40 + 20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: bide.Limit(""),
        lambda: bide.Limit("api"),
        lambda: bide.Limit("api", in_flight=0),
        lambda: bide.Limit("api", executing=True),
        lambda: bide.Limit("api", rate=5),  # type: ignore[arg-type]
        lambda: bide.Limit("api", rate=(0, 1)),
        lambda: bide.Limit("api", rate=(1, 0)),
        lambda: bide.Limit("api", in_flight=1, key=""),
        lambda: bide.task(limit=5)(print),  # type: ignore[call-overload]
    ],
)
def test_a_bad_limit_is_refused_by_its_name(make: Callable[[], object]) -> None:
    with pytest.raises(bide.DefinitionError, match=r"Limit|limit"):
        make()


def test_a_key_that_has_no_value_when_the_task_starts_is_refused() -> None:
    @bide.task
    def other(number: int) -> int:
        return number

    def workflow(key: str) -> bide.Workflow:
        @bide.task(limit=bide.Limit("api", in_flight=1, key=key))
        def calls() -> None: ...

        return bide.Workflow("w", [other, calls])

    with pytest.raises(bide.DefinitionError, match=r"task 'calls'.*'api'.*'nobody'.*neither an input.*nor a task"):
        workflow("nobody").version  # noqa: B018 - it is built then
    with pytest.raises(bide.DefinitionError, match=r"'other', on which this task does not depend.*depends_on"):
        workflow("other").version  # noqa: B018 - it is built then
    assert workflow("number").version


def test_a_limit_of_running_bodies_takes_no_slot_from_others(store: str) -> None:
    go_on = threading.Event()

    @bide.task(limit=bide.Limit("api", executing=1))
    def limited() -> None:
        assert go_on.wait(PATIENCE)

    @bide.task
    def free() -> None: ...

    with bide.Runner(store, slots=2) as runner:
        handles = runner.submit_many(bide.Workflow("limited", [limited]), [None] * 10)
        eventually(lambda: only_use(runner).waiting == 9, "nine are held back")
        for _ in range(5):
            runner.run(bide.Workflow("free", [free]), timeout=PATIENCE)
        go_on.set()
        for handle in handles:
            handle.result(PATIENCE)


def test_a_runner_that_closes_releases_what_executed_and_keeps_what_waits(file: Path) -> None:
    @bide.task(limit=bide.Limit("api", in_flight=1, executing=1))
    def calls(handle: bide.TaskHandle) -> None:
        handle.wait(bide.signal("go", str))

    workflow = bide.Workflow("w", [calls])
    with bide.Runner(file) as runner:
        for number in itertools.count():
            runner.submit(workflow, key=str(number))
            if number == 2:
                break
        eventually(lambda: only_use(runner).waiting == 2, "two are held back")
        eventually(lambda: len(runner.waiting()) == 1, "the first one waits")
    with bide.Client(file) as client:
        assert only_use(client) == bide.LimitUse(None, 0, 1, 0, 0)
    with bide.Runner(file, workflows=[workflow]) as runner:
        for number in range(3):
            runner.signal(str(number), "go", "on")
        for number in range(3):
            ends(runner, str(number))
        assert nothing_is_used(runner)


KILLED = """
    import fcntl

    def section():
        "Holds one of two places that the kernel gives back when a process dies."
        for number in range(2):
            place = open(f"{db}.place{number}", "w")
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                place.close()
            else:
                return place
        note("exceeded")

    @bide.task(limit=bide.Limit("cpu", executing=2, in_flight=6))
    def works(number: int, handle: bide.TaskHandle) -> int:
        for _ in range(3):
            place = section()
            time.sleep(0.001)
            if place is not None:
                place.close()
            handle.sleep(0.001)
        return number

    workflow = bide.Workflow("w", [works])
    runner = bide.Runner(db, workflows=[workflow], slots=4)
    runner.submit_many(workflow, [{"number": number} for number in range(60)], [str(number) for number in range(60)])
    say("lives")
    while any(run.status is not bide.RunStatus.Completed for run in runner.runs(limit=60)):
        time.sleep(0.002)
    say("ended")
    stay()
"""


def test_no_limit_is_exceeded_or_leaks_while_processes_are_killed(file: Path) -> None:
    """Two processes live at a time, and one of them is killed again and again."""
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(Child(KILLED, file))
        for number in range(8):
            child = stack.enter_context(Child(KILLED, file))
            child.expect("lives")
            threading.Event().wait(0.01 * number)
            before.kill()
            before = child
        before.expect("ended")
        before.kill()
    assert "exceeded" not in ledger(file)
    with bide.Runner(file) as runner:
        assert {run.status for run in runner.runs()} == {RunStatus.Completed}
        assert nothing_is_used(runner)
