"""The jobs that are waited for: expected → known, or lost when their status cannot be had."""

import sqlite3
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from receiver.identity import Dialect
from receiver.store.commit import rows

Expected: TypeAlias = Literal["expected", "known", "lost"]

EXPECTED: Final = ("expected", "known", "lost")

# A job whose end came before it was expected is known at once. One that is expected again keeps
# what is known of it; a lost one is waited for afresh.
_EXPECT: Final = """
    INSERT INTO expectations (source, job_id, status_url, credentials, platform, state, created_ms,
        ask_ms, settled_ms)
    SELECT :source, :job_id, :status_url, :credentials, :platform,
           iif(ended, 'known', 'expected'), :now_ms, iif(ended, NULL, :ask_ms),
           iif(ended, :now_ms, NULL)
      FROM (SELECT EXISTS (SELECT 1 FROM jobs
              WHERE source = :source AND job_id = :job_id) AS ended) WHERE true
    ON CONFLICT DO UPDATE SET state = excluded.state, status_url = excluded.status_url,
        credentials = excluded.credentials, platform = excluded.platform, ask_ms = excluded.ask_ms,
        settled_ms = excluded.settled_ms, failing_since_ms = NULL, last_error = NULL
      WHERE state <> 'known'
"""
_COLUMNS: Final = """
    source, job_id, status_url, credentials, platform, state, created_ms, ask_ms, asked,
    failing_since_ms, last_error, settled_ms
"""
_DUE: Final = f"""
    SELECT {_COLUMNS} FROM expectations
     WHERE state = 'expected' AND ask_ms <= :now_ms ORDER BY ask_ms LIMIT :limit
"""  # noqa: S608 - constants of ours
_NEXT_DUE: Final = """
    SELECT min(ask_ms) AS ask_ms FROM expectations WHERE state = 'expected' AND ask_ms > :now_ms
"""
_ASKED: Final = """
    UPDATE expectations SET asked = asked + 1, ask_ms = :ask_ms,
        failing_since_ms = :failing_since_ms, last_error = :error,
        state = iif(:ask_ms IS NULL, 'lost', 'expected'),
        settled_ms = iif(:ask_ms IS NULL, :now_ms, NULL)
     WHERE source = :source AND job_id = :job_id AND state = 'expected'
"""
_LIST: Final = f"""
    SELECT {_COLUMNS} FROM expectations
     WHERE (:state IS NULL OR state = :state) ORDER BY created_ms DESC, source, job_id LIMIT :limit
"""  # noqa: S608 - constants of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A job that is waited for. Times are Unix milliseconds; ``credentials`` is only a name."""

    source: str
    job_id: str
    status_url: str
    credentials: str | None
    platform: Dialect
    state: Expected
    created_ms: int
    ask_ms: int | None
    asked: int
    failing_since_ms: int | None
    last_error: str | None
    settled_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What asking for a job led to: when to ask again (None: it is lost), and since when and why
    it fails (None: it answered)."""

    source: str
    job_id: str
    now_ms: int
    ask_ms: int | None
    failing_since_ms: int | None = None
    error: str | None = None


def expect(
    db: sqlite3.Connection,
    *,
    source: str,
    job_id: str,
    status_url: str,
    credentials: str | None,
    platform: Dialect,
    now_ms: int,
    ask_ms: int,
) -> Expectation:
    """Waits for a job, or says that its end is known already."""
    key = {"source": source, "job_id": job_id}
    wanted = {"status_url": status_url, "credentials": credentials, "platform": platform}
    db.execute(_EXPECT, {**key, **wanted, "now_ms": now_ms, "ask_ms": ask_ms})
    sql = f"SELECT {_COLUMNS} FROM expectations WHERE source = :source AND job_id = :job_id"  # noqa: S608 - constants of ours
    (row,) = rows(db, sql, key)
    return Expectation(**row)


def due(db: sqlite3.Connection, *, now_ms: int, limit: int) -> tuple[list[Expectation], int | None]:
    """The jobs to ask for now, and when the next one will be."""
    found = [Expectation(**row) for row in rows(db, _DUE, {"now_ms": now_ms, "limit": limit})]
    (following,) = rows(db, _NEXT_DUE, {"now_ms": now_ms})
    return found, following["ask_ms"]


def asked(db: sqlite3.Connection, result: Asked) -> bool:
    """Writes what asking led to, unless the job became known meanwhile. Whether it is lost."""
    changed = db.execute(
        _ASKED,
        {
            "source": result.source,
            "job_id": result.job_id,
            "now_ms": result.now_ms,
            "ask_ms": result.ask_ms,
            "failing_since_ms": result.failing_since_ms,
            "error": result.error,
        },
    ).rowcount
    return changed > 0 and result.ask_ms is None


def listed(db: sqlite3.Connection, *, state: str | None, limit: int) -> list[Expectation]:
    """Those that are waited for, newest first."""
    return [Expectation(**row) for row in rows(db, _LIST, {"state": state, "limit": limit})]
