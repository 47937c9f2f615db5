"""A purchase that a person approves by a link in a mail, with a reminder and a second person who is asked later.

    python examples/approval.py

The approval begins when accounting has said what a purchase may cost. Until then it waits at a gate, which costs a row
and no thread. Each mail has a link with the token of a callback, so its reader answers without knowing of any run.
After one day the manager is reminded. After two days the director is asked too, and the first answer decides. For one
of the three purchases, the server, two days last one second here.

The script is accounting, and starts itself as a worker, which is killed with SIGKILL once it has reminded the manager.
While no process executes the runs, the manager answers two of the mails. Then the script continues the runs on the same
file. No mail is sent twice, and the links in the dead worker's mails still work.
"""

import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import bide

PRICES = {"chairs": 400, "server": 9_000, "yacht": 2_000_000}
PATIENCE = {"chairs": timedelta(days=2), "server": timedelta(seconds=1), "yacht": timedelta(days=2)}


@dataclass
class Decision:
    approved: bool
    by: str
    reason: str = ""


budget = bide.signal("budget", int)


def send(outbox: Path, to: str, text: str, token: str) -> None:
    """Stand for a mail with a link such as `https://shop.example/decide?token=...`."""
    with (outbox / f"{to}.txt").open("a") as file:
        file.write(f"{token} {text}\n")


@bide.task(gate=budget)
def approve(
    purchase: str, price: Annotated[int, bide.Gate], patience: timedelta, outbox: Path, handle: bide.TaskHandle
) -> Decision:
    manager = handle.callback("manager", Decision)
    handle.step(send, outbox, "manager", f"Approve {purchase} for {price}", manager.token)
    answer, _ = handle.wait_any(manager, bide.after(patience / 2))
    if answer is not None:
        return answer.value
    handle.step(send, outbox, "manager", f"Please answer: approve {purchase}", manager.token)
    handle.emit("reminded")
    answer, _ = handle.wait_any(manager, bide.after(patience / 2))
    if answer is not None:
        return answer.value
    director = handle.callback("director", Decision)
    handle.step(send, outbox, "director", f"The manager is silent: approve {purchase}", director.token)
    handle.emit("escalated")
    first: Decision = handle.wait_any(manager=manager, director=director).value
    return first


@bide.task
def buy(approve: Decision) -> str:
    if not approve.approved:
        raise bide.Skip(f"not bought, the {approve.by} says: {approve.reason}")
    return f"bought, approved by the {approve.by}"


workflow = bide.Workflow("purchase", [approve, buy], signals=[budget])


def submit(runner: bide.Runner, folder: Path) -> dict[str, bide.RunHandle]:
    """Start a run for each purchase, or continue it if it exists."""
    return {
        purchase: runner.submit(
            workflow, {"purchase": purchase, "patience": patience, "outbox": folder / "outbox"}, key=purchase
        )
        for purchase, patience in PATIENCE.items()
    }


def work(folder: Path) -> None:
    """Be the worker: execute the runs, and print what happens to the server."""
    with bide.Runner(folder / "bide.db") as runner:
        runs = submit(runner, folder)
        print("submitted", flush=True)
        for event in runs["server"].follow():
            print(event.value, flush=True)


def mails(outbox: Path, to: str) -> dict[str, str]:
    """Return the mails to a person: their texts, and for each one the token in its link."""
    found: dict[str, str] = {}
    for line in (outbox / f"{to}.txt").read_text().splitlines():
        token, text = line.split(" ", 1)
        assert text not in found, f"a mail was sent twice: {text}"
        found[text] = token
    return found


def main() -> None:
    """Kill a worker between reminder and escalation, continue its runs, and check the decisions and the mails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        outbox = folder / "outbox"
        outbox.mkdir()
        with subprocess.Popen([sys.executable, __file__, name], stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "submitted\n"
            with bide.Client(folder / "bide.db") as accounting:
                assert not any(outbox.iterdir()), "nobody is asked before the gate is open"
                accounting.signal_many([(purchase, budget, price) for purchase, price in PRICES.items()])
            said = worker.stdout.readline()
            worker.kill()
        assert said == "reminded\n", "the worker ended before it had reminded the manager"

        with bide.Runner(folder / "bide.db") as runner:
            to_manager = mails(outbox, "manager")  # sent by the worker
            # What a web server would do with the forms behind the links. It needs no workflow.
            runner.resolve(to_manager["Approve chairs for 400"], {"approved": True, "by": "manager"})
            runner.resolve(
                to_manager["Approve yacht for 2000000"], {"approved": False, "by": "manager", "reason": "too long"}
            )

            runs = submit(runner, folder)
            assert any(event.value == "escalated" for event in runs["server"].follow())
            [token] = mails(outbox, "director").values()
            runner.resolve(token, {"approved": True, "by": "director"})
            results = {purchase: run.result(timeout=30) for purchase, run in runs.items()}
            late = ""
            try:
                runner.resolve(to_manager["Approve server for 9000"], {"approved": False, "by": "manager"})
            except bide.SignalRejected as refusal:
                late = str(refusal)

        print(f"worker:   ended by {signal.Signals(-worker.returncode).name} when it had reminded the manager")
        for purchase, result in results.items():
            print(f"{purchase + ':':9} {result.outputs.get('buy') or result.tasks['buy'].blocked_by}")
        print(f"late:     {late}")
        assert "has ended" in late
        assert results["chairs"][buy] == "bought, approved by the manager"
        assert results["server"][buy] == "bought, approved by the director"
        assert results["yacht"][approve] == Decision(approved=False, by="manager", reason="too long")
        assert results["yacht"].tasks["buy"].status == bide.TaskStatus.Skipped
        assert sorted([*mails(outbox, "manager"), *mails(outbox, "director")]) == [
            "Approve chairs for 400",
            "Approve server for 9000",
            "Approve yacht for 2000000",
            "Please answer: approve server",
            "The manager is silent: approve server",
        ]


if __name__ == "__main__":
    work(Path(sys.argv[1])) if sys.argv[1:] else main()
