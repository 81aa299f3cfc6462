"""Destinations: listing, registering, changing, removing. Portable."""

from collections.abc import Mapping, Sequence
from typing import Final

from dispatcher.ids import lanes_end
from dispatcher.store import access, rows, stored
from dispatcher.store.errors import Conflict, NotFound, NotYet, RedirectsSecret
from dispatcher.store.lanes import begin_again, clear_circuit, of_server, resolve
from dispatcher.store.limits import Destinations
from dispatcher.store.requests import Rules
from dispatcher.store.sealing import DESTINATIONS
from dispatcher.store.tx import Tx
from dispatcher.values import Destination, DestinationHeaders, SigningSecret, secret_headers

REMOVED: Final = "it was removed"
# So many waiting deliveries are counted for one listing, or for one destination; measured at 0.3 µs
# each.
COUNTED_MAX: Final = 250_000
_COLUMNS: Final = {
    "url": "url",
    "policy": "policy",
    "headers": "headers",
    "paused": "paused",
    "disabled_reason": "disabled_reason",
    "concurrency": "concurrency",
    "rate_per_second": "rate",
}


def page(
    tx: Tx, tenant: str, *, after: str | None, limit: int, now_ms: int
) -> tuple[Sequence[Destination], str | None]:
    """`limit` destinations after id `after`, and the id to go on after."""
    ids = "d.tenant = ? AND d.id > ? AND d.removed_ms IS NULL ORDER BY d.id LIMIT ?"
    values = (tenant, after or "", limit + 1)
    listed = len(tx.all(f"SELECT d.id FROM destinations d WHERE {ids}", *values))
    counted_max = COUNTED_MAX // max(1, min(listed, limit))
    found = tx.all(f"{rows.DESTINATION} WHERE {ids}", counted_max + 1, *values)
    page = [
        rows.destination(tx, row, now_ms=now_ms, counted_max=counted_max) for row in found[:limit]
    ]
    return page, page[-1].id if len(found) > limit else None


def get(tx: Tx, tenant: str, destination: str, *, now_ms: int) -> Destination:
    """By id, by registered name or by a URL of its server. Raises NotFound."""
    row = tx.one(
        f"{rows.DESTINATION} WHERE d.id = ? AND d.tenant = ? AND d.removed_ms IS NULL",
        COUNTED_MAX + 1,
        resolve(tx, tenant, destination),
        tenant,
    )
    if row is None:
        raise NotFound(f"there is no destination {destination}")
    return rows.destination(tx, row, now_ms=now_ms, counted_max=COUNTED_MAX)


def find(tx: Tx, tenant: str, destination: str) -> tuple[str, str, bool, bool]:
    """Return its id, its URL, whether it is paused, and whether its headers name a stored secret,
    without counting its backlog. Raises NotFound."""
    row = tx.one(
        "SELECT id, url, paused, secret_names IS NOT NULL FROM destinations "
        "WHERE id = ? AND tenant = ? AND removed_ms IS NULL",
        resolve(tx, tenant, destination),
        tenant,
    )
    if row is None:
        raise NotFound(f"there is no destination {destination}")
    return row[0], row[1], bool(row[2]), bool(row[3])


def register(tx: Tx, new: Destination, secret: SigningSecret, limit: Destinations) -> Destination:
    """Raise Conflict if the name is taken, LimitReached if the tenant has as many as it may, and
    UnknownSecret if a header names a secret that is not stored. One that was removed may be
    registered again."""
    before = tx.one("SELECT removed_ms FROM destinations WHERE id = ?", new.id)
    if before is not None and before[0] is None:
        raise Conflict(f"there is a destination named {new.name!r} already")
    if before is not None and not forget(tx, new.id):
        raise NotYet(f"what waited for {new.name!r} is still being ended; try again in a moment")
    if limit.count(tx, new.tenant) >= limit.max:
        raise limit.refusal(new.tenant)
    named = _named(new.headers)
    stored.check(tx, new.tenant, named)
    tx.run(
        "INSERT INTO destinations (id, tenant, name, url, policy, headers, secret_names, paused, "
        "disabled_reason, concurrency, rate, created_ms, epoch) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        new.id,
        new.tenant,
        new.name,
        new.url,
        new.policy,
        rows.write_headers(tx, new.headers, DESTINATIONS, new.id, new.tenant),
        _names(named),
        int(new.paused),
        new.disabled_reason,
        new.concurrency,
        new.rate_per_second,
        new.created_ms,
        new.created_ms,  # above the epochs of one of this name that was removed
    )
    access.add_secret(tx, secret)
    return get(tx, new.tenant, new.id, now_ms=new.created_ms)


