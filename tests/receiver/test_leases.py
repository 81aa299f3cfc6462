"""Several replicas on one inbox: what one of them runs is its own for as long as it lives."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from receiver import Event, Receiver, Settings
from receiver.testing import Client
from tests.dispatcher.postgres.proxy import proxied
from tests.dispatcher.postgres.server import database
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
JOB = {"jobId": "job_1", "status": "completed"}


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture
def url(database_url: str) -> str:
    """A database with the customer's table, and nothing else in it."""
    with psycopg.connect(database_url) as db:
        db.execute("DROP SCHEMA IF EXISTS postback_receiver CASCADE")
        db.execute("DROP TABLE IF EXISTS effects, postback_handled")
        db.execute("CREATE TABLE effects (replica text)")
    return database_url


@pytest.fixture
def settings(url: str) -> Settings:
    return Settings(
        secrets=(SECRET,),
        database_url=url,
        effects_url=url,
        lease=0.6,
        poll=0.05,
        handler_attempts=5,
        drain_grace=0.1,
    )


@asynccontextmanager
async def replica(settings: Settings, handler: Callable[..., Any]) -> AsyncIterator[Client]:
    receiver = Receiver(settings)
    receiver.on("*")(handler)
    async with Client(receiver, SECRET) as client:
        yield client


async def states(client: Client) -> list[tuple[str, int]]:
    page = await client.receiver.inbox.page()
    return [(m.state, m.attempts) for m in page.messages]


def is_handled(client: Client) -> Callable[[], Any]:
    async def look() -> bool:
        return all(state == "handled" for state, _ in await states(client))

    return look


async def test_a_handler_that_outlives_its_lease_runs_once(settings: Settings) -> None:
    """Its replica renews; the others look every moment, and find nothing."""
    longer = replace(settings, lease=1)  # on a busy machine a third of it may pass unnoticed
    calls: list[int] = []

    async def slow(event: Event) -> None:
        calls.append(event.attempt)
        await asyncio.sleep(1.5 * longer.lease)

    async with replica(longer, slow) as one, replica(longer, slow):
        await one.send(JOB)
        await until(is_handled(one))
        assert await states(one) == [("handled", 1)]
    assert calls == [1]


async def test_what_one_replica_received_another_one_handles_in_turn(settings: Settings) -> None:
    """One that is busy leaves it to one that is not; within a job there is an order."""
    release = asyncio.Event()
    calls: list[tuple[str, str, Any]] = []

    def named(name: str) -> Callable[[Event], Any]:
        async def handler(event: Event) -> None:
            calls.append((name, event.job_id, event.output))
            if event.job_id == "long":
                await release.wait()

        return handler

    few = replace(settings, handler_concurrency=1)
    async with replica(few, named("a")) as a:
        await a.send({"jobId": "long", "status": "running", "output": 0})
        await until(lambda: len(calls) == 1)
        async with replica(few, named("b")):
            await a.send({"jobId": "long", "status": "completed", "output": 1})
            await a.send(JOB)
            await until(lambda: len(calls) == 2)
            release.set()
            await until(is_handled(a))
    assert calls[:2] == [("a", "long", 0), ("b", "job_1", None)]
    assert [(job, output) for _, job, output in calls[2:]] == [("long", 1)]


async def test_handlers_of_one_job_never_overlap_across_replicas(settings: Settings) -> None:
    """Three replicas, all of which take every message they can get."""
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    who: set[int] = set()

    def numbered(n: int) -> Callable[[Event], Any]:
        async def handler(event: Event) -> None:
            who.add(n)
            running[event.job_id] = running.get(event.job_id, 0) + 1
            most[event.job_id] = max(most.get(event.job_id, 0), running[event.job_id])
            await asyncio.sleep(0.01)
            running[event.job_id] -= 1

        return handler

    few = replace(settings, lease=5, poll=0.01, handler_concurrency=2)
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(replica(few, numbered(n))) for n in range(3)]
        for n in range(6):
            posts = (
                one.send({"jobId": f"job_{job}", "status": "running", "output": n})
                for job, one in enumerate(replicas)
            )
            await asyncio.gather(*posts)
        await until(is_handled(replicas[0]))
        assert len(await states(replicas[0])) == 18
    assert set(most.values()) == {1}
    assert len(who) > 1


