"""Submit, for a whole batch: stored in one commit, and what may go at once leased in it (D6).

Runs on the writer's thread. A batch is a handful of statements: single ones that read what it
needs, and one `executemany` per table written (measured at a third of the CPU of `json_each` or
many-row VALUES inserts).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher import policy as policies
from dispatcher.health import WINDOW_START
from dispatcher.policy import Policy
from dispatcher.store import destinations
from dispatcher.store.errors import DestinationDisabled, KeyReused, NotFound, StoreError
from dispatcher.store.requests import Rules
from dispatcher.store.rows import read_headers, write_headers
from dispatcher.store.sqlite import lanes
from dispatcher.store.sqlite.tx import ids
from dispatcher.store.tx import Row, Tx
from dispatcher.values import HIGH, NORMAL, Delivery, Headers, NewCallback, Submitted


@dataclass(frozen=True, slots=True)
class Submit:
    """A submit on its way to the commit."""

    new: NewCallback
    handover: bool


_TARGETS: Final = """
SELECT j.value, d.id IS NOT NULL, d.removed_ms, d.disabled_reason, d.url, d.policy, d.headers,
       l.id IS NOT NULL,
       NOT coalesce(l.paused, d.paused, 0) AND coalesce(l.held_until_ms, 0) <= ?1
       AND coalesce(l.rate, d.rate) IS NULL
       AND coalesce((SELECT min(due_ms) FROM callbacks WHERE destination = j.value
                     AND class = 0 AND state = 'pending'), ?1 + 1) > ?1
       AND coalesce((SELECT min(due_ms) FROM callbacks WHERE destination = j.value
                     AND class = 1 AND state = 'pending'), ?1 + 1) > ?1,
       coalesce(l.window, min(coalesce(d.concurrency, ?2), ?3))
       - (SELECT count(*) FROM callbacks WHERE destination = j.value AND state = 'sending')
FROM json_each(?4) j
LEFT JOIN destinations d ON d.id = j.value
LEFT JOIN lanes l ON l.id = j.value
"""

_INSERT: Final = """
INSERT INTO callbacks (id, tenant, job_id, job_status, priority, destination, url, policy,
    payload_size, payload_sha256, key, explicit_key, content, created_ms, expires_ms,
    state, class, due_ms, lease_ms, claim)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
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
    has_lane: bool
    open: bool
    room: int

    def refusal(self, new: NewCallback) -> StoreError | None:
        """Why this submit cannot be taken."""
        if new.destination_name is not None and (not self.known or self.removed):
            return NotFound(f"there is no destination named {new.destination_name!r}")
        if self.disabled is not None:
            return DestinationDisabled(f"the destination is disabled: {self.disabled}")
        return None


def submit(tx: Tx, submits: Sequence[Submit], rules: Rules) -> list[Submitted | StoreError]:
    """Store new callbacks; those that may go at once are stored already leased (D6)."""
    targets = _open_targets(tx, submits, rules)
    results: dict[str, Submitted | StoreError] = {}
    rows = []
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
        rows.append(_row(new, rule, rules.lease_margin_ms if straight else None))
        results[new.id] = Submitted(
            id=new.id,
            job_id=new.job_id,
            state="sending" if straight else "pending",
            created_ms=new.created_ms,
            duplicate=False,
            delivery=_handed_over(new, target, rule) if straight else None,
        )
    stored = [item.new for item in submits if isinstance(results[item.new.id], Submitted)]
    if stored:
        _make_targets(tx, stored, targets, rules)
        if tx.many(_INSERT, rows) != len(rows):
            stored = _drop_duplicates(tx, stored, rows, results, rules)
        _insert_parts(tx, stored, results)
    return [results[item.new.id] for item in submits]


def _open_targets(tx: Tx, submits: Sequence[Submit], rules: Rules) -> dict[str, _Target]:
    """Return a URL whose destination was removed comes into being anew with its next callback."""
    now_ms = submits[0].new.created_ms
    targets = _targets(tx, {item.new.destination for item in submits}, now_ms, rules)
    unnamed = {item.new.destination for item in submits if item.new.destination_name is None}
    anew = {one for one in unnamed if targets[one].removed and destinations.forget(tx, one)}
    if anew:
        targets |= _targets(tx, anew, now_ms, rules)
    return targets


