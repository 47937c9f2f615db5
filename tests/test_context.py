"""Context: only a body's changes are kept, and in-place changes count."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bide
from bide._codec import Codec
from bide._context import Context
from test_codec import exactly, json_values

keys = st.sampled_from(["a", "b", "c", "d"])
contents = st.dictionaries(keys, json_values)


def encoded(values: dict[str, Any]) -> dict[str, bytes]:
    return {key: Codec().encode(value) for key, value in values.items()}


def apply(base: dict[str, Any], changes: list[tuple[str, bytes | None]]) -> dict[str, Any]:
    """What a reader sees after these changes."""
    after = dict(base)
    for key, data in changes:
        if data is None:
            del after[key]
        else:
            after[key] = Codec().decode(data)
    return after


@given(contents, st.lists(st.tuples(st.sampled_from("srgi"), keys, json_values)))
def test_changes_lead_from_the_beginning_to_the_end(base: dict[str, Any], steps: list[tuple[str, str, Any]]) -> None:
    context = Context._from_encoded(encoded(base))
    model = copy.deepcopy(base)
    for what, key, value in steps:
        if what == "s":
            context.set(key, copy.deepcopy(value))
            model[key] = copy.deepcopy(value)
        elif what == "r" and key in model:
            context.remove(key)
            del model[key]
        elif what == "g":
            assert exactly(context.get(key), model.get(key))
        elif what == "i" and isinstance(model.get(key), list):
            context[key].append(value)
            model[key].append(copy.deepcopy(value))
    changes = context.changes()
    after = apply(base, changes)
    assert after.keys() == model.keys()
    assert all(exactly(after[key], model[key]) for key in model)
    assert context.to_dict() == model
    # Nothing unchanged is listed as a change.
    before = encoded(base)
    assert all(before.get(key) != data for key, data in changes)
    assert len({key for key, _ in changes}) == len(changes)


@given(contents)
def test_reading_is_no_change(base: dict[str, Any]) -> None:
    context = Context._from_encoded(encoded(base))
    assert context.to_dict() == base
    assert context.changes() == []


def test_the_same_json_written_in_another_way_is_no_change() -> None:
    context = Context._from_encoded({"a": b'j{"k": [1, 2.50]}', "n": b"j3"})
    assert context["a"] == {"k": [1, 2.5]}
    assert context["n"] == 3
    assert context.changes() == []


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        (b'j{"a":1,"b":{"c":2,"d":3}}', {"b": {"d": 3, "c": 2}, "a": 1}, False),
        (b'j[{"a":1,"b":2}]', [{"b": 2, "a": 1}], False),
        (b"j[1,2]", [2, 1], True),
        (b'j{"a":1}', {"a": 1.0}, True),
        (b'j{"a":1}', {"a": True}, True),
        (b'j{"a":0.0}', {"a": -0.0}, True),
        (b"i1", 1.0, True),
    ],
)
def test_a_change_is_one_of_value_in_any_order_of_keys(before: bytes, now: object, changed: bool) -> None:
    context = Context._from_encoded({"k": before})
    context["k"] = now
    assert bool(context.changes()) is changed


def test_a_value_that_is_not_requested_is_not_decoded() -> None:
    context = Context._from_encoded({"broken": b"j{", "fine": b"i1"})
    assert context["fine"] == 1
    assert "broken" in context
    assert len(context) == 2
    assert context.changes() == []
    with pytest.raises(bide.SerializationError, match=r'context\["broken"\]'):
        context["broken"]


def test_a_value_may_change_in_place_and_back() -> None:
    context = Context._from_encoded(encoded({"a": {"list": [1]}}))
    context["a"]["list"].append(2)
    assert context.changes() == [("a", b'j{"list":[1,2]}')]
    context["a"]["list"].pop()
    assert context.changes() == []


def test_set_insert_update_remove() -> None:
    context = Context()
    context.insert("a", 1)
    with pytest.raises(KeyError, match="'a' already"):
        context.insert("a", 2)
    with pytest.raises(KeyError, match="no 'b'"):
        context.update("b", 2)
    with pytest.raises(KeyError, match="no 'b'"):
        context.remove("b")
    with pytest.raises(KeyError):
        context["b"]
    context.update("a", 3)
    context["b"] = [1]
    assert context.to_dict() == {"a": 3, "b": [1]}
    assert dict(context) == context.to_dict()
    assert context == {"a": 3, "b": [1]}
    assert context.get("nothing", 7) == 7
    assert (len(context), "a" in context, "z" in context) == (2, True, False)
    del context["a"]
    assert list(context) == ["b"]
    assert repr(context) == "Context({'b': [1]})"


def test_pop_setdefault_and_update_are_those_of_a_dict() -> None:
    context = Context({"a": 1, "b": 2})
    assert context.pop("a") == 1
    assert (context.pop("a", 7), context.pop("a", None)) == (7, None)
    with pytest.raises(KeyError, match="no 'a'"):
        context.pop("a")
    with pytest.raises(TypeError, match="at most one default"):
        context.pop("b", 1, 2)
    assert (context.setdefault("b", 9), context.setdefault("c", [1]), context.setdefault("d")) == (2, [1], None)
    context.setdefault("c").append(2)
    context.update({"b": 3}, e=4)
    context.update([("f", 5)])
    context.update(g=6)
    context.update()
    assert context == {"b": 3, "c": [1, 2], "d": None, "e": 4, "f": 5, "g": 6}
    with pytest.raises(TypeError):
        context.update({}, {}, {})  # type: ignore[call-overload]


def test_an_update_that_is_refused_changes_nothing() -> None:
    context = Context({"a": 1})
    for values in ({"b": 2, "a": object()}, {"b": 2, 3: 1}):
        with pytest.raises(bide.BideError):
            context.update(values)  # type: ignore[arg-type]
        assert context == {"a": 1}


def test_changes_by_pop_setdefault_and_update_are_kept_and_merged(runner: bide.Runner) -> None:
    @bide.task
    def first(context: bide.Context) -> None:
        context.update({"kept": 1, "dropped": 2, "changed": 3})

    @bide.task(depends_on=first)
    def left(context: bide.Context) -> int:
        context.setdefault("changed", 9)
        return int(context.pop("dropped"))

    @bide.task(depends_on=first)
    def right(context: bide.Context) -> None:
        context.update(changed=4, new=5)
        context.setdefault("late", 6)

    result = runner.run(bide.Workflow("w", [first, left, right]))
    assert result["left"] == 2
    assert result.context == {"kept": 1, "changed": 4, "new": 5, "late": 6}


def test_a_value_that_cannot_be_stored_is_refused_where_it_is_set() -> None:
    context = Context()
    with pytest.raises(bide.SerializationError, match=r'the context: context\["k"\]\[0\] = nan'):
        context.set("k", [float("nan")])
    with pytest.raises(bide.SerializationError, match="tuple"):
        context.set("k", (1,))
    with pytest.raises(bide.DefinitionError, match="keys are str, not 3"):
        context.set(3, 1)  # type: ignore[arg-type]
    assert len(context) == 0


def test_a_value_made_invalid_in_place_is_refused_at_the_end() -> None:
    context = Context._from_encoded(encoded({"a": []}), "task 'load'")
    context["a"].append({1, 2})
    with pytest.raises(bide.SerializationError, match=r"""task 'load': context\["a"\]\[0\]"""):
        context.changes()


def test_json_goes_out_and_in() -> None:
    context = Context({"a": [1, 10**30, "é", None, 1.5], "b": {}})
    assert Context.from_json(context.to_json()) == context
    with pytest.raises(bide.DefinitionError, match="JSON object, not list"):
        Context.from_json("[]")
    with pytest.raises(bide.DefinitionError, match="not JSON"):
        Context.from_json("{")


@pytest.mark.parametrize("touched", [False, True])
def test_a_read_only_context_refuses_and_hands_out_copies(touched: bool) -> None:
    context = Context._from_encoded(encoded({"a": [1], "b": 2}))
    if touched:
        context["a"].append(2)
    now = context.changes()
    context._set_read_only(True)
    assert context.read_only
    for change in (
        lambda: context.set("a", 1),
        lambda: context.insert("z", 1),
        lambda: context.update("a", 1),
        lambda: context.update({"a": 1}),
        lambda: context.setdefault("z"),
        lambda: context.pop("a"),
        lambda: context.pop("z", None),
        lambda: context.remove("a"),
        lambda: context.__delitem__("a"),
    ):
        with pytest.raises(bide.BideError, match="read-only"):
            change()
    context["a"].append(3)
    context.to_dict()["a"].append(4)
    assert context.changes() == now
    context._set_read_only(False)
    assert context["a"] == ([1, 2] if touched else [1])
