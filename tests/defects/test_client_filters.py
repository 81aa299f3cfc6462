"""A filter that the client does not know is refused: without it, more would match."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher.client import AsyncClient, Client, NotFound
from dispatcher.client.calls.callback import get, page, preview_replay, start_replay
from dispatcher.client.calls.destination import remove_destination

WRONG: list[Mapping[str, Any]] = [
    {"status": "dead", "tag": {"team": "a"}},
    {"status": "dead", "tag.team": "a"},
    {"status": "dead", "jobId": "job_0"},
    {"stauts": "dead"},
    {"status": "dead", "tags": None},
    {"status": "dead", "tags": ["team"]},
    {"status": "dead", "tags": "team=a"},
    {"status": "dead", "tags": {"team": None}},
    {"status": "dead", "tags": {"team": {"is": "a"}}},
    {"status": "dead", "tags": {"": "a"}},
    {"status": "dead", "job_id": None},
    {"status": ["dead"]},
    {"status": "dead", "since": 1_700_000_000},
    {"status": "dead", "job_id": datetime.now(UTC)},
]


@pytest.mark.parametrize("filters", WRONG)
async def test_an_unknown_filter_is_no_larger_listing_or_replay(filters: Any) -> None:
    """ValueError at once, wherever the client takes filters."""
    for build in (preview_replay, start_replay, page):
        with pytest.raises(ValueError, match="filter"):
            build(filters)
    with Client("http://127.0.0.1:1", "k") as client, pytest.raises(ValueError, match="filter"):
        client.list(**filters)  # before the first one is asked for
    async with AsyncClient("http://127.0.0.1:1", "k") as other:
        with pytest.raises(ValueError, match="filter"):
            other.list(**filters)


def test_every_filter_there_is_goes_out_under_its_name() -> None:
    """And nothing else does."""
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    call = page(
        {
            "status": "dead",
            "job_status": "failed",
            "job_id": "job_1",
            "destination": "billing",
            "priority": "high",
            "error": "timeout",
            "since": moment,
            "until": "2026-02-01T00:00:00Z",
            "tags": {"team": "a"},
        }
    )
    assert dict(call.params) == {
        "status": "dead",
        "jobStatus": "failed",
        "jobId": "job_1",
        "destination": "billing",
        "priority": "high",
        "error": "timeout",
        "since": "2026-01-31T12:00:00.000Z",
        "until": "2026-02-01T00:00:00Z",
        "tag.team": "a",
    }


@pytest.mark.parametrize("id", ["", ".", ".."])
def test_an_id_that_would_name_another_route_is_not_found(id: str) -> None:
    """`remove_destination("..")` is no request at all."""
    for build in (get, remove_destination):
        with pytest.raises(NotFound):
            build(id)
