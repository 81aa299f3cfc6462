"""Databases of before destinations were servers (schema 3): what was set on a URL stays with it,
what waits goes on and is delivered once, nothing finished is written, and opening takes no time."""

import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from dispatcher.filters import Filter
from dispatcher.ids import destination_id, earlier_destination_id, lane_id, server_of
from dispatcher.store import open_store
from dispatcher.store.database import migrations
from dispatcher.store.postgres.session import SCHEMA_TABLE
from tests.dispatcher.postgres.server import database
from tests.dispatcher.store.builders import T0, TENANT, World, callback

SCALE: Final = float(os.environ.get("POSTBACK_TEST_SCALE", "1"))
OPEN_S_MAX: Final = 2.0
BEFORE: Final = 3  # the schema
HOST: Final = "http://127.0.0.1:9"
SET: Final[dict[str, dict[str, Any]]] = {
    f"{HOST}/paused": {"paused": 1},
    f"{HOST}/disabled": {"disabled_reason": "by hand"},
    f"{HOST}/limited": {"rate": 5.0},
    f"{HOST}/few": {"concurrency": 2},
}
PLAIN: Final = tuple(f"{HOST}/jobs/{n}" for n in range(40))


class Old:
    """A database of schema 3, filled with plain SQL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made = 0
        self.states: Counter[str] = Counter()
        if url.startswith("sqlite"):
            self.lite: Any = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
            self.lite.execute("PRAGMA journal_mode = WAL")
            for number, script in migrations("sqlite")[:BEFORE]:
                self.lite.executescript(f"{script};PRAGMA user_version = {number};")
        else:
            self.post = psycopg.connect(url, autocommit=True)
            for _, script in migrations("postgres")[:BEFORE]:
                self.post.execute(script.encode())
            self.post.execute(
                f"CREATE TABLE {SCHEMA_TABLE} (version integer PRIMARY KEY);"
                f"INSERT INTO {SCHEMA_TABLE} SELECT generate_series(1, {BEFORE})".encode()
            )
        self.say("INSERT INTO tenants VALUES (?, ?)", TENANT, T0)
        self.say("INSERT INTO turns (tenant) VALUES (?)", TENANT)

    def say(self, sql: str, *values: Any) -> None:
        if self.url.startswith("sqlite"):
            self.lite.execute(sql, values)
        else:
            self.post.execute(sql.replace("?", "%s").encode(), values)

    def destination(self, url: str, **settings: Any) -> str:
        id = earlier_destination_id(TENANT, url)
        row = {"id": id, "tenant": TENANT, "url": url, "created_ms": T0, **settings}
        self.insert("destinations", row)
        lane = {
            "id": id, "tenant": TENANT, "concurrency": settings.get("concurrency", 64),
            "paused": settings.get("paused", 0), "doomed": settings.get("disabled_reason"),
            "rate": settings.get("rate"), '"window"': 8,
        }  # fmt: skip
        self.insert("lanes", lane)
        return id

    def insert(self, table: str, row: dict[str, Any]) -> None:
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        self.say(f"INSERT INTO {table} ({names}) VALUES ({marks})", *row.values())

    def callback(self, url: str, state: str) -> None:
        self.made += 1
        self.states[state] += 1
        new = callback(f"job-{self.made}", url=url)
        row = {
            "id": new.id, "tenant": TENANT, "job_id": new.job_id, "job_status": new.job_status,
            "priority": 1, "destination": earlier_destination_id(TENANT, url), "url": url,
            "payload_size": len(new.body), "payload_sha256": new.body_sha256, "key": new.key,
            "explicit_key": 0, "content": new.content, "created_ms": T0,
            "expires_ms": T0 + 10**10, "state": state, "class": 1,
            "due_ms": T0 if state == "pending" else None,
            "lease_ms": T0 + 1 if state == "sending" else None,
            "finished_ms": T0 if state in ("dead", "delivered") else None,
        }  # fmt: skip
        self.insert("callbacks", row)
        self.insert("payloads", {"callback": new.id, "content_type": "text/plain",
                                 "headers": "[]", "body": new.body})  # fmt: skip

    def finished(self, count: int) -> None:
        """Many delivered ones, of a URL that is forgotten."""
        id = earlier_destination_id(TENANT, f"{HOST}/old")
        series = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            if self.url.startswith("sqlite")
            else "WITH n(i) AS (SELECT generate_series(1, ?::integer))"
        )
        number = (
            "printf('cb_0%031d', i)"
            if self.url.startswith("sqlite")
            else "'cb_0' || lpad(i::text, 31, '0')"
        )
        self.say(
            "INSERT INTO callbacks (id, tenant, job_id, priority, destination, url, payload_size, "
            "payload_sha256, pruned, explicit_key, content, created_ms, expires_ms, state, class, "
            f"finished_ms) {series} SELECT {number}, '{TENANT}', 'old-' || i, 1, '{id}', "
            f"'{HOST}/old', 1, ''{'' if self.url.startswith('sqlite') else '::bytea'}, 1, 0, "
            f"''{'' if self.url.startswith('sqlite') else '::bytea'}, {T0}, {T0}, 'delivered', 1, "
            f"{T0} FROM n",
            count,
        )
        self.states["delivered"] += count

    def close(self) -> None:
        for state, count in self.states.items():
            if self.url.startswith("sqlite"):
                self.say("INSERT INTO counts VALUES (?, ?, ?)", TENANT, state, count)
            else:
                self.say("INSERT INTO counts VALUES (?, ?, 0, ?)", TENANT, state, count)
        if self.url.startswith("sqlite"):
            self.lite.close()
        else:
            self.post.close()


def filled(url: str, *, finished: int) -> Old:
    old = Old(url)
    for where, settings in SET.items():
        old.destination(where, **settings)
        for state in ("pending", "pending", "sending", "dead"):
            old.callback(where, state)
    for where in PLAIN:
        old.destination(where)
        for state in ("pending", "sending", "dead"):
            old.callback(where, state)
    old.finished(finished)
    old.close()
    return old


async def check(url: str, old: Old) -> None:
    from dispatcher.settings import Settings

    def make() -> Any:
        return open_store(Settings(database_url=url))

    world = World(make=make, store=make())
    began_s = time.monotonic()
    await world.open()
    took_s = time.monotonic() - began_s
    print(f"\nopened {sum(old.states.values()):,} callbacks in {took_s:.2f} s")
    try:
        stats = await world.store.stats(TENANT)
        assert {state: n for state, n in stats.counts.items() if n} == dict(old.states)
        await check_destinations(world)
        assert took_s < OPEN_S_MAX
        world.tick(60_000)
        await world.store.reclaim(now_ms=world.now_ms)
        await check_delivered_once(world, old)
    finally:
        await world.store.close()


async def check_destinations(world: World) -> None:
    found, _ = await world.store.destinations(TENANT, after=None, limit=500)
    by_url = {one.url: one for one in found}
    assert set(by_url) == {HOST, *SET}
    for url, settings in SET.items():
        one, former = by_url[url], earlier_destination_id(TENANT, url)
        assert one.name == f"migrated-{former[3:11]}"
        assert one.id == destination_id(TENANT, name=one.name)
        assert (await world.destination(former)).id == one.id
        assert (one.paused, one.disabled_reason, one.rate_per_second, one.concurrency) == (
            bool(settings.get("paused")),
            settings.get("disabled_reason"),
            settings.get("rate"),
            settings.get("concurrency"),
        )
        assert one.backlog + one.sending == 3
    server = by_url[HOST]
    assert (server.name, server.backlog, server.sending) == (None, 40, 40)
    assert (await world.destination(earlier_destination_id(TENANT, PLAIN[0]))).id == server.id
    assert len({lane_id(TENANT, url) for url in PLAIN}) <= 16
    assert server_of(PLAIN[0]) == HOST
    page = await world.store.search(
        TENANT, Filter(destination=HOST, status="dead"), after=None, limit=500
    )
    assert len(page.callbacks) == 40


async def check_delivered_once(world: World, old: Old) -> None:
    """What is paused waits, what is disabled is dead, the rest goes out; and a dead one, replayed,
    goes to its server."""
    while await world.store.expire(now_ms=world.now_ms, limit=100):
        pass
    sent: Counter[str] = Counter()
    for _ in range(400):
        for one in await world.claim():
            sent[one.id] += 1
            assert await world.settle(one)
        world.tick(250)
    assert set(sent.values()) == {1}
    assert len(sent) == 80 + 3 + 3
    (dead, *_) = await world.search(status="dead", callback_url=PLAIN[0])
    await world.store.replay(TENANT, dead, now_ms=world.now_ms)
    (again,) = await world.claim()
    assert again.destination == destination_id(TENANT, url=HOST)
    stats = await world.store.stats(TENANT)
    assert sum(stats.counts.values()) == sum(old.states.values())
    assert stats.counts["pending"] == 3


async def test_a_file_goes_on_with_servers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/postback.db"
    await check(url, filled(url, finished=1_000))


async def test_a_postgres_database_goes_on_with_servers() -> None:
    with database() as url:
        await check(url, filled(url, finished=1_000))


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_a_million_finished_ones_do_not_keep_it_from_opening(
    store: str, tmp_path: Path
) -> None:
    """Sized by POSTBACK_TEST_SCALE: a million at 10."""
    finished = round(100_000 * SCALE)
    if store == "sqlite":
        url = f"sqlite:///{tmp_path}/postback.db"
        await check(url, filled(url, finished=finished))
        return
    with database() as url:
        await check(url, filled(url, finished=finished))


def test_an_interrupted_upgrade_goes_on(tmp_path: Path) -> None:
    """A slice is a commit: what an interruption left to do is done at the next start."""
    from dispatcher.store import upgrade
    from dispatcher.store.sqlite.database import SqliteTx
    from receiver.base.db import sqlite

    path = tmp_path / "postback.db"
    filled(f"sqlite:///{path}", finished=10)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        sqlite.migrate(connection, migrations("sqlite"))
        tx = SqliteTx(connection)
        assert upgrade.is_due(tx)
        sliced, upgrade_all = 0, 44
        while moved := upgrade.move_slice(tx, now_ms=T0, limit=7):
            sliced += moved
        assert sliced == upgrade_all
        assert not upgrade.is_due(tx)
