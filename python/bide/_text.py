"""What counts as text: a string that UTF-8 can encode, so one without lone surrogates. Every name is checked here.

Strings with lone surrogates come from `os.fsdecode`, `json.loads` and the like. They cannot be stored or shown
elsewhere, so a name with one is refused, and in text that is only shown the surrogates are escaped.
"""

from collections.abc import Iterable
from typing import TypeGuard

from bide._errors import DefinitionError


def is_text(name: object) -> TypeGuard[str]:
    """Return whether this is text, and so can be a name."""
    if not isinstance(name, str):
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(name: object, what: str) -> str:
    """Return `name` after checking that it is text and not empty; `what` is the subject of the error message."""
    if not isinstance(name, str) or not name:
        msg = f"{what} must be a non-empty string, not {name!r}"
        raise DefinitionError(msg)
    if not is_text(name):
        msg = f"{what} is {name!r}, which has a lone surrogate and is not text"
        raise DefinitionError(msg)
    return name


def escape_surrogates(text: str) -> str:
    """Return the text with lone surrogates escaped, so that UTF-8 can encode it."""
    return str.encode(text, "utf-8", "backslashreplace").decode()


def shown(name: str) -> str:
    """Return a name as it is put into a message or log line: unprintable characters are escaped, as in `repr`.

    So a name cannot break a line, move a terminal's cursor or change the direction of the text around it.
    """
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)


def listed(names: Iterable[str]) -> str:
    """Return names as a message lists them."""
    return ", ".join(map(shown, names)) or "none"


def shown_store(store: str) -> str:
    """Return the path of a store as it is, and of a URL what comes before the part that may have a password."""
    scheme, separator, _ = store.partition("://")
    return f"{scheme}://…" if separator and scheme != "sqlite" else store
