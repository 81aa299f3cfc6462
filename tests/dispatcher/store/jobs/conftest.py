"""Jobs on each store there is."""

import pytest

from tests.dispatcher.store.builders import World
from tests.dispatcher.store.jobs.builders import Jobs


@pytest.fixture
async def jobs(world: World) -> Jobs:
    return Jobs(world)
