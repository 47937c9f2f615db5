"""Arbitrary stored bytes: a codec returns a value of its annotation or an error that says why not.

`rust/fuzz` fuzzes the formats that Rust stores, and `make soak` does so guided by coverage.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import bide
from bide._codec import Codec


class Colour(Enum):
    Red = "red"


@dataclass
class Item:
    name: str
    price: Decimal | None = None
    tags: frozenset[str] = frozenset()


ANNOTATIONS: list[Any] = [
    *(Parameter.empty, Any, None, bool, int, float, str, bytes),
    *(list[int], tuple[int, str], set[int], dict[int, str], int | None, str | float),
    *(Path, Decimal, UUID, datetime, timedelta, Colour, Item, list[Item], np.float64, np.int8),
]
CODECS = [Codec(annotation) for annotation in ANNOTATIONS]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
MANGLES: list[Callable[[bytes, int, int], bytes]] = [
    lambda data, at, byte: data[:at] + bytes([byte]) + data[at + 1 :],  # a changed byte
    lambda data, at, byte: data[:at] + data[at + 1 :],  # a byte removed
    lambda data, at, byte: data[:at] + bytes([byte]) + data[at:],  # a byte added
    lambda data, at, byte: data[:at],  # truncated
    lambda data, at, byte: data[:at] + data,  # partly repeated
]


def stands(data: bytes) -> None:
    for codec in CODECS:
        try:
            value = codec.decode(data)
        except bide.SerializationError:
            continue
        try:
            again = codec.encode(value)
        except bide.SerializationError:
            continue  # a NaN, say, which no encoder writes
        assert codec.decode(again) == value, (codec, data)


@given(st.sampled_from(b"ntfidsjmpb"), st.binary())
@example(ord("i"), b"9" * 5000)
@example(ord("j"), b"[" * 100_000)
@example(ord("j"), b'"\\ud800"')
def test_any_bytes_are_a_value_or_a_serialization_error(tag: int, rest: bytes) -> None:
    stands(bytes([tag]) + rest)


@given(st.binary())
@example(b"")
def test_any_bytes_without_a_tag_too(data: bytes) -> None:
    stands(data)


@given(VALUES, st.sampled_from(MANGLES), st.integers(0, 200), st.integers(0, 255))
def test_corrupted_bytes_are_a_value_or_a_serialization_error(
    value: object, mangle: Callable[[bytes, int, int], bytes], at: int, byte: int
) -> None:
    try:
        data = Codec().encode(value)
    except bide.SerializationError:
        return
    stands(mangle(data, at % (len(data) + 1), byte))


@given(VALUES)
def test_an_encoded_value_comes_back(value: object) -> None:
    try:
        data = Codec().encode(value)
    except bide.SerializationError:
        return
    assert Codec().decode(data) == value


def test_a_pickle_that_does_not_read_back_is_a_serialization_error() -> None:
    codec = Codec(Annotated[complex, bide.Pickle])
    data = codec.encode(1 + 2j)
    for end in range(1, len(data)):  # other changes of a pickle may call anything, as the docs say
        with pytest.raises(bide.SerializationError):
            codec.decode(data[:end])
