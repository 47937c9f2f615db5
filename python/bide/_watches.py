"""Watches: `watch`, and what else a `Runner` or a `Client` does with them.

A watch is a row of the store. Which runner calls its source, and when, the executor decides
(`rust/executor/src/runs/sources.rs`). What a source is stands in `_sources.py`.
"""

from typing import TYPE_CHECKING, Any, Literal, cast

from bide._duration import seconds
from bide._in_thread import twin
from bide._text import check_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bide._access import StoreAccess
    from bide._runner import Runner
    from bide._sources import Found, Source, Watch
    from bide._waits import Duration
    from bide._workflow import Workflow


class Watches:
    """What a `Runner` or a `Client` does with the watches of a store."""

    def watches(self) -> "list[Watch]":
        """Return all watches of the store, by name."""
        from bide._sources import shown  # noqa: PLC0415 - few programs watch

        return [shown(one) for one in cast("StoreAccess", self)._core.watches()]

    def pause_watch(self, name: str) -> None:
        """Have the source of a watch not called until `resume_watch`; runs that it has started continue."""
        self._alter_watch(name, "pause")

    def resume_watch(self, name: str) -> None:
        """Have the source of a paused watch called again."""
        self._alter_watch(name, "resume")

    def unwatch(self, name: str) -> None:
        """Remove a watch. The runs that it has started stay, and so do its keys: they start no run again."""
        self._alter_watch(name, "remove")

    watches_async = twin(watches)
    pause_watch_async = twin(pause_watch)
    resume_watch_async = twin(resume_watch)
    unwatch_async = twin(unwatch)

    def _alter_watch(self, name: str, what: Literal["pause", "resume", "remove"]) -> None:
        name = check_text(name, "watch: name")
        try:
            cast("StoreAccess", self)._core.alter_watch(name, what)
        except KeyError:
            names = ", ".join(repr(one.name) for one in self.watches()) or "none"
            msg = f"no watch is named {name!r} (watches: {names})"
            raise KeyError(msg) from None


class Watching:
    """What only a `Runner` does: it calls sources."""

    _sources: "dict[str, tuple[Workflow, Source, float]]"
    """The watches that have a source here."""

    def watch(
        self,
        name: str,
        workflow: "Workflow",
        source: "Callable[[Any], Found[Any] | Awaitable[Found[Any]]]",
        *,
        every: "Duration" = 5.0,
    ) -> "Watch":
        """Have runs of a workflow started for what a source finds, until `unwatch(name)`.

        `source(cursor)` is called every `every` seconds and returns new items and the next cursor. Each item is a key
        and the inputs of its run. Runs and cursor are one commit, and each key starts one run ever: a source may return
        an item again. The cursor is any value that can be stored, None at first; annotate the parameter with its type.

        `source` is a plain function, called on a thread of the runner, or an `async def`, which its event loop
        executes. One runner calls it at a time; another one that watches the same name goes on when that is gone. What
        it raises is logged, shown by `watches()`, and tried again, less and less often.

        The same call again replaces the source and `every`. The cursor stays.
        """
        from bide._sources import Asked, Source, shown  # noqa: PLC0415 - few programs watch

        runner = cast("Runner", self)
        name = check_text(name, "watch: name")
        core = runner._core_workflow(workflow)
        span = seconds(every, f"watch {name!r}: every")
        made = Source(runner, name, workflow._compiled(), source)
        asked = Asked(name, max(int(span * 1_000_000), 1), made.shown, made)
        watch = shown(runner._core.watch(core, asked))
        before = self._sources.get(name)
        self._sources[name] = (workflow, made, span)
        if before is not None:
            before[1].cancel()
        return watch

    watch_async = twin(watch)

    def _stop_sources(self) -> None:
        for _, source, _ in list(self._sources.values()):
            source.cancel()
