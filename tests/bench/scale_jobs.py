"""What looking at jobs costs beside a million of them: `python -m tests.bench.scale_jobs`.

Fills a database of its own: half of the jobs wait at one held endpoint, the others have ended at
twenty (one in six failed). Times every filter and pair of filters of the listing, dry runs, loads,
positions, and slices of what the sweeper does. Each is asked for three times, the fastest counts.
"""

import argparse
import asyncio
import itertools
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from dispatcher import settings as settings_module
from dispatcher.access import DEFAULT_TENANT
from dispatcher.ids import new_job_id
from dispatcher.jobs.endpoint import Endpoint, EndpointRules
from dispatcher.jobs.filters import JobFilter
from dispatcher.store import open_store
from dispatcher.store.jobs.sweeps import Bulk
from dispatcher.store.store import Store
from receiver.base.clock import now_ms
from tests.bench.scale import Ask, Rows, database_url, prepare, print_slowest, time_readers

_SPAN_MS: Final = 25 * 86_400_000
_FAILED_EVERY: Final = 6
_PIECE: Final = 20_000
_ENDPOINTS: Final = [f"model-{n:02d}" for n in range(20)]
_HELD: Final = "held"
_BODY: Final = b'{"prompt":"' + b"y" * 200 + b'"}'
_JOBS: Final = (
    "id tenant endpoint queue dialect class epoch ticket state reason run claim calls created_ms "
    "queued_ms started_ms ended_ms expires_ms options content status_code input_bytes output_bytes "
    "output_type"
)
_TABLES: Final = {
    "jobs": _JOBS,
    "inputs": "job content_type body",
    "outputs": "job run content_type headers body ended_ms",
    "job_attempts": "job run n started_ms duration_ms outcome status_code",
    "job_tags": "tenant key value job",
}


