"""Rows as values: the columns that reading verbs select, and what becomes of them."""

import json
from collections.abc import Sequence
from typing import Any, Final

from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import (
    Attempt,
    Callback,
    Destination,
    Headers,
    Key,
    Priority,
    Replay,
    SigningSecret,
)

CALLBACK: Final = """
SELECT c.id, c.tenant, c.job_id, c.job_status, c.state, c.priority, c.destination, d.name,
       coalesce(c.url, d.url), c.created_ms, c.attempts, c.tries, c.due_ms, c.finished_ms,
       c.last_error, coalesce(c.policy, d.policy), c.payload_size, c.payload_sha256, c.pruned
"""
REPLAY: Final = """
SELECT id, tenant, filter, rate, state, matched, replayed, skipped, created_ms, finished_ms
FROM replays
"""
SIGNING: Final = """
SELECT id, tenant, destination, value, created_ms, expires_ms, revealed_ms FROM secrets
"""
ATTEMPT: Final = """
SELECT n, started_ms, duration_ms, outcome, status_code, error, excerpt FROM attempts
"""


def callbacks(tx: Tx, rows: Sequence[Row]) -> list[Callback]:
    """Rows of CALLBACK as values, with their tags."""
    tags: dict[str, dict[str, str]] = {}
    if rows:
        wanted = [row[0] for row in rows]
        for callback, key, value in tx.all(
            f"SELECT callback, key, value FROM tags WHERE callback IN ({marks(wanted)}) "
            "ORDER BY key",
            *wanted,
        ):
            tags.setdefault(callback, {})[key] = value
    return [_callback(row, tags.get(row[0], {})) for row in rows]


def _callback(row: Row, tags: dict[str, str]) -> Callback:
    priority: Priority = "high" if row[5] == 0 else "normal"
    return Callback(
        id=row[0],
        tenant=row[1],
        job_id=row[2],
        job_status=row[3],
        state=row[4],
        priority=priority,
        destination=row[6],
        destination_name=row[7],
        url=row[8] or "",
        tags=tags,
        created_ms=row[9],
        attempts=row[10],
        tries=row[11],
        due_ms=row[12],
        finished_ms=row[13],
        last_error=row[14],
        policy=row[15],
        payload_size=row[16],
        payload_sha256=row[17],
        payload_pruned=bool(row[18]),
    )


def attempt(row: Row) -> Attempt:
    """Return a row of ATTEMPT."""
    return Attempt(
        n=row[0],
        started_ms=row[1],
        duration_ms=row[2],
        outcome=row[3],
        status_code=row[4],
        error=row[5],
        excerpt=row[6],
    )


def replay(row: Row) -> Replay:
    """Return a row of REPLAY."""
    return Replay(
        id=row[0],
        tenant=row[1],
        filter=row[2],
        rate_per_second=row[3],
        state=row[4],
        matched=row[5],
        replayed=row[6],
        skipped=row[7],
        created_ms=row[8],
        finished_ms=row[9],
    )


def secret(row: Row) -> SigningSecret:
    """Return a row of SIGNING."""
    return SigningSecret(
        id=row[0],
        tenant=row[1],
        destination=row[2],
        value=row[3],
        created_ms=row[4],
        expires_ms=row[5],
        revealed_ms=row[6],
    )


def key(row: Row) -> Key:
    """Return a row of `id, digest, tenant, scopes, label, created_ms`."""
    return Key(
        id=row[0],
        digest=row[1],
        tenant=row[2],
        scopes=frozenset(row[3].split()),
        label=row[4],
        created_ms=row[5],
    )


DESTINATION: Final = """
SELECT d.id, d.tenant, d.name, d.url, d.policy, d.headers, d.paused, d.disabled_reason,
       d.concurrency, d.rate, d.created_ms, l.failures, l.openings, l.held_until_ms,
       l.held_reason,
       (SELECT count(*) FROM callbacks WHERE destination = d.id AND state = 'pending'),
       (SELECT count(*) FROM callbacks WHERE destination = d.id AND state = 'sending')
FROM destinations d LEFT JOIN lanes l ON l.id = d.id
"""


def destination(row: Row, *, now_ms: int) -> Destination:
    """Return a row of DESTINATION; holds that are over are not shown."""
    held_ms = row[13] or 0
    held = held_ms > now_ms
    return Destination(
        id=row[0],
        tenant=row[1],
        name=row[2],
        url=row[3],
        policy=row[4],
        headers=read_headers(row[5]),
        paused=bool(row[6]),
        disabled_reason=row[7],
        concurrency=row[8],
        rate_per_second=row[9],
        created_ms=row[10],
        failures=row[11] or 0,
        circuit_open=bool(row[12]),
        held_until_ms=held_ms if held else None,
        held_reason=_held_reason(bool(row[6]), row[14] if held else None),
        backlog=row[15],
        sending=row[16],
    )


def _held_reason(paused: bool, reason: str | None) -> str | None:
    return "paused" if paused else reason


def write_headers(headers: Headers) -> str:
    """Return the text for `headers`."""
    return json.dumps(headers) if headers else "[]"


def read_headers(text: str | None) -> Headers:
    """Return the headers of `text`; none for none."""
    if text is None or text == "[]":
        return ()
    pairs: list[list[Any]] = json.loads(text)
    return tuple((name, value) for name, value in pairs)
