"""Jobs that are waited for: at any time, for any time, beside their callback."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from receiver import Receiver, Settings
from receiver.inbox.expectations import Expectation, NewExpectation
from receiver.inbox.postgres.database import SCHEMA
from receiver.testing import Client, Clock
from tests.receiver.conftest import empty_postgres, postgres_url  # noqa: F401 - fixtures
from tests.receiver.inbox.messages import NOW_MS, message
from tests.receiver.inbox.places import Place
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
KEY = "test-admin-key-of-tests"
URL = "https://api.example.com/s"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/inbox.db"
    return str(request.getfixturevalue("empty_postgres"))


@pytest.fixture
async def receiver(url: str) -> AsyncIterator[Receiver]:
    opened = Receiver(Settings(secrets=(SECRET,), database_url=url, admin_key=KEY))
    async with opened:
        yield opened


def admin(receiver: Receiver) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=receiver),
        base_url="http://receiver",
        headers={"Authorization": f"Bearer {KEY}"},
    )


@pytest.mark.parametrize(
    ("by", "status"),
    [
        (60, 200),
        (-5, 200),
        ("0001-01-01T00:00:00+10:00", 200),  # long ago: it is asked for at once
        ("0001-01-01T00:00:00-10:00", 200),
        ("9999-12-31T23:59:59-10:00", 422),
        (1_795_629_865_107, 422),  # a time, in milliseconds
        (1_795_629_865, 422),
        (1e308, 422),
        ("2030-01-31T12:00:00", 422),
        (None, 422),
    ],
)
async def test_a_far_by_is_a_422_and_the_listing_goes_on(
    receiver: Receiver, by: Any, status: int
) -> None:
    """Milliseconds of the epoch, say: nothing is stored."""
    async with admin(receiver) as client:
        document = {"jobId": "job_1", "statusUrl": URL, "by": by}
        assert (await client.post("/expected", json=document)).status_code == status
        listed = await client.get("/expected")
        assert listed.status_code == 200
        assert len(listed.json()["data"]) == (status == 200)


async def test_a_far_time_that_is_stored_already_is_shown(receiver: Receiver) -> None:
    """As the last moment that can be."""
    new = NewExpectation(
        source="/webhooks",
        job_id="job_1",
        status_url=URL,
        credentials=None,
        platform="auto",
        now_ms=NOW_MS,
        ask_ms=NOW_MS + 1_795_629_865_107_000,
    )
    await receiver.inbox.expect(new)
    async with admin(receiver) as client:
        (shown,) = (await client.get("/expected")).json()["data"]
    assert shown["nextAskAt"] == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    "wrong",
    [
        {"job_id": 1},
        {"job_id": ""},
        {"status_url": None},
        {"status_url": b"https://a.example/"},
        {"by": 60},
        {"by": "2030-01-31T12:00:00Z"},
        {"by": datetime(2030, 1, 1)},  # noqa: DTZ001 - that is what is wrong with it
        {"by": timedelta.max},
        {"by": datetime.max.replace(tzinfo=timezone(timedelta(hours=-10)))},
        {"credentials": 1},
        {"platform": "run-pod"},
        {"platform": None},
        {"source": 1},
        {"source": "/none"},
    ],
)
async def test_arguments_of_expect_are_checked(receiver: Receiver, wrong: dict[str, Any]) -> None:
    """ValueError, and nothing is stored."""
    given = {"job_id": "job_1", "status_url": URL, "by": datetime.now(UTC), **wrong}
    with pytest.raises(ValueError, match=r"."):
        await receiver.expect(**given)
    assert await receiver.inbox.expectations(state=None, limit=1) == []


async def test_expecting_a_job_beside_its_callback_knows_it(empty_postgres: str) -> None:  # noqa: F811
    """A replica is storing the end just now: whoever expects the job waits for that."""
    place = Place(empty_postgres)
    storing, expecting = await place.open(), await place.open()
    with psycopg.connect(empty_postgres) as other:
        other.execute(f"SET search_path = {SCHEMA}")
        other.execute("LOCK TABLE bodies IN EXCLUSIVE MODE")  # the end is held up, half stored
        end = asyncio.create_task(storing.receive(message("job_1")))
        await until(lambda: _waits(empty_postgres, 1))
        expect = asyncio.create_task(expecting.expect(_new("job_1")))
        await until(lambda: _waits(empty_postgres, 2))
        other.commit()
    assert await end == "accepted"
    assert (await expect).state == "known"
    (one,) = await storing.expectations(state=None, limit=2)
    assert one.state == "known"
    await asyncio.gather(storing.close(), expecting.close())


def _new(job_id: str) -> NewExpectation:
    return NewExpectation(
        source="/webhooks",
        job_id=job_id,
        status_url=URL,
        credentials=None,
        platform="auto",
        now_ms=NOW_MS,
        ask_ms=NOW_MS,
    )


def _waits(url: str, count: int) -> bool:
    """Whether as many sessions wait for a lock."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
        ).fetchone()
    return row is not None and row[0] >= count


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_an_end_that_comes_again_settles_what_waits(
    url: str, status: str, tmp_path: Path
) -> None:
    """A duplicate, or a conflict: the job's end is known, however that was missed."""
    inbox = await Place(url).open()
    await inbox.receive(message("job_1"))
    await inbox.expect(_new("job_1"))
    await inbox._write(
        lambda tx: tx.run("UPDATE expectations SET state = 'expected', ask_ms = ?", NOW_MS)
    )
    assert await inbox.receive(message("job_1", status)) in ("duplicate", "conflict")
    (one,) = await inbox.expectations(state=None, limit=2)
    assert (one.state, one.ask_ms) == ("known", None)
    await inbox.close()


async def test_expectations_are_forgotten_all_at_once(tmp_path: Path) -> None:
    """However many, and without any message to prune."""
    clock = Clock()
    settings = Settings(secrets=(SECRET,), database_url=f"sqlite:///{tmp_path}/inbox.db")
    receiver = Receiver(settings, now_ms=clock)
    async with Client(receiver, SECRET, clock=clock) as client:
        await receiver.inbox._write(
            lambda tx: tx.many(
                "INSERT INTO expectations (source, job_id, status_url, platform, state, "
                "created_ms, settled_ms) VALUES ('/webhooks', ?, '', 'auto', 'known', 0, 0)",
                [(f"job_{n}",) for n in range(450)],
            )
        )
        await client.advance(timedelta(days=1))
        await receiver.prune()
        left: list[Expectation] = await receiver.inbox.expectations(state=None, limit=500)
    assert left == []
