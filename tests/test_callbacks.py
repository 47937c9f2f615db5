"""Callbacks: a token for the outside, whose holder answers once, from anywhere; the answer survives every crash."""

import base64
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import Child, eventually, ledger

KINDS = ("memory", "sqlite", "postgres")


@dataclass
class Payment:
    amount: int


class Desk:
    """A run that waits for a callback, and the token that its body has handed out."""

    def __init__(self, runner: bide.Runner, count: int = 1) -> None:
        tokens: list[str] = []
        made = threading.Event()

        @bide.task
        def waits(handle: bide.TaskHandle) -> list[Payment]:
            callback = handle.callback("paid", Payment)
            tokens.append(callback.token)
            made.set()
            return [handle.wait(callback) for _ in range(count)]

        self.runner = runner
        self.run = runner.submit(bide.Workflow("desk", [waits]))
        assert made.wait(20)
        self.token = tokens[0]

    def deferred(self) -> "Desk":
        eventually(lambda: self.runner.get(self.run.id).tasks["waits"].sub_status == "Deferred", "it waits")
        return self


def test_an_answer_resumes_the_body_that_waits_for_it(runner: bide.Runner) -> None:
    desk = Desk(runner).deferred()
    assert "waits for paid" in str(runner.get(desk.run.id).tasks["waits"].blocked_by)
    runner.resolve(desk.token, {"amount": 7})
    assert desk.run.result(timeout=20)["waits"] == [Payment(7)]


def test_an_answer_is_kept_for_every_wait_for_its_callback(runner: bide.Runner) -> None:
    desk = Desk(runner, count=3)
    runner.resolve(desk.token, {"amount": 7})
    assert desk.run.result(timeout=20)["waits"] == [Payment(7)] * 3


def test_a_callback_is_one_of_several_waits(runner: bide.Runner) -> None:
    tokens: list[str] = []

    @bide.task
    def waits(handle: bide.TaskHandle) -> tuple[str, int, int, str]:
        paid, asked = handle.callback("paid", int), handle.callback("asked", str)
        tokens.extend([paid.token, asked.token])
        first = handle.wait_any(paid=paid, late=bide.after(600))
        return first.name, first.value, *handle.wait_all(paid, asked)

    run = runner.submit(bide.Workflow("w", [waits]))
    eventually(lambda: len(tokens) == 2, "the callbacks are made")
    runner.resolve(tokens[0], 7)
    runner.resolve(tokens[1], "who?")
    assert run.result(timeout=20)["waits"] == ("paid", 7, 7, "who?")


def test_a_wait_for_a_callback_times_out_and_a_later_answer_is_kept(runner: bide.Runner) -> None:
    tokens: list[str] = []
    late = threading.Event()

    @bide.task
    def waits(handle: bide.TaskHandle) -> int:
        callback = handle.callback("paid", int)
        tokens.append(callback.token)
        with pytest.raises(bide.WaitTimeout, match="task 'waits' waited for 'paid' until its deadline passed"):
            handle.wait(callback, timeout=0.02)
        late.set()
        return handle.wait(callback)

    run = runner.submit(bide.Workflow("w", [waits]))
    assert late.wait(20)
    runner.resolve(tokens[0], 7)
    assert run.result(timeout=20)["waits"] == 7


def test_a_callback_is_a_value_that_another_body_of_the_run_can_wait_for(runner: bide.Runner) -> None:
    made: list[bide.Callback[int]] = []

    @bide.task
    def makes(handle: bide.TaskHandle) -> None:
        made.append(handle.callback("paid", int))

    @bide.task(depends_on=makes)
    def waits(handle: bide.TaskHandle) -> int:
        return handle.wait(made[0])

    run = runner.submit(bide.Workflow("w", [makes, waits]))
    eventually(lambda: runner.get(run.id).tasks["waits"].sub_status == "Deferred", "it waits")
    runner.resolve(made[0].token, 7)
    assert run.result(timeout=20)["waits"] == 7


