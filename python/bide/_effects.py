"""`effect`: says in a program that something happens outside which must not happen twice. For tests alone."""

import threading
from collections import Counter

from bide import _core
from bide._here import STEP, place_here

_lock = threading.Lock()
_recorders: list["Effects"] = []


class Effects(Counter[str]):
    """How often each effect happened, while this records; and of these, how often in a step (`in_steps`)."""

    def __init__(self) -> None:
        """Count nothing yet."""
        super().__init__()
        self.in_steps: Counter[str] = Counter()

    def record(self) -> None:
        """Count the effects from here on."""
        with _lock:
            if not any(one is self for one in _recorders):
                _recorders.append(self)

    def stop(self) -> None:
        """Count no more."""
        with _lock:
            _recorders[:] = [one for one in _recorders if one is not self]


def effect(name: str) -> None:
    """Say that an effect happens here, such as a payment: `crash_points` reports one that happens twice."""
    if not _recorders:
        return
    place = place_here()
    in_step = _core.in_step() or (place is not None and place[1] == STEP)
    with _lock:
        for recorder in _recorders:
            recorder[name] += 1
            recorder.in_steps[name] += in_step