def change(
    tx: Tx,
    tenant: str,
    destination: str,
    changes: Mapping[str, object],
    rules: Rules,
    *,
    redirects: bool,
) -> str:
    """Change the named fields of a destination and of its lanes. Raises NotFound; UnknownSecret for
    a header that names a secret that is not stored; and, unless it `redirects` those, for another
    URL RedirectsSecret where headers name any.
    Returns the id only, so that what it costs does not grow with the backlog."""
    changed, url, was_paused, names_secrets = find(tx, tenant, destination)
    moved = changes.get("url", url) != url
    if moved and names_secrets and "headers" not in changes and not redirects:
        raise RedirectsSecret
    columns = {_COLUMNS[name]: _stored(value) for name, value in changes.items()}
    headers = changes.get("headers")
    if isinstance(headers, tuple):
        named = _named(headers)
        stored.check(tx, tenant, named)
        columns["headers"] = rows.write_headers(tx, headers, DESTINATIONS, changed, tenant)
        columns["secret_names"] = _names(named)
    for column, value in columns.items():
        sql = f"UPDATE destinations SET {column} = ? WHERE id = ? AND removed_ms IS NULL"
        if not tx.run(sql, value, changed):  # idle, and so forgotten at this moment
            raise NotFound(f"there is no destination {destination}")
    tx.run(
        'UPDATE lanes SET (paused, doomed, rate, concurrency, "window") = ('
        "SELECT d.paused, d.disabled_reason, d.rate, coalesce(d.concurrency, ?), "
        "CASE WHEN lanes.window > coalesce(d.concurrency, ?) THEN coalesce(d.concurrency, ?) "
        "ELSE lanes.window END FROM destinations d WHERE d.id = substr(lanes.id, 1, 35)) "
        "WHERE id >= ? AND id < ?",
        rules.concurrency,
        rules.concurrency,
        rules.concurrency,
        changed,
        lanes_end(changed),
    )
    lanes = of_server(tx, changed)
    resumed = was_paused and changes.get("paused") is False
    for lane in lanes:
        if moved:
            begin_again(tx, lane)
        elif resumed:
            clear_circuit(tx, lane)
    if moved or resumed or "disabled_reason" in changes:
        begin_epoch(tx, changed)
    tx.changes.lanes.update(lanes)
    return changed


def begin_epoch(tx: Tx, destination: str) -> None:
    """Have the attempts that run now no longer tell of the destination: what they meet is what it
    was."""
    tx.run("UPDATE destinations SET epoch = epoch + 1 WHERE id = ?", destination)


def _named(headers: DestinationHeaders) -> set[str]:
    return {value.name for _, value in secret_headers(headers)}


def _names(named: set[str]) -> str | None:
    return " ".join(sorted(named)) or None


def _stored(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


def remove(tx: Tx, tenant: str, destination: str, *, now_ms: int) -> None:
    """Forget a destination and its secrets. The row stays, unseen, for the callbacks that name
    it; what waits for it is made dead slice by slice."""
    removed, *_ = find(tx, tenant, destination)
    there = tx.run(
        "UPDATE destinations SET removed_ms = ?, disabled_reason = ? "
        "WHERE id = ? AND removed_ms IS NULL",
        now_ms,
        REMOVED,
        removed,
    )
    if not there:
        raise NotFound(f"there is no destination {destination}")
    tx.run(
        "UPDATE lanes SET doomed = ? WHERE id >= ? AND id < ?", REMOVED, removed, lanes_end(removed)
    )
    begin_epoch(tx, removed)
    tx.run("DELETE FROM secrets WHERE tenant = ? AND destination = ?", tenant, removed)
    tx.changes.lanes.update(of_server(tx, removed))


def forget(tx: Tx, destination: str) -> bool:
    """Delete a removed destination so that it can come into being again; False, and nothing is
    changed, while its old backlog has not ended. Where another process did so at this moment, what
    is there now is that one's."""
    bounds = (destination, lanes_end(destination))
    for left in ("class IN (0, 1, 2) AND state = 'pending'", "state = 'sending'"):
        sql = "SELECT 1 FROM callbacks WHERE destination >= ? AND destination < ?"
        if tx.one(f"{sql} AND {left} LIMIT 1", *bounds):
            return False
    if tx.run("DELETE FROM destinations WHERE id = ? AND removed_ms IS NOT NULL", destination):
        tx.run("DELETE FROM lanes WHERE id >= ? AND id < ?", *bounds)
    return True
