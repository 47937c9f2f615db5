"""Wrong code: a type checker rejects every line marked `# wrong`. `test_typing.py` checks it; it is never imported."""

from datetime import timedelta

import bide


@bide.task
def work(path: str) -> int:
    return len(path)


work(1)  # wrong
work("x").upper()  # wrong

bide.task(work, name=1)  # wrong
bide.task(work, retry=3)  # wrong
bide.task(work, gate=lambda: True)  # wrong
bide.task(work, timeout="1s")  # wrong
bide.Retry(attempts="3")  # wrong
bide.Retry(on=(int,))  # wrong
bide.until(True)  # wrong
bide.until(lambda: True, on_error="explode")  # wrong
bide.after("1s")  # wrong
bide.at("2026-01-01")  # wrong
bide.Workflow("x", work)  # wrong
bide.Workflow(1, [work])  # wrong

workflow = bide.Workflow("x", [work])
workflow.name = "y"  # wrong


def waits(handle: bide.TaskHandle) -> None:
    handle.defer_until(True)  # wrong
    handle.defer_until(lambda: "x", poll_interval_ms="1s")  # wrong
    handle.defer_until(lambda: "x", poll_interval_ms=timedelta(seconds=1))  # wrong
    handle.defer_until(lambda: "x", 1000, 5)  # wrong
    handle.defer_until(lambda: "x", timeot=5)  # wrong
    handle.defer_until(lambda needs: needs)  # wrong
    found: int = handle.defer_until(lambda: "x")  # wrong
    handle.wait(lambda: True)  # wrong
    handle.wait(1)  # wrong
    handle.start(lambda: 1)  # wrong
    handle.run("workflow")  # wrong
    handle.sleep("1s")  # wrong
    number: int = handle.step(work, "x").upper()  # wrong
    handle.step(work, 3)  # wrong
    with handle.transaction(object(), same_database="yes") as step:  # wrong
        step(work, 3)  # wrong
        step(work, "x", key=3)  # wrong
        step(work, "x", key="k").upper()  # wrong
    handle.step(work, "x", "y")  # wrong
    handle.step(work, pth="x")  # wrong
    handle.step(work, "x", key="k").upper()  # wrong
    handle.step(work, "x", key=3)  # wrong
    handle.step(work, "x", retry=3)  # wrong
    handle.step(work, "x", once="yes")  # wrong
    turn: int = handle.last_checkpoint(int)  # wrong
    bide.current(1)  # wrong
    handle.attempt = 2  # wrong
    handle.nothing()  # wrong
    handle.emit("x", channel=bide.channel("numbers", int))  # wrong
    handle.emit(1, "log")  # wrong
    handle.emit(1, channel=3)  # wrong
    handle.progress("half")  # wrong
    print(found, number)


class Sub(bide.TaskHandle): ...  # wrong


def use(runner: bide.Runner) -> None:
    runner.run("x")  # wrong
    runner.run(workflow, ["x"])  # wrong
    runner.run(workflow, key=1)  # wrong
    runner.run(workflow, timeout="1s")  # wrong
    runner.submit_many(workflow, {"path": "x"})  # wrong
    runner.runs(since="yesterday")  # wrong
    runner.follow(1)  # wrong
    runner.events("k", after="1")  # wrong
    text: str = next(runner.events("k", bide.channel("numbers", int))).value  # wrong
    print(text)
    bide.Runner(1)  # wrong
    bide.Runner("x.db", durability="sometimes")  # wrong
    bide.Runner("x.db", 4)  # wrong
    result = runner.run(workflow)
    result.status = "Failed"  # wrong
    text: str = result[work]  # wrong
    result[work].upper()  # wrong
    result[3]  # wrong
    result[3] = "x"  # wrong
    print(text)


def failed(runner: bide.Runner) -> str:
    try:
        return runner.run(workflow)[work]  # wrong
    except bide.RunFailed as failure:
        failure.result.nothing()  # wrong
        failure.result = None  # wrong
        return failure.result[work]  # wrong


bide.RunFailed("without a result")  # wrong
ready: bide.Until[int] = bide.until(lambda: "x")  # wrong
pause: bide.After = bide.at(3)  # wrong
waits_for: list[bide.Wait[object]] = [lambda: True]  # wrong
a_text: bide.Wait[str] = bide.after(1)  # wrong
pair = bide.all_of(bide.until(lambda: "x"), bide.after(1))
numbers: bide.AllOf[tuple[int, None]] = pair  # wrong
asks = bide.request("asks", str, int)


def answers(handle: bide.TaskHandle, runner: bide.Runner, run: bide.RunHandle) -> str:
    handle.wait(asks).reply("three")  # wrong
    handle.wait(asks).value.nothing()  # wrong
    runner.request(run, asks, 3)  # wrong
    runner.resolve(3)  # wrong
    runner.reject("token")  # wrong
    count: str = run.request(asks, "how many?")  # wrong
    print(count)
    return handle.wait(handle.callback("paid", int))  # wrong


async def fetch(url: str) -> int:
    return len(url)


@bide.task
async def downloads(handle: bide.AsyncTaskHandle) -> str:
    await handle.step(fetch, 3)  # wrong
    handle.wait_for("go").upper()  # wrong
    (await handle.wait(asks)).reply("three")  # wrong
    return await handle.step(fetch, "url")  # wrong
