"""states.py: the one table of legal transitions."""

from itertools import product

import pytest

from dispatcher.states import FINAL, QUEUED, STATES, TRANSITIONS, State, legal

LEGAL = {
    ("pending", "sending"),
    ("pending", "dead"),
    ("pending", "cancelled"),
    ("sending", "delivered"),
    ("sending", "pending"),
    ("sending", "dead"),
    ("sending", "cancelled"),
    ("dead", "pending"),
    ("delivered", "pending"),
    ("cancelled", "pending"),
}


@pytest.mark.parametrize(("before", "after"), list(product(STATES, STATES)))
def test_each_pair_is_legal_or_not_as_designed(before: State, after: State) -> None:
    assert legal(before, after) == ((before, after) in LEGAL)


def test_every_state_is_final_or_queued_and_not_both() -> None:
    assert set(STATES) == FINAL | QUEUED
    assert not FINAL & QUEUED


def test_a_final_state_is_left_by_a_replay_alone() -> None:
    left = {pair: why for pair, why in TRANSITIONS.items() if pair[0] in FINAL}
    assert set(left.values()) == {"replayed"}
    assert {after for _, after in left} == {"pending"}


def test_nothing_is_sent_but_from_pending() -> None:
    assert [before for before, after in TRANSITIONS if after == "sending"] == ["pending"]


def test_every_transition_says_why() -> None:
    assert all(TRANSITIONS.values())
