"""Bodies and conditions that never return, and values of the largest size: others continue, and nothing done is lost.

Interpreter exit with such bodies is in `exit_cases`; how exceptions of conditions are counted is in
`test_gates.py` and `test_handle.py`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import eventually


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """An event that blocks "forever": until the end of the test, so that its threads end."""
    event = threading.Event()
    yield event
    event.set()


@bide.task
def noop() -> int:
    return 1


NOOP = bide.Workflow("noop", [noop])


def waiting_briefly(times: int = 5) -> bide.Workflow:
    """Return a body with a wait that is satisfied at its n-th poll."""

    @bide.task
    def brief(handle: bide.TaskHandle) -> int:
        polls = iter(range(times))
        handle.defer_until(lambda: next(polls, None) is None, 5)
        return times

    return bide.Workflow("brief", [brief])


def said(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if all(word in message for word in words)]


def a_blocking_wait(released: threading.Event) -> Callable[[int, bide.TaskHandle], int]:
    @bide.task
    def blocked(n: int, handle: bide.TaskHandle) -> int:
        polls: list[int] = []

        def never_returns() -> bool:
            polls.append(1)
            return len(polls) > 1 and released.wait()  # the first poll holds the slot

        handle.defer_until(never_returns, 5)
        return n

    return blocked


@pytest.mark.parametrize("blocked", [1, 2, 5])
def test_conditions_that_never_return_delay_no_run_and_are_named(
    store: str, released: threading.Event, caplog: pytest.LogCaptureFixture, blocked: int
) -> None:
    workflow = bide.Workflow("blocked", [a_blocking_wait(released)])
    with bide.Runner(store, slots=2) as runner:
        handles = runner.submit_many(workflow, [{"n": n} for n in range(blocked)])
        for _ in range(3):
            assert runner.run(waiting_briefly(), timeout=30)["brief"] == 5
        assert runner.run(NOOP, timeout=30)["noop"] == 1
        for handle in handles:
            words = ("never_returns", "'blocked'", handle.id, "has not returned")
            eventually(lambda words=words: said(caplog, *words), f"a warning names {words}")  # type: ignore[misc]
            assert len(said(caplog, *words)) == 1
        released.set()
        assert [handle.result(30)["blocked"] for handle in handles] == list(range(blocked))


@pytest.mark.alone
def test_others_need_not_wait_until_such_a_condition_is_named(store: str) -> None:
    def one_try() -> float:
        blocks, released, polls = threading.Event(), threading.Event(), iter(range(1))

        def never_returns() -> bool:
            if next(polls, None) is not None:
                return False  # the first poll holds the slot
            blocks.set()
            return released.wait()

        @bide.task
        def blocked(handle: bide.TaskHandle) -> None:
            handle.defer_until(never_returns, 5)

        with bide.Runner(store, slots=2) as runner:
            handle = runner.submit(bide.Workflow("blocked", [blocked]))
            assert blocks.wait(30)
            began = time.monotonic()
            runner.run(waiting_briefly(), timeout=30)
            took = time.monotonic() - began
            released.set()
            handle.result(30)
        return took

    # It is named after a second. A loaded machine may be slow at times, but not each time.
    assert any(one_try() < 0.9 for _ in range(5))


@pytest.mark.alone
def test_a_condition_that_never_returns_does_not_block_close_or_its_run(file: Path, released: threading.Event) -> None:
    workflow = bide.Workflow("blocked", [a_blocking_wait(released)])
    runner = bide.Runner(file, slots=2)
    handle = runner.submit(workflow, {"n": 7}, key="k")
    while runner.get("k").tasks["blocked"].sub_status is not bide.SubStatus.Deferred:
        pass
    time.sleep(0.05)  # it polls by now, or never will
    began = time.monotonic()
    runner.close(grace=0.2)
    assert time.monotonic() - began < 3
    with bide.Runner(file, workflows=[workflow]) as other:
        released.set()
        assert other.run(workflow, {"n": 7}, key="k", timeout=30)["blocked"] == 7
        assert other.get("k").id == handle.id


def a_blocking_gate(released: threading.Event) -> bide.Workflow:
    def never_returns() -> bool:
        return released.wait()

    @bide.task(gate=bide.until(never_returns, every=0.01))
    def gated() -> int:
        return 1

    return bide.Workflow("blocked", [gated])


@pytest.mark.parametrize("blocked", [1, 3])
def test_gates_that_never_return_delay_no_run_and_are_named(
    store: str, released: threading.Event, caplog: pytest.LogCaptureFixture, blocked: int
) -> None:
    polls = iter(range(10))

    @bide.task(gate=bide.until(lambda: next(polls, None) is None, every=0.01))
    def quick() -> int:
        return 2

    workflow = a_blocking_gate(released)
    with bide.Runner(store, slots=3) as runner:
        handles = [runner.submit(workflow) for _ in range(blocked)]
        assert runner.run(bide.Workflow("quick", [quick]), timeout=30)["quick"] == 2
        assert runner.run(waiting_briefly(), timeout=30)["brief"] == 5
        assert runner.run(NOOP, timeout=30)["noop"] == 1
        # Once, for any number of runs that wait for it.
        assert len(said(caplog, "the gate of task 'gated' is slow", "never_returns")) == 1
        released.set()
        assert [handle.result(30)["gated"] for handle in handles] == [1] * blocked


def test_more_such_gates_than_threads_are_reported_and_bodies_continue(
    store: str, released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    workflow = a_blocking_gate(released)
    with bide.Runner(store, slots=2) as runner:
        handles = [runner.submit(workflow) for _ in range(5)]
        eventually(lambda: said(caplog, "all 3 threads that poll gates"), "the stop of all gates is said")
        assert runner.run(waiting_briefly(), timeout=30)["brief"] == 5
        assert runner.run(NOOP, timeout=30)["noop"] == 1
        released.set()
        assert [handle.result(30)["gated"] for handle in handles] == [1] * 5


def test_a_body_that_never_returns_fails_at_its_timeout_beside_others(
    store: str, released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    @bide.task(timeout=0.1)
    def stuck() -> int:
        released.wait()
        return 1

    @bide.task
    def before() -> str:
        return "kept"

    @bide.task
    def after(stuck: int) -> int:
        return stuck

    with bide.Runner(store, slots=2) as runner:
        with pytest.raises(bide.RunFailed) as failed:
            runner.run(bide.Workflow("w", [before, stuck, after]), timeout=30)
        assert isinstance(failed.value.__cause__, (bide.TaskTimeout, bide.TaskFailed))
        result = failed.value.result
        assert isinstance(result, bide.RunResult)
        assert result.outputs == {"before": "kept"}
        assert result.tasks["after"].status is bide.TaskStatus.Skipped
        assert runner.run(NOOP, timeout=30)["noop"] == 1
        eventually(
            lambda: said(caplog, "'stuck'", "slot stays taken", "threading.py"), "the line that it is at is named"
        )
        eventually(lambda: runner._core.load()[:2] == (1, 2), "its slot alone stays taken")
        released.set()
        eventually(lambda: runner._core.load()[0] == 0, "and the slot is released once it returns")
        assert runner.get(result.id).tasks["stuck"].status is bide.TaskStatus.Failed


@pytest.mark.alone
def test_a_body_that_never_returns_does_not_block_close_or_its_run(file: Path, released: threading.Event) -> None:
    entered: list[int] = []

    @bide.task
    def stuck() -> str:
        entered.append(1)
        if len(entered) == 1:
            released.wait()
            return "too late"
        return "done"

    workflow = bide.Workflow("w", [noop, stuck])
    runner = bide.Runner(file, slots=2)
    handle = runner.submit(workflow, key="k")
    eventually(lambda: entered and runner.get("k").tasks["noop"].status is bide.TaskStatus.Completed, "it has begun")
    began = time.monotonic()
    runner.close(grace=0.1)
    assert time.monotonic() - began < 3
    with pytest.raises(bide.RunnerClosed):
        handle.result(30)
    with bide.Runner(file) as other:
        released.set()
        assert other.run(workflow, key="k", timeout=30).outputs == {"noop": 1, "stuck": "done"}
        assert len(entered) == 2


# --- values of 64 MiB ------------------------------------------------------------------------------------------------

MOST = 64 * 2**20
JUST_FITS = "x" * (MOST - 1024)
TOO_LARGE = "x" * (MOST + 1)


def in_body(call: Callable[[bide.TaskHandle, bide.Context], object]) -> bide.Workflow:
    @bide.task
    def work(handle: bide.TaskHandle, context: bide.Context) -> bool:
        return call(handle, context) in {JUST_FITS, None}

    return bide.Workflow("w", [work])


def output(value: str) -> bide.Workflow:
    @bide.task
    def big() -> str:
        return value

    @bide.task
    def work(big: str) -> bool:
        return big == value

    return bide.Workflow("w", [big, work])


LARGE: dict[str, tuple[Callable[[str], bide.Workflow], list[str]]] = {
    "output": (output, ["'big'", "64.1 MiB", "store a path"]),
    "step's value": (lambda v: in_body(lambda h, _: h.step(lambda: v, name="s")), ["'s'", "64.1 MiB", "store a path"]),
    "step's argument": (lambda v: in_body(lambda h, _: h.step(_nothing, v)), ["'_nothing'", "more than 64 MiB"]),
    "condition's value": (
        lambda v: in_body(lambda h, _: h.defer_until(lambda: v, name="c")),
        ["'c'", "64.1 MiB", "bool(...)"],
    ),
    "context": (lambda v: in_body(lambda _, c: c.set("a", v)), ['context["a"]', "64.1 MiB", "store a path"]),
}


def _nothing(_value: str) -> None: ...


@pytest.mark.parametrize("case", LARGE)
def test_a_value_of_64_mib_is_kept_and_a_larger_one_refused(file: Path, case: str) -> None:
    make, words = LARGE[case]
    store = file if case in {"output", "step's value"} else ":memory:"  # a file is slower
    with bide.Runner(store) as runner:
        assert runner.run(make(JUST_FITS), key="fits", timeout=60)["work"] is True
        with pytest.raises(bide.RunFailed) as failed:
            runner.run(make(TOO_LARGE), key="large", timeout=60)
        message = str(failed.value)
        assert isinstance(failed.value.__cause__, bide.SerializationError)
        for word in words:
            assert word in message
        assert len(message) < 2000
        assert runner.run(NOOP, timeout=30)["noop"] == 1
        result = runner.get("fits")
        assert result["work"] is True
        if case == "context":
            assert result.context["a"] == JUST_FITS
    if case == "output":
        with bide.Runner(file) as other:
            assert other.get("fits")["big"] == JUST_FITS
            other.delete("fits")


def test_an_input_of_64_mib_is_kept_and_a_larger_one_refused(file: Path) -> None:
    @bide.task
    def work(big: str) -> bool:
        return big == JUST_FITS

    workflow = bide.Workflow("w", [work])
    with bide.Runner(file) as runner:
        assert runner.run(workflow, {"big": JUST_FITS}, key="fits", timeout=60)["work"] is True
        with pytest.raises(bide.SerializationError, match=r"'big'.*64\.1 MiB.*store a path"):
            runner.run(workflow, {"big": TOO_LARGE}, key="large")
        assert [run.key for run in runner.runs()] == ["fits"]
        assert runner.run(workflow, {"big": JUST_FITS}, key="fits", timeout=60)["work"] is True  # compared as bytes


def test_a_condition_may_capture_more_and_is_asked_again_then(file: Path) -> None:
    asked: list[int] = []
    captured = {"it": TOO_LARGE}

    @bide.task
    def work(handle: bide.TaskHandle) -> str:
        def ready(big: str = captured["it"]) -> bool:
            asked.append(len(big))
            return True

        handle.defer_until(ready)
        handle.sleep(0.3 if len(asked) == 1 else 0)
        return "done"

    workflow = bide.Workflow("w", [work])
    with bide.Runner(file) as runner:
        runner.submit(workflow, key="k")
        while runner.get("k").tasks["work"].sub_status is not bide.SubStatus.Deferred:
            pass
    with bide.Runner(file) as runner:
        assert runner.run(workflow, key="k", timeout=30)["work"] == "done"
    assert asked == [len(TOO_LARGE)] * 2  # too large to be proved the same


def unencodable(kind: str) -> Any:
    return {"lock": threading.Lock(), "huge": TOO_LARGE}[kind]


@pytest.mark.parametrize("kind", ["lock", "huge"])
def test_a_gate_value_that_cannot_be_recorded_fails_its_task_with_advice(runner: bide.Runner, kind: str) -> None:
    def answer() -> Any:
        return unencodable(kind)

    @bide.task(gate=bide.until(answer, every=0.01))
    def gated() -> int:
        return 1

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [gated]), timeout=30)
    for word in ("'gated'", "answer", "bool(...)"):
        assert word in str(failed.value)