def test_the_token_of_a_callback_that_a_checkpoint_has_dropped_is_refused(runner: bide.Runner) -> None:
    @bide.task
    def drops(handle: bide.TaskHandle) -> int:
        dropped = handle.callback("paid", int)
        handle.checkpoint(1)
        again = handle.callback("paid", int)
        assert again.token != dropped.token
        with pytest.raises(bide.SignalRejected, match=r"the callback was dropped .* \(by .* a checkpoint\)"):
            runner.resolve(dropped.token, 1)
        runner.resolve(again.token, 2)
        return handle.wait(again)

    assert runner.run(bide.Workflow("w", [drops]), timeout=20)["drops"] == 2


def test_a_wait_for_a_callback_that_a_checkpoint_has_dropped_is_refused(runner: bide.Runner) -> None:
    waits: list[Callable[[bide.TaskHandle, bide.Callback[int]], object]] = [
        lambda handle, callback: handle.wait(callback),
        lambda handle, callback: handle.wait(callback, timeout=600),
        lambda handle, callback: handle.wait_any(callback, bide.after(600)),
        lambda handle, callback: handle.wait_all(callback, bide.after(0)),
        lambda handle, callback: handle.wait(bide.all_of(bide.any_of(callback), bide.after(0))),
    ]

    @bide.task
    def drops(handle: bide.TaskHandle) -> list[str]:
        callback = handle.callback("paid", int)
        handle.checkpoint(1)
        refusals = []
        for wait in waits:
            with pytest.raises(bide.DefinitionError, match="make it again after the checkpoint") as caught:
                wait(handle, callback)
            refusals.append(str(caught.value))
        again = handle.callback("paid", int)
        runner.resolve(again.token, 7)
        assert [handle.wait(again) for _ in range(2)] == [7, 7]
        return refusals

    refusals = runner.run(bide.Workflow("w", [drops]), timeout=20)[drops]
    assert len(refusals) == len(waits)
    assert all("the callback 'paid' was dropped by a checkpoint" in refusal for refusal in refusals)


def test_a_rejected_callback_raises_its_reason_in_the_body(runner: bide.Runner) -> None:
    reasons: list[str] = []
    tokens: list[str] = []

    @bide.task(retry=bide.Retry(attempts=3, delay=0))
    def waits(handle: bide.TaskHandle) -> None:
        callback = handle.callback("paid")
        tokens.append(callback.token)
        try:
            handle.wait(callback)
        except bide.CallbackRejected as error:
            reasons.append(error.reason)
        handle.wait(callback)

    run = runner.submit(bide.Workflow("w", [waits]))
    eventually(lambda: bool(tokens), "the callback is made")
    runner.reject(tokens[0], "no money,\nno goods")
    with pytest.raises(bide.RunFailed) as caught:
        run.result(timeout=20)
    assert isinstance(caught.value.__cause__, bide.CallbackRejected)
    assert caught.value.__cause__.reason == reasons[0] == "no money,\nno goods"
    assert len(tokens) == 1, "another attempt would be rejected as well"


def test_a_second_answer_is_refused_and_the_same_one_with_its_id_is_not(runner: bide.Runner) -> None:
    desk = Desk(runner, count=2).deferred()
    runner.resolve(desk.token, {"amount": 7}, id="webhook 1")
    for ended in (False, True):
        if ended:
            assert desk.run.result(timeout=20)["waits"] == [Payment(7)] * 2
        runner.resolve(desk.token, {"amount": 7}, id="webhook 1")
        for value, name in (({"amount": 8}, "webhook 1"), ({"amount": 7}, "webhook 2"), ({"amount": 7}, None)):
            with pytest.raises(bide.SignalRejected, match="was answered before, and its first answer stands"):
                runner.resolve(desk.token, value, id=name)
        with pytest.raises(bide.SignalRejected, match="was answered before"):
            runner.reject(desk.token, "no", id="webhook 1")


