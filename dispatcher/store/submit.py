"""Submit, for a whole batch: stored in one commit, and what may go at once leased in it (D6).

Runs on the writer's thread. A batch is a handful of statements: single ones that read what it
needs, and one bulk statement per table written.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher import policy as policies
from dispatcher.fairness import unheld_room
from dispatcher.health import WINDOW_START
from dispatcher.ids import (
    destination_of,
    earlier_content_digest,
    earlier_natural_key,
    server_of,
)
from dispatcher.policy import Policy
from dispatcher.store import destinations, lanes, rows
from dispatcher.store.errors import (
    CannotUnseal,
    DestinationDisabled,
    KeyReused,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from dispatcher.store.jobs.touched import CallbackLane
from dispatcher.store.requests import Rules, SubmitRequest
from dispatcher.store.sealing import DESTINATIONS
from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import (
    Delivery,
    DestinationHeaders,
    NewCallback,
    Submitted,
    plain_headers,
    secret_headers,
)

Results = dict[str, Submitted | StoreError]
Addressed = NewCallback | CallbackLane
# How often a destination's `last_url` is written, so that it is no row that all commits write.
_LAST_URL_MS: Final = 1_000
_FIRST: Final = "SELECT id, content, created_ms, state, job_id FROM callbacks"
_OF_JOBS: Final = """
SELECT id, content, created_ms, state, job_id, key FROM callbacks
WHERE tenant = ? AND job_id IN ({}) AND key IS NOT NULL
"""
_OF_JOB: Final = f"{_FIRST} WHERE tenant = ? AND job_id = ? AND key = ?"


@dataclass(slots=True)
class _Target:
    """A lane and its destination as a batch of submits sees it; `room` shrinks as deliveries are
    handed over, that of the server (None: it has one lane) over all its lanes. Of the server's
    `server_free` this process may take `server_room`: less, while it does not hold the server."""

    known: bool
    removed: bool
    disabled: str | None
    url: str | None
    policy: str | None
    headers: DestinationHeaders
    has_lane: bool
    open: bool
    room: int
    server_room: int | None
    server_free: int | None
    epoch: int
    last_url: str | None
    last_url_ms: int

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
    handed: Counter[str] = Counter()
    beyond = _beyond_limit(tx, requests, targets, rules)
    earlier = _earlier(tx, requests, rules)
    for request in requests:
        new, target = request.new, targets[request.new.lane]
        refusal = target.refusal(new)
        if new.destination in beyond:
            refusal = rules.destinations.refusal(new.tenant)
        if refusal is not None:
            results[new.id] = refusal
            continue
        if new.id in earlier:
            results[new.id] = _duplicate(new, earlier[new.id])
            continue
        policy = new.policy or policies.load(target.policy)
        direct = request.handover and target.open and target.room > 0
        direct = direct and new.not_before_ms is None
        if direct and target.server_room is not None:
            direct = target.server_room > handed[new.destination]
            handed[new.destination] += direct
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
        parts = [rows.payload(tx, new) for new in stored]
        present = tx.statements.insert_callbacks(tx, list(values.values()), parts)
        if len(present) != len(stored):
            stored = _drop_duplicates(tx, stored, present, values, results, rules)
        _finish(tx, stored, results)
    return [results[request.new.id] for request in requests]


def _open_targets(tx: Tx, requests: Sequence[SubmitRequest], rules: Rules) -> dict[str, _Target]:
    """Return what is known of the batch's lanes, by their ids.

    A server whose destination was removed comes into being again with its next callback.
    """
    now_ms = tx.at(requests[0].new.created_ms)
    lanes_ = {request.new.lane: request.new.tenant for request in requests}
    unnamed = {request.new.lane: request.new for request in requests if request.new.url is not None}
    targets = _targets(tx, lanes_, now_ms, rules)
    removed = {destination_of(lane) for lane in unnamed if targets[lane].removed}
    again = {one for one in removed if destinations.forget(tx, one)}
    if again:
        of_them = {lane: lanes_[lane] for lane in unnamed if destination_of(lane) in again}
        _make(tx, set(of_them), unnamed, rules, now_ms)
        targets |= _targets(tx, of_them, now_ms, rules)
    if not tx.sole_owner and (tight := _tight(requests, targets)):
        tx.tight |= tight
        tx.statements.hold_servers(tx, tight)
        of_them = {one: lanes_[one] for one in lanes_ if destination_of(one) in tight & tx.held}
        if of_them:
            targets |= _targets(tx, of_them, now_ms, rules)
    return targets


def _tight(requests: Sequence[SubmitRequest], targets: Mapping[str, _Target]) -> set[str]:
    """Return the servers that have room for more than may be taken without holding them."""
    lanes_ = Counter(
        request.new.lane
        for request in requests
        if request.handover and request.new.not_before_ms is None
    )
    wanted = Counter[str]()
    room: dict[str, tuple[int, int]] = {}
    for lane, count in lanes_.items():
        target = targets[lane]
        if target.open and target.server_room is not None and target.server_free is not None:
            wanted[destination_of(lane)] += max(0, min(count, target.room))
            room[destination_of(lane)] = target.server_room, target.server_free
    return {one for one, (sure, free) in room.items() if sure < min(wanted[one], free)}


def _beyond_limit(
    tx: Tx, requests: Sequence[SubmitRequest], targets: Mapping[str, _Target], rules: Rules
) -> set[str]:
    """Return the destinations that would come into being and may not."""
    new = {
        request.new.destination: request.new
        for request in requests
        if request.new.url is not None and not targets[request.new.lane].known
    }
    return {one for one, first in new.items() if not _may_make(tx, first, rules)}


def _may_make(tx: Tx, new: Addressed, rules: Rules) -> bool:
    return rules.destinations.admits(tx, new.tenant, now_ms=tx.at(new.created_ms))


def _targets(tx: Tx, lanes_: Mapping[str, str], now_ms: int, rules: Rules) -> dict[str, _Target]:
    """Return what is known of lanes, each with its tenant."""
    found = tx.all(tx.statements.TARGETS, now_ms, rules.concurrency, WINDOW_START, tx.ids(lanes_))
    return {row[0]: _target(tx, row, lanes_[row[0]]) for row in found}


def _target(tx: Tx, row: Row, tenant: str) -> _Target:
    (
        lane,
        known,
        removed_ms,
        disabled,
        url,
        policy,
        stored_headers,
        has_lane,
        is_open,
        room,
        epoch,
        server_room,
        server_max,
        last_url,
        last_url_ms,
    ) = row
    headers = _headers(tx, stored_headers, lane, tenant)
    return _Target(
        known=bool(known),
        removed=removed_ms is not None,
        disabled=disabled,
        url=url,
        policy=policy,
        headers=headers or (),
        has_lane=bool(has_lane),
        open=bool(is_open) and headers is not None,
        room=room,
        epoch=epoch,
        server_free=server_room,
        server_room=server_room
        if server_room is None or tx.sole_owner or destination_of(lane) in tx.held
        else unheld_room(server_room, server_max),
        last_url=last_url,
        last_url_ms=last_url_ms,
    )


def _headers(tx: Tx, stored: str | None, lane: str, tenant: str) -> DestinationHeaders | None:
    """Return a destination's headers, None where they cannot be opened: what is submitted is
    stored all the same, and goes nowhere until they can."""
    try:
        return rows.read_headers(tx, stored, DESTINATIONS, destination_of(lane), tenant)
    except CannotUnseal:
        return None


def _make_targets(
    tx: Tx, stored: Sequence[NewCallback], targets: Mapping[str, _Target], rules: Rules
) -> None:
    """Make the destinations and lanes that were not there, and write down the URLs used last."""
    now_ms = tx.at(stored[0].created_ms)
    unnamed = {new.lane: new for new in stored if new.url is not None}
    without = {new.lane for new in stored if not targets[new.lane].has_lane}
    if without:
        _make(tx, without, unnamed, rules, now_ms)
    used = [
        new
        for lane, new in unnamed.items()
        if lane not in without
        and new.url != (target := targets[lane]).last_url
        and not 0 <= now_ms - target.last_url_ms < _LAST_URL_MS
    ]
    if used and not tx.sole_owner:
        # Nobody waits for a server here: another process's URL is as good.
        tx.statements.hold_servers(tx, {new.destination for new in used})
        used = [new for new in used if new.destination in tx.held]
    _write_last_urls(tx, used, now_ms)


def unmade(tx: Tx, submits: Sequence[Addressed], rules: Rules) -> list[Addressed]:
    """Return one for each of their lanes that can be made: a name must be a destination's, and a
    URL's either is there or is one that the tenant may have."""
    by_lane = {new.lane: new for new in submits}
    by_destination = {new.destination: new for new in by_lane.values()}
    ids = list(by_destination)
    sql = f"SELECT id FROM destinations WHERE id IN ({marks(ids)})"
    known = {row[0] for row in tx.all(sql, *ids)} if ids else set()
    known |= {
        one
        for one, new in by_destination.items()
        if one not in known and new.url is not None and _may_make(tx, new, rules)
    }
    return [new for new in by_lane.values() if new.destination in known]


