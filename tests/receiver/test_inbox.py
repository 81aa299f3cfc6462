"""inbox.py on real files: stored once, durable, alone on its file, and up again by itself."""

import asyncio
import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from receiver.guard import kind_of
from receiver.message import Message
from receiver.store.commit import on_thread
from receiver.store.inbox import Inbox, InboxError, InboxUnavailable
from receiver.store.migrate import APPLICATION_ID, migrations


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "receiver.db")


@pytest.fixture
async def inbox(path: str) -> AsyncIterator[Inbox]:
    opened = await Inbox.open(path, lock_timeout_s=0.05, read_timeout_s=0.5)
    yield opened
    await opened.close()


async def open_inbox(path: str) -> Inbox:
    return await Inbox.open(path)


def message(
    job_id: str | None = "job_1",
    status: str | None = "completed",
    *,
    id: str | None = None,
    text: str = "",
    source: str = "/webhooks",
) -> Message:
    return Message(
        source=source,
        message_id=id,
        body=f"{job_id} {status} {text}".encode(),
        content_type="application/json",
        kind=kind_of(job_id, status),
        job_id=job_id,
        job_status=status,
        sent_ms=None,
        received_ms=1_700_000_000_000,
    )


async def test_fifty_copies_at_once_are_one_message(inbox: Inbox) -> None:
    """One is accepted, forty-nine are duplicates, and one row counts them."""
    verdicts = await asyncio.gather(*(inbox.receive(message(id="cb_1")) for _ in range(50)))
    assert Counter(verdicts) == {"accepted": 1, "duplicate": 49}
    (stored,) = (await inbox.page()).messages
    assert (stored.verdict, stored.duplicates) == ("accepted", 49)


async def test_fifty_different_ends_at_once_end_a_job_once(inbox: Inbox) -> None:
    """One is accepted; the others are kept beside it as conflicts."""
    ends = [message(id=f"cb_{n}", text=str(n)) for n in range(50)]
    verdicts = await asyncio.gather(*(inbox.receive(end) for end in ends))
    assert Counter(verdicts) == {"accepted": 1, "conflict": 49}
    assert len((await inbox.page(verdict="conflict", limit=100)).messages) == 49


async def test_the_verdicts_of_a_job_in_turn(inbox: Inbox) -> None:
    """Progress, its copy, the end, its copy under another id, another end, late progress."""
    story = [
        (message(status="running", id="m1"), "accepted"),
        (message(status="running", id="m1"), "duplicate"),
        (message(status="running", id="m2"), "accepted"),
        (message(status="running"), "duplicate"),
        (message(id="m3"), "accepted"),
        (message(id="m4"), "duplicate"),
        (message(), "duplicate"),
        (message(status="failed", id="m5"), "conflict"),
        (message(status="failed", id="m5"), "duplicate"),
        (message(id="m6", text="other bytes"), "conflict"),
        (message(status="running", id="m7"), "late"),
        (message(status="running", id="m1"), "duplicate"),
        (message(None, None, id="m8"), "accepted"),
        (message(None, None, id="m9"), "accepted"),
        (message(None, None, id="m9", text="x"), "conflict"),
        (message("job_2", id="m3"), "accepted"),
    ]
    assert [(m, await inbox.receive(m)) for m, _ in story] == story


async def test_two_sources_never_share_a_job(inbox: Inbox) -> None:
    """The same id from another platform is another job."""
    assert await inbox.receive(message(id="m1", source="/a")) == "accepted"
    assert await inbox.receive(message(id="m1", source="/b")) == "accepted"


