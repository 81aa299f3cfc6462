"""How long what is done with is kept, and what nobody would ever end."""

import os
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

import dispatcher.settings
from dispatcher.policy import Policy
from receiver import Event, Receiver, Settings
from receiver.base.db import sqlite
from receiver.base.settings import SettingError
from receiver.inbox.expectations import NewExpectation
from receiver.inbox.retention import ENDLESS
from receiver.testing import Client, Clock
from tests.receiver.conftest import empty_postgres, postgres_url  # noqa: F401 - fixtures
from tests.receiver.inbox.messages import NOW_MS, message
from tests.receiver.inbox.places import Place

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
DAY_S = 86_400
URLS = ["sqlite", "postgres"]


def url_of(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if store == "sqlite":
        return f"sqlite:///{tmp_path}/inbox.db"
    return str(request.getfixturevalue("empty_postgres"))


def test_messages_are_remembered_for_longer_than_a_callback_can_be_replayed() -> None:
    """One that is received, whose answer is lost until it is dead, and that is replayed on the
    last day of that, is still a duplicate."""
    sender = dispatcher.settings.Settings()
    ends_s = Policy(attempts=1).max_age + sender.keep_dead
    assert Settings(secrets=(SECRET,)).keep_messages > ends_s + 7 * DAY_S  # a week on top


@pytest.mark.parametrize("store", URLS)
async def test_dead_messages_and_endless_jobs_end_after_their_period(
    store: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said in the log; not by a prune that an operator asked for, and not what waits."""
    clock = Clock()
    caplog.set_level("WARNING", "receiver")
    url = url_of(store, request, tmp_path)
    settings = Settings(
        secrets=(SECRET,), database_url=url, handler_attempts=1, keep_dead=200 * DAY_S
    )
    receiver = Receiver(settings, now_ms=clock)

    @receiver.on("*")
    def fails(event: Event) -> None:
        raise RuntimeError

    async with Client(receiver, SECRET, clock=clock) as client:
        sweep = receiver._opened.sweeper.sweep
        await client.send({"jobId": "dead", "status": "completed"})
        await client.idle()
        for job_id, by_days in (("endless", 0), ("far", 300)):
            new = NewExpectation(
                source="/webhooks",
                job_id=job_id,
                status_url="http://127.0.0.1:1/",
                credentials=None,
                platform="auto",
                now_ms=clock(),
                ask_ms=clock() + by_days * DAY_S * 1000,
            )
            await receiver.inbox.expect(new)
        await receiver.inbox.take_expected(now_ms=clock(), until_ms=clock() + 10**12, limit=9)
        for days in (0, 199, 1.5):
            clock.advance(timedelta(days=days))
            receiver.inbox._trust._seen = None
            await receiver.inbox._write(lambda tx: tx.run("DELETE FROM sweeps"))
            await receiver.prune(0)
            kept = len((await receiver.inbox.page()).messages)
            await sweep()
            assert kept == 1
        assert (await receiver.inbox.page()).messages == []
        jobs = {one.job_id: one for one in await receiver.inbox.expectations(state=None, limit=9)}
        assert (jobs["endless"].state, jobs["endless"].last_error) == ("lost", ENDLESS)
        assert jobs["far"].state == "expected"
        assert "given up" in caplog.text


def test_dead_messages_are_not_forgotten_before_others() -> None:
    """A copy of one would be new."""
    with pytest.raises(SettingError, match="RECEIVER_KEEP_DEAD"):
        Settings(secrets=(SECRET,), keep_dead=DAY_S)


async def test_pruning_gives_all_pages_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a megabyte an hour, and by the megabyte, not by the page."""
    inbox = await Place(f"sqlite:///{tmp_path}/inbox.db").open()
    for n in range(200):
        await inbox.receive(message(f"job_{n}", text=os.urandom(20_000).hex()))
    far_ms = NOW_MS + 1
    given: list[int] = []

    def counted(connection: sqlite3.Connection, pages: int) -> int:
        given.append(sqlite.give_back(connection, pages))
        return given[-1]

    monkeypatch.setattr("receiver.inbox.sqlite.database.give_back", counted)
    assert await inbox.prune(bodies_before_ms=far_ms, messages_before_ms=far_ms) == (200, 200)
    await inbox.close()
    assert len(given) > 5
    assert set(given[:-1]) == {256}
    db = sqlite3.connect(tmp_path / "inbox.db")
    assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
    db.close()


@pytest.mark.parametrize("store", URLS)
async def test_a_copy_counts_on_the_first_of_several(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The same on both databases, whatever their ids are."""
    inbox = await Place(url_of(store, request, tmp_path)).open()
    for id in ("b", "a", None):
        await inbox.receive(message(status="running", id=id))
    stored = {one.message_id: one.duplicates for one in (await inbox.page()).messages}
    assert stored == {"b": 1, "a": 0}
    await inbox.close()


@pytest.mark.parametrize("store", URLS)
async def test_registrations_of_ended_processes_do_not_pile_up(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """One that starts takes the place of those that are gone; one that lives keeps its own."""
    inbox = await Place(url_of(store, request, tmp_path)).open()
    wanted = frozenset({("/webhooks", "completed")})
    for n in range(5):
        await inbox.register(f"process {n}", ["/webhooks"], wanted, NOW_MS + n * 601_000)
    last = "process 4"
    await inbox.register("beside", ["/webhooks"], wanted, NOW_MS + 4 * 601_000)
    rows = await inbox._read(lambda tx: tx.all("SELECT DISTINCT process FROM handlers"))
    beside = {"beside"} if store == "sqlite" else {"beside", last}
    assert {process for (process,) in rows} == beside
    await inbox.close()
