"""ThreadPoolExecutor(4)'s rows: plain functions on threads, in memory and without durability."""

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


def row_waiting(setting: measure.Setting) -> measure.Metrics:
    """A bare thread for each wait, asking a plain condition every second."""
    release = measure.Release()

    def waiter(number: int) -> None:
        while not release.ask(number):
            time.sleep(measure.POLL_SECONDS)

    threads = [threading.Thread(target=waiter, args=(number,)) for number in range(measure.DEFERRED)]

    def start() -> None:
        for thread in threads:
            thread.start()

    def join() -> None:
        for thread in threads:
            thread.join()

    return measure.measure_waiting(
        setting,
        release,
        start,
        join,
    )


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
            "waiting": row_waiting,
            "late": row_late,
        }
    )
