"""Every form of waiting comes to the same, whichever commit the process dies before or after.

In memory, through Python; `rust/executor/tests/crash_points` crashes at every call of the store, on SQLite too.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated, Any

import pytest

import bide
from bide.testing import Crashed, Runner, crash_points, effect

pytestmark = pytest.mark.timeout(120)

go, paid = bide.signal("go", int), bide.signal("paid", int)
asks = bide.request("asks", int, int)


@bide.task
def inner(n: int, handle: bide.TaskHandle) -> int:
    handle.step(lambda: effect(f"inner {n}"), name="work", key="work")
    handle.sleep(60)
    return n * 10


child = bide.Workflow("child", [inner])


def numbers() -> list[int]:
    return [1, 2, 3]


# --- forms of waiting ------------------------------------------------------------------------------------------------


def messages() -> list[Any]:
    @bide.task
    def waits(handle: bide.TaskHandle) -> list[Any]:
        callback = handle.callback("answer", int)
        handle.emit(callback.token, channel="tokens")
        asked = handle.wait(asks)
        asked.reply(asked.value + handle.step(lambda: 10, name="work"))
        return [handle.wait(callback), handle.wait(go), handle.wait_for("paid", int, timeout=3600), asked.value]

    return [waits]


def messages_async() -> list[Any]:
    @bide.task
    async def waits(handle: bide.AsyncTaskHandle) -> list[Any]:
        callback = await handle.callback("answer", int)
        handle.emit(callback.token, channel="tokens")
        asked = await handle.wait(asks)
        await asked.reply(asked.value + await handle.step(lambda: 10, name="work"))
        values = [await handle.wait(callback), await handle.wait(go)]
        return [*values, await handle.wait_for("paid", int, timeout=3600), asked.value]

    return [waits]


def combinations() -> list[Any]:
    @bide.task
    def waits(handle: bide.TaskHandle) -> list[Any]:
        first = handle.wait_any(paid=paid, late=bide.after(1e6))
        second = handle.wait_any(bide.signal("never"), bide.all_of(bide.after(1), bide.until(lambda: 8, every=60)))
        assert second[1] is not None
        both = handle.wait_all(go, bide.any_of(bide.signal("never"), bide.after(5)))
        return [first.name, first.value, second[1].value[1], both[0]]

    return [waits]


def children() -> list[Any]:
    @bide.task
    def waits(handle: bide.TaskHandle) -> list[int]:
        keyed = [handle.start(child, {"n": n}, key=str(n)) for n in range(2)]
        results = handle.wait_all(*keyed, *handle.start_many(child, [{"n": 2}, {"n": 3}]))
        first, _ = handle.wait_any(handle.start(child, {"n": 4}), bide.after(3600))
        assert first is not None
        return [one["inner"] for one in (*results, first.value, handle.run(child, {"n": 5}))]

    return [waits]


def children_async() -> list[Any]:
    @bide.task
    async def waits(handle: bide.AsyncTaskHandle) -> list[int]:
        steps = await asyncio.gather(*[handle.step(abs, -n, key=str(n)) for n in range(3)])
        started = [await handle.start(child, {"n": n}, key=str(n)) for n in range(2)]
        results = await handle.wait_all(*started)
        return [*steps, *(one["inner"] for one in results), (await handle.run(child, {"n": 5}))["inner"]]

    return [waits]


def a_loop() -> list[Any]:
    @bide.task
    def loops(handle: bide.TaskHandle) -> list[int]:
        turn, total = handle.last_checkpoint(tuple[int, int], (0, 0))
        while turn < 3:
            handle.step(lambda turn: effect(f"turn {turn}"), turn, name="turn")
            total += turn
            handle.sleep(86_400)
            turn += 1
            handle.checkpoint((turn, total))
        return [turn, total]

    return [loops]


def gates() -> list[Any]:
    @bide.task(gate=bide.all_of(go=go, day=bide.after(86_400)))
    def both(value: Annotated[dict[str, Any], bide.Gate]) -> dict[str, Any]:
        return value

    @bide.task(gate=asks)
    def answers(asked: Annotated[bide.Received[int, int], bide.Gate]) -> int:
        asked.reply(asked.value + 10)
        return asked.value

    @bide.task(gate=bide.after(lambda both: both["go"] * 3600))
    def later(both: dict[str, Any], handle: bide.TaskHandle) -> int:
        return len(both)

    return [both, answers, later]


def a_map() -> list[Any]:
    @bide.task(gate=bide.after(lambda number: number))
    def each(number: Annotated[int, bide.Each(numbers)], handle: bide.TaskHandle) -> int:
        handle.step(lambda: effect(f"each {number}"), name="work")
        handle.sleep(number)
        return number

    @bide.task(tolerate=1)
    def follows(number: Annotated[int, bide.Each(each)]) -> int:
        if number == 2:
            raise ValueError(number)
        return number

    def reads(each: list[int], follows: bide.Mapped[int]) -> list[Any]:
        return [each, follows.succeeded, [str(error) for error in follows.failed]]

    return [numbers, each, follows, reads]


# --- the test --------------------------------------------------------------------------------------------------------

EXPECTED: dict[Callable[[], list[Any]], dict[str, Any]] = {
    messages: {"waits": [4, 1, 3, 5]},
    messages_async: {"waits": [4, 1, 3, 5]},
    combinations: {"waits": ["paid", 3, 8, 1]},
    children: {"waits": [0, 10, 20, 30, 40, 50]},
    children_async: {"waits": [0, 1, 2, 0, 10, 50]},
    a_loop: {"loops": [3, 3]},
    gates: {"both": {"go": 1, "day": None}, "answers": 5, "later": 2},
    a_map: {
        "numbers": [1, 2, 3],
        "each": [1, 2, 3],
        "reads": [[1, 2, 3], [1, 3], ["task 'follows[1]': ValueError: 2"]],
    },
}


def sends(runner: Runner, run: bide.RunHandle) -> None:
    """Send whatever one of the forms waits for; again after a crash, under the same ids."""
    with contextlib.suppress(bide.SignalRejected):  # it has ended
        run.signal(go, 1, id="go")
        run.signal(paid, 3, id="paid")
        for event in runner.events(run, "tokens"):
            runner.resolve(event.value, 4, id="answer")


def asks_too(runner: Runner, run: bide.RunHandle) -> None:
    sends(runner, run)
    with contextlib.suppress(bide.SignalRejected, Crashed, bide.RunnerClosed):
        assert runner.request(run, asks, 5, id="asks", timeout=1e6) == 15


@pytest.mark.parametrize("form", EXPECTED, ids=lambda form: form.__name__)
def test_every_form_of_waiting_survives_a_crash_at_each_commit(form: Callable[[], list[Any]]) -> None:
    act = asks_too if form in {messages, messages_async, gates} else sends
    found = crash_points(bide.Workflow(form.__name__, form()), act=act)
    assert found.result.outputs == EXPECTED[form]
    assert found.points > 10
