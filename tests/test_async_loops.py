"""Which event loop executes `async def` bodies; a loop that is blocked, closed, or not the runner's."""

import asyncio
import importlib.util
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bide
from processes import eventually


@bide.task
async def where() -> str:
    return threading.current_thread().name


workflow = bide.Workflow("where", [where])


def test_two_runners_have_two_loops(store: str) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    @bide.task
    async def body() -> None:
        loops.append(asyncio.get_running_loop())

    one = bide.Workflow("w", [body])
    with bide.Runner(store) as first, bide.Runner(":memory:") as second:
        first.run(one)
        second.run(one)
    assert len(set(loops)) == 2
    eventually(lambda: all(loop.is_closed() for loop in loops), "both threads end")


async def test_two_runners_share_the_callers_loop(file: Path) -> None:
    async with bide.Runner(file) as first, bide.Runner(":memory:") as second:
        got = await asyncio.gather(first.run_async(workflow), second.run_async(workflow))
    assert [result["where"] for result in got] == ["MainThread", "MainThread"]


async def test_unfinished_runs_continue_on_the_loop_of_async_with(file: Path) -> None:
    go: list[bool] = []

    async def ready() -> bool:
        return bool(go)

    @bide.task
    async def waits(handle: bide.AsyncTaskHandle) -> bool:
        await handle.defer_until(ready, 5)
        return asyncio.get_running_loop() is loop

    waiting = bide.Workflow("w", [waits])
    loop = asyncio.get_running_loop()
    async with bide.Runner(file) as runner:
        handle = await runner.submit_async(waiting, key="k")
        while (await runner.get_async(handle.id)).tasks["waits"].sub_status is None:  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(0.005)
    go.append(True)
    async with bide.Runner(file, workflows=[waiting]) as runner:
        assert (await runner.run_async(waiting, key="k"))["waits"] is True


