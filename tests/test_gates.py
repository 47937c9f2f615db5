"""Gates: waits on the task itself, satisfied before its body starts."""

import dataclasses
import itertools
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from processes import Child, killed, ran

KINDS = ("memory", "sqlite", "postgres")


def test_a_body_starts_once_its_gates_condition_holds(runner: bide.Runner) -> None:
    flag = threading.Event()
    order: list[str] = []

    def ready() -> bool:
        order.append("asked")
        if len(order) == 3:
            flag.set()
        return flag.is_set()

    @bide.task(gate=bide.until(ready, every=0.01))
    def gated() -> None:
        order.append("body")

    result = runner.run(bide.Workflow("w", [gated]))
    assert order == ["asked"] * 3 + ["body"]
    assert result.tasks["gated"].waited >= 0.02


def test_a_gates_condition_is_bound_like_the_task(runner: bide.Runner) -> None:
    asked: list[tuple[str, str, list[str]]] = []

    @bide.task
    def submit(context: bide.Context, name: str) -> str:
        context["state"] = "sent"
        return "job-" + name

    def finished(submit: str, name: str, context: bide.Context, patience: int = 2) -> bool:
        asked.append((submit, name, list(context)))
        return len(asked) >= patience

    @bide.task(gate=bide.until(finished, every=0.01))
    def fetch(name: str) -> str:
        return "result of " + name

    workflow = bide.Workflow("w", [submit, fetch])
    assert workflow.topological_sort() == ["submit", "fetch"]
    assert runner.run(workflow, {"name": "x"})["fetch"] == "result of x"
    assert asked == [("job-x", "x", ["name", "state"])] * 2


def test_a_parameter_of_a_gates_condition_is_what_it_is_in_the_body(runner: bide.Runner) -> None:
    seen: list[object] = []

    def numbers() -> list[int]:
        return [0, 1, 2]

    @bide.task(gate=bide.after(lambda number: 0.01 * number))
    def wait(number: Annotated[int, bide.Each(numbers)]) -> int:
        return number

    def ready(rows: list[int], path: str, one: float, handle: Annotated[int, bide.Input("limit")] = 0) -> bool:
        seen.append((rows, path, one, handle))
        return True

    @bide.task(gate=bide.all_of(bide.until(ready), bide.at(lambda one: datetime.fromtimestamp(one, UTC))))
    def load(
        rows: Annotated[list[int], bide.From("wait")],
        path: Annotated[str, bide.Input("file")],
        one: Annotated[int, bide.Each("numbers")],
        limit: int,
    ) -> int:
        return one + len(rows) + len(path) + limit

    result = runner.run(bide.Workflow("w", [numbers, wait, load]), {"file": "ab", "limit": 10})
    assert result["load"] == [15, 16, 17]
    assert sorted(seen) == [([0, 1, 2], "ab", float(one), 10) for one in range(3)]  # type: ignore[type-var]


def test_a_gate_begins_when_the_dependencies_are_done(runner: bide.Runner) -> None:
    order: list[str] = []

    @bide.task
    def first() -> None:
        order.append("first")

    def ready() -> bool:
        order.append("asked")
        return True

    @bide.task(depends_on="first", gate=bide.until(ready, every=0.01))
    def second() -> None:
        order.append("second")

    runner.run(bide.Workflow("w", [first, second]))
    assert order == ["first", "asked", "second"]


def test_after_and_at_are_never_early(runner: bide.Runner) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=0.15)

    @bide.task(gate=bide.after(0.1))
    def later() -> float:
        return time.time()

    @bide.task(gate=bide.at(moment))
    def then() -> float:
        return time.time()

    @bide.task(gate=bide.at(datetime(2020, 1, 1, tzinfo=UTC)))
    def past() -> int:
        return 1

    began = time.time()
    result = runner.run(bide.Workflow("w", [later, then, past]))
    # Moments on PostgreSQL are the server's, whose clock is known to within a round trip.
    known = 0.1 if "postgresql" in repr(runner) else 0
    assert began + 0.1 - known <= result["later"] < began + 0.5
    assert moment.timestamp() - known <= result["then"] < moment.timestamp() + 0.5
    assert result["past"] == 1


def test_a_gate_that_times_out_fails_its_task(runner: bide.Runner) -> None:
    @bide.task(gate=bide.until(lambda: False, every=0.01, timeout=0.05))
    def gated() -> None: ...

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [gated]))
    assert isinstance(failed.value.errors["gated"], bide.TaskFailed)
    assert failed.value.errors["gated"].type == "bide.WaitTimeout"
    assert "'gated'" in str(failed.value.__cause__)


@pytest.mark.parametrize(("on_error", "asked"), [(bide.Tolerate(3), 3), ("raise", 1)])
def test_a_gates_condition_that_raises_ends_it_as_on_error_says(
    runner: bide.Runner, on_error: bide.Tolerate | str, asked: int
) -> None:
    calls: list[int] = []

    def broken() -> bool:
        calls.append(1)
        raise ConnectionError("no route")

    @bide.task(gate=bide.until(broken, every=0.005, on_error=on_error))  # type: ignore[arg-type]
    def gated() -> None: ...

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [gated]))
    assert "no route" in str(failed.value.__cause__)
    assert len(calls) == asked


def test_errors_that_are_not_in_a_row_are_tolerated(runner: bide.Runner) -> None:
    calls = itertools.count()

    def flaky() -> bool:
        n = next(calls)
        if n % 2:
            raise ConnectionError
        return n >= 12

    @bide.task(gate=bide.until(flaky, every=0.002, on_error=bide.Tolerate(2)))
    def gated() -> int:
        return 1

    assert runner.run(bide.Workflow("w", [gated]))["gated"] == 1


