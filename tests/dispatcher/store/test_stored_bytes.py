"""What a tenant's callbacks take up is kept beside the counts, and equals the rows after any
history: retries, replays, retention, duplicates, restarts and crashes."""

import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from dispatcher.filters import Filter
from dispatcher.policy import Policy, dump
from dispatcher.store.database import migrations
from dispatcher.store.errors import StoreError
from dispatcher.store.requests import Retention
from dispatcher.store.rows import ROW_BYTES, STORED_BYTES
from tests.dispatcher.store.builders import LOOKERS, World
from tests.dispatcher.store.conftest import Build

TENANTS = ("acme", "other")
HOUR_MS = 3_600_000
KEEP = Retention(delivered_payload_ms=HOUR_MS, delivered_ms=2 * HOUR_MS, dead_ms=3 * HOUR_MS)
POLICY = dump(Policy(attempts=3, max_age=60, timeout=1))


def equal(world: World, folder: Path, store_name: str) -> dict[str, int]:
    """What the rows come to per tenant, which is what is kept."""
    look = LOOKERS[store_name]
    rows = dict(look(folder, f"SELECT tenant, {STORED_BYTES} FROM callbacks GROUP BY tenant"))
    kept = dict(look(folder, "SELECT tenant, sum(bytes) FROM counts GROUP BY tenant"))
    assert {tenant: size for tenant, size in kept.items() if size} == rows
    for tenant in TENANTS:
        assert world.store.stored_bytes(tenant) == rows.get(tenant, 0)
    return rows


async def step(world: World, chance: random.Random) -> None:
    store, now_ms = world.store, world.tick(chance.choice((1, 1_000, 20 * 60_000)))
    tenant = chance.choice(TENANTS)
    what = chance.choice("sssssccccrrfpxek")
    if what == "s":
        await world.submit(
            f"job-{chance.randrange(200)}",
            tenant=tenant,
            body=b"1" * chance.randrange(1, 5_000),
            key=chance.choice((None, f"k{chance.randrange(20)}")),
            tags={"é" * chance.randrange(1, 9): "x"} if chance.random() < 0.5 else None,
            headers=(("X-Some", "y" * 100),) if chance.random() < 0.3 else (),
            policy=POLICY if chance.random() < 0.3 else None,
            handover=chance.random() < 0.5,
        )
    elif what == "c":
        for delivery in await world.claim(chance.randrange(1, 10)):
            state = chance.choice(("delivered", "dead", "pending", "lost"))
            if state != "lost":
                await world.settle(delivery, state, due_in_ms=1)  # type: ignore[arg-type]  # one of them
    elif what == "r":
        page = await store.search(tenant, Filter(), after=None, limit=50)
        if page.callbacks:
            one = chance.choice(page.callbacks)
            act = chance.choice((store.replay, store.cancel))
            await act(tenant, one.id, now_ms=now_ms)
    elif what == "f":
        status = chance.choice(("dead", "delivered"))
        made = await store.make_replay(
            tenant,
            Filter(status=status),  # type: ignore[arg-type]  # one of them
            rate_per_second=None,
            now_ms=now_ms,
        )
        await store.feed_replay(made.id, limit=20, now_ms=world.tick())
    elif what == "p":
        await store.prune(KEEP, now_ms=now_ms, limit=chance.randrange(1, 20))
    elif what == "x":
        await store.expire(now_ms=now_ms, limit=20)
    elif what == "e":
        await store.reclaim(now_ms=now_ms)
    else:
        await world.reopen()


@pytest.mark.parametrize("seed", range(4))
async def test_the_bytes_of_a_tenant_equal_its_rows_after_any_history(
    build: Build, store_name: str, tmp_path: Path, seed: int
) -> None:
    world = await build()
    chance = random.Random(seed)
    for n in range(150):
        with suppress(StoreError):
            await step(world, chance)
        if n % 10 == 0:
            equal(world, tmp_path / "0", store_name)
    assert equal(world, tmp_path / "0", store_name)
    # Once everything has ended and gone, nothing is left.
    for _ in range(50):
        world.tick(HOUR_MS)
        await world.store.reclaim(now_ms=world.now_ms)
        await world.store.expire(now_ms=world.now_ms, limit=1_000)
        for delivery in await world.claim():
            await world.settle(delivery, "dead")
        await world.store.prune(KEEP, now_ms=world.now_ms, limit=1_000)
    assert equal(world, tmp_path / "0", store_name) == {}
    assert [world.store.stored_bytes(tenant) for tenant in TENANTS] == [0, 0]


async def test_all_that_a_callback_brings_counts_and_goes_with_it(world: World) -> None:
    await world.submit(body=b"1" * 100)
    plain = world.store.stored_bytes("acme")
    assert plain == ROW_BYTES + 100
    await world.submit("2", body=b"", tags={"team": "a"}, headers=(("X-Some", "y" * 200),))
    assert world.store.stored_bytes("acme") > plain + ROW_BYTES + 200
    before = world.store.stored_bytes("acme")
    delivery = (await world.claim())[0]
    await world.settle(delivery, "pending", due_in_ms=1)
    assert world.store.stored_bytes("acme") > before, "attempts count"
    assert world.store.stored_bytes("other") == 0


async def test_an_operation_that_fails_counts_nothing(world: World) -> None:
    await world.submit()
    size = world.store.stored_bytes("acme")
    with pytest.raises(StoreError):
        await world.submit(body=b"other content")
    await world.submit()  # a duplicate
    assert world.store.stored_bytes("acme") == size


def test_an_upgrade_counts_what_is_there(tmp_path: Path) -> None:
    scripts = migrations("sqlite")
    (place,) = [n for n, (_, script) in enumerate(scripts) if "ADD COLUMN extra_bytes" in script]
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        for _, script in scripts[:place]:
            connection.executescript(script)
        for n, (tenant, pruned) in enumerate((("a", 0), ("a", 1), ("b", 0))):
            connection.execute(
                "INSERT INTO callbacks (id, tenant, job_id, priority, destination, payload_size, "
                "payload_sha256, pruned, explicit_key, content, created_ms, expires_ms, state, "
                "class) VALUES (?, ?, 'j', 1, 'd', 500, x'00', ?, 0, x'00', 1, 2, 'delivered', 1)",
                (f"cb_{n}", tenant, pruned),
            )
        connection.execute("INSERT INTO counts VALUES ('a', 'delivered', 2), ('b', 'dead', 1)")
        connection.executescript(scripts[place][1])
        kept = connection.execute("SELECT tenant, sum(bytes), sum(n) FROM counts GROUP BY tenant")
        assert kept.fetchall() == [("a", 2 * ROW_BYTES + 500, 2), ("b", ROW_BYTES + 500, 1)]
