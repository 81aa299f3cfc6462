"""A customer and a dispatcher for each test."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.dispatcher.crash.job_proof import World
from tests.dispatcher.crash.job_world import Gateway, Platform, customer, upstream
from tests.dispatcher.crash.world import Dispatcher, Sink
from tests.dispatcher.postgres import server


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    made = Sink()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture
async def dispatcher(tmp_path: Path) -> AsyncIterator[Dispatcher]:
    made = Dispatcher(tmp_path / "postback.db", tmp_path / "clock")
    yield made
    if made.process is not None:
        await made.end(kill=True)


@pytest.fixture(params=["sqlite", "postgres"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A dispatcher that runs jobs, and all around it, on each store; commits are on disk."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            path = tmp_path / "postback.db"
            url, read = f"sqlite:///{path}", partial(_read_file, path)
        else:
            running = stack.enter_context(server.private_server(durable=True))
            url = stack.enter_context(server.database(running.url))
            read = partial(_read_database, url)
        async with upstream() as model, customer() as told:
            gateway = Gateway(url, tmp_path)
            yield World(gateway, model, told, Platform(model, told), read, request.param)
            await gateway.close()
            print(gateway.told())


def _read_file(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def _read_database(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()
