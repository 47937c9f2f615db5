"""An order that waits for its payment or its cancellation, whichever comes first, and gives up after a while.

    python examples/order.py

Three orders are placed, and none of them is paid yet. Each waits for three things at once: the
payment, the cancellation, and its deadline. The shop's other half, here `main`, sends signals, as a
payment provider's webhook would. What comes first decides in one commit; what comes later is kept,
and the order that was paid finds its late cancellation and refunds it.
"""

from dataclasses import dataclass
from datetime import timedelta

import bide


@dataclass
class Payment:
    cents: int
    method: str


payment = bide.signal("payment", Payment)
cancellation = bide.signal("cancellation", str)

shipped: list[str] = []
refunded: list[str] = []


def ship(order: str) -> None:
    """Stand for a call of the warehouse."""
    shipped.append(order)


def refund(order: str) -> None:
    """Stand for a call of the payment provider."""
    refunded.append(order)


@bide.task
def settle(order: str, patience: timedelta, handle: bide.TaskHandle) -> str:
    first = handle.wait_any(paid=payment, cancelled=cancellation, late=bide.after(patience))
    if first.name == "late":
        return "given up"
    if first.name == "cancelled":
        return f"cancelled: {first.value}"
    handle.step(ship, order)
    regretted, _ = handle.wait_any(cancellation, bide.after(0.1), name="regret")
    if regretted is None:
        return f"shipped for {first.value.cents / 100:.2f} by {first.value.method}"
    handle.step(refund, order)
    return f"refunded: {regretted.value}"


workflow = bide.Workflow("order", [settle], signals=[payment, cancellation])


def main() -> None:
    """Place the orders, send what the outside would, then print and check the results."""
    with bide.Runner(":memory:", slots=1) as runner:
        patience = {"paid": 60, "regretted": 60, "cancelled": 60, "forgotten": 0.05}
        runs = {
            order: runner.submit(workflow, {"order": order, "patience": timedelta(seconds=seconds)}, key=order)
            for order, seconds in patience.items()
        }
        runner.signal("paid", payment, Payment(4200, "card"), id="evt_1")
        runner.signal("paid", payment, Payment(4200, "card"), id="evt_1")  # a webhook may come twice
        runner.signal("regretted", payment, Payment(700, "transfer"), id="evt_2")
        runner.signal("regretted", cancellation, "wrong size")
        runner.signal("cancelled", cancellation, "found it cheaper")
        results = {order: run.result(timeout=30)[settle] for order, run in runs.items()}

    for order, result in results.items():
        print(f"{order + ':':12} {result}")
    assert results == {
        "paid": "shipped for 42.00 by card",
        "regretted": "refunded: wrong size",
        "cancelled": "cancelled: found it cheaper",
        "forgotten": "given up",
    }
    assert sorted(shipped) == ["paid", "regretted"]
    assert refunded == ["regretted"]


if __name__ == "__main__":
    main()
