"""Which indexes the statements of jobs use on PostgreSQL (I10): every one that the verbs run, as it
is planned for good on tables that are still empty."""

import re
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from dispatcher.store.postgres.session import PostgresTx
from receiver.base.db.postgres import WRITER, Server
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.test_plans import explained
from tests.dispatcher.store.builders import World, postgres_store
from tests.dispatcher.store.jobs.builders import Jobs
from tests.dispatcher.store.jobs.test_cost import exercise

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


def _plan(connection: psycopg.Connection, sql: str) -> str:
    if sql.lstrip().startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
        return explained(connection, sql)
    return ""
