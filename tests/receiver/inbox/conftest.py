"""An inbox in each place where one may lie."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.inbox.inbox import Inbox
from tests.receiver.inbox.places import Place, key


@pytest.fixture(params=["sqlite", "sqlite-sealed", "postgres", "postgres-sealed"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    store, _, sealed = request.param.partition("-")
    keys = (key("k1"),) if sealed else ()
    if store == "sqlite":
        return Place(f"sqlite:///{tmp_path}/receiver.db", keys)
    return Place(request.getfixturevalue("empty_postgres"), keys)


@pytest.fixture
async def inbox(place: Place) -> AsyncIterator[Inbox]:
    opened = await place.open()
    yield opened
    await opened.close()
