"""Ways into the SQLite store for tests of what is SQLite's alone."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.sqlite.database import SqliteDatabase
from dispatcher.store.store import Store
from receiver.base.db.sqlite import run
from tests.dispatcher.store.builders import World

T = TypeVar("T")


@asynccontextmanager
async def sqlite_world(folder: Path, **changes: Any) -> AsyncIterator[World]:
    """An open SQLite store on `folder`/postback.db."""

    def make() -> Store:
        return open_store(Settings(database_url=f"sqlite:///{folder}/postback.db", **changes))

    world = World(make=make, store=make())
    await world.open()
    try:
        yield world
    finally:
        await world.store.close()


def database_of(world: World) -> SqliteDatabase:
    database = world.store._database
    assert isinstance(database, SqliteDatabase)
    return database


async def on_writer(world: World, act: Callable[[sqlite3.Connection], T]) -> T:
    """`act` on the writer's connection and thread."""
    return await database_of(world)._file.write(act)


async def on_readers(world: World, act: Callable[[sqlite3.Connection], T]) -> list[T]:
    """`act` on each reader's connection and thread."""
    return [await run(one, act) for one in database_of(world)._file.readers._all]


async def pragma(world: World, name: str, value: object = None) -> Any:
    """A pragma of the writer's connection, set if there is a value."""

    def ask(connection: sqlite3.Connection) -> Any:
        if value is not None:
            connection.execute(f"PRAGMA {name} = {value}").fetchall()
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    return await on_writer(world, ask)


async def submit_many(world: World, count: int, **more: Any) -> list[str]:
    """Ids of `count` pending callbacks, stored in few commits; `{n}` in url and tenant is their
    number."""

    def filled(n: int) -> dict[str, Any]:
        return {
            name: value.format(n=n) if name in ("url", "tenant") else value
            for name, value in more.items()
        }

    made = await asyncio.gather(*(world.submit(f"many-{n}", **filled(n)) for n in range(count)))
    return [one.id for one in made]
