"""Code that bide's rows share: a runner on the store of the setting, and workflows of no-op tasks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import bide

from . import measure

Body = Callable[..., object]


@contextmanager
def open_runner(
    setting: measure.Setting, slots: int | None = None, on_event: Callable[[bide.RunEvent], object] | None = None
) -> Iterator[bide.Runner]:
    """Open a runner, and close it at the end."""
    if setting.store == "memory":
        with bide.Runner(":memory:", slots=slots, on_event=on_event) as runner:
            yield runner
        return
    if setting.store.startswith("postgresql:"):
        with bide.Runner(fresh_schema(setting.store), slots=slots, on_event=on_event) as runner:
            yield runner
        return
    with (
        measure.scratch() as name,
        bide.Runner(
            Path(name) / "bide.db",
            slots=slots,
            durability="full" if setting.store == "full" else "normal",
            on_event=on_event,
        ) as runner,
    ):
        yield runner


def fresh_schema(url: str) -> str:
    """Return the URL of a store that does not exist yet."""
    return f"{url}?schema=b{time.time_ns()}"


def open_waits(runner: bide.Runner, count: int) -> list[bide.OpenWait]:
    """Return that many open waits, once they are all open."""
    waits: list[bide.OpenWait] = []

    def are_open() -> bool:
        waits[:] = page = runner.waiting(limit=measure.BATCH)
        while len(page) == measure.BATCH:
            page = runner.waiting(limit=measure.BATCH, after=page[-1])
            waits.extend(page)
        return len(waits) == count

    measure.wait_until(are_open, f"{count} waits are open")
    return waits


def noop_named(name: str) -> Body:
    """Build a task with its own function, as a user's tasks have."""

    def noop() -> int:
        return 1

    return bide.task(noop, name=name)


def wide_workflow(size: int) -> bide.Workflow:
    return bide.Workflow(f"wide-{size}", [noop_named(f"task-{number}") for number in range(size)])


def wide_async_workflow(size: int) -> bide.Workflow:
    """Build the same of coroutine functions."""

    def named(name: str) -> Body:
        async def noop() -> int:
            return 1

        return bide.task(noop, name=name)

    return bide.Workflow(f"wide-async-{size}", [named(f"task-{number}") for number in range(size)])


def map_workflow(size: int) -> bide.Workflow:
    """Build a workflow of one task that is mapped over a list."""

    def items() -> list[int]:
        return list(range(size))

    def element(_item: Annotated[int, bide.Each(items)]) -> None:
        return None

    return bide.Workflow(f"map-{size}", [items, element])


def chain_workflow(length: int) -> bide.Workflow:
    """Build a chain in which each task adds one to the value of the previous task."""

    def first() -> int:
        return 1

    def hop_after(previous: str) -> Body:
        def increment(value: Annotated[int, bide.From(previous)]) -> int:
            return value + 1

        return increment

    hops = [bide.task(hop_after(f"task-{n - 1}"), name=f"task-{n}") for n in range(1, length)]
    return bide.Workflow(f"chain-{length}", [bide.task(first, name="task-0"), *hops])


one_workflow = bide.Workflow("one", [noop_named("noop")])
