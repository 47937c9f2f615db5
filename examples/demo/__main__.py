"""The demo's script: start a worker, kill it while it waits, start it again, and check the result.

There are three processes: this one, which only watches and checks (its runner has
no workflows), a worker that is killed, and a second worker that continues its run.
The demo exits with 1 if a check fails.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import bide

from .view import View, describe, timeline
from .workflow import KEY, QUIET_SECONDS

PATIENCE = 12.0  # seconds to wait for something that should happen at once
INTERVAL = 0.1  # seconds between two reads of the run
SHOW = 2.0  # seconds for which a state is shown


class DifferentError(Exception):
    """Something did not happen as the demo expects."""


class Demo:
    """One execution of the demo: a folder with the database, the file to wait for and the ledger."""

    def __init__(self, folder: Path, runner: bide.Runner, view: View) -> None:
        """Set the demo up, without starting a worker."""
        self.folder = folder
        self.runner = runner
        self.view = view
        self.data = folder / "data.csv"
        self.ledger = folder / "ledger.txt"
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker; its output goes to a file beside the database."""
        with self.output(len(self.workers)).open("wb") as output:
            worker = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "examples.demo.worker",
                    self.folder / "bide.db",
                    self.data,
                    self.ledger,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(worker)
        self.view.executed_by = f"worker {worker.pid}"
        return worker

    def output(self, number: int) -> Path:
        """Return the file with a worker's output."""
        return self.folder / f"worker-{number + 1}.txt"

    def run(self) -> bide.RunResult | None:
        """Read the run from outside, as any other process can."""
        try:
            return self.runner.get(KEY, workflow="ingest")
        except KeyError:
            return None

    def watch(self, until: Callable[[bide.RunResult], bool], what: str, patience: float = PATIENCE) -> bide.RunResult:
        """Show the run until a condition holds; the demo fails if it never does."""
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up:
            run = self.run()
            if run is not None:
                self.view.show(run)
                if until(run):
                    return run
            time.sleep(INTERVAL)
        raise DifferentError(f"{what}: not so after {patience:.0f} s")

    def linger(self) -> None:
        """Show the current state for a while."""
        end = time.monotonic() + SHOW
        self.watch(lambda _: time.monotonic() >= end, "the run can be read", SHOW + 1.0)

    def deliver(self) -> None:
        """Write the file that the workflow waits for, atomically."""
        part = self.data.with_suffix(".part")
        part.write_text("amount,currency\n100,EUR\n20,CHF\n12.5,EUR\n")
        part.rename(self.data)

    def entered(self) -> list[tuple[str, int]]:
        """Read the ledger: the bodies that were entered, in order, and the process of each."""
        lines = (line.split() for line in self.ledger.read_text().splitlines())
        return [(task, int(pid)) for task, pid in lines]


def waits(run: bide.RunResult, task: str) -> bool:
    """Return whether this task waits."""
    return describe(run.tasks[task])[0] == "waits"


def started(run: bide.RunResult, task: str) -> datetime:
    """Return when this task's body was entered for the first time."""
    if (moment := run.tasks[task].first_started_at) is None:
        raise DifferentError(f"{task} never started")
    return moment


def ended(run: bide.RunResult, task: str) -> datetime:
    """Return when this task ended."""
    if (moment := run.tasks[task].ended_at) is None:
        raise DifferentError(f"{task} never ended")
    return moment


