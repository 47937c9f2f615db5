"""Stores scalars: an exact None, bool, int, float or str, each with a tag of its own."""

import math
from decimal import Decimal

from bide._errors import SerializationError

MAX_DIGITS = 4300
"""CPython's own limit. Conversion both ways takes time that grows with the square of the number of digits."""

_BEYOND = 10**MAX_DIGITS
_BITS = _BEYOND.bit_length() - 1
"""A number with fewer bits has fewer digits."""

_MAX_DIGITS_READ = 100_000
"""How many digits of an int written by an earlier version of bide are read."""

_FEW_DIGITS = 600
"""Python converts this many digits whatever `sys.set_int_max_str_digits` says."""


def encode_scalar(value: object) -> bytes | None:
    """Return an exact scalar's stored bytes; None for any other value, and for a scalar that cannot be stored."""
    kind = type(value)
    if kind is str:
        try:
            return b"s" + value.encode()  # type: ignore[attr-defined, no-any-return] # pyright: ignore[reportAttributeAccessIssue]
        except UnicodeEncodeError:
            return None  # the encoder of JSON refuses it too, with the path
    if kind is int:
        # An int that is too long is refused later, with the path.
        return b"i" + _digits(value) if is_short(value) else None  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    if value is None:
        return b"n"
    if kind is bool:
        return b"t" if value else b"f"
    if kind is float and math.isfinite(value):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        return b"d" + repr(value).encode()
    return None


def decode_scalar(tag: str, data: bytes) -> object:
    """Return the scalar in stored bytes."""
    if tag == "s":
        return data[1:].decode()
    if tag == "i":
        return _number(data[1:])
    if tag == "d":
        return float(data[1:])
    if tag in "ntf":
        return {"n": None, "t": True, "f": False}[tag]
    msg = f"unknown value tag {tag!r}: was it stored by a newer version of bide?"
    raise SerializationError(msg)


def is_short(value: int) -> bool:
    """Return whether an int has few enough digits to be stored."""
    return value.bit_length() < _BITS or bool(-_BEYOND < value < _BEYOND)


def _digits(value: int) -> bytes:
    try:
        return str(value).encode()
    except ValueError:  # `sys.set_int_max_str_digits` allows fewer; Decimal has no such limit
        return str(Decimal(value)).encode()


def _number(digits: bytes) -> int:
    try:
        return int(digits)
    except ValueError:
        if not _is_older(digits):
            raise
        return -_joined(digits[1:]) if digits[:1] == b"-" else _joined(digits)


def _is_older(digits: bytes) -> bool:
    """Return whether an earlier version of bide may have written this, which had no limit."""
    return digits.lstrip(b"-").isdigit() and len(digits) <= _MAX_DIGITS_READ


def _joined(digits: bytes) -> int:
    """Return the number, converted by halves, which is much cheaper than converting all digits at once."""
    if len(digits) <= _FEW_DIGITS:
        return int(digits)
    half = len(digits) // 2
    shift: int = 10**half
    return _joined(digits[:-half]) * shift + _joined(digits[-half:])
