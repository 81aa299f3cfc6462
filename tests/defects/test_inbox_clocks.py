"""A clock that ran ahead, and was set right, strands nothing and forgets nothing; replicas whose
clocks differ agree on what is due."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from receiver import Event, Receiver, Settings
from receiver.inbox.expectations import NewExpectation
from receiver.inbox.postgres.database import SCHEMA
from receiver.inbox.retention import STEP_EVERY_S
from receiver.testing import Client, Clock
from tests.receiver.conftest import empty_postgres, postgres_url  # noqa: F401 - fixtures
from tests.receiver.inbox.messages import NOW_MS, message
from tests.receiver.inbox.places import Place
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
JOB = {"jobId": "job_1", "status": "completed"}
DAY_MS = 86_400_000


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/inbox.db"
    return str(request.getfixturevalue("empty_postgres"))


def settings_of(url: str, **more: float) -> Settings:
    given = {"poll": 0.02, **more}
    return Settings(secrets=(SECRET,), database_url=url, **given)  # type: ignore[arg-type]


async def test_a_retry_that_was_planned_by_a_clock_ahead_comes(url: str) -> None:
    """As soon as anybody looks, here or in another process: it is more than a cap away."""
    clock, calls = Clock(), 0
    receiver = Receiver(settings_of(url, handler_retry_cap=3600), now_ms=clock)

    @receiver.on("completed")
    def handler(event: Event) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError

    async with Client(receiver, SECRET, clock=clock) as client:
        clock.advance(timedelta(days=3))
        await client.send(JOB)
        await client.idle()
        clock.advance(-timedelta(days=3))
        receiver.wake()
        await until(lambda: calls == 2)


async def test_a_retry_within_its_cap_is_left_alone(url: str) -> None:
    """Only what no clock that is right can have planned is brought forward."""
    clock, calls = Clock(), 0
    receiver = Receiver(
        settings_of(url, handler_retry_base=3000, handler_retry_cap=3600), now_ms=clock
    )

    @receiver.on("completed")
    def handler(event: Event) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError

    async with Client(receiver, SECRET, clock=clock) as client:
        await client.send(JOB)
        await client.idle()
        receiver.wake()
        await asyncio.sleep(0.2)
        assert calls == 1


async def test_replicas_whose_clocks_differ_agree_on_what_is_due(
    empty_postgres: str,  # noqa: F811
) -> None:
    """One is two minutes ahead: what it receives and what it puts off comes at its time to the
    other one, by the database's clock."""
    calls: list[tuple[str, int]] = []

    def replica(ahead_s: float, *, fails: bool) -> Receiver:
        receiver = Receiver(
            settings_of(empty_postgres, handler_retry_base=0.05),
            now_ms=lambda: round((time.time() + ahead_s) * 1000),
        )

        @receiver.on("completed")
        def handler(event: Event) -> None:
            calls.append((event.job_id, event.attempt))
            if fails:
                raise RuntimeError

        return receiver

    begun = time.monotonic()
    async with Client(replica(120, fails=True), SECRET) as ahead:
        await ahead.send(JOB)
        await until(lambda: len(calls) > 0)
    async with Client(replica(-120, fails=False), SECRET) as behind:
        await until(lambda: len(calls) > 1)
        await behind.idle()
        (message,) = (await behind.receiver.inbox.page()).messages
        assert message.state == "handled"
    assert time.monotonic() - begun < 60


async def test_a_sweep_while_the_clock_is_wrong_forgets_nothing(url: str) -> None:
    """Four months ahead: a copy is still one. The clock is believed by a day an hour at most, once
    for all processes; and at once where it is right again."""
    clock, at_s, ran = Clock(), [0.0], []
    receiver = Receiver(settings_of(url), now_ms=clock)
    receiver.on("completed")(lambda event: ran.append(event.job_id))
    async with Client(receiver, SECRET, clock=clock) as client:
        sweep, inbox = receiver._opened.sweeper.sweep, receiver.inbox
        inbox._trust._monotonic = lambda: at_s[0]
        await sweep()
        await client.send(JOB, message_id="m")
        await client.idle()
        clock.advance(timedelta(days=120))
        for _ in range(10):
            await sweep()
        at_s[0] += STEP_EVERY_S
        await sweep()
        assert (await inbox.trusted_ms(clock())) == clock() - 119 * DAY_MS
        clock.advance(-timedelta(days=120))
        await sweep()
        assert (await inbox.trusted_ms(clock())) == clock()
        assert await client.send(JOB, message_id="m") == "duplicate"
        for _ in range(125):  # days that pass are believed as they come
            clock.advance(timedelta(days=1))
            await sweep()
        assert (await inbox.page()).messages == []
    assert ran == ["job_1"]


async def test_what_was_asked_or_expected_by_a_clock_ahead_is_asked_in_time(url: str) -> None:
    """A far `by` of the caller's own stays as it is."""
    inbox = await Place(url).open()
    ahead_ms = NOW_MS + 3 * DAY_MS
    for job_id, now_ms, ask_ms in (
        ("asked", NOW_MS, NOW_MS),
        ("made ahead", ahead_ms, ahead_ms + 60_000),
        ("far", NOW_MS, NOW_MS + 300 * DAY_MS),
    ):
        await inbox.expect(
            NewExpectation(
                source="/webhooks",
                job_id=job_id,
                status_url="https://api.example.com/s",
                credentials=None,
                platform="auto",
                now_ms=now_ms,
                ask_ms=ask_ms,
            )
        )

    async def take(now_ms: int) -> set[str]:
        taken, _ = await inbox.take_expected(
            now_ms=now_ms,
            until_ms=now_ms + 15_000,
            limit=10,
            sources=("/webhooks",),
            wait_max_ms=900_000,
        )
        return {one.job_id for one in taken}

    assert await take(ahead_ms) == {"asked"}
    assert await take(NOW_MS) == {"asked"}
    assert await take(NOW_MS + 61_000) == {"asked", "made ahead"}
    assert await take(NOW_MS + 300 * DAY_MS) == {"asked", "made ahead", "far"}
    await inbox.close()


@pytest.mark.parametrize("lives", [True, False])
async def test_leases_go_by_their_observers_own_clock(
    empty_postgres: str,  # noqa: F811
    lives: bool,
) -> None:
    """The database's clock leapt: a replica that renews keeps what it runs, though its leases ended
    long ago by that clock; one that is gone does not, though they end in a year."""
    place = Place(empty_postgres)
    holder = await place.open()
    await holder.receive(message("job_1", has_handler=True))
    (held,) = (await holder.claim(now_ms=NOW_MS, limit=1)).claimed
    far_ms = 1 if lives else round(time.time() * 1000) + 365 * DAY_MS
    calls: list[int] = []
    receiver = Receiver(settings_of(empty_postgres, lease=0.6))
    receiver.on("*")(lambda event: calls.append(event.attempt))
    with psycopg.connect(empty_postgres, autocommit=True) as db:
        async with Client(receiver, SECRET):
            for _ in range(15):
                if lives:
                    assert await holder.renew([(held.id, held.fence)]) == {held.id}
                db.execute(f"UPDATE {SCHEMA}.messages SET lease_ms = %s + lease_ms %% 7", (far_ms,))
                if not lives:
                    await until(lambda: len(calls) == 1)
                    break
                await asyncio.sleep(0.1)
    assert calls == ([] if lives else [2])
    await holder.close()
