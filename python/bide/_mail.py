"""Sending messages to runs: what `Runner.signal` does, and what it says of one that cannot be delivered."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bide._errors import DefinitionError, SignalRejected
from bide._signals import Request, Signal, as_signal
from bide._text import check_text

if TYPE_CHECKING:
    from bide import _core

SIGNAL, REQUEST, ANSWER = 0, 1, 2
"""The kinds of messages, as they are stored."""


def letter(
    run: str,
    one: object,
    value: object,
    message_id: str | None,
    declared: "tuple[Signal[Any] | Request[Any, Any], ...] | None",
) -> tuple[str, int, str, bytes, str | None]:
    """Return a message to a run as the executor takes it, after checking that the value fits."""
    signal = as_signal(one, "signal")
    if isinstance(signal, Request):
        msg = f"{signal.name!r} is a request, whose sender waits for an answer: send it by runner.request(...)"
        raise DefinitionError(msg)
    if not isinstance(one, Signal):
        # By its name: a workflow that declares it knows the type.
        signal = next((known for known in declared or () if known.name == signal.name), signal)
    given = None if message_id is None else check_text(message_id, "signal: id")
    return run, SIGNAL, signal.name, signal.codec.encode(value), given


def check_sent(letters: Iterable[tuple[Any, ...]], sent: "Iterable[_core.Sent]") -> None:
    """Raise `SignalRejected` or `KeyError` for the first message that was not accepted."""
    for (run, _kind, name, *_), (outcome, details) in zip(letters, sent, strict=True):
        if outcome in {"stored", "duplicate"}:
            continue
        if outcome == "no run":
            msg = f"no run has the id {run!r}"
            raise KeyError(msg)
        if outcome == "ended":
            msg = f"the signal {name!r} was not sent: run {run} has ended ({', '.join(details)})"
        elif outcome == "undeclared":
            known = ", ".join(map(repr, details)) or "none"
            msg = f"the signal {name!r} was not sent: the workflow of run {run} does not declare it (signals: {known})"
        else:
            msg = f"the signal {name!r} was not sent to run {run}: {outcome}"
        raise SignalRejected(msg)
