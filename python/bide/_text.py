"""What counts as text: UTF-8 has to carry it, which a lone surrogate prevents. Every name is asked here.

Python has such strings from `os.fsdecode`, `json.loads` and the like. What is stored or shown elsewhere cannot have
them, so a name with one is refused where it is given, and text that is only shown has it written out.
"""

from typing import TypeGuard

from bide._errors import DefinitionError


def is_text(name: object) -> TypeGuard[str]:
    """Whether it is text that can be a name."""
    if not isinstance(name, str):
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(name: object, what: str) -> str:
    """Return `name` after checking that it is text and not empty; `what` is the subject of the error."""
    if not isinstance(name, str) or not name:
        msg = f"{what} must be a text that is not empty, not {name!r}"
        raise DefinitionError(msg)
    if not is_text(name):
        msg = f"{what} is {name!r}, which has a lone surrogate and is not text"
        raise DefinitionError(msg)
    return name


def written_out(text: str) -> str:
    """Return text that UTF-8 can carry: lone surrogates are written out."""
    return str.encode(text, "utf-8", "backslashreplace").decode()


def shown(name: str) -> str:
    """Return a name as it may be put into a message or log line: what is not printable is escaped, as by `repr`.

    So a name cannot break a line, move a terminal's cursor or change the direction of the text around it.
    """
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)
