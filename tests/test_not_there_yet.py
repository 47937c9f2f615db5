"""A method that there is not is an AttributeError, and costs the attributes that there are nothing."""

import pytest

import bide


@pytest.mark.parametrize("kind", [bide.Runner, bide.RunHandle])
def test_no_attribute_of_the_hot_path_goes_through_python_code(kind: type) -> None:
    # With it, CPython specializes no access to any attribute of such an object.
    assert not hasattr(kind, "__getattr__")


@pytest.mark.parametrize("name", ["Runner", "RunHandle", "TaskHandle"])
def test_a_misspelt_method_is_an_attribute_error(runner: bide.Runner, name: str) -> None:
    things: dict[str, object] = {"Runner": runner}

    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        things["TaskHandle"] = handle

    things["RunHandle"] = runner.submit(bide.Workflow("w", [work]))
    runner.run(bide.Workflow("w", [work]))
    with pytest.raises(AttributeError, match=f"^'{name}' object has no attribute 'waitt'$") as raised:
        getattr(things[name], "waitt")  # noqa: B009 - for the error
    assert not isinstance(raised.value, bide.BideError)
