"""Conditions that hold a value somewhere, and pairs of values that differ in one detail that every proof must notice.

Each holder returns the proof of a condition whose answer may depend on the value.
"""

import builtins
import contextlib
import dataclasses
import enum
import functools
import ipaddress
import operator
import sys
import threading
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic

from bide._fingerprint import proof_of

Proof = bytes | None


class Config:
    """A class with settings."""

    limit: Any = None


class Derived(Config):
    """Inherits its settings."""


class Meta(type):
    """A metaclass."""

    limit: Any = None


class OfMeta(metaclass=Meta):
    """Gets its setting from its metaclass."""


@dataclasses.dataclass
class Holder:
    """An object with a value, and with a class that has a setting."""

    value: Any
    shared = None

    def done(self) -> bool:
        """Read the field."""
        return bool(self.value)

    def shares(self) -> bool:
        """Read the attribute of the class."""
        return bool(self.shared)

    def __call__(self) -> bool:
        """Read the field."""
        return bool(self.value)

    @property
    def computed(self) -> bool:
        """Read the field."""
        return bool(self.value)


class Retrying:
    """A decorator that is a class."""

    def __init__(self, fn: Callable[..., Any], *args: object) -> None:
        functools.update_wrapper(self, fn)
        self.fn, self.args = fn, args

    def __call__(self) -> Any:
        """Call the function."""
        return self.fn(*self.args)


class OwnPartial(functools.partial[Any]):
    """A subclass of partial with a dict."""

    job: Any


class SlotPartial(functools.partial[Any]):
    """A subclass of partial with a slot."""

    __slots__ = ("job",)
    job: Any


settings = types.ModuleType("mutants_settings")
settings.limit = None  # type: ignore[attr-defined]
sys.modules["mutants_settings"] = settings

LIMIT: Any = None


def helper(*args: object, **kwargs: object) -> bool:
    """A function that the conditions call."""
    return bool(args or kwargs)


@functools.lru_cache
def remembered() -> bool:
    """A function with a cache of its results."""
    return True


@contextlib.contextmanager
def assigned(owner: Any, name: str, value: object) -> Iterator[None]:
    """Assign an attribute temporarily."""
    before = vars(owner).get(name, assigned)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is assigned:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def while_assigned(owner: Any, name: str, condition: Callable[[], Any]) -> Callable[[Any], Proof]:
    """Return a way of holding a value in an attribute."""

    def hold(value: object) -> Proof:
        with assigned(owner, name, value):
            return proof_of(condition)

    return hold


def closure(value: Any) -> Any:
    return lambda: value


def nested(value: Any) -> Any:
    return lambda: [value for _ in (1,)] + list(map(lambda _: value, (1,)))  # noqa: C417 - nested code


def computing(job: Any) -> Any:
    return lambda: job.computed


def sharing(held: list[Any]) -> Any:
    return lambda: held[0].shared


def getting(name: str) -> Any:
    return lambda: getattr(Config, name)


def getting_by(start: str) -> Any:
    return lambda: getattr(Config, f"{start}it")


def getting_with(get: Any, name: str) -> Any:
    return lambda: get(Config, name)


def matches() -> bool:
    match Config:
        case type(limit=1):
            return True
    return False


def asking(value: Any) -> Any:
    return lambda: 1 in value


def answering(value: Any) -> Any:
    return lambda _self, _item: bool(value)


def by_default(value: Any) -> Any:
    def condition(v: Any = value) -> bool:
        return bool(v)

    return condition


def by_keyword_default(value: Any) -> Any:
    def condition(*, v: Any = value) -> bool:
        return bool(v)

    return condition


def by_attribute(value: Any) -> Any:
    def condition() -> Any:
        return condition.job  # type: ignore[attr-defined]

    condition.job = value  # type: ignore[attr-defined]
    return condition


def by_wrapped(value: Any) -> Any:
    def inner() -> Any:
        return value

    @functools.wraps(inner)
    def outer() -> Any:
        return outer.__wrapped__()

    return outer