def test_an_answer_with_the_id_of_another_message_is_refused_and_not_lost(runner: bide.Runner) -> None:
    desk = Desk(runner)
    desk.run.signal("note", id="x")
    with pytest.raises(bide.SignalRejected, match=f"another message to run {desk.run.id} has the id 'x'"):
        runner.resolve(desk.token, {"amount": 7}, id="x")
    runner.resolve(desk.token, {"amount": 7})
    desk.run.result(timeout=20)


def test_a_token_is_safe_in_a_url_and_no_two_are_the_same(runner: bide.Runner) -> None:
    tokens = [Desk(runner).token for _ in range(20)]
    assert len(set(tokens)) == 20
    assert all(token.isascii() and token.replace("-", "").replace("_", "").isalnum() for token in tokens)
    secrets = {base64.urlsafe_b64decode(token)[16:32] for token in tokens}
    assert len(secrets) == 20


def test_each_mistyped_token_is_told_from_a_foreign_one(runner: bide.Runner) -> None:
    token = Desk(runner).token
    swapped = token[:20] + token[21] + token[20] + token[22:]
    wrong = [token[:-1], token + "A", "", "a token", token.swapcase(), token[:30] + "!" + token[31:], "ä" * 48]
    wrong += [swapped] if swapped != token else []
    for at in range(len(token)):
        other = "A" if token[at] != "A" else "B"
        wrong.append(token[:at] + other + token[at + 1 :])
    for bad in wrong:
        with pytest.raises(bide.SignalRejected, match="is no token of bide: it is mistyped or cut off"):
            runner.resolve(bad, {"amount": 7})
    with pytest.raises(bide.DefinitionError, match="resolve takes the token of a callback, which is a string, not 3"):
        runner.resolve(3, 1)  # type: ignore[arg-type]


def test_forged_and_foreign_tokens_and_those_of_ended_runs_are_refused(runner: bide.Runner) -> None:
    desk = Desk(runner)
    forged: bide.Callback[object] = bide.Callback("paid", object, desk.run.id, "00" * 16)
    with pytest.raises(bide.SignalRejected, match="has no callback with this token: the token is forged"):
        runner.resolve(forged.token, {"amount": 7})
    with bide.Runner(":memory:") as other, pytest.raises(bide.SignalRejected, match="is not in this store"):
        other.resolve(desk.token, {"amount": 7})

    unanswered: list[str] = []

    @bide.task
    def leaves(handle: bide.TaskHandle) -> None:
        unanswered.append(handle.callback("paid").token)

    run = runner.submit(bide.Workflow("w", [leaves]))
    run.result(timeout=20)
    with pytest.raises(bide.SignalRejected, match=rf"run {run.id} has ended \(Completed\)"):
        runner.resolve(unanswered[0])
    runner.delete(run.id)
    with pytest.raises(bide.SignalRejected, match="or the run was deleted"):
        runner.reject(unanswered[0], "too late")


def test_an_answer_that_does_not_fit_fails_its_wait_and_stays(runner: bide.Runner) -> None:
    errors: list[str] = []
    tokens: list[str] = []

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        callback = handle.callback("paid", Payment)
        tokens.append(callback.token)
        for _ in range(2):
            try:
                handle.wait(callback)
            except bide.SerializationError as error:
                errors.append(str(error))

    run = runner.submit(bide.Workflow("w", [waits]))
    eventually(lambda: bool(tokens), "the callback is made")
    runner.resolve(tokens[0], "seven")
    run.result(timeout=20)
    assert len(errors) == 2
    assert all(error.startswith("the callback 'paid'") for error in errors)


@dataclass
class Refund:
    payments: list[Payment]
    at: datetime


