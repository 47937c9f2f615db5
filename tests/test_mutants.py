"""No condition that differs from the recorded one in a single detail matches it.

Every way of holding a value, with every pair of values that differ in one detail.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest

import mutants
from bide._fingerprint import proof_of
from mutants import HIDING, HOLDING, NEVER_PROVED, PLAIN_PAIRS


@pytest.mark.parametrize("holding", HOLDING)
def test_no_mutant_is_proved_the_same(holding: str) -> None:
    hold = HOLDING[holding]
    for pair, (one, other) in PLAIN_PAIRS.items():
        proofs = hold(one()), hold(other())
        assert proofs == (hold(one()), hold(other())), f"{pair}: the same made again is the same"
        if holding in NEVER_PROVED:
            assert proofs == (None, None), pair
        else:
            assert None not in proofs, pair
            assert proofs[0] != proofs[1], pair


@pytest.mark.parametrize("holding", HOLDING)
def test_an_object_with_hidden_state_is_never_proved(holding: str) -> None:
    for hiding, make in HIDING.items():
        assert HOLDING[holding](make()) is None, hiding
        assert HOLDING[holding]([{"nested": make()}]) is None, hiding


def test_a_member_of_an_enum_with_an_attribute_is_another() -> None:
    before = proof_of(lambda: mutants.Mode.FAST)
    captured = HOLDING["a closure"](mutants.Mode.FAST)
    with mutants.assigned(mutants.Mode.FAST, "job", 1):
        assert proof_of(lambda: mutants.Mode.FAST) != before
        assert HOLDING["a closure"](mutants.Mode.FAST) != captured
    assert HOLDING["a closure"](mutants.Mode.FAST) == captured


def test_a_condition_with_a_cache_is_proved_only_while_its_cache_is_empty() -> None:
    make: Callable[[], Any] = lambda: functools.lru_cache(mutants.helper)  # noqa: E731
    condition = make()
    assert proof_of(condition) == proof_of(make()) is not None
    condition()
    assert proof_of(condition) is None


@pytest.mark.parametrize("replaced", ["computed", "done"])
def test_a_called_function_that_was_replaced_is_another(replaced: str) -> None:
    condition = mutants.Holder(1).done if replaced == "done" else mutants.computing(mutants.Holder(1))
    before = proof_of(condition)
    assert before is not None
    with mutants.assigned(mutants.Holder, replaced, property(lambda _self: True)):
        condition = mutants.Holder(1).done if replaced == "done" else condition
        assert proof_of(condition) not in {None, before} if replaced == "computed" else proof_of(condition) != before


def test_a_value_may_share_its_contents_along_too_many_paths_to_walk() -> None:
    value: Any = "x"
    for _ in range(60):
        value = [value, value]
    assert proof_of(lambda: value) is None


def test_a_named_field_of_a_named_tuple_is_seen() -> None:
    def reading(pair: mutants.Pair) -> Callable[[], object]:
        return lambda: pair.n

    assert proof_of(reading(mutants.Pair(1))) == proof_of(reading(mutants.Pair(1))) is not None
    assert proof_of(reading(mutants.Pair(1))) != proof_of(reading(mutants.Pair(2)))
