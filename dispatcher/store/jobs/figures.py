"""What the doctor wants to know of jobs. Portable."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dispatcher.jobs.states import JobState
from dispatcher.store.jobs import views
from dispatcher.store.tx import Tx

SCHEMA: Final = 11  # the first that has jobs
_ENDPOINTS: Final = """
SELECT count(*), coalesce(sum(paused), 0),
       coalesce(sum(CASE WHEN held_until_ms > ? AND held_reason = 'circuit' THEN 1 ELSE 0 END), 0)
FROM endpoint_load WHERE removed = 0
"""
_SWEEPS: Final = "SELECT count(*) FROM job_sweeps WHERE state = 'running'"
_ORPHANS: Final = """
SELECT count(*) FROM jobs WHERE (state = 'running' OR releasing = 1)
AND process NOT IN (SELECT id FROM processes)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFigures:
    """Jobs by state; endpoints, those of them that are paused, and those whose circuit is open;
    processes that run jobs, as far as they are known by their beats; jobs that run by none of
    these; bulk changes and purges that are under way."""

    counts: Mapping[JobState, int]
    endpoints: int
    paused: int
    failing: int
    processes: int
    orphans: int
    sweeps: int


def figures(tx: Tx, *, now_ms: int) -> JobFigures:
    """Return them; `now_ms` is by the database's clock."""
    endpoints, paused, failing = tx.one(_ENDPOINTS, now_ms) or (0, 0, 0)
    (sweeps,) = tx.one(_SWEEPS) or (0,)
    (processes,) = tx.one("SELECT count(*) FROM processes") or (0,)
    (orphans,) = tx.one(_ORPHANS) or (0,)
    return JobFigures(
        counts=views.counts(tx, None),
        endpoints=endpoints,
        paused=int(paused),
        failing=int(failing),
        processes=processes,
        orphans=orphans,
        sweeps=sweeps,
    )
