"""What looking costs beside 1.2 million finished callbacks: `python -m tests.bench.scale`.

Fills a database of its own (50 destinations, 20 tags; one in six callbacks dead), times every
filter and pair of filters of the listing, dry runs, figures and destinations, and prints what took
longest. Each is asked for twice, and the second time counts.
"""

import argparse
import asyncio
import itertools
import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from dispatcher import settings as settings_module
from dispatcher.access import DEFAULT_TENANT, Access
from dispatcher.filters import Filter
from dispatcher.ids import destination_id, lane_id
from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.store import Store
from receiver.base.clock import now_ms

_SPAN_MS: Final = 25 * 86_400_000
_DEAD_EVERY: Final = 6
_PIECE: Final = 20_000
_SHOWN: Final = 12
_TIMES: Final = 3
_BODY: Final = b'{"status":"completed","output":{"pages":50,"text":"' + b"y" * 200 + b'"}}'
_URLS: Final = [f"http://127.0.0.{n}:9/hook" for n in range(1, 51)]
_QUIET: Final = "http://127.0.0.99:9/never"
TABLES: Final = {
    "callbacks": (
        "id tenant job_id job_status priority destination url payload_size payload_sha256 key "
        "explicit_key content created_ms expires_ms state class claim tries attempts finished_ms "
        "last_error"
    ),
    "payloads": "callback content_type headers body",
    "tags": "tenant key value callback",
    "attempts": "callback n started_ms duration_ms outcome status_code error excerpt",
}
Rows = dict[str, list[tuple[Any, ...]]]


