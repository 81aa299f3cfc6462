"""Which index each statement of the store uses, as the server plans it for good: work does not grow
with what is stored (I10)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from dispatcher.audit import EntryFilter
from dispatcher.filters import Filter
from dispatcher.store import audit, callbacks, claim, figures, lanes, search
from dispatcher.store.postgres import database, statements
from dispatcher.store.postgres.session import PostgresTx
from dispatcher.values import NORMAL
from receiver.base.db.postgres import WRITER, Server
from tests.dispatcher.postgres import folders

_PRUNE: Final = """
SELECT id, tenant FROM callbacks WHERE state = '{}' AND pruned = ? AND finished_ms IS NOT NULL
AND finished_ms < ? ORDER BY finished_ms LIMIT ? FOR UPDATE SKIP LOCKED
"""
CASES: Final[dict[str, tuple[str, set[str]]]] = {
    "lock lanes": (statements._LOCK_LANES, {"lanes_pkey", "lanes_blocked"}),
    "lock lanes and servers": (
        statements._LOCK,
        {"lanes_pkey", "lanes_blocked", "destinations_pkey"},
    ),
    "lock servers": (statements._LOCK_SERVERS, {"destinations_pkey"}),
    "stale lanes": (statements._STALE, {"lanes_pkey", "callbacks_pending"}),
    "refresh lanes": (
        statements._REFRESH_LANES,
        {"lanes_pkey", "callbacks_sending", "callbacks_pending"},
    ),
    "refresh schedules": (
        statements._REFRESH_SCHEDULES,
        {"turns_pkey", "lanes_high", "lanes_normal", "lanes_replay"},
    ),
    "next work": (statements.NEXT_READY, {"turns_high", "turns_normal", "turns_replay"}),
    "contention": (statements.WAITING_TENANTS, {"turns_high", "turns_normal", "turns_replay"}),
    "tenants in turn": (claim.TENANTS[NORMAL], {"turns_normal"}),
    "claim lanes": (statements._LOCK_READY.format(ready="ready_high"), {"lanes_high"}),
    "claimed lanes": (
        statements._LANES,
        {"lanes_pkey", "callbacks_sending"},
    ),
    "due deliveries": (statements.DUE, {"callbacks_pending", "destinations_pkey"}),
    "lease": (statements._LEASE, {"callbacks_pkey", "destinations_pkey", "payloads_pkey"}),
    "targets of submits": (
        statements.TARGETS,
        {"destinations_pkey", "lanes_pkey", "callbacks_pending", "callbacks_sending"},
    ),
    "settle": (statements._SETTLE, {"callbacks_pkey"}),
    "held claims": (statements._HELD, {"callbacks_pkey", "lanes_pkey", "destinations_pkey"}),
    "health": (statements.SET_HEALTH, {"lanes_pkey"}),
    "ended leases": (lanes.LEASE_ENDED, {"callbacks_sending"}),
    "maximum ages": (lanes.EXPIRED, {"callbacks_expiring"}),
    "draining lanes": (lanes.DRAINING, {"lanes_doomed"}),
    "the next tenant's entries": (audit._NEXT_TENANT, {"audit_by_tenant"}),
    "a tenant's surplus of entries": (audit._SURPLUS, {"audit_by_tenant"}),
    "a tenant's oldest entries": (f"{audit._OLDEST} FOR UPDATE SKIP LOCKED", {"audit_by_tenant"}),
    "retention of the audit trail": (f"{audit._OLD} FOR UPDATE SKIP LOCKED", {"audit_pkey"}),
    "lanes that are due": (figures.LANES[NORMAL], {"lanes_normal", "destinations_pkey"}),
    "what is due of them": (
        figures.DUE.format(number=NORMAL, lanes="?, ?"),
        {"lanes_pkey", "callbacks_pending"},
    ),
    "held lanes": (figures.HELD_LANES, {"lanes_held"}),
    "open circuits": (figures.OPEN_LANES, {"lanes_open"}),
    "stopped destinations": (figures.STOPPED, {"destinations_stopped"}),
    "registered destinations": (
        figures.REGISTERED,
        {"destinations_registered", "callbacks_pending"},
    ),
    "running replays": (figures._REPLAYS, {"replays_running_by_tenant"}),
    **{
        f"retention of {state}": (_PRUNE.format(state), {"callbacks_finished"})
        for state in ("delivered", "cancelled", "dead")
    },
}


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection]:
    """A writer's session on tables that are still empty: the worst time to make a plan."""
    folder = tmp_path_factory.mktemp("plans")
    with Server(folders.url_for(folder)).connect("postback test", WRITER) as opened:
        yield opened
    folders.drop_under(folder)


@pytest.mark.parametrize("name", CASES)
def test_a_statement_finds_its_rows_by_index(name: str, connection: psycopg.Connection) -> None:
    sql, expected = CASES[name]
    plan = explained(connection, sql)
    used = set(re.findall(r"(?:using|Index Scan on) (\w+)", plan)) - {"callbacks", "lanes"}
    print(f"\n{name}: {', '.join(sorted(used))}")
    assert "Seq Scan" not in plan, plan
    assert expected <= used, plan