def main() -> None:
    """Fill, time, print, and leave nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale_jobs", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--store", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--dir", type=Path, help="where the database may take 2 GB a million rows")
    given = parser.parse_args()
    stores = ("sqlite", "postgres") if given.store == "both" else (given.store,)
    for store in stores:
        with ExitStack() as stack:
            asyncio.run(_measure(store, database_url(store, given.dir, stack), given.rows))


async def _measure(kind: str, url: str, count: int) -> None:
    os.environ["DISPATCHER_DATABASE_URL"] = url
    settings = replace(settings_module.load(), read_timeout=120.0)
    await prepare(settings)
    store = open_store(settings)
    await store.open()
    at_ms = now_ms()
    for name in (*_ENDPOINTS, _HELD):
        rules = EndpointRules(url="http://127.0.0.1:9/never")
        made = Endpoint(name=name, rules=rules, text="", created_ms=at_ms, updated_ms=at_ms)
        await store.jobs.put_endpoint(made, create=True, now_ms=at_ms)
    await store.jobs.set_paused(_HELD, paused=True, now_ms=at_ms)
    await store.close()
    began_s = time.monotonic()
    (_fill_sqlite if kind == "sqlite" else _fill_postgres)(url, count)
    print(f"\n{kind}: {count:,} jobs, filled in {time.monotonic() - began_s:.0f} s", flush=True)
    store = open_store(settings)
    await store.open()
    time_readers(store)
    try:
        await _print_all(store, count)
    finally:
        await store.close()


# --- filling ---


def _pieces(count: int) -> Iterator[Rows]:
    """Rows by table, some thousand jobs at a time."""
    until_ms = now_ms()
    for start in range(0, count, _PIECE):
        rows: Rows = {name: [] for name in _TABLES}
        for n in range(start, min(count, start + _PIECE)):
            _add(rows, n, until_ms - _SPAN_MS + _SPAN_MS * n // count)
        yield rows


def _add(rows: Rows, n: int, at_ms: int) -> None:
    id, digest = new_job_id(at_ms), sha256(n.to_bytes(8, "big")).digest()
    waits = n % 2 == 1
    endpoint = _HELD if waits else _ENDPOINTS[digest[0] % len(_ENDPOINTS)]
    failed = not waits and n // 2 % _FAILED_EVERY == 0
    state = "queued" if waits else "failed" if failed else "completed"
    queue = f"{endpoint}/{DEFAULT_TENANT}"
    ended_ms = None if waits else at_ms + 1_000
    rows["jobs"].append(
        (id, DEFAULT_TENANT, endpoint, queue, "v1", 1, 0, n // 2 + 1, state,
         "rejected" if failed else None, 1, int(not waits), int(not waits), at_ms, at_ms,
         None if waits else at_ms, ended_ms, at_ms + 10**10, "{}", digest[:16],
         None if waits else 500 if failed else 200, len(_BODY), None if waits else len(_BODY),
         None if waits else "application/json")
    )  # fmt: skip
    rows["inputs"].append((id, "application/json", _BODY))
    rows["job_tags"].append((DEFAULT_TENANT, "team", f"t{n % 20:02d}", id))
    if not waits:
        rows["outputs"].append((id, 1, "application/json", "[]", _BODY, ended_ms))
        code = 500 if failed else 200
        rows["job_attempts"].append((id, 1, 1, at_ms, 900.0, "answered", code))


def _rest(count: int) -> list[tuple[str, tuple[Any, ...]]]:
    """The queue of what waits, its endpoint, and the counts."""
    waiting, ended = count // 2, count - count // 2
    failed = -(-ended // _FAILED_EVERY)
    queue = (f"{_HELD}/{DEFAULT_TENANT}", _HELD, DEFAULT_TENANT, waiting + 1, waiting, 0)
    counts = (("job:failed", failed), ("job:completed", ended - failed))
    return [
        (
            "INSERT INTO queues (id, endpoint, tenant, ticket, queued, ready_normal) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            queue,
        ),
        ("UPDATE endpoint_load SET queued = ? WHERE endpoint = ?", (waiting, _HELD)),
        *(
            (
                "INSERT INTO counts (tenant, state, n) VALUES (?, ?, ?)",
                (DEFAULT_TENANT, state, n),
            )
            for state, n in counts
        ),
    ]


def _fill_sqlite(url: str, count: int) -> None:
    file = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    file.execute("PRAGMA synchronous = OFF")
    file.execute("PRAGMA cache_size = -400000")
    file.execute("BEGIN")
    for rows in _pieces(count):
        for name, text in _TABLES.items():
            columns = text.split()
            places = ", ".join("?" * len(columns))
            sql = f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({places})"
            file.executemany(sql, rows[name])
    for sql, values in _rest(count):
        file.execute(sql, values)
    file.execute("COMMIT")
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()


def _fill_postgres(url: str, count: int) -> None:
    import psycopg

    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for rows in _pieces(count):
            for name, text in _TABLES.items():
                columns = ", ".join(text.split())
                with cursor.copy(f"COPY {name} ({columns}) FROM STDIN".encode()) as copy:
                    for row in rows[name]:
                        copy.write_row(row)
        for sql, values in _rest(count):
            portable = sql.replace("n) VALUES (?, ?, ?)", "n, seat) VALUES (?, ?, ?, 0)")
            cursor.execute(portable.replace("?", "%s").encode(), values)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


# --- asking ---


async def _print_all(store: Store, count: int) -> None:
    parts = _parts()
    single = [part for parts_of_one in parts.values() for part in parts_of_one]
    pairs = [
        {**one, **other}
        for first, second in itertools.combinations(parts.values(), 2)
        for one, other in itertools.product(first, second)
    ]
    search = _search(store)
    await print_slowest("listing, one filter", [({}, search), *((one, search) for one in single)])
    await print_slowest("listing, two filters", [(pair, search) for pair in pairs])
    plain = [one for one in (*single, *pairs) if "status" not in one]
    for what in ("cancel", "retry"):
        preview = _preview(store, what)
        await print_slowest(f"dry run of a bulk {what}", [(one, preview) for one in plain])
    others = await _others(store, count)
    await print_slowest("figures", [({"what": name}, ask) for name, ask in others.items()])
    await print_slowest(
        "slices of the sweeper", [({"what": name}, ask) for name, ask in _slices(store).items()]
    )


def _parts() -> dict[str, list[dict[str, Any]]]:
    """For each filter one value that much matches, and one that little or nothing does."""
    old_ms = now_ms() - _SPAN_MS // 2
    states = ("queued", "running", "completed", "failed", "cancelled", "timeout")
    return {
        "status": [{"status": one} for one in states],
        "endpoint": [{"endpoint": one} for one in (_HELD, _ENDPOINTS[7], "nosuch")],
        "tags": [{"tags": (("team", "t07"),)}, {"tags": (("team", "nosuch"),)}],
        "second tag": [{"tags": (("team", "t07"), ("user", "x"))}],
        "priority": [{"priority": "normal"}, {"priority": "high"}],
        "reason": [{"reason": "rejected"}, {"reason": "heartbeat"}],
        "since": [{"since_ms": old_ms}],
        "until": [{"until_ms": old_ms}, {"until_ms": 1}],
    }


def _search(store: Store) -> Ask:
    async def ask(fields: dict[str, Any]) -> str:
        chosen = JobFilter(**fields)
        page = await store.jobs.search(DEFAULT_TENANT, chosen, after=None, limit=50)
        return f"{len(page.jobs)}{'' if page.next_id is None else ', goes on'}"

    return ask


def _preview(store: Store, what: Bulk) -> Ask:
    async def ask(fields: dict[str, Any]) -> str:
        found = await store.jobs.preview_sweep(
            DEFAULT_TENANT, what, JobFilter(**fields), sample=10, now_ms=now_ms()
        )
        return f"{found.matched}{'' if found.exact else ' or more'}"

    return ask


async def _others(store: Store, count: int) -> dict[str, Ask]:
    jobs = store.jobs
    of_held = JobFilter(status="queued", endpoint=_HELD)
    last = (await jobs.search(DEFAULT_TENANT, of_held, after=None, limit=1)).jobs[0].id
    early_ms = now_ms() - _SPAN_MS + _SPAN_MS * 900 // count
    early = replace(of_held, until_ms=early_ms)
    near = (await jobs.search(DEFAULT_TENANT, early, after=None, limit=1)).jobs[0].id

    async def load(_: dict[str, Any]) -> str:
        return str((await jobs.load(_HELD)).queued)

    async def position(id: str) -> str:
        found = await jobs.waiting(DEFAULT_TENANT, id, now_ms=now_ms())
        return "" if found is None else f"{found.position:,} exact {found.exact}"

    async def counts(_: dict[str, Any]) -> str:
        return str(sum((await jobs.counts(None)).values()))

    return {
        "load": load,
        "position near the front": lambda _: position(near),
        "position at the back": lambda _: position(last),
        "counts of all": counts,
    }


def _slices(store: Store) -> dict[str, Ask]:
    jobs = store.jobs

    async def prune(_: dict[str, Any]) -> str:
        return str(await jobs.prune(now_ms=now_ms(), limit=200))

    async def repair(_: dict[str, Any]) -> str:
        return str(await jobs.repair(after="", limit=200))

    async def purge(_: dict[str, Any]) -> str:
        return str(await jobs.purge(_HELD, tenant=None, now_ms=now_ms()))

    async def end_purged(_: dict[str, Any]) -> str:
        return str((await jobs.end_purged(now_ms=now_ms(), limit=200)).ended)

    return {"prune": prune, "repair": repair, "purge": purge, "end what was purged": end_purged}


if __name__ == "__main__":
    main()
