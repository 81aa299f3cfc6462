"""Jobs, rules and outcomes as tests of the pure parts make them."""

from dataclasses import replace
from typing import Any

from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.values import CallKind, CallOutcome, ClaimedJob, JobOptions, Output

NOW_MS = 1_790_000_000_000
ID = "0198b5c28b7d7cc39a1c2f0d9b1e4a55"


def job(sync: bool = False, limit_s: float | None = None, **fields: Any) -> ClaimedJob:
    """A job that was queued and claimed ten seconds ago."""
    made = ClaimedJob(
        id=ID,
        tenant="acme",
        endpoint="ep_document_gen",
        dialect="v1",
        priority="normal",
        run=1,
        claim=1,
        calls=0,
        tries=0,
        turned_away=0,
        interruptions=0,
        body=b"{}",
        content_type="application/json",
        options=JobOptions(sync=sync, limit_s=limit_s),
        created_ms=NOW_MS - 10_000,
        queued_ms=NOW_MS - 10_000,
        started_ms=NOW_MS - 10_000,
        claimed_ms=NOW_MS - 10_000,
        expires_ms=NOW_MS + 86_400_000,
        ends_ms=None,
    )
    return replace(made, **fields)


def rules(**fields: Any) -> EndpointRules:
    return EndpointRules(url="http://127.0.0.1:9000/generate", **fields)


def outcome(
    kind: CallKind = "answered",
    code: int | None = None,
    *,
    lasted_s: float = 1.0,
    sent: bool | None = None,
    body: bytes | None = None,
    **fields: Any,
) -> CallOutcome:
    """What a call met that ended now."""
    if code is None and kind in ("answered", "too_large", "broken_off"):
        code = 200
    return CallOutcome(
        kind=kind,
        sent=kind != "not_sent" if sent is None else sent,
        started_ms=NOW_MS - round(lasted_s * 1000),
        duration_ms=lasted_s * 1000,
        status_code=code,
        output=None if body is None else Output(body=body, content_type="application/json"),
        **fields,
    )