def by_local_function(value: Any) -> Any:
    def inner() -> Any:
        return value

    return lambda: inner()


def imports() -> Any:
    def condition() -> Any:
        import mutants_settings  # type: ignore[import-not-found] # noqa: PLC0415 - the import is under test

        return mutants_settings.limit

    return condition


def imports_from() -> Any:
    def condition() -> Any:
        from mutants_settings import limit  # noqa: PLC0415 - the import is under test

        return limit

    return condition


def own_partial(value: Any) -> Any:
    condition = OwnPartial(helper, 1)
    condition.job = value
    return condition


def slot_partial(value: Any) -> Any:
    condition = SlotPartial(helper, 1)
    condition.job = value
    return condition


def partial_with_attribute(value: Any) -> Any:
    condition: Any = functools.partial(helper, 1)
    condition.job = value
    return condition


def caching(value: Any) -> Any:
    condition: Any = functools.lru_cache(lambda: True)
    condition.job = value
    return condition


module: Any = sys.modules[__name__]

HOLDING: dict[str, Callable[[Any], Proof]] = {
    "a closure": lambda value: proof_of(closure(value)),
    "a nested closure": lambda value: proof_of(nested(value)),
    "a default": lambda value: proof_of(by_default(value)),
    "a keyword default": lambda value: proof_of(by_keyword_default(value)),
    "a partial": lambda value: proof_of(functools.partial(helper, value)),
    "a partial by keyword": lambda value: proof_of(functools.partial(helper, job=value)),
    "a partial of a partial": lambda value: proof_of(functools.partial(functools.partial(helper, value), 1)),
    "a subclass of partial": lambda value: proof_of(own_partial(value)),
    "a slot of a subclass of partial": lambda value: proof_of(slot_partial(value)),
    "an attribute of a partial": lambda value: proof_of(partial_with_attribute(value)),
    "a method": lambda value: proof_of(Holder(value).done),
    "a callable object": lambda value: proof_of(Holder(value)),
    "a captured object": lambda value: proof_of(computing(Holder(value))),
    "an object in a list in a dict": lambda value: proof_of(closure({"jobs": [Holder((value,))]})),
    "an attribute of its own": lambda value: proof_of(by_attribute(value)),
    "what it wraps": lambda value: proof_of(by_wrapped(value)),
    "a local function that it calls": lambda value: proof_of(by_local_function(value)),
    "a decorator that is a class": lambda value: proof_of(Retrying(helper, value)),
    "an attribute of what remembers": lambda value: proof_of(caching(value)),
    "a global": while_assigned(module, "LIMIT", lambda: LIMIT),
    "an attribute of a global function": while_assigned(helper, "job", lambda: helper.job),  # type: ignore[attr-defined]
    "an attribute of a class": while_assigned(Config, "limit", lambda: Config.limit),
    "an attribute of a class by getattr": while_assigned(Config, "limit", lambda: getattr(Config, "limit")),  # noqa: B009
    "an attribute by a captured name": while_assigned(Config, "limit", getting("limit")),
    "an attribute by a name that it makes": while_assigned(Config, "limit", getting_by("lim")),
    "an attribute of a module by a name that it makes": while_assigned(
        settings, "limit", lambda: getattr(settings, "_limit"[1:])
    ),
    "an attribute by getattr of another name": while_assigned(Config, "limit", getting_with(getattr, "limit")),
    "an attribute by attrgetter": while_assigned(
        Config, "limit", lambda: operator.attrgetter("li" + "mit"[:3])(Config)
    ),
    "an attribute in a format": while_assigned(Config, "limit", lambda: "{.limit}".format(Config)),  # noqa: UP032
    "an attribute in a pattern": while_assigned(Config, "limit", matches),
    "a special method": lambda value: while_assigned(Plain, "__contains__", asking(Plain(1)))(answering(value)),
    "a name in builtins": while_assigned(builtins, "SURPRISE", lambda: SURPRISE),  # type: ignore[name-defined]  # noqa: F821
    "an attribute of a base class": while_assigned(Config, "limit", lambda: Derived.limit),
    "an attribute of a metaclass": while_assigned(Meta, "limit", lambda: OfMeta.limit),
    "an attribute of the class of self": while_assigned(Holder, "shared", Holder(1).shares),
    "an attribute of the class of an object": while_assigned(Holder, "shared", sharing([Holder(1)])),
    "an attribute of a module": while_assigned(settings, "limit", lambda: settings.limit),
    "an attribute of a module that it imports": while_assigned(settings, "limit", imports()),
    "what it imports from a module": while_assigned(settings, "limit", imports_from()),
    "a namespace": while_assigned(Config, "limit", lambda: vars(Config)["limit"]),
    "all globals": while_assigned(module, "LIMIT", lambda: globals()["LIMIT"]),
}

