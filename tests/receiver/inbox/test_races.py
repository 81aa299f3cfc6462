"""What fails one message of a commit fails that one alone; and what another replica deletes at the
same moment is not taken for known."""

import asyncio
import sqlite3

import psycopg
import pytest

from receiver.base.db.url import sqlite_path
from receiver.inbox.attempts import Settlement
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.inbox.postgres.database import SCHEMA
from tests.receiver.inbox.messages import NOW_MS, message
from tests.receiver.inbox.places import Place

_POSTGRES = f"""
CREATE FUNCTION {SCHEMA}.refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON {SCHEMA}.messages FOR EACH ROW WHEN (NEW.job_id = 'bad')
    EXECUTE FUNCTION {SCHEMA}.refuse()
"""
_SQLITE = """
CREATE TRIGGER refuse BEFORE INSERT ON messages WHEN NEW.job_id = 'bad'
    BEGIN SELECT RAISE(ABORT, 'refused'); END
"""
_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def refuse_bad(place: Place) -> None:
    """Have the database refuse one job's messages."""
    if place.url.startswith("sqlite"):
        connection = sqlite3.connect(sqlite_path(place.url), isolation_level=None)
        connection.execute(_SQLITE)
        connection.close()
        return
    with psycopg.connect(place.url, autocommit=True) as session:
        session.execute(_POSTGRES.encode())


async def test_a_message_that_cannot_be_stored_fails_alone(place: Place, inbox: Inbox) -> None:
    """Those that share its commit are stored, and what else there is to write is written."""
    await inbox.receive(message("old", has_handler=True))
    (claimed,) = (await inbox.claim(now_ms=NOW_MS, limit=1)).claimed
    refuse_bad(place)
    settled = Settlement(id=claimed.id, fence=claimed.fence, state="handled", now_ms=NOW_MS)
    answers = await asyncio.gather(
        *(inbox.receive(message(f"job_{n}")) for n in range(20)),
        inbox.receive(message("bad")),
        inbox.settle(settled),
        *(inbox.receive(message(f"job_{n}")) for n in range(20, 40)),
        return_exceptions=True,
    )
    assert isinstance(answers[20], InboxUnavailable)
    assert answers[21] is True
    assert [*answers[:20], *answers[22:]] == ["accepted"] * 40
    stored = {one.job_id for one in (await inbox.page(limit=100)).messages}
    assert stored == {"old", *(f"job_{n}" for n in range(40))}


async def test_messages_that_cannot_be_stored_fail_alone_every_time(
    place: Place, inbox: Inbox
) -> None:
    """However often a commit was taken back before, and whatever was under way in it."""
    refuse_bad(place)
    for round in range(6):
        answers = await asyncio.gather(
            inbox.receive(message("bad", text=f"{round}")),
            *(inbox.receive(message(f"job_{round}_{n}")) for n in range(round % 3)),
            return_exceptions=True,
        )
        assert isinstance(answers[0], InboxUnavailable)
        assert answers[1:] == ["accepted"] * (round % 3)


@pytest.fixture
def shared(empty_postgres: str) -> Place:
    return Place(empty_postgres)


async def test_a_dead_message_that_comes_again_while_it_is_deleted_is_new(shared: Place) -> None:
    """Its sender is told that it was taken: so it is there, and handled."""
    sweeper, replica = await shared.open(), await shared.open()
    again = message(id="m", has_handler=True)
    await replica.receive(again)
    (claimed,) = (await replica.claim(now_ms=NOW_MS, limit=1)).claimed
    dead = Settlement(id=claimed.id, fence=claimed.fence, state="dead", now_ms=NOW_MS)
    await replica.settle(dead)
    with psycopg.connect(shared.url) as holding:
        holding.execute(f"SELECT 1 FROM {SCHEMA}.bodies FOR UPDATE".encode())
        giving_up = asyncio.create_task(
            sweeper.give_up(before_ms=NOW_MS + 1, now_ms=NOW_MS, sources=["/webhooks"])
        )
        await waiting(shared.url, 1)  # for the body; it holds the message
        receiving = asyncio.create_task(replica.receive(again))
        await waiting(shared.url, 2)  # for the message
        holding.rollback()
    assert await giving_up == (1, 0)
    assert await receiving == "accepted"
    (stored,) = (await replica.page()).messages
    assert stored.state == "pending"
    assert len((await replica.claim(now_ms=NOW_MS, limit=1)).claimed) == 1
    await sweeper.close()
    await replica.close()


async def waiting(url: str, count: int) -> None:
    """Until so many sessions wait for a lock: another process's, for which there is no event."""
    with psycopg.connect(url, autocommit=True) as connection:
        async with asyncio.timeout(20):
            while True:
                row = connection.execute(_WAITING).fetchone()
                if row is not None and row[0] >= count:
                    return
                await asyncio.sleep(0.005)
