"""places.py: what one process may have running."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.gateway.places import Places

MIB = 2**20


def test_a_claim_leaves_a_part_for_hand_over() -> None:
    places = Places(8, bytes_max=8 * MIB)
    request = places.ask("p", 0)
    assert (request.places, request.bytes_free) == (6, 6 * MIB)
    assert places.admits(MIB)
    places.take(MIB)
    places.take(MIB)
    assert not places.admits(0), "the two ways in never fill one place twice"
    places.answered()
    assert places.admits(MIB)


def test_bytes_are_bounded_and_one_that_is_larger_goes_alone() -> None:
    places = Places(8, bytes_max=2 * MIB)
    assert places.admits(3 * MIB)
    places.take(MIB)
    assert not places.admits(3 * MIB)
    assert places.admits(MIB)
    places.give(MIB)
    assert places.ask("p", 0).bytes_free < 3 * MIB
    places.answered()
    request = places.ask("p", 0, in_vain=True)
    assert (request.places, request.bytes_free > 3 * MIB) == (1, True)


@given(
    steps=st.lists(st.tuples(st.sampled_from(["hand", "claim", "give"]), st.integers(0, 3 * MIB)))
)
def test_there_are_never_more_than_there_may_be(steps: list[tuple[str, int]]) -> None:
    """However the two ways in interleave."""
    places, held = Places(5, bytes_max=4 * MIB), list[int]()
    asked = None
    for what, size in steps:
        if what == "hand" and places.admits(size):
            places.take(size)
            held.append(size)
        elif what == "claim" and asked is None:
            asked = places.ask("p", 0)
        elif what == "claim" and asked is not None:
            places.answered()
            left = asked.bytes_free
            for _ in range(asked.places):
                if size <= left:
                    left -= size
                    places.take(size)
                    held.append(size)
            asked = None
        elif what == "give" and held:
            places.give(held.pop())
        assert places.taken == len(held) <= 5
        assert sum(held) <= 4 * MIB or len(held) == 1
