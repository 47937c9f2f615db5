"""Features that are designed but not implemented yet say so and are not offered."""

from collections.abc import Callable

import pytest

import bide
from refusals import load


async def coroutine() -> None: ...


NOT_YET: dict[str, Callable[[bide.Runner], object]] = {
    "an async body": lambda r: bide.Workflow("w", [coroutine]),
    "Runner.cancel": lambda r: getattr(r, "cancel")("k"),  # noqa: B009 - unknown to type checkers
    "Client.cancel": lambda r: getattr(bide.Client(r), "cancel")("k"),  # noqa: B009 - as above
    "Runner.pause": lambda r: getattr(r, "pause")("k"),  # noqa: B009 - as above
    "Runner.resume": lambda r: getattr(r, "resume")("k"),  # noqa: B009 - as above
    "an async condition": lambda r: bide.until(coroutine),
}


@pytest.mark.parametrize("what", NOT_YET)
def test_an_unimplemented_feature_says_so(runner: bide.Runner, what: str) -> None:
    with pytest.raises(bide.BideError, match="not there yet"):
        NOT_YET[what](runner)


@pytest.mark.parametrize("what", ["cancel", "pause", "resume"])
def test_unimplemented_calls_of_a_run_handle_say_so(runner: bide.Runner, what: str) -> None:
    handle = runner.submit(bide.Workflow("w", [load]), {"path": "x"})
    with pytest.raises(bide.BideError, match="not there yet"):
        getattr(handle, what)()
    handle.result()


def test_an_unimplemented_feature_is_not_an_attribute(runner: bide.Runner) -> None:
    absent = {"cancel", "pause", "resume"}
    handle = runner.submit(bide.Workflow("w", [load]), {"path": "x"})
    for listed in (bide.TaskHandle, runner, handle):
        assert not absent & set(dir(listed))
    for thing in (bide.Runner, bide.RunHandle, bide.TaskHandle, runner, handle):
        assert not any(hasattr(thing, name) for name in absent)
    handle.result()


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
