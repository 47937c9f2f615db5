"""What limits cost where many runs wait, and where a key has many values: rows, and nothing else that grows."""

import resource
import threading
from pathlib import Path

import bide
from bide import _core
from processes import eventually

PATIENCE = 120.0


def resident() -> int:
    """Return how many bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_what_a_limit_holds_back_writes_nothing_while_it_waits(store: str) -> None:
    """A hundred thousand runs that wait: their rows, and no more memory than a run takes."""
    count = 100_000

    @bide.task(limit=bide.Limit("api", in_flight=1))
    def calls(handle: bide.TaskHandle) -> None:
        handle.wait(bide.signal("go", str))

    workflow = bide.Workflow("w", [calls])
    with bide.Runner(store, slots=2) as runner:
        runner.submit(workflow)
        eventually(lambda: bool(runner.waiting()), "the first one is in flight")
        before = resident()
        for _ in range(10):
            runner.submit_many(workflow, [None] * (count // 10))
        eventually(lambda: runner.limits()[0].uses[0].waiting == count, "the others wait")
        assert (resident() - before) / count < 3_000
        commits = _core.counts()[1]
        threading.Event().wait(0.5)  # more than ten looks for changes of the store
        assert _core.counts()[1] == commits


def test_values_of_a_key_that_were_used_once_take_no_memory(store: str) -> None:
    count = 20_000 if store == ":memory:" else 4_000

    @bide.task(limit=bide.Limit("api", in_flight=1, rate=(10, 0.05), key="customer"))
    def calls(customer: int) -> None: ...

    workflow = bide.Workflow("w", [calls])

    def customers(first: int) -> None:
        for handle in runner.submit_many(workflow, [{"customer": first + n} for n in range(count)]):
            handle.result(PATIENCE)

    with bide.Runner(store, retention=0.2) as runner:
        customers(0)
        before = resident()
        for turn in range(1, 5):
            customers(turn * count)
        assert (resident() - before) / (4 * count) < 500
        eventually(lambda: runner.limits()[0].uses == (), "nothing of the limit is used")
