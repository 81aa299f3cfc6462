"""Chunks of what upstreams answer, while they do: each is stored once, under the claim that it came
under, and nothing is added once that is no longer current. Portable.

What completed has them as its output, and no copy of them is kept; what ended otherwise keeps those
that came, for as long as an output is kept. A repeat of the call begins anew.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from dispatcher.jobs.chunks import CHUNKS_MAX, TooManyChunks
from dispatcher.jobs.looks import Chunks, HandedOut, JobNews, Seen
from dispatcher.jobs.states import FINAL, JobState
from dispatcher.jobs.values import NewChunks
from dispatcher.store.errors import CannotUnseal, NotFound
from dispatcher.store.jobs import progress, rows, views
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.sealing import CHUNKS
from dispatcher.store.tx import Row, Tx, marks

_COLUMNS: Final = ("id", "job", "run", "claim", "n", "size", "bytes", "body", "kid")
_PUT: Final = (
    f"INSERT INTO chunks ({', '.join(_COLUMNS)}) VALUES ({marks(_COLUMNS)}) "
    # Of a commit whose reply was lost: the same again, and what has come since.
    "ON CONFLICT (id) DO UPDATE SET size = excluded.size, bytes = excluded.bytes, "
    "body = excluded.body, kid = excluded.kid"
)
# The empty text keeps the database from walking all that runs.
_CURRENT: Final = "SELECT id, claim FROM jobs WHERE state || '' = 'running' AND id"
_STORED: Final = "SELECT id, bytes FROM chunks WHERE id"
_READ: Final = (
    "SELECT id, n, body, kid FROM chunks WHERE job = ? AND claim = ? AND n + size > ? "
    "ORDER BY n LIMIT ?"
)
_TOTAL: Final = "SELECT max(n + size) FROM chunks WHERE job = ? AND claim = ?"
_TAKEN: Final = "SELECT job, claim, CAST(sum(bytes) AS bigint) FROM chunks WHERE job"
_HEAD: Final = "SELECT id, tenant, state, run, claim, chunks FROM jobs"
_RAW: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ROWS_MAX: Final = 500  # in one look
_FETCHED_BYTES: Final = 1024 * 1024


def put(tx: Tx, given: Sequence[NewChunks]) -> set[tuple[str, int]]:
    """Store these, each only under the current claim of a job that runs; return the claims under
    which they are stored."""
    in_ = tx.job_statements.IN
    found = set(tx.all(_CURRENT + in_, tx.ids(one.job for one in given)))
    current = [
        one for one in given if (one.job, one.claim) in found and tx.holds_endpoint(one.endpoint)
    ]
    if not current:
        return set()
    values: list[Row] = []
    for one in current:
        id = _id(one)
        body, kid = rows.seal_body(tx, one.body, CHUNKS.place(id, one.tenant))
        size = len(one.body)
        values.append((id, one.job, one.run, one.claim, one.n, one.size, size, body, kid))
        tx.changes.news.add(one.job)
        tx.changes.bytes[one.tenant] += size
    tenant_of = {_id(one): one.tenant for one in current}
    for id, size in tx.all(_STORED + in_, tx.ids(tenant_of)):
        tx.changes.bytes[tenant_of[id]] -= size  # it is stored once more
    _drop_earlier(tx, [one for one in current if one.n == 0])
    tx.many(_PUT, values)
    return {(one.job, one.claim) for one in current}


def _id(one: NewChunks) -> str:
    return f"{one.job}.{one.claim:012d}.{one.n:05d}"


def _drop_earlier(tx: Tx, begun: Sequence[NewChunks]) -> None:
    """Delete what earlier calls of these jobs had brought: it is void."""
    if not begun:
        return
    by_job = {one.job: one for one in begun}
    sql = f"{_TAKEN}{tx.job_statements.IN} GROUP BY job, claim"
    void = [row for row in tx.all(sql, tx.ids(by_job)) if row[1] < by_job[row[0]].claim]
    for job, _, size in void:
        tx.changes.bytes[by_job[job].tenant] -= size
    if void:
        tx.many("DELETE FROM chunks WHERE job = ? AND claim = ?", [row[:2] for row in void])


def append(tx: Tx, job: str, claim: int, value: bytes, touched: Touched, *, bytes_max: int) -> bool:
    """Store one more chunk of a job that runs under this claim, behind those that there are; False
    where none does. Raises TooManyChunks."""
    sql = "SELECT tenant, endpoint, run FROM jobs WHERE id = ? AND claim = ? AND state = 'running'"
    row = tx.one(sql, job, claim)
    if row is None or not touched.may_change(tx, row[1], None):
        return False
    sql = (
        "SELECT coalesce(max(n + size), 0), CAST(coalesce(sum(length(body)), 0) AS bigint) "
        "FROM chunks WHERE job = ? AND claim = ?"
    )
    n, size = tx.one(sql, job, claim) or (0, 0)
    if n >= CHUNKS_MAX:
        raise TooManyChunks(f"there are {CHUNKS_MAX} chunks: there may be no more")
    if size + len(value) > bytes_max:
        raise TooManyChunks(f"all chunks together may have {bytes_max} bytes")
    tenant, endpoint, run = row
    body = b"[%b]" % value
    new = NewChunks(
        job=job, tenant=tenant, endpoint=endpoint, run=run, claim=claim, n=n, size=1, body=body
    )
    return bool(put(tx, [new]))


def drop(tx: Tx, jobs: Iterable[str]) -> None:
    """Delete what these jobs, which are there, have brought in chunks."""
    ids = tx.ids(jobs)
    taken = tx.all(
        "SELECT j.tenant, CAST(sum(c.bytes) AS bigint) FROM chunks c JOIN jobs j ON j.id = c.job "
        f"WHERE c.job{tx.job_statements.IN} GROUP BY j.tenant",
        ids,
    )
    for tenant, size in taken:
        tx.changes.bytes[tenant] -= size
    if taken:
        tx.run(f"DELETE FROM chunks WHERE job{tx.job_statements.IN}", ids)


# --- reading ---


def split(array: bytes) -> list[bytes]:
    """Return the values of a JSON array, as they stand there."""
    return [bytes(one) for one in _RAW.decode(array)]


def get(
    tx: Tx, tenant: str, job: str, *, seen: tuple[int, int], bytes_max: int = _FETCHED_BYTES
) -> Chunks:
    """Return chunks of a job's present call, or of the last one of its run: of about so many bytes,
    after those that were `seen`: a claim, and how many. Raises NotFound, CannotUnseal."""
    row = tx.one(f"{_HEAD} WHERE id = ? AND tenant = ?", job, tenant)
    if row is None:
        raise NotFound(f"there is no job {job}")
    return _of(tx, row, seen, bytes_max)


def _of(tx: Tx, row: Row, seen: tuple[int, int], bytes_max: int) -> Chunks:
    job, tenant, state, run, claim, joined = row
    if joined is not None:
        return _of_output(tx, row, seen, bytes_max)
    source = _source(tx, job, state, run, claim)
    if source is None:
        return Chunks(state=state, run=run, claim=claim)
    first = seen[1] if seen[0] == source else 0
    total = tx.one(_TOTAL, job, source)
    values: list[bytes] = []
    size = 0
    if total is not None and (total[0] or 0) > first:
        for id, n, stored, kid in tx.all(_READ, job, source, first, _ROWS_MAX):
            if n > first + len(values) or size >= bytes_max:
                break
            body = rows.open_body(tx, kid, stored, CHUNKS.place(id, tenant))
            values += split(body)[first + len(values) - n :]
            size += len(body)
    return Chunks(
        state=state,
        run=run,
        claim=source,
        first=first,
        values=tuple(values),
        total=0 if total is None else total[0] or 0,
    )


def _source(tx: Tx, job: str, state: JobState, run: int, claim: int) -> int | None:
    """Return the claim whose chunks are a job's, None where there are none."""
    if state == "running":
        return claim
    if state not in FINAL:
        return None
    # A claim grows by one where something else ends a job than its call.
    sql = "SELECT 1 FROM job_attempts WHERE job = ? AND run = ? AND n = ?"
    last = claim if tx.one(sql, job, run, claim) else claim - 1
    found = tx.one("SELECT 1 FROM chunks WHERE job = ? AND claim = ? AND run = ?", job, last, run)
    return None if found is None else last


