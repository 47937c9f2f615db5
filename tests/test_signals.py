"""Signals: sent before or after their wait, from this process or another one, each is consumed by one wait."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from processes import Child, eventually, ran

KINDS = ("memory", "sqlite", "postgres")


@dataclass
class Decision:
    by: str
    ok: bool


decision = bide.signal("decision", Decision)


def waiter(count: int = 1) -> bide.Workflow:
    @bide.task
    def waits(handle: bide.TaskHandle) -> list[Decision]:
        return [handle.wait(decision) for _ in range(count)]

    return bide.Workflow("waiter", [waits])


def deferred(runner: bide.Runner, run: bide.RunHandle, task: str = "waits") -> None:
    eventually(lambda: runner.get(run.id).tasks[task].sub_status == "Deferred", f"{task} waits")


def test_a_signal_resumes_the_body_that_waits_for_it(runner: bide.Runner) -> None:
    run = runner.submit(waiter())
    deferred(runner, run)
    assert "waits for decision" in str(runner.get(run.id).tasks["waits"].blocked_by)
    runner.signal(run, decision, Decision("ada", ok=True))
    assert run.result(timeout=20)["waits"] == [Decision("ada", ok=True)]


def test_signals_before_their_waits_are_queued_in_order(runner: bide.Runner) -> None:
    started = threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> list[int]:
        started.wait(20)
        return [handle.wait_for("n", int) for _ in range(5)]

    run = runner.submit(bide.Workflow("w", [waits]))
    for n in range(3):
        run.signal("n", n)
    runner.signal_many([(run, "n", n) for n in range(3, 5)])
    started.set()
    assert run.result(timeout=20)["waits"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("one", [("run", "n"), ("run", "n", 1, "id", 2), 3])
def test_one_of_many_signals_of_the_wrong_form_is_refused_by_its_place(runner: bide.Runner, one: Any) -> None:
    run = runner.submit(waiter())
    with pytest.raises(bide.DefinitionError, match=r"signals\[1\] must be \(run, signal, value\) or"):
        runner.signal_many([(run, "n", 1), one])


def test_of_many_signals_those_to_other_runs_are_sent_though_one_is_refused(runner: bide.Runner) -> None:
    runs = [runner.submit(waiter()) for _ in range(3)]
    runs[1].signal(decision, Decision("ada", ok=True))
    runs[1].result(timeout=20)
    with pytest.raises(bide.SignalRejected, match=rf"run {runs[1].id} has ended"):
        runner.signal_many([(run, decision, Decision("bob", ok=True)) for run in runs])
    assert [runs[at].result(timeout=20)["waits"] for at in (0, 2)] == [[Decision("bob", ok=True)]] * 2


def test_of_many_signals_none_is_sent_if_one_value_is_refused(runner: bide.Runner) -> None:
    run = runner.submit(waiter())
    with pytest.raises(bide.SerializationError, match="the signal 'decision'"):
        runner.signal_many([(run, decision, Decision("ada", ok=True)), (run, decision, 3)])
    runner.signal(run, decision, Decision("bob", ok=True))
    assert run.result(timeout=20)["waits"] == [Decision("bob", ok=True)]


def test_the_oldest_wait_of_all_tasks_gets_the_oldest_signal(runner: bide.Runner) -> None:
    turns = [threading.Event() for _ in range(3)]

    def waits(at: int) -> Callable[..., Any]:
        def body(handle: bide.TaskHandle) -> int:
            assert turns[at].wait(20)
            return handle.wait_for("n", int)

        return bide.task(body, name=f"waits {at}")

    run = runner.submit(bide.Workflow("w", [waits(at) for at in range(3)]))
    for at in (2, 0, 1):
        turns[at].set()
        deferred(runner, run, f"waits {at}")
    for n in range(3):
        run.signal("n", n)
    assert run.result(timeout=20).outputs == {"waits 2": 0, "waits 0": 1, "waits 1": 2}


def test_one_id_is_one_signal(runner: bide.Runner) -> None:
    run = runner.submit(waiter(2))
    first, second = Decision("ada", ok=True), Decision("bob", ok=False)
    for _ in range(3):
        runner.signal(run, decision, first, id="click 1")
    runner.signal(run, decision, second, id="click 2")
    assert run.result(timeout=20)["waits"] == [first, second]


def test_each_signal_opens_one_gate_and_its_value_reaches_the_body(runner: bide.Runner) -> None:
    @bide.task(gate=decision)
    def publish(decided: Annotated[Decision, bide.Gate]) -> str:
        return decided.by

    @bide.task(gate=bide.signal("note"))
    def note(text: Annotated[str, bide.Gate]) -> str:
        return text

    run = runner.submit(bide.Workflow("w", [publish, note]))
    run.signal("note", "hello")
    run.signal(decision, Decision("ada", ok=True))
    assert run.result(timeout=20).outputs == {"publish": "ada", "note": "hello"}


def test_a_wait_for_a_signal_times_out_and_the_signal_then_stays(runner: bide.Runner) -> None:
    late = threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        try:
            handle.wait_for("go", timeout=0.05)
        except bide.WaitTimeout as error:
            late.set()
            return f"{error}; then {handle.wait_for('go', int)}"
        return "too early"

    run = runner.submit(bide.Workflow("w", [waits]))
    assert late.wait(20)
    run.signal("go", 7)
    text = run.result(timeout=20)["waits"]
    assert text == "task 'waits' waited for 'go' until its deadline passed; then 7"


@pytest.mark.parametrize("named", [False, True])
def test_a_value_that_does_not_fit_its_signal_is_refused_when_it_is_sent(runner: bide.Runner, named: bool) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> bool:
        return handle.wait(decision).ok

    run = runner.submit(bide.Workflow("w", [waits], signals=[decision]))
    with pytest.raises(bide.SerializationError, match="the signal 'decision'"):
        runner.signal(run, "decision" if named else decision, 3)
    run.signal(decision, Decision("ada", ok=True))
    assert run.result(timeout=20)["waits"]


def test_a_value_of_a_class_for_a_signal_without_a_type_is_refused_with_a_remedy(runner: bide.Runner) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        return handle.wait_for("decision", Decision).by

    run = runner.submit(bide.Workflow("w", [waits]))
    with pytest.raises(bide.SerializationError) as caught:
        run.signal("decision", Decision("me", ok=True))
    assert str(caught.value).endswith("; give the signal a type by bide.signal('decision', type), or convert it")
    run.signal(bide.signal("decision", Decision), Decision("me", ok=True))
    assert run.result(timeout=20)["waits"] == "me"


def test_a_value_that_does_not_fit_its_wait_fails_it_and_is_consumed(runner: bide.Runner) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> str:
        try:
            handle.wait(decision)
        except bide.SerializationError as error:
            return f"{error}"[:21] + handle.wait(decision).by
        return "accepted"

    run = runner.submit(bide.Workflow("w", [waits]))
    run.signal("decision", "yes")
    run.signal("decision", {"by": "ada", "ok": True})
    assert run.result(timeout=20)["waits"] == "the signal 'decision'ada"


def test_a_signal_that_the_workflow_does_not_declare_is_refused(runner: bide.Runner) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> bool:
        return handle.wait(decision).ok

    run = runner.submit(bide.Workflow("w", [waits], signals=[decision, "stop"]))
    with pytest.raises(bide.SignalRejected, match=r"does not declare it \(signals: 'decision', 'stop'\)"):
        run.signal("decison", True)
    run.signal(decision, Decision("ada", ok=True))
    run.result(timeout=20)


UNDECLARED: dict[str, Callable[[bide.TaskHandle], Any]] = {
    "signal": lambda handle: handle.wait_for("og"),
    "member": lambda handle: handle.wait(bide.any_of(bide.signal("go"), bide.all_of(bide.signal("og")))),
    "request": lambda handle: handle.wait(bide.request("og", int, int)),
}


@pytest.mark.parametrize("kind", UNDECLARED)
def test_a_wait_for_a_signal_that_is_not_declared_is_refused(runner: bide.Runner, kind: str) -> None:
    def body(handle: bide.TaskHandle) -> None:
        UNDECLARED[kind](handle)

    name = "request" if kind == "request" else "signal"
    message = rf"waits for the {name} 'og', which the workflow does not name in signals; did you mean 'go'\?"
    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [body], signals=["go"]), timeout=20)
    error = failed.value.errors["body"]
    assert isinstance(error, bide.TaskFailed)
    assert error.type == "bide.DefinitionError"
    assert re.search(f"task 'body' {message}", str(error))


GATES: dict[str, tuple[bide.Wait[Any], str]] = {
    "signal": (bide.signal("og"), "signal"),
    "member": (bide.any_of(bide.after(60), bide.all_of(bide.signal("og"))), "signal"),
}


@pytest.mark.parametrize("kind", GATES)
def test_a_gate_for_a_signal_that_is_not_declared_is_refused(kind: str) -> None:
    gate, name = GATES[kind]

    @bide.task(gate=gate)
    def body() -> None: ...

    message = f"workflow 'w': task 'body': its gate waits for the {name} 'og', which the workflow does not name"
    with pytest.raises(bide.DefinitionError, match=message):
        bide.Workflow("w", [body], signals=["go"])
    bide.Workflow("w", [body])


def test_a_signal_to_an_ended_or_unknown_run_is_refused(runner: bide.Runner) -> None:
    run = runner.submit(waiter())
    run.signal(decision, Decision("ada", ok=True))
    run.result(timeout=20)
    with pytest.raises(bide.SignalRejected, match=rf"run {run.id} has ended \(Completed\)"):
        run.signal(decision, Decision("ada", ok=True))
    with pytest.raises(KeyError, match="no run has the id or key 'nobody'"):
        runner.signal("nobody", decision, Decision("ada", ok=True))


def test_bad_signals_are_named() -> None:
    with pytest.raises(bide.DefinitionError, match="signal: name"):
        bide.signal("")
    with pytest.raises(bide.DefinitionError, match="signals has 'a' twice"):
        bide.Workflow("w", [], signals=["a", bide.signal("a")])

    def body(value: Annotated[int, bide.Gate]) -> int:
        return value

    with pytest.raises(bide.DefinitionError, match="the task has none: give it one with gate="):
        bide.Workflow("w", [body])


OWNER = """
@bide.task
def waits(handle: bide.TaskHandle) -> list:
    return [handle.wait_for("n", int) for _ in range(3)]