def _targets(tx: Tx, wanted: Iterable[str], now_ms: int, rules: Rules) -> dict[str, _Target]:
    rows = tx.all(_TARGETS, now_ms, rules.concurrency, WINDOW_START, ids(wanted))
    return {
        row[0]: _Target(
            known=bool(row[1]),
            removed=row[2] is not None,
            disabled=row[3],
            url=row[4],
            policy=row[5],
            headers=read_headers(row[6]),
            has_lane=bool(row[7]),
            open=bool(row[8]),
            room=row[9],
        )
        for row in rows
    }


def _row(new: NewCallback, rule: Policy, lease_margin_ms: int | None) -> tuple[object, ...]:
    """`lease_margin_ms` is set for a delivery that is stored already leased."""
    leased = lease_margin_ms is not None
    lease_ms = new.created_ms + round(rule.timeout * 1000) + (lease_margin_ms or 0)
    number = HIGH if new.priority == "high" else NORMAL
    return (
        new.id,
        new.tenant,
        new.job_id,
        new.job_status,
        number,
        new.destination,
        new.url,
        new.policy_text,
        len(new.body),
        new.body_sha256,
        new.key,
        new.explicit_key,
        new.content,
        new.created_ms,
        new.created_ms + round(rule.max_age * 1000),
        "sending" if leased else "pending",
        number,
        None if leased else new.created_ms,
        lease_ms if leased else None,
        1 if leased else 0,
    )


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
    tx: Tx, stored: Sequence[NewCallback], targets: Mapping[str, _Target], rules: Rules
) -> None:
    fresh = {new.destination: new for new in stored if not targets[new.destination].known}
    if fresh:
        tx.many(
            "INSERT INTO destinations (id, tenant, url, created_ms) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            [
                (new.destination, new.tenant, (new.url or "").split("?")[0], new.created_ms)
                for new in fresh.values()
            ],
        )
    without = {new.destination for new in stored if not targets[new.destination].has_lane}
    if without:
        now_ms = stored[0].created_ms
        lanes.make(tx, without, concurrency=rules.concurrency, window=WINDOW_START, now_ms=now_ms)


def _drop_duplicates(
    tx: Tx,
    stored: Sequence[NewCallback],
    rows: Sequence[tuple[object, ...]],
    results: dict[str, Submitted | StoreError],
    rules: Rules,
) -> list[NewCallback]:
    """Answer the submits whose key was there first; returns those that were stored."""
    wanted = ids(new.id for new in stored)
    found = tx.all("SELECT id FROM callbacks WHERE id IN (SELECT value FROM json_each(?))", wanted)
    present = {row[0] for row in found}
    for new, row in zip(stored, rows, strict=True):
        if new.id in present:
            continue
        first = _first_with_key(tx, new)
        if new.created_ms - first[2] > rules.key_ms:
            tx.run("UPDATE callbacks SET key = NULL WHERE id = ?", first[0])
            tx.many(_INSERT, [row])
            present.add(new.id)
        elif first[1] != new.content:
            results[new.id] = KeyReused(first[0])
        else:
            results[new.id] = Submitted(
                id=first[0], job_id=first[4], state=first[3], created_ms=first[2], duplicate=True
            )
    return [new for new in stored if new.id in present]


def _first_with_key(tx: Tx, new: NewCallback) -> Row:
    columns = "SELECT id, content, created_ms, state, job_id FROM callbacks"
    if new.explicit_key:
        row = tx.one(f"{columns} WHERE key = ? AND explicit_key = 1", new.key)
    else:
        row = tx.one(
            f"{columns} WHERE tenant = ? AND job_id = ? AND key = ?",
            new.tenant,
            new.job_id,
            new.key,
        )
    if row is None:
        raise RuntimeError(f"{new.id} was not stored, yet no other callback has its key")
    return row


def _insert_parts(
    tx: Tx, stored: Sequence[NewCallback], results: Mapping[str, Submitted | StoreError]
) -> None:
    tx.many(
        "INSERT INTO payloads (callback, content_type, headers, body) VALUES (?, ?, ?, ?)",
        [(new.id, new.content_type, write_headers(new.headers), new.body) for new in stored],
    )
    tags = [(new.tenant, key, value, new.id) for new in stored for key, value in new.tags]
    if tags:
        tx.many("INSERT INTO tags (tenant, key, value, callback) VALUES (?, ?, ?, ?)", tags)
    for new in stored:
        result = results[new.id]
        if isinstance(result, Submitted):
            tx.notes.moved(new.tenant, None, result.state)
            tx.notes.events[new.tenant, "accepted"] += 1
            tx.notes.lanes.add(new.destination)
