"""Submit, for a whole batch: stored in one commit, and what may go at once leased in it (D6).

Runs on the writer's thread. A batch is a handful of statements: single ones that read what it
needs, and one bulk statement per table written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dispatcher import policy as policies
from dispatcher.health import WINDOW_START
from dispatcher.ids import lane_url
from dispatcher.policy import Policy
from dispatcher.store import destinations, lanes, rows
from dispatcher.store.errors import (
    DestinationDisabled,
    KeyReused,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from dispatcher.store.requests import Rules, SubmitRequest
from dispatcher.store.tx import Row, Tx
from dispatcher.values import Delivery, Headers, NewCallback, Submitted

Results = dict[str, Submitted | StoreError]


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
    epoch: int

    def refusal(self, new: NewCallback) -> StoreError | None:
        """Return why this submit cannot be taken."""
        if new.destination_name is not None and (not self.known or self.removed):
            return NotFound(f"there is no destination named {new.destination_name!r}")
        if self.disabled is not None:
            return DestinationDisabled(f"the destination is disabled: {self.disabled}")
        return None


def submit(tx: Tx, requests: Sequence[SubmitRequest], rules: Rules) -> list[Submitted | StoreError]:
    """Store new callbacks; those that may go at once are stored already leased (D6)."""
    targets = _open_targets(tx, requests, rules)
    results: Results = {}
    values: dict[str, Row] = {}
    for request in requests:
        new, target = request.new, targets[request.new.destination]
        refusal = target.refusal(new)
        if refusal is not None:
            results[new.id] = refusal
            continue
        policy = new.policy or policies.load(target.policy)
        direct = request.handover and target.open and target.room > 0
        direct = direct and new.not_before_ms is None
        if direct:
            target.room -= 1
        margin_ms = rules.lease_margin_ms if direct else None
        values[new.id] = rows.new_callback(new, policy, margin_ms, tx.at(new.created_ms))
        results[new.id] = Submitted(
            id=new.id,
            job_id=new.job_id,
            state="sending" if direct else "pending",
            created_ms=new.created_ms,
            duplicate=False,
            delivery=_handed_over(new, target, policy) if direct else None,
        )
    stored = [request.new for request in requests if request.new.id in values]
    if stored:
        _make_targets(tx, stored, targets, rules)
        present = tx.statements.insert_callbacks(tx, list(values.values()))
        if len(present) != len(stored):
            stored = _drop_duplicates(tx, stored, present, values, results, rules)
        _insert_parts(tx, stored, results)
    return [results[request.new.id] for request in requests]


def _open_targets(tx: Tx, requests: Sequence[SubmitRequest], rules: Rules) -> dict[str, _Target]:
    """Return what is known of the batch's destinations.

    A URL whose destination was removed comes into being again with its next callback.
    """
    now_ms = tx.at(requests[0].new.created_ms)
    ids = {request.new.destination for request in requests}
    unnamed = {
        request.new.destination: request.new
        for request in requests
        if request.new.destination_name is None
    }
    missing = tx.statements.unheld(tx, ids)
    if missing:
        _make(tx, missing, unnamed, rules, now_ms)
    targets = _targets(tx, ids, now_ms, rules)
    again = {one for one in unnamed if targets[one].removed and destinations.forget(tx, one)}
    if again:
        _make(tx, again, unnamed, rules, now_ms)
        targets |= _targets(tx, again, now_ms, rules)
    return targets


def _targets(tx: Tx, ids: Iterable[str], now_ms: int, rules: Rules) -> dict[str, _Target]:
    found = tx.all(tx.statements.TARGETS, now_ms, rules.concurrency, WINDOW_START, tx.ids(ids))
    return {
        destination: _Target(
            known=bool(known),
            removed=removed_ms is not None,
            disabled=disabled,
            url=url,
            policy=policy,
            headers=rows.read_headers(headers),
            has_lane=bool(has_lane),
            open=bool(is_open),
            room=room,
            epoch=epoch,
        )
        for (
            destination,
            known,
            removed_ms,
            disabled,
            url,
            policy,
            headers,
            has_lane,
            is_open,
            room,
            epoch,
        ) in found
    }


def _make_targets(
    tx: Tx, stored: Sequence[NewCallback], targets: Mapping[str, _Target], rules: Rules
) -> None:
    """Make the destinations and lanes that were not there."""
    without = {new.destination for new in stored if not targets[new.destination].has_lane}
    if without:
        unnamed = {new.destination: new for new in stored if new.destination_name is None}
        _make(tx, without, unnamed, rules, tx.at(stored[0].created_ms))


def _make(
    tx: Tx, lanes_: set[str], unnamed: Mapping[str, NewCallback], rules: Rules, now_ms: int
) -> None:
    made = [
        (new.destination, new.tenant, lane_url(new.url or ""), now_ms)
        for one in sorted(lanes_)
        if (new := unnamed.get(one))
    ]
    if made:
        tx.bulk(tx.statements.INSERT_DESTINATIONS, made)
    lanes.make(tx, lanes_, rules, now_ms=now_ms)


def _handed_over(new: NewCallback, target: _Target, policy: Policy) -> Delivery:
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
        policy=policy,
        fence=1,
        attempt=1,
        tries=0,
        epoch=target.epoch,
        created_ms=new.created_ms,
        expires_ms=new.created_ms + round(policy.max_age * 1000),
        high=new.priority == "high",
        job_status=new.job_status,
        run=new.run,
    )


def _drop_duplicates(
    tx: Tx,
    stored: Sequence[NewCallback],
    present: set[str],
    values: Mapping[str, Row],
    results: Results,
    rules: Rules,
) -> list[NewCallback]:
    """Tell the submits whose key was there first; return those that were stored.

    In the order of their keys: processes with the same keys wait for each other in one direction.
    """
    for new in sorted(stored, key=lambda new: new.key):
        if new.id in present:
            continue
        first = _first_with_key(tx, new)
        if first is not None and new.created_ms - first[2] > rules.key_ms and first[0] != new.id:
            tx.run("UPDATE callbacks SET key = NULL WHERE id = ?", first[0])
            first = None
        if first is None:
            # The first one's row or key may have gone since; who came between wins.
            if tx.statements.insert_callbacks(tx, [values[new.id]]):
                present.add(new.id)
                continue
            first = _first_with_key(tx, new)
        results[new.id] = _duplicate(new, first)
    return [new for new in stored if new.id in present]


def _duplicate(new: NewCallback, first: Row | None) -> Submitted | StoreError:
    """Return what a submit gets whose key `first` has: it may be this very one, stored by a commit
    whose reply was lost."""
    if first is None:
        return StoreUnavailable("another process holds the idempotency key; try again")
    first_id, content, created_ms, state, job_id = first
    if content != new.content:
        return KeyReused(first_id)
    return Submitted(
        id=first_id,
        job_id=job_id,
        state=state,
        created_ms=created_ms,
        duplicate=first_id != new.id,
    )


def _first_with_key(tx: Tx, new: NewCallback) -> Row | None:
    columns = "SELECT id, content, created_ms, state, job_id FROM callbacks"
    if new.explicit_key:
        return tx.one(f"{columns} WHERE key = ? AND explicit_key = 1", new.key)
    return tx.one(
        f"{columns} WHERE tenant = ? AND job_id = ? AND key = ?", new.tenant, new.job_id, new.key
    )


def _insert_parts(
    tx: Tx, stored: Sequence[NewCallback], results: Mapping[str, Submitted | StoreError]
) -> None:
    if not stored:
        return
    tx.bulk(
        tx.statements.INSERT_PAYLOADS,
        [(new.id, new.content_type, rows.write_headers(new.headers), new.body) for new in stored],
    )
    tags = [(new.tenant, key, value, new.id) for new in stored for key, value in new.tags]
    if tags:
        tx.bulk(tx.statements.INSERT_TAGS, tags)
    for new in stored:
        result = results[new.id]
        if isinstance(result, Submitted):
            tx.changes.moved(new.tenant, None, result.state)
            tx.changes.events[new.tenant, "accepted"] += 1
            tx.changes.lanes.add(new.destination)
