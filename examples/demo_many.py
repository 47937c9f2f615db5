"""Four runners in processes of their own work through orders on one PostgreSQL, and everything goes wrong.

    make demo-many

One runner is killed in the middle of its work, one is stopped until the others have taken over its runs and then
continued, and the server is stopped as by a crash and started again. Each order charges a customer, waits for the
payment and ships; a ledger, a plain file outside of bide, has a line for each charge and each shipment. At the end the
demo compares it with what bide has recorded. It starts a PostgreSQL of its own with `scripts/postgres`, and exits with
1 if a check fails.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import bide

RUNNERS = 4
SLOTS = 4
BATCHES = 4  # of payments
PATIENCE = 120.0  # seconds to wait for something that should happen soon
SERVER = Path(__file__).parent.parent / "scripts" / "postgres"

PAID = bide.signal("paid", int)


# --- what the runners execute ----------------------------------------------------------------------------------------


def note(ledger: str, *words: object) -> None:
    """Write a line that survives any kill."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def act(what: str, order: int, ledger: str) -> str:
    """Do something outside of bide; return the number of its receipt."""
    receipt = uuid.uuid4().hex
    note(ledger, what, order, receipt, os.getpid())
    return receipt


@bide.task
def charge(order: int, ledger: str, handle: bide.TaskHandle) -> list[str | int]:
    """Charge the customer, and wait for the payment without a slot."""
    receipt = handle.step(act, "charge", order, ledger, name="charge")
    handle.sleep(0.1)
    return [receipt, handle.wait(PAID)]


@bide.task
def ship(charge: list[str | int], order: int, ledger: str, handle: bide.TaskHandle) -> str:
    """Ship what was paid."""
    _, paid = charge
    assert paid == 1
    time.sleep(0.02)  # some work
    return handle.step(act, "ship", order, ledger, name="ship")


orders = bide.Workflow("orders", [charge, ship], signals=[PAID])


def serve(store: str) -> None:
    """Execute runs until the standard input ends."""
    with bide.Runner(store, slots=SLOTS, workflows=[orders]):
        print("ready", flush=True)
        sys.stdin.read()


# --- the script ------------------------------------------------------------------------------------------------------


class DifferentError(Exception):
    """Something did not happen as the demo expects."""


