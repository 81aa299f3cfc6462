"""The calls about callbacks: submit them, find them, look at them, replay and cancel them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

from dispatcher.client.call import JSON, NDJSON, Answer, Call, paging, path
from dispatcher.client.read import as_json, as_lines, as_list, as_page, as_payload
from dispatcher.client.results import (
    Attempt,
    Callback,
    LineResult,
    Page,
    Payload,
    State,
    Submitted,
)

_VISIBLE = re.compile(r"[!-~]{1,255}")

Priority = Literal["high", "normal"]
Policy = str | Mapping[str, Any]
"""A preset's name, or the policy object of the API."""


class Filters(TypedDict, total=False):
    """What a listing or a replay is about; everything given must match. `since` is inclusive,
    `until` exclusive, both on creation; a datetime without a zone is taken as UTC."""

    status: State
    job_status: str
    job_id: str
    destination: str
    priority: Priority
    error: str
    since: datetime | str
    until: datetime | str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One callback for `submit_many`. `payload` is any JSON value, or `bytes`: JSON text that is
    to be delivered byte for byte. Give `callback_url`, or `destination`: a registered name."""

    job_id: str
    payload: Any = field(repr=False)
    callback_url: str | None = None
    destination: str | None = None
    job_status: str | None = None
    priority: Priority | None = None
    tags: Mapping[str, str] | None = None
    policy: Policy | None = None
    headers: Mapping[str, str] | None = None
    idempotency_key: str | None = None

    def encode(self) -> bytes:
        """Return a batch line's JSON, in one line unless the payload's own bytes hold line breaks.

        Raises TypeError or ValueError for a payload that is not JSON (NaN, an object, …).
        """
        fields = {
            "jobId": self.job_id,
            "callbackUrl": self.callback_url,
            "destination": self.destination,
            "jobStatus": self.job_status,
            "priority": self.priority,
            "tags": self.tags and dict(self.tags),
            "policy": self.policy if isinstance(self.policy, str) else _plain(self.policy),
            "headers": self.headers and dict(self.headers),
            "idempotencyKey": self.idempotency_key,
        }
        head = _dumps({name: value for name, value in fields.items() if value is not None})
        body = self.payload if isinstance(self.payload, bytes) else _dumps(self.payload)
        return head[:-1] + b',"payload":' + body + b"}"


def submit(
    job_id: str,
    payload: Any,
    *,
    callback_url: str | None = None,
    destination: str | None = None,
    job_status: str | None = None,
    priority: Priority | None = None,
    tags: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
) -> Call[Submitted]:
    """Hand over one callback; when this returns it is safe on the service's disk.

    `payload` is any JSON value, or `bytes`: JSON text delivered byte for byte. Sending it again
    is safe: the same idempotency key (by default: jobId, jobStatus and destination) with the same
    content answers with the first one's id and `duplicate`.
    """
    submission = Submission(
        job_id=job_id,
        payload=payload,
        callback_url=callback_url,
        destination=destination,
        job_status=job_status,
        priority=priority,
        tags=tags,
        policy=policy,
        headers=headers,
    )
    return submit_encoded(submission.encode(), idempotency_key=idempotency_key)


def submit_encoded(body: bytes, *, idempotency_key: str | None = None) -> Call[Submitted]:
    """Hand over one callback whose JSON, as `POST /callbacks` takes it, you have already."""
    return Call(
        method="POST",
        path=path("callbacks"),
        read=as_json(Submitted),
        repeatable=True,
        headers=_key(idempotency_key),
        body=body,
        content_type=JSON,
    )


def submit_raw(
    job_id: str,
    body: bytes,
    *,
    content_type: str,
    callback_url: str | None = None,
    destination: str | None = None,
    job_status: str | None = None,
    priority: Priority | None = None,
    idempotency_key: str | None = None,
) -> Call[Submitted]:
    """Hand over any bytes of any content type, delivered byte for byte."""
    params = {
        "jobId": job_id,
        "callbackUrl": callback_url,
        "destination": destination,
        "jobStatus": job_status,
        "priority": priority,
    }
    return Call(
        method="POST",
        path=path("callbacks", "raw"),
        read=as_json(Submitted),
        repeatable=True,
        params=tuple((name, value) for name, value in params.items() if value is not None),
        headers=_key(idempotency_key),
        body=body,
        content_type=content_type,
    )


def submit_batch(lines: Sequence[bytes]) -> Call[list[LineResult]]:
    """Hand over some callbacks in one request, each one line of JSON. A bad line fails alone."""

    def read(answer: Answer) -> list[LineResult]:
        return as_lines(answer, len(lines))

    return Call(
        method="POST",
        path=path("callbacks", "batch"),
        read=read,
        repeatable=True,
        body=b"\n".join(lines) + b"\n",
        content_type=NDJSON,
    )


def get(id: str) -> Call[Callback]:
    """One callback with its state. Raises NotFound."""
    return Call(method="GET", path=path("callbacks", id), read=as_json(Callback), repeatable=True)


def page(
    filters: Filters | None = None, *, cursor: str | None = None, limit: int | None = None
) -> Call[Page[Callback]]:
    """Up to `limit` (1 to 500) callbacks that match, newest first, from `cursor` on."""
    return Call(
        method="GET",
        path=path("callbacks"),
        read=as_page(Callback),
        repeatable=True,
        params=(*wire(filters or {}).items(), *paging(cursor, limit)),
    )


def attempts(id: str) -> Call[list[Attempt]]:
    """Every attempt of one callback, oldest first. Raises NotFound."""
    return Call(
        method="GET",
        path=path("callbacks", id, "attempts"),
        read=as_list(Attempt),
        repeatable=True,
    )


def payload(id: str) -> Call[Payload]:
    """Return the bytes that are delivered. Raises NotFound, and Gone once they are pruned."""
    return Call(
        method="GET", path=path("callbacks", id, "payload"), read=as_payload, repeatable=True
    )


def replay(id: str) -> Call[Callback]:
    """Deliver once more: same id, same bytes, a fresh budget of tries, history kept. Raises
    NotFound, Conflict (it is pending or sending), Gone (the payload is pruned)."""
    return Call(
        method="POST",
        path=path("callbacks", id, "replay"),
        read=as_json(Callback),
        repeatable=False,
    )


def cancel(id: str) -> Call[Callback]:
    """Deliver no more; a running attempt ends and nothing follows it. Raises NotFound, and
    Conflict from a final state."""
    return Call(
        method="POST",
        path=path("callbacks", id, "cancel"),
        read=as_json(Callback),
        repeatable=False,
    )


def wire(filters: Filters) -> dict[str, str]:
    """Put `filters` under the API's names."""
    named = {
        "status": filters.get("status"),
        "jobStatus": filters.get("job_status"),
        "jobId": filters.get("job_id"),
        "destination": filters.get("destination"),
        "priority": filters.get("priority"),
        "error": filters.get("error"),
        "since": _time(filters.get("since")),
        "until": _time(filters.get("until")),
    }
    tags = {f"tag.{key}": value for key, value in filters.get("tags", {}).items()}
    return {name: value for name, value in named.items() if value is not None} | tags


def _time(moment: datetime | str | None) -> str | None:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _key(idempotency_key: str | None) -> tuple[tuple[str, str], ...]:
    if idempotency_key is None:
        return ()
    if not _VISIBLE.fullmatch(idempotency_key):
        raise ValueError("an idempotency key is 1 to 255 visible ASCII characters")
    return (("Idempotency-Key", idempotency_key),)


def _plain(policy: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if policy is None else dict(policy)


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