@pytest.mark.parametrize("kind", ["async", "tx"])
async def test_a_replica_that_loses_the_inbox_ends_its_runs_before_another_one_begins(
    settings: Settings, url: str, kind: str
) -> None:
    """A coroutine is cancelled and a transaction rolled back while the lease still holds; what
    the other replica made of the message is what counts."""
    events: list[str] = []

    async def hang(event: Event) -> None:
        events.append("a begins")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("a ends")

    def hang_in_tx(event: Event, tx: Any) -> None:
        tx.execute("INSERT INTO effects VALUES ('a')")
        events.append("a begins")
        try:
            tx.execute("SELECT pg_sleep(60)")
        finally:
            events.append("a ends")

    def take_over(event: Event, tx: Any) -> None:
        tx.execute("INSERT INTO effects VALUES ('b')")
        events.append(f"b begins attempt {event.attempt}")

    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxied(url))
        cut_off = replace(settings, database_url=proxy.url)
        handler = hang if kind == "async" else hang_in_tx
        a = await stack.enter_async_context(replica(cut_off, handler))
        await a.send(JOB)
        await until(lambda: events == ["a begins"])
        b = await stack.enter_async_context(replica(settings, take_over))
        proxy.refusing = True
        proxy.cut()
        await until(lambda: len(events) == 3)
        await until(is_handled(b))
        assert await states(b) == [("handled", 2)]
    assert events == ["a begins", "a ends", "b begins attempt 2"]
    with psycopg.connect(url) as db:
        assert db.execute("SELECT replica FROM effects").fetchall() == [("b",)]


async def test_a_thread_whose_lease_was_lost_is_reported_and_not_overlapped_by_its_own_replica(
    settings: Settings, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can end it. Its message comes back to the same replica, which waits until the thread
    has ended, keeping the new claim alive meanwhile, and then runs it again."""
    caplog.set_level("WARNING", "receiver")
    release = threading.Event()
    running, calls = [0], [0]

    def hang(event: Event) -> None:
        running[0] += 1
        calls[0] += 1
        assert running[0] == 1
        if event.attempt == 1:
            release.wait(60)
        running[0] -= 1

    async with proxied(url) as proxy, replica(replace(settings, database_url=proxy.url), hang) as a:
        await a.send(JOB)
        await until(lambda: calls == [1])
        proxy.refusing = True
        proxy.cut()
        await until(lambda: "lease lost" in caplog.text)
        with psycopg.connect(url) as db:  # as another replica does once the lease has ended
            db.execute("UPDATE postback_receiver.messages SET state = 'pending', due_ms = 0")
        proxy.refusing = False

        async def claimed_again() -> bool:
            with psycopg.connect(url) as db:
                found = db.execute("SELECT state, attempts FROM postback_receiver.messages")
                return found.fetchone() == ("running", 2)

        await until(claimed_again)
        await asyncio.sleep(1.2 * settings.lease)  # it holds
        assert (await claimed_again(), calls) == (True, [1])
        release.set()
        await until(is_handled(a))
        assert await states(a) == [("handled", 2)]
    assert calls == [2]


async def test_what_a_lost_lease_left_running_counts_if_nobody_else_took_it(
    settings: Settings, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The work was done; the inbox decides whether that still counts."""
    caplog.set_level("WARNING", "receiver")
    release = threading.Event()
    calls: list[int] = []

    def hang(event: Event) -> None:
        calls.append(event.attempt)
        release.wait(60)

    async with proxied(url) as proxy, replica(replace(settings, database_url=proxy.url), hang) as a:
        await a.send(JOB)
        await until(lambda: calls == [1])
        proxy.refusing = True
        proxy.cut()
        await until(lambda: "lease lost" in caplog.text)
        proxy.refusing = False
        release.set()
        await until(is_handled(a))
        assert await states(a) == [("handled", 1)]
    assert calls == [1]
