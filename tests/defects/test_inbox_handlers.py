"""What a handler returns and leaves behind, and what is wired wrongly, is told and changes nothing
that it must not."""

import asyncio
import functools
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver import Event, Receiver, Settings, Source
from receiver.base.settings import SettingError
from receiver.inbox.message import StoredMessage
from receiver.testing import Client, Clock

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
OTHER = "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI="


def receiver_of(tmp_path: Path, clock: Clock, **more: Any) -> Receiver:
    settings = Settings(secrets=(SECRET,), database_url=f"sqlite:///{tmp_path}/inbox.db", **more)
    return Receiver(settings, now_ms=clock)


async def only(receiver: Receiver) -> StoredMessage:
    (one,) = (await receiver.inbox.page()).messages
    found = await receiver.inbox.show(one.id)
    assert found is not None
    return found


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain decorator, as everybody writes them."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


async def _work(event: Event, tx: Any = None) -> None:
    raise AssertionError("nobody awaits it")


async def _stream(event: Event) -> Any:
    yield event


async def _forgets_to_await(event: Event) -> Any:
    return _work(event)


def _generator(event: Event) -> Any:
    yield event


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "handler",
    [
        lambda event: _work(event),  # noqa: PLW0108 - it is no async function
        logged(_work),
        _generator,
        logged(_generator),
        _stream,
        _forgets_to_await,
        lambda event: asyncio.Future.__await__,
    ],
    ids=["lambda", "decorated", "generator", "decorated generator", "async gen", "async", "value"],
)
async def test_a_handler_that_did_not_run_has_handled_nothing(
    handler: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It failed, and says why; it is tried again, and dead in the end. Any other value is one."""
    clock = Clock()
    receiver = receiver_of(tmp_path, clock, handler_attempts=2)
    receiver.on("completed")(handler)
    async with Client(receiver, SECRET, clock=clock) as client:
        await client.send({"jobId": "job_1", "status": "completed"})
        await client.advance(timedelta(hours=1))
        message = await only(receiver)
        if request.node.callspec.id == "value":
            assert message.state == "handled"
        else:
            assert (message.state, message.attempts) == ("dead", 2)
            assert "nothing ran" in (message.error or "")


def shop(tmp_path: Path, script: str) -> str:
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.executescript(f"CREATE TABLE credit (job TEXT, amount INT); {script}")
    db.close()
    return f"sqlite:///{tmp_path}/shop.db"


def rows(tmp_path: Path, table: str) -> list[Any]:
    db = sqlite3.connect(tmp_path / "shop.db")
    try:
        return db.execute(f"SELECT * FROM {table}").fetchall()
    finally:
        db.close()


@pytest.mark.filterwarnings("error")
async def test_what_returns_an_awaitable_commits_nothing(tmp_path: Path) -> None:
    """Its transaction is rolled back, mark and all."""
    clock = Clock()
    receiver = receiver_of(tmp_path, clock, handler_attempts=1, effects_url=shop(tmp_path, ""))

    @receiver.on("completed")
    def pay(event: Event, tx: Any) -> Any:
        tx.execute("INSERT INTO credit VALUES (?, 1)", (event.job_id,))
        return _work(event, tx)

    async with Client(receiver, SECRET, clock=clock) as client:
        await client.send({"jobId": "job_1", "status": "completed"})
        await client.idle()
        assert (await only(receiver)).state == "dead"
    assert rows(tmp_path, "credit") == rows(tmp_path, "postback_handled") == []


def _by_tx(tx: Any, sql: str) -> None:
    tx.execute(sql)


def _by_connection(tx: Any, sql: str) -> None:
    tx.connection.execute(sql)


def _by_cursor(tx: Any, sql: str) -> None:
    tx.connection.cursor().executemany(sql.replace("'job_1'", "?"), [("job_1",)])


def _by_savepoint(tx: Any, sql: str) -> None:
    tx.connection.execute("SAVEPOINT mine")
    tx.connection.execute(sql)
    tx.connection.execute("RELEASE mine")


@pytest.mark.parametrize("write", [_by_tx, _by_connection, _by_cursor, _by_savepoint])
@pytest.mark.parametrize(
    ("script", "ends"),
    [
        (
            "CREATE TABLE seen (job TEXT UNIQUE ON CONFLICT ROLLBACK); "
            "INSERT INTO seen VALUES ('job_1');",
            "INSERT INTO seen VALUES ('job_1')",
        ),
        (
            "CREATE TABLE seen (job TEXT UNIQUE); INSERT INTO seen VALUES ('job_1');",
            "INSERT OR ROLLBACK INTO seen VALUES ('job_1')",
        ),
        (
            "CREATE TABLE seen (job TEXT); CREATE TRIGGER no BEFORE INSERT ON seen "
            "BEGIN SELECT RAISE(ROLLBACK, 'no'); END;",
            "INSERT INTO seen VALUES ('job_1')",
        ),
        (
            "CREATE TABLE seen (body BLOB);",
            "PRAGMA max_page_count = 1; INSERT INTO seen VALUES (zeroblob(10000000))",
        ),
    ],
    ids=["constraint", "or rollback", "trigger", "full disk"],
)
async def test_once_sqlite_has_ended_the_transaction_nothing_is_written(
    script: str, ends: str, write: Callable[[Any, str], None], tmp_path: Path
) -> None:
    """The handler catches the error and goes on: neither effect nor mark, in whatever way it
    writes, in every attempt."""
    clock = Clock()
    effects_url = shop(tmp_path, script)
    receiver = receiver_of(tmp_path, clock, handler_attempts=3, effects_url=effects_url)
    refused: list[str] = []

    @receiver.on("completed")
    def pay(event: Event, tx: Any) -> None:
        tx.execute("INSERT INTO credit VALUES (?, 1)", (event.job_id,))
        for sql in ends.split("; "):
            try:
                tx.execute(sql)
            except sqlite3.Error as error:
                if "full" in str(error):  # SQLite itself does so on a disk that is really full
                    tx.connection.set_authorizer(None)
                    tx.connection.rollback()
                    tx.connection.set_authorizer(tx._authorize)
        try:
            write(tx, "INSERT INTO credit VALUES ('job_1', 100)")
        except Exception as error:
            refused.append(type(error).__name__)

    async with Client(receiver, SECRET, clock=clock) as client:
        await client.send({"jobId": "job_1", "status": "completed"})
        for _ in range(4):
            await client.advance(timedelta(hours=2))
        message = await only(receiver)
        assert (message.state, message.attempts) == ("dead", 3)
        assert "by itself" in (message.error or "")
    assert rows(tmp_path, "credit") == rows(tmp_path, "postback_handled") == []
    assert len(refused) == 3


async def test_a_handlers_session_is_not_the_next_ones(tmp_path: Path) -> None:
    """Neither its row factory nor its temporary tables, pragmas or attached files."""
    clock = Clock()
    receiver = receiver_of(tmp_path, clock, handler_attempts=1, effects_url=shop(tmp_path, ""))
    seen: list[Any] = []

    @receiver.on("completed")
    def handler(event: Event, tx: Any) -> None:
        tx.execute("CREATE TEMP TABLE scratch (a)")
        seen.append((tx.connection.row_factory, tx.execute("PRAGMA foreign_keys").fetchone()))
        tx.connection.row_factory = sqlite3.Row
        tx.execute("PRAGMA recursive_triggers = 1")

    async with Client(receiver, SECRET, clock=clock) as client:
        for n in range(3):
            await client.send({"jobId": f"job_{n}", "status": "completed"})
            await client.idle()
        states = {message.state for message in (await receiver.inbox.page()).messages}
    assert states == {"handled"}
    assert seen == [(None, (0,))] * 3


async def test_marks_of_another_service_are_not_forgotten(tmp_path: Path) -> None:
    """Which keeps its own in the same database, for as long as it likes."""
    clock = Clock()
    receiver = receiver_of(tmp_path, clock, effects_url=shop(tmp_path, ""))

    @receiver.on("completed")
    def pay(event: Event, tx: Any) -> None:
        tx.execute("INSERT INTO postback_handled VALUES ('/another', 'm', 'job_1', 1)")

    async with Client(receiver, SECRET, clock=clock) as client:
        await client.send({"jobId": "job_1", "status": "completed"})
        await client.idle()
        clock.advance(timedelta(days=400))
        await receiver._opened.sweeper.sweep()
    assert [row[0] for row in rows(tmp_path, "postback_handled")] == ["/another"]


async def test_effects_go_to_the_file_that_is_there(tmp_path: Path) -> None:
    """One that was replaced while the receiver ran, by a restore, say, gets the next effect."""
    clock = Clock()
    receiver = receiver_of(tmp_path, clock, handler_attempts=1, effects_url=shop(tmp_path, ""))

    @receiver.on("completed")
    def pay(event: Event, tx: Any) -> None:
        tx.execute("CREATE TABLE IF NOT EXISTS postback_handled (a)")
        tx.execute("INSERT INTO credit VALUES (?, 1)", (event.job_id,))

    async with Client(receiver, SECRET, clock=clock) as client:
        await client.send({"jobId": "before", "status": "completed"})
        await client.idle()
        copy = sqlite3.connect(tmp_path / "copy.db")
        with sqlite3.connect(tmp_path / "shop.db") as db:
            db.backup(copy)
        db.close()
        copy.close()
        (tmp_path / "copy.db").rename(tmp_path / "shop.db")
        await client.send({"jobId": "after", "status": "completed"})
        await client.idle()
    assert rows(tmp_path, "credit") == [("before", 1), ("after", 1)]


async def test_a_handler_that_comes_too_late_is_told(tmp_path: Path) -> None:
    """What it would have handled would wait for ever, or be ignored. After closing it may come."""
    receiver = receiver_of(tmp_path, Clock())
    async with receiver:
        with pytest.raises(RuntimeError, match="register it before the start"):
            receiver.on("completed")(lambda event: None)
    receiver.on("completed")(lambda event: None)


@pytest.mark.parametrize("path", ["/a", "/healthz", "/inbox", "/inbox/1"])
def test_sources_that_would_hide_another_path_are_told(path: str, tmp_path: Path) -> None:
    """Two on one path, of which the last one would win; one on a path of ours."""
    settings = Settings(database_url=f"sqlite:///{tmp_path}/inbox.db")
    sources = [Source(path="/a", secrets=(SECRET,)), Source(path=path, secrets=(OTHER,))]
    with pytest.raises(SettingError, match=path):
        Receiver(settings, sources=sources)
