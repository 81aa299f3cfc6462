"""Which index each statement of jobs uses, as the server plans it for good on tables that are still
empty: work does not grow with what is stored (I10)."""

import re
from typing import Final

import psycopg
import pytest

from dispatcher.store.jobs import (
    by_url,
    change,
    chunks,
    events,
    expiry,
    finish,
    progress,
    purge,
    settle,
    submit,
)
from dispatcher.store.postgres import job_statements as statements
from tests.dispatcher.postgres.test_plans import connection, explained

__all__ = ("connection",)  # a fixture

_IN: Final = statements.IN
_QUEUES: Final = {"queues_high", "queues_normal", "queues_low"}
CASES: Final[dict[str, tuple[str, set[str]]]] = {
    "lock endpoints": (
        f"SELECT endpoint FROM endpoint_load WHERE endpoint{_IN} ORDER BY endpoint FOR UPDATE",
        {"endpoint_load_pkey"},
    ),
    "refresh queues": (statements.REFRESH_QUEUES, {"queues_pkey", "jobs_due"}),
    "refresh endpoints": (
        statements.REFRESH_ENDPOINTS,
        {"endpoint_load_pkey", "jobs_busy"} | _QUEUES,
    ),
    "the next job": (
        "SELECT min(ready_ms) FROM endpoint_load WHERE ready_ms IS NOT NULL",
        {"endpoint_load_ready"},
    ),
    "loads and queues of submits": (
        submit._loads_sql(_IN),
        {"endpoint_load_pkey", "jobs_busy", "queues_pkey"} | _QUEUES,
    ),
    "the first with a key": (f"{submit._FIRST} key IN (?, ?)", {"jobs_by_key"}),
    "lock ready endpoints": (statements._LOCK_READY, {"endpoint_load_ready"}),
    "ready endpoints": (statements._READY, {"endpoint_load_pkey", "jobs_busy"}),
    "ready queues": (statements.READY_QUEUES, {"queues_pkey"} | _QUEUES),
    "ready queues but some tenants'": (statements.READY_QUEUES_BUT, {"queues_pkey"} | _QUEUES),
    "what runs of tenants": (statements.RUNNING_JOBS, {"jobs_busy"}),
    "due jobs": (statements.DUE_JOBS, {"queues_pkey", "jobs_due"}),
    "start": (statements._START, {"jobs_pkey", "inputs_pkey"}),
    "serve queues": (statements.SERVE_QUEUES, {"queues_pkey"}),
    "serve endpoints": (statements.SERVE_ENDPOINTS, {"endpoint_load_pkey"}),
    "held claims and health": (settle._HELD + _IN, {"jobs_pkey", "endpoint_load_pkey"}),
    "settle": (statements.SETTLE_JOBS, {"jobs_pkey", "queues_pkey"}),
    "jobs to end": (finish._FOUND + _IN, {"jobs_pkey", "queues_pkey"}),
    "end": (statements.END_JOBS, {"jobs_pkey"}),
    "queue again": (statements.REQUEUE_JOBS, {"jobs_pkey", "queues_pkey"}),
    "loads of retries": (change._LOADS + _IN, {"endpoint_load_pkey"}),
    "queue timeouts": (expiry._EXPIRING, {"jobs_expiring"}),
    "what a process runs": (expiry._OF_PROCESS, {"jobs_busy"}),
    "orphans": (expiry._ORPHANS, {"jobs_busy"}),
    "what ends by URL": (
        f"{by_url._RUNNING} AND j.id = ? AND j.claim = ?",
        {"jobs_pkey", "endpoint_load_pkey", "job_progress_pkey"},
    ),
    "what ends by URL and is late": (
        f"{by_url._RUNNING} AND {by_url._LATE}",
        {"jobs_by_url", "endpoint_load_pkey", "job_progress_pkey"},
    ),
    "calls of a clock that ran ahead": (by_url._CALLED_AHEAD, {"jobs_called"}),
    "signs of a clock that ran ahead": (by_url._SIGNED_AHEAD, {"jobs_by_url", "job_progress_pkey"}),
    "calls to be brought back": (by_url._CALLED + _IN, {"jobs_pkey"}),
    "calls brought back": (by_url._BRING_BACK, {"jobs_pkey"}),
    "signs brought back": (by_url._SIGN_BY_NOW, {"job_progress_pkey"}),
    "look later": (by_url._LOOK_LATER, {"jobs_pkey"}),
    "let go": (by_url._LET_GO, {"jobs_pkey"}),
    "what reports are of": (progress._RUNNING + _IN, {"jobs_pkey"}),
    "what was reported": (f"{progress._FOUND}{_IN} ORDER BY job FOR UPDATE", {"job_progress_pkey"}),
    "whose chunks come": (chunks._CURRENT + _IN, {"jobs_pkey"}),
    "chunks stored before": (chunks._STORED + _IN, {"chunks_pkey"}),
    "chunks of earlier calls": (f"{chunks._TAKEN}{_IN} GROUP BY job, claim", {"chunks_by_job"}),
    "chunks": (chunks._READ, {"chunks_by_job"}),
    "how many chunks": (chunks._TOTAL, {"chunks_by_job"}),
    "what events are of": (events._RUNNING, {"jobs_pkey"}),
    "what was purged": (purge._PURGED, {"jobs_due"}),
    "queues of an endpoint": (purge._QUEUES, {"queues_pkey"}),
    "a removed backlog": (purge._BACKLOG, {"jobs_due"}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_statement_finds_its_rows_by_index(name: str, connection: psycopg.Connection) -> None:
    sql, expected = CASES[name]
    plan = explained(connection, sql)
    used = set(re.findall(r"(?:using|Index Scan on) (\w+)", plan))
    scanned = set(re.findall(r"Seq Scan on (\w+)", plan)) - {"processes"}  # a handful of rows
    assert not scanned, plan
    assert expected <= used, plan
