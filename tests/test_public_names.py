"""The package's public names match what it lists."""

import bide


def test_every_public_name_is_there() -> None:
    for name in bide.__all__:
        assert getattr(bide, name) is not None
    assert {name for name in vars(bide) if not name.startswith("_")} <= set(bide.__all__)


def test_public_classes_are_named_as_they_are_imported() -> None:
    for name in bide.__all__:
        value = getattr(bide, name)
        if isinstance(value, type) and issubclass(value, BaseException):
            assert f"{value.__module__}.{value.__qualname__}" == f"bide.{name}"