def test_an_answer_is_encoded_by_its_class_and_decoded_by_the_type_of_its_wait(runner: bide.Runner) -> None:
    at = datetime(2026, 3, 28, 12, tzinfo=UTC)
    cases: list[tuple[Any, object, object]] = [
        (Payment, Payment(7), Payment(7)),
        (Refund, Refund([Payment(7)], at), Refund([Payment(7)], at)),
        (Refund, {"payments": [{"amount": 7}], "at": at.isoformat()}, Refund([Payment(7)], at)),
        (datetime, at, at),
        (tuple[int, str], (1, "x"), (1, "x")),
        (Any, Payment(7), {"amount": 7}),
        (Any, [1, "x"], [1, "x"]),
    ]
    tokens: list[str] = []

    @bide.task
    def waits(handle: bide.TaskHandle) -> bool:
        callbacks = [handle.callback(f"{n}", case[0]) for n, case in enumerate(cases)]
        tokens.extend([callback.token for callback in callbacks])
        return handle.wait_all(*callbacks) == tuple([expected for _, _, expected in cases])

    run = runner.submit(bide.Workflow("w", [waits]))
    eventually(lambda: len(tokens) == len(cases), "the callbacks are made")
    for token, (_, answer, _) in zip(tokens, cases, strict=True):
        runner.resolve(token, answer)
    assert run.result(timeout=20)["waits"]


def test_an_answer_without_a_type_is_refused_with_a_remedy(runner: bide.Runner) -> None:
    desk = Desk(runner)
    with pytest.raises(bide.SerializationError) as caught:
        runner.resolve(desk.token, [Payment(7)])
    assert str(caught.value).endswith(
        "would come back as dict; pass an object of a class whose fields are annotated, or convert it"
    )
    with pytest.raises(bide.SerializationError, match="cannot be stored"):
        runner.resolve(desk.token, threading.Lock())


def test_bad_callbacks_are_named(runner: bide.Runner) -> None:
    found: list[str] = []

    @bide.task
    def makes(handle: bide.TaskHandle) -> None:
        for bad in (lambda: handle.callback(""), lambda: handle.callback("a", Callable)):  # type: ignore[call-overload]
            with pytest.raises(bide.DefinitionError) as caught:
                bad()
            found.append(str(caught.value))
        with pytest.raises(bide.DefinitionError, match="the callback 'inner' inside the step"):
            handle.step(lambda: handle.callback("inner"), name="outer")

    runner.run(bide.Workflow("w", [makes]))
    assert found[0] == "handle.callback: name must be a non-empty string, not ''"
    assert "the callback 'a'" in found[1]
    token = Desk(runner).token
    with pytest.raises(bide.DefinitionError, match="reject: the reason must be a string, not 3"):
        runner.reject(token, 3)  # type: ignore[arg-type]
    with pytest.raises(bide.DefinitionError, match="resolve: id"):
        runner.resolve(token, id="")


def test_a_gate_takes_no_callback() -> None:
    gate: bide.Callback[object] = bide.Callback("paid", object, "0" * 32, "00" * 16)

    @bide.task(gate=gate)
    def body() -> None: ...

    with pytest.raises(bide.DefinitionError, match="a gate cannot wait for a child run or a callback"):
        bide.Workflow("w", [body])


WAITS = """
@bide.task
def waits(handle: bide.TaskHandle) -> int:
    callback = handle.callback("paid", int)
    note("token", callback.token)
    say("token", callback.token)
    got = handle.wait(callback)
    note("got", got)
    if "dies" in words:
        die()
    return got

workflow = bide.Workflow("w", [waits])
with bide.Runner(db) as runner:
    say("result", runner.run(workflow, key="run")["waits"])
"""


def test_a_token_is_the_same_after_a_crash_and_an_answer_from_another_process_is_kept(file: Path) -> None:
    with Child(WAITS, file, "dies") as first:
        token = first.after("token")
        with bide.Runner(file) as other:
            other.resolve(token, 7)
        first.join(code=-signal.SIGKILL)
    with Child(WAITS, file) as second:
        assert second.after("token") == token
        assert second.after("result") == "7"
    assert ledger(file) == [f"token {token}", "got 7"] * 2


def test_a_callback_that_is_answered_while_nobody_executes_its_run_is_answered(file: Path) -> None:
    with Child(WAITS, file) as first:
        token = first.after("token")
        first.kill()
    with bide.Runner(file) as other:
        other.resolve(token, 7)
        with pytest.raises(bide.SignalRejected, match="answered before"):
            other.resolve(token, 8)
    with Child(WAITS, file) as second:
        assert second.after("result") == "7"
