"""What a test call tells an operator: all that is known, what cut it, and what to do about it."""

from dataclasses import dataclass
from typing import Final

from dispatcher.ids import new_job_id
from dispatcher.jobs.values import CallOutcome, ClaimedJob, JobOptions
from dispatcher.sending.lasting import GONE_MS, Exchange

_LONG_MS: Final = 10_000  # what ends a call sooner is seldom a limit of time
_NEVER_MS: Final = 2**53
_GATEWAY_CODES: Final = (502, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTest:
    """What one test call met, for operators alone: its outcome's `detail` has the true reason. The
    address that was dialled, and milliseconds from its begin until there was a connection (name,
    route and TLS) and until the head of an answer; None for what was not reached."""

    outcome: CallOutcome
    address: str | None
    connected_ms: float | None
    head_ms: float | None
    advice: str | None


def job_of_test(body: bytes, now_ms: int) -> ClaimedJob:
    """Return a job that is nobody's, for a call that is only made to see what becomes of it."""
    return ClaimedJob(
        id=new_job_id(now_ms),
        tenant="",
        endpoint="",
        dialect="v1",
        priority="normal",
        run=1,
        claim=0,
        calls=0,
        tries=0,
        turned_away=0,
        interruptions=0,
        body=body,
        content_type="application/json",
        options=JobOptions(),
        created_ms=now_ms,
        queued_ms=now_ms,
        started_ms=now_ms,
        claimed_ms=now_ms,
        ends_ms=None,
        expires_ms=_NEVER_MS,
    )


def tested(outcome: CallOutcome, exchange: Exchange, begun_s: float) -> UpstreamTest:
    """Return what a test call tells."""
    return UpstreamTest(
        outcome=outcome,
        address=exchange.address,
        connected_ms=_since(begun_s, exchange.connected_s),
        head_ms=_since(begun_s, exchange.head_s),
        advice=advice_on(outcome),
    )


def advice_on(outcome: CallOutcome) -> str | None:
    """Return what cut a call, as far as that can be told, and what to do about it."""
    lasted_s = outcome.duration_ms / 1000
    if outcome.kind == "unknown" and "Connection timed out" in (outcome.detail or ""):
        return (
            f"its host has not been heard of for {GONE_MS / 1000:g} s: it has gone, or a NAT or a "
            "firewall in between has forgotten the connection"
        )
    if outcome.duration_ms < _LONG_MS:
        return None
    if outcome.kind in ("unknown", "broken_off"):
        return (
            f"the connection was ended after {lasted_s:.1f} s, and not by us: the server, or a "
            "proxy or load balancer before it, limits how long a call may last; raise that limit "
            "above the endpoint's `timeout`"
        )
    if outcome.status_code in _GATEWAY_CODES:
        return (
            f"a proxy before the server answered {outcome.status_code} after {lasted_s:.1f} s: "
            "raise its read timeout above the endpoint's `timeout`"
        )
    return None


def _since(begun_s: float, at_s: float) -> float | None:
    return (at_s - begun_s) * 1000 if at_s else None
