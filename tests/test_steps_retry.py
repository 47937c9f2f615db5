"""Steps with `retry=`: tried again by themselves, without a slot during delays, counted over crashes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import Child, eventually, ledger, ran

SOON = bide.Retry(attempts=3, delay=0.001, jitter=0)


def within(runner: bide.Runner, body: Any, **options: Any) -> Any:
    """Run one task with this body and return its result."""
    return runner.run(bide.Workflow("w", [bide.task(body, name="work", **options)]), timeout=60)["work"]


class Flaky:
    """Fails so often, then returns how often it was called."""

    def __init__(self, fails: int, error: BaseException | None = None) -> None:
        self.calls = 0
        self.fails = fails
        self.error = error or OSError("connection reset")

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.fails:
            raise self.error
        return self.calls


@pytest.mark.parametrize("delay", [0, 0.001])
def test_a_step_is_tried_again_until_it_returns(runner: bide.Runner, delay: float) -> None:
    flaky = Flaky(2)

    def work(handle: bide.TaskHandle) -> int:
        retry = bide.Retry(attempts=3, delay=delay, jitter=0)
        return handle.step(flaky, name="flaky", retry=retry)

    assert within(runner, work) == 3


def test_the_last_failure_is_raised_as_it_is_and_recorded(runner: bide.Runner) -> None:
    flaky = Flaky(99)
    seen: list[BaseException] = []

    def work(handle: bide.TaskHandle) -> int:
        with pytest.raises(OSError, match="connection reset") as raised:
            handle.step(flaky, name="flaky", key="k", retry=SOON)
        with pytest.raises(OSError, match="connection reset"):
            handle.step(flaky, name="flaky", key="k", retry=SOON)
        seen.append(raised.value)
        return flaky.calls

    assert within(runner, work) == 3
    assert seen == [flaky.error]


def test_only_what_the_policy_covers_is_tried_again(runner: bide.Runner) -> None:
    flaky = Flaky(1, KeyError("other"))

    def work(handle: bide.TaskHandle) -> int:
        with pytest.raises(KeyError):
            handle.step(flaky, name="flaky", retry=bide.Retry(on=OSError, delay=0))
        return flaky.calls

    assert within(runner, work) == 1


def test_the_slot_is_released_during_the_delay(store: str) -> None:
    other_ran = threading.Event()

    def flaky() -> bool:
        if not other_ran.is_set():
            raise OSError("not yet")
        return True

    @bide.task
    def waits(handle: bide.TaskHandle) -> bool:
        return handle.step(flaky, retry=bide.Retry(attempts=1000, delay=0.002, backoff=1, jitter=0))

    @bide.task
    def other() -> None:
        other_ran.set()

    with bide.Runner(store, slots=1) as runner:
        result = runner.run(bide.Workflow("w", [waits, other]), timeout=60)
    assert result["waits"] is True
    assert result.tasks["waits"].attempts == 1
    assert result.tasks["waits"].waited > 0


def test_a_step_on_another_thread_is_tried_again_there(runner: bide.Runner) -> None:
    flaky = Flaky(2)

    def work(handle: bide.TaskHandle) -> int:
        with ThreadPoolExecutor(1) as threads:
            calls = threads.submit(lambda: handle.step(flaky, name="flaky", key="k", retry=SOON)).result()
        assert handle.is_slot_held()
        return calls

    assert within(runner, work) == 3


def test_a_retry_of_the_task_starts_the_tries_anew(runner: bide.Runner) -> None:
    flaky = Flaky(4)

    def work(handle: bide.TaskHandle) -> int:
        return handle.step(flaky, name="flaky", retry=bide.Retry(attempts=2, delay=0))

    assert within(runner, work, retry=bide.Retry(attempts=3, delay=0)) == 5


def test_what_a_step_waits_for_is_shown(store: str) -> None:
    failed = threading.Event()

    def flaky() -> None:
        failed.set()
        raise OSError("not yet")

    @bide.task
    def waits(handle: bide.TaskHandle) -> None:
        handle.step(flaky, name="fetch", retry=bide.Retry(delay=3600, max_delay=3600))

    with bide.Runner(store) as runner:
        run = runner.submit(bide.Workflow("w", [waits]))
        assert failed.wait(30)
        blocked = "waits to try again fetch"
        eventually(lambda: run._snapshot().tasks["waits"].blocked_by == blocked, "it is not deferred")
        assert run._snapshot().tasks["waits"].sub_status == bide.SubStatus.Deferred


FLAKY = """
def flaky():
    note("try")
    count = len(ledger.read_text().splitlines())
    if count == int(words[0]):
        die()
    if count < 4:
        raise OSError("not yet")
    return count

@bide.task
def work(handle: bide.TaskHandle):
    return handle.step(flaky, retry=bide.Retry(attempts=int(words[1]), delay=0.001, jitter=0))

with bide.Runner(db) as runner:
    try:
        say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
    except bide.RunFailed as error:
        say("OSError" if "OSError: not yet" in str(error) else error)
"""


@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_tries_are_counted_over_crashes_and_a_crash_is_none(file: Path, dies_at: int) -> None:
    # Of four calls one does not come to its end: three tries are enough.
    ran(FLAKY, file, str(dies_at), "3", code=-9)
    assert ran(FLAKY, file, "0", "3") == ["4"]


def test_the_tries_of_the_processes_together_are_the_attempts(file: Path) -> None:
    ran(FLAKY, file, "2", "2", code=-9)
    assert ran(FLAKY, file, "0", "2") == ["OSError"]
    assert len(ledger(file)) == 3


DELAYED = """
def flaky():
    note("try", time.time())
    if len(ledger.read_text().splitlines()) == 1:
        raise OSError("not yet")

@bide.task
def work(handle: bide.TaskHandle):
    say("entered")
    handle.step(flaky, retry=bide.Retry(delay=float(words[0]), max_delay=3600, jitter=0))

with bide.Runner(db) as runner:
    run = runner.submit(bide.Workflow("w", [work]), key="k")
    while (blocked := run._snapshot().tasks["work"].blocked_by) is None and run._snapshot().status.name == "Running":
        time.sleep(0.001)
    say("blocked", blocked)
    run.result()
    say("done")
"""


def test_a_delay_goes_on_while_no_process_lives(file: Path) -> None:
    with Child(DELAYED, file, "3") as child:
        child.expect("blocked waits to try again flaky")
    # Killed in the middle of the delay. The next process says a longer one, which is not asked.
    assert ran(DELAYED, file, "3000")[-1] == "done"
    first, second = (float(line.split()[1]) for line in ledger(file))
    assert second - first >= 3
