"""The one thing in the standard library that copies of contextvars share: `decimal`'s context.

A contextvar holds it, but `getcontext().prec = 5` changes the object itself, for every copy that has the same one.
"""

import decimal
from contextvars import Context, ContextVar


def _find_variable() -> ContextVar[decimal.Context] | None:
    """Find `decimal`'s variable, which has no public name: the only one that is set after a look at the context.

    None where `decimal` was built to keep a context for each thread instead.
    """
    context = Context()
    context.run(decimal.getcontext)
    return next(iter(context), None)


_VARIABLE = _find_variable()


def has_context(context: Context) -> bool:
    """Whether these contextvars hold a context of `decimal`."""
    return _VARIABLE is not None and _VARIABLE in context


def own_context() -> None:
    """Replace the current context of `decimal` by a copy of it."""
    decimal.setcontext(decimal.getcontext().copy())
