"""A customer and a dispatcher for each test."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.dispatcher.crash.world import Dispatcher, Sink


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
