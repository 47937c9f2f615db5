"""Child runs: committed with the record of their start, never started twice, awaited without a slot."""

import contextvars
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import bide
import bide.testing
from processes import Child, eventually, killed, ledger, ran

KINDS = ("memory", "sqlite", "postgres")


@bide.task
def inner(n: int = 1) -> int:
    return n + 1


INNER = bide.Workflow("inner", [inner])


@bide.task
def broken() -> None:
    raise ValueError("no such table")


BROKEN = bide.Workflow("broken", [broken])


def outer(body: Callable[..., object], name: str = "outer") -> bide.Workflow:
    return bide.Workflow(name, [bide.task(body, name="body")])


def held(hold: threading.Event) -> bide.Workflow:
    """Return a workflow whose body lasts until the event is set."""

    @bide.task(name="held")
    def waits() -> bool:
        return hold.wait(20)

    return bide.Workflow("slow", [waits])


def test_a_child_runs_and_its_result_comes_back(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> list[object]:
        child = handle.start(INNER, {"n": 4})
        result = handle.wait(child)
        return [result["inner"], result.id == child.id, result.parent == handle.run_id, handle.parent]

    done = runner.run(outer(body), timeout=20)
    assert done["body"] == [5, True, True, None]
    assert done.parent is None
    [child] = runner.runs(workflow="inner")
    assert (child.parent, child.key) == (done.id, None)


def test_a_child_has_the_tags_and_the_priority_of_its_parent_also_below_that(runner: bide.Runner) -> None:
    def calls(handle: bide.TaskHandle) -> int:
        return int(handle.run(INNER)["inner"])

    middle = outer(calls, "middle")

    def body(handle: bide.TaskHandle) -> int:
        return int(handle.run(middle)["body"])

    run = runner.submit(outer(body), tags={"customer": "7"}, start_after=0.01)
    run.result(20)
    found = runner.runs(tags={"customer": "7"})
    assert [one.workflow for one in found] == ["inner", "middle", "outer"]


def test_run_is_start_and_wait_in_one(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> list[int]:
        return [handle.run(INNER)["inner"], handle.run(INNER, {"n": 7}, key="k")["inner"]]

    assert runner.run(outer(body), timeout=20)["body"] == [2, 8]


def test_ten_levels_finish_on_one_slot(store: str) -> None:
    @bide.task
    def level(n: int, handle: bide.TaskHandle) -> int:
        return 1 if n == 1 else 1 + handle.run(levels, {"n": n - 1})["level"]

    levels = bide.Workflow("levels", [level])
    with bide.Runner(store, slots=1) as runner:
        assert runner.run(levels, {"n": 10}, timeout=30)["level"] == 10
        assert len(runner.runs()) == 10


def test_the_threads_of_ten_levels_are_used_again(store: str) -> None:
    @bide.task
    def level(n: int, handle: bide.TaskHandle) -> list[int]:
        below = handle.run(levels, {"n": n - 1})["level"] if n > 1 else []
        return [threading.get_native_id(), *below]

    levels = bide.Workflow("levels", [level])
    with bide.Runner(store, slots=1) as runner:
        first, second = (set(runner.run(levels, {"n": 10}, timeout=30)["level"]) for _ in range(2))
    assert len(first) == 10
    # A few may be new: on a busy machine a thread comes back late from its last body.
    assert len(second - first) <= 4


def test_a_workflow_that_starts_itself_without_end_is_told_the_chain(runner: bide.Runner) -> None:
    @bide.task
    def again(handle: bide.TaskHandle) -> str:
        try:
            return str(handle.run(endless)["again"])
        except bide.DefinitionError as error:
            return str(error)

    endless = bide.Workflow("endless", [again])

    def body(handle: bide.TaskHandle) -> str:
        return str(handle.run(endless)["again"])

    told = runner.run(outer(body), timeout=60)["body"]
    assert told.startswith("task 'again': more than 100 levels of child runs: 'outer' -> 'endless' (100 times)")
    assert len(runner.runs()) == 100


def test_a_failed_child_fails_its_wait(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> list[object]:
        child = handle.start(BROKEN)
        with pytest.raises(bide.RunFailed) as failed:
            handle.wait(child)
        return [failed.value.result.id == child.id, str(failed.value.__cause__)]

    assert runner.run(outer(body), timeout=20)["body"] == [True, "task 'broken': ValueError: no such table"]


def test_a_failure_that_nobody_catches_fails_the_parent(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> object:
        return handle.run(BROKEN)

    with pytest.raises(bide.RunFailed, match="of workflow 'broken' failed: task 'broken': ValueError: no such table"):
        runner.run(outer(body), timeout=20)


@pytest.mark.parametrize(("key", "named"), [("chapter 3", 'child broken "chapter 3": run '), (None, "run ")])
def test_the_failure_of_a_child_names_the_key_of_its_start(runner: bide.Runner, key: str | None, named: str) -> None:
    @bide.task
    def broken() -> None:
        raise ValueError("no such table")

    def body(handle: bide.TaskHandle) -> list[str]:
        child = handle.start(bide.Workflow("broken", [broken]), key=key)
        found = []
        for wait in (lambda: handle.wait(child), lambda: handle.wait_all(bide.after(0), child)):
            with pytest.raises(bide.RunFailed) as failed:
                wait()
            found.append(str(failed.value).replace(child.id, ""))
        return found

    expected = f"{named} of workflow 'broken' failed: task 'broken': ValueError: no such table"
    assert runner.run(outer(body), timeout=20)["body"] == [expected] * 2


def test_the_next_attempt_starts_another_child_in_place_of_one_that_failed(runner: bide.Runner) -> None:
    tries: list[int] = []

    @bide.task
    def flaky() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once")
        return len(tries)

    flaky_workflow = bide.Workflow("flaky", [flaky])

    @bide.task(retry=bide.Retry(2, delay=0.001))
    def body(handle: bide.TaskHandle) -> int:
        handle.run(INNER)
        return int(handle.run(flaky_workflow)["flaky"])

    assert runner.run(bide.Workflow("outer", [body]), timeout=20)["body"] == 2
    assert (len(runner.runs(workflow="flaky")), len(runner.runs(workflow="inner"))) == (2, 1)


def test_children_combine_with_each_other_and_with_other_waits(runner: bide.Runner) -> None:
    hold = threading.Event()
    slow = held(hold)

    def body(handle: bide.TaskHandle) -> list[object]:
        late = handle.start(slow)
        first = handle.wait_any(late, handle.start(INNER, {"n": 1}))
        named = handle.wait_any(child=late, poll=bide.after(0.001))
        hold.set()
        both = handle.wait_all(late, handle.start(INNER, {"n": 2}))
        try:
            handle.wait_any(handle.start(BROKEN), handle.start(BROKEN))
        except ExceptionGroup as group:
            kinds = [type(one).__name__ for one in group.exceptions]
        try:
            handle.wait_all(handle.start(INNER), handle.start(BROKEN))
        except bide.RunFailed as failed:
            kinds.append(str(failed.__cause__))
        won = [one and one.value["inner"] for one in first]
        return [won, named.name, [both[0]["held"], both[1]["inner"]], kinds]

    told = ["RunFailed", "RunFailed", "task 'broken': ValueError: no such table"]
    assert runner.run(outer(body), timeout=30)["body"] == [[None, 2], "poll", [True, 3], told]


def test_many_children_are_started_by_one_call(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> int:
        children = handle.start_many(INNER, [{"n": n} for n in range(300)], [f"k{n}" for n in range(300)])
        assert len({child.id for child in children}) == 300
        # A key that is given again is the same child.
        again = handle.start_many(INNER, [{"n": 0}] * 3, ["k7", "new", "new"])
        assert again[0].id == children[7].id
        assert again[1].id == again[2].id
        return sum(result["inner"] for result in handle.wait_all(*children))

    assert runner.run(outer(body), timeout=30)["body"] == sum(range(1, 301))
    assert len(runner.runs(workflow="inner")) == 301


@pytest.mark.parametrize("commits", [1, 2, 3, 4])
def test_a_crash_between_the_commits_of_many_children_loses_none_and_starts_none_twice(
    commits: int, tmp_path: Path
) -> None:
    def body(handle: bide.TaskHandle) -> int:
        return len(handle.wait_all(*handle.start_many(INNER, [{"n": n} for n in range(600)])))

    with bide.testing.Runner(tmp_path / "bide.db", auto_advance=True) as runner:
        runner.crash_after(commits=commits)
        with pytest.raises(bide.testing.Crashed):
            runner.run(outer(body), key="one")
        runner.restart()
        assert runner.run(outer(body), key="one")["body"] == 600
        inputs = sorted(run.inputs["n"] for run in runner.runs(workflow="inner", limit=1000))
        assert inputs == list(range(600))


def test_a_key_is_an_identity_within_the_parent_and_no_runs_key(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> list[bool]:
        first = handle.start(INNER, {"n": 1}, key="a")
        same = handle.start(INNER, {"n": 2}, key="a")
        return [first == same, first.id == handle.start(INNER, {"n": 1}).id]

    runs = [runner.run(outer(body), timeout=20) for _ in range(2)]
    assert [run["body"] for run in runs] == [[True, False]] * 2
    assert len(runner.runs(workflow="inner")) == 4
    with pytest.raises(KeyError):
        runner.get("a")


def test_a_child_is_a_value_that_another_body_of_the_run_can_wait_for(runner: bide.Runner) -> None:
    @bide.task
    def starts(handle: bide.TaskHandle) -> bide.ChildRun:
        return handle.start(INNER, {"n": 1})

    @bide.task
    def waits(starts: bide.ChildRun, handle: bide.TaskHandle) -> int:
        return int(handle.wait(starts)["inner"])

    assert runner.run(bide.Workflow("outer", [starts, waits]), timeout=20)["waits"] == 2


def test_a_child_that_a_checkpoint_has_forgotten_is_waited_for_by_its_id(runner: bide.Runner) -> None:
    @bide.task
    def one(n: int) -> int:
        return n

    child = bide.Workflow("child", [one])

    @bide.task
    def parent(handle: bide.TaskHandle) -> list[int]:
        children = [handle.start(child, {"n": n}) for n in range(3)]
        handle.checkpoint(1)
        first = handle.wait(children[0])
        handle.checkpoint(2)
        return [ended[one] for ended in (first, *handle.wait_all(*children))]

    assert runner.run(bide.Workflow("parent", [parent]), timeout=20)[parent] == [0, 0, 1, 2]


def test_a_run_that_is_no_child_is_not_waited_for(runner: bide.Runner) -> None:
    stranger = runner.run(INNER, timeout=20)

    def body(handle: bide.TaskHandle) -> str:
        try:
            handle.wait(bide.ChildRun(stranger.id, "inner", "child inner"))
        except bide.DefinitionError as error:
            return str(error)
        return ""

    told = runner.run(outer(body), timeout=20)["body"]
    assert f"waits for run {stranger.id}, which is no child of its run" in told


def test_bad_arguments_are_refused_and_nothing_is_started(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> list[str]:
        told = []
        for start in (
            lambda: handle.start(inner),  # type: ignore[arg-type]
            lambda: handle.start(INNER, {"m": 1}),
            lambda: handle.start(INNER, {"n": "x"}),
            lambda: handle.start(INNER, key=7),  # type: ignore[arg-type]
            lambda: handle.start_many(INNER, 7),  # type: ignore[arg-type]
            lambda: handle.start_many(INNER, [None], ["a", "b"]),
        ):
            with pytest.raises(bide.BideError) as refused:
                start()
            told.append(str(refused.value))
        return told

    told = runner.run(outer(body), timeout=20)["body"]
    assert "handle.start takes a bide.Workflow" in told[0]
    assert "nothing takes the input 'm'" in told[1]
    assert "parameter 'n' does not fit int" in told[2]
    assert "handle.start: key" in told[3]
    assert told[4:] == [
        "handle.start_many takes a list of inputs, not 7",
        "handle.start_many got 1 inputs and 2 keys: give one key for each",
    ]
    assert runner.runs(workflow="inner") == []


def test_a_child_is_not_started_within_a_step(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> object:
        return handle.step(lambda: handle.start(INNER), name="step")

    with pytest.raises(bide.RunFailed, match="the start of the child run 'inner' inside the step 'step'"):
        runner.run(outer(body), timeout=20)


def test_bodies_of_a_child_see_the_contextvars_of_its_parent(runner: bide.Runner) -> None:
    tenant = contextvars.ContextVar("tenant", default="none")

    def reads() -> str:
        return tenant.get()

    def body(handle: bide.TaskHandle) -> str:
        tenant.set("seven")
        return str(handle.run(bide.Workflow("reads", [bide.task(reads)]))["reads"])

    assert runner.run(outer(body), timeout=20)["body"] == "seven"


def test_children_are_kept_and_deleted_with_their_parent(runner: bide.Runner) -> None:
    def middle(handle: bide.TaskHandle) -> None:
        handle.run(INNER)

    def body(handle: bide.TaskHandle) -> None:
        handle.run(INNER)
        handle.run(outer(middle, "middle"))

    parent = runner.run(outer(body), timeout=20)
    child = next(run for run in runner.runs(workflow="inner") if run.parent == parent.id)
    with pytest.raises(bide.BideError, match=f"run {child.id} is kept as long as run {parent.id}, which has started"):
        runner.delete(child.id)
    assert len(runner.runs()) == 4
    runner.delete(parent.id)
    assert runner.runs() == []


def test_a_parent_is_not_deleted_before_its_children_have_ended(runner: bide.Runner) -> None:
    hold = threading.Event()
    slow = held(hold)

    def body(handle: bide.TaskHandle) -> None:
        handle.start(slow)

    parent = runner.run(outer(body), timeout=20)
    with pytest.raises(bide.BideError, match="not all of the child runs that it has started"):
        runner.delete(parent.id)
    hold.set()
    eventually(lambda: runner.runs(workflow="slow")[0].ended_at, "the child ends")
    runner.delete(parent.id)
    assert runner.runs() == []


def test_a_wait_for_a_child_times_out_and_the_child_continues(runner: bide.Runner) -> None:
    hold = threading.Event()
    slow = held(hold)

    def body(handle: bide.TaskHandle) -> bool:
        child = handle.start(slow)
        with pytest.raises(bide.WaitTimeout):
            handle.wait(child, timeout=0.01)
        hold.set()
        return bool(handle.wait(child)["held"])

    assert runner.run(outer(body), timeout=20)["body"]


PARENT = """
@bide.task
def inner(n: int) -> int:
    note("inner", n)
    if "inner" in words:
        say("inner")
        stay()
    return n + 1

inner_workflow = bide.Workflow("inner", [inner])

@bide.task
def body(handle: bide.TaskHandle) -> list[int]:
    children = [handle.start(inner_workflow, {"n": n}, key=f"{n}") for n in range(3)]
    say("started", *[child.id for child in children])
    if "started" in words:
        stay()
    results = [handle.wait(child)["inner"] for child in reversed(children)]
    if "waited" in words:
        say("waited")
        stay()
    return results

outer = bide.Workflow("outer", [body])
runner = bide.Runner(db, slots=2)
run = runner.submit(outer, key="k")
say("ended", run.result(timeout=30)["body"], len(runner.runs(workflow="inner")))
"""


@pytest.mark.parametrize("at", ["started", "inner", "waited"])
def test_a_child_is_found_again_after_a_kill_and_never_started_twice(file: Path, at: str) -> None:
    with Child(PARENT, file, at) as first:
        ids = first.after("started")
        if at != "started":
            first.expect(at)
        first.kill()
    said = ran(PARENT, file)
    assert said[-1] == "ended [3, 2, 1] 3"
    assert f"started {ids}" in said
    executed = Counter(ledger(file))
    assert set(executed) == {f"inner {n}" for n in range(3)}
    # A child that executes when the process is killed is entered again; one that has ended is not.
    assert max(executed.values()) <= (1 if at == "waited" else 2)


MISMATCH = """
@bide.task
def inner(n: int) -> int:
    return n

@bide.task
def body(handle: bide.TaskHandle) -> None:
    handle.run(bide.Workflow("inner", [inner]), {"n": int(words[0])})
    say("ran")
    if words[1:]:
        stay()

runner = bide.Runner(db)
try:
    runner.run(bide.Workflow("outer", [body]), key="k", timeout=30)
except bide.ReplayMismatch as error:
    say("mismatch", error)
"""


def test_other_inputs_than_recorded_are_a_mismatch_that_says_what_to_do(file: Path) -> None:
    killed(MISMATCH, file, "1", "stay", at="ran")
    [told] = ran(MISMATCH, file, "2")
    assert "child run 'inner' (use 1) was started with other inputs: n=1 was recorded, and now it is n=2" in told
    assert "give each child a key" in told


WORKER = """
@bide.task
def inner(n: int) -> int:
    note("inner", os.getpid())
    return n + 1

inner_workflow = bide.Workflow("inner", [inner])
"""

OWNER = """
def inner(handle: bide.TaskHandle) -> int:
    note("inner")
    handle.defer_until(lambda: Path(db + ".go").exists(), 5)
    return os.getpid()

inner_workflow = bide.Workflow("inner", [inner])

@bide.task
def body(handle: bide.TaskHandle) -> int:
    note("body")
    return handle.wait(handle.start(inner_workflow))["inner"]

workflows = [inner_workflow, bide.Workflow("outer", [body])]
with bide.Runner(db, workflows=[one for one in workflows if one.name in words]) as runner:
    if "submit" in words:
        runner.submit(workflows[1], key="k")
    wanted = {"body", "inner"} if "submit" in words else {"body"} if "outer" in words else {"inner"}
    def deferred():
        return {name for run in runner.runs() for name, task in run.tasks.items() if task.sub_status == "Deferred"}
    while not wanted <= deferred():
        time.sleep(0.005)
    say("deferred")
    stay()
"""


def test_a_child_that_another_process_executes_resumes_its_parent(file: Path) -> None:
    killed(OWNER, file, "inner", "outer", "submit", at="deferred")

    @bide.task(name="inner")
    def stub() -> int:
        raise AssertionError("the other process has the child")

    @bide.task
    def body(handle: bide.TaskHandle) -> int:
        with file.with_suffix(".ledger").open("a") as lines:
            lines.write("body again\n")
        return int(handle.wait(handle.start(bide.Workflow("inner", [stub])))["inner"])

    with Child(OWNER, file, "inner") as other:
        other.expect("deferred")
        with bide.Runner(file, workflows=[bide.Workflow("outer", [body])]) as runner:
            assert runner.get("k").tasks["body"].blocked_by == "waits for child inner"
            Path(f"{file}.go").touch()
            eventually(lambda: runner.get("k").ended_at, "the parent sees the end of its child")
            assert runner.get("k")["body"] == other.pid
        other.kill()
    # The parent was entered only when its child had ended.
    assert ledger(file) == ["body", "inner", "inner", "body again"]


def test_after_a_restart_the_parent_registers_the_workflow_of_its_child(file: Path) -> None:
    killed(OWNER, file, "inner", "outer", "submit", at="deferred")
    Path(f"{file}.go").touch()
    with Child(OWNER, file, "outer") as other, bide.Runner(file) as runner:
        eventually(lambda: runner.get("k").ended_at, "the parent ends, with a runner that knows only its workflow")
        assert runner.get("k")["body"] == other.pid
        assert len(runner.runs()) == 2
