"""Inputs and values between tasks: a reader gets the given value, or the giver gets an error."""

import dataclasses
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest

import bide
from bide._codec import Codec


def round_trip(annotation: Any, value: Any) -> Any:
    codec = Codec(annotation, "task 'make'")
    return codec.decode(codec.encode(value))


@dataclasses.dataclass
class Own:
    x: int


def reading(name: str, annotation: Any, default: Any = ...) -> Any:
    def body(x: Any) -> str:
        return repr(x)

    def optional(x: Any = default) -> str:
        return repr(x)

    fn = body if default is ... else optional
    fn.__annotations__["x"] = annotation
    return bide.task(fn, name=name)


INPUTS: list[tuple[tuple[Any, ...], Any, bool]] = [
    ((float,), 3, True),
    ((float,), 2**53 + 1, False),
    ((list[float],), [1, 2.5], True),
    ((list[float],), [1, 2**53 + 1], False),
    ((float, int), 3, True),
    ((float, int), 2.0, False),
    ((list[float], list[int]), [1, 2], True),
    ((list[float], Any), [1, 2], True),
    ((bytes,), "abcd", False),
    ((bytes,), b"abcd", True),
    ((list[bytes],), ["abcd"], False),
    ((bytes, str), "abcd", False),
    ((Path, str), "a/b", True),
    ((Path, str), Path("a/b"), False),
    ((Path, Any), Path("a/b"), False),
    ((Path, Path), Path("a/b"), True),
    ((Own, Any), {"x": 1}, False),
    ((set[int], list[int]), [1, 2], False),
    ((set[int], set[int] | None), {2, 1}, True),
    ((dict[str, float], dict[str, Any]), {"b": 1, "a": 2}, True),
    ((bool,), 1, False),
    ((int,), 5.0, False),
    ((str,), 5, False),
    ((Decimal,), 5, True),
    ((np.float32,), 2**24 + 1, False),
]


@pytest.mark.parametrize(("annotations", "value", "accepted"), INPUTS, ids=str)
def test_the_order_of_readers_does_not_decide_if_an_input_is_accepted(
    annotations: tuple[Any, ...], value: Any, accepted: bool
) -> None:
    tasks = [reading(f"t{n}", annotation) for n, annotation in enumerate(annotations)]
    stored = set()
    for order in (tasks, tasks[::-1]):
        compiled = bide.Workflow("w", order)._compiled()
        if accepted:
            stored.add(tuple(compiled.encode_inputs({"x": value})))
        else:
            with pytest.raises(
                bide.SerializationError, match=r"input 'x' of workflow 'w' is not what task 't\d' takes"
            ):
                compiled.encode_inputs({"x": value})
    assert len(stored) == (1 if accepted else 0)


@pytest.mark.parametrize(
    "annotation", [int, list[int], Path, Own, float, str, Annotated[int, msgspec.Meta(gt=0)]], ids=str
)
def test_none_is_accepted_where_it_is_the_default(runner: bide.Runner, annotation: Any) -> None:
    workflow = bide.Workflow("w", [reading("t", annotation, None)])
    assert runner.run(workflow, {"x": None})["t"] == "None"
    assert runner.run(workflow)["t"] == "None"
    with pytest.raises(bide.SerializationError):
        runner.submit(bide.Workflow("v", [reading("t", annotation)]), {"x": None})


@pytest.mark.parametrize(
    ("writer", "value", "reader", "got"),
    [
        (str | int, "abcd", bytes | int, None),
        (list[str], ["abcd"], list[bytes], None),
        (Any, ["abcd"], list[bytes], None),
        (dict[str, str], {"k": "abcd"}, dict[str, bytes | None], None),
        (bytes, b"abc", bytes, "b'abc'"),
        (list[bytes], [b"abc"], list[bytes], "[b'abc']"),
        (list[bytes], [b"abc"], list[str], "['YWJj']"),
        (Any, [2**53 + 1], list[float], None),
        (Any, [2**53], list[float], "[9007199254740992.0]"),
        (int, 2**60 + 1, float, None),
        (int, 3, float, "3.0"),
    ],
    ids=str,
)
def test_a_reader_never_gets_text_as_bytes_or_a_rounded_integer(
    runner: bide.Runner, writer: Any, value: Any, reader: Any, got: str | None
) -> None:
    def x() -> Any:
        return value

    x.__annotations__["return"] = writer
    workflow = bide.Workflow("w", [bide.task(x), reading("read", reader)])
    if got is not None:
        assert runner.run(workflow)["read"] == got
        return
    with pytest.raises(bide.RunFailed) as failed:
        runner.run(workflow)
    assert isinstance(failed.value.__cause__, bide.SerializationError)
    assert "task 'read': parameter 'x'" in str(failed.value.__cause__)
