"""Endpoints: making, changing, pausing and removing them. Portable.

What their rules say of scheduling is copied to `endpoint_load`, in the commit that changes it.
"""

from typing import Final

from dispatcher.health import Health
from dispatcher.jobs import health, kinds
from dispatcher.jobs.endpoint import UNOPENED, Endpoint, EndpointRules, dump_rules, load_rules
from dispatcher.store import rows
from dispatcher.store.errors import CannotUnseal, Conflict, EndpointChanged, NotFound, NotYet
from dispatcher.store.sealing import ENDPOINTS
from dispatcher.store.tx import Row, Tx, marks

_ENDPOINT: Final = (
    "SELECT name, rules, managed, paused, epoch, created_ms, updated_ms FROM endpoints"
)
# In the order of `_scheduling`.
_SCHEDULING: Final = (
    "concurrency",
    "rate",
    "adaptive",
    "by_class",
    "once",
    "queue_max",
    "queue_max_tenant",
    "queue_timeout_ms",
    "stops",
)
_CONCURRENCY: Final = "SELECT concurrency FROM endpoint_load WHERE endpoint = ?"
_HEALTH: Final = (
    "failures, failing_since_ms, openings, held_until_ms, held_reason, turned_away, threshold"
)
_WELL: Final = "UPDATE endpoint_load SET unhealthy_ms = NULL WHERE endpoint = ?"
_AILS: Final = """
UPDATE endpoint_load SET unhealthy_ms = ?
WHERE endpoint = ? AND unhealthy_ms IS NULL AND removed = 0
"""
_FORGET: Final = (
    "failures = 0, failing_since_ms = NULL, openings = 0, held_until_ms = 0, held_reason = NULL, "
    "held_from_ms = NULL, turned_away = 0, threshold = NULL, unhealthy_ms = NULL"
)


def get(tx: Tx, name: str) -> Endpoint:
    """Raise NotFound, for one that was removed too. One whose rules cannot be opened says so."""
    row = tx.one(f"{_ENDPOINT} WHERE name = ? AND removed_ms IS NULL", name)
    if row is None:
        raise NotFound(f"there is no endpoint {name}")
    return _endpoint(tx, row)


def check_there(tx: Tx, name: str) -> None:
    """Raise NotFound, for one that was removed too."""
    if tx.one("SELECT 1 FROM endpoints WHERE name = ? AND removed_ms IS NULL", name) is None:
        raise NotFound(f"there is no endpoint {name}")


def endpoints(tx: Tx) -> list[Endpoint]:
    """In the order of their names."""
    found = tx.all(f"{_ENDPOINT} WHERE removed_ms IS NULL ORDER BY name")
    return [_endpoint(tx, row) for row in found]


def _endpoint(tx: Tx, row: Row) -> Endpoint:
    name, stored, managed, paused, epoch, created_ms, updated_ms = row
    unopened = None
    try:
        text = rows.open_text(tx, stored, ENDPOINTS, name, "")
        rules = load_rules(text)
    except CannotUnseal as error:
        text, rules, unopened = stored, UNOPENED, error.unopened
    return Endpoint(
        name=name,
        rules=rules,
        text=text,
        managed=bool(managed),
        paused=bool(paused),
        created_ms=created_ms,
        updated_ms=updated_ms,
        epoch=epoch,
        unopened=unopened,
    )


def put(
    tx: Tx, new: Endpoint, *, create: bool, seen: Endpoint | None = None, now_ms: int
) -> Endpoint:
    """Make or change an endpoint; its rules act on the backlog from now on. One with another
    upstream forgets what was learned of the last. Raises Conflict and NotFound, and EndpointChanged
    where it is not as it was `seen` (None: whatever it is)."""
    row = tx.one("SELECT removed_ms FROM endpoints WHERE name = ?", new.name)
    if row is not None and row[0] is not None:
        raise NotYet(f"what waited for {new.name} is still being ended; try again in a moment")
    if create and row is not None:
        raise Conflict(f"there is an endpoint named {new.name} already")
    if not create and row is None:
        raise NotFound(f"there is no endpoint {new.name}")
    if row is None:
        _make(tx, new, now_ms)
    else:
        before = get(tx, new.name)
        if seen is not None and (before.text, before.managed) != (seen.text, seen.managed):
            raise EndpointChanged(new.name)
        _change(tx, new, before, now_ms)
    tx.changes.endpoints.add(new.name)
    tx.notify("endpoints")
    return get(tx, new.name)


def _make(tx: Tx, new: Endpoint, now_ms: int) -> None:
    # An earlier one of this name may be remembered by calls: its epochs end before this time.
    epoch = tx.at(now_ms)
    made = tx.run(
        "INSERT INTO endpoints (name, rules, managed, paused, epoch, created_ms, updated_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        new.name,
        _sealed(tx, new),
        int(new.managed),
        int(new.paused),
        epoch,
        now_ms,
        now_ms,
    )
    if not made:  # by another process, at this moment
        raise Conflict(f"there is an endpoint named {new.name} already")
    names = (*_SCHEDULING, "epoch", "paused", '"window"', "endpoint")
    values = (
        *_scheduling(new.rules),
        epoch,
        int(new.paused),
        health.fresh(new.rules.concurrency).window,
        new.name,
    )
    tx.run(
        f"INSERT INTO endpoint_load ({', '.join(names)}) VALUES ({marks(values)})",
        *values,
    )
    tx.held_endpoints |= {new.name}