NEVER_PROVED = {
    "a slot of a subclass of partial",
    "a subclass of partial",
    "an attribute of a partial",
    "a decorator that is a class",
    "a namespace",
    "all globals",
}
"""Ways of holding a value that no proof can see through."""


class Mode(enum.Enum):
    """An enum."""

    FAST = 1
    SLOW = 2


class SlotBase:
    """A base class with a slot."""

    __slots__ = ("job",)


@dataclasses.dataclass(slots=True)
class Slotted(SlotBase):
    """A dataclass with a slot beside its fields."""

    n: int = 0


@attrs.define
class AttrsSlotted(SlotBase):
    """The same with attrs."""

    n: int = 0


@attrs.define(slots=False)
class AttrsDict:
    """With a dict."""

    n: int = 0


class Pair(NamedTuple):
    """A named tuple."""

    n: int = 0


class DerivedPair(Pair):
    """A named tuple with a dict."""


class OwnPath(PosixPath):
    """A path with a dict."""


@dataclasses.dataclass
class Plain:
    """A dataclass."""

    n: int = 0

    @functools.cached_property
    def job(self) -> str:
        """Compute something."""
        return "computed"


class DerivedPlain(Plain):
    """Derives from a dataclass without being one."""


@dataclasses.dataclass
class OnThread(threading.local):
    """Has state that no attribute shows."""

    n: int = 0


class Struct(msgspec.Struct, dict=True):
    """A struct with a dict."""

    n: int = 0


class Model(pydantic.BaseModel):
    """A model."""

    n: int = 0
    tags: set[str] = set()
    _secret: int = pydantic.PrivateAttr(default=0)


class OpenModel(pydantic.BaseModel, extra="allow"):
    """A model with undeclared fields."""


class Int(int):
    """A number with a dict."""


class Text(str):
    """A string with a dict."""

    __slots__ = ("job",)


def with_attribute(value: Any, name: str = "job", content: object = 1) -> Any:
    """Return the value with an attribute assigned."""
    setattr(value, name, content)
    return value


def lambda_with(parameter: str) -> Any:
    """Return a function whose nested function has a parameter with this name."""
    scope: dict[str, Any] = {}
    exec(f"def make():\n  return lambda: (lambda {parameter}: 1)", scope)  # noqa: S102 - the code is test data
    return scope["make"]()


MOMENT = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=1)))

