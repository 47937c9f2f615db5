"""A task that waits for a file without holding a slot, and a task that uses its result.

    python examples/deferred_tasks.py

The runner has one slot. `wait_for_data` acquires it first, releases it while the file
is missing, and acquires it again to continue. Meanwhile `other_work` executes in the
slot. A thread writes the file half a second after `other_work` has ended.
`deferred_tasks.rs` in this folder is the same example in Rust.
"""

import tempfile
import threading
from pathlib import Path

import bide

DELAY = 0.5
POLL_MS = 100

other_work_ended = threading.Event()
slot_held: list[tuple[str, bool]] = []


@bide.task
def wait_for_data(path: str, handle: bide.TaskHandle) -> str:
    def has_arrived() -> bool:
        slot_held.append(("poll", handle.is_slot_held()))
        return Path(path).exists()

    slot_held.append(("before", handle.is_slot_held()))
    handle.defer_until(has_arrived, poll_interval_ms=POLL_MS, timeout=30)
    slot_held.append(("after", handle.is_slot_held()))
    return path


@bide.task
def process_data(wait_for_data: str) -> int:
    return len(Path(wait_for_data).read_text())


@bide.task
def other_work() -> str:
    other_work_ended.set()
    return "done while wait_for_data waits"


workflow = bide.Workflow("ingest", [wait_for_data, process_data, other_work])


def deliver(target: Path) -> None:
    """Write the file under another name, then rename it, so that no reader sees an incomplete file."""
    if not other_work_ended.wait(timeout=30):
        return  # the wait times out and reports it
    threading.Event().wait(DELAY)
    part = target.with_suffix(".part")
    part.write_text("twelve bytes")
    part.rename(target)


def main() -> None:
    """Run the workflow beside a thread that delivers the file, then print and check the result."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "data.csv"
        delivery = threading.Thread(target=deliver, args=(target,))
        delivery.start()
        with bide.Runner(Path(folder) / "bide.db", slots=1) as runner:
            result = runner.run(workflow, {"path": str(target)})
        delivery.join()

    waited = result.tasks["wait_for_data"].waited
    polls = [held for moment, held in slot_held if moment == "poll"]
    print(f"process_data:  {result['process_data']} characters")
    print(f"other_work:    {result['other_work']}")
    print(f"waited:        {waited:.2f} s in {len(polls)} polls, {POLL_MS} ms apart")
    print(f"slot held:     before {slot_held[0][1]}, at each poll {polls}, after {slot_held[-1][1]}")

    assert result.status == bide.RunStatus.Completed, result.status
    assert result["process_data"] == len("twelve bytes"), result["process_data"]
    assert waited >= DELAY, f"the file appeared after {DELAY} s, but the task waited {waited:.3f} s"
    # The first poll is the check before the slot is released; all others execute without a slot.
    assert polls[0] is True, polls
    assert not any(polls[1:]), polls
    assert slot_held[0] == ("before", True), slot_held
    assert slot_held[-1] == ("after", True), slot_held
    other_ended, wait_ended = (result.tasks[t].ended_at for t in ("other_work", "wait_for_data"))
    assert other_ended is not None
    assert wait_ended is not None
    assert other_ended < wait_ended


if __name__ == "__main__":
    main()
