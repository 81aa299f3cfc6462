"""A database of each kind for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dispatcher.postgres import folders


@pytest.fixture(params=["postgres", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty one."""
    if request.param == "postgres":
        yield folders.url_for(tmp_path, used=True)
        folders.empty_under(tmp_path)
    else:
        yield f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database that processes can share."""
    yield folders.url_for(tmp_path, used=True)
    folders.empty_under(tmp_path)
