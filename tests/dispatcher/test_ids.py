"""ids.py: names that sort by time, and names that follow from what they name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.ids import CALLBACK_ID, destination_id, id_floor, lane_url, new_id

times = st.integers(0, 2**48 - 1)


@given(times, times)
def test_ids_sort_by_the_time_they_were_made(first_ms: int, second_ms: int) -> None:
    if first_ms > second_ms:
        first_ms, second_ms = second_ms, first_ms
    assert new_id("cb", first_ms) < new_id("cb", second_ms)


@given(times)
def test_a_time_bound_is_an_id_bound(ms: int) -> None:
    """`since` is inclusive, `until` exclusive: no id of a millisecond lies below its floor."""
    assert id_floor("cb", ms) <= new_id("cb", ms)
    assert id_floor("cb", ms) > new_id("cb", ms - 1) if ms else True
    assert new_id("cb", ms) < id_floor("cb", ms + 1) or ms == 2**48 - 1


def test_a_bound_before_1970_is_below_all_ids() -> None:
    assert id_floor("cb", -5) <= new_id("cb", 0)


@given(times)
def test_an_id_has_its_form_and_no_dots(ms: int) -> None:
    """Dots separate the parts of what Standard Webhooks signs."""
    made = new_id("cb", ms)
    assert CALLBACK_ID.fullmatch(made)
    assert "." not in made


def test_ids_of_one_millisecond_are_unique_and_in_order() -> None:
    made = [new_id("cb", 1_790_000_000_000) for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert made == sorted(made)


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_destinations_of_tenants_and_kinds_never_meet(one: str, two: str, what: str) -> None:
    """I9: no name or URL of one tenant makes another's id."""
    same = one == two
    assert (destination_id(one, name=what) == destination_id(two, name=what)) == same
    assert destination_id(one, name=what) != destination_id(two, url=f"http://h/{len(what)}")


@pytest.mark.parametrize(
    ("url", "shared"),
    [
        ("http://host/hook", "http://host/hook"),
        ("http://host/hook?token=1", "http://host/hook"),
        ("http://host/hook?token=1#part", "http://host/hook"),
        ("https://host:8443/a/b;c?d", "https://host:8443/a/b;c"),
        ("http://[::1]:80/x?y", "http://[::1]:80/x"),
    ],
)
def test_a_lane_is_a_url_without_its_query(url: str, shared: str) -> None:
    assert lane_url(url) == shared
    assert destination_id("t", url=url) == destination_id("t", url=shared)
