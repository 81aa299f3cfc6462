"""An inbox in each place where one may lie."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from receiver.store.inbox import Inbox
from receiver.store.postgres.migrate import SCHEMA
from tests.dispatcher.postgres.server import database
from tests.receiver.store.places import Place


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database for all tests of a run; each finds it empty."""
    with database() as url:
        yield url


@pytest.fixture
def empty_postgres(postgres_url: str) -> str:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    return postgres_url


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path}/receiver.db")
    return Place(request.getfixturevalue("empty_postgres"))


@pytest.fixture
async def inbox(place: Place) -> AsyncIterator[Inbox]:
    opened = await place.open()
    yield opened
    await opened.close()