def _of_output(tx: Tx, row: Row, seen: tuple[int, int], bytes_max: int) -> Chunks:
    job, tenant, state, run, claim, joined = row
    first = min(seen[1], joined) if seen[0] == claim else 0
    values: list[bytes] = []
    output = views.stored_output(tx, tenant, job) if first < joined else None
    size = 0
    for value in split(output.body)[first:] if output is not None else ():
        if values and size + len(value) > bytes_max:
            break
        values.append(value)
        size += len(value)
    total = joined if output is not None or first == joined else first
    return Chunks(state=state, run=run, claim=claim, first=first, values=tuple(values), total=total)


def news(tx: Tx, asked: Sequence[Seen], *, bytes_max: int) -> dict[str, JobNews]:
    """Return how these jobs stand, with what is new of their chunks since they were looked at: of
    those that run, about so many bytes each. What is gone is left out; what cannot be opened is
    passed over."""
    in_, ids = tx.job_statements.IN, tx.ids(one.job for one in asked)
    found = tx.all(f"{_HEAD} WHERE id{in_}", ids)
    running = {row[0]: (row[1], row[4]) for row in found if row[2] == "running"}
    told = progress.of_calls(tx, running)
    seen = {one.job: one for one in asked}
    known: dict[str, JobNews] = {}
    for row in found:
        job, _, state, run, claim, _ = row
        chunks = None
        if state == "running":
            before = seen[job]
            try:
                chunks = _of(tx, row, (before.claim, before.chunks), bytes_max)
            except CannotUnseal:
                chunks = None
        known[job] = JobNews(
            job=job,
            state=state,
            run=run,
            claim=claim,
            chunks=chunks,
            progress=told.get(job),
        )
    return known