def main() -> None:
    """Fill, time, print, and leave nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--store", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--dir", type=Path, help="where the database may take 2 GB a million rows")
    given = parser.parse_args()
    stores = ("sqlite", "postgres") if given.store == "both" else (given.store,)
    for store in stores:
        with ExitStack() as stack:
            asyncio.run(_measure(store, database_url(store, given.dir, stack), given.rows))


def database_url(store: str, directory: Path | None, stack: ExitStack) -> str:
    if directory is not None:
        tempfile.tempdir = str(directory)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="postback-scale-"))
    if store == "sqlite":
        return f"sqlite:///{folder}/postback.db"
    from tests.bench import databases

    return stack.enter_context(databases.serving()).url("scale")


async def _measure(kind: str, url: str, count: int) -> None:
    os.environ["DISPATCHER_DATABASE_URL"] = url
    settings = replace(settings_module.load(), read_timeout=120.0)
    await prepare(settings)
    began_s = time.monotonic()
    (_fill_sqlite if kind == "sqlite" else _fill_postgres)(url, count)
    print(f"\n{kind}: {count:,} rows, filled in {time.monotonic() - began_s:.0f} s", flush=True)
    store = open_store(settings)
    await store.open()
    time_readers(store)
    try:
        await _print_all(store)
    finally:
        await store.close()


async def prepare(settings: Settings) -> None:
    store = open_store(settings)
    await store.open()
    await Access(store, settings).bootstrap()
    await store.close()


# --- filling ---


def pieces(count: int, until_ms: int) -> Iterator[Rows]:
    """Rows by table, some thousand callbacks at a time."""
    lanes = [lane_id(DEFAULT_TENANT, url) for url in _URLS]
    for start in range(0, count, _PIECE):
        rows: Rows = {name: [] for name in TABLES}
        for n in range(start, min(count, start + _PIECE)):
            _add(rows, n, until_ms - _SPAN_MS + _SPAN_MS * n // count, lanes)
        yield rows


def _add(rows: Rows, n: int, at_ms: int, lanes: Sequence[str]) -> None:
    digest = sha256(n.to_bytes(8, "big")).digest()
    dead, where = n % _DEAD_EVERY == 0, digest[0] * 256 + digest[1]
    id, job = f"cb_{at_ms:012x}{n:020x}", f"job_{digest[:12].hex()}"
    tries, state, error = (3, "dead", "http_503") if dead else (1, "delivered", None)
    lane, url = lanes[where % len(lanes)], _URLS[where % len(lanes)]
    rows["callbacks"].append(
        (id, DEFAULT_TENANT, job, "completed", 1, lane, url, len(_BODY), digest, digest[:16], 0,
         digest[16:], at_ms, at_ms + 604_800_000, state, 1, tries, tries, tries, at_ms + 1000,
         error)
    )  # fmt: skip
    rows["payloads"].append((id, "application/json", "[]", _BODY))
    rows["tags"].append((DEFAULT_TENANT, "team", f"t{n % 20:02d}", id))
    met = ("rejected", 503, None, "busy") if dead else ("acknowledged", 200, None, None)
    rows["attempts"] += [(id, a, at_ms + a, 5.0, *met) for a in range(1, tries + 1)]


def _destinations(at_ms: int) -> list[tuple[Any, ...]]:
    servers = ((destination_id(DEFAULT_TENANT, url=url), url) for url in _URLS)
    return [(id, DEFAULT_TENANT, url, at_ms, url, at_ms) for id, url in servers]


def _counts(count: int) -> list[tuple[str, str, int]]:
    dead = -(-count // _DEAD_EVERY)
    return [(DEFAULT_TENANT, "dead", dead), (DEFAULT_TENANT, "delivered", count - dead)]


_OF_DESTINATION: Final = "id, tenant, url, created_ms, last_url, last_url_ms"


def _fill_sqlite(url: str, count: int) -> None:
    file = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    file.execute("PRAGMA synchronous = OFF")
    file.execute("PRAGMA cache_size = -400000")
    file.execute("BEGIN")
    at_ms = now_ms()
    file.executemany(
        f"INSERT INTO destinations ({_OF_DESTINATION}) VALUES (?, ?, ?, ?, ?, ?)",
        _destinations(at_ms),
    )
    for rows in pieces(count, at_ms):
        for name, text in TABLES.items():
            columns = text.split()
            places = ", ".join("?" * len(columns))
            sql = f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({places})"
            file.executemany(sql, rows[name])
    file.executemany("INSERT INTO counts (tenant, state, n) VALUES (?, ?, ?)", _counts(count))
    file.execute("COMMIT")
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()


def _fill_postgres(url: str, count: int) -> None:
    import psycopg

    at_ms = now_ms()
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO destinations ({_OF_DESTINATION}) VALUES (%s, %s, %s, %s, %s, %s)",
            _destinations(at_ms),
        )
        for rows in pieces(count, at_ms):
            for name, text in TABLES.items():
                columns = ", ".join(text.split())
                with cursor.copy(f"COPY {name} ({columns}) FROM STDIN") as copy:
                    for row in rows[name]:
                        copy.write_row(row)
        cursor.executemany(
            "INSERT INTO counts (tenant, state, seat, n) VALUES (%s, %s, 0, %s)", _counts(count)
        )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


# --- timing ---

_cpu_ms: list[float] = []


def time_readers(store: Store) -> None:
    """Have the CPU time noted that each query takes of the database, which other processes on the
    machine change little: SQLite's is this process's reader, PostgreSQL's a process of its own."""
    database: Any = store._database
    read = database.read

    def timed(query: Callable[[Any], Any], *who: object) -> Any:
        def act(tx: Any) -> Any:
            began_s = _cpu_s(tx)
            try:
                return query(tx)
            finally:
                _cpu_ms.append(1000 * (_cpu_s(tx) - began_s))

        return read(act, *who)

    database.read = timed


def _cpu_s(tx: Any) -> float:
    if tx.sole_owner:
        return time.thread_time()
    schedule = Path(f"/proc/{tx._connection.info.backend_pid}/schedstat")
    return int(schedule.read_text().split()[0]) / 1e9 if schedule.exists() else time.monotonic()


