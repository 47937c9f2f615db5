"""`HistoryEntry`: something that has happened to a run."""

from datetime import datetime

import msgspec


class HistoryEntry(msgspec.Struct, frozen=True):
    """Something that has happened to a run: when, what, to which task, and of which wait or step (`name`).

    What was asked of the run, such as `cancel`, also has who (`by`) and why (`reason`).
    """

    at: datetime
    what: str
    task: str | None
    name: str | None
    by: str | None
    reason: str | None
