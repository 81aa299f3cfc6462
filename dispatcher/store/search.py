"""Finding callbacks: a filter as SQL, in the order that an index gives. Portable."""

import re
from collections.abc import Sequence
from typing import Final

from dispatcher.filters import Filter
from dispatcher.ids import destination_id, id_floor
from dispatcher.store import rows
from dispatcher.store.errors import NotFound, PayloadGone
from dispatcher.store.requests import Page
from dispatcher.store.tx import Tx
from dispatcher.values import Attempt, Callback, Payload

_DESTINATION_ID: Final = re.compile(r"ds_[0-9a-f]{32}")


def where(tenant: str, wanted: Filter) -> tuple[str, list[object]]:
    """`FROM … WHERE …` for what `wanted` matches, and its parameters.

    The state stands in the text, not in a parameter: only so can a partial index serve. With a
    tag the search starts from the tag's own index, which is in the order of the ids too.
    """
    source, clauses, params = "FROM callbacks c", ["c.tenant = ?"], [tenant]
    values: list[object] = list(params)
    if wanted.tags:
        source, clauses, values = "FROM tags t JOIN callbacks c ON c.id = t.callback", [], []
        for number, (key, value) in enumerate(wanted.tags):
            if number == 0:
                clauses.append("t.tenant = ? AND t.key = ? AND t.value = ?")
            else:
                clauses.append(
                    "EXISTS (SELECT 1 FROM tags o WHERE o.tenant = ? AND o.key = ? "
                    "AND o.value = ? AND o.callback = c.id)"
                )
            values += [tenant, key, value]
    if wanted.status is not None:
        clauses.append(f"c.state = '{wanted.status}'")
    for column, value_of in (
        ("c.job_id", wanted.job_id),
        ("c.job_status", wanted.job_status),
        ("c.last_error", wanted.error),
    ):
        if value_of is not None:
            clauses.append(f"{column} = ?")
            values.append(value_of)
    if wanted.destination is not None:
        clauses.append("c.destination = ?")
        values.append(resolve(tenant, wanted.destination))
    if wanted.priority is not None:
        clauses.append(f"c.priority = {0 if wanted.priority == 'high' else 1}")
    for bound_ms, sign in ((wanted.since_ms, ">="), (wanted.until_ms, "<")):
        if bound_ms is not None:
            clauses.append(f"{order(wanted)} {sign} ?")
            values.append(id_floor("cb", bound_ms))
    return f"{source} WHERE {' AND '.join(clauses)}", values


def order(wanted: Filter) -> str:
    """Return the column to sort and to page by: the id, as the driving index holds it. The empty
    text keeps the database from walking all ids where the few callbacks of one job can be
    sorted."""
    if wanted.tags:
        return "t.callback"
    return "c.id" if wanted.job_id is None else "c.id || ''"


def resolve(tenant: str, destination: str) -> str:
    """Return the destination's id, given its id, its registered name or a URL."""
    if _DESTINATION_ID.fullmatch(destination):
        return destination
    if "://" in destination:
        return destination_id(tenant, url=destination)
    return destination_id(tenant, name=destination)


def page(tx: Tx, tenant: str, wanted: Filter, *, after: str | None, limit: int) -> Page:
    """`limit` callbacks, newest first, after id `after`."""
    source, values = where(tenant, wanted)
    column = order(wanted)
    if after is not None:
        source += f" AND {column} < ?"
        values.append(after)
    shown = newest(tx, source, values, column, limit=limit + 1)
    more = len(shown) > limit
    return Page(callbacks=shown[:limit], next_id=shown[limit - 1].id if more else None)


def newest(
    tx: Tx, source: str, values: Sequence[object], column: str, *, limit: int
) -> list[Callback]:
    """Return the first `limit` callbacks of `source` (as `where` makes it), newest first."""
    joined = source.replace(
        " WHERE ", " LEFT JOIN destinations d ON d.id = c.destination WHERE ", 1
    )
    found = tx.all(f"{rows.CALLBACK} {joined} ORDER BY {column} DESC LIMIT ?", *values, limit)
    return rows.callbacks(tx, found)


def get(tx: Tx, tenant: str, callback: str) -> Callback:
    """Raise NotFound, for another tenant's just the same."""
    row = tx.one(
        f"{rows.CALLBACK} FROM callbacks c LEFT JOIN destinations d ON d.id = c.destination "
        "WHERE c.id = ? AND c.tenant = ?",
        callback,
        tenant,
    )
    if row is None:
        raise NotFound(f"there is no callback {callback}")
    return rows.callbacks(tx, [row])[0]


def attempts(tx: Tx, tenant: str, callback: str) -> list[Attempt]:
    """Oldest first. Raises NotFound."""
    get(tx, tenant, callback)
    found = tx.all(f"{rows.ATTEMPT} WHERE callback = ? ORDER BY n", callback)
    return [rows.attempt(row) for row in found]


def payload(tx: Tx, tenant: str, callback: str) -> Payload:
    """Raise NotFound, PayloadGone."""
    shown = get(tx, tenant, callback)
    row = tx.one("SELECT body, content_type FROM payloads WHERE callback = ?", callback)
    if row is None:
        raise PayloadGone(f"the payload of {callback} is past its retention")
    return Payload(body=row[0], content_type=row[1], sha256=shown.payload_sha256)


def oldest_pending_ms(tx: Tx, tenant: str | None) -> int | None:
    """When the oldest delivery that waits was accepted, of one tenant or of all."""
    names = [tenant] if tenant else [row[0] for row in tx.all("SELECT tenant FROM turns")]
    found = [
        tx.one(
            "SELECT created_ms FROM callbacks WHERE tenant = ? AND state = 'pending' "
            "ORDER BY id LIMIT 1",
            name,
        )
        for name in names
    ]
    return min((row[0] for row in found if row is not None), default=None)
