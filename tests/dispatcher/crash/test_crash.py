"""The dispatcher is killed, at random moments and at each point of a delivery's path, and started
again: what was acknowledged is delivered, and nothing is stuck (I1, I2, I3)."""

import asyncio
import os
import random
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from dispatcher.store.rows import STORED_BYTES
from tests.dispatcher.crash.serve import POINTS
from tests.dispatcher.crash.world import Dispatcher, Platform, Sink, settled
from tests.dispatcher.postgres import server

pytestmark = pytest.mark.slow
CYCLES = max(1, round(3 * float(os.environ.get("POSTBACK_TEST_SCALE", "1"))))


async def finish(dispatcher: Dispatcher, platform: Platform, sink: Sink, *, kills: int) -> None:
    """A last life, left alone: then every promise can be checked."""
    sink.life += 1
    await dispatcher.start()
    found = await settled(dispatcher.url)
    assert await dispatcher.end(kill=False) == 0
    lost = platform.acknowledged.keys() - sink.got.keys()
    print(
        f"\nkills={kills} tried={platform.tried} accepted={len(platform.acknowledged)} "
        f"delivered={len(sink.got)} duplicates={sink.duplicates} lost={len(lost)}"
    )
    assert not lost, "acknowledged, and never delivered"
    assert found["delivered"] == len(sink.got), "delivered without ever having been accepted"
    assert found["dead"] == found["cancelled"] == 0
    for one, received in sink.got.items():
        assert len({body for _, body in received}) == 1, "a duplicate with other bytes"
        if one in platform.acknowledged:
            assert received[0][1] == platform.acknowledged[one], "not the bytes that were accepted"
        lives = [life for life, _ in received]
        assert len(lives) == len(set(lives)), "sent twice without a crash between"
    if dispatcher.other_database is None:
        check_file(dispatcher.database, sink)
    else:
        check_database(dispatcher.other_database, sink)


# What we had no time left to send, of a lease, is an attempt that nobody saw.
SENT = """
SELECT c.id, count(*) FROM callbacks c JOIN attempts a ON a.callback = c.id
WHERE a.outcome <> 'interrupted' GROUP BY c.id
"""


def check_database(url: str, sink: Sink) -> None:
    """As of a file."""
    with psycopg.connect(url) as connection:
        wrong = connection.execute(
            "SELECT tenant, state, count(*) FROM callbacks GROUP BY 1, 2 "
            "EXCEPT SELECT tenant, state, sum(n) FROM counts GROUP BY 1, 2"
        ).fetchall()
        assert wrong == []
        check_attempts(connection.execute(SENT).fetchall(), sink)


def check_attempts(found: Sequence[tuple[str, int]], sink: Sink) -> None:
    """As many as the customer saw, or fewer: each callback with attempts that were sent."""
    for one, attempts in found:
        assert 1 <= attempts <= len(sink.got[one])
    assert len(found) == len(sink.got)


def check_file(database: Path, sink: Sink) -> None:
    """Each delivery's history ends with the attempt that was acknowledged, and no attempt is
    recorded that the customer did not see."""
    connection = sqlite3.connect(database)
    (whole,) = connection.execute("PRAGMA integrity_check").fetchone()
    assert whole == "ok"
    wrong = connection.execute(
        "SELECT tenant, state, count(*) FROM callbacks GROUP BY 1, 2 "
        "EXCEPT SELECT tenant, state, n FROM counts"
    ).fetchall()
    assert wrong == []
    wrong = connection.execute(
        f"SELECT tenant, {STORED_BYTES} FROM callbacks GROUP BY 1 "
        "EXCEPT SELECT tenant, sum(bytes) FROM counts GROUP BY 1"
    ).fetchall()
    assert wrong == []
    check_attempts(connection.execute(SENT).fetchall(), sink)
    assert connection.execute("SELECT count(*) FROM callbacks").fetchone() == (len(sink.got),)
    connection.close()


@pytest.fixture
def postgres() -> Iterator[str]:
    """A database whose commits are on disk."""
    with server.private_server(durable=True) as running, server.database(running.url) as made:
        yield made


@pytest.mark.timeout(60 + 10 * CYCLES)
async def test_kill_dash_nine_at_random_moments_loses_nothing(
    dispatcher: Dispatcher, sink: Sink
) -> None:
    """I1, I2, I3: load through HTTP all the while."""
    await kill_again_and_again(dispatcher, Platform(sink), sink)


@pytest.mark.timeout(120 + 10 * CYCLES)
async def test_nor_does_it_on_postgresql(dispatcher: Dispatcher, sink: Sink, postgres: str) -> None:
    """Where what a killed process had in flight waits for the end of its lease."""
    dispatcher.other_database = postgres
    policy = ',"policy":{"attempts":50,"delays":[0.2],"timeout":10}'
    await kill_again_and_again(dispatcher, Platform(sink, more=policy), sink)


async def kill_again_and_again(dispatcher: Dispatcher, platform: Platform, sink: Sink) -> None:
    chance = random.Random(CYCLES)
    for _ in range(CYCLES):
        sink.life += 1
        await dispatcher.start()
        loading = asyncio.create_task(platform.load(dispatcher.url))
        before = len(platform.acknowledged)
        await asyncio.sleep(chance.uniform(0.05, 0.4))  # the moment is what is random here
        assert await dispatcher.end(kill=True) == -9
        await loading
        assert len(platform.acknowledged) >= before
    assert platform.acknowledged, "nothing was submitted at all"
    await finish(dispatcher, platform, sink, kills=CYCLES)


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_each_point_of_the_path_loses_nothing(
    dispatcher: Dispatcher, sink: Sink, point: str
) -> None:
    """I1, I2, I3: with others' work around the one that is hit."""
    platform = Platform(sink)
    sink.life += 1
    await dispatcher.start(point, 20)
    async with asyncio.timeout(60):
        await platform.load(dispatcher.url)
    assert await dispatcher.dead() == -9
    assert platform.acknowledged
    await finish(dispatcher, platform, sink, kills=1)


async def test_before_the_commit_nothing_was_promised_and_nothing_is_sent(
    dispatcher: Dispatcher, sink: Sink
) -> None:
    """I1, seen from the other side: no 2xx before the commit, and no trace after the crash."""
    platform = Platform(sink)
    await dispatcher.start("before-commit")
    await platform.load(dispatcher.url, workers=1)
    assert await dispatcher.dead() == -9
    assert platform.acknowledged == {}
    await dispatcher.start()
    found = await settled(dispatcher.url)
    assert set(found.values()) == {0}
    assert sink.got == {}


async def test_after_the_commit_the_callback_is_delivered_though_nobody_was_told(
    dispatcher: Dispatcher, sink: Sink
) -> None:
    """I2: and whoever submits it again is told the first one's id."""
    platform = Platform(sink)
    await dispatcher.start("after-commit")
    await platform.load(dispatcher.url, workers=1)
    assert await dispatcher.dead() == -9
    assert platform.acknowledged == {}
    await dispatcher.start()
    async with asyncio.timeout(60):
        await sink.arrived.wait()
    assert (await settled(dispatcher.url))["delivered"] == 1
    assert [len(received) for received in sink.got.values()] == [1]
