"""How the inputs of a run are stored, for all tasks that read them.

Which parameters read an input is decided in `_bind.py`; whether a run is given the right ones, in `_compiled.py`.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from bide._bind import Binding, InputParam
from bide._codec import REFUSE_ABOVE, SCALAR_TAGS, WARN_ABOVE, Codec
from bide._errors import DefinitionError, SerializationError
from bide._scalars import encode_scalar
from bide._text import check_text, listed


class InputPlan(msgspec.Struct, frozen=True):
    """How one run input is stored: in the form that every reader of it takes, whatever their order."""

    readers: tuple[tuple[str, InputParam], ...]
    """The name of each task that reads it, and how."""
    plain: Codec
    """Of a value that no task reads; and what names the input in errors."""
    fast: frozenset[int]
    """First bytes of the values that every reader takes as they are."""
    required_by: str | None
    """The first task that cannot do without it."""

    def encode(self, value: object) -> bytes:
        """Return a value's stored bytes. A scalar is stored as itself, so that a str will do for a Path."""
        data = encode_scalar(value)
        if data is not None and data[0] in self.fast and len(data) <= WARN_ABOVE:
            return data
        if not self.readers:
            return self.plain.encode(value)
        forms: set[bytes] = set()
        asked: list[object] = []
        for task_name, parameter in self.readers:
            if parameter.codec.annotation in asked:
                continue
            asked.append(parameter.codec.annotation)
            try:
                if parameter.is_list:
                    _check_list(value)
                if data is None:
                    whole = list(value) if parameter.is_list and isinstance(value, tuple) else value
                    forms.add(parameter.codec.encode_any_size(whole))
                else:
                    parameter.codec.decode(data)
            except SerializationError as problem:
                msg = f"{self.plain.where} is not what task {task_name!r} takes: {problem}"
                raise SerializationError(msg) from None
        return self.plain.check_size(self._chosen(forms) if data is None else data)

    def _chosen(self, forms: set[bytes]) -> bytes:
        if len(forms) > 1:
            readers = listed(name for name, _ in self.readers)
            msg = f"{self.plain.where} is stored in another form by each annotation of the tasks {readers}: use one"
            raise SerializationError(msg)
        return forms.pop()

    def same(self, one: bytes, other: bytes) -> bool:
        """Whether two encoded values are equal to every reader: dicts and sets may be stored in any order."""
        from bide._canonical import canonical  # noqa: PLC0415 - for inputs under a key that are encoded differently

        codecs = [parameter.codec for _, parameter in self.readers] or [self.plain]
        try:
            return one == other or all(
                canonical(codec.decode(one), REFUSE_ABOVE) == canonical(codec.decode(other), REFUSE_ABOVE)
                for codec in codecs
            )
        except Exception:  # noqa: BLE001 - the recorded one may not fit any more, the user's own types may raise
            return False


def _check_list(value: object) -> None:
    """Refuse what has no items in an order, to map a task over."""
    if isinstance(value, (list, tuple)):
        return
    kind = type(value).__name__
    remedy = "sorted(...) or list(...) of it" if isinstance(value, AbstractSet) else "list(...) of it"
    if isinstance(value, Mapping):
        remedy = "list(....items()), or a list of its keys or values"
    elif isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        remedy = "a list or a tuple"
    msg = f"it is mapped over a list, and this is {_article(kind)}: give it {remedy}"
    raise SerializationError(msg)


def _article(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in set('aeiou') else 'a'} {kind}"


def paired(
    inputs: Iterable[Mapping[str, Any] | None], keys: Iterable[str | None] | None, what: str
) -> tuple[list[Mapping[str, Any] | None], list[str | None]]:
    """Return the inputs of many runs, and a key for each or None; `what` takes them."""
    if not isinstance(inputs, Iterable):
        msg = f"{what} takes a list of inputs, not {inputs!r}"
        raise DefinitionError(msg)
    given = list(inputs)
    if keys is None:
        return given, [None] * len(given)
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        msg = f"{what} takes a list of keys, not {keys!r}"
        raise DefinitionError(msg)
    names = [None if key is None else check_text(key, f"keys[{at}]") for at, key in enumerate(keys)]
    if len(names) != len(given):
        msg = f"{what} got {len(given)} inputs and {len(names)} keys: give one key for each"
        raise DefinitionError(msg)
    return given, names


def collect(workflow: str, bindings: Iterable[tuple[str, Binding]]) -> dict[str, InputPlan]:
    """Return how each input that a parameter names is stored, from the bindings of a workflow's tasks."""
    found: dict[str, list[tuple[str, InputParam]]] = {}
    for task, binding in bindings:
        for parameter in binding.inputs:
            found.setdefault(parameter.name, []).append((task, parameter))
    return {name: plan_of(workflow, name, tuple(readers)) for name, readers in found.items()}


def plan_of(workflow: str, name: str, readers: tuple[tuple[str, InputParam], ...]) -> InputPlan:
    """Return how an input is stored that these tasks read."""
    fast = set(SCALAR_TAGS)
    for _, parameter in readers:
        fast &= set(parameter.codec.fast)
    return InputPlan(
        readers=readers,
        plain=Codec(where=f"input {name!r} of workflow {workflow!r}", root="value"),
        fast=frozenset(map(ord, fast)),
        required_by=next((task_name for task_name, parameter in readers if parameter.required), None),
    )
