"""Callbacks: finding them, delivering them again, or no more."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Final, TypedDict

from dispatcher.client.calls import build, read
from dispatcher.client.errors import BadAnswer
from dispatcher.client.results import Attempt, Callback, Failures, Payload, Preview, Replay
from dispatcher.client.transport import Call, Response
from dispatcher.states import State
from dispatcher.values import Priority
from dispatcher.wire import Page

_FILTERS: Final = {
    "status": "status",
    "job_status": "jobStatus",
    "job_id": "jobId",
    "destination": "destination",
    "callback_url": "callbackUrl",
    "priority": "priority",
    "error": "error",
    "since": "since",
    "until": "until",
    "tags": "tag.KEY",
}


class Filters(TypedDict, total=False):
    """What a listing or a replay is about; everything given must match. `since` is inclusive,
    `until` exclusive, both on creation; a datetime without a zone is taken as UTC. Another key, or
    a value of another kind (None, too), raises ValueError: without it more would match."""

    status: State
    job_status: str
    job_id: str
    destination: str
    callback_url: str
    priority: Priority
    error: str
    since: datetime | str
    until: datetime | str
    tags: Mapping[str, str]


def get(id: str) -> Call[Callback]:
    """One callback with its state. Raises NotFound."""
    return build.get(read.json(Callback), "callbacks", id)


def page(
    filters: Filters | None = None, *, cursor: str | None = None, limit: int | None = None
) -> Call[Page[Callback]]:
    """Up to `limit` (1 to 500) callbacks that match, newest first, from `cursor` on."""
    params = (*_params(filters or {}).items(), *build.paging(cursor, limit))
    return build.get(read.page(Callback), "callbacks", params=params)


def attempts(
    id: str, *, cursor: str | None = None, limit: int | None = None
) -> Call[Page[Attempt]]:
    """Up to `limit` (1 to 500) attempts of one callback, oldest first, from `cursor` on. Raises
    NotFound."""
    return build.get(
        read.page(Attempt), "callbacks", id, "attempts", params=build.paging(cursor, limit)
    )


def payload(id: str) -> Call[Payload]:
    """Return the bytes that are delivered. Raises NotFound, and Gone once they are pruned."""
    return build.get(_read_payload, "callbacks", id, "payload")


def replay(id: str, *, reason: str | None = None) -> Call[Callback]:
    """Deliver once more: same id, same bytes, a fresh budget of tries, history kept. `reason`, here
    and below, is why: for the audit trail. Raises NotFound, Conflict (it is pending or sending),
    Gone (the payload is pruned)."""
    return build.post(read.json(Callback), "callbacks", id, "replay", reason=reason)


def cancel(id: str, *, reason: str | None = None) -> Call[Callback]:
    """Deliver no more; a running attempt ends and nothing follows it. Raises NotFound, and
    Conflict from a final state."""
    return build.post(read.json(Callback), "callbacks", id, "cancel", reason=reason)


def failures(filters: Filters | None = None) -> Call[Failures]:
    """Return what fails, by destination and error, the most first: dead callbacks, and those that
    wait for another try, unless the filter names one of these states."""
    params = tuple(_params(filters or {}).items())
    return build.get(read.json(Failures), "failures", params=params)


# --- filtered replays ---


def preview_replay(filters: Filters) -> Call[Preview]:
    """Return what a replay of everything that matches would be about. Changes nothing."""
    fields = {"filter": _params(filters), "dryRun": True}
    return build.post(read.json(Preview), "replays", fields=fields, repeatable=True)


def start_replay(
    filters: Filters, *, rate_per_second: float | None = None, reason: str | None = None
) -> Call[Replay]:
    """Replay everything that matches and is in a final state now, in the background, at most
    `rate_per_second`; with the status `pending` have what waits tried now. Raises ValidationFailed
    without a filter, and without a reason where the service wants one."""
    fields = build.given({"filter": _params(filters), "ratePerSecond": rate_per_second})
    return build.post(read.json(Replay), "replays", fields=fields, reason=reason)


def get_replay(id: str) -> Call[Replay]:
    """How far a filtered replay is, and what became of what it took up. Raises NotFound."""
    return build.get(read.json(Replay), "replays", id)


def cancel_replay(id: str, *, reason: str | None = None) -> Call[Replay]:
    """Replay no more of it; what was replayed stays. Raises NotFound, and Conflict once it is
    done."""
    return build.post(read.json(Replay), "replays", id, "cancel", reason=reason)


def _read_payload(response: Response) -> Payload:
    """Return the payload, whose digest the service sends with it. Raises BadAnswer."""
    if response.headers.get("x-payload-sha256") != sha256(response.body).hexdigest():
        raise BadAnswer.of(response.status, "the digest of a payload is missing, or another one's")
    kind = response.headers.get("content-type", "application/octet-stream")
    return Payload(body=response.body, content_type=kind)


def _params(filters: Filters) -> dict[str, str]:
    return build.filters(filters, _FILTERS, "callbacks")
