"""Sending messages to runs: what `Runner.signal`, `request`, `resolve` and `reject` do, and the errors they raise."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from bide import _callbacks, _core
from bide._codec import Codec
from bide._duration import optional_seconds
from bide._errors import DefinitionError, SignalRejected
from bide._signals import Request, Signal, as_signal, check_reason
from bide._text import check_text

if TYPE_CHECKING:
    from bide._waits import Duration

Declared: TypeAlias = "tuple[Signal[Any] | Request[Any, Any], ...] | None"
"""What the workflow of a run declares; None if that is not known, or anything."""

_ANSWERS = Codec(
    where="the answer to a callback", root="value", remedy="pass an object of a class whose fields are annotated"
)


_ACCEPTED = frozenset({"stored", "duplicate"})
"""What became of a message that its run takes."""


def letter(
    run: str,
    one: object,
    value: object,
    message_id: str | None,
    declared: Declared,
) -> tuple[str, str, bytes, str | None]:
    """Return a signal to a run as the executor takes it, after checking that the value fits."""
    signal = _as_declared(one, "signal", declared)
    if isinstance(signal, Request):
        msg = f"{signal.name!r} is a request, whose sender waits for an answer: send it by runner.request(...)"
        raise DefinitionError(msg)
    return run, signal.name, signal.codec.encode(value), _check_id(message_id, "signal")


def check_sent(letters: Iterable[tuple[Any, ...]], sent: "Iterable[_core._Sent]") -> None:
    """Raise `SignalRejected` or `KeyError` for the first message that was not accepted."""
    for (run, name, _, _), (outcome, details) in zip(letters, sent, strict=True):
        if outcome in _ACCEPTED:
            continue
        if outcome == "no run":
            msg = f"no run has the id {run!r}"
            raise KeyError(msg)
        raise _refused(outcome, f"the signal {name!r}", run, details)


def answer(
    runner: "_core.Runner",
    token: object,
    what: str,
    *,
    value: object = None,
    reason: object = None,
    message_id: object = None,
) -> None:
    """Answer the callback of a token: with a value, or by rejecting it for a reason."""
    run, secret = _callbacks.read(token, what)
    given = _check_id(message_id, what)
    if what == "resolve":
        outcome, details = runner.answer((run, secret), _ANSWERS.encode_by_class(value), "", given)
    else:
        outcome, details = runner.answer((run, secret), None, check_reason(reason, what), given)
    if outcome in _ACCEPTED:
        return
    if outcome == "no run":
        msg = (
            f"the token is that of a callback of run {run}, which is not in this store: it is of another store, or the "
            "run was deleted"
        )
    elif outcome == "no callback":
        msg = (
            f"run {run} has no callback with this token: the token is forged, or the callback was dropped from the "
            "journal of its task (by a retry with fresh=True, or a checkpoint)"
        )
    elif outcome == "answered":
        msg = f"the callback of run {run} was answered before, and its first answer stands"
    else:
        raise _refused(outcome, "the answer", run, details, given)
    raise SignalRejected(msg)


def request(  # noqa: PLR0913 - as `Runner.request`
    runner: "_core.Runner",
    run: str,
    one: object,
    value: object,
    *,
    timeout: "Duration | None",
    message_id: object,
    declared: Declared,
) -> Any:  # noqa: ANN401 - what the body answers
    """Send a request to a run and return its answer."""
    if _core.in_body():
        msg = (
            "Runner.request() waits for an answer, which a task's body or condition must not do: if every slot is held "
            "by a body that waits, no run can continue. In a body, make a callback, send its token with a signal, and "
            "wait for the answer without a slot: "
            "callback = handle.callback('answer'); runner.signal(run, name, callback.token); handle.wait(callback)"
        )
        raise DefinitionError(msg)
    asked = _as_declared(one, "request", declared)
    if not isinstance(asked, Request):
        msg = f"{asked.name!r} is a signal, which has no answer: send it by runner.signal(...)"
        raise DefinitionError(msg)
    given, limit = _check_id(message_id, "request"), optional_seconds(timeout, "timeout", zero=True)
    (outcome, details), answer = runner.request(run, asked.name, asked.codec.encode(value), given, limit)
    if outcome == "no run":
        msg = f"no run has the id {run!r}"
        raise KeyError(msg)
    if outcome != "stored":
        raise _refused(outcome, f"the request {asked.name!r}", run, details, given)
    if answer is None:
        msg = (
            f"the request {asked.name!r} to run {run} was not answered within {limit} s; it is withdrawn, unless a "
            "task has taken it"
        )
        raise TimeoutError(msg)
    return asked.answer_codec.decode(answer)


def _as_declared(one: object, what: str, declared: Declared) -> "Signal[Any] | Request[Any, Any]":
    """Return the signal or request that is meant; of one by its name what the workflow declares: that has the type."""
    signal = as_signal(one, what)
    if isinstance(one, (Signal, Request)):
        return signal
    by_name = signal if what == "signal" else Request(signal.name, Any, Any)
    return next((known for known in declared or () if known.name == signal.name), by_name)


def _check_id(message_id: object, what: str) -> str | None:
    return None if message_id is None else check_text(message_id, f"{what}: id")


def _refused(outcome: str, what: str, run: str, details: list[str], given: str | None = None) -> SignalRejected:
    """Return the error for a message that its run did not take."""
    if outcome == "ended":
        why = f"run {run} has ended ({', '.join(details)})"
    elif outcome == "undeclared":
        known = ", ".join(map(repr, details)) or "none"
        why = f"the workflow of run {run} does not declare it (signals: {known})"
    else:  # "id taken"
        why = f"another message to run {run} has the id {given!r}: give each message an id of its own"
    return SignalRejected(f"{what} was not sent: {why}")
