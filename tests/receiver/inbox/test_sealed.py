"""Sealed messages behave as plain ones do, in each place where an inbox may lie, and mixed with
them: known again, told apart, handed over, shown; and what no key opens waits for its key."""

import asyncio
import sqlite3
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest

from receiver.base.db.postgres import oldest_reader
from receiver.base.settings import SettingError
from receiver.inbox import reencrypt
from receiver.inbox.attempts import Settlement
from receiver.inbox.expectations import AskResult, NewExpectation
from receiver.inbox.inbox import Inbox, InboxError, InboxUnavailable
from receiver.inbox.message import Message
from receiver.inbox.postgres.database import MIGRATIONS, SCHEMA
from receiver.inbox.reencrypt import Sealing
from receiver.settings import Settings
from tests.receiver.inbox.messages import NOW_MS, message
from tests.receiver.inbox.places import Place, key

K1, K2 = (key("k1"),), (key("k2"),)
BOTH = (key("k2"), key("k1"))
PLAIN: tuple[str, ...] = ()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path}/receiver.db")
    return Place(request.getfixturevalue("empty_postgres"))


@asynccontextmanager
async def opened(place: Place, keys: tuple[str, ...]) -> AsyncIterator[Inbox]:
    before = sessions(place)
    inbox = await place.open(keys=keys)
    try:
        yield inbox
    finally:
        await inbox.close()
        # Its server may take a moment to see that: until then it is another process that uses it.
        ends_s = time.monotonic() + 10
        while sessions(place) > before and time.monotonic() < ends_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def sessions(place: Place) -> int:
    """How many a server has that use this database."""
    if place.url.startswith("sqlite"):
        return 0
    with psycopg.connect(place.url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    return row[0] if row else 0


def rows(place: Place, sql: str) -> list[tuple[Any, ...]]:
    """What is stored, as a thief reads it."""
    connection: Any
    if place.url.startswith("sqlite"):
        connection = sqlite3.connect(place.url.removeprefix("sqlite:///"))
    else:
        connection = psycopg.connect(place.url, options=f"-c search_path={SCHEMA}")
    with closing(connection):
        found: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
        connection.commit()
    return found


def change(place: Place, sql: str) -> None:
    """Change what is stored, while nobody has it open."""
    connection: Any
    if place.url.startswith("sqlite"):
        connection = sqlite3.connect(place.url.removeprefix("sqlite:///"))
    else:
        connection = psycopg.connect(place.url, options=f"-c search_path={SCHEMA}")
    with closing(connection):
        connection.execute(sql)
        connection.commit()


async def reseal_all(inbox: Inbox) -> tuple[int, int]:
    """Seal all that there is; (values sealed, values that no key opens)."""
    sealed = unreadable = 0
    place: reencrypt.Place | None = reencrypt.START
    while place is not None:
        done = await inbox.reseal(reencrypt.from_text(reencrypt.to_text(place)))
        sealed, unreadable = sealed + done.sealed, unreadable + done.unreadable
        place = done.next
    return sealed, unreadable


async def claim(inbox: Inbox, limit: int = 10) -> list[tuple[int, bytes, int]]:
    batch = await inbox.claim(now_ms=NOW_MS, limit=limit)
    return [(one.id, one.body, one.attempt) for one in batch.claimed]


async def handle(inbox: Inbox, id: int, fence: int = 1) -> None:
    assert await inbox.settle(Settlement(id=id, fence=fence, state="handled", now_ms=NOW_MS))


async def verdicts(inbox: Inbox, messages: Sequence[Message]) -> list[str]:
    return [await inbox.receive(one) for one in messages]


async def test_nothing_of_a_body_is_stored_and_its_hash_is_no_use_for_guesses(
    place: Place,
) -> None:
    """Neither its bytes, nor a hash that somebody with a guess could compare."""
    sent = message(text="secret text", has_handler=True)
    async with opened(place, K1) as inbox:
        assert await inbox.receive(sent) == "accepted"
        shown = await inbox.show(1)
        (listed,) = (await inbox.page()).messages
    assert shown is not None
    assert (shown.body, shown.body_sha256) == (sent.body, sha256(sent.body).digest())
    assert (shown.kid, shown.unread, listed.body_sha256) == ("k1", None, None)
    ((body, hashed, kid, size),) = rows(
        place, "SELECT body, body_sha256, kid, body_bytes FROM messages JOIN bodies USING (id)"
    )
    assert bytes(body).startswith(b"enc1:k1:")
    assert b"secret" not in bytes(body)
    assert bytes(hashed) != sha256(sent.body).digest()
    assert (kid, size) == ("k1", len(sent.body))


async def test_copies_are_known_across_sealing_rotation_and_pruning(place: Place) -> None:
    """A copy is a duplicate, and another end a conflict, however its original is stored: plain,
    sealed, sealed anew, and once its body is gone."""
    sent = [
        message("done", text="1"),
        message("going", "running", id="m1"),
        message(None, None, id="m2"),
        message("pruned", text="1"),
    ]
    others = [
        message("done", text="2"),
        message("going", "running", id="m1", text="other"),
        message(None, None, id="m2", text="other"),
        message("pruned", text="2"),
    ]
    all_known = ["duplicate"] * len(sent)
    async with opened(place, PLAIN) as inbox:
        assert await verdicts(inbox, sent) == ["accepted"] * len(sent)
        await inbox.prune(bodies_before_ms=NOW_MS + 1, messages_before_ms=0)
    async with opened(place, K1) as inbox:
        assert await verdicts(inbox, sent) == all_known
        assert await verdicts(inbox, others) == ["conflict"] * len(sent)
        assert await verdicts(inbox, others) == all_known
        sealed, unreadable = await reseal_all(inbox)
        assert (sealed, unreadable) == (len(sent), 0)
        assert await reseal_all(inbox) == (0, 0)
        assert await verdicts(inbox, sent) == all_known
    async with opened(place, BOTH) as inbox:
        assert await verdicts(inbox, sent + others) == 2 * all_known
        later = message("later", text="1")
        assert await inbox.receive(later) == "accepted"
        sealed, unreadable = await reseal_all(inbox)
        assert (sealed, unreadable) == (2 * len(sent), 0)
    async with opened(place, K2) as inbox:
        assert await verdicts(inbox, [*sent, *others, later]) == [
            *all_known,
            *all_known,
            "duplicate",
        ]
        assert await inbox.receive(message("done", text="3")) == "conflict"
        assert inbox.seals is not None
        assert inbox.seals.lost == ()
    assert rows(place, "SELECT DISTINCT kid FROM seals") == [("k2",)]


async def test_sealed_and_plain_ones_are_handed_over_and_listed_alike(place: Place) -> None:
    """Whoever handles them sees the bytes that came."""
    plain = message("job_1", text="plain", has_handler=True)
    sealed = message("job_2", text="sealed", has_handler=True)
    async with opened(place, PLAIN) as inbox:
        await inbox.receive(plain)
    async with opened(place, K1) as inbox:
        await inbox.receive(sealed)
        assert await claim(inbox) == [(1, plain.body, 1), (2, sealed.body, 1)]
        for id in (1, 2):
            failed = Settlement(
                id=id, fence=1, state="dead", now_ms=NOW_MS, error="ValueError: secret text"
            )
            assert await inbox.settle(failed)
        shown = [await inbox.show(id) for id in (1, 2)]
        assert {one.error for one in shown if one} == {"ValueError: secret text"}
        assert await inbox.replay_all("dead", NOW_MS) == 2
        assert await claim(inbox) == [(1, plain.body, 1), (2, sealed.body, 1)]
        await handle(inbox, 1, 2)
        await handle(inbox, 2, 2)
        assert await inbox.prune(bodies_before_ms=NOW_MS + 1, messages_before_ms=0) == (2, 0)
        assert await inbox.prune(bodies_before_ms=0, messages_before_ms=NOW_MS + 1) == (0, 2)


async def test_what_a_failed_attempt_left_is_sealed(place: Place) -> None:
    """A traceback may quote what came; without a ring none is taken for a sealed one."""
    async with opened(place, PLAIN) as inbox:
        await inbox.receive(message("job_1", has_handler=True))
        await claim(inbox)
        failed = Settlement(id=1, fence=1, state="dead", now_ms=NOW_MS, error="enc1:k1: no, text")
        await inbox.settle(failed)
    async with opened(place, K1) as inbox:
        shown = await inbox.show(1)
        assert shown is not None
        assert shown.error == " enc1:k1: no, text"
        await inbox.receive(message("job_2", has_handler=True))
        await claim(inbox)
        await inbox.settle(
            Settlement(id=2, fence=1, state="dead", now_ms=NOW_MS, error="secret text")
        )
        shown = await inbox.show(2)
        assert shown is not None
        assert shown.error == "secret text"
        assert "secret" not in str(rows(place, "SELECT error FROM failures"))
        assert (await inbox.stats())[1]["failures"] == Sealing(plain=1, sealed=1)
        assert await reseal_all(inbox) == (2, 0)
        assert (await inbox.stats())[1]["failures"] == Sealing(sealed=2)
        shown = await inbox.show(1)
        assert shown is not None
        assert shown.error == " enc1:k1: no, text"


async def test_what_no_key_opens_waits_for_its_key_and_spends_nothing(place: Place) -> None:
    """It is not handled, not dead, not met again and again; what comes in is stored and handled;
    and once its key is back it is handled as if nothing had been."""
    old, new = message("old", has_handler=True), message("new", has_handler=True)
    async with opened(place, K1) as inbox:
        await inbox.receive(old)
    async with opened(place, K2) as inbox:
        assert inbox.seals is not None
        assert inbox.seals.lost == ("k1",)
        batch = await inbox.claim(now_ms=NOW_MS, limit=10)
        assert batch.claimed == []
        (why,) = batch.unread
        assert "k1" in why
        assert (await inbox.claim(now_ms=NOW_MS + 86_400_000, limit=10)).unread == []
        assert await inbox.wake_unreadable(NOW_MS) == 0
        assert await inbox.due_ms() is None
        assert (await inbox.unreadable(), (await inbox.backlog()).unreadable) == (1, 1)
        shown = await inbox.show(1)
        assert shown is not None
        assert (shown.state, shown.attempts, shown.body, shown.due_ms) == ("pending", 0, None, None)
        assert "k1" in (shown.unread or "")
        (listed,) = (await inbox.page()).messages
        assert "k1" in (listed.unread or "")
        assert await inbox.receive(new) == "accepted"
        assert await claim(inbox) == [(2, new.body, 1)]
        await handle(inbox, 2)
        assert await inbox.receive(message("old", text="1", has_handler=True)) == "conflict"
        assert await reseal_all(inbox) == (0, 1)
        assert (await inbox.stats())[1]["messages"] == Sealing(sealed=2, unreadable=1)
    async with opened(place, BOTH) as inbox:
        assert await inbox.wake_unreadable(NOW_MS) == 1
        assert await inbox.unreadable() == 0
        assert await claim(inbox) == [(1, old.body, 1)]
        await handle(inbox, 1, 2)
        assert await verdicts(inbox, [old, new]) == ["duplicate", "duplicate"]


async def test_a_body_in_another_place_opens_nowhere(place: Place) -> None:
    """Who can write to the database can still not have one message handled as another one."""
    async with opened(place, K1) as inbox:
        for n in (1, 2):
            await inbox.receive(message(f"job_{n}", has_handler=True))
        await inbox.receive(message("job_3", has_handler=True, source="/a"))
    change(place, "UPDATE bodies SET body = (SELECT body FROM bodies WHERE id = 2) WHERE id = 1")
    change(place, "UPDATE messages SET source = '/b' WHERE id = 3")
    async with opened(place, K1) as inbox:
        batch = await inbox.claim(now_ms=NOW_MS, limit=10)
        assert [one.id for one in batch.claimed] == [2]
        assert len(batch.unread) == 2
        shown = await inbox.show(1)
        assert shown is not None
        assert (shown.body, shown.unread is None) == (None, False)


async def test_status_urls_and_what_they_answered_are_sealed(place: Place) -> None:
    """A URL may hold a token; with its key away the job is neither asked for nor lost."""
    url = "https://status.example/job_1?token=secret-token"
    new = NewExpectation(
        source="/webhooks", job_id="job_1", status_url=url, credentials="acme",
        platform="auto", now_ms=NOW_MS, ask_ms=NOW_MS,
    )  # fmt: skip
    async with opened(place, PLAIN) as inbox:
        assert (await inbox.expect(new)).status_url == url
    async with opened(place, K1) as inbox:
        (listed,) = await inbox.expectations(state=None, limit=10)
        assert listed.status_url == url
        assert await reseal_all(inbox) == (1, 0)
        (taken,), _ = await inbox.take_expected(now_ms=NOW_MS, until_ms=NOW_MS, limit=10)
        assert (taken.status_url, taken.unread) == (url, None)
        result = AskResult(
            source="/webhooks", job_id="job_1", now_ms=NOW_MS, ask_ms=NOW_MS,
            failing_since_ms=NOW_MS, error="it answered secret-token",
        )  # fmt: skip
        await inbox.record_ask(result)
        (listed,) = await inbox.expectations(state=None, limit=10)
        assert listed.last_error == "it answered secret-token"
    assert "secret-token" not in str(rows(place, "SELECT * FROM expectations"))
    async with opened(place, K2) as inbox:
        (taken,), _ = await inbox.take_expected(now_ms=NOW_MS, until_ms=NOW_MS, limit=10)
        assert (taken.status_url, taken.state) == ("", "expected")
        assert "k1" in (taken.unread or "")
        assert (await inbox.stats())[1]["expectations"] == Sealing(unreadable=1)
    async with opened(place, BOTH) as inbox:
        assert (await inbox.stats())[1]["expectations"] == Sealing(old=1)
        assert await reseal_all(inbox) == (1, 0)
    async with opened(place, K2) as inbox:
        (listed,) = await inbox.expectations(state=None, limit=10)
        assert (listed.status_url, listed.last_error) == (url, "it answered secret-token")


async def test_without_its_ring_a_sealed_inbox_does_not_open(place: Place) -> None:
    """Copies would not be known as such: so it says which key is missing, and where it goes."""
    async with opened(place, K1) as inbox:
        await inbox.receive(message())
    with pytest.raises(InboxError, match=r"key k1: set RECEIVER_ENCRYPTION_KEYS"):
        await place.open(keys=PLAIN)


async def test_another_key_of_the_same_name_opens_nothing_and_loses_nothing(place: Place) -> None:
    """Names are the operator's to give; one given twice must not write over the other one's."""
    other = (f"k1:{b64encode(sha256(b'another').digest()).decode()}",)
    sent = message(has_handler=True)
    async with opened(place, K1) as inbox:
        await inbox.receive(sent)
    async with opened(place, other) as inbox:
        batch = await inbox.claim(now_ms=NOW_MS, limit=10)
        assert (batch.claimed, len(batch.unread)) == ([], 1)
        assert await reseal_all(inbox) == (0, 0)  # by its name it is what it should be
    async with opened(place, K1) as inbox:
        await inbox.wake_unreadable(NOW_MS)
        assert await claim(inbox) == [(1, sent.body, 1)]
        assert await inbox.receive(sent) == "duplicate"


async def test_resealing_goes_on_from_where_it_was_and_takes_slices(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small a slice is; a place that is none of ours is refused."""
    monkeypatch.setattr(reencrypt, "SLICE_ROWS", 2)
    async with opened(place, PLAIN) as inbox:
        for n in range(25):
            await inbox.receive(message(f"job_{n}"))
    async with opened(place, K1) as inbox:
        first = await inbox.reseal(reencrypt.START)
        assert first.sealed == 2
        second = await inbox.reseal(first.next or reencrypt.START)
        assert second.sealed == 2
        assert (await inbox.stats())[1]["messages"] == Sealing(plain=21, sealed=4)
    async with opened(place, K1) as inbox:
        assert await reseal_all(inbox) == (21, 0)
    for text in ("", "m", "WzFd", "bm8=", "ÿ"):
        with pytest.raises(ValueError, match=r"none|not one of ours"):
            reencrypt.from_text(text)
    async with opened(Place(place.url), K1) as inbox:
        assert (await inbox.stats())[1]["messages"] == Sealing(sealed=25)


async def test_replicas_get_their_first_key_one_after_the_other(empty_postgres: str) -> None:
    """Who has no key would neither know copies nor read bodies: so nothing is sealed while one is
    there without, and each knows the other's copies; and from then on none without opens it, nor
    goes on with it."""
    place = Place(empty_postgres)
    plain = await place.open(keys=PLAIN)
    sent = [message(f"job_{n}") for n in range(4)]
    assert await plain.receive(sent[0]) == "accepted"
    with pytest.raises(InboxError, match="without RECEIVER_ENCRYPTION_KEYS use the inbox"):
        await place.open(keys=K1, encryption="required")
    async with opened(place, K1) as keyed:
        assert not await keyed.begin_sealing()
        assert await keyed.receive(sent[1]) == "accepted"
        assert await keyed.receive(sent[0]) == "duplicate"
        assert await plain.receive(sent[1]) == "duplicate"
        with pytest.raises(ValueError, match="stop them"):
            await keyed.reseal(reencrypt.START)
        assert rows(place, "SELECT DISTINCT kid FROM messages") == [(None,)]
        async with opened(place, PLAIN) as another:
            assert await another.receive(sent[0]) == "duplicate"
        assert _oldest(empty_postgres) == 1
        _end_plain_sessions(empty_postgres)
        assert await keyed.begin_sealing()
        assert _oldest(empty_postgres) == len(MIGRATIONS)
        async with opened(place, BOTH) as second:
            for first, other, one in ((keyed, second, sent[2]), (second, keyed, sent[3])):
                assert await first.receive(one) == "accepted"
                assert await other.receive(one) == "duplicate"
            assert await verdicts(second, sent) == ["duplicate"] * len(sent)
        with pytest.raises(InboxUnavailable, match=r"key k1.*: set RECEIVER_ENCRYPTION_KEYS"):
            await plain.receive(sent[0])
        with pytest.raises(InboxError, match="not in RECEIVER_ENCRYPTION_KEYS"):
            await place.open(keys=(key("k3"),))
        assert (await keyed.stats())[1]["messages"] == Sealing(plain=2, sealed=1, unreadable=1)
    await plain.close()


async def test_replicas_with_keys_in_another_order_share_an_inbox(empty_postgres: str) -> None:
    """As during a rotation: each knows the other's copies and handles the other's messages, also
    while all is sealed anew."""
    place = Place(empty_postgres)
    async with opened(place, (key("k1"), key("k2"))) as old, opened(place, BOTH) as new:
        sent = [message(f"job_{n}", has_handler=True) for n in range(40)]
        for n, one in enumerate(sent):
            first, second = (old, new) if n % 2 else (new, old)
            assert await first.receive(one) == "accepted"
            assert await second.receive(one) == "duplicate"
        assert {kid for (kid,) in rows(place, "SELECT kid FROM messages")} == {"k1", "k2"}
        claimed = await claim(old, 20)
        assert await reseal_all(new) == (20, 0)
        claimed += await claim(old, 10) + await claim(new, 10)
        assert sorted(body for _, body, _ in claimed) == sorted(one.body for one in sent)
        assert await verdicts(old, sent) == ["duplicate"] * len(sent)


def _oldest(url: str) -> int | None:
    with psycopg.connect(url, options=f"-c search_path={SCHEMA}") as connection:
        return oldest_reader(connection, "schema_version")


def _end_plain_sessions(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'postback receiver'"
        )


def test_keys_that_are_none_are_told_in_one_line() -> None:
    """The variable is named, and the key is not quoted."""
    for keys, encryption, told in (
        (("k1:c2hvcnQ=",), "auto", "RECEIVER_ENCRYPTION_KEYS"),
        ((), "required", "RECEIVER_ENCRYPTION=required needs RECEIVER_ENCRYPTION_KEYS"),
        (K1, "always", "RECEIVER_ENCRYPTION must be auto or required"),
    ):
        with pytest.raises(SettingError, match=told) as caught:
            Settings(encryption_keys=keys, encryption=encryption)  # type: ignore[arg-type]
        assert "c2hvcnQ" not in str(caught.value)
