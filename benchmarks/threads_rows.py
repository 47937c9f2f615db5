"""The rows of ThreadPoolExecutor(4): plain functions on threads, in memory and without durability."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from . import measure


def noop() -> int:
    return 1


def increment(value: int) -> int:
    return value + 1


def wide(pool: ThreadPoolExecutor, size: int) -> list[int]:
    futures = [pool.submit(noop) for _ in range(size)]
    return [future.result() for future in futures]


def chain(pool: ThreadPoolExecutor, length: int) -> int:
    value = 0
    for _ in range(length):
        value = pool.submit(increment, value).result()
    return value


def warm_pool() -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(4)
    wide(pool, 100)
    return pool


def row_wide(_setting: measure.Setting) -> measure.Metrics:
    with warm_pool() as pool:
        return {"wide": measure.WIDE / measure.timed(lambda: wide(pool, measure.WIDE))}


def row_growth(_setting: measure.Setting) -> measure.Metrics:
    with warm_pool() as pool:
        return measure.growth(lambda size: lambda: wide(pool, size))


def row_sleeps(_setting: measure.Setting) -> measure.Metrics:
    with warm_pool() as pool:
        seconds = [measure.SLEEP_SECONDS] * measure.SLEEPS
        return {"sleeps": measure.timed(lambda: list(pool.map(time.sleep, seconds)))}


def row_chain(_setting: measure.Setting) -> measure.Metrics:
    with warm_pool() as pool:
        return {"chain": measure.CHAIN / measure.timed(lambda: chain(pool, measure.CHAIN))}


def row_single(_setting: measure.Setting) -> measure.Metrics:
    with warm_pool() as pool:
        return {"single": measure.rate_of_calls(lambda: pool.submit(noop).result())}


def bare_threads(what: str, count: int, setting: measure.Setting) -> measure.Metrics:
    """A bare thread for each wait, which polls a plain condition every second; its Thread is part of the cost."""
    release = measure.Release(count)
    threads: list[threading.Thread] = []

    def waiter(number: int) -> None:
        while not release.ask(number):
            time.sleep(measure.POLL_SECONDS)

    def start() -> None:
        for number in range(count):
            threads.append(threading.Thread(target=waiter, args=(number,)))
            threads[-1].start()

    def join() -> None:
        for thread in threads:
            thread.join()

    return measure.measure_waiting(what, setting, release, start, join)


def row_waiting(setting: measure.Setting) -> measure.Metrics:
    return bare_threads("wait", measure.DEFERRED, setting)


def row_parked(setting: measure.Setting) -> measure.Metrics:
    return bare_threads("parked", measure.PARKED, setting)


def row_resume(_setting: measure.Setting) -> measure.Metrics:
    """Measure waits on a bare thread."""
    seconds: list[float] = []

    def wait() -> None:
        second = measure.Second()
        while not second.ask():
            time.sleep(measure.RESUME_POLL_SECONDS)

    def body() -> None:
        seconds.extend(measure.timed(wait) for _ in range(measure.RESUMES))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return measure.resume_lateness(seconds)


def row_submitters(_setting: measure.Setting) -> measure.Metrics:
    with warm_pool() as pool:
        return {"submitters": measure.rate_of_threads(lambda: pool.submit(noop).result())}


def row_application(_setting: measure.Setting) -> measure.Metrics:
    """Await the same plain function on the pool."""

    async def run(pool: ThreadPoolExecutor) -> measure.Metrics:
        loop = asyncio.get_running_loop()
        return await measure.application(lambda: loop.run_in_executor(pool, noop))

    with warm_pool() as pool:
        return asyncio.run(run(pool))


def row_late(_setting: measure.Setting) -> measure.Metrics:
    """A bare thread for each body."""
    late: list[float] = []

    def body(due: list[float]) -> None:
        for moment in due:
            while time.monotonic() < moment:
                time.sleep(measure.LATE_POLL_SECONDS)
            late.append(time.monotonic() - moment)

    due_times = measure.due_times(time.monotonic())
    threads = [threading.Thread(target=body, args=(due,)) for due in due_times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return measure.lateness(late)


if __name__ == "__main__":
    measure.main(
        {
            "wide": row_wide,
            "growth": row_growth,
            "sleeps": row_sleeps,
            "chain": row_chain,
            "single": row_single,
            "submitters": row_submitters,
            "application": row_application,
            "waiting": row_waiting,
            "parked": row_parked,
            "resume": row_resume,
            "late": row_late,
        }
    )
