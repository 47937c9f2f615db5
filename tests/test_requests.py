"""Requests: a message with an answer, which the body that takes it gives once, also across a crash."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
from processes import Child, eventually, ledger

KINDS = ("memory", "sqlite", "postgres")


@dataclass
class Order:
    item: str
    count: int


quote = bide.request("quote", Order, int)

Body = Callable[[bide.TaskHandle], Any]


def asked(runner: bide.Runner, run: bide.RunHandle, *args: Any, **kwargs: Any) -> "Future[Any]":
    """A request, sent by a thread that waits for the answer."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(runner.request, run, *args, **kwargs)
    pool.shutdown(wait=False)
    return future


def answers(handle: bide.TaskHandle) -> int:
    received = handle.wait(quote)
    received.reply(received.value.count * 10)
    return received.value.count


def submit(runner: bide.Runner, body: Body, **settings: Any) -> bide.RunHandle:
    task = bide.task(name="answers", **settings)(body)
    return runner.submit(bide.Workflow("desk", [task]))


def test_a_request_returns_the_answer_of_the_body_that_takes_it(runner: bide.Runner) -> None:
    run = submit(runner, answers)
    assert run.request(quote, Order("nuts", 7), timeout=20) == 70
    assert run.result(timeout=20)["answers"] == 7


