"""`decimal`'s context, the only object of the standard library that copies of contextvars share.

It is held by a contextvar, but `getcontext().prec = 5` changes the object itself, for every copy of the contextvars.
"""

import decimal
from contextvars import Context, ContextVar


def _find_variable() -> ContextVar[decimal.Context] | None:
    """Return `decimal`'s contextvar, which has no public name: reading the context in an empty one sets only it.

    None if `decimal` was built to keep a context per thread instead.
    """
    context = Context()
    context.run(decimal.getcontext)
    return next(iter(context), None)


_VARIABLE = _find_variable()


def has_context(context: Context) -> bool:
    """Return whether these contextvars hold a context of `decimal`."""
    return _VARIABLE is not None and _VARIABLE in context


def own_context() -> None:
    """Replace the current context of `decimal` by a copy of it."""
    decimal.setcontext(decimal.getcontext().copy())
