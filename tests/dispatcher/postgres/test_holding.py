"""What a commit holds, and how little of it: servers only where much is wanted of them, lanes that
wait only where some do, and plans for as long as the session lives (D5)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from dispatcher.ids import destination_of, lane_id
from dispatcher.store.postgres.database import observe
from dispatcher.store.postgres.session import Session
from receiver.base.clock import now_ms
from receiver.base.db.postgres import Server
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.test_together import Together, together
from tests.dispatcher.store.builders import TENANT, World

__all__ = ("together",)  # a fixture

SERVER = "http://host.test"
OF_SERVER = destination_of(lane_id(TENANT, f"{SERVER}/"))
PATHS = 48


@contextmanager
def server_held(url: str) -> Iterator[None]:
    """While another process holds the server's row."""
    with psycopg.connect(url) as connection:
        sql = b"SELECT 1 FROM destinations WHERE id = %s FOR UPDATE"
        assert connection.execute(sql, (OF_SERVER,)).fetchone() is not None
        yield


async def with_lanes(together: Together) -> World:
    """A process that has met all lanes of the server; nothing of them is due yet."""
    world = await together.join()
    later_ms = now_ms() + 3_600_000
    for n in range(PATHS):
        await world.submit(f"later-{n}", url=f"{SERVER}/{n}", not_before_ms=later_ms)
    return world


async def direct(world: World, job: str, count: int) -> int:
    """How many of so many submits were leased at once."""
    answers = await asyncio.gather(
        *(
            world.submit(f"{job}-{n}", url=f"{SERVER}/{n % PATHS}", handover=True)
            for n in range(count)
        )
    )
    return sum(one.delivery is not None for one in answers)


async def test_of_a_server_with_room_a_part_needs_no_row(together: Together) -> None:
    """A quarter of what is free at a time, until it is half full."""
    world = await with_lanes(together)
    with server_held(together.url):
        assert await direct(world, "a", PATHS) <= 32
        for n in range(40):
            await direct(world, f"b{n}", 8)
    assert 16 <= (await world.destination(SERVER)).sending <= 32


async def test_of_a_server_that_takes_few_nothing_is_taken_without_its_row(
    together: Together,
) -> None:
    world = await with_lanes(together)
    await world.change(SERVER, concurrency=5)
    with server_held(together.url):
        assert await direct(world, "a", 1) == 0
    for n in range(40):
        await direct(world, f"b{n}", PATHS)
    assert (await world.destination(SERVER)).sending == 5


async def test_more_than_a_part_is_taken_by_who_holds_the_row(together: Together) -> None:
    world = await with_lanes(together)
    for n in range(20):
        await direct(world, f"a{n}", PATHS)
    assert (await world.destination(SERVER)).sending == 64


async def test_what_another_process_leaves_free_is_seen_at_its_commit(together: Together) -> None:
    """No sweep: who settles finds that a lane waits, though none did when it last looked."""
    one, other = await together.join(), await together.join()
    await one.submit("first", url=f"{SERVER}/", not_before_ms=now_ms() + 3_600_000)
    await one.change(SERVER, concurrency=1)
    sent = (await one.submit("a", url=f"{SERVER}/a", handover=True)).delivery
    assert sent is not None
    waiting = await other.submit("b", url=f"{SERVER}/b", handover=True)
    assert waiting.delivery is None
    assert await other.claim(now_ms=now_ms() + 1) == []
    assert await one.settle(sent)
    claimed = await other.claim(now_ms=now_ms() + 1)
    assert [delivery.id for delivery in claimed] == [waiting.id]


async def test_payloads_are_those_of_what_was_stored(together: Together) -> None:
    """Of a batch some of whose keys were there before."""
    world = await together.join()
    await world.submit("a0", key="k0")
    answers = await asyncio.gather(
        *(world.submit(f"a{n % 4}", key=f"k{n % 4}") for n in range(8)),
    )
    assert len({one.id for one in answers}) == 4
    with psycopg.connect(together.url) as connection:
        callbacks = connection.execute("SELECT id FROM callbacks ORDER BY 1").fetchall()
        payloads = connection.execute("SELECT callback FROM payloads ORDER BY 1").fetchall()
    assert callbacks == payloads
    assert {row[0] for row in callbacks} == {one.id for one in answers}


def test_who_observes_the_database_forgets_no_plan(tmp_path: Path) -> None:
    """The driver does with each rollback: once a second every statement was planned anew."""
    session = Session(Server(folders.url_for(tmp_path, used=True)), clock=now_ms)
    session.open()
    for _ in range(4):
        observe(session)
    tx = session.begin()
    plans = tx.one("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE ?", "%ready%")
    session.end(tx)
    session.close()
    assert plans is not None
    assert plans[0] >= 1
    folders.empty_under(tmp_path)
