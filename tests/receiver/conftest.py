"""A PostgreSQL for whoever keeps an inbox there."""

from collections.abc import Iterator

import psycopg
import pytest

from receiver.inbox.postgres.database import SCHEMA
from tests.dispatcher.postgres.server import database


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
