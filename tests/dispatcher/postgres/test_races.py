"""Two processes that change the same callbacks at the same moment: one goes first, and the other's
decision is looked at again (I2, I4)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from dispatcher.filters import Filter
from dispatcher.store import lanes
from dispatcher.store.errors import NotFound, PayloadGone
from dispatcher.store.requests import Retention
from tests.dispatcher.postgres.test_together import Together, together
from tests.dispatcher.store.builders import TENANT, secret

__all__ = ("together",)  # a fixture

_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
DAY_MS = 86_400_000
PAYLOADS_GO = Retention(delivered_payload_ms=0, delivered_ms=DAY_MS, dead_ms=DAY_MS)
ALL_GOES = Retention(delivered_payload_ms=0, delivered_ms=0, dead_ms=0)


@contextmanager
def holding(url: str, sql: str) -> Iterator[psycopg.Connection]:
    """Hold rows that another process needs, so that it stops in the middle of its commit."""
    with psycopg.connect(url) as connection:
        connection.execute(sql.encode())
        yield connection


async def waiting(url: str, count: int) -> None:
    """Until so many sessions wait for a lock: another process's, for which there is no event."""
    with psycopg.connect(url, autocommit=True) as connection:
        async with asyncio.timeout(20):
            while True:
                row = connection.execute(_WAITING).fetchone()
                if row is not None and row[0] >= count:
                    return
                await asyncio.sleep(0.005)


def exact(url: str) -> dict[str, int]:
    """The rows by state, which are what is counted."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT state, count(*) FROM callbacks GROUP BY 1").fetchall()
        sums = connection.execute("SELECT state, sum(n) FROM counts GROUP BY 1").fetchall()
        stuck = connection.execute(
            "SELECT count(*) FROM callbacks WHERE state IN ('pending', 'sending') AND NOT EXISTS "
            "(SELECT 1 FROM payloads WHERE callback = callbacks.id)"
        ).fetchone()
    found: dict[str, Any] = dict(rows)
    assert {state: int(n) for state, n in sums if n} == found
    assert stuck == (0,)
    return found


@pytest.mark.parametrize(
    ("state", "keeps", "error"),
    [
        ("delivered", PAYLOADS_GO, PayloadGone),
        ("delivered", ALL_GOES, NotFound),
        ("dead", ALL_GOES, NotFound),
    ],
)
async def test_a_replay_of_what_retention_has_just_taken_is_refused(
    together: Together, state: Any, keeps: Retention, error: type[Exception]
) -> None:
    """Its payload is gone: a delivery made due again would be claimed for ever and never sent."""
    pruner, operator = await together.join(), await together.join()
    one = await operator.ended("a", state)
    pruner.now_ms = operator.tick(1_000)
    with holding(together.url, "SELECT 1 FROM payloads FOR UPDATE") as held:
        pruning = asyncio.create_task(pruner.store.prune(keeps, now_ms=pruner.now_ms, limit=10))
        await waiting(together.url, 1)  # for the payload; it holds the callback
        replaying = asyncio.create_task(operator.store.replay(TENANT, one, now_ms=operator.now_ms))
        await waiting(together.url, 2)  # for the callback
        held.rollback()
    assert await pruning
    with pytest.raises(error):
        await replaying
    assert exact(together.url).keys() <= {"delivered"}
    assert await operator.claim(now_ms=operator.tick()) == []


async def test_a_filtered_replay_passes_over_what_retention_has_just_taken(
    together: Together,
) -> None:
    pruner, operator = await together.join(), await together.join()
    await operator.ended("a", "delivered")
    pruner.now_ms = operator.tick(1_000)
    made = await operator.store.make_replay(
        TENANT, Filter(status="delivered"), rate_per_second=None, now_ms=operator.now_ms
    )
    with holding(together.url, "SELECT 1 FROM payloads FOR UPDATE") as held:
        pruning = asyncio.create_task(
            pruner.store.prune(PAYLOADS_GO, now_ms=pruner.now_ms, limit=10)
        )
        await waiting(together.url, 1)
        feeding = asyncio.create_task(
            operator.store.feed_replay(made.id, limit=10, now_ms=operator.now_ms)
        )
        await waiting(together.url, 2)
        held.rollback()
    assert await pruning
    fed = await feeding
    assert (fed.replayed, fed.skipped) == (0, 1)
    assert exact(together.url) == {"delivered": 1}


async def test_a_row_that_another_process_is_claiming_is_not_ended_for_its_age(
    together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look of a sweep finds due what the first did not, in lanes that it does not hold:
    a claim that has not committed yet has it."""
    claimer, sweeper = await together.join(), await together.join()
    (one,) = await claimer.many(1)
    age_ms = 10 * DAY_MS
    monkeypatch.setattr(lanes, "of_expiring", lambda _now_ms, _limit: lambda _tx: [])
    with holding(together.url, "SELECT 1 FROM turns FOR UPDATE") as held:
        claiming = asyncio.create_task(claimer.one())
        await waiting(together.url, 1)  # for the tenant's schedule: all else is done
        ended = await sweeper.store.expire(now_ms=sweeper.now_ms + age_ms, limit=10)
        assert ended == 0
        held.rollback()
    claimed = await claiming
    assert claimed.id == one
    assert await claimer.settle(claimed)
    assert exact(together.url) == {"delivered": 1}


