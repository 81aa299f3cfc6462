"""Several replicas on one PostgreSQL: what one has done holds for all."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from random import Random

import psycopg
import pytest

from receiver.base.db import CannotOpen
from receiver.handling.leases import Watch
from receiver.inbox.attempts import Settlement
from receiver.inbox.inbox import Inbox, InboxError, InboxUnavailable
from receiver.inbox.message import Claimed
from receiver.inbox.postgres.database import MIGRATIONS, SCHEMA, PostgresDatabase
from tests.dispatcher.postgres.server import Server, private_server
from tests.receiver.inbox.messages import NOW_MS, message
from tests.receiver.inbox.places import Place

REPLICAS = 4


@pytest.fixture
def place(empty_postgres: str) -> Place:
    return Place(empty_postgres)


@pytest.fixture
async def replicas(place: Place) -> AsyncIterator[list[Inbox]]:
    """All started at once on an empty database."""
    opened = await asyncio.gather(*(place.open() for _ in range(REPLICAS)))
    yield opened
    await asyncio.gather(*(one.close() for one in opened))


async def test_fifty_copies_at_once_are_one_message_wherever_they_come_in(
    replicas: list[Inbox],
) -> None:
    """One is accepted; the row counts the others."""
    for n in range(5):
        copies = [replicas[k % REPLICAS].receive(message(f"job_{n}", id="m")) for k in range(50)]
        assert Counter(await asyncio.gather(*copies)) == {"accepted": 1, "duplicate": 49}
    assert {one.duplicates for one in (await replicas[0].page()).messages} == {49}


async def test_different_ends_at_once_end_a_job_once(replicas: list[Inbox]) -> None:
    """The others are conflicts, at whichever replica."""
    ends = [replicas[n % REPLICAS].receive(message(text=str(n), id=f"m{n}")) for n in range(40)]
    assert Counter(await asyncio.gather(*ends)) == {"accepted": 1, "conflict": 39}


async def test_a_random_history_over_all_ends_every_job_once(replicas: list[Inbox]) -> None:
    """The rows agree with every answer, and every job has one end."""
    random = Random(11)
    history = [
        message(
            random.choice([None, *(f"job_{n}" for n in range(12))]),
            random.choice(["completed", "failed", "running"]),
            id=f"m{random.randrange(60)}",
            text=str(random.randrange(2)),
        )
        for _ in range(600)
    ]
    turns = zip(history, itertools.cycle(replicas))
    verdicts = Counter(await asyncio.gather(*(one.receive(m) for m, one in turns)))
    stored = (await replicas[0].page(limit=1000)).messages
    rows = Counter(one.verdict for one in stored)
    assert {**rows, "duplicate": sum(one.duplicates for one in stored)} == verdicts
    ends = Counter(
        one.job_id for one in stored if (one.kind, one.verdict) == ("terminal", "accepted")
    )
    assert set(ends.values()) == {1}
    assert ends.keys() == {m.job_id for m in history if m.kind == "terminal"}


async def test_a_message_is_claimed_by_one_replica_and_a_job_by_one_at_a_time(
    replicas: list[Inbox],
) -> None:
    """However many look at once."""
    for n in range(40):
        await replicas[0].receive(
            message(f"job_{n % 10}", "running", text=str(n), has_handler=True)
        )
    handled: list[int] = []
    running: Counter[str] = Counter()

    async def work(inbox: Inbox) -> None:
        while (await inbox.backlog()).pending:
            for one in (await inbox.claim(now_ms=NOW_MS, limit=3)).claimed:
                running[one.job_id or ""] += 1
                assert running[one.job_id or ""] == 1
                handled.append(one.id)
                running[one.job_id or ""] -= 1
                await inbox.settle(done(one))

    await asyncio.gather(*(work(one) for one in replicas))
    assert len(handled) == len(set(handled)) == 40


def done(claimed: Claimed) -> Settlement:
    return Settlement(id=claimed.id, fence=claimed.fence, state="handled", now_ms=NOW_MS)


async def test_a_lease_that_ends_lets_another_replica_go_on(place: Place) -> None:
    """And nothing that the first one says of it counts any more."""
    slow, other = await place.open(lease_s=0), await place.open()
    await slow.receive(message(has_handler=True))
    (first,) = (await slow.claim(now_ms=NOW_MS, limit=1)).claimed
    assert await slow.renew([(first.id, first.fence), (99, 1)]) == {first.id}
    watch = Watch(lease_s=30)
    assert watch.left(await other.running(), at_s=0) == []
    assert watch.left(await other.running(), at_s=29) == []
    assert await slow.renew([(first.id, first.fence)]) == {first.id}
    assert watch.left(await other.running(), at_s=31) == []  # it was renewed
    left = watch.left(await other.running(), at_s=61)
    assert await slow.renew([(first.id, first.fence)]) == {first.id}
    assert await other.recover(left, now_ms=NOW_MS, attempts_max=10) == 0  # in the last moment
    left = await other.running()
    assert await other.recover(left, now_ms=NOW_MS, attempts_max=10) == 1
    (second,) = (await other.claim(now_ms=NOW_MS, limit=1)).claimed
    assert (second.id, second.attempt) == (first.id, 2)
    assert await slow.renew([(first.id, first.fence)]) == set()
    assert not await slow.settle(done(first))
    assert await other.recover(left, now_ms=NOW_MS, attempts_max=10) == 0
    assert await other.settle(done(second))
    await asyncio.gather(slow.close(), other.close())


async def test_lost_connections_are_made_anew(place: Place, empty_postgres: str) -> None:
    """An operator ended every session of ours, while idle and under load: nothing is lost, and
    what was not answered 'accepted' is so, or a duplicate, when it comes again."""
    inbox = await place.open()
    assert await inbox.receive(message("before")) == "accepted"
    end_sessions(empty_postgres)
    assert await inbox.receive(message("idle")) == "accepted"
    end_sessions(empty_postgres)
    assert len((await inbox.page()).messages) == 2
    for n in range(20):
        posts = [asyncio.create_task(inbox.receive(message(f"{n}.{k}"))) for k in range(20)]
        await asyncio.sleep(0)
        await asyncio.to_thread(end_sessions, empty_postgres)
        answers = await asyncio.gather(*posts, return_exceptions=True)
        assert {type(one) for one in answers} <= {str, InboxUnavailable}
        again = [await inbox.receive(message(f"{n}.{k}")) for k in range(20)]
        for before, now in zip(answers, again, strict=True):
            assert now in (("duplicate",) if before == "accepted" else ("accepted", "duplicate"))
    assert len((await inbox.page(limit=1000)).messages) == 402
    await inbox.close()


def end_sessions(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'postback receiver%' AND datname = current_database()"
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with private_server(durable=True) as started:
        yield started


async def test_a_server_that_is_away_is_unavailable_and_comes_back_by_itself(
    server: Server,
) -> None:
    """What was answered before it crashed is there afterwards."""
    inbox = await Place(server.url).open()
    answers = await asyncio.gather(*(inbox.receive(message(f"job_{n}")) for n in range(50)))
    assert set(answers) == {"accepted"}
    server.stop()
    with pytest.raises(InboxUnavailable, match="cannot reach postgresql://") as caught:
        await inbox.receive(message("away"))
    assert "\n" not in str(caught.value)
    with pytest.raises(InboxUnavailable):
        await inbox.check()
    server.start()
    await inbox.check()
    again = await asyncio.gather(*(inbox.receive(message(f"job_{n}")) for n in range(50)))
    assert set(again) == {"duplicate"}
    await inbox.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:hunter2@127.0.0.1:1/db", "cannot reach postgresql://u@127.0.0.1:1/db"),
        ("postgresql://u:hun@ter2@127.0.0.1:1/db", "%XX"),
        ("postgresql://u:hunter2@127.0.0.1:x/db", "it takes postgresql://"),
    ],
)
async def test_a_database_that_cannot_be_opened_is_one_line_without_the_password(
    url: str, told: str
) -> None:
    """For the operator to mend."""
    with pytest.raises((InboxError, CannotOpen), match=told) as caught:
        await Inbox.open(PostgresDatabase(url))
    assert "hun" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_newer_schema_is_refused_and_left_alone(place: Place, empty_postgres: str) -> None:
    """By an older version that was started again by mistake."""
    await (await place.open()).close()
    with psycopg.connect(empty_postgres, autocommit=True) as connection:
        connection.execute(f"INSERT INTO {SCHEMA}.schema_version VALUES (999)")
    with pytest.raises(InboxError, match=f"schema 999.*knows {len(MIGRATIONS)}"):
        await place.open()
