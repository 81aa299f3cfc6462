"""An inbox in each place where one may lie."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.inbox.inbox import Inbox
from tests.receiver.inbox.places import Place


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