async def test_a_random_history_ends_every_job_once(inbox: Inbox, path: str) -> None:
    """Hundreds of concurrent messages: the rows agree with every answer."""
    random = Random(7)
    history = [
        message(
            f"job_{random.randrange(20)}",
            random.choice(["completed", "FAILED", None, "running", "queued"]),
            id=random.choice([None, f"m{random.randrange(100)}"]),
            text=str(random.randrange(2)),
        )
        for _ in range(600)
    ]
    verdicts = Counter(await asyncio.gather(*(inbox.receive(m) for m in history)))
    with closing(sqlite3.connect(path)) as db:
        rows = dict(db.execute("SELECT verdict, count(*) FROM messages GROUP BY verdict"))
        (duplicates,) = db.execute("SELECT sum(duplicates) FROM messages").fetchone()
        ends = db.execute(
            "SELECT job_id, count(*) FROM messages"
            " WHERE kind = 'terminal' AND verdict = 'accepted' GROUP BY job_id"
        ).fetchall()
    assert {**rows, "duplicate": duplicates} == verdicts
    ended = {m.job_id for m in history if m.kind == "terminal"}
    assert dict(ends) == dict.fromkeys(ended, 1)


async def test_what_is_stored_is_shown_byte_for_byte(inbox: Inbox) -> None:
    """With its hash, its size and its times."""
    sent = replace(message(id="cb_1"), body=bytes(range(256)), sent_ms=1000)
    await inbox.receive(sent)
    (listed,) = (await inbox.page()).messages
    shown = await inbox.show(listed.id)
    assert shown is not None
    assert shown.body == sent.body
    assert shown.body_sha256 == hashlib.sha256(sent.body).digest()
    assert (shown.body_bytes, shown.sent_ms, shown.received_ms) == (256, 1000, sent.received_ms)
    assert listed == replace(shown, body=None)


async def test_pages_are_newest_first_and_complete(inbox: Inbox) -> None:
    """Every message once, however the pages are cut; filters cut first."""
    for n in range(7):
        await inbox.receive(message(f"job_{n % 2}", "running", id=f"m{n}"))
    below: int | None = None
    seen = []
    while True:
        page = await inbox.page(below=below, limit=2, job_id="job_0")
        seen += [m.message_id for m in page.messages]
        below = page.next_below
        if below is None:
            break
    assert seen == ["m6", "m4", "m2", "m0"]
    assert (await inbox.page(verdict="late")).messages == []
    for id in (0, -1, 99, 2**63, 10**30):
        assert await inbox.show(id) is None


async def test_everything_that_was_answered_survives_reopening(path: str) -> None:
    """And is still a duplicate then."""
    first = await Inbox.open(path)
    assert await first.receive(message(id="m1")) == "accepted"
    await first.close()
    second = await Inbox.open(path)
    assert await second.receive(message(id="m1")) == "duplicate"
    await second.close()


async def test_a_second_process_is_told_who_holds_the_file(inbox: Inbox, path: str) -> None:
    """By any name of the file; and the first goes on undisturbed."""
    link = path + ".link"
    os.symlink(path, link)
    for name in (path, link):
        with pytest.raises(InboxError, match=f"in use by process {os.getpid()}"):
            await Inbox.open(name)
    assert await inbox.receive(message()) == "accepted"


