"""`bide.metrics()`: figures of the runners of this process, without OpenTelemetry. Rust counts them."""

from typing import Any

from bide import _core


def metrics() -> dict[str, Any]:
    """Return figures of all runners of this process, also of those that are closed, as a plain dictionary.

    `bide.run.open`, `bide.wait.open`, `bide.slot.used` and `bide.slot.free` are what there is now; the rest counts from
    the start of the process. A duration is a dictionary with `count`, `sum` and `max`, in seconds. `Runner.metrics` has
    the same figures of one runner. docs/telemetry.md lists them.
    """
    return _core.metrics()