# --- handing out each once ---


def has_news(tx: Tx, tenant: str, job: str) -> bool:
    """Whether there is something to hand out of a job's stream, or to say of its end. Raises
    NotFound."""
    row = tx.one(
        "SELECT state, run, claim, streamed_claim, streamed_chunks FROM jobs "
        "WHERE id = ? AND tenant = ?",
        job,
        tenant,
    )
    if row is None:
        raise NotFound(f"there is no job {job}")
    state, _, claim, streamed_claim, streamed = row
    if state in FINAL:
        return True
    if state != "running":
        return False
    total = tx.one(_TOTAL, job, claim)
    return ((total and total[0]) or 0) > (streamed if streamed_claim == claim else 0)


def hand_out(tx: Tx, tenant: str, job: str, *, bytes_max: int) -> HandedOut:
    """Hand out what has come of a job and was not handed out before: its chunks, or the output of
    one that completed, as a `whole`. Raises NotFound, CannotUnseal."""
    row = tx.one(
        f"{_HEAD.replace(' FROM', ', streamed_claim, streamed_chunks FROM')} "
        "WHERE id = ? AND tenant = ?",
        job,
        tenant,
    )
    if row is None:
        raise NotFound(f"there is no job {job}")
    *head, streamed_claim, streamed = row
    _, _, state, run, claim, joined = head
    if state == "completed" and joined is None and _source(tx, job, state, run, claim) is None:
        sql = "UPDATE jobs SET streamed = run WHERE id = ? AND run = ? AND streamed <> run"
        return HandedOut(state=state, run=run, whole=bool(tx.run(sql, job, run)))
    chunks = _of(tx, tuple(head), (streamed_claim, streamed), bytes_max)
    if chunks.values:
        reached = chunks.first + len(chunks.values)
        sql = "UPDATE jobs SET streamed_claim = ?, streamed_chunks = ? WHERE id = ?"
        tx.run(sql, chunks.claim, reached, job)
    return HandedOut(state=state, run=run, values=chunks.values, is_last=chunks.is_all)