def make_lanes(tx: Tx, submits: Sequence[Addressed], rules: Rules) -> None:
    """Make the lanes of these submits, and the destinations that came with URLs."""
    unnamed = {new.lane: new for new in submits if new.url is not None}
    _make(tx, {new.lane for new in submits}, unnamed, rules, tx.at(submits[0].created_ms))


def _make(
    tx: Tx, lanes_: set[str], unnamed: Mapping[str, Addressed], rules: Rules, now_ms: int
) -> None:
    _write_last_urls(tx, [unnamed[lane] for lane in lanes_ if lane in unnamed], now_ms)
    lanes.make(tx, lanes_, rules, now_ms=now_ms)


def _write_last_urls(tx: Tx, used: Sequence[Addressed], now_ms: int) -> None:
    """Make unregistered destinations where they are not there, each with the URL used last."""
    last = {new.destination: new for new in sorted(used, key=lambda new: new.id)}
    made = [
        (one, new.tenant, server_of(new.url or ""), now_ms, new.url, now_ms)
        for one, new in sorted(last.items())
    ]
    if made:
        tx.bulk(tx.statements.INSERT_DESTINATIONS, made)


def _handed_over(new: NewCallback, target: _Target, policy: Policy) -> Delivery:
    return Delivery(
        id=new.id,
        tenant=new.tenant,
        job_id=new.job_id,
        destination=new.destination,
        lane=new.lane,
        registered=new.url is None,
        url=new.url or target.url or "",
        body=new.body,
        content_type=new.content_type,
        headers=plain_headers(target.headers) + new.headers,
        secret_headers=secret_headers(target.headers),
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
        secret=new.secret,
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
            if tx.statements.insert_callbacks(tx, [values[new.id]], [rows.payload(tx, new)]):
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
    if content not in (new.content, earlier_content_digest(new)):
        return KeyReused(first_id, explicit=new.explicit_key)
    return Submitted(
        id=first_id,
        job_id=job_id,
        state=state,
        created_ms=created_ms,
        duplicate=first_id != new.id,
    )


def _earlier(tx: Tx, requests: Sequence[SubmitRequest], rules: Rules) -> dict[str, Row]:
    """Return, by the ids of these submits, what came before under a key of the earlier rule, while
    such keys hold."""
    now_ms = tx.at(requests[0].new.created_ms)
    if now_ms >= rules.earlier_keys_until_ms:
        return {}
    jobs: dict[str, set[str]] = defaultdict(set)
    for request in requests:
        if not request.new.explicit_key:
            jobs[request.new.tenant].add(request.new.job_id)
    first = {
        (tenant, *row[4:]): row[:5]
        for tenant, names in jobs.items()
        for row in tx.all(_OF_JOBS.format(marks(list(names))), tenant, *sorted(names))
    }
    found = {}
    for new in (request.new for request in requests if not request.new.explicit_key):
        row = first.get((new.tenant, new.job_id, earlier_natural_key(new)))
        if row is not None and new.created_ms - row[2] <= rules.key_ms:
            found[new.id] = row
    return found


def _first_with_key(tx: Tx, new: NewCallback) -> Row | None:
    if new.explicit_key:
        return tx.one(f"{_FIRST} WHERE key = ? AND explicit_key = 1", new.key)
    return tx.one(_OF_JOB, new.tenant, new.job_id, new.key)


def _finish(
    tx: Tx, stored: Sequence[NewCallback], results: Mapping[str, Submitted | StoreError]
) -> None:
    tags = [(new.tenant, key, value, new.id) for new in stored for key, value in new.tags]
    if tags:
        tx.bulk(tx.statements.INSERT_TAGS, tags)
    rows.put_secrets(tx, stored)
    for new in stored:
        result = results[new.id]
        if isinstance(result, Submitted):
            tx.changes.moved(new.tenant, None, result.state)
            tx.changes.bytes[new.tenant] += rows.stored_bytes(new)
            tx.changes.events[new.tenant, "accepted"] += 1
            tx.changes.lanes.add(new.lane)
