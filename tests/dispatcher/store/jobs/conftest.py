"""Jobs on each store there is."""

import pytest

from dispatcher import ids
from tests.dispatcher.store.builders import World
from tests.dispatcher.store.jobs.builders import Jobs


@pytest.fixture(autouse=True)
def fresh_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids go by the test's clock, whatever an earlier one's was."""
    monkeypatch.setattr(ids, "_job_ids", ids._JobIds())


@pytest.fixture
async def jobs(world: World) -> Jobs:
    return Jobs(world)
