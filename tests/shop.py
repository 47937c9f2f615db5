"""The workflows of an application, for the tests of the command line: `--app shop:workflows`."""

import bide

APPROVED = bide.signal("approved", str)


@bide.task
def price(items: list[int], factor: int = 1) -> int:
    return sum(items) * factor


@bide.task
def approval(price: int, handle: bide.TaskHandle) -> str:
    callback = handle.callback("paid", str)
    handle.emit(callback.token)
    handle.emit(f"{price} to approve", channel="tokens")
    handle.emit(" now", channel="tokens")
    who = handle.wait(APPROVED)
    return f"{price} approved by {who}, paid by {handle.wait(callback)}"


@bide.task
def fails(handle: bide.TaskHandle) -> None:
    handle.step(lambda: 42, name="answer")
    raise OSError("the disk is gone")


@bide.task(limit=bide.Limit("counter", executing=2, rate=(1000, 60)))
def counts() -> int:
    return 1


@bide.task(gate=bide.signal("never"))
def gated() -> int:
    return 1


@bide.task
def asks(handle: bide.TaskHandle) -> int:
    return handle.wait_for("number", int, timeout=3600)


@bide.task
def lists() -> list[int]:
    return [1, 2, 3]


order = bide.Workflow("order", [price, approval], signals=[APPROVED])
priced = bide.Workflow("priced", [price])
failing = bide.Workflow("failing", [fails])
waiting = bide.Workflow("waiting", [gated])
asking = bide.Workflow("asking", [asks])
listing = bide.Workflow("listing", [lists])
counting = bide.Workflow("counting", [counts])
workflows = [order, priced, failing, waiting, asking, listing, counting]
