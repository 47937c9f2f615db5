"""A task that downloads page by page from a service with a rate limit, and sleeps when it is told to.

    python examples/rate_limit.py

The service answers three requests per half second, and tells everyone else how long to
wait. The task sleeps for that time, and it holds no slot while it sleeps: `other_work`
executes in the runner's only slot. Each request is a step. After a crash, the pages that
were fetched are read from the journal, so they do not count against the limit again.
"""

import time

import bide

LIMIT, WINDOW = 3, 0.5
PAGES = 8


served: list[float] = []
refused: list[float] = []


def fetch(page: int) -> str | float:
    """Stand for a request: return a page's text, or how many seconds to wait (a real service's `Retry-After`)."""
    now = time.monotonic()
    recent = [moment for moment in served if now - moment < WINDOW]
    if len(recent) < LIMIT:
        served.append(now)
        return f"text of page {page}"
    refused.append(now)
    return recent[-LIMIT] + WINDOW - now


@bide.task
def download(pages: int, handle: bide.TaskHandle) -> list[str]:
    texts: list[str] = []
    for page in range(pages):
        while not isinstance(answer := handle.step(fetch, page), str):
            handle.sleep(answer)
        texts.append(answer)
    return texts


@bide.task
def other_work() -> str:
    return "done while download sleeps"


workflow = bide.Workflow("mirror", [download, other_work])


def main() -> None:
    """Run the workflow, then print and check the result."""
    with bide.Runner(":memory:", slots=1) as runner:
        result = runner.run(workflow, {"pages": PAGES})

    slept = result.tasks["download"].waited
    print(f"download:    {len(result[download])} pages, {len(refused)} refusals, slept {slept:.2f} s")
    print(f"other_work:  {result[other_work]}")

    assert result[download] == [f"text of page {page}" for page in range(PAGES)]
    assert len(served) == PAGES, "a page was served twice"
    assert 0 < len(refused) <= PAGES, f"refused {len(refused)} times: it did not wait as long as it was told"
    assert slept > 0
    other_ended, download_ended = (result.tasks[name].ended_at for name in ("other_work", "download"))
    assert other_ended is not None
    assert download_ended is not None
    assert other_ended < download_ended


if __name__ == "__main__":
    main()