class Demo:
    """A folder with a server and the ledger, the runners, and a client that watches them."""

    def __init__(self, folder: Path, count: int) -> None:
        """Start the server."""
        self.folder, self.count = folder, count
        self.ledger = folder / "ledger.txt"
        self.began = time.monotonic()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.store = self.server("start")

    def server(self, action: str, *words: str) -> str:
        """Have `scripts/postgres` do something to the server; return what it prints."""
        asked = [str(SERVER), action, str(self.folder / "server"), *words]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DifferentError(f"the server: {done.stderr.strip()}")
        return done.stdout.strip()

    def say(self, text: str) -> None:
        """Print what happens, and when."""
        print(f"{time.monotonic() - self.began:5.1f} s  {text}", flush=True)

    def start_worker(self) -> None:
        """Start a runner in a process of its own, and wait until it executes."""
        with (self.folder / f"worker-{len(self.workers) + 1}.txt").open("wb") as errors:
            worker = subprocess.Popen(
                [sys.executable, "-m", "examples.demo_many", "--serve"],
                env={**os.environ, "BIDE_STORE": self.store},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.workers.append(worker)
        if worker.stdout is None or worker.stdout.readline() != b"ready\n":
            raise DifferentError(f"worker {worker.pid} does not start")

    def lines(self) -> list[list[str]]:
        """Read the ledger."""
        return [line.split() for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds; the demo fails if it never does."""
        give_up = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > give_up:
                raise DifferentError(f"{what}: not so after {PATIENCE:.0f} s")
            time.sleep(0.05)


def pay(client: bide.Client, runs: Iterable[bide.RunHandle]) -> None:
    """Send the payment of some orders; one that is sent twice counts once."""
    for run in runs:
        client.signal(run.id, PAID, 1, id="payment")
        with contextlib.suppress(bide.SignalRejected):  # its run has ended by now
            client.signal(run.id, PAID, 1, id="payment")


def act_all(demo: Demo, client: bide.Client) -> list[bide.RunHandle]:
    """Perform the demo."""

    def done(count: int) -> Callable[[], bool]:
        return lambda: len({line[1] for line in demo.lines() if line[0] == "ship"}) >= count

    for _ in range(RUNNERS):
        demo.start_worker()
    demo.say(f"{RUNNERS} runners are up, each with {SLOTS} slots: {', '.join(str(one.pid) for one in demo.workers)}")
    runs: list[bide.RunHandle] = []
    lot = max(1, demo.count // 100)
    for first in range(0, demo.count, lot):
        some = range(first, min(first + lot, demo.count))
        inputs = [{"order": order, "ledger": str(demo.ledger)} for order in some]
        runs += client.submit_many(orders, inputs, keys=[f"order {order}" for order in some])
    demo.say(f"a client has submitted {demo.count:,} orders, some at a time")
    demo.until(lambda: sum(line[0] == "charge" for line in demo.lines()) >= demo.count, "all are charged")
    demo.say("all are charged, and wait for their payments")

    size = demo.count // BATCHES
    batches = [runs[at * size : (at + 1) * size if at + 1 < BATCHES else None] for at in range(BATCHES)]
    killed, stopped = demo.workers[:2]

    pay(client, batches[0])
    demo.until(done(1), "an order is shipped")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    demo.say(f"the first payments are there; runner {killed.pid} was killed while it shipped")
    demo.until(done(size), "the first payments are worked off")

    stopped.send_signal(signal.SIGSTOP)
    demo.say(f"runner {stopped.pid} is stopped, and has runs that it does not give back")
    pay(client, batches[1])
    demo.until(done(size + 1), "the others ship")
    demo.server("stop", "immediate")
    demo.say("the server was stopped as by a crash, in the middle of the second payments")
    demo.server("start")
    demo.say("the server is up again")
    pay(client, batches[2])
    demo.until(done(3 * size), "the others have taken over what the stopped runner had")
    demo.say("the others have shipped what the stopped runner had: they took it for dead")

    stopped.send_signal(signal.SIGCONT)
    demo.say(f"runner {stopped.pid} goes on")
    pay(client, batches[3])
    for run in runs:
        run.result(PATIENCE)
    demo.say("all orders are shipped")
    for worker in demo.workers[1:]:
        if worker.stdin is not None:
            worker.stdin.close()
        if worker.wait(PATIENCE) != 0:
            raise DifferentError(f"runner {worker.pid} ended with exit code {worker.returncode}")
    return runs


def findings(demo: Demo, client: bide.Client, runs: list[bide.RunHandle]) -> list[tuple[str, bool]]:
    """Return the claims of the demo, and whether each of them is true."""
    lines = demo.lines()
    receipts = {(what, int(order)): set[str]() for what, order, _, _ in lines}
    for what, order, receipt, _ in lines:
        receipts[what, int(order)].add(receipt)
    found = client.runs(workflow=orders)
    recorded = {}
    for run in found:
        number = int((run.key or "").removeprefix("order "))
        recorded["charge", number], recorded["ship", number] = run.outputs["charge"][0], run.outputs["ship"]
    twice = len(lines) - len(receipts)
    by = Counter(line[3] for line in lines)
    print(
        f"        {len(lines):,} lines in the ledger: {', '.join(f'{count:,} by {pid}' for pid, count in by.items())}"
    )
    print(f"        {twice} of them were done again, because their runner had not recorded them when it died")
    most = RUNNERS * SLOTS
    return [
        ("a runner was ended by SIGKILL", demo.workers[0].returncode == -signal.SIGKILL),
        (
            "every order has one run, and all are complete: nothing is lost",
            len(found) == demo.count
            and {run.id for run in found} == {run.id for run in runs}
            and all(run.status == bide.RunStatus.Completed for run in found),
        ),
        (
            "each step is recorded once, with a receipt that is in the ledger",
            recorded.keys() == receipts.keys() and all(recorded[key] in receipts[key] for key in receipts),
        ),
        ("each payment counted once, though each was sent twice", all(run.outputs["charge"][1] == 1 for run in found)),
        (
            f"no step was done again but those under way at a kill, a stop or a restart: at most {most}",
            twice <= most and all(len(found) <= 3 for found in receipts.values()),
        ),
        ("each runner has done some of the work", len(by) == RUNNERS),
    ]


def main(count: int) -> int:
    """Perform the demo and print what happens and the findings; return 0 if all of them are true."""
    with tempfile.TemporaryDirectory(prefix="bide-demo-many-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root the server runs as another user
        demo = None
        try:
            demo = Demo(folder, count)
            with bide.Runner(demo.store):
                pass  # it makes the tables
            with bide.Client(demo.store) as client:
                runs = act_all(demo, client)
                good = True
                for text, holds in findings(demo, client, runs):
                    print(f"{'ok ' if holds else 'NO '} {text}")
                    good = good and holds
        except DifferentError as different:
            print(f"the demo failed: {different}", file=sys.stderr)
            for file in sorted(folder.glob("worker-*.txt")):
                print(f"--- {file.stem} said:\n{file.read_text()}", file=sys.stderr)
            return 1
        finally:
            for worker in demo.workers if demo else ():
                worker.kill()
                worker.wait()
            if demo:
                demo.server("stop", "immediate")
    print("the demo went as it says" if good else "the demo DID NOT go as it says")
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Four runners on one PostgreSQL.")
    parser.add_argument("--orders", type=int, default=1000, help="how many orders (default: 1000)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(os.environ["BIDE_STORE"])
    else:
        sys.exit(main(arguments.orders))