def act(demo: Demo) -> tuple[bide.RunResult, bide.RunResult, datetime, datetime]:
    """Perform the demo; return the run after the kill and at the end, and the times of the kill and the restart."""
    first = demo.start_worker()
    demo.view.say(f"worker {first.pid} starts the run: one slot, and a file to wait for that is missing")
    demo.watch(
        lambda run: waits(run, "wait_for_data") and run.tasks["load_rates"].status == bide.TaskStatus.Completed,
        "wait_for_data waits, and load_rates has run in the only slot meanwhile",
    )
    demo.view.say("wait_for_data has released its slot, and load_rates has used it")
    demo.linger()

    first.send_signal(signal.SIGKILL)
    first.wait()
    killed = datetime.now(UTC)
    demo.view.executed_by = "nobody"
    demo.view.say(f"worker {first.pid} killed with SIGKILL while it waits; nobody executes the run now")
    demo.linger()
    orphan = demo.watch(lambda _: True, "the run is still in the database")

    restarted = datetime.now(UTC)
    second = demo.start_worker()
    demo.view.say(f"worker {second.pid} started on the same database with the same key")
    give_up = time.monotonic() + PATIENCE
    while ("wait_for_data", second.pid) not in demo.entered() and time.monotonic() < give_up:
        time.sleep(INTERVAL)
    demo.watch(lambda run: waits(run, "wait_for_data"), "the second worker waits instead of the first one")
    demo.linger()

    demo.deliver()
    demo.view.say("the file is delivered")
    final = demo.watch(lambda run: run.status == bide.RunStatus.Completed, "the run completes", 2 * PATIENCE)
    if second.wait(PATIENCE) != 0:
        raise DifferentError(f"the second worker ended with exit code {second.returncode}")
    demo.view.say(f"worker {second.pid} printed: {demo.output(1).read_text().strip()}")
    return orphan, final, killed, restarted


def findings(demo: Demo, orphan: bide.RunResult, final: bide.RunResult, killed: datetime) -> list[tuple[str, bool]]:
    """Return the claims of the demo, and whether each of them is true."""
    first, second = (worker.pid for worker in demo.workers)
    entered = demo.entered()
    wait = final.tasks["wait_for_data"]
    waited_from, waited_to = started(final, "wait_for_data"), ended(final, "wait_for_data")
    quiet = started(final, "publish") - ended(final, "process_data")
    return [
        ("the first worker was ended by SIGKILL", demo.workers[0].returncode == -signal.SIGKILL),
        (
            "its run was still in the database, unfinished, its wait open",
            orphan.status == bide.RunStatus.Running and waits(orphan, "wait_for_data"),
        ),
        (
            "the second worker continued the same run, and there is only one",
            orphan.id == final.id and [run.id for run in demo.runner.runs()] == [final.id],
        ),
        (
            "the body that waited was entered once by each worker, as one attempt",
            [pid for task, pid in entered if task == "wait_for_data"] == [first, second] and wait.attempts == 1,
        ),
        (
            "what was committed before the kill did not run again",
            entered.count(("load_rates", first)) == 1 and ("load_rates", second) not in entered,
        ),
        (
            "what came after ran once, in the second worker",
            [line for line in entered if line[0] in {"process_data", "publish"}]
            == [("process_data", second), ("publish", second)],
        ),
        (
            "the wait held no slot: load_rates ran and ended within it, with one slot",
            waited_from < ended(final, "load_rates") < killed < waited_to,
        ),
        (
            "the wait counts from before the kill",
            waited_from < killed and wait.waited > 2 * SHOW,
        ),
        (
            "the gate kept publish from starting too early",
            quiet.total_seconds() >= QUIET_SECONDS,
        ),
        (
            "the result is right",
            final["process_data"] == 142.5 and final["publish"] == "total 142.50 EUR",
        ),
    ]


def main() -> int:
    """Perform the demo and print the timeline and the findings; return 0 if all of them are true."""
    with tempfile.TemporaryDirectory(prefix="bide-demo-") as name:
        folder = Path(name)
        with bide.Runner(folder / "bide.db") as runner:
            demo = Demo(folder, runner, View())
            try:
                with demo.view:
                    orphan, final, killed, restarted = act(demo)
                print()
                print("\n".join(timeline(final, killed, restarted, demo.view.console.encoding)))
                print()
                good = True
                for text, holds in findings(demo, orphan, final, killed):
                    print(f"{'ok ' if holds else 'NO '} {text}")
                    good = good and holds
            except DifferentError as different:
                print(f"the demo failed: {different}", file=sys.stderr)
                for number in range(len(demo.workers)):
                    print(
                        f"--- worker {number + 1} printed:\n{demo.output(number).read_text()}",
                        file=sys.stderr,
                    )
                return 1
            finally:
                for worker in demo.workers:
                    worker.kill()
                    worker.wait()
    print("the demo went as it says" if good else "the demo DID NOT go as it says")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
