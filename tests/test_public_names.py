"""The package's public names match what it lists."""

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

import bide


def test_every_public_name_is_there() -> None:
    for name in bide.__all__:
        assert getattr(bide, name) is not None
    late = {"testing", "otel"}  # modules that are imported by themselves
    # With an @ begin the names that pytest puts into the modules of its plugins' packages.
    assert {name for name in vars(bide) if not name.startswith(("_", "@"))} <= set(bide.__all__) | late


def test_public_classes_are_named_as_they_are_imported() -> None:
    for name in bide.__all__:
        value = getattr(bide, name)
        if isinstance(value, type) and issubclass(value, BaseException):
            assert f"{value.__module__}.{value.__qualname__}" == f"bide.{name}"


def classes_in(annotation: Any) -> Iterator[type]:
    """Yield the classes that an annotation is made of."""
    for part in (typing.get_origin(annotation) or annotation, *typing.get_args(annotation)):
        if isinstance(part, type):
            yield part
        elif part is not annotation:
            yield from classes_in(part)


def public_functions() -> Iterator[tuple[str, Any]]:
    """Yield each public function, and the public methods and properties of each public class."""
    for name in bide.__all__:
        value = getattr(bide, name)
        members = {name: value} if inspect.isfunction(value) else {}
        if isinstance(value, type):
            members = {f"{name}.{one}": member for one, member in vars(value).items() if not one.startswith("_")}
        for path, member in members.items():
            function = member.fget if isinstance(member, property) else member
            if inspect.isfunction(function):
                yield path, function


def test_what_public_functions_return_is_public() -> None:
    public = {getattr(bide, name) for name in bide.__all__ if isinstance(getattr(bide, name), type)}
    found: set[type] = set()
    hidden: dict[str, str] = {}
    names = {name: getattr(bide, name) for name in bide.__all__}
    for path, function in public_functions():
        for overload in typing.get_overloads(function) or [function]:
            returns = types.SimpleNamespace(__annotations__={"it": overload.__annotations__.get("return")})
            for cls in classes_in(typing.get_type_hints(returns, names | overload.__globals__)["it"]):
                if cls.__module__.split(".")[0] == "bide":
                    found.add(cls)
                    if cls not in public:
                        hidden[path] = cls.__qualname__
    assert {path for path in hidden if not path.endswith("codec")} == set()  # signals have theirs for the engine
    assert {bide.Until, bide.After, bide.At, bide.AnyOf, bide.AllOf, bide.RunResult, bide.TaskFailed} <= found
