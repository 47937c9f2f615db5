"""Waits, durations and retries: every argument is checked where it is given, and named in the error."""

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

import bide
from bide._waits import After, At, from_poll
from bide.testing import Runner

KINDS = ("memory", "sqlite", "postgres")

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - naive on purpose


def ready() -> bool:
    return True


async def later() -> bool:
    return True


def raw_until(**settings: Any) -> bide.Until[bool]:
    """Make one by its class, which needs every setting."""
    fields = bide.Until.__match_args__
    return bide.Until(**{field: getattr(bide.until(ready), field) for field in fields} | settings)


def test_until_turns_durations_into_seconds() -> None:
    wait = bide.until(ready, every=timedelta(milliseconds=250), timeout=60, max_every=2, backoff=2, jitter=0.5)
    assert (wait.every, wait.timeout, wait.max_every, wait.backoff, wait.jitter) == (0.25, 60.0, 2.0, 2.0, 0.5)
    assert wait.condition is ready
    assert (wait.name, wait.tolerance) == (None, (5, 30.0))
    assert bide.until(ready).every == 1.0
    assert bide.until(ready, on_error="raise").tolerance == (1, 0.0)
    assert bide.until(ready, on_error="ignore").tolerance is None
    assert bide.until(ready, on_error=bide.Tolerate(2)).tolerance == (2, 0.0)
    assert bide.until(ready, on_error=bide.Tolerate(2, seconds=timedelta(minutes=1))).tolerance == (2, 60.0)


def test_polls_are_given_in_milliseconds() -> None:
    wait = from_poll(ready, 200, timeout=timedelta(hours=1), max_interval_ms=1000)
    assert (wait.every, wait.timeout, wait.max_every) == (0.2, 3600.0, 1.0)
    assert from_poll(ready).every == 1.0


def test_defer_until_shows_the_signature_of_its_argument_reader() -> None:
    shown = list(inspect.signature(bide.TaskHandle.defer_until).parameters.values())[1:]
    read = inspect.signature(from_poll).parameters.values()
    defaults = [... if one.name == "on_error" else one.default for one in read]
    assert [(one.name, one.kind) for one in shown] == [(one.name, one.kind) for one in read]
    assert [one.default for one in shown] == defaults


def test_after_and_at() -> None:
    assert bide.after(timedelta(minutes=1)) == After(60.0)
    assert bide.after(0) == After(0.0)
    assert bide.at(datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == At(datetime(2026, 1, 1, tzinfo=UTC))
    assert bide.at(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)).timestamp == 1.0


SPAN: Any = np.timedelta64(5, "ms")
"""numpy treats it as an integer, but it is not a number of seconds."""

BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: bide.until(True), "a condition must be callable, not True"),  # type: ignore[call-overload]
    (lambda: bide.until("x"), "a condition must be callable, not 'x'"),  # type: ignore[call-overload]
    (lambda: bide.until(ready, every=0), "every must be positive, not 0"),
    (lambda: bide.until(ready, every=-1), "every must be positive, not -1"),
    (lambda: bide.until(ready, every=float("nan")), "every must be a number of seconds, not NaN"),
    (lambda: bide.until(ready, every=float("inf")), "every is inf, more than 100 years"),
    (lambda: bide.until(ready, every=True), "every must be seconds (a number) or a timedelta, not True"),
    (lambda: bide.until(ready, every="1s"), "every must be seconds"),  # type: ignore[call-overload]
    (lambda: bide.until(ready, every=None), "every must be seconds"),  # type: ignore[call-overload]
    (lambda: bide.until(ready, every=timedelta(seconds=-3)), "every must be positive"),
    (lambda: bide.until(ready, timeout=-1), "timeout must be zero or more, not -1"),
    (lambda: bide.until(ready, every=2, max_every=1), "max_every (1) must be at least every (2)"),
    (lambda: bide.until(ready, backoff=0.5), "backoff must be a number of at least 1, not 0.5"),
    (lambda: bide.until(ready, jitter=1.5), "jitter must be a number of between 0 and 1, not 1.5"),
    (lambda: bide.until(ready, on_error="explode"), 'on_error must be bide.Tolerate(n), "raise" or "ignore"'),  # type: ignore[call-overload]
    (lambda: bide.until(ready, on_error=3), "on_error must be"),  # type: ignore[call-overload]
    (lambda: bide.until(ready, name=""), "name must be a non-empty string"),
    (lambda: bide.Tolerate(2, seconds=-1), "Tolerate(seconds=) must be zero or more, not -1"),
    (lambda: bide.Tolerate(0), "Tolerate(n) must be a whole number of at least 1, not 0"),
    (lambda: from_poll(ready, 0), "poll_interval_ms must be positive, not 0"),
    (lambda: from_poll(ready, -5), "poll_interval_ms must be positive, not -5"),
    (lambda: from_poll(ready, timedelta(seconds=1)), "poll_interval_ms is in milliseconds"),  # type: ignore[arg-type]
    (lambda: from_poll(ready, 0.5), "poll_interval_ms is in milliseconds and must be at least 1, not 0.5"),
    (lambda: from_poll(ready, "5"), "poll_interval_ms is in milliseconds and must be a number, not '5'"),  # type: ignore[arg-type]
    (lambda: from_poll(ready, None), "poll_interval_ms is in milliseconds and must be a number, not None"),  # type: ignore[arg-type]
    (lambda: from_poll(ready, True), "poll_interval_ms is in milliseconds and must be a number, not True"),
    (lambda: from_poll(ready, 1j), "poll_interval_ms is in milliseconds"),  # type: ignore[arg-type]
    (lambda: from_poll(ready, float("nan")), "poll_interval_ms is in milliseconds and must be a number, not nan"),
    (lambda: from_poll(ready, float("inf")), "poll_interval_ms is in milliseconds, and inf is more than 100 years"),
    (lambda: from_poll(ready, SPAN), f"poll_interval_ms is in milliseconds and must be a number, not {SPAN!r}"),
    (lambda: bide.until(ready, every=SPAN), f"every must be seconds (a number) or a timedelta, not {SPAN!r}"),
    (lambda: bide.until(ready, backoff=SPAN), f"backoff must be a number of at least 1, not {SPAN!r}"),
    (lambda: from_poll(ready, 10**400), "more than 100 years"),
    (lambda: bide.after(10**400), "more than 100 years"),
    (lambda: bide.after(-(10**400)), "after(seconds) must be zero or more"),
    (lambda: bide.until(ready, backoff=10**400), "backoff must be finite"),
    (lambda: from_poll(ready, 0.0), "poll_interval_ms must be positive, not 0.0: it is in milliseconds, at least 1"),
    (lambda: from_poll(ready, max_interval_ms=0.9), "max_interval_ms is in milliseconds and must be at least 1"),
    (lambda: from_poll(ready, max_interval_ms=[1]), "max_interval_ms is in milliseconds and must be a number, not [1]"),  # type: ignore[arg-type]
    (
        lambda: from_poll(ready, 100, max_interval_ms=50),
        "max_interval_ms (50) must be at least poll_interval_ms (100)",
    ),
    (lambda: bide.after(-1), "after(seconds) must be zero or more, not -1"),
    (lambda: bide.at(NAIVE), "at(datetime) must know its time zone"),
    (lambda: bide.at(12), "at(datetime) must be a datetime, not 12"),  # type: ignore[arg-type]
    (lambda: bide.After(-1), "after(seconds) must be zero or more, not -1"),
    (lambda: bide.At(NAIVE), "at(datetime) must know its time zone"),
    (bide.Wait, "bide.Wait is the type of all waits: make one with"),
    (lambda: bide.AnyOf((), ()), "any_of takes at least one wait"),
    (lambda: bide.AllOf((3,), ()), "all_of takes waits, such as bide.until(...)"),  # type: ignore[arg-type]
    (lambda: bide.AllOf((bide.after(1),), ("a", "b")), "all_of: names has one name for each wait"),
    (lambda: bide.AnyOf((bide.after(1),), (), ""), "any_of: name must be a non-empty string"),
    (lambda: raw_until(condition=3), "a condition must be callable, not 3"),
    (lambda: raw_until(every=-1), "every must be positive, not -1"),
    (lambda: raw_until(max_every=0.5), "max_every (0.5) must be at least every (1.0)"),
    (lambda: raw_until(on_error="x"), "on_error must be"),
    (lambda: raw_until(timeout="x"), "timeout must be seconds"),
    (lambda: raw_until(name=""), "name must be a non-empty string"),
    (lambda: bide.Retry(attempts=0), "Retry(attempts=) must be a whole number of at least 1, not 0"),
    (lambda: bide.Retry(attempts=2.0), "Retry(attempts=)"),  # type: ignore[arg-type]
    (lambda: bide.Retry(attempts=True), "Retry(attempts=)"),
    (lambda: bide.Retry(delay=-1), "Retry(delay=) must be zero or more, not -1"),
    (lambda: bide.Retry(backoff=0), "Retry(backoff=)"),
    (lambda: bide.Retry(max_delay=float("nan")), "Retry(max_delay=)"),
    (lambda: bide.Retry(jitter=-0.1), "Retry(jitter=)"),
    (lambda: bide.Retry(on="ValueError"), "Retry(on=) takes exception classes, or a function"),  # type: ignore[arg-type]
    (lambda: bide.Retry(on=(ValueError, KeyboardInterrupt)), "KeyboardInterrupt"),  # type: ignore[arg-type]
    (lambda: bide.Retry(fresh=1), "Retry(fresh=)"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(bide.DefinitionError) as caught:
        make()
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_wait_made_by_its_class_equals_one_made_by_its_function() -> None:
    assert raw_until(every=timedelta(minutes=1), timeout=2) == bide.until(ready, every=60, timeout=2)
    assert bide.After(timedelta(minutes=1)) == bide.after(60)  # type: ignore[arg-type]
    moment = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert bide.At(moment) == bide.at(moment)
    stored = bide.At(moment).moment
    assert isinstance(stored, datetime)
    assert stored.tzinfo is UTC


def test_a_condition_can_be_an_async_def() -> None:
    assert bide.until(later)._parts()[-1] is True
    assert bide.until(ready)._parts()[-1] is False


@pytest.mark.parametrize(
    ("on", "exc", "expected"),
    [
        ((Exception,), ValueError(), True),
        (ValueError, ValueError(), True),
        (ValueError, KeyError(), False),
        ((Exception,), bide.WaitTimeout(), False),
        ((TimeoutError,), bide.WaitTimeout(), False),
        ((Exception, bide.WaitTimeout), bide.WaitTimeout(), True),
        ((Exception,), bide.SerializationError(), False),
        (bide.SerializationError, bide.SerializationError(), True),
        ((Exception,), bide.TaskTimeout(), True),
        ((Exception,), bide.Skip(), False),
        ((Exception,), KeyboardInterrupt(), False),
        ((Exception,), bide.Suspended(), False),
    ],
)
def test_what_is_retried(on: Any, exc: BaseException, expected: bool) -> None:
    assert bide.Retry(on=on).matches(exc) is expected


def test_a_retry_is_a_value() -> None:
    assert bide.Retry(delay=timedelta(seconds=2)) == bide.Retry(delay=2)
    assert bide.Retry().on == (Exception,)
    with pytest.raises(AttributeError):
        bide.Retry().attempts = 4  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["def", "async def", "gate", "async gate"])
@pytest.mark.parametrize(("every", "fine", "asked"), [(1, None, 31), (10, None, 5), (6, 3, 9), (20, 4, 9)])
def test_five_errors_that_last_for_30_seconds_end_a_wait(kind: str, every: int, fine: int | None, asked: int) -> None:
    polls: list[int] = []

    def broken() -> bool:
        polls.append(1)
        if len(polls) == fine:
            return False  # those before do not count
        raise OSError

    async def broken_async() -> bool:
        return broken()

    wait = bide.until(broken_async if "async" in kind else broken, every=every)

    @bide.task(name="work")
    def plain(handle: bide.TaskHandle) -> None:
        handle.wait(wait)

    @bide.task(name="work")
    async def coroutine(handle: bide.AsyncTaskHandle) -> None:
        await handle.wait(wait)

    @bide.task(name="work", gate=wait)
    def gated() -> None: ...

    tasks: dict[str, Callable[..., Any]] = {"def": plain, "async def": coroutine}
    with Runner(auto_advance=True) as runner, pytest.raises(bide.RunFailed, match="OSError"):
        runner.run(bide.Workflow("w", [tasks.get(kind, gated)]))
    assert len(polls) == asked
