"""What few jobs and callbacks do on their way is applied on the event loop's thread, and made
durable on the writer's (D4)."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.sqlite import database
from receiver.base.db import sqlite
from tests.dispatcher.store.builders import World, raises
from tests.dispatcher.store.sqlite_hooks import sqlite_world, submit_many

HERE = threading.main_thread()


class Threads:
    """Which threads apply, and which make durable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.applying: list[threading.Thread] = []
        self.syncing: list[threading.Thread] = []
        self._note(monkeypatch, database, "_apply", self.applying)
        self._note(monkeypatch, sqlite, "end_batch", self.syncing)

    def _note(
        self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, into: list[threading.Thread]
    ) -> None:
        before: Callable[..., Any] = getattr(module, name)

        def noting(*args: Any) -> Any:
            into.append(threading.current_thread())
            return before(*args)

        monkeypatch.setattr(module, name, noting)

    @property
    def last(self) -> tuple[bool, bool]:
        """Whether the last commit was applied here, and made durable elsewhere."""
        return self.applying[-1] is HERE, self.syncing[-1] is not HERE


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    # However busy the machine is.
    monkeypatch.setattr(sqlite, "_LONG_S", 1e9)
    async with sqlite_world(tmp_path) as opened:
        yield opened


async def test_submits_and_settlements_wait_for_the_disk_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(monkeypatch)
    await world.submit()
    assert threads.last == (True, True)
    delivery = await world.one()
    assert await world.settle(delivery)
    assert threads.last == (True, True)


async def test_what_takes_long_is_applied_on_the_writers_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims, many operations, many bytes, and all that is neither submit nor end."""
    threads = Threads(monkeypatch)
    await submit_many(world, 3 * database._SHORT_OPERATIONS)
    assert HERE not in threads.applying[1:-1], "those of the middle are full"
    await world.claim()
    assert threads.last == (False, True)
    await world.submit("long", body=b"x" * (database._SHORT_BYTES + 1))
    assert threads.last == (False, True)
    await world.store.check()
    assert threads.last == (False, True)


async def test_where_it_took_long_all_is_done_on_the_writers_thread_for_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that has to be read keeps the loop no longer than once a second."""
    threads = Threads(monkeypatch)
    monkeypatch.setattr(sqlite, "_LONG_S", -1.0)
    monkeypatch.setattr(sqlite, "_SLOW_S", 1e9)
    await world.submit("a")
    assert threads.last == (True, True)
    await world.submit("b")
    assert threads.last == (False, True)


async def test_nobody_is_answered_before_it_is_durable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1. And the loop goes on meanwhile."""
    began, go_on, end_batch = asyncio.Event(), threading.Event(), sqlite.end_batch
    loop = asyncio.get_running_loop()

    def held(connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(began.set)
        assert go_on.wait(30)
        end_batch(connection)

    monkeypatch.setattr(sqlite, "end_batch", held)
    submitted = asyncio.create_task(world.submit())
    await began.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not submitted.done()
    assert await world.search() == []
    go_on.set()
    made = await submitted
    assert await world.search() == [made.id]


async def test_what_cannot_be_made_durable_is_taken_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (await world.submit("kept")).id
    end_batch = sqlite.end_batch

    def failing(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    monkeypatch.setattr(sqlite, "end_batch", failing)
    await raises(StoreUnavailable, world.submit("refused"))
    monkeypatch.setattr(sqlite, "end_batch", end_batch)
    assert await world.search() == [kept]
    assert not (await world.submit("refused")).duplicate


async def test_another_programs_lock_is_waited_for_on_the_writers_thread(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the loop goes on meanwhile."""
    other = sqlite3.connect(tmp_path / "postback.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    threads, tried, sleep = Threads(monkeypatch), asyncio.Event(), time.sleep
    loop = asyncio.get_running_loop()

    def waiting(seconds: float) -> None:
        assert threading.current_thread() is not HERE
        loop.call_soon_threadsafe(tried.set)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", waiting)
    submitted = asyncio.create_task(world.submit())
    await tried.wait()
    other.execute("ROLLBACK")
    other.close()
    assert not (await submitted).duplicate
    assert threads.last == (False, True)


async def test_who_is_cancelled_lets_go_of_the_file_when_the_thread_has(
    world: World, tmp_path: Path
) -> None:
    """What is applied on the loop's thread meets no transaction of the writer's."""
    opened = world.store._database
    assert isinstance(opened, database.SqliteDatabase)
    file = opened._file
    began, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def held(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        loop.call_soon_threadsafe(began.set)
        assert go_on.wait(30)
        connection.execute("COMMIT")

    writing = asyncio.create_task(file.write(held))
    await began.wait()
    writing.cancel()
    submitted = asyncio.create_task(world.submit())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not writing.done()
    assert not submitted.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not (await submitted).duplicate
