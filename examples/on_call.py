"""A night on call: find the orders that are stuck, see why, and repair each of them, from outside their process.

    python examples/on_call.py

The script starts itself as the shop's worker, with five orders, and each of them comes to a halt in another way: the
warehouse does not answer, a payment's webhook was lost, a parcel will not be packed before its deadline, a customer
never answers a survey, and another one has changed their mind. Then the script is the operator, a client of the same
file. `waiting` lists what waits and since when, and `why` explains one order. Each gets what it needs: `retry`,
`satisfy`, `extend`, `skip` or `cancel`, with who has asked and why. The worker carries that out, and the histories of
the runs tell it.
"""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import bide

HALTS = {"refused": "reserve", "unpaid": "collect", "late": "pack", "silent": "ask_customer", "regretted": "pack"}
"""The orders, and the task at which each of them comes to a halt."""

ME = "ana"

paid = bide.signal("paid", int)
answered = bide.signal("answered", str)


def release(warehouse: Path, shelf: str) -> None:
    """Stand for a request that undoes a reservation."""
    (warehouse / "released.txt").write_text(shelf)


@bide.task
def collect(handle: bide.TaskHandle) -> int:
    return handle.wait(paid, timeout=7 * 24 * 3600)


@bide.task(depends_on=[collect])
def reserve(order: str, warehouse: Path) -> str:
    if order == "refused" and (warehouse / "down").exists():
        raise ConnectionError("the warehouse does not answer")
    return f"shelf of {order}"


@bide.task
def pack(order: str, reserve: str, warehouse: Path, handle: bide.TaskHandle) -> str:
    try:
        handle.defer_until((warehouse / f"{order}.packed").exists, poll_interval_ms=50, timeout=3600)
    except bide.Cancelled:
        handle.step(release, warehouse, reserve)
        raise
    return f"parcel of {order}"


@bide.task(depends_on=[pack])
def ask_customer(handle: bide.TaskHandle) -> str:
    return handle.wait(answered)


@bide.task(run_if="done", depends_on=[ask_customer])
def close_order(order: str) -> str:
    return f"{order} is closed"


workflow = bide.Workflow("order", [collect, reserve, pack, ask_customer, close_order], signals=[paid, answered])


def work(folder: Path) -> None:
    """Be the worker: take the orders, and everything that the outside sends to them in time."""
    with bide.Runner(folder / "bide.db") as runner:
        for order in HALTS:
            tags = {"customer": f"of {order}"}
            run = runner.submit(workflow, {"order": order, "warehouse": folder}, key=order, tags=tags)
            if order != "silent":
                run.signal(answered, "fine")
            if order not in {"late", "regretted"}:
                (folder / f"{order}.packed").touch()
            if order != "unpaid":
                run.signal(paid, 4200)
        print("open", flush=True)
        runner.serve()


@contextmanager
def started(folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """Start a worker, and end it when it is not needed any more."""
    with subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "open\n"
            yield worker
        finally:
            worker.terminate()


def until(is_true: Callable[[], object], worker: "subprocess.Popen[str]") -> None:
    """Wait for something that the worker does."""
    while not is_true():
        assert worker.poll() is None, "the worker has ended"
        threading.Event().wait(0.02)


def stuck(client: bide.Client) -> dict[str | None, str]:
    """Find the orders that wait for something or have failed, and in which task."""
    waiting = {wait.key: wait.task for wait in client.waiting()}
    failed = client.runs(workflow="order", status="Failed")
    return waiting | {run.key: str(run.error.task) for run in failed if run.error is not None}


def deadline(client: bide.Client, order: str) -> datetime:
    """Return when the wait of an order times out."""
    [found] = [wait.deadline for wait in client.waiting() if wait.key == order]
    assert found is not None
    return found


def repair(client: bide.Client, warehouse: Path) -> None:
    """Give each of the orders a hand."""
    (warehouse / "down").unlink()
    count = client.retry(status="Failed", workflow="order", by=ME, reason="the warehouse is back")
    assert count == 1
    client.satisfy("unpaid", "collect", 4200, by=ME, reason="paid, says the bank; its webhook was lost")
    client.extend("late", "pack", timedelta(days=2), by=ME, reason="the packers are ill")
    client.skip("silent", "ask_customer", by=ME, reason="this customer never answers")
    client.cancel(tags={"customer": "of regretted"}, by=ME, reason="they have changed their mind")


def main() -> None:
    """Start the worker, be the operator, and check how the orders end and what their histories tell."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "down").touch()
        with started(folder) as worker, bide.Client(folder / "bide.db") as client:
            until(lambda: stuck(client) == HALTS, worker)
            for wait in client.waiting():
                print(f"{wait.key}: {wait.task} waits for {wait.name}, a {wait.kind}")
            print(client.why("late"))
            due = deadline(client, "late")
            repair(client, folder)
            until(lambda: deadline(client, "late") > due + timedelta(days=1), worker)
            (folder / "late.packed").touch()  # much later
            until(lambda: {run.status for run in client.runs(workflow="order")} == {"Completed", "Cancelled"}, worker)
            ended = {order: client.get(order) for order in HALTS}
            asked = {order: [entry for entry in client.history(order) if entry.by == ME] for order in HALTS}
        released = (folder / "released.txt").read_text()

    for order, run in ended.items():
        tasks = ", ".join(f"{name} {task.status}" for name, task in run.tasks.items())
        print(f"{order + ':':10} {run.status}: {tasks}")
        for entry in asked[order]:
            print(f"{'':10} {entry.what} by {entry.by}: {entry.reason}")
    assert {order: str(run.status) for order, run in ended.items()} == {
        "refused": "Completed",
        "unpaid": "Completed",
        "late": "Completed",
        "silent": "Completed",
        "regretted": "Cancelled",
    }
    assert [entry.what for entries in asked.values() for entry in entries] == [
        "retry",
        "satisfy",
        "extend",
        "skip",
        "cancel",
    ]
    assert ended["unpaid"][collect] == 4200
    assert ended["silent"].tasks["ask_customer"].status == bide.TaskStatus.Skipped
    assert all(run[close_order] == f"{order} is closed" for order, run in ended.items())
    assert released == "shelf of regretted"


if __name__ == "__main__":
    work(Path(sys.argv[1])) if sys.argv[1:] else main()
