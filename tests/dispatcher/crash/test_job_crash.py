"""A dispatcher that runs jobs is killed at every commit of their path and in the middle of calls,
again and again (I1, I2, I3)."""

import os
import random
import time
from collections.abc import Sequence
from typing import Final

import pytest

from tests.dispatcher.crash.job_points import COMMITS, ELSEWHERE, Dialect, points, writing_verbs
from tests.dispatcher.crash.job_proof import World

SCALE: Final = float(os.environ.get("POSTBACK_TEST_SCALE", "1"))
CYCLES: Final = max(1, round(3 * SCALE))  # 210 at scale 70


def test_each_verb_that_writes_is_a_point_of_some_jobs_path() -> None:
    """Whoever adds one names it here, and has it be died at."""
    assert writing_verbs() == {*COMMITS.values()} | ELSEWHERE


def chosen(dialect: Dialect) -> Sequence[str]:
    """As many points as there are cycles, spread over all; all of them again and again, where that
    is more."""
    every = points(dialect)
    if len(every) <= CYCLES:
        return [every[n % len(every)] for n in range(CYCLES)]
    return random.Random(time.time_ns()).sample(every, CYCLES)


@pytest.mark.slow
@pytest.mark.timeout(240 + 10 * CYCLES)
async def test_kill_dash_nine_at_each_commit_and_in_calls_loses_nothing(world: World) -> None:
    """On SQLite the next start takes over at once; on PostgreSQL what a killed process ran waits
    for the end of its lease."""
    await world.prepare()
    for point in chosen(world.dialect):
        await world.cycle(point)
    assert world.platform.accepted, "nothing was submitted at all"
    await world.finish()
