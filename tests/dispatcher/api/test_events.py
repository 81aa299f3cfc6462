"""api/events.py and api/manner.py: how an answer goes on, and how a dialect answers."""

import pytest

from dispatcher.api.errors import CODES
from dispatcher.api.events import event, wants_events
from dispatcher.api.manner import OURS, Manner


def test_an_event_may_hold_lines_of_any_kind() -> None:
    """Whoever puts them together again gets what was sent, but for the kind of its line ends."""
    assert event(b"{}") == b"data: {}\n\n"
    assert event(b"a\r\nb\rc\n\nd", "error") == (
        b"event: error\ndata: a\ndata: b\ndata: c\ndata: \ndata: d\n\n"
    )


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("application/json, text/event-stream;q=0.5", True),
        ("text/event-stream; q=0", False),
        ("text/event-stream;q=0.000, */*", False),
        ("text/event-streams", False),
    ],
)
def test_events_are_for_who_names_them(accept: str | None, wants: bool) -> None:
    assert wants_events(accept) is wants


def test_our_own_manner_is_that_of_the_table() -> None:
    assert {code: OURS.status(code) for code in CODES} == {
        code: status for code, (status, _) in CODES.items()
    }
    assert OURS.authorization("pbk_key") == "pbk_key"


def test_a_dialect_may_have_other_statuses_and_take_a_bare_key() -> None:
    manner = Manner(statuses={"VALIDATION_ERROR": 400}, bare_key=True)
    assert (manner.status("VALIDATION_ERROR"), manner.status("NOT_FOUND")) == (400, 404)
    assert manner.authorization("pbk_key") == "Bearer pbk_key"
    assert manner.authorization("Bearer pbk_key") == "Bearer pbk_key"
    assert manner.authorization("Basic eDp5") == "Basic eDp5"
    assert manner.authorization("") == ""
    assert manner.authorization(None) is None