LOOKS: Final[dict[str, tuple[Filter, str]]] = {
    "all": (Filter(job_status="x"), "callbacks_by_tenant"),
    "delivered": (Filter(status="delivered"), "callbacks_by_tenant"),
    "dead": (Filter(status="dead", destination="named"), "callbacks_dead"),
    "pending": (Filter(status="pending", priority="high"), "callbacks_waiting"),
    "cancelled": (Filter(status="cancelled", job_status="x"), "callbacks_cancelled"),
    "sending": (Filter(status="sending"), "callbacks_sending"),
    "failed": (Filter(error="http_503", callback_url="x"), "callbacks_failed"),
    "of a job": (Filter(job_id="x", status="delivered"), "callbacks_by_job"),
    "tagged": (Filter(tags=(("a", "b"),), priority="high"), "tags_pkey"),
}


@pytest.mark.parametrize("ascending", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("name", LOOKS)
def test_a_look_walks_its_index(
    name: str, ascending: bool, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it may, and in its order: nothing is sorted but what there are few of."""
    wanted, index = LOOKS[name]
    monkeypatch.setattr("dispatcher.store.search.reach", lambda *_: "cb_5")
    walked = search.walk(
        PostgresTx(connection), "acme", wanted, after="cb_7", newest_first=not ascending
    )
    order = f"ORDER BY {walked.column} {'ASC' if ascending else 'DESC'} LIMIT ?"
    count = explained(connection, f"SELECT count(*) FROM (SELECT 1 {walked.source} LIMIT ?) m")
    assert "Seq Scan" not in count, count
    # Where there are no statistics yet, all callbacks are as good as all of a tenant.
    assert index in count or index == "callbacks_by_tenant", count
    plan = explained(connection, f"SELECT c.id, c.url {walked.source} {order}")
    assert "Seq Scan" not in plan, plan
    assert index in plan, plan
    assert ("Sort" in plan) is (name in ("sending", "of a job")), plan
    if name == "tagged":  # from the tag's callbacks to their rows, not from all rows to their tags
        assert "Index Cond: (id = t.callback)" in count, count
        assert "Index Cond: (id = t.callback)" in plan, plan


TRAILS: Final[dict[str, tuple[EntryFilter, str]]] = {
    "all": (EntryFilter(tenant=None), "audit_pkey"),
    "of all": (EntryFilter(tenant=None, action="key.create", since_ms=1), "audit_pkey"),
    "a tenant's": (EntryFilter(tenant="acme", since_ms=1, until_ms=2), "audit_by_tenant"),
    "of a tenant's": (EntryFilter(tenant="acme", actor="key_1"), "audit_by_tenant"),
    "of a target": (EntryFilter(tenant="acme", target="cb_1"), "audit_by_target"),
}


@pytest.mark.parametrize("name", TRAILS)
def test_the_audit_trail_is_walked_by_its_index(
    name: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its order, also where one look comes only so far. Of all tenants, the entries that one
    look is about may be sorted."""
    wanted, index = TRAILS[name]
    seen: list[str] = []

    class Recorded(PostgresTx):
        def all(self, sql: str, *params: object) -> list[Any]:
            seen.append(sql)
            return super().all(sql, *params)

        def one(self, sql: str, *params: object) -> Any:
            seen.append(sql)
            return super().one(sql, *params)

    audit.page(Recorded(connection), wanted, after="au_7", limit=10)
    monkeypatch.setattr(audit, "_reach", lambda *_: "au_5")
    audit.page(Recorded(connection), wanted, after=None, limit=10)
    assert len(seen) >= 2
    for sql in seen:
        plan = explained(connection, sql)
        assert "Seq Scan" not in plan, plan
        assert "Sort" not in plan or name == "of all", plan
        assert index in plan, plan


def test_listings_are_planned_as_writes_are() -> None:
    """By index, whatever the statistics say: what they look at is bounded by it."""
    assert database._READER.items() >= {one for one in WRITER.items() if "enable_" in one[0]}


def test_figures_of_all_go_from_tenant_to_tenant(connection: psycopg.Connection) -> None:
    plan = explained(connection, callbacks._OLDEST_OF_ALL)
    assert "Seq Scan on callbacks" not in plan, plan
    assert plan.count("Index Only Scan using callbacks_waiting") >= 2, plan


def explained(connection: psycopg.Connection, sql: str) -> str:
    """The plan for whatever the parameters will be."""
    count = sql.count("?")
    for number in range(1, count + 1):
        sql = sql.replace("?", f"${number}", 1)
    connection.execute(f"PREPARE planned AS {sql}".encode())
    arguments = f"({', '.join(['NULL'] * count)})" if count else ""
    rows = connection.execute(f"EXPLAIN EXECUTE planned{arguments}".encode()).fetchall()
    connection.execute("DEALLOCATE planned")
    return "\n".join(row[0] for row in rows)


def test_a_test_that_reads_plans_can_fail(connection: psycopg.Connection, tmp_path: Path) -> None:
    assert "Seq Scan" in explained(connection, "SELECT * FROM callbacks WHERE content = ?")
