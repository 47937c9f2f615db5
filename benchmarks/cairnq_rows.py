"""The rows of cairnq: a queue of tasks in a SQLite file, client and worker in one process.

It runs in an environment of its own (`make bench-peers`). cairnq has no workflows:
in a chain, each task is submitted when the previous one has ended. Worker and client
poll every millisecond; with the defaults, 500 and 100, the poll intervals would
dominate the measurement.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from cairnq import CairnQ, Worker

from . import measure

TASKS = 500
POLL_MS = 1
SLOTS = 4


@asynccontextmanager
async def serving(file: str) -> AsyncIterator[CairnQ]:
    """Open a client, and a worker that has executed a task."""
    worker = Worker.sqlite(file, concurrency=SLOTS, poll_interval_ms=POLL_MS)

    @worker.task("increment")
    def increment(_context: object, payload: dict[str, int]) -> dict[str, int]:
        return {"value": payload["value"] + 1}

    async with CairnQ.sqlite(file) as client:
        served = asyncio.create_task(worker.run())
        await call(client, 0)
        yield client
        worker.stop()
        await served
        await worker.close()


async def call(client: CairnQ, value: int) -> int:
    """Execute one task, from its submission until its value is available."""
    result = await client.call("increment", {"value": value}, poll_ms=POLL_MS, max_poll_ms=POLL_MS)
    return result["value"]


def timed(work: Callable[[CairnQ], Awaitable[int]]) -> float:
    """Return the units per second of work that returns how many units it did."""

    async def run(file: str) -> float:
        async with serving(file) as client:
            start = time.perf_counter()
            return await work(client) / (time.perf_counter() - start)

    with measure.scratch() as folder:
        return asyncio.run(run(f"{folder}/cairnq.db"))


def row_chain(_setting: measure.Setting) -> measure.Metrics:
    async def chain(client: CairnQ) -> int:
        value = 0
        while value < TASKS:
            value = await call(client, value)
        return value

    return {"chain": timed(chain)}


def row_single(_setting: measure.Setting) -> measure.Metrics:
    async def in_turn(client: CairnQ) -> int:
        tasks = 0
        end = time.perf_counter() + measure.SINGLE_SECONDS
        while time.perf_counter() < end:
            await call(client, 0)
            tasks += 1
        return tasks

    return {"single": timed(in_turn)}


def row_many(_setting: measure.Setting) -> measure.Metrics:
    async def together(client: CairnQ) -> int:
        submitted = [await client.submit("increment", {"value": 0}) for _ in range(TASKS)]
        for task in submitted:
            ended = await client.wait(task.id, poll_ms=POLL_MS, max_poll_ms=POLL_MS)
            if not ended.succeeded:
                raise RuntimeError(str(ended))
        return len(submitted)

    return {"many": timed(together)}


if __name__ == "__main__":
    measure.main({"chain": row_chain, "single": row_single, "many": row_many})