@bide.task(gate=bide.signal("go"))
def gated(value: Annotated[int, bide.Gate]) -> int:
    return value

runner = bide.Runner(db)
run = runner.submit(bide.Workflow("w", [waits, gated]), key="run")
say("submitted")
say("outputs", run.result(timeout=30).outputs)
"""


def test_signals_from_another_process_reach_the_run_in_order(file: Path) -> None:
    with Child("from typing import Annotated\n" + OWNER, file) as owner:
        owner.expect("submitted")
        with bide.Runner(file) as runner:
            for n in range(3):
                runner.signal("run", "n", n, id=f"n {n}")
                runner.signal("run", "n", n, id=f"n {n}")
            runner.signal("run", "go", 5)
        assert owner.after("outputs") == "{'waits': [0, 1, 2], 'gated': 5}"


SENDS = """
if words[0] == "owner":
    @bide.task
    def waits(handle: bide.TaskHandle) -> list:
        stay()

    runner = bide.Runner(db)
    runner.submit(bide.Workflow("w", [waits]), key="run")
else:
    runner = bide.Runner(db)
for n in range(3):
    runner.signal("run", "n", n)
runner.signal_many([("run", "n", n) for n in range(3, 5)])
die()
"""


@pytest.mark.parametrize("sender", ["owner", "other"])
def test_a_signal_is_there_if_its_sender_is_killed_once_it_is_sent(file: Path, sender: str) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> list[int]:
        return [handle.wait_for("n", int) for _ in range(5)]

    workflow = bide.Workflow("w", [waits])
    if sender == "other":
        with bide.Runner(file) as runner:
            deferred(runner, runner.submit(workflow, key="run"))
    ran(SENDS, file, sender, code=-9)
    with bide.Runner(file, workflows=[workflow]) as runner:
        assert runner.submit(workflow, key="run").result(timeout=20)["waits"] == [0, 1, 2, 3, 4]


def test_what_a_workflow_declares_is_known_to_those_who_do_not_have_it(file: Path) -> None:
    @bide.task
    def waits(handle: bide.TaskHandle) -> bool:
        return handle.wait(decision).ok

    workflow = bide.Workflow("w", [waits], signals=[decision])
    with bide.Runner(file) as runner:
        deferred(runner, runner.submit(workflow, key="run"))
    with bide.Client(file) as client:
        with pytest.raises(bide.SignalRejected, match=r"does not declare it \(signals: 'decision'\)"):
            client.signal("run", "decison", {"by": "ada", "ok": True})
        client.signal("run", "decision", {"by": "ada", "ok": True})
    with bide.Runner(file, workflows=[workflow]) as runner:
        assert runner.submit(workflow, key="run").result(timeout=20)["waits"]


def test_a_signal_sent_while_nobody_executes_the_run_is_kept(file: Path) -> None:
    workflow = waiter()
    with bide.Runner(file) as runner:
        run = runner.submit(workflow, key="run")
        deferred(runner, run)
    with bide.Runner(file) as other:
        other.signal("run", "decision", {"by": "ada", "ok": True})
        assert other.get("run").status == "Running"
    with bide.Runner(file, workflows=[workflow]) as runner:
        assert runner.submit(workflow, key="run").result(timeout=20)["waits"] == [Decision("ada", ok=True)]
