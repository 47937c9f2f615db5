"""Steps with `key=`: side by side, on any thread of the body, found again in any order; and what a step refuses."""

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bide
from processes import ledger, ran


def within(runner: bide.Runner, body: Any, **options: Any) -> Any:
    """Run one task with this body and return its result."""
    return runner.run(bide.Workflow("w", [bide.task(body, name="work", **options)]), timeout=60)["work"]


def test_steps_with_keys_execute_side_by_side_on_threads_of_the_body(runner: bide.Runner) -> None:
    all_are_there = threading.Barrier(4, timeout=30)

    def fetch(url: str) -> str:
        all_are_there.wait()
        return url.upper()

    def work(handle: bide.TaskHandle) -> list[str]:
        with ThreadPoolExecutor(4) as threads:
            return list(threads.map(lambda url: handle.step(fetch, url, key=url), "abcd"))

    assert within(runner, work) == ["A", "B", "C", "D"]


def test_the_body_waits_and_records_steps_while_another_thread_executes_one(runner: bide.Runner) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert go_on.wait(30)
        return "slow"

    def work(handle: bide.TaskHandle) -> list[str]:
        with ThreadPoolExecutor(1) as threads:
            slow_one = threads.submit(lambda: handle.step(slow, key="slow"))
            assert begun.wait(30)
            handle.sleep(0.001)
            quick = handle.step(lambda: "quick", name="quick")
            go_on.set()
            return [quick, slow_one.result()]

    assert within(runner, work) == ["quick", "slow"]


def test_the_key_alone_says_what_is_the_same(runner: bide.Runner) -> None:
    calls: list[int] = []

    def fetch(number: int, lock: object) -> int:
        calls.append(number)
        return number

    def work(handle: bide.TaskHandle) -> list[int]:
        # A lock cannot be recorded: arguments are not looked at.
        return [handle.step(fetch, n, threading.Lock(), key=key) for n, key in enumerate(["a", "b", "a", "b"])]

    assert within(runner, work) == [0, 1, 0, 1]
    assert calls == [0, 1]


