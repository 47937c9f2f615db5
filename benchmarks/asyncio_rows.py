"""The rows of asyncio.TaskGroup: a bare event loop, in memory and without durability."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine

from . import measure


async def noop() -> int:
    return 1


async def increment(value: int) -> int:
    return value + 1


async def wide(size: int) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(noop()) for _ in range(size)]
    return [task.result() for task in tasks]


async def chain(length: int) -> int:
    value = 0
    for _ in range(length):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(increment(value))
        value = task.result()
    return value


async def sleeps() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(measure.SLEEPS):
            group.create_task(asyncio.sleep(measure.SLEEP_SECONDS))


def per_second(count: int, work: Callable[[int], Coroutine[object, object, object]]) -> float:
    """Return units per second within one loop that is already warm."""

    async def run() -> float:
        await work(100)
        start = time.perf_counter()
        await work(count)
        return count / (time.perf_counter() - start)

    return asyncio.run(run())


def row_import(_setting: measure.Setting) -> measure.Metrics:
    return {"import": measure.import_times("asyncio")[0]}


def row_wide(_setting: measure.Setting) -> measure.Metrics:
    return {"wide": per_second(measure.WIDE, wide)}


def row_wide_async(_setting: measure.Setting) -> measure.Metrics:
    return {"wide_async": per_second(measure.WIDE, wide)}


def first() -> float:
    """Return the seconds that creating and awaiting the same number of coroutines takes, within a warm loop."""
    return measure.WIDE / per_second(measure.WIDE, wide)


def row_first(_setting: measure.Setting) -> measure.Metrics:
    return {"first": measure.in_turns(first)[0] * 1e3}


def row_growth(_setting: measure.Setting) -> measure.Metrics:
    with asyncio.Runner() as runner:
        return measure.growth(lambda size: lambda: runner.run(wide(size)))


def row_sleeps(_setting: measure.Setting) -> measure.Metrics:
    with asyncio.Runner() as runner:
        return {"sleeps": measure.timed(lambda: runner.run(sleeps()))}


def row_chain(_setting: measure.Setting) -> measure.Metrics:
    return {"chain": per_second(measure.CHAIN, chain)}


def row_single(_setting: measure.Setting) -> measure.Metrics:
    async def one_by_one(count: int) -> None:
        for _ in range(count):
            await wide(1)

    return {"single": per_second(2_000, one_by_one)}


def row_many(_setting: measure.Setting) -> measure.Metrics:
    async def together(count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(wide(1))

    return {"many": per_second(measure.MANY, together)}


def row_submitters(_setting: measure.Setting) -> measure.Metrics:
    """Threads that submit coroutines to one loop and wait for their results."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        return {"submitters": measure.rate_of_threads(lambda: asyncio.run_coroutine_threadsafe(noop(), loop).result())}
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def row_application(_setting: measure.Setting) -> measure.Metrics:
    return asyncio.run(measure.application(lambda: asyncio.create_task(noop())))


def row_resume(_setting: measure.Setting) -> measure.Metrics:
    async def run() -> list[float]:
        seconds = []
        for _ in range(measure.RESUMES):
            second = measure.Second()
            start = time.perf_counter()
            while not second.ask():
                await asyncio.sleep(measure.RESUME_POLL_SECONDS)
            seconds.append(time.perf_counter() - start)
        return seconds

    return measure.resume_lateness(asyncio.run(run()))


def row_waiting(setting: measure.Setting) -> measure.Metrics:
    """The same number of coroutines that poll every second, on a loop with its own thread."""
    return waiters("wait", measure.DEFERRED, setting)


def row_parked(setting: measure.Setting) -> measure.Metrics:
    return waiters("parked", measure.PARKED, setting)


def waiters(what: str, count: int, setting: measure.Setting) -> measure.Metrics:
    release = measure.Release(count)

    async def waiter(number: int) -> None:
        while not release.ask(number):
            await asyncio.sleep(measure.POLL_SECONDS)

    async def all_waiters() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(waiter(number))

    loop = threading.Thread(target=lambda: asyncio.run(all_waiters()))
    return measure.measure_waiting(what, setting, release, loop.start, loop.join)


def row_gates(_setting: measure.Setting) -> measure.Metrics:
    """The same number of coroutines that poll every second."""
    shut = measure.Shut()

    async def waiter() -> None:
        while not shut.ask():
            await asyncio.sleep(measure.POLL_SECONDS)

    async def all_waiters() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(measure.GATES):
                group.create_task(waiter())

    loop = threading.Thread(target=lambda: asyncio.run(all_waiters()))
    return measure.measure_gates(shut, loop.start, loop.join)


def row_async_waiting(setting: measure.Setting) -> measure.Metrics:
    return {key.replace("gate", "async_wait"): value for key, value in row_gates(setting).items()}


def row_signal_gates(_setting: measure.Setting) -> measure.Metrics:
    """The same number of coroutines that each wait for a future, which another thread sets."""
    futures: list[asyncio.Future[int]] = []

    async def waiter(future: asyncio.Future[int]) -> int:
        return await future

    async def all_waiters() -> None:
        running = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for _ in range(measure.GATES):
                futures.append(running.create_future())
                group.create_task(waiter(futures[-1]))

    loop = threading.Thread(target=lambda: asyncio.run(all_waiters()))

    def set_all() -> None:
        for future in futures:
            future.set_result(1)

    def open_all() -> None:
        futures[0].get_loop().call_soon_threadsafe(set_all)
        loop.join()

    return measure.measure_signal_gates(loop.start, open_all, lambda: 0)


def row_late(_setting: measure.Setting) -> measure.Metrics:
    late: list[float] = []

    async def body(due: list[float]) -> None:
        for moment in due:
            while time.monotonic() < moment:
                await asyncio.sleep(measure.LATE_POLL_SECONDS)
            late.append(time.monotonic() - moment)

    async def all_bodies() -> None:
        async with asyncio.TaskGroup() as group:
            for due in measure.due_times(time.monotonic()):
                group.create_task(body(due))

    asyncio.run(all_bodies())
    return measure.lateness(late)


if __name__ == "__main__":
    measure.main(
        {
            "import": row_import,
            "wide": row_wide,
            "wide_async": row_wide_async,
            "first": row_first,
            "growth": row_growth,
            "sleeps": row_sleeps,
            "chain": row_chain,
            "single": row_single,
            "many": row_many,
            "submitters": row_submitters,
            "application": row_application,
            "waiting": row_waiting,
            "parked": row_parked,
            "resume": row_resume,
            "gates": row_gates,
            "async_waiting": row_async_waiting,
            "signal_gates": row_signal_gates,
            "late": row_late,
        }
    )
