"""The end of a tenant's jobs, slice by slice: what runs is cancelled and waited for, all else is
deleted with its parts. Nobody is told. Portable."""

from typing import Final

from dispatcher.store.jobs import finish, retention
from dispatcher.store.jobs.finish import Ending
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.requests import Rules
from dispatcher.store.tenants import ERASER, Erasure
from dispatcher.store.tx import Tx

# Few run, of all tenants; the empty text keeps the database from walking one's all.
_RUNNING: Final = (
    "SELECT id, endpoint, NULL FROM jobs WHERE state = 'running' AND tenant || '' = ? LIMIT ?"
)
_USED: Final = (
    "SELECT tenant, endpoint, day FROM job_usage WHERE tenant = ? ORDER BY endpoint, day LIMIT ?"
)
_OLDEST: Final = (
    "SELECT id, endpoint FROM jobs WHERE tenant = ? AND state <> 'running' AND releasing = 0 "
    "ORDER BY id LIMIT ?"
)


def of_tenant(tenant: str, limit: int) -> Touched:
    """Return what the next slice is about."""
    return Touched(
        lambda tx: tx.all(_RUNNING, tenant, limit),
        find_endpoints=lambda tx: {row[1] for row in tx.all(_OLDEST, tenant, limit)},
        tells=False,
    )


def erase(
    tx: Tx, tenant: str, touched: Touched, rules: Rules, *, now_ms: int, limit: int
) -> Erasure:
    """Delete some more of a tenant that is being erased; its running jobs are cancelled, and stay
    until their calls have ended."""
    row = tx.one("SELECT erasing_ms FROM tenants WHERE name = ?", tenant)
    if row is None or row[0] is None:
        return "done"
    if not tx.acquire(ERASER):
        return "another's"
    running = finish.find(tx, [row[0] for row in tx.all(_RUNNING, tenant, limit)], touched)
    ending = Ending(state="cancelled", reason="user", releasing=True, told=False)
    ended = finish.end(tx, running, ending, rules, now_ms=now_ms)
    found = retention.stored(tx, [row[0] for row in tx.all(_OLDEST, tenant, limit)])
    gone = retention.within_bytes(found)
    retention.delete(tx, gone)
    if ended or gone:
        return "going on"
    if tx.one("SELECT 1 FROM jobs WHERE tenant = ? LIMIT 1", tenant):
        return "waiting"
    return "going on" if _forget(tx, tenant, limit) else "done"


def _forget(tx: Tx, tenant: str, limit: int) -> int:
    """Delete some of what is kept of a tenant's jobs that are gone; return how many rows."""
    used = tx.all(_USED, tenant, limit)
    if used:
        tx.many("DELETE FROM job_usage WHERE tenant = ? AND endpoint = ? AND day = ?", used)
        return len(used)
    sql = "SELECT id FROM job_sweeps WHERE tenant = ? ORDER BY id LIMIT ?"
    return tx.run(f"DELETE FROM job_sweeps WHERE id IN ({sql})", tenant, limit)
