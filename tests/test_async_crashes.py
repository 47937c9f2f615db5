"""`async def` bodies whose process is killed: they continue from their journal, and repeat no recorded step."""

import signal
from pathlib import Path

import pytest

import bide
from processes import Child, killed, ledger, ran

BODY = """
import asyncio
flag = Path(db).with_suffix(".flag")

async def fetch(n: int) -> int:
    note("fetch", n)
    await asyncio.sleep(0)
    return n * 10

def parse(n: int) -> int:
    note("parse", n)
    return n + 1

async def exists() -> bool:
    return flag.exists()

@bide.task
async def work(handle: bide.AsyncTaskHandle) -> int:
    note("enter", handle.attempt)
    one = await handle.step(fetch, 1)
    two = await handle.step(parse, one)
    said = asyncio.get_running_loop().call_later(0.2, say, "waiting") if not flag.exists() else None
    WAIT
    return two + await handle.step(fetch, 2)

workflow = bide.Workflow("w", [work])
"""

OWN_LOOP = """
with bide.Runner(db) as runner:
    say(runner.run(workflow, key="k")["work"])
"""

CALLERS_LOOP = """
async def main():
    async with bide.Runner(db) as runner:
        say((await runner.run_async(workflow, key="k"))["work"])
asyncio.run(main())
"""

STEPS = ["fetch 1", "parse 10", "fetch 2"]

WAITS = {
    "an async condition": "await handle.defer_until(exists, 20)",
    "a plain condition": "await handle.defer_until(flag.exists, 20)",
    "a wait for it": "await handle.wait(bide.until(exists, every=0.02))",
    "the first of several": "await handle.wait_any(bide.until(exists, every=0.02), bide.after(3600))",
    "a signal": 'await handle.wait_for("go")',
    "a sleep": "await handle.sleep(0.8)",
}


def script(wait: str, end: str) -> str:
    return BODY.replace("WAIT", WAITS[wait]) + end


def finished(file: Path, wait: str, end: str) -> None:
    killed(script(wait, end), file, at="waiting")
    assert ledger(file) == ["enter 1", *STEPS[:2]]
    file.with_suffix(".flag").touch()
    if wait == "a signal":
        with bide.Runner(file) as runner:
            runner.signal("k", "go")
    assert "31" in ran(script(wait, end), file)
    assert ledger(file) == ["enter 1", *STEPS[:2], "enter 1", STEPS[2]]


@pytest.mark.parametrize("wait", WAITS)
def test_a_killed_wait_on_the_runners_loop_continues(file: Path, wait: str) -> None:
    finished(file, wait, OWN_LOOP)


@pytest.mark.parametrize("wait", ["an async condition", "a sleep"])
def test_a_killed_wait_on_the_callers_loop_continues(file: Path, wait: str) -> None:
    finished(file, wait, CALLERS_LOOP)


PATIENT = """
import asyncio
flag = Path(db).with_suffix(".flag")

@bide.task
async def inner(handle: bide.AsyncTaskHandle) -> int:
    note("inner")
    await handle.defer_until(flag.exists, 5)
    return 7

child = bide.Workflow("child", [inner])

@bide.task
async def outer(handle: bide.AsyncTaskHandle) -> int:
    for turn in range(1000):
        try:
            async with asyncio.timeout(0.03):
                return (await handle.run(child))["inner"]
        except TimeoutError:
            if turn == 3 and not flag.exists():
                say("patient")

workflow = bide.Workflow("w", [outer])
with bide.Runner(db, workflows=[workflow, child]) as runner:
    say(runner.run(workflow, key="k", timeout=20)["outer"], len(runner.runs(workflow="child")))
"""


def test_a_child_run_that_was_left_is_the_same_one_after_a_crash(file: Path) -> None:
    killed(PATIENT, file, at="patient")
    file.with_suffix(".flag").touch()
    assert ran(PATIENT, file) == ["7 1"]
    assert ledger(file) == ["inner", "inner"]


CANCELLED = """
import asyncio

@bide.task
async def work(handle: bide.AsyncTaskHandle) -> None:
    await handle.step(lambda: note("reserve"), name="reserve")
    try:
        WAIT
    except asyncio.CancelledError as error:
        if not handle.cancelled:
            raise
        note("cancelled", isinstance(error, bide.Cancelled))
        await handle.step(lambda: note("release"), name="release")
        if not words:
            die()
        await handle.sleep(0.01)
        await handle.step(lambda: note("refund"), name="refund")
        raise

workflow = bide.Workflow("w", [work])
with bide.Runner(db, workflows=[workflow]) as runner:
    run = runner.submit(workflow, key="k")
    with bide.Client(db) as client:
        # Its start is stored a moment after it.
        while not words and client.get("k").tasks["work"].status != "Running":
            time.sleep(0.005)
    run.cancel(by="ana") if not words else None
    try:
        run.result(20)
    except bide.RunFailed as error:
        say(error.result.status, error)
"""


@pytest.mark.parametrize(("wait", "own"), [('await handle.wait_for("go")', True), ("await asyncio.sleep(3600)", False)])
def test_a_cancelled_coroutine_whose_process_dies_continues_its_clean_up(file: Path, wait: str, own: bool) -> None:
    script = CANCELLED.replace("WAIT", wait)
    with Child(script, file) as child:
        child.join(code=-signal.SIGKILL)
    [said] = ran(script, file, "again")
    assert said.startswith("Cancelled run ")
    assert said.endswith("was cancelled by ana")
    assert ledger(file) == ["reserve", f"cancelled {own}", "release", f"cancelled {own}", "refund"]
