"""places.py: what one process may have running, and that endpoints leave room for others."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.gateway.places import Places

MIB = 2**20


def test_a_claim_leaves_a_part_for_hand_over() -> None:
    places = Places(8, bytes_max=32 * MIB)
    request = places.ask("p", 0)
    assert (request.places, request.bytes_free) == (6, 24 * MIB)
    assert places.admits("a", MIB)
    places.take("a", MIB)
    places.take("b", MIB)
    assert not places.admits("c", 0), "the two ways in never fill one place twice"
    places.answered()
    assert places.admits("c", 0)


def test_an_endpoint_leaves_places_for_others() -> None:
    """I6: calls that last for hours never take all there is."""
    places = Places(1_000, bytes_max=32 * MIB)
    while places.admits("slow", 0):
        places.take("slow", 0)
    assert places.taken == 937
    assert places.admits("other", 0)
    while places.admits("too", 0):
        places.take("too", 0)
    assert places.admits("newcomer", 0)


def test_bytes_are_shared_and_a_large_one_finds_room() -> None:
    places = Places(100, bytes_max=32 * MIB)
    assert places.admits("a", 64 * MIB)
    places.take("a", 64 * MIB)
    assert not places.admits("b", 1)
    places.give("a", 64 * MIB)
    while places.admits("a", MIB):
        places.take("a", MIB)
    assert 20 < places.taken < 32
    assert places.admits("b", MIB)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["hand", "claim", "give"]),
            st.sampled_from("abc"),
            st.integers(0, 3 * MIB),
        )
    )
)
def test_there_are_never_more_than_there_may_be(steps: list[tuple[str, str, int]]) -> None:
    """However the two ways in interleave; and what is given back is all there is."""
    places, held = Places(5, bytes_max=4 * MIB), list[tuple[str, int]]()
    asked = None
    for what, name, size in steps:
        if what == "hand" and places.admits(name, size):
            places.take(name, size)
            held.append((name, size))
        elif what == "claim" and asked is None:
            asked = places.ask("p", 0)
        elif what == "claim" and asked is not None:
            places.answered()
            for _ in range(asked.places):
                places.take(name, 0)
                held.append((name, 0))
            asked = None
        elif what == "give" and held:
            places.give(*held.pop())
        assert places.taken == len(held) <= 5
    for one in held:
        places.give(*one)
    places.answered()
    assert (places.taken, places.free, places._bytes_free) == (0, 5, 4 * MIB)
    assert places._busy == places._busy_bytes == Counter()
