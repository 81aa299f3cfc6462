"""Submit, for a whole batch: stored in one commit, and what may go at once leased in it (D6).

Runs on the writer's thread. A batch is a handful of statements, each with one array a column.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher import policy as policies
from dispatcher.health import WINDOW_START
from dispatcher.ids import lane_url
from dispatcher.policy import Policy
from dispatcher.store import destinations
from dispatcher.store.errors import (
    DestinationDisabled,
    KeyReused,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from dispatcher.store.postgres import lanes
from dispatcher.store.postgres.settle import columns
from dispatcher.store.postgres.tx import PostgresTx, ids
from dispatcher.store.requests import Rules
from dispatcher.store.rows import read_headers, write_headers
from dispatcher.store.tx import Row
from dispatcher.values import HIGH, NORMAL, Delivery, Headers, NewCallback, Submitted


@dataclass(frozen=True, slots=True)
class Submit:
    """A submit on its way to the commit."""

    new: NewCallback
    handover: bool


TARGETS: Final = """
SELECT j.id, d.id IS NOT NULL, d.removed_ms, d.disabled_reason, d.url, d.policy, d.headers,
       coalesce(l.paused, d.paused, 0) = 0 AND coalesce(l.held_until_ms, 0) <= n.ms
       AND coalesce(l.rate, d.rate) IS NULL
       AND coalesce((SELECT min(due_ms) FROM callbacks WHERE destination = j.id
                     AND class = 0 AND state = 'pending'), n.ms + 1) > n.ms
       AND coalesce((SELECT min(due_ms) FROM callbacks WHERE destination = j.id
                     AND class = 1 AND state = 'pending'), n.ms + 1) > n.ms,
       coalesce(l."window", 0)
       - (SELECT count(*) FROM callbacks WHERE destination = j.id AND state = 'sending')
FROM (SELECT ?::bigint) n(ms), unnest(?::text[]) j(id)
LEFT JOIN destinations d ON d.id = j.id
LEFT JOIN lanes l ON l.id = j.id
"""

# In the order of their keys: two processes with the same keys wait for each other in one direction.
_INSERT: Final = """
INSERT INTO callbacks (id, tenant, job_id, job_status, priority, destination, url, policy,
    payload_size, payload_sha256, key, explicit_key, content, created_ms, expires_ms,
    state, class, due_ms, lease_ms, claim)
SELECT id, tenant, job_id, job_status, priority, destination, url, policy, size, sha256, key,
    explicit_key, content, created_ms, expires_ms,
    CASE WHEN lease_ms IS NULL THEN 'pending' ELSE 'sending' END, priority, due_ms, lease_ms,
    CASE WHEN lease_ms IS NULL THEN 0 ELSE 1 END
FROM unnest(?::text[], ?::text[], ?::text[], ?::text[], ?::bigint[], ?::text[], ?::text[],
    ?::text[], ?::bigint[], ?::bytea[], ?::bytea[], ?::bigint[], ?::bytea[], ?::bigint[],
    ?::bigint[], ?::bigint[], ?::bigint[])
    u(id, tenant, job_id, job_status, priority, destination, url, policy, size, sha256, key,
      explicit_key, content, created_ms, expires_ms, due_ms, lease_ms)