async def _print_all(store: Store) -> None:
    newest = (await store.search(DEFAULT_TENANT, Filter(), after=None, limit=1)).callbacks[0]
    parts = _parts(newest.job_id)
    single = [part for parts_of_one in parts.values() for part in parts_of_one]
    pairs = [
        {**one, **other}
        for first, second in itertools.combinations(parts.values(), 2)
        for one, other in itertools.product(first, second)
    ]
    search, preview = _search(store), _preview(store)
    await print_slowest("listing, one filter", [({}, search), *((one, search) for one in single)])
    await print_slowest("listing, two filters", [(pair, search) for pair in pairs])
    final = [one for one in (*single, *pairs) if one.get("status") not in ("pending", "sending")]
    await print_slowest("dry run", [({"status": "dead"} | one, preview) for one in final])
    await print_slowest(
        "figures and destinations", [({"what": k}, v) for k, v in _others(store).items()]
    )


def _parts(job: str) -> dict[str, list[dict[str, Any]]]:
    """For each filter one value that much matches, and one that little or nothing does."""
    old_ms = now_ms() - _SPAN_MS // 2
    return {
        "status": [
            {"status": one} for one in ("delivered", "dead", "pending", "sending", "cancelled")
        ],
        "job_status": [{"job_status": "completed"}, {"job_status": "nosuch"}],
        "job_id": [{"job_id": job}, {"job_id": "nosuch"}],
        "tags": [{"tags": (("team", "t07"),)}, {"tags": (("team", "nosuch"),)}],
        "second tag": [{"tags": (("team", "t07"), ("user", "x"))}],
        "destination": [{"destination": _URLS[7]}, {"destination": _QUIET}],
        "callback_url": [{"callback_url": _URLS[7]}, {"callback_url": _QUIET}],
        "priority": [{"priority": "normal"}, {"priority": "high"}],
        "error": [{"error": "http_503"}, {"error": "http_999"}],
        "since": [{"since_ms": old_ms}],
        "until": [{"until_ms": old_ms}, {"until_ms": 1}],
    }


Ask = Callable[[dict[str, Any]], Awaitable[str]]


def _search(store: Store) -> Ask:
    async def ask(fields: dict[str, Any]) -> str:
        page = await store.search(DEFAULT_TENANT, Filter(**fields), after=None, limit=50)
        return f"{len(page.callbacks)}{'' if page.next_id is None else ', goes on'}"

    return ask


def _preview(store: Store) -> Ask:
    async def ask(fields: dict[str, Any]) -> str:
        found = await store.preview_replay(DEFAULT_TENANT, Filter(**fields), sample=10)
        return f"{found.matched}{'' if found.exact else ' or more'}"

    return ask


def _others(store: Store) -> dict[str, Ask]:
    async def stats(_: dict[str, Any]) -> str:
        return str(sum((await store.stats(DEFAULT_TENANT)).counts.values()))

    async def stats_of_all(_: dict[str, Any]) -> str:
        return str(sum((await store.stats(None)).counts.values()))

    async def destinations(_: dict[str, Any]) -> str:
        return str(len((await store.destinations(DEFAULT_TENANT, after=None, limit=500))[0]))

    async def destination(_: dict[str, Any]) -> str:
        return (await store.get_destination(DEFAULT_TENANT, _URLS[7])).url

    async def scrape(_: dict[str, Any]) -> str:
        return str((await store.figures(destinations_max=200)).due)

    return {
        "a scrape of the metrics": scrape,
        "stats": stats,
        "stats of all": stats_of_all,
        "destinations": destinations,
        "one destination": destination,
    }


async def print_slowest(title: str, questions: Sequence[tuple[dict[str, Any], Ask]]) -> None:
    taken = []
    for fields, ask in questions:
        times, found = [], ""
        for _ in range(_TIMES):
            _cpu_ms.clear()
            began_s = time.perf_counter()
            found = await ask(fields)
            wall_ms = 1000 * (time.perf_counter() - began_s)
            times.append((sum(_cpu_ms), wall_ms))
        taken.append((*min(times), fields, found))
    taken.sort(key=lambda one: -one[0])
    over = sum(ms > 100 for ms, *_ in taken)
    print(f"\n{title}: {len(taken)} asked, {over} over 100 ms; slowest", flush=True)
    for ms, wall_ms, fields, found in taken[:_SHOWN]:
        print(f"  {ms:9.1f} ms ({wall_ms:.1f} by the wall)  {fields}  -> {found}", flush=True)


if __name__ == "__main__":
    main()