def _change(tx: Tx, new: Endpoint, seen: Endpoint, now_ms: int) -> None:
    before = seen.rules
    tx.run(
        "UPDATE endpoints SET rules = ?, managed = ?, updated_ms = ? WHERE name = ?",
        _sealed(tx, new),
        int(new.managed),
        now_ms,
        new.name,
    )
    tx.run(
        f"UPDATE endpoint_load SET {', '.join(f'{name} = ?' for name in _SCHEDULING)} "
        "WHERE endpoint = ?",
        *_scheduling(new.rules),
        new.name,
    )
    if (before.url, before.method) != (new.rules.url, new.rules.method):
        _begin_again(tx, new.name, new.rules.concurrency)
    elif (before.concurrency, before.adaptive) != (new.rules.concurrency, new.rules.adaptive):
        _resize(tx, new.name, new.rules)
    if kinds.health_check(before) != kinds.health_check(new.rules):
        tx.run(_WELL, new.name)  # until it is asked anew


def _resize(tx: Tx, name: str, rules: EndpointRules) -> None:
    sql = f'SELECT "window", {_HEALTH} FROM endpoint_load WHERE endpoint = ?'
    found = Health(*(tx.one(sql, name) or ()))
    resized = health.resized(found, rules.concurrency)
    sql = 'UPDATE endpoint_load SET "window" = ?, threshold = ? WHERE endpoint = ?'
    tx.run(sql, resized.window, resized.threshold, name)


def _sealed(tx: Tx, new: Endpoint) -> str:
    """Return what is stored of its rules: sealed where they hold headers."""
    return rows.seal_marked(tx, dump_rules(new.rules), ENDPOINTS, new.name, "")


def _scheduling(rules: EndpointRules) -> tuple[object, ...]:
    return (
        rules.concurrency,
        rules.rate,
        int(rules.adaptive),
        int(rules.priority_scope == "endpoint"),
        int(rules.once),
        rules.queue_max,
        rules.queue_max_tenant,
        round(rules.queue_timeout * 1000),
        int(kinds.stops(rules)),
    )


def _begin_again(tx: Tx, name: str, concurrency: int) -> None:
    """Forget what was learned of the upstream, also what calls that are out will tell."""
    sql = f'UPDATE endpoint_load SET "window" = ?, epoch = epoch + 1, {_FORGET} WHERE endpoint = ?'
    tx.run(sql, health.fresh(concurrency).window, name)
    tx.run("UPDATE endpoints SET epoch = epoch + 1 WHERE name = ?", name)


def set_paused(tx: Tx, name: str, *, paused: bool, now_ms: int) -> Endpoint:
    """Start no more of its jobs, or go on, as if nothing had been wrong with its upstream. Raises
    NotFound."""
    check_there(tx, name)
    sql = "UPDATE endpoints SET paused = ?, updated_ms = ? WHERE name = ?"
    tx.run(sql, int(paused), now_ms, name)
    tx.run("UPDATE endpoint_load SET paused = ? WHERE endpoint = ?", int(paused), name)
    if not paused:  # one that is held by a circuit alone goes on too
        (concurrency,) = tx.all(_CONCURRENCY, name)[0]
        _begin_again(tx, name, concurrency)
    tx.changes.endpoints.add(name)
    tx.notify("endpoints")
    return get(tx, name)


def set_health(tx: Tx, name: str, *, well: bool, now_ms: int) -> bool:
    """Start nothing more at an endpoint whose health check fails, or go on, with its circuit
    closed; return whether that is news. Nothing is said of what is not there."""
    if not well:
        changed = tx.run(_AILS, tx.at(now_ms), name)
    else:
        sql = "SELECT concurrency, held_reason, unhealthy_ms FROM endpoint_load WHERE endpoint = ?"
        row = tx.one(sql, name)
        if row is None or row[2] is None:
            return False
        changed = tx.run(_WELL, name)
        if row[1] == "circuit":
            _begin_again(tx, name, row[0])
    if changed:
        tx.changes.endpoints.add(name)
    return bool(changed)


def remove(tx: Tx, name: str, *, managed: bool | None = None, now_ms: int) -> None:
    """Take no more for it and start nothing; its backlog is ended slice by slice, and then its row
    goes. Raises NotFound, and EndpointChanged for one that is managed, or not, other than said."""
    check_there(tx, name)
    sql = "SELECT managed FROM endpoints WHERE name = ?"
    if managed is not None and tx.one(sql, name) != (int(managed),):
        raise EndpointChanged(name)
    tx.run("UPDATE endpoints SET removed_ms = ? WHERE name = ?", tx.at(now_ms), name)
    tx.run("UPDATE endpoint_load SET removed = 1 WHERE endpoint = ?", name)
    tx.changes.endpoints.add(name)
    tx.notify("endpoints")
