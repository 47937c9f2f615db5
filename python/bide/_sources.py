"""The sources of watches: what is called for items, and a watch as the store shows it.

Imported with the first watch of a program, because few have one.
"""

import contextvars
import inspect
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from bide._codec import Codec
from bide._errors import BideError, DefinitionError
from bide._fingerprint import name_of
from bide._signature import MISSING, Names, read
from bide._text import check_text

if TYPE_CHECKING:
    from concurrent.futures import Future

    from bide._compiled import CompiledWorkflow
    from bide._runner import Runner

C = TypeVar("C")

Item: TypeAlias = tuple[str, Mapping[str, Any] | None]
"""An item of a source: its key, and the inputs of its run."""

Found: TypeAlias = tuple[Iterable[Item], C]
"""What a source returns: new items, and the next cursor."""

EXPECTED = (
    "a source returns (items, cursor): a list of (key, inputs), and what it is called with the next time, such as "
    '([("a.csv", {"path": "in/a.csv"})], cursor)'
)

_VALUES = Codec(where="the cursor of a watch", root="value")
_NONE = b"n"


class Watch(msgspec.Struct, frozen=True):
    """A watch as it stands in the store."""

    name: str
    workflow: str
    """The name of the workflow of which it starts runs."""
    every: float
    """Seconds from one call of the source to the next."""
    cursor: Any
    """What the source is called with next, decoded without the annotation of the source."""
    created_at: datetime
    paused_at: datetime | None
    """Since when it is paused; None if it is not."""
    served: bool
    """Whether a runner is there that calls the source."""
    next: datetime | None
    """When the source is called next, if this runner calls it."""
    calling: datetime | None
    """Since when a call of the source has not returned, if this runner calls it."""
    started: int
    """How many runs it has started."""
    last: datetime | None
    """When it has started the last one."""
    last_run: str | None
    """The id of that run."""
    error: str | None
    """How the source has failed; None if it has not, when it was called last."""
    failing_since: datetime | None

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return self.paused_at is not None


class Asked(msgspec.Struct, frozen=True):
    """What is said about a watch, as the executor takes it."""

    name: str
    every: int
    """Microseconds."""
    shown: str
    source: "Source"


class Source:
    """The source of a watch, as the extension calls it: with the encoded cursor, on a thread that polls."""

    def __init__(self, runner: "Runner", name: str, compiled: "CompiledWorkflow", source: Callable[[Any], Any]) -> None:
        """Check that the source can be called with a cursor."""
        where = f"watch {name!r}"
        if not callable(source):
            msg = f"{where}: source must be a function that takes the cursor, not {source!r}"
            raise DefinitionError(msg)
        self.shown = name_of(source)
        self.source = source
        self._compiled = compiled
        self._codec = _cursor_codec(where, self.shown, source)
        self._runner = weakref.ref(runner)
        self._vars = contextvars.copy_context()
        self._pending: Future[Any] | None = None
        self._is_over = False

    def __call__(
        self, cursor: bytes, number: int
    ) -> "tuple[list[tuple[str, list[tuple[str, bytes]]]], bytes] | str | None":
        """Return new items and the next cursor, or how the source has failed, or None if it answers later.

        The answer of a later call is asked for once the extension has heard of it, by this number.
        """
        try:
            pending, self._pending = self._pending, None
            if pending is not None:
                return self._checked(pending.result())
            found = self._vars.copy().run(self.source, None if cursor == _NONE else self._codec.decode(cursor))
            if inspect.isawaitable(found):
                self._begin(found, number)
                return None
            return self._checked(found)
        except Exception as error:  # noqa: BLE001 - whatever it raises is shown
            return _failure(error)

    def cancel(self) -> None:
        """End a call that has not returned: its answer does not count any more."""
        self._is_over = True
        pending = self._pending
        if pending is not None:
            pending.cancel()

    def _begin(self, found: "Awaitable[Any]", number: int) -> None:
        """Have the event loop of the runner await what an async source has returned."""
        import asyncio  # noqa: PLC0415 - for async sources

        from bide._loop import awaits  # noqa: PLC0415 - it imports asyncio

        coroutine = awaits(found)
        try:
            runner = self._open()
            core = runner._core
            future = self._vars.copy().run(asyncio.run_coroutine_threadsafe, coroutine, runner._loop.loop())
        except BaseException:
            coroutine.close()  # it never begins
            raise
        self._pending = future
        future.add_done_callback(lambda _: core.source_is_ready(number))
        if self._is_over:  # meanwhile
            future.cancel()

    def _open(self) -> "Runner":
        runner = self._runner()
        if runner is None:
            msg = "the runner is closed"
            raise BideError(msg)
        return runner

    def _checked(self, found: Any) -> tuple[list[tuple[str, list[tuple[str, bytes]]]], bytes]:  # noqa: ANN401
        """Return what the source has found, encoded."""
        if not isinstance(found, tuple) or len(found) != 2:  # noqa: PLR2004 - items and cursor
            msg = f"it returned {_short(found)}: {EXPECTED}"
            raise DefinitionError(msg)
        items, cursor = found
        if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
            msg = f"it returned {_short(items)} as items: {EXPECTED}"
            raise DefinitionError(msg)
        encoded = [self._item(item) for item in items]
        return encoded, _NONE if cursor is None else self._codec.encode(cursor)

    def _item(self, item: Any) -> tuple[str, list[tuple[str, bytes]]]:  # noqa: ANN401 - what a source returns
        if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[0], str):  # noqa: PLR2004
            msg = f"it returned the item {_short(item)}: {EXPECTED}"
            raise DefinitionError(msg)
        key, inputs = item
        key = check_text(key, "the key of an item")
        try:
            return key, self._compiled.encode_inputs(inputs)
        except BideError as error:
            msg = f"the item {key!r}: {error}"
            raise type(error)(msg) from None


def _cursor_codec(where: str, shown: str, source: "Callable[[Any], Any]") -> Codec:
    """Return how the cursor is stored: by the annotation of the parameter that gets it."""
    signature = read(source, f"{where}: source {shown}")
    positional = [param for param in signature.params if not param.by_keyword]
    required = [param.name for param in signature.params if param.default is MISSING]
    if not positional or any(name != positional[0].name for name in required):
        takes = ", ".join(param.name for param in signature.params) or "nothing"
        msg = f"{where}: its source {shown} is called with the cursor alone, and takes ({takes})"
        raise DefinitionError(msg)
    cursor = positional[0]
    annotation = Names(source).resolve(cursor.annotation, where, cursor.name)
    remedy = f"annotate the parameter {cursor.name} of {shown}"
    return Codec(annotation, f"{where}, source {shown}", root="the cursor", remedy=remedy)


def _failure(error: Exception) -> str:
    """Return what is shown of an exception of a source: what it is, and where it was raised."""
    import traceback  # noqa: PLC0415 - only once a source has failed

    kind, text = type(error).__qualname__, str(error)
    if isinstance(error, BideError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename != __file__]
    place = f" ({inside[-1].filename}, line {inside[-1].lineno})" if inside else ""
    return f"{kind}: {text}{place}" if text else f"{kind}{place}"


def _short(value: object) -> str:
    text = repr(value)
    most = 200
    return text if len(text) <= most else f"{text[:most]}..."


def shown(found: dict[str, Any]) -> Watch:
    """Return a watch as the extension shows it."""
    found["every"] /= 1_000_000
    cursor = found.pop("cursor")
    return Watch(cursor=_VALUES.decode(cursor), **found)
