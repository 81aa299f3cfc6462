"""The jobs that are waited for: expected → known, or lost when their status cannot be had."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Final, Literal, Protocol, TypeAlias

from receiver.base.db import Tx
from receiver.inbox.message import from_row, names, storable
from receiver.inbox.seals import Seals, text_stored, text_to_store
from receiver.verification.identity import Dialect

Expected: TypeAlias = Literal["expected", "known", "lost"]

SKEW_MS: Final = 60_000  # by which clocks of replicas may differ without harm
EXPECTED: Final = ("expected", "known", "lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A job that is waited for. Times are Unix milliseconds; `credentials` is only a name. `unread`
    says why no key opens its status URL, which is empty then."""

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
    unread: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExpectation:
    """A job to wait for from now on; it is asked for at `ask_ms` if it stays silent."""

    source: str
    job_id: str
    status_url: str
    credentials: str | None
    platform: Dialect
    now_ms: int
    ask_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AskResult:
    """What asking for a job led to: when to ask again (None: it is lost), since when and why it
    fails (None: it does not), and whether it was asked at all."""

    source: str
    job_id: str
    now_ms: int
    ask_ms: int | None
    failing_since_ms: int | None = None
    error: str | None = None
    was_asked: bool = True


class Jobs(Protocol):
    """What an expectation needs of the database, in its dialect."""

    def lock(self, tx: Any, job: tuple[str, str]) -> None:
        """Wait until nobody else stores a message of this (source, job id), and keep it so until
        the transaction ends."""


_COLUMNS: Final = ", ".join(names(Expectation)[:-1])
# A job whose end came before it was expected is known at once. One that is expected again keeps
# what is known of it; a lost one is waited for afresh.
_EXPECT: Final = """
    INSERT INTO expectations (source, job_id, status_url, credentials, platform, state, created_ms,
        ask_ms, asked, settled_ms)
    SELECT source, job_id, status_url, credentials, platform,
           CASE WHEN ended THEN 'known' ELSE 'expected' END, now_ms,
           CASE WHEN ended THEN NULL ELSE ask_ms END, 0,
           CASE WHEN ended THEN now_ms END
      FROM (SELECT given.*, EXISTS (SELECT 1 FROM messages
              WHERE messages.source = given.source AND messages.job_id = given.job_id
                AND is_end = 1) AS ended
              FROM (SELECT CAST(? AS text) AS source, CAST(? AS text) AS job_id,
                           CAST(? AS text) AS status_url, CAST(? AS text) AS credentials,
                           CAST(? AS text) AS platform, CAST(? AS bigint) AS now_ms,
                           CAST(? AS bigint) AS ask_ms) AS given) AS it
     WHERE true
    ON CONFLICT (source, job_id) DO UPDATE SET state = excluded.state,
        status_url = excluded.status_url, credentials = excluded.credentials,
        platform = excluded.platform, ask_ms = excluded.ask_ms, settled_ms = excluded.settled_ms,
        failing_since_ms = NULL, last_error = NULL, taken = 0, created_ms = excluded.created_ms
      WHERE expectations.state <> 'known'
"""
_FIND: Final = f"SELECT {_COLUMNS} FROM expectations WHERE source = ? AND job_id = ?"  # noqa: S608 - constants of ours
# Whoever takes one puts it off for as long as asking may take, so that no other replica asks as
# well; and if nothing comes of it, because the process ends, it is asked for then.
_DUE: Final = """
    SELECT source, job_id FROM expectations
     WHERE state = 'expected' AND ask_ms <= ?{of} ORDER BY ask_ms LIMIT ?{skip_locked}
"""
_TAKE: Final = f"""
    UPDATE expectations SET ask_ms = ?, taken = 1 WHERE source = ? AND job_id = ?
    RETURNING {_COLUMNS}
"""  # noqa: S608 - constants of ours
_NEXT_DUE: Final = "SELECT min(ask_ms) FROM expectations WHERE state = 'expected'{of}"
# What a clock that ran ahead put off.
_LAST_TAKEN: Final = """
    SELECT max(ask_ms) FROM expectations WHERE state = 'expected' AND taken = 1{of}
"""
_BRING_FORWARD: Final = """
    UPDATE expectations SET ask_ms = ?
     WHERE state = 'expected' AND taken = 1 AND ask_ms > ?{of}
"""
_LAST_MADE: Final = "SELECT max(created_ms) FROM expectations WHERE state = 'expected'"
_MAKE_NOW: Final = """
    UPDATE expectations SET ask_ms = CAST(? AS bigint)
           + CASE WHEN ask_ms > created_ms THEN ask_ms - created_ms ELSE 0 END, created_ms = ?
     WHERE state = 'expected' AND taken = 0 AND created_ms > ?{of}
"""
_ASKED: Final = """
    UPDATE expectations SET asked = asked + CAST(? AS bigint), ask_ms = CAST(? AS bigint),
        failing_since_ms = ?, last_error = ?, state = ?, settled_ms = ?
     WHERE source = ? AND job_id = ? AND state = 'expected'
"""
_LIST: Final = f"""
    SELECT {_COLUMNS} FROM expectations{{where}} ORDER BY created_ms DESC, source, job_id LIMIT ?
"""  # noqa: S608 - constants of ours


