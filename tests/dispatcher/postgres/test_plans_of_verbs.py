"""Which indexes the statements of jobs use on PostgreSQL (I10): every one that the verbs run, as it
is planned for good on tables that are still empty."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from dispatcher.jobs.filters import JobFilter
from dispatcher.store.database import migrations
from dispatcher.store.jobs import search
from dispatcher.store.postgres.session import PostgresTx
from dispatcher.store.sqlite.database import SqliteTx
from receiver.base.db.postgres import WRITER, Server
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.test_plans import connection, explained
from tests.dispatcher.store.builders import World, postgres_store
from tests.dispatcher.store.jobs.builders import Jobs
from tests.dispatcher.store.jobs.test_cost import exercise

__all__ = ("connection",)  # a fixture

# What grows: a statement that walks all of one of these is a defect.
_LARGE: Final = re.compile(
    r"Seq Scan on (jobs|inputs|outputs|job_attempts|job_tags|queues|durations|job_usage|job_sweeps"
    r"|callbacks|payloads)\b"
)
_VERBS: Final = ("all", "one", "run", "write", "bulk", "many")


async def test_every_statement_of_jobs_finds_its_rows_by_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    for verb in _VERBS:
        real = getattr(PostgresTx, verb)

        def noting(tx: Any, sql: str, *values: Any, real: Any = real) -> Any:
            seen.add(sql)
            return real(tx, sql, *values)

        monkeypatch.setattr(PostgresTx, verb, noting)
    store = postgres_store(tmp_path, {})
    world = World(make=lambda: store, store=store)
    await world.open()
    try:
        await exercise(Jobs(world))
    finally:
        await store.close()
    planned = {sql for sql in seen if re.search(r"\b(jobs|job_\w+|queues|durations)\b", sql)}
    assert len(planned) > 80
    folder = tmp_path / "empty"
    with Server(folders.url_for(folder)).connect("postback test", WRITER) as connection:
        bad = {}
        for sql in sorted(planned):
            plan = _plan(connection, sql)
            if _LARGE.search(plan):
                bad[sql] = plan
    folders.drop_under(tmp_path)
    assert not bad, "\n\n".join(f"{sql}\n{plan}" for sql, plan in bad.items())


LOOKS: Final[dict[str, tuple[JobFilter, str]]] = {
    "all": (JobFilter(priority="high"), "jobs_by_tenant"),
    "completed": (JobFilter(status="completed"), "jobs_by_tenant"),
    "failed": (JobFilter(status="failed", reason="rejected"), "jobs_failed"),
    "timed out": (JobFilter(status="timeout", endpoint="ep"), "jobs_timed_out"),
    "cancelled": (JobFilter(status="cancelled", priority="low"), "jobs_cancelled"),
    "running": (JobFilter(status="running"), "jobs_busy"),
    "queued": (JobFilter(status="queued"), "jobs_pkey"),
    "tagged": (JobFilter(tags=(("a", "b"),), endpoint="ep"), "job_tags_pkey"),
}


@pytest.mark.parametrize("ascending", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("name", LOOKS)
def test_a_look_walks_its_index(
    name: str, ascending: bool, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it may, and in its order: nothing is sorted but what there are few of. On SQLite
    just so."""
    wanted, index = LOOKS[name]
    monkeypatch.setattr("dispatcher.store.search.reach", lambda *_: "5")
    order = f"{'ASC' if ascending else 'DESC'} LIMIT ?"
    few = wanted.status in ("running", "queued")
    walked = search.walk(
        PostgresTx(connection), "acme", wanted, after="7", newest_first=not ascending
    )
    plan = explained(connection, f"SELECT c.id {walked.source} ORDER BY {walked.column} {order}")
    assert "Seq Scan" not in plan, plan
    assert index in plan, plan
    assert few or "Sort" not in plan, plan
    with closing(sqlite3.connect(":memory:")) as file:
        for _, script in migrations("sqlite"):
            file.executescript(script)
        found = search.walk(SqliteTx(file), "acme", wanted, after="7", newest_first=not ascending)
        sql = f"EXPLAIN QUERY PLAN SELECT c.id {found.source} ORDER BY {found.column} {order}"
        steps = [str(row[3]) for row in file.execute(sql, (*found.values, 9))]
    assert index in steps[0] or (index.endswith("_pkey") and "SEARCH" in steps[0]), steps
    assert few or not any("TEMP B-TREE" in step for step in steps), steps


def _plan(connection: psycopg.Connection, sql: str) -> str:
    if sql.lstrip().startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
        return explained(connection, sql)
    return ""
