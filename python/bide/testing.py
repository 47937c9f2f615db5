"""Test workflows with the real engine: a runner whose time the test moves, stubs, and crashes at chosen places."""

from bide._crash_points import CrashPoints, Difference, EffectRepeated, crash_points
from bide._effects import effect
from bide._rehearse import Rehearsal, Rehearsed, rehearse
from bide._test_clock import Clock, Crashed, NeverSatisfied
from bide._test_handles import RunHandle
from bide._test_runner import Runner

__all__ = [
    "Clock",
    "CrashPoints",
    "Crashed",
    "Difference",
    "EffectRepeated",
    "NeverSatisfied",
    "Rehearsal",
    "Rehearsed",
    "RunHandle",
    "Runner",
    "crash_points",
    "effect",
    "rehearse",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
