"""The parameters with rules of their own: cursors, limits, queries."""

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api import paging, query
from dispatcher.api.errors import ApiError


def test_a_cursor_leads_back_to_its_place_in_its_own_listing() -> None:
    """A cursor is good for the listing it came from, and for no other."""
    cursor = paging.cursor_after("cb_00ff", "mine")
    assert cursor is not None
    assert paging.after(cursor, "mine") == "cb_00ff"
    with pytest.raises(ApiError):
        paging.after(cursor, "another")


@given(st.text(max_size=40) | st.text(string.ascii_letters + "-_=", max_size=40))
def test_a_made_up_cursor_is_refused(text: str) -> None:
    """422, whatever the text."""
    with pytest.raises(ApiError) as caught:
        paging.after(text, "mine")
    assert caught.value.status == 422


def test_a_cursor_with_one_changed_character_is_refused() -> None:
    """Tampering shows."""
    cursor = paging.cursor_after("cb_00ff00ff", "mine") or ""
    for at in range(len(cursor)):
        changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        with pytest.raises(ApiError):
            paging.after(changed, "mine")


@pytest.mark.parametrize(
    "text", ["0", "501", "-1", "1.5", "", "x", "٣", "1e2", "0x1", "+5", "9" * 99]
)
def test_a_limit_outside_1_to_500_is_refused(text: str) -> None:
    """422 for what is not a whole number within the bounds."""
    with pytest.raises(ApiError):
        paging.limit_of(text)
    assert [paging.limit_of(good) for good in (None, "1", "500")] == [50, 1, 500]


@given(st.binary(max_size=60))
def test_any_query_string_is_parameters_or_a_refusal(raw: bytes) -> None:
    """Nothing else comes out of a query string."""
    with contextlib.suppress(ApiError):
        assert all(isinstance(value, str) for value in query.parse(raw).values())


@pytest.mark.parametrize("raw", [b"a=1&a=2", b"a=%ff", b"a=\xff", b"&".join([b"a=1"] * 65)])
def test_a_query_that_says_two_things_or_is_no_text_is_refused(raw: bytes) -> None:
    """Repeated parameters, bad UTF-8 and floods are 422."""
    with pytest.raises(ApiError):
        query.parse(raw)
