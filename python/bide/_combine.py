"""The first of several waits, or all of them: `any_of`, `all_of`, and the plan of a wait as the executor reads it.

A plan is a list of parts, a combination before its members, each as (kind, name, timeout, what); and the function that
makes the value of the whole from the outcomes of the parts (`rust/py/src/plan.rs`).
"""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar, overload

import msgspec

from bide import _core
from bide._callables import is_async
from bide._codec import Codec
from bide._duration import optional_seconds
from bide._errors import DefinitionError
from bide._signals import Request, Signal
from bide._waits import After, At, Duration, Until, WaitBase, check_name, computes, leaves, only_for_gates

if TYPE_CHECKING:
    from bide._core import TaskHandle

T_co = TypeVar("T_co", covariant=True)
_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_D = TypeVar("_D")
_E = TypeVar("_E")

Outcome: TypeAlias = "bytes | _core.Snapshot | BaseException | None"
"""Of one part: what it came to, as stored; a child run that has ended; how it failed; or that it is not over."""


class Fired(msgspec.Struct, Generic[T_co], frozen=True):
    """The wait that came first, in the tuple that `wait_any` returns: the others are None."""

    value: T_co


class First(msgspec.Struct, frozen=True):
    """The wait that came first, by the name that `wait_any` was given for it."""

    name: str
    value: Any


class AnyOf(WaitBase[T_co], Generic[T_co], frozen=True):
    """The first of several waits. `any_of` makes one."""

    waits: tuple[WaitBase[Any], ...]
    names: tuple[str, ...]
    name: str | None = None

    def __post_init__(self) -> None:
        """Check the members."""
        _check_members(self, "any_of")


class AllOf(WaitBase[T_co], Generic[T_co], frozen=True):
    """All of several waits. `all_of` makes one."""

    waits: tuple[WaitBase[Any], ...]
    names: tuple[str, ...]
    name: str | None = None

    def __post_init__(self) -> None:
        """Check the members."""
        _check_members(self, "all_of")


@overload
def any_of(a: WaitBase[_A], /, *, name: str | None = None) -> AnyOf[tuple[Fired[_A] | None]]: ...
@overload
def any_of(
    a: WaitBase[_A], b: WaitBase[_B], /, *, name: str | None = None
) -> AnyOf[tuple[Fired[_A] | None, Fired[_B] | None]]: ...
@overload
def any_of(
    a: WaitBase[_A], b: WaitBase[_B], c: WaitBase[_C], /, *, name: str | None = None
) -> AnyOf[tuple[Fired[_A] | None, Fired[_B] | None, Fired[_C] | None]]: ...
@overload
def any_of(
    a: WaitBase[_A], b: WaitBase[_B], c: WaitBase[_C], d: WaitBase[_D], /, *, name: str | None = None
) -> AnyOf[tuple[Fired[_A] | None, Fired[_B] | None, Fired[_C] | None, Fired[_D] | None]]: ...
@overload
def any_of(
    a: WaitBase[_A], b: WaitBase[_B], c: WaitBase[_C], d: WaitBase[_D], e: WaitBase[_E], /, *, name: str | None = None
) -> AnyOf[tuple[Fired[_A] | None, Fired[_B] | None, Fired[_C] | None, Fired[_D] | None, Fired[_E] | None]]: ...
@overload
def any_of(*, name: str | None = None, **named: WaitBase[Any]) -> AnyOf[First]: ...
@overload
def any_of(*waits: WaitBase[_A], name: str | None = None) -> AnyOf[tuple[Fired[_A] | None, ...]]: ...
def any_of(*waits: WaitBase[Any], name: str | None = None, **named: WaitBase[Any]) -> AnyOf[Any]:
    """Wait for the first of several waits.

    Its value is a tuple with `Fired(value)` for the wait that came and None for the others; of waits that are given by
    keyword it is `First(name, value)`. A wait that fails is out; if all of them fail, that is an `ExceptionGroup`.
    """
    return AnyOf(*_members(waits, named, "any_of"), name=name)


@overload
def all_of(a: WaitBase[_A], /, *, name: str | None = None) -> AllOf[tuple[_A]]: ...
@overload
def all_of(a: WaitBase[_A], b: WaitBase[_B], /, *, name: str | None = None) -> AllOf[tuple[_A, _B]]: ...
@overload
def all_of(
    a: WaitBase[_A], b: WaitBase[_B], c: WaitBase[_C], /, *, name: str | None = None
) -> AllOf[tuple[_A, _B, _C]]: ...
@overload
def all_of(
    a: WaitBase[_A], b: WaitBase[_B], c: WaitBase[_C], d: WaitBase[_D], /, *, name: str | None = None
) -> AllOf[tuple[_A, _B, _C, _D]]: ...
@overload
def all_of(
    a: WaitBase[_A], b: WaitBase[_B], c: WaitBase[_C], d: WaitBase[_D], e: WaitBase[_E], /, *, name: str | None = None
) -> AllOf[tuple[_A, _B, _C, _D, _E]]: ...
@overload
def all_of(*, name: str | None = None, **named: WaitBase[Any]) -> AllOf[dict[str, Any]]: ...
@overload
def all_of(*waits: WaitBase[_A], name: str | None = None) -> AllOf[tuple[_A, ...]]: ...
def all_of(*waits: WaitBase[Any], name: str | None = None, **named: WaitBase[Any]) -> AllOf[Any]:
    """Wait for all of several waits.

    Its value is a tuple of their values, or of waits that are given by keyword a dictionary. The first one that fails
    ends it with its failure.
    """
    return AllOf(*_members(waits, named, "all_of"), name=name)