PLAIN_PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "numbers": (lambda: 1, lambda: 2),
    "a bool and a number": (lambda: 1, lambda: True),
    "a number and a float": (lambda: 1, lambda: 1.0),
    "zeroes": (lambda: 0.0, lambda: -0.0),
    "complex zeroes": (lambda: 0j, lambda: -0.0 - 0j),
    "texts": (lambda: "a", lambda: "b"),
    "text and bytes": (lambda: "a", lambda: b"a"),
    "bytes": (lambda: b"a", lambda: bytearray(b"a")),
    "None and nothing": (lambda: None, lambda: ()),
    "sequences": (lambda: [1], lambda: (1,)),
    "nesting": (lambda: [["a"], "b"], lambda: [["a", "b"]]),
    "items": (lambda: {"a": [1, {"b": (1, 2)}]}, lambda: {"a": [1, {"b": (1, 3)}]}),
    "the order of a dict": (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
    "sets": (lambda: {1, 2}, lambda: {1, 3}),
    "frozen or not": (lambda: {1}, lambda: frozenset({1})),
    "a dict of another kind": (lambda: {"a": 1}, lambda: OrderedDict(a=1)),
    "counters": (lambda: Counter("a"), lambda: Counter("ab")),
    "default factories": (lambda: defaultdict(int, a=1), lambda: defaultdict(float, a=1)),
    "queues": (lambda: deque([1], 2), lambda: deque([1], 3)),
    "ranges": (lambda: range(3), lambda: range(4)),
    "slices": (lambda: slice(1), lambda: slice(2)),
    "dates": (lambda: date(2024, 1, 1), lambda: datetime(2024, 1, 1)),  # noqa: DTZ001 - a naive time on purpose
    "spans": (lambda: timedelta(1), lambda: timedelta(1, 0, 1)),
    "times": (lambda: time(1), lambda: time(1, fold=1)),
    "a zone and an offset": (
        lambda: MOMENT.replace(tzinfo=ZoneInfo("Europe/Berlin")),
        lambda: MOMENT,
    ),
    "zones": (lambda: ZoneInfo("Europe/Berlin"), lambda: ZoneInfo("Europe/Paris")),
    "named offsets": (lambda: timezone(timedelta(0), "A"), lambda: UTC),
    "the repeated hour": (lambda: MOMENT.replace(fold=1), lambda: MOMENT),
    "decimals": (lambda: Decimal("1.0"), lambda: Decimal("1.00")),
    "fractions": (lambda: Fraction(1, 2), lambda: Fraction(1, 3)),
    "paths": (lambda: Path("a"), lambda: Path("b")),
    "kinds of paths": (lambda: PosixPath("a"), lambda: PurePosixPath("a")),
    "members": (lambda: Mode.FAST, lambda: Mode.SLOW),
    "classes": (lambda: Config, lambda: Derived),
    "functions": (lambda: helper, lambda: lambda_with),
    "fields": (lambda: Plain(1), lambda: Plain(2)),
    "classes of fields": (lambda: AttrsDict(1), lambda: Struct(1)),
    "named tuples": (lambda: Pair(1), lambda: Pair(2)),
    "what is set of a model": (lambda: Model(n=0), lambda: Model()),
    "what nobody declared": (lambda: OpenModel.model_validate({"a": 1}), lambda: OpenModel.model_validate({"a": 2})),
    "private attributes": (lambda: Model(), lambda: with_private(Model(), 1)),
    "parameters of nested functions": (lambda: lambda_with("one"), lambda: lambda_with("two")),
}
"""Pairs of values that differ in one detail, both with a proof."""


def with_private(model: Model, secret: int) -> Model:
    """Return a model with a private attribute."""
    model._secret = secret
    return model


HIDING: dict[str, Callable[[], Any]] = {
    "a slot of a base class": lambda: with_attribute(Slotted()),
    "a slot of a base class of attrs": lambda: with_attribute(AttrsSlotted()),
    "beside the fields of attrs": lambda: with_attribute(AttrsDict()),
    "beside the fields of a named tuple": lambda: with_attribute(DerivedPair()),
    "beside the fields of a dataclass": lambda: with_attribute(Plain(), "other"),
    "an assigned cached property": lambda: with_attribute(Plain()),
    "a class derived from a dataclass": lambda: with_attribute(DerivedPlain()),
    "beside a path": lambda: with_attribute(OwnPath("a")),
    "beside a struct": lambda: with_attribute(Struct()),
    "beside a number": lambda: with_attribute(Int(1)),
    "beside a text": lambda: with_attribute(Text("a")),
    "beside an ordered dict": lambda: with_attribute(OrderedDict()),
    "beside a counter": lambda: with_attribute(Counter()),
    "beside a network": lambda: with_attribute(ipaddress.ip_network("10.0.0.0/8")),
    "state of a thread": lambda: OnThread(),
    "an object": lambda: Config(),
    "a lock": lambda: threading.Lock(),
    "an exception": lambda: ValueError(1),
}
"""Values with hidden state, so that there is no proof."""