def test_requests_are_answered_in_any_order_and_by_name(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        first, second = handle.wait_all(quote, quote)
        second.reply(second.value.count)
        first.reply(first.value.count)

    run = submit(runner, body)
    futures = [asked(runner, run, "quote", {"item": "nuts", "count": count}, timeout=20) for count in (1, 2)]
    assert [future.result(20) for future in futures] == [1, 2]


def test_a_gate_takes_a_request_and_its_body_answers_without_a_handle(runner: bide.Runner) -> None:
    @bide.task(gate=quote)
    def answers(received: Annotated[bide.Received[Order, int], bide.Gate]) -> str:
        received.reply(received.value.count)
        return received.value.item

    run = runner.submit(bide.Workflow("w", [answers]))
    assert runner.request(run, quote, Order("nuts", 7), timeout=20) == 7
    assert run.result(timeout=20)["answers"] == "nuts"


def test_a_request_is_one_of_several_waits(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> str:
        first = handle.wait_any(stop=bide.signal("stop"), quote=quote)
        first.value.reply(1)
        return first.name

    run = submit(runner, body)
    assert run.request(quote, Order("nuts", 7), timeout=20) == 1
    assert run.result(timeout=20)["answers"] == "quote"


def test_a_refused_request_raises_the_reason_at_its_sender(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        handle.wait(quote).refuse("sold out,\nsorry")

    run = submit(runner, body)
    with pytest.raises(bide.RequestRefused) as caught:
        run.request(quote, Order("nuts", 7), timeout=20)
    assert caught.value.reason == "sold out,\nsorry"
    run.result(timeout=20)


def test_a_request_that_is_not_answered_is_refused_when_its_task_ends(runner: bide.Runner) -> None:
    def forgets(handle: bide.TaskHandle) -> None:
        handle.wait(quote)

    def raises(handle: bide.TaskHandle) -> None:
        handle.wait(quote)
        raise ValueError

    for body in (forgets, raises):
        run = submit(runner, body)
        with pytest.raises(bide.RequestRefused, match="task 'answers' has ended without having answered it"):
            run.request(quote, Order("nuts", 7), timeout=20)


def test_a_request_that_no_task_takes_is_refused_when_the_run_ends(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        handle.wait_for("stop")

    run = submit(runner, body)
    future = asked(runner, run, quote, Order("nuts", 7), timeout=20)
    eventually(lambda: runner._core.pending_requests(), "it is sent")
    run.signal("stop")
    with pytest.raises(bide.RequestRefused, match=r"has ended \(Completed\), and no task has taken it"):
        future.result(20)
    with pytest.raises(bide.SignalRejected, match=rf"the request 'quote' was not sent: run {run.id} has ended"):
        run.request(quote, Order("nuts", 7))


def test_a_request_that_times_out_is_withdrawn(runner: bide.Runner) -> None:
    go = threading.Event()

    def body(handle: bide.TaskHandle) -> int:
        go.wait(20)
        return answers(handle)

    run = submit(runner, body)
    with pytest.raises(TimeoutError, match=r"the request 'quote' to run .* was not answered within 0.0 s; it is"):
        run.request(quote, Order("nuts", 1), timeout=0, id="x")
    go.set()
    assert run.request(quote, Order("nuts", 2), timeout=20, id="x") == 20, "its id is free again"
    assert run.result(timeout=20)["answers"] == 2


def test_a_request_that_times_out_after_it_was_taken_is_answered_all_the_same(runner: bide.Runner) -> None:
    go = threading.Event()

    def body(handle: bide.TaskHandle) -> int:
        received = handle.wait(quote)
        go.wait(20)
        received.reply(received.value.count)
        return received.value.count

    run = submit(runner, body)
    eventually(lambda: runner.get(run.id).tasks["answers"].sub_status == "Deferred", "it waits")
    with pytest.raises(TimeoutError):
        run.request(quote, Order("nuts", 7), timeout=0)
    go.set()
    assert run.result(timeout=20)["answers"] == 7


def test_the_same_id_waits_for_the_answer_to_the_same_request(runner: bide.Runner) -> None:
    run = submit(runner, lambda handle: [answers(handle), handle.wait_for("stop")])
    futures = [asked(runner, run, quote, Order("nuts", 7), timeout=20, id="x") for _ in range(3)]
    assert [future.result(20) for future in futures] == [70] * 3
    assert run.request(quote, Order("nuts", 7), timeout=20, id="x") == 70
    run.signal("stop", id="y")
    with pytest.raises(bide.SignalRejected, match=r"another message to run .* has the id 'y'|has ended"):
        run.request(quote, Order("nuts", 7), timeout=20, id="y")
    run.result(timeout=20)


def test_a_request_is_answered_once(runner: bide.Runner) -> None:
    errors: list[str] = []

    def body(handle: bide.TaskHandle) -> None:
        received = handle.wait(quote)
        with pytest.raises(bide.SerializationError):
            received.reply("many")  # type: ignore[arg-type]
        received.reply(1)
        with pytest.raises(bide.DefinitionError) as caught:
            received.reply(2)
        errors.append(str(caught.value))
        with pytest.raises(bide.DefinitionError) as caught:
            received.refuse("no")
        errors.append(str(caught.value))

    run = submit(runner, body)
    assert run.request(quote, Order("nuts", 7), timeout=20) == 1
    run.result(timeout=20)
    assert all("the request was answered before, and has one answer" in error for error in errors)


def test_a_value_that_does_not_fit_is_refused(runner: bide.Runner) -> None:
    run = submit(runner, answers, retry=bide.Retry(attempts=1))
    with pytest.raises(bide.SerializationError, match="the request 'quote'"):
        run.request(quote, "nuts")  # type: ignore[misc]
    with pytest.raises(bide.RequestRefused, match="the request 'quote'"):
        run.request("quote", "nuts", timeout=20)
    with pytest.raises(bide.RunFailed):
        run.result(timeout=20)


def test_an_answer_without_a_type_is_encoded_by_its_class_and_a_value_is_not(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> None:
        for _ in range(2):
            handle.wait(bide.request("quote", Order)).reply(Order("nuts", 7))

    run = submit(runner, body)
    with pytest.raises(bide.SerializationError) as caught:
        run.request("quote", Order("nuts", 1), timeout=20)
    assert str(caught.value).endswith(
        "; give the request its types by bide.request('quote', type, answer), or convert it"
    )
    assert run.request(bide.request("quote", Order, Order), Order("nuts", 1), timeout=20) == Order("nuts", 7)
    assert run.request("quote", {"item": "nuts", "count": 1}, timeout=20) == {"item": "nuts", "count": 7}


def test_what_a_workflow_declares_decides_what_is_a_request(runner: bide.Runner) -> None:
    task = bide.task(answers)
    run = runner.submit(bide.Workflow("w", [task], signals=[quote, "stop"]))
    with pytest.raises(bide.DefinitionError, match="'quote' is a request, whose sender waits for an answer"):
        run.signal("quote", Order("nuts", 7))
    with pytest.raises(bide.DefinitionError, match="'stop' is a signal, which has no answer"):
        run.request("stop")
    with pytest.raises(bide.SignalRejected, match=r"the request 'other' was not sent: .* does not declare it"):
        run.request("other")
    with pytest.raises(KeyError, match="nobody"):
        runner.request("nobody", quote, Order("nuts", 7))
    assert run.request("quote", Order("nuts", 7), timeout=20) == 70


def test_a_gate_whose_request_nobody_receives_is_refused() -> None:
    @bide.task(gate=bide.any_of(quote, bide.after(1)))
    def body() -> None: ...

    with pytest.raises(bide.DefinitionError, match="its gate takes a request, and no parameter receives it"):
        bide.Workflow("w", [body])


def test_a_body_must_not_wait_for_an_answer_and_is_told_what_to_do(runner: bide.Runner) -> None:
    def body(handle: bide.TaskHandle) -> int:
        with pytest.raises(bide.DefinitionError) as caught:
            runner.request(handle.run_id, quote, Order("nuts", 7))
        assert "make a callback" in str(caught.value)
        callback = handle.callback("answer", int)
        runner.signal(handle.run_id, "ask", callback.token)
        return handle.wait(callback)

    @bide.task
    def other(handle: bide.TaskHandle) -> None:
        runner.resolve(handle.wait_for("ask", str), 7)

    task = bide.task(name="answers")(body)
    assert runner.run(bide.Workflow("w", [task, other]), timeout=20)["answers"] == 7


def test_a_runner_that_closes_ends_the_wait_for_an_answer(store: str) -> None:
    runner = bide.Runner(store)
    run = submit(runner, lambda handle: handle.wait_for("stop"))
    future = asked(runner, run, quote, Order("nuts", 7))
    eventually(lambda: runner._core.pending_requests(), "it is sent")
    runner.close()
    with pytest.raises(bide.RunnerClosed):
        future.result(20)


ANSWERS = """
quote = bide.request("quote", int, int)

@bide.task
def answers(handle: bide.TaskHandle) -> int:
    say("waits")
    received = handle.wait(quote)
    note("taken", received.value)
    if "taken" in words:
        die()
    received.reply(received.value * 10)
    note("answered")
    if "answered" in words:
        die()
    return received.value

with bide.Runner(db) as runner:
    say("result", runner.run(bide.Workflow("w", [answers]), key="run")["answers"])
"""


def test_a_request_from_another_process_is_answered(file: Path) -> None:
    with Child(ANSWERS, file) as owner:
        owner.expect("waits")
        with bide.Runner(file) as runner:
            assert runner.request("run", "quote", 7, timeout=20) == 70
            eventually(lambda: runner.get("run").ended_at is not None, "the run ends")
            assert runner._core.pending_requests() == 0
        assert owner.after("result") == "7"


@pytest.mark.parametrize("at", ["taken", "answered"])
def test_a_crash_between_taking_and_answering_loses_neither(file: Path, at: str) -> None:
    with Child(ANSWERS, file, at) as first:
        first.expect("waits")
        with bide.Runner(file) as runner:
            future = asked(runner, "run", "quote", 7, timeout=30)  # type: ignore[arg-type]
            eventually(lambda: any(line.startswith(at) for line in ledger(file)), "the process dies")
            with Child(ANSWERS, file) as second:
                assert second.after("result") == "7"
            assert future.result(30) == 70
    lines = ledger(file)
    assert [lines.count("taken 7"), lines.count("answered")] == [2, 1 if at == "taken" else 2]


def test_a_request_to_another_process_that_times_out_is_withdrawn(file: Path) -> None:
    with Child(ANSWERS, file) as first:
        first.expect("waits")
        first.kill()
    with bide.Runner(file) as runner:
        with pytest.raises(TimeoutError):
            runner.request("run", "quote", 1, timeout=0)
        with Child(ANSWERS, file) as owner:
            assert runner.request("run", "quote", 2, timeout=20) == 20
            assert owner.after("result") == "2"