async def test_the_pragmas_that_make_it_durable_are_in_force(inbox: Inbox) -> None:
    """WAL with FULL synchronous, incremental vacuum, and a reader that cannot write."""

    def read(db: sqlite3.Connection) -> list[Any]:
        names = ("journal_mode", "synchronous", "auto_vacuum", "application_id", "user_version")
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    found = await on_thread(inbox._writer, read)
    assert found == ["wal", 2, 2, APPLICATION_ID, len(migrations())]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await on_thread(inbox._reader, lambda db: db.execute("DELETE FROM messages"))


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        ("CREATE TABLE t (x)", "another program"),
        (
            f"PRAGMA application_id={APPLICATION_ID}; CREATE TABLE t (x); PRAGMA user_version=999",
            "newer",
        ),
    ],
)
def test_a_foreign_or_newer_file_is_refused_and_left_alone(
    path: str, prepare: str, told: str
) -> None:
    """Not one byte of it changes."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(prepare)
    before = Path(path).read_bytes()
    with pytest.raises(InboxError, match=told):
        asyncio.run(open_inbox(path))
    assert Path(path).read_bytes() == before


async def test_a_file_that_cannot_be_a_database_is_one_line(tmp_path: Path) -> None:
    """Garbage, a directory, a missing directory."""
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not a database, but long enough to look like one" * 100)
    for bad in (garbage, tmp_path, tmp_path / "missing" / "x.db"):
        with pytest.raises(InboxError) as caught:
            await Inbox.open(str(bad))
        assert "\n" not in str(caught.value)
    garbage.unlink()
    opened = await Inbox.open(str(garbage))  # the lock was given back
    await opened.close()


async def test_a_locked_file_is_unavailable_and_comes_back_by_itself(
    inbox: Inbox, path: str
) -> None:
    """Nothing is stored meanwhile; the next message after the lock is."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(
            *(inbox.receive(message(id=f"m{n}")) for n in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [InboxUnavailable] * 3
        with pytest.raises(InboxUnavailable, match="locked"):
            await inbox.check()
        other.execute("ROLLBACK")
    await inbox.check()
    assert not inbox.failing
    assert await inbox.receive(message(id="m1")) == "accepted"


async def test_a_full_disk_is_unavailable_and_comes_back_by_itself(inbox: Inbox) -> None:
    """A message that does not fit is not there afterwards, in part or whole."""

    def pages(most: int) -> Any:
        return lambda db: db.execute(f"PRAGMA max_page_count = {most}").fetchone()

    await inbox.receive(message("small"))
    (used,) = await on_thread(inbox._writer, lambda db: db.execute("PRAGMA page_count").fetchone())
    await on_thread(inbox._writer, pages(used))
    big = replace(message("big"), body=b"x" * 100_000)
    with pytest.raises(InboxUnavailable, match="full"):
        await inbox.receive(big)
    assert [m.job_id for m in (await inbox.page()).messages] == ["small"]
    await on_thread(inbox._writer, pages(1_000_000))
    assert await inbox.receive(big) == "accepted"


async def test_a_bad_row_fails_alone(inbox: Inbox) -> None:
    """Its neighbours in the same commit are stored."""
    bad = replace(message("bad"), job_id="\ud800")
    sent = [message("a"), bad, message("b")]
    results = await asyncio.gather(*(inbox.receive(m) for m in sent), return_exceptions=True)
    assert [results[0], type(results[1]), results[2]] == [
        "accepted",
        UnicodeEncodeError,
        "accepted",
    ]
    assert len((await inbox.page()).messages) == 2


async def test_a_caller_that_goes_away_harms_no_other(inbox: Inbox) -> None:
    """Its message may be stored; the writer goes on."""
    tasks = [asyncio.create_task(inbox.receive(message(f"job_{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == ["accepted"] * 10


async def test_waiting_messages_share_a_commit(inbox: Inbox) -> None:
    """What queues while one commit runs goes into the next: far fewer commits than messages."""
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    await on_thread(inbox._writer, lambda db: db.set_trace_callback(count))
    await asyncio.gather(*(inbox.receive(message(f"job_{n}")) for n in range(200)))
    assert 1 <= commits <= 5


async def test_a_read_ends_at_its_deadline(inbox: Inbox) -> None:
    """And the next read is served: the statement was interrupted, not left behind."""
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    with pytest.raises(InboxUnavailable, match="too long"):
        await inbox._read(lambda db: db.execute(endless).fetchone())
    assert (await inbox.page()).messages == []


async def test_closing_commits_what_waits(path: str) -> None:
    """Nobody who was let in is dropped at the door."""
    inbox = await Inbox.open(path)
    waiting = [asyncio.create_task(inbox.receive(message(f"job_{n}"))) for n in range(10)]
    await asyncio.sleep(0)
    await inbox.close()
    assert await asyncio.gather(*waiting) == ["accepted"] * 10
    with pytest.raises(InboxUnavailable, match="closing"):
        await inbox.receive(message())