def test_loop_factory_makes_the_runners_loop(store: str) -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[-1]

    @bide.task
    async def body() -> bool:
        return asyncio.get_running_loop() is made[0]

    with bide.Runner(store, loop_factory=factory) as runner:
        assert runner.run(bide.Workflow("w", [body]))["body"] is True
    assert len(made) == 1


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
def test_bodies_execute_on_uvloop(store: str) -> None:
    import uvloop  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - where it is installed

    @bide.task
    async def body(handle: bide.AsyncTaskHandle) -> str:
        await handle.sleep(0.01)
        async with asyncio.timeout(30):
            await handle.step(asyncio.sleep, 0)
        return type(asyncio.get_running_loop()).__module__

    with bide.Runner(store, loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(bide.Workflow("w", [body]), timeout=30)["body"] == "uvloop"

    async def main() -> str:
        async with bide.Runner(store) as runner:
            return str((await runner.run_async(bide.Workflow("w", [body]), timeout=30))["body"])

    assert uvloop.run(main()) == "uvloop"


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_pytest_asyncio_in_both_modes(tmp_path: Path, mode: str) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
        import asyncio, bide, pytest, pytest_asyncio

        @bide.task
        async def body(handle: bide.AsyncTaskHandle) -> int:
            await handle.sleep(0.01)
            return 1

        @pytest_asyncio.fixture
        async def runner():
            async with bide.Runner(":memory:") as runner:
                yield runner

        @pytest.mark.asyncio
        async def test_one(runner):
            assert (await runner.run_async(bide.Workflow("w", [body])))["body"] == 1

        @pytest.mark.asyncio
        async def test_two(runner):
            assert (await asyncio.gather(*[runner.run_async(bide.Workflow("w", [body]))]))[0]["body"] == 1
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--asyncio-mode", mode, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(bide.__path__[0]).parent), "PATH": ""},
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


class Lines(logging.Handler):
    """Keeps what is logged, and can be waited for."""

    def __init__(self, *filters: logging.Filter) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.filled = threading.Event()
        for one in filters:
            self.addFilter(one)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.filled.set()


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines(bide.LogFilter())
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("where", ["body", "step", "condition"])
def test_a_blocked_loop_is_reported_with_the_culprits_stack(store: str, lines: Lines, where: str) -> None:
    def the_culprit() -> bool:
        assert lines.filled.wait(30)
        return True

    async def blocks() -> bool:
        return the_culprit()

    @bide.task
    async def body(handle: bide.AsyncTaskHandle) -> None:
        if where == "body":
            the_culprit()
        elif where == "step":
            await handle.step(blocks)
        elif where == "condition":
            await handle.defer_until(blocks)

    with bide.Runner(store) as runner:
        runner.run(bide.Workflow("w", [body]))
    [line] = [record.getMessage() for record in lines.records]
    assert "in the_culprit" in line
    assert "over 100 ms" in line


@pytest.mark.parametrize("where", ["deferred body", "gate"])
def test_a_later_poll_that_blocks_the_loop_is_reported(store: str, lines: Lines, where: str) -> None:
    polls = 0

    async def condition() -> bool:
        nonlocal polls
        polls += 1
        if polls < 3:
            return False
        await asyncio.sleep(0)
        return the_culprit()

    def the_culprit() -> bool:
        assert lines.filled.wait(30)
        return True

    @bide.task
    async def body(handle: bide.AsyncTaskHandle) -> None:
        await handle.defer_until(condition, 10)

    gated = bide.task(lambda: None, name="gated", gate=bide.until(condition, every=0.01))
    with bide.Runner(store) as runner:
        runner.run(bide.Workflow("w", [body if where == "deferred body" else gated]))
    [line] = [record.getMessage() for record in lines.records]
    assert "in the_culprit" in line
    assert "over 100 ms" in line


@pytest.mark.parametrize(("how", "said"), [("stopped", "does not run"), ("closed", "was closed before its runner")])
def test_a_loop_that_stands_while_bodies_execute_is_told_from_a_blocked_one(
    store: str, lines: Lines, how: str, said: str
) -> None:
    @bide.task
    async def body(handle: bide.AsyncTaskHandle) -> None:
        entered.set()
        await asyncio.sleep(3600)

    loop = asyncio.new_event_loop()
    entered = asyncio.Event()
    runner = bide.Runner(store)
    loop.run_until_complete(runner.__aenter__())
    loop.run_until_complete(runner.submit_async(bide.Workflow("w", [body])))
    loop.run_until_complete(entered.wait())
    if how == "closed":
        loop.close()
    assert lines.filled.wait(30)
    [line] = [record.getMessage() for record in lines.records]
    assert said in line
    if how == "stopped":
        loop.run_until_complete(runner.close_async(0))
        loop.close()
    else:
        runner.close(0)


async def test_a_caller_that_blocks_the_loop_of_a_body_is_reported(store: str, lines: Lines) -> None:
    def the_culprit() -> None:
        assert lines.filled.wait(30)

    @bide.task
    async def body(handle: bide.AsyncTaskHandle) -> None:
        entered.set()
        await handle.sleep(0.02)

    entered = asyncio.Event()
    async with bide.Runner(store) as runner:
        run = await runner.submit_async(bide.Workflow("w", [body]))
        await entered.wait()
        the_culprit()
        await run
    [line] = [record.getMessage() for record in lines.records]
    assert "in the_culprit" in line


def test_a_loop_that_is_not_blocked_is_not_reported(store: str, lines: Lines) -> None:
    @bide.task
    async def body(handle: bide.AsyncTaskHandle) -> None:
        await asyncio.sleep(0.3)
        await handle.step(time.sleep, 0.3)

    with bide.Runner(store) as runner:
        runner.run(bide.Workflow("w", [body]))
    assert not lines.records


def test_log_records_of_a_coroutine_name_it(store: str, lines: Lines) -> None:
    @bide.task
    async def body(handle: bide.AsyncTaskHandle) -> str:
        await asyncio.sleep(0)
        logging.getLogger("mine").warning("here")
        return handle.run_id

    with bide.Runner(store) as runner:
        run = runner.run(bide.Workflow("w", [body]))["body"]
    [record] = [record for record in lines.records if record.name == "mine"]
    assert (record.__dict__["run"], record.__dict__["task"], record.__dict__["attempt"]) == (run, "body", 1)


# --- what cannot work ----------------------------------------------------------------------------------------------


async def test_blocking_calls_on_a_running_loop_name_the_awaitable_ones(store: str) -> None:
    ask = bide.request("ask", int, int)
    async with bide.Runner(store) as runner:
        await runner.run_async(workflow)
        handle = await runner.submit_async(workflow)
        for call, instead in (
            (lambda: runner.run(workflow), "await runner.run_async"),
            (handle.result, "await handle"),
            (lambda: runner.request(handle, ask, 1), "await runner.request_async"),
            (runner.close, "await runner.close_async"),
        ):
            with pytest.raises(bide.DefinitionError, match="event loop") as raised:
                call()
            assert instead in str(raised.value)
        await handle


def test_a_runner_on_a_loop_that_is_closed_says_so(store: str) -> None:
    loop = asyncio.new_event_loop()
    runner = bide.Runner(store)
    loop.run_until_complete(runner.__aenter__())
    loop.run_until_complete(runner.run_async(workflow))
    loop.close()
    with pytest.raises(bide.BideError, match="the event loop that executes the async bodies of this runner is closed"):
        runner.submit(workflow)
    runner.close()


def test_one_runner_on_two_loops_is_refused(store: str) -> None:
    async def enter() -> None:
        await runner.__aenter__()

    runner = bide.Runner(store)
    asyncio.run(enter())
    with pytest.raises(bide.BideError, match="on another event loop already"):
        asyncio.run(enter())
    runner.close()


def test_a_handle_is_not_awaited_on_another_loop(store: str) -> None:
    async def by_step(handle: bide.AsyncTaskHandle) -> None:
        await handle.step(condition)

    async def by_wait(handle: bide.AsyncTaskHandle) -> None:
        await handle.sleep(0)

    @bide.task
    async def body(handle: bide.AsyncTaskHandle) -> str:
        for call in (by_step, by_wait):
            with pytest.raises(bide.DefinitionError, match="task 'body' was awaited on another event loop"):
                await asyncio.to_thread(asyncio.run, call(handle))
            await call(handle)
        return "went on"

    with bide.Runner(store) as runner:
        assert runner.run(bide.Workflow("w", [body]), timeout=30)["body"] == "went on"


async def condition() -> bool:
    return True


def test_async_conditions_and_steps_in_a_plain_body_are_refused(runner: bide.Runner) -> None:
    said: list[str] = []

    @bide.task
    def plain(handle: bide.TaskHandle) -> None:
        for call in (
            lambda: handle.defer_until(condition),
            lambda: handle.wait(bide.until(condition)),
            lambda: handle.wait_any(bide.until(condition), bide.after(60)),
            lambda: handle.step(condition),
            lambda: handle.step(condition, key="k"),
        ):
            with pytest.raises(bide.DefinitionError) as raised:
                call()
            said.append(str(raised.value))

    runner.run(bide.Workflow("w", [plain]))
    assert len(said) == 5
    assert all("`async def`" in one and "plain `def`" in one for one in said)


def test_a_body_that_awaits_another_run_is_refused(store: str) -> None:
    @bide.task
    async def body() -> None:
        await runner.run_async(workflow)

    @bide.task
    async def in_thread(handle: bide.AsyncTaskHandle) -> None:
        await handle.step(lambda: runner.run(workflow), name="run")

    with bide.Runner(store) as runner:
        for one in (body, in_thread):
            with pytest.raises(bide.RunFailed, match="which a task's body or condition must not do"):
                runner.run(bide.Workflow("w", [one]))


def test_waits_side_by_side_are_refused_with_the_remedy(store: str) -> None:
    @bide.task
    async def body(handle: bide.AsyncTaskHandle) -> None:
        await asyncio.gather(handle.sleep(0.01), handle.sleep(0.01))

    with bide.Runner(store) as runner, pytest.raises(bide.RunFailed, match="a body waits for one thing after the"):
        runner.run(bide.Workflow("w", [body]))


@pytest.mark.parametrize("settings", [{"async_slots": 0}, {"async_slots": "many"}, {"loop_factory": 3}])
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(bide.DefinitionError, match=next(iter(settings))):
        bide.Runner(":memory:", **settings)  # type: ignore[arg-type]


def closed_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop


@pytest.mark.parametrize(("factory", "shown"), [(closed_loop, "closed=True"), (lambda: 3, "not 3")])
def test_a_loop_factory_that_returns_no_new_loop_is_refused(
    store: str, factory: Callable[[], asyncio.AbstractEventLoop], shown: str
) -> None:
    with bide.Runner(store, loop_factory=factory) as runner:
        for _ in range(2):
            with pytest.raises(bide.DefinitionError, match=f"loop_factory must return a new event loop.*{shown}"):
                runner.submit(workflow)
        assert runner.runs() == []


def test_a_child_with_coroutines_of_a_plain_body_has_a_loop(store: str) -> None:
    @bide.task
    def plain(handle: bide.TaskHandle) -> str:
        return str(handle.run(workflow)["where"])

    with bide.Runner(store) as runner:
        assert runner.run(bide.Workflow("w", [plain]), timeout=30)["plain"] == "bide-loop"


async def test_an_ended_run_has_its_result_at_once(store: str) -> None:
    async with bide.Runner(store) as runner:
        handle = await runner.submit_async(bide.Workflow("w", [bide.task(lambda: 1, name="one")]))  # type: ignore[misc]
        await handle
        assert (await handle.result_async(timeout=0))["one"] == 1


def test_a_gate_whose_condition_was_cancelled_by_itself_fails(store: str) -> None:
    async def is_open() -> bool:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        return True

    @bide.task(gate=bide.until(is_open, every=0.01))
    async def gated() -> str:
        return "open"

    with bide.Runner(store) as runner, pytest.raises(bide.RunFailed, match="CancelledError"):
        runner.run(bide.Workflow("w", [gated]), timeout=20)
