"""What goes to PostgreSQL as an array arrives as what it was."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.base.db.postgres import QUIET, Connection, Server
from tests.dispatcher.postgres import server

ITEMS: dict[str, st.SearchStrategy[Any]] = {
    "text": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    "bytea": st.binary(),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "float8": st.floats(allow_nan=False),
    "bool": st.booleans(),
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Connection]:
    with server.database(server.shared_url()) as url:
        made = Server(url).connect("test of arrays", QUIET)
        yield made
        made.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("kind", ITEMS)
@given(data=st.data())
def test_an_array_arrives_as_it_was(postgres: Connection, kind: str, data: Any) -> None:
    """Of any length, with NULLs anywhere, and with nothing else."""
    sent = data.draw(st.lists(st.none() | ITEMS[kind], max_size=40))
    cursor = postgres.cursor(binary=True)
    found = cursor.execute(f"SELECT %b::{kind}[]".encode(), (sent,)).fetchone()
    assert found == (sent,)


def test_text_that_the_server_cannot_hold_is_an_error(postgres: Connection) -> None:
    """A NUL, as with the driver's own arrays."""
    with pytest.raises(psycopg.DataError):
        postgres.cursor(binary=True).execute(b"SELECT %b::text[]", (["a\0b"],))
