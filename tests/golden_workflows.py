"""The workflows whose runs stand in the golden databases: `scripts/write-golden` writes them, a test finishes them.

What a released file was written with is not changed here. A release that can more adds runs.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import bide

WRITING = "BIDE_GOLDEN_PART" in os.environ
"""Whether the file is being written: conditions do not hold then, and some bodies kill their process."""

PART = int(os.environ.get("BIDE_GOLDEN_PART", "1000"))
FAR = datetime(2999, 1, 1, tzinfo=UTC)
CALLS: list[str] = []
"""What was called that is recorded already, if anything."""


@dataclass
class Reading:
    place: str
    values: list[float]


def is_open() -> bool:
    return not WRITING


def fetch(number: int) -> str:
    """Stand for an effect that must not happen twice."""
    CALLS.append(f"fetch {number}")
    return f"job {number}"


def refuse() -> str:
    """Stand for an effect that failed, which must not be tried again."""
    CALLS.append("refuse")
    msg = "the remote said no"
    raise LookupError(msg)


# --- ended --------------------------------------------------------------------------------------------------------


def nothing() -> None: ...
def yes() -> bool:
    return True


def no() -> bool:
    return False


def number() -> int:
    return -(2**100)


def real() -> float:
    return 0.1


def text() -> str:
    return "\0 ü \u2028 🦀"


def big() -> str:
    return "0123456789" * 2000


def data() -> dict[str, Reading]:
    return {"a": Reading("here", [1.5, -2.0])}


def pickled() -> Annotated[complex, bide.Pickle]:
    return 1 + 2j


VALUES = {
    "nothing": None,
    "yes": True,
    "no": False,
    "number": -(2**100),
    "real": 0.1,
    "text": "\0 ü \u2028 🦀",
    "big": "0123456789" * 2000,
    "data": {"a": Reading("here", [1.5, -2.0])},
    "pickled": 1 + 2j,
}
values = bide.Workflow("values", [nothing, yes, no, number, real, text, big, data, pickled])


def breaks(path: str) -> str:
    known: dict[str, str] = {}
    try:
        return known[path]
    except KeyError as cause:
        error = ValueError(f"no such path: {path}")
        error.add_note("look again")
        raise error from cause


def uses(breaks: str) -> None: ...


@bide.task(run_if="failed", depends_on=[breaks])
def repairs() -> str:
    return "repaired"


failed = bide.Workflow("failed", [breaks, uses, repairs])


def finds_none() -> int:
    raise bide.Skip("no data today")


def counts(finds_none: int) -> int:
    return finds_none


skipped = bide.Workflow("skipped", [finds_none, counts])

# --- waiting ------------------------------------------------------------------------------------------------------


def sleeps(handle: bide.TaskHandle) -> str:
    job = handle.step(fetch, 1)
    handle.sleep(5)
    return job


asleep = bide.Workflow("asleep", [sleeps])


def sleeps_for_long(handle: bide.TaskHandle) -> None:
    handle.sleep_until(FAR)


far = bide.Workflow("far", [sleeps_for_long])


def waits(handle: bide.TaskHandle) -> str:
    job = handle.step(fetch, 2)
    handle.defer_until(is_open, 100)
    return job


def uses_it(waits: str) -> str:
    return waits.upper()


waiting = bide.Workflow("waiting", [waits, uses_it])


def is_late(handle: bide.TaskHandle) -> str:
    try:
        handle.defer_until(lambda: False, 100, timeout=30)
    except bide.WaitTimeout:
        return "too late"
    return "?"


late = bide.Workflow("late", [is_late])


@bide.task(gate=bide.until(is_open, every=0.1))
def behind_a_condition() -> str:
    return "open"


@bide.task(gate=bide.after(5))
def behind_a_time() -> str:
    return "reached"


gated = bide.Workflow("gated", [behind_a_condition, behind_a_time])


@bide.task(retry=bide.Retry(attempts=3, delay=5, jitter=0))
def tries(handle: bide.TaskHandle) -> list[str | int]:
    job = handle.step(fetch, 3)
    if handle.attempt == 1:
        msg = "not at the first try"
        raise ConnectionError(msg)
    return [job, handle.attempt]


retrying = bide.Workflow("retrying", [tries])


def catches(handle: bide.TaskHandle) -> str:
    since = handle.now()
    try:
        handle.step(refuse)
    except Exception as error:  # noqa: BLE001 - its type is not what is looked at
        handle.defer_until(is_open, 100)
        return f"{error}; {since.year >= 2026}"
    return "?"


caught = bide.Workflow("caught", [catches])


def starts(context: bide.Context) -> None:
    context["rows"] = [0]


@bide.task(depends_on=[starts])
def left(context: bide.Context) -> None:
    context["rows"].append(1)
    context["left"] = {"a": 1}


@bide.task(depends_on=[starts])
def right(context: bide.Context) -> None:
    context["rows"].append(2)
    context.remove("unit")


@bide.task(depends_on=[left, right])
def joins(context: bide.Context, handle: bide.TaskHandle) -> dict[str, object]:
    handle.defer_until(is_open, 100)
    return dict(context.to_dict())


shared = bide.Workflow("shared", [starts, left, right, joins])

# --- under way ----------------------------------------------------------------------------------------------------


def suspect() -> str:
    """Be entered in a process that dies, and marked in the next."""
    if WRITING:
        stay()
    return "survived"


suspected = bide.Workflow("suspected", [suspect])


def holds_a_slot() -> str:
    if WRITING:
        stay()
    return "done"


busy = bide.Workflow("busy", [holds_a_slot])


def has_not_begun(n: int) -> int:
    return n


queued = bide.Workflow("queued", [has_not_begun])

# --- paused -------------------------------------------------------------------------------------------------------


def kills() -> None:
    os._exit(1)


killer = bide.Workflow("killer", [kills])


def changes_its_mind(handle: bide.TaskHandle) -> None:
    handle.step(fetch, PART)
    handle.defer_until(lambda: False, 100)


mismatch = bide.Workflow("mismatch", [changes_its_mind])

# --- other code since ---------------------------------------------------------------------------------------------


def was_there(handle: bide.TaskHandle) -> int:
    handle.defer_until(is_open, 100)
    return 1


def is_new() -> int:
    return 2


def is_gone() -> int:
    return 3


grown = bide.Workflow("grown", [was_there] if WRITING else [was_there, is_new])
shrunk = bide.Workflow("shrunk", [was_there, is_gone] if WRITING else [was_there])


# --- every kind of wait, since schema 4 -----------------------------------------------------------------------------

TOKENS: list[str] = []
"""The tokens that the writing process has to answer."""

stop = bide.signal("stop", str)
question = bide.request("question", int, int)
decision = bide.signal("decision", bool)


def inner(n: int, handle: bide.TaskHandle) -> int:
    handle.defer_until(is_open, 100)
    return n + 1


child = bide.Workflow("child", [inner])


def listens(handle: bide.TaskHandle) -> list[object]:
    first = handle.wait_for("first", int)
    handle.step(fetch, 4, key="four")
    handle.step(fetch, 5, once=True)
    started = handle.start(child, {"n": 1}, key="one")
    answered = handle.callback("answered", int)
    handle.emit({"first": first})
    handle.progress(1, 3, "one of three")
    TOKENS.append(answered.token)
    came = handle.wait_any(stop=stop, late=bide.at(FAR), both=bide.all_of(answered, bide.until(is_open)))
    return [first, came.name, handle.wait(answered), handle.wait(started)["inner"], handle.wait_for("later", int)]


listening = bide.Workflow("listening", [listens])


def waits_for_it(handle: bide.TaskHandle) -> int:
    return int(handle.run(child, {"n": 2})["inner"])


parent = bide.Workflow("parent", [waits_for_it])


def desk(handle: bide.TaskHandle) -> list[int]:
    first = handle.wait(question)
    first.reply(2 * first.value)
    second = handle.wait(question)
    handle.defer_until(is_open, 100)
    second.reply(2 * second.value)
    handle.wait(question).reply(0)
    return [first.value, second.value]


asked = bide.Workflow("asked", [desk], signals=[question])


def turns(handle: bide.TaskHandle) -> int:
    done = handle.last_checkpoint(int, 0)
    if done == 0:
        handle.step(fetch, 6)
        handle.checkpoint(1)
        done = 1
    handle.defer_until(is_open, 100)
    return done


looping = bide.Workflow("looping", [turns])


def numbers() -> list[int]:
    return [1, 2, 3]


def tenfold(n: Annotated[int, bide.Each("numbers")], handle: bide.TaskHandle) -> int:
    if n == 2:
        handle.defer_until(is_open, 100)
    return 10 * n


def total(tenfold: list[int]) -> int:
    return sum(tenfold)


mapped = bide.Workflow("mapped", [numbers, tenfold, total])


def pay() -> None:
    if WRITING:
        stay()


def pays_once(handle: bide.TaskHandle) -> str:
    try:
        handle.step(pay, once=True)
    except bide.StepInterrupted:
        return "interrupted"
    return "?"


interrupted = bide.Workflow("interrupted", [pays_once])


@bide.task(gate=bide.all_of(decision, bide.until(is_open, every=0.1)))
def decided() -> str:
    return "decided"


@bide.task(gate=decision)
def told(yes: Annotated[bool, bide.Gate]) -> bool:
    return yes


@bide.task(gate=bide.after(lambda grace: grace))
def patient(grace: float) -> float:
    return grace


deciding = bide.Workflow("deciding", [decided, told, patient])


def is_held(handle: bide.TaskHandle) -> str:
    handle.defer_until(is_open, 100)
    return "went on"


held = bide.Workflow("held", [is_held])


def cleans_up(handle: bide.TaskHandle) -> None:
    try:
        handle.wait_for("never")
    except bide.Cancelled:
        handle.step(fetch, 7)
        handle.defer_until(is_open, 100)
        raise


cancelled = bide.Workflow("cancelled", [cleans_up])


one_at_a_time = bide.Limit("one at a time", in_flight=1, rate=(1000, 3600))


@bide.task(limit=one_at_a_time)
def in_flight(handle: bide.TaskHandle) -> str:
    handle.defer_until(is_open, 100)
    return "landed"


@bide.task(limit=one_at_a_time)
def in_line() -> str:
    return "landed too"


limited = bide.Workflow("limited", [in_flight, in_line])


def is_for_later() -> None: ...


later = bide.Workflow("later", [is_for_later])


def stay() -> None:
    """Execute until the process dies."""
    import threading  # noqa: PLC0415 - for those that stay

    threading.Event().wait()


WORKFLOWS = [workflow for workflow in list(globals().values()) if isinstance(workflow, bide.Workflow)]