def test_a_step_with_a_key_stands_within_a_step_and_not_within_a_condition(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> str:
        def outer() -> str:
            return handle.step(lambda: "inner", name="inner", key="k")

        def condition() -> bool:
            return bool(handle.step(lambda: True, name="polled", key="k"))

        with pytest.raises(bide.DefinitionError, match="the step 'polled \"k\"' inside the wait 'condition'"):
            handle.defer_until(condition, name="condition")
        return handle.step(outer)

    assert within(runner, work) == "inner"


def test_the_refusal_of_a_step_without_a_key_on_another_thread_shows_the_remedy(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> str:
        with ThreadPoolExecutor(1) as threads:
            refused = threads.submit(lambda: handle.step(len, "abc")).exception()
        assert isinstance(refused, bide.DefinitionError)
        return str(refused)

    text = within(runner, work)
    assert "the step 'len' from another thread than the body's" in text
    assert "give each use a key of its own, such as key=str(item)" in text


def test_the_refusal_of_the_recorded_time_on_another_thread_shows_the_remedy(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> str:
        with ThreadPoolExecutor(1) as threads:
            refused = threads.submit(handle.now).exception()
        assert isinstance(refused, bide.DefinitionError)
        return str(refused)

    text = within(runner, work)
    assert "the step 'now' from another thread than the body's" in text
    assert "Call it on the body's own thread, before the other threads start, and pass them its result" in text
    assert "key=" not in text, "it takes none"


def test_a_key_that_is_under_way_is_refused(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> str:
        def outer() -> str:
            with pytest.raises(bide.DefinitionError) as refused:
                handle.step(outer, key="k")
            return str(refused.value)

        return handle.step(outer, key="k")

    assert "is under way already: steps that run side by side need keys that differ" in within(runner, work)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda handle: handle.step(len, "a", key=1), "handle.step: key must be a non-empty string, not 1"),
        (lambda handle: handle.step(len, "a", key=""), "handle.step: key must be a non-empty string"),
        (lambda handle: handle.step(len, "a", once=1), "step 'len': once must be True or False, not 1"),
        (lambda handle: handle.step(len, "a", retry=3), "step 'len': retry must be a bide.Retry, not 3"),
        (lambda handle: handle.step(len, "a", once=True, retry=bide.Retry()), "cannot be tried again"),
        (lambda handle: handle.step(len, "a", retry=bide.Retry(fresh=True)), r"Retry\(fresh=True\) drops the journal"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(
    runner: bide.Runner, call: Callable[[bide.TaskHandle], Any], says: str
) -> None:
    def work(handle: bide.TaskHandle) -> None:
        with pytest.raises(bide.DefinitionError, match=says):
            call(handle)

    within(runner, work)


def test_a_function_whose_parameter_is_an_option_of_step_is_refused_with_the_remedy(runner: bide.Runner) -> None:
    def by_name(name: str) -> str:
        return name

    def by_key(url: str, *, key: str = "none") -> str:
        return url + key

    def by_position(once: int, /) -> int:
        return once

    class Job:
        def __init__(self, retry: int) -> None:
            self.retry = retry

        def start(self, name: str) -> str:
            return name

    def work(handle: bide.TaskHandle) -> list[str]:
        texts = []
        refused_calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]
        refused_calls = [(by_name, ("a",)), (by_key, ("a",)), (Job, (1,)), (Job(1).start, ("a",))]
        for fn, args in refused_calls:
            with pytest.raises(bide.DefinitionError) as refused:
                handle.step(fn, *args)
            texts.append(str(refused.value))
        assert handle.step(functools.partial(by_name, name="a")) == "a"
        assert handle.step(functools.partial(by_name, "b")) == "b"
        assert handle.step(functools.partial(by_key, key="c"), "c") == "cc"
        assert handle.step(by_position, 3) == 3
        return texts

    texts = within(runner, work)
    for option, text in zip(["name", "key", "retry", "name"], texts, strict=True):
        assert f"handle.step takes {option}= itself" in text
        assert "functools.partial(" in text
        assert f"{option}=...)" in text


def test_a_plain_body_records_steps_in_gather_by_their_keys(runner: bide.Runner) -> None:
    def work(handle: bide.TaskHandle) -> list[int]:
        async def branch(n: int) -> int:
            return await asyncio.to_thread(handle.step, abs, -n, key=str(n))

        async def both() -> list[int]:
            return list(await asyncio.gather(*map(branch, range(5))))

        return asyncio.run(both())

    assert within(runner, work) == [0, 1, 2, 3, 4]


KEYED = """
def fetch(url):
    note("fetch", url)
    if "first" in words and url == "c":
        die()
    return url.upper()

@bide.task
def work(handle: bide.TaskHandle):
    urls = ["a", "b", "c", "d"] if "first" in words else ["d", "c", "b", "a"]
    return sorted(handle.step(fetch, url, key=url) for url in urls)

with bide.Runner(db) as runner:
    say(runner.run(bide.Workflow("w", [work]), key="k")["work"])
"""


def test_after_a_crash_each_key_finds_its_record_in_any_order(file: Path) -> None:
    ran(KEYED, file, "first", code=-9)
    assert ran(KEYED, file) == ["['A', 'B', 'C', 'D']"]
    fetched = [line.split()[1] for line in ledger(file)]
    assert fetched == ["a", "b", "c", "d", "c"]


SET_LOOP = """
def fetch(item):
    note("fetch", item)
    if "first" in words and item == 3:
        die()
    return item

@bide.task
def work(handle: bide.TaskHandle):
    # As the order of a set of strings may change from one process to the next.
    for item in [1, 2, 3] if "first" in words else [4, 1, 2, 3]:
        handle.step(fetch, item)

with bide.Runner(db) as runner:
    try:
        runner.run(bide.Workflow("w", [work]), key="k")
    except bide.BideError as error:
        say(error)
"""


def test_the_mismatch_of_a_loop_over_a_set_shows_sorted_and_key(file: Path) -> None:
    ran(SET_LOOP, file, "first", code=-9)
    (text,) = ran(SET_LOOP, file)
    assert "loop over sorted(...), or give each use a key of its own, such as key=str(item)" in text
    assert [line for line in ledger(file) if line == "fetch 1"] == ["fetch 1"]