ON CONFLICT DO NOTHING
RETURNING id
"""


@dataclass(slots=True)
class _Target:
    """A destination as a batch of submits sees it; `room` shrinks as deliveries are handed over."""

    known: bool
    removed: bool
    disabled: str | None
    url: str | None
    policy: str | None
    headers: Headers
    open: bool
    room: int

    def refusal(self, new: NewCallback) -> StoreError | None:
        """Why this submit cannot be taken."""
        if new.destination_name is not None and (not self.known or self.removed):
            return NotFound(f"there is no destination named {new.destination_name!r}")
        if self.disabled is not None:
            return DestinationDisabled(f"the destination is disabled: {self.disabled}")
        return None


def submit(tx: PostgresTx, submits: Sequence[Submit], rules: Rules) -> list[Submitted | StoreError]:
    """Store new callbacks; those that may go at once are stored already leased (D6)."""
    targets = _open_targets(tx, submits, rules)
    results: dict[str, Submitted | StoreError] = {}
    rows = {}
    for item in submits:
        new, target = item.new, targets[item.new.destination]
        refusal = target.refusal(new)
        if refusal is not None:
            results[new.id] = refusal
            continue
        rule = new.policy or policies.load(target.policy)
        straight = item.handover and target.open and target.room > 0
        if straight:
            target.room -= 1
        rows[new.id] = _row(tx, new, rule, rules.lease_margin_ms if straight else None)
        results[new.id] = Submitted(
            id=new.id,
            job_id=new.job_id,
            state="sending" if straight else "pending",
            created_ms=new.created_ms,
            duplicate=False,
            delivery=_handed_over(new, target, rule) if straight else None,
        )
    stored = [item.new for item in submits if item.new.id in rows]
    if stored:
        stored.sort(key=lambda new: new.key)
        present = _insert(tx, [rows[new.id] for new in stored])
        if len(present) != len(stored):
            stored = _drop_duplicates(tx, stored, present, rows, results, rules)
        _insert_parts(tx, stored, results)
    return [results[item.new.id] for item in submits]


def _open_targets(tx: PostgresTx, submits: Sequence[Submit], rules: Rules) -> dict[str, _Target]:
    """Return what is known of the batch's destinations, with all their lanes made and held.

    A URL whose destination was removed comes into being anew with its next callback.
    """
    now_ms = tx.at(submits[0].new.created_ms)
    wanted = {item.new.destination for item in submits}
    unnamed = {item.new.destination: item.new for item in submits if not item.new.destination_name}
    missing = wanted - tx.locked
    if missing:
        _make_targets(tx, missing, unnamed, rules, now_ms)
    targets = _targets(tx, wanted, now_ms)
    anew = {one for one in unnamed if targets[one].removed and destinations.forget(tx, one)}
    if anew:
        _make_targets(tx, anew, unnamed, rules, now_ms)
        targets |= _targets(tx, anew, now_ms)
    return targets


def _targets(tx: PostgresTx, wanted: Iterable[str], now_ms: int) -> dict[str, _Target]:
    return {
        row[0]: _Target(
            known=row[1],
            removed=row[2] is not None,
            disabled=row[3],
            url=row[4],
            policy=row[5],
            headers=read_headers(row[6]),
            open=row[7],
            room=row[8],
        )
        for row in tx.all(TARGETS, now_ms, ids(wanted))
    }


def _row(
    tx: PostgresTx, new: NewCallback, rule: Policy, lease_margin_ms: int | None
) -> tuple[object, ...]:
    """`lease_margin_ms` is set for a delivery that is stored already leased.

    Differs: what is compared with the time later is by the database's clock.
    """
    leased = lease_margin_ms is not None
    now_ms = tx.at(new.created_ms)
    return (
        new.id,
        new.tenant,
        new.job_id,
        new.job_status,
        HIGH if new.priority == "high" else NORMAL,
        new.destination,
        new.url,
        new.policy_text,
        len(new.body),
        new.body_sha256,
        new.key,
        int(new.explicit_key),
        new.content,
        new.created_ms,
        now_ms + round(rule.max_age * 1000),
        None if leased else now_ms,
        now_ms + round(rule.timeout * 1000) + (lease_margin_ms or 0) if leased else None,
    )


def _insert(tx: PostgresTx, rows: Sequence[tuple[object, ...]]) -> set[str]:
    """Return the ids of those that were stored."""
    return {row[0] for row in tx.write(_INSERT, *columns(rows))}


def _handed_over(new: NewCallback, target: _Target, rule: Policy) -> Delivery:
    return Delivery(
        id=new.id,
        tenant=new.tenant,
        job_id=new.job_id,
        destination=new.destination,
        registered=new.url is None,
        url=new.url or target.url or "",
        body=new.body,
        content_type=new.content_type,
        headers=target.headers + new.headers,
        policy=rule,
        fence=1,
        attempt=1,
        tries=0,
        created_ms=new.created_ms,
        expires_ms=new.created_ms + round(rule.max_age * 1000),
        high=new.priority == "high",
    )


def _make_targets(
    tx: PostgresTx,
    missing: Iterable[str],
    unnamed: Mapping[str, NewCallback],
    rules: Rules,
    now_ms: int,
) -> None:
    """Differs: before anything is read, and for refused submits too: without a lane to hold, two
    processes could each hand over as much as the destination takes in all."""
    fresh = [unnamed[one] for one in sorted(missing) if one in unnamed]
    if fresh:
        tx.run(
            "INSERT INTO destinations (id, tenant, url, created_ms) "
            "SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::bigint[]) "
            "ON CONFLICT DO NOTHING",
            *columns(
                [(new.destination, new.tenant, lane_url(new.url or ""), now_ms) for new in fresh]
            ),
        )
    lanes.make(tx, missing, concurrency=rules.concurrency, window=WINDOW_START, now_ms=now_ms)


def _drop_duplicates(
    tx: PostgresTx,
    stored: Sequence[NewCallback],
    present: set[str],
    rows: Mapping[str, tuple[object, ...]],
    results: dict[str, Submitted | StoreError],
    rules: Rules,
) -> list[NewCallback]:
    """Answer the submits whose key was there first; returns those that were stored."""
    for new in stored:
        if new.id in present:
            continue
        first = _first_with_key(tx, new)
        if first is not None and new.created_ms - first[2] > rules.key_ms and first[0] != new.id:
            tx.run("UPDATE callbacks SET key = NULL WHERE id = ?", first[0])
            first = None
        if first is None:
            # Differs: the first one's row or key may have gone since; who came between wins.
            if _insert(tx, [rows[new.id]]):
                present.add(new.id)
                continue
            first = _first_with_key(tx, new)
        results[new.id] = _answer(new, first)
    return [new for new in stored if new.id in present]


def _answer(new: NewCallback, first: Row | None) -> Submitted | StoreError:
    """Differs: the first may be this very one, stored by a commit whose answer was lost."""
    if first is None:
        return StoreUnavailable("another process holds the idempotency key; try again")
    if first[1] != new.content:
        return KeyReused(first[0])
    return Submitted(
        id=first[0],
        job_id=first[4],
        state=first[3],
        created_ms=first[2],
        duplicate=first[0] != new.id,
    )


def _first_with_key(tx: PostgresTx, new: NewCallback) -> Row | None:
    columns = "SELECT id, content, created_ms, state, job_id FROM callbacks"
    if new.explicit_key:
        return tx.one(f"{columns} WHERE key = ? AND explicit_key = 1", new.key)
    return tx.one(
        f"{columns} WHERE tenant = ? AND job_id = ? AND key = ?", new.tenant, new.job_id, new.key
    )


def _insert_parts(
    tx: PostgresTx, stored: Sequence[NewCallback], results: Mapping[str, Submitted | StoreError]
) -> None:
    parts = [(new.id, new.content_type, write_headers(new.headers), new.body) for new in stored]
    if parts:
        tx.run(
            "INSERT INTO payloads (callback, content_type, headers, body) "
            "SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::bytea[])",
            *columns(parts),
        )
    tags = [(new.tenant, key, value, new.id) for new in stored for key, value in new.tags]
    if tags:
        tx.run(
            "INSERT INTO tags (tenant, key, value, callback) "
            "SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::text[])",
            *columns(tags),
        )
    for new in stored:
        result = results[new.id]
        if isinstance(result, Submitted):
            tx.notes.moved(new.tenant, None, result.state)
            tx.notes.events[new.tenant, "accepted"] += 1
            tx.notes.lanes.add(new.destination)