def test_a_failed_gate_is_retried_as_the_task_is(runner: bide.Runner) -> None:
    polls: list[float] = []

    def slow() -> bool:
        polls.append(time.monotonic())
        return len(polls) > 3

    @bide.task(
        gate=bide.until(slow, every=0.1, timeout=0.15),
        retry=bide.Retry(attempts=2, delay=0, on=bide.WaitTimeout),
    )
    def gated() -> int:
        return 1

    assert runner.run(bide.Workflow("w", [gated]))["gated"] == 1


def test_a_waiting_gate_holds_no_slot_and_shows(store: str) -> None:
    flag = threading.Event()

    @bide.task(gate=bide.until(flag.is_set, every=0.01))
    def gated() -> None: ...

    @bide.task
    def neighbour() -> None:
        flag.set()

    with bide.Runner(store, slots=1) as runner:
        handle = runner.submit(bide.Workflow("gated", [gated]))
        assert runner.get(handle.id).tasks["gated"].status in {bide.TaskStatus.Pending, bide.TaskStatus.Ready}
        runner.run(bide.Workflow("neighbour", [neighbour]))
        handle.result(30)


def test_many_gates_wait_at_once(runner: bide.Runner) -> None:
    flag = threading.Event()

    @bide.task(gate=bide.until(flag.is_set, every=0.02))
    def gated(n: int) -> int:
        return n

    handles = runner.submit_many(bide.Workflow("w", [gated]), [{"n": n} for n in range(1000)])
    flag.set()
    assert sum(handle.result(30)["gated"] for handle in handles) == sum(range(1000))


GATED = """
flag = Path(db).with_suffix(".flag")

@bide.task
def before() -> str:
    return "job"

def ready(before: str) -> bool:
    if "stay" in words:
        say("asked", before, time.time())
    return flag.exists()

@bide.task(gate=bide.until(ready, every=0.02, timeout=float(words[0])))
def gated(before: str) -> str:
    return "opened for " + before

with bide.Runner(db) as runner:
    try:
        say(runner.run(bide.Workflow("w", [before, gated]), key="k")["gated"])
    except bide.RunFailed as failed:
        say(failed.errors["gated"].type, time.time())
"""


def test_a_gate_continues_after_a_crash_and_opens(file: Path) -> None:
    with Child(GATED, file, "30", "stay") as child:
        assert child.next().startswith("asked job")
        child.kill()
    file.with_suffix(".flag").touch()
    assert ran(GATED, file, "30") == ["opened for job"]


def test_a_gate_keeps_its_deadline_across_a_crash(file: Path) -> None:
    with Child(GATED, file, "1.5", "stay") as child:
        began = float(child.next().split()[-1])
        child.kill()
    kind, ended = ran(GATED, file, "1.5")[-1].split()
    assert kind == "bide.WaitTimeout"
    assert began + 1.5 - 0.1 <= float(ended) <= began + 2.2


def test_a_gate_that_opened_is_not_asked_again(file: Path) -> None:
    script = """
    def ready() -> bool:
        note("asked")
        return True

    @bide.task(gate=bide.until(ready, every=0.02))
    def gated() -> str:
        say("in body")
        if "stay" in words:
            stay()
        return "done"

    with bide.Runner(db) as runner:
        say(runner.run(bide.Workflow("w", [gated]), key="k")["gated"])
    """
    killed(script, file, "stay", at="in body")
    assert ran(script, file) == ["in body", "done"]
    assert file.with_suffix(".ledger").read_text() == "asked\n"


def test_a_condition_that_asks_for_the_value_of_its_gate_is_refused() -> None:
    def ready(value: Annotated[int, bide.Gate]) -> int:
        return value

    @bide.task(gate=bide.until(ready))
    def opened() -> None: ...

    with pytest.raises(bide.DefinitionError, match="gate of task 'opened': parameter 'value' of its condition takes"):
        bide.Workflow("w", [opened])


@dataclasses.dataclass
class Decision:
    by: str


@dataclasses.dataclass
class Other:
    amount: int


def test_a_signal_without_a_type_opens_a_gate_with_the_type_of_the_parameter(runner: bide.Runner) -> None:
    @bide.task(gate=bide.signal("decision"))
    def opened(decision: Annotated[Decision, bide.Gate]) -> str:
        return decision.by

    @bide.task(gate=bide.signal("decision"))
    def untyped(decision: Annotated[Any, bide.Gate]) -> str:
        return str(decision)

    for task, expected in ((opened, "me"), (untyped, "{'by': 'me'}")):
        run = runner.submit(bide.Workflow(expected, [task]))
        run.signal("decision", {"by": "me"})
        assert run.result(timeout=20)[task] == expected
    run = runner.submit(bide.Workflow("misfit", [opened]))
    run.signal("decision", {"amount": 7})
    with pytest.raises(bide.RunFailed, match="the signal 'decision': value does not fit"):
        run.result(timeout=20)


@pytest.mark.parametrize(
    ("declared", "annotated", "fits"),
    [
        (Decision, Decision, True),
        (Decision, Decision | None, True),
        (Decision, dict, True),
        (Decision, Any, True),
        (Decision, Other, False),
        (Decision, int, False),
        (bool, str, False),
        (list[int], list[str], True),
    ],
)
def test_the_type_of_a_gate_that_its_parameter_can_never_take_is_refused(
    declared: Any, annotated: Any, fits: bool
) -> None:
    def body(decision: Any) -> None: ...

    body.__annotations__["decision"] = Annotated[annotated, bide.Gate]
    gated = bide.task(body, gate=bide.signal("decision", declared))
    if fits:
        bide.Workflow("w", [gated])
        return
    with pytest.raises(bide.DefinitionError, match=r"is annotated .* but the signal 'decision' of its gate is"):
        bide.Workflow("w", [gated])