def _members(
    waits: tuple[WaitBase[Any], ...], named: dict[str, WaitBase[Any]], what: str
) -> tuple[tuple[WaitBase[Any], ...], tuple[str, ...]]:
    if waits and named:
        msg = f"{what} takes its waits either by position or by keyword, not both"
        raise DefinitionError(msg)
    return (*waits, *named.values()), tuple(named)


def _check_members(one: AnyOf[Any] | AllOf[Any], what: str) -> None:
    if not isinstance(one.waits, tuple) or not one.waits:
        msg = f"{what} takes at least one wait"
        raise DefinitionError(msg)
    # There may be ten thousand, mostly of one class.
    if not all(issubclass(kind, WaitBase) for kind in set(map(type, one.waits))):
        for wait in one.waits:
            check_wait(wait, what)
    if one.names and (not isinstance(one.names, tuple) or len(one.names) != len(one.waits)):
        msg = f"{what}: names has one name for each wait, or none, not {one.names!r}"
        raise DefinitionError(msg)
    check_name(one.name, what)


def check_wait(one: object, what: str) -> WaitBase[Any]:
    """Return what can be waited for; refuse anything else."""
    if not isinstance(one, WaitBase):
        hint = ": wrap it in bide.until(...)" if callable(one) else ""
        msg = f"{what} takes waits, such as bide.until(...), bide.signal(...) or bide.after(...), not {one!r}{hint}"
        raise DefinitionError(msg)
    return one


Part: TypeAlias = tuple[str, str, float | None, Any]
"""One of the waits of a plan: its kind, its name, its timeout, and what its kind has. A plain tuple, of which there may
be ten thousand: they are made faster than others, and the collector of garbage forgets them."""


class Plan(NamedTuple):
    """A wait as the executor reads it."""

    parts: list[Part]
    finish: "Callable[[list[Outcome], TaskHandle], Any]"
    """The handle is that of the body which gets the value: a request is answered by it."""


_COMPUTED = frozenset({"computed after", "computed at"})
"""The kinds of times that a function computes, which only gates have."""


def plan(wait: object, timeout: Duration | None, what: str, *, unique: bool = False) -> Plan:
    """Return the plan of a wait; with `unique`, as a gate needs it, no two parts have one name."""
    checked = check_wait(wait, what)
    limit = optional_seconds(timeout, f"{what}: timeout", zero=True)
    parts: list[Part] = []
    added = _add(checked, None, parts)
    finish = partial(_value, added, 0) if isinstance(added, WaitBase) else added
    if not unique and not _COMPUTED.isdisjoint(map(itemgetter(0), parts)):
        raise only_for_gates(next(leaf for leaf in leaves(checked) if computes(leaf)))
    if limit is not None:
        kind, name, own, what_of = parts[0]
        if kind in {"after", "at"}:
            # The time is one wait of one, so that the whole can end before it.
            parts = [("all", name, limit, [1]), (kind, f"{name} itself", own, what_of)]
            lone = _all_of(0, [1], [_leaf_value(checked, 1)], ())
            return Plan(parts, lambda outcomes, handle: _value(lone, 0, outcomes, handle)[0])
        parts[0] = kind, name, limit if own is None else min(limit, own), what_of
    if unique:
        _rename(parts)
    return Plan(parts, finish)


def _rename(parts: list[Part]) -> None:
    seen: dict[str, int] = {}
    for at, (kind, name, timeout, what) in enumerate(parts):
        seen[name] = count = seen.get(name, 0) + 1
        if count > 1:
            parts[at] = kind, f"{name} ({count})", timeout, what


_Finish: TypeAlias = "Callable[[list[Outcome], TaskHandle], Any] | WaitBase[Any]"
"""What makes the value of a part of the outcomes; or the wait itself, whose `_decode` makes it of its own outcome: no
function for each of many children, which the collector of garbage would have to visit."""


def _value(finish: _Finish, at: int, outcomes: list[Outcome], handle: "TaskHandle") -> Any:  # noqa: ANN401
    # A look at the class is half the time of `isinstance` with that of a wait.
    if type(finish) is FunctionType:
        return finish(outcomes, handle)
    return finish._decode(_raised(outcomes[at]))  # type: ignore[union-attr] # pyright: ignore[reportAttributeAccessIssue]


