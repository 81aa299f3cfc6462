"""The parameters with rules of their own: cursors and limits."""

import string
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api import call
from receiver.base.http import Refusal


def test_a_cursor_leads_back_to_its_place_in_its_own_listing() -> None:
    """A cursor is good for the listing it came from, and for no other."""
    cursor = call.cursor_after("cb_00ff", "mine")
    assert cursor is not None
    assert call.after(cursor, "mine") == "cb_00ff"
    with pytest.raises(Refusal):
        call.after(cursor, "another")


@given(st.text(max_size=40) | st.text(string.ascii_letters + "-_=", max_size=40))
def test_a_made_up_cursor_is_refused(text: str) -> None:
    """422, whatever the text."""
    with pytest.raises(Refusal) as caught:
        call.after(text, "mine")
    assert caught.value.status == 422


def test_a_cursor_with_one_changed_character_is_refused() -> None:
    """Tampering shows."""
    cursor = call.cursor_after("cb_00ff00ff", "mine") or ""
    for at in range(len(cursor)):
        changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        with pytest.raises(Refusal):
            call.after(changed, "mine")


@pytest.mark.parametrize(
    "text", ["0", "501", "-1", "1.5", "", "x", "٣", "1e2", "0x1", "+5", "9" * 99]
)
def test_a_limit_outside_1_to_500_is_refused(text: str) -> None:
    """422 for what is not a whole number within the bounds."""
    with pytest.raises(Refusal):
        limit(text)
    assert [limit(good) for good in (None, "1", "500")] == [50, 1, 500]


def limit(text: str | None) -> int:
    """Return what a request's `limit` comes to."""
    request = SimpleNamespace(query={} if text is None else {"limit": text})
    return call.Call.listing(cast(call.Call, request), "mine").limit