async def test_a_sweep_that_holds_the_lane_first_ends_what_no_claim_gets(
    together: Together,
) -> None:
    """The other way round: the claim comes second, and finds nothing."""
    claimer, sweeper = await together.join(), await together.join()
    (one,) = await claimer.many(1)
    with holding(together.url, "SELECT 1 FROM turns FOR UPDATE") as held:
        sweeping = asyncio.create_task(
            sweeper.store.expire(now_ms=sweeper.now_ms + 10 * DAY_MS, limit=10)
        )
        await waiting(together.url, 1)
        assert await claimer.claim() == []  # the lane is held by another process: left to it
        held.rollback()
    assert await sweeping == 1
    assert await claimer.states([one]) == ["dead"]
    assert exact(together.url) == {"dead": 1}


# --- whoever waits for whom, nobody waits in a circle (the fixture asks the server) ---


async def test_operators_changes_of_several_tenants_do_not_wait_in_a_circle(
    together: Together,
) -> None:
    """In opposite orders, with one in the middle that is held."""
    worlds = [await together.join(), await together.join()]
    tenants = ["a", "m", "b"]
    for tenant in tenants:
        await worlds[0].register("d", tenant=tenant)
    with holding(together.url, "SELECT 1 FROM tenants WHERE name = 'm' FOR UPDATE") as held:
        changing = [
            asyncio.create_task(world.change("d", tenant=tenant, concurrency=3))
            for world, order in zip(worlds, (tenants, tenants[::-1]), strict=True)
            for tenant in order
        ]
        await waiting(together.url, 2)
        held.rollback()
    for changed in await asyncio.gather(*changing):
        assert changed.concurrency == 3


async def test_several_replays_do_not_wait_in_a_circle(together: Together) -> None:
    worlds = [await together.join(), await together.join()]
    for n in range(3):
        await worlds[0].ended(f"a{n}", "delivered", url=f"http://h{n}.test/")
    made = [
        await worlds[0].store.make_replay(
            TENANT, Filter(job_id=f"a{n}"), rate_per_second=None, now_ms=worlds[0].tick(1_000)
        )
        for n in range(3)
    ]
    ids = [one.id for one in made]
    middle = f"SELECT 1 FROM replays WHERE id = '{ids[1]}' FOR UPDATE"
    with holding(together.url, middle) as held:
        cancelling = [
            asyncio.create_task(world.store.cancel_replay(TENANT, one, now_ms=world.now_ms))
            for world, order in zip(worlds, (ids, ids[::-1]), strict=True)
            for one in order
        ]
        await waiting(together.url, 2)
        held.rollback()
    assert {one.state for one in await asyncio.gather(*cancelling)} == {"cancelled"}


async def test_tenants_that_are_new_to_all_do_not_wait_in_a_circle(together: Together) -> None:
    worlds = [await together.join(), await together.join()]
    for turn in range(5):
        names = [f"t{turn}-{n}" for n in range(10)]
        await asyncio.gather(
            *(
                world.store.ensure_tenant(name, secret(name))
                for world, order in zip(worlds, (names, names[::-1]), strict=True)
                for name in order
            )
        )
    assert len(await worlds[0].store.tenants()) == 50


async def test_failures_of_one_server_and_leases_of_another_do_not_wait_in_a_circle(
    together: Together,
) -> None:
    """Each process counts a failure of the server that the other one has just leased for."""
    worlds = [await together.join(), await together.join()]
    servers = ["http://one.test", "http://two.test"]
    for turn in range(6):
        working: list[asyncio.Future[Any]] = []
        failed = []
        for who, world in enumerate(worlds):
            sent = await world.submit(f"a{turn}{who}", url=f"{servers[who]}/{who}", handover=True)
            assert sent.delivery is not None
            failed.append(sent.delivery)
        with holding(together.url, "SELECT 1 FROM lanes ORDER BY id FOR UPDATE") as held:
            for who, world in enumerate(worlds):
                settling = world.settle(failed[who], "dead", kind="unreachable")
                other = f"{servers[1 - who]}/{who + 2}"
                submitting = world.submit(f"b{turn}{who}", url=other, handover=True)
                working += map(asyncio.ensure_future, (settling, submitting))
            await waiting(together.url, 2)
            held.rollback()
        for done in await asyncio.gather(*working):
            if done is not True and done.delivery is not None:
                await worlds[0].settle(done.delivery)
            assert done is not False
    exact(together.url)
