"""Comparison by value: equal values are equal in every process, under every CPython; different ones are not."""

import dataclasses
import functools
import gc
import json
import os
import random
import subprocess
import sys
import types
import weakref
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bide
import stable_values
from bide._canonical import canonical
from bide._fingerprint import fingerprint
from bide._steps import describe_step
from pythons import PYTHONS
from test_codec import scalars

HERE = Path(__file__).parent
MOST = 1 << 20
T = TypeVar("T")


def digest(value: object) -> bytes:
    return canonical(value, MOST)


def proof(fn: Callable[..., Any], *args: object, **kwargs: object) -> bytes:
    return describe_step(fn, args, kwargs, "step")[1][:17]


# ---------------------------------------------------------------------------------------------- the same everywhere


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A directory with only bide: other packages may be built for this CPython only."""
    (tmp_path / "bide").symlink_to(Path(bide.__path__[0]).absolute())
    return tmp_path


def digests_in(python: str, packages: Path, how: str, seed: str) -> Any:
    program = "import stable_values, runpy; runpy.run_module('stable_values', run_name='__main__')"
    if how == "imported":
        program = (
            f"source = open({str(HERE / 'stable_values.py')!r}).read().partition('if __name__')[2].partition(':')[2]\n"
            "import textwrap, stable_values\n"
            "exec(textwrap.dedent(source), vars(stable_values))\n"
        )
    path = os.pathsep.join([str(HERE), str(packages)])
    env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, str(HERE / "stable_values.py")] if how == "a script" else [python, "-c", program]
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def test_equal_values_have_equal_digests_for_any_hash_seed_and_module(packages: Path) -> None:
    expected = digests_in(sys.executable, packages, "a script", "0")
    assert digests_in(sys.executable, packages, "a script", "12345") == expected
    assert digests_in(sys.executable, packages, "imported", "1") == expected
    assert len({*expected[0].values()}) == len(stable_values.VALUES), "no two of them are equal"


@pytest.mark.skipif(len(PYTHONS) < 2, reason="there is only one CPython here: make pythons")
def test_equal_values_have_equal_digests_under_every_cpython(packages: Path) -> None:
    found = {version: digests_in(python, packages, "a script", version[-1]) for version, python in PYTHONS.items()}
    first = next(iter(found.values()))
    assert {version: digests for version, digests in found.items() if digests != first} == {}


# ------------------------------------------------------------------------------------- orders do not count, values do


@dataclasses.dataclass(frozen=True)
class Box:
    """A generic holder of any value."""

    content: Any


@attrs.frozen
class AttrsBox:
    """The same with attrs."""

    content: Any


class Model(pydantic.BaseModel):
    """A model that encodes its sets itself, in any order."""

    tags: set[str] = set()
    nested: list[dict[str, frozenset[int]]] = []


models = st.builds(
    Model,
    tags=st.sets(st.text(), max_size=5),
    nested=st.lists(st.dictionaries(st.text(), st.frozensets(st.integers(), max_size=4), max_size=4), max_size=2),
)
keys = st.text() | st.integers() | st.tuples(st.text(), st.booleans())
values = st.recursive(
    scalars | st.sets(st.text(), max_size=6) | st.frozensets(keys, max_size=6) | models,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(keys, inner)
        | st.tuples(inner, inner)
        | st.builds(Box, inner)
        | st.builds(AttrsBox, inner)
    ),
    max_leaves=15,
)


def shuffled(value: Any, chance: random.Random) -> Any:
    """Return an equal value built in another order at every level."""
    if isinstance(value, dict):
        items = [(shuffled(key, chance), shuffled(item, chance)) for key, item in value.items()]
        chance.shuffle(items)
        return dict(items)
    if isinstance(value, (set, frozenset)):
        items = [shuffled(item, chance) for item in value]
        chance.shuffle(items)
        grown: set[Any] = set(range(1000))  # another size, so another order
        grown.clear()
        grown.update(items)
        return type(value)(grown) if isinstance(value, frozenset) else grown
    if isinstance(value, (list, tuple)):
        return type(value)(shuffled(item, chance) for item in value)
    if isinstance(value, (Box, AttrsBox)):
        return type(value)(shuffled(value.content, chance))
    if isinstance(value, Model):
        return Model(tags=shuffled(value.tags, chance), nested=shuffled(value.nested, chance))
    return value


def alike(a: Any, b: Any) -> bool:
    """Whether two values are the same except for the order of dicts and sets; computed without a digest."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return alike_sets(list(a.items()), list(b.items()))
    if isinstance(a, (set, frozenset)):
        return alike_sets(list(a), list(b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, (Box, AttrsBox)):
        return alike(a.content, b.content)
    if isinstance(a, Model):
        return alike(a.tags, b.tags) and alike(a.nested, b.nested)
    return repr(a) == repr(b)


def alike_sets(a: list[Any], b: list[Any]) -> bool:
    left = list(b)
    for item in a:
        found = next((at for at, other in enumerate(left) if alike(item, other)), None)
        if found is None:
            return False
        del left[found]
    return not left


@given(values, st.randoms(use_true_random=False))
def test_the_order_of_dicts_and_sets_does_not_count(value: object, chance: random.Random) -> None:
    same = shuffled(value, chance)
    assert alike(value, same)
    assert digest(value) == digest(same)
    assert proof(print, value, key=value) == proof(print, same, key=same)


@given(values, values)
def test_any_difference_between_two_values_counts(one: object, other: object) -> None:
    assert (digest(one) == digest(other)) == alike(one, other)


@given(values, st.data())
def test_a_change_of_one_value_anywhere_counts(value: object, data: st.DataObject) -> None:
    changed = change(value, data)
    assert digest(changed) != digest(value)


def change(value: Any, data: st.DataObject) -> Any:
    """Return the value with one thing in it changed."""
    if isinstance(value, dict) and value:
        key = data.draw(st.sampled_from(list(value)))
        return value | {key: change(value[key], data)}
    if isinstance(value, (list, tuple)) and value:
        at = data.draw(st.integers(0, len(value) - 1))
        return type(value)(change(item, data) if at == here else item for here, item in enumerate(value))
    if isinstance(value, (set, frozenset)) and value:
        return type(value)(list(value)[1:])
    if isinstance(value, (Box, AttrsBox)):
        return type(value)(change(value.content, data))
    if isinstance(value, Model):
        return Model(tags=value.tags ^ {"another"}, nested=value.nested)
    return Box(value)


@pytest.mark.parametrize("values", [(1, True, 1.0), (0.0, -0.0), ("a", b"a"), ([1], (1,)), ({1}, frozenset({1}))])
def test_values_of_different_types_differ_though_python_calls_them_equal(values: tuple[object, ...]) -> None:
    assert len({digest(value) for value in values}) == len(values)


def test_an_argument_with_too_many_paths_to_walk_is_refused() -> None:
    value: Any = "x"
    for _ in range(60):
        value = [value, value]
    with pytest.raises(Exception, match="MiB"):
        digest(value)


# ----------------------------------------------------------------------------------- what the arguments of a step are


def take(*args: object, **kwargs: object) -> object:
    return args, kwargs


def local(value: object, *, keyword: object = None) -> dict[str, Callable[[], Any]]:
    """Return functions made within a body that each capture a value in a different way."""

    def by_default(held: object = value) -> object:
        return held

    def by_keyword_default(*, held: object = value) -> object:
        return held

    return {
        "a closure": lambda: value,
        "a default": by_default,
        "a keyword default": by_keyword_default,
        "a default of a lambda": lambda held=value: held,  # type: ignore[misc]
        "wrapped": wrapping(lambda: value),
    }


def wrapping(fn: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap a function as decorators do."""

    @functools.wraps(fn)
    def outer() -> Any:
        return fn()

    return outer


PLAIN = [1, 1.5, True, "a", b"a", Path("a"), stable_values.Mode.FAST, (1, ("a", None)), frozenset({"a"})]
PLAIN += stable_values.VALUES["times"]() + stable_values.VALUES["numbers"]()[:3]
OBJECTS = [None, object(), [1], {"a": 1}, {1}, Box(1), take, (1, [2]), len]


@pytest.mark.parametrize("form", local(1))
def test_a_captured_plain_value_is_an_argument(form: str) -> None:
    proofs = [proof(local(value)[form]) for value in PLAIN]
    assert len(set(proofs)) == len(PLAIN)
    assert proofs == [proof(local(value)[form]) for value in PLAIN]


@pytest.mark.parametrize("form", local(1))
def test_a_captured_object_is_how_a_step_is_done(form: str) -> None:
    assert {proof(local(value)[form]) for value in OBJECTS} == {proof(take)}


def test_the_arguments_of_a_partial_are_those_of_the_step() -> None:
    assert proof(partial(take, 1), 2) == proof(take, 1, 2) != proof(partial(take, 3), 2)
    assert proof(partial(partial(take, 1, a=1), 2, b=2)) == proof(take, 1, 2, a=1, b=2)
    assert proof(partial(take, a=1), a=2) == proof(take, a=2)


def test_code_defaults_and_bound_objects_are_not_arguments() -> None:
    scope: dict[str, Any] = {}
    exec("def one(a, b=1): return a\ndef other(a, b=2): return b", scope)  # noqa: S102 - the code is test data
    assert proof(scope["one"], 1) == proof(scope["other"], 1) == proof(Client().fetch, 1) == proof(print, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Path("a").exists, Path("b").exists),
        ("a".upper, "b".upper),
        (date(2024, 1, 1).isoformat, date(2024, 1, 2).isoformat),
        ((1).__add__, (2).__add__),
        (types.MethodType(take, stable_values.Mode.FAST), types.MethodType(take, stable_values.Mode.SLOW)),
        (partial(Path("a").joinpath, "x"), partial(Path("b").joinpath, "x")),
    ],
)
def test_a_plain_value_that_a_method_is_bound_to_is_an_argument(one: Any, other: Any) -> None:
    assert proof(one) == proof(one) != proof(other)


@dataclasses.dataclass
class Of(Generic[T]):
    content: T


def test_how_a_generic_class_was_created_does_not_count() -> None:
    assert digest(Of[int](1)) == digest(Of(1)) != digest(Of(2))


class Client:
    """A connection."""

    def __init__(self) -> None:
        self.lock = object()

    def fetch(self, n: int, size: int = 1) -> int:
        """Do something."""
        return n + size


def test_the_proof_holds_the_question_and_is_bounded() -> None:
    recorded = describe_step(Client().fetch, ("x" * 5000,), {"size": {"a": [1] * 1000}}, None)[1]
    assert b"n='xxx" in recorded
    assert b"size={'a': [1, 1," in recorded
    assert len(recorded) <= 400
    assert len(describe_step(take, tuple(range(1000)), {}, None)[1]) <= 400
    assert describe_step(take, (10**6000,), {}, None)[1].endswith(b"argument 1=<int>")


# ------------------------------------------------------------------------------------------- nothing is kept alive


class Frame(bytearray):
    """A large object."""


def forgotten(make: Callable[[], object], use: Callable[[Any], object]) -> bool:
    """Check that nothing keeps the created objects alive."""
    made = make()
    use(made)
    alive = weakref.ref(made)
    del made
    gc.collect()
    return alive() is None


def annotated() -> Callable[[], object]:
    frame = Frame(10)

    def fn() -> list[int]:
        return list(frame)

    return fn


def with_local_class() -> Callable[[], object]:
    @dataclasses.dataclass
    class Report:
        size: int

        def again(self) -> object:
            return fn()

    def fn() -> Report:
        return Report(1)

    return fn


def of_a_module_that_is_gone() -> Callable[[], object]:
    source = "import dataclasses\n@dataclasses.dataclass\nclass Report:\n  n: int\ndef fn() -> Report: return Report(1)"
    module = types.ModuleType("gone")
    sys.modules["gone"] = module
    try:
        exec(source, vars(module))  # noqa: S102 - the code is test data
    finally:
        del sys.modules["gone"]
    fn: Callable[[], object] = module.fn
    return fn


def described(fn: Callable[[], object]) -> object:
    return describe_step(fn, (), {}, None)


def proved(fn: Callable[[], object]) -> object:
    return fingerprint(fn)


FUNCTIONS: dict[str, Callable[[], Any]] = {
    "a closure": lambda: stable_values.capturing(Frame(10)),
    "a closure with a type": annotated,
    "a closure with a local class": with_local_class,
    "a function of a module that is gone": of_a_module_that_is_gone,
    "a partial": lambda: partial(len, Frame(10)),
    "an object": Client,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("use", [described, proved])
def test_no_function_is_kept_alive(kind: str, use: Callable[[Any], object]) -> None:
    if kind == "an object":
        assert forgotten(Client, lambda client: use(partial(client.fetch, 1)))
    else:
        assert forgotten(FUNCTIONS[kind], use)


def test_neither_classes_nor_code_nor_captured_objects_are_kept_alive() -> None:
    def use(frame: Frame) -> None:
        described(lambda: len(frame))
        proved(lambda: len(frame))

    assert forgotten(lambda: Frame(10), use)
    assert forgotten(lambda: type("Local", (), {"fetch": lambda self: 1}), lambda cls: described(cls().fetch))
    assert forgotten(lambda: with_local_class().__annotations__["return"], lambda cls: digest(cls(1)))
    code = forgotten(
        lambda: eval("lambda: 1").__code__,  # noqa: S307 - trusted text
        lambda code: proved(types.FunctionType(code, {})),
    )
    assert code


def test_a_step_of_a_plain_function_is_compiled_once() -> None:
    def fn(n: int) -> list[int]:
        return [n]

    first, again = (describe_step(fn, (1,), {}, None)[2] for _ in range(2))
    assert first is again
    assert describe_step(fn, (1,), {}, "other")[2].where == "step 'other'"
    assert describe_step(fn, (1,), {}, None)[2].where.endswith("fn'")