def _add(wait: WaitBase[Any], name: str | None, parts: list[Part]) -> _Finish:
    """Add the parts of a wait; return what makes its value of their outcomes."""
    at = len(parts)
    if (of_own := getattr(wait, "_part", None)) is not None:
        # A child or a callback: first, because there may be ten thousand.
        parts.append(of_own(name))
        return wait
    if isinstance(wait, (AnyOf, AllOf)):
        kind = "any" if isinstance(wait, AnyOf) else "all"
        parts.append((kind, "", None, []))
        members: list[int] = []
        finishes: list[_Finish] = []
        for number, one in enumerate(wait.waits):
            members.append(len(parts))
            finishes.append(_add(one, wait.names[number] if wait.names else None, parts))
        own = name or wait.name or f"{kind}({', '.join(parts[member][1] for member in members[:8])})"
        parts[at] = kind, own, None, members
        finish = _any_of if kind == "any" else _all_of
        return finish(at, members, finishes, wait.names)
    parts.append(_leaf(wait, name))
    return _leaf_value(wait, at)


def _leaf(wait: WaitBase[Any], name: str | None) -> Part:
    if isinstance(wait, Until):
        from bide._fingerprint import name_of  # noqa: PLC0415 - it takes a while to import

        return "until", name or wait.name or name_of(wait.condition), wait.timeout, wait
    if isinstance(wait, After):
        if callable(wait.seconds):
            return "computed after", name or "after", None, (wait.seconds, is_async(wait.seconds))
        return "after", name or "after", None, wait.seconds
    if isinstance(wait, At):
        if callable(wait.moment):
            return "computed at", name or "at", None, (wait.moment, is_async(wait.moment))
        return "at", name or "at", None, wait.timestamp
    if isinstance(wait, Signal):
        return "signal", name or wait.name, None, wait.name
    assert isinstance(wait, Request)  # noqa: S101 - for mypy: there are no other waits
    return "request", name or wait.name, None, wait.name


_PLAIN = Codec()


def _leaf_value(wait: WaitBase[Any], at: int) -> _Finish:
    if isinstance(wait, (After, At)):

        def reached(outcomes: list[Outcome], _handle: "TaskHandle") -> None:
            _raised(outcomes[at])

        return reached
    if isinstance(wait, Request):
        received = wait._received
        return lambda outcomes, handle: received(_raised(outcomes[at]), handle)
    if isinstance(wait, Signal):
        return _decoded(wait.codec.decode, at)
    return _decoded(_PLAIN.decode, at) if at else _LONE


def _decoded(decode: Callable[[Any], Any], at: int) -> _Finish:
    return lambda outcomes, _handle: decode(_raised(outcomes[at]))


_LONE = _decoded(_PLAIN.decode, 0)
"""Of a condition alone, of which many may wait at once."""


def _raised(outcome: Outcome) -> Any:  # noqa: ANN401 - what the wait's decoder takes
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome or b"n"


def _any_of(own: int, members: list[int], finishes: list[_Finish], names: tuple[str, ...]) -> _Finish:
    def finish(outcomes: list[Outcome], handle: "TaskHandle") -> Any:  # noqa: ANN401 - what the waits give
        whole = outcomes[own]
        if isinstance(whole, BaseException):
            all_members = zip(members, finishes, strict=True)
            failures = [_failure(member, finish, outcomes, handle) for member, finish in all_members]
            if all(isinstance(failure, Exception) for failure in failures):
                raise ExceptionGroup(str(whole), failures)  # type: ignore[type-var] # pyright: ignore[reportArgumentType]
            raise whole
        winner = int(whole[1:]) if isinstance(whole, bytes) else 0
        value = _value(finishes[winner], members[winner], outcomes, handle)
        if names:
            return First(names[winner], value)
        return tuple(Fired(value) if number == winner else None for number in range(len(members)))

    return finish


def _failure(member: int, finish: _Finish, outcomes: list[Outcome], handle: "TaskHandle") -> BaseException | None:
    """Return how a member has failed: of a child run, its `RunFailed`."""
    outcome = outcomes[member]
    if not isinstance(outcome, _core.Snapshot):
        return outcome if isinstance(outcome, BaseException) else None
    try:
        _value(finish, member, outcomes, handle)
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is one of the group
        return failure
    return None


def _all_of(own: int, members: list[int], finishes: list[_Finish], names: tuple[str, ...]) -> _Finish:
    def finish(outcomes: list[Outcome], handle: "TaskHandle") -> Any:  # noqa: ANN401 - what the waits give
        whole = outcomes[own]
        if isinstance(whole, BaseException):
            for member, of_member in zip(members, finishes, strict=True):
                if isinstance(outcomes[member], (BaseException, _core.Snapshot)):
                    _value(of_member, member, outcomes, handle)
            raise whole
        all_members = zip(finishes, members, strict=True)
        values = tuple([_value(of_member, member, outcomes, handle) for of_member, member in all_members])
        return dict(zip(names, values, strict=True)) if names else values

    return finish
