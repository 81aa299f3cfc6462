"""The jobs that are waited for: expected → known, or lost when their status cannot be had."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from receiver.inbox.tx import Tx, Value, storable
from receiver.verification.identity import Dialect

Expected: TypeAlias = Literal["expected", "known", "lost"]

EXPECTED: Final = ("expected", "known", "lost")

# A job whose end came before it was expected is known at once. One that is expected again keeps
# what is known of it; a lost one is waited for afresh.
_EXPECT: Final = """
    INSERT INTO expectations (source, job_id, status_url, credentials, platform, state, created_ms,
        ask_ms, asked, settled_ms)
    SELECT :source, :job_id, :status_url, :credentials, :platform,
           CASE WHEN ended THEN 'known' ELSE 'expected' END, CAST(:now_ms AS bigint),
           CASE WHEN ended THEN NULL ELSE CAST(:ask_ms AS bigint) END, 0,
           CASE WHEN ended THEN CAST(:now_ms AS bigint) END
      FROM (SELECT EXISTS (SELECT 1 FROM messages
              WHERE source = :source AND job_id = :job_id AND is_end = 1) AS ended) AS it
     WHERE true
    ON CONFLICT (source, job_id) DO UPDATE SET state = excluded.state,
        status_url = excluded.status_url, credentials = excluded.credentials,
        platform = excluded.platform, ask_ms = excluded.ask_ms, settled_ms = excluded.settled_ms,
        failing_since_ms = NULL, last_error = NULL
      WHERE expectations.state <> 'known'
"""
_COLUMNS: Final = """
    source, job_id, status_url, credentials, platform, state, created_ms, ask_ms, asked,
    failing_since_ms, last_error, settled_ms
"""
# Whoever takes one puts it off for as long as asking may take, so that no other replica asks as
# well; and if nothing comes of it, because the process ends, it is asked for then.
_TAKE: Final = f"""
    WITH due AS MATERIALIZED (
        SELECT source, job_id FROM expectations
         WHERE state = 'expected' AND ask_ms <= :now_ms ORDER BY ask_ms LIMIT :limit{{skip_locked}})
    UPDATE expectations SET ask_ms = :until_ms
     WHERE (source, job_id) IN (SELECT source, job_id FROM due)
    RETURNING {_COLUMNS}
"""  # noqa: S608 - constants of ours
_NEXT_DUE: Final = """
    SELECT min(ask_ms) AS ask_ms FROM expectations WHERE state = 'expected'
"""
_ASKED: Final = """
    UPDATE expectations SET asked = asked + 1, ask_ms = CAST(:ask_ms AS bigint),
        failing_since_ms = :failing_since_ms, last_error = :error,
        state = CASE WHEN CAST(:ask_ms AS bigint) IS NULL THEN 'lost' ELSE 'expected' END,
        settled_ms = CASE WHEN CAST(:ask_ms AS bigint) IS NULL THEN CAST(:now_ms AS bigint) END
     WHERE source = :source AND job_id = :job_id AND state = 'expected'
"""
_LIST: Final = f"""
    SELECT {_COLUMNS} FROM expectations{{where}}
     ORDER BY created_ms DESC, source, job_id LIMIT :limit
"""  # noqa: S608 - constants of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A job that is waited for. Times are Unix milliseconds; `credentials` is only a name."""

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
    tx: Tx,
    *,
    source: str,
    job_id: str,
    status_url: str,
    credentials: str | None,
    platform: Dialect,
    now_ms: int,
    ask_ms: int,
) -> Expectation:
    """Wait for a job, or says that its end is known already."""
    key = {"source": source, "job_id": job_id}
    tx.run(
        _EXPECT,
        {
            **key,
            "status_url": status_url,
            "credentials": credentials,
            "platform": platform,
            "now_ms": now_ms,
            "ask_ms": ask_ms,
        },
    )
    sql = f"SELECT {_COLUMNS} FROM expectations WHERE source = :source AND job_id = :job_id"  # noqa: S608 - constants of ours
    (row,) = tx.all(sql, key)
    return Expectation(**row)


def take(tx: Tx, *, now_ms: int, until_ms: int, limit: int) -> tuple[list[Expectation], int | None]:
    """Return the jobs to ask for now, taken until `until_ms`; and when the next one will be due."""
    sql = _TAKE.format(skip_locked=tx.skip_locked)
    taken = tx.all(sql, {"now_ms": now_ms, "until_ms": until_ms, "limit": limit})
    (following,) = tx.all(_NEXT_DUE, {})
    return [Expectation(**row) for row in taken], following["ask_ms"]


def asked(tx: Tx, result: Asked) -> bool:
    """Write what asking led to, unless the job became known meanwhile. Whether it is lost."""
    changed = tx.run(
        _ASKED,
        {
            "source": result.source,
            "job_id": result.job_id,
            "now_ms": result.now_ms,
            "ask_ms": result.ask_ms,
            "failing_since_ms": result.failing_since_ms,
            "error": None if result.error is None else storable(result.error),
        },
    )
    return changed > 0 and result.ask_ms is None


def listed(tx: Tx, *, state: str | None, limit: int) -> list[Expectation]:
    """Those that are waited for, newest first."""
    sql = _LIST.format(where="" if state is None else " WHERE state = :state")
    wanted: dict[str, Value] = {"limit": limit}
    if state is not None:
        wanted["state"] = state
    return [Expectation(**row) for row in tx.all(sql, wanted)]