def expect(jobs: Jobs, tx: Tx, new: NewExpectation, seals: Seals | None = None) -> Expectation:
    """Wait for a job, or say that its end is known already: whoever is storing that just now is
    waited for."""
    jobs.lock(tx, (new.source, new.job_id))
    if seals is not None:
        url = _to_store(seals, new.status_url, "status_url", new)
        tx.run(_EXPECT, *astuple(replace(new, status_url=url)))
    else:
        tx.run(_EXPECT, *astuple(new))  # in the order of its fields
    (row,) = tx.all(_FIND, new.source, new.job_id)
    return _opened(from_row(Expectation, row), seals)


def _to_store(seals: Seals | None, text: str, column: str, job: NewExpectation | AskResult) -> str:
    return text_to_store(seals, text, "expectations", column, job.job_id, job.source)


def _opened(stored: Expectation, seals: Seals | None) -> Expectation:
    if seals is None:
        return stored
    row = (stored.job_id, stored.source)
    url, unread = text_stored(seals, stored.status_url, "expectations", "status_url", *row)
    error, why = stored.last_error, None
    if error is not None:
        error, why = text_stored(seals, error, "expectations", "last_error", *row)
    return replace(stored, status_url=url or "", last_error=unread or why or error, unread=unread)


def take(
    tx: Tx,
    *,
    sources: Sequence[str] | None,
    now_ms: int,
    until_ms: int,
    limit: int,
    wait_max_ms: int | None,
    seals: Seals | None = None,
) -> tuple[list[Expectation], int | None]:
    """Return the jobs of these sources (None: of all) to ask for now, taken until `until_ms`; and
    when the next one will be due. None that was asked for before waits longer than `wait_max_ms`
    from now: it was put off by a clock that ran ahead."""
    taken: list[Expectation] = []
    next_ms = []
    ((made_ms,),) = tx.all(_LAST_MADE)
    for source in (None,) if sources is None else sources:
        of, values = ("", ()) if source is None else (" AND source = ?", (source,))
        if wait_max_ms is not None:
            _correct(tx, of, values, now_ms, wait_max_ms, made_ms)
        sql = _DUE.format(of=of, skip_locked=tx.skip_locked)
        for job in tx.all(sql, now_ms, *values, limit - len(taken)):
            rows = tx.all(_TAKE, until_ms, *job)
            taken += [_opened(from_row(Expectation, row), seals) for row in rows]
        next_ms += [ms for (ms,) in tx.all(_NEXT_DUE.format(of=of), *values) if ms is not None]
    return taken, min(next_ms, default=None)


def _correct(
    tx: Tx, of: str, values: tuple[str, ...], now_ms: int, wait_max_ms: int, made_ms: int | None
) -> None:
    """Bring forward what was put off, or made, by a clock that ran ahead."""
    ((last_ms,),) = tx.all(_LAST_TAKEN.format(of=of), *values)
    if last_ms is not None and last_ms > now_ms + wait_max_ms:
        tx.run(_BRING_FORWARD.format(of=of), now_ms, now_ms + wait_max_ms, *values)
    if made_ms is not None and made_ms > now_ms + SKEW_MS:
        tx.run(_MAKE_NOW.format(of=of), now_ms, now_ms, now_ms + SKEW_MS, *values)


def record_ask(tx: Tx, result: AskResult, seals: Seals | None = None) -> bool:
    """Write what asking led to, unless the job became known meanwhile. Whether it is lost."""
    lost = result.ask_ms is None
    error = result.error
    if error is not None:
        error = _to_store(seals, storable(error), "last_error", result)
    changed = tx.run(
        _ASKED,
        int(result.was_asked),
        result.ask_ms,
        result.failing_since_ms,
        error,
        "lost" if lost else "expected",
        result.now_ms if lost else None,
        result.source,
        result.job_id,
    )
    return changed > 0 and lost


def listed(
    tx: Tx, *, state: str | None, limit: int, seals: Seals | None = None
) -> list[Expectation]:
    """Those that are waited for, newest first."""
    where, values = ("", ()) if state is None else (" WHERE state = ?", (state,))
    rows = tx.all(_LIST.format(where=where), *values, limit)
    return [_opened(from_row(Expectation, row), seals) for row in rows]
