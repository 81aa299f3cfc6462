"""What the doctor wants to know of jobs. Portable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.jobs.states import JobState
from dispatcher.store.jobs import views
from dispatcher.store.tx import Tx

SCHEMA: Final = 14  # the first that has what is asked for here
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
# Those that have not beaten for longest come first.
_PROCESSES: Final = """
SELECT id, beaten_ms, (SELECT count(*) FROM jobs WHERE process = p.id
    AND (state = 'running' OR releasing = 1))
FROM processes p ORDER BY beaten_ms, id
"""


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """A process that is known by its beats: for how long it has not beaten (None: nobody knows),
    and how many jobs it runs."""

    id: str
    still_s: float | None
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFigures:
    """Jobs by state; endpoints, those of them that are paused, and those whose circuit is open;
    processes that run jobs, as far as they are known by their beats; jobs that run by none of
    these; bulk changes and purges that are under way; ends that could not be told, since no key
    opens where to."""

    counts: Mapping[JobState, int]
    endpoints: int
    paused: int
    failing: int
    processes: Sequence[ProcessFigures]
    orphans: int
    sweeps: int
    untold: int = 0


def figures(tx: Tx, *, now_ms: int) -> JobFigures:
    """Return them; `now_ms` is by the database's clock."""
    endpoints, paused, failing = tx.one(_ENDPOINTS, now_ms) or (0, 0, 0)
    (sweeps,) = tx.one(_SWEEPS) or (0,)
    (orphans,) = tx.one(_ORPHANS) or (0,)
    (untold,) = tx.one("SELECT count(*) FROM job_untold") or (0,)
    processes = [
        ProcessFigures(id, None if beaten_ms is None else (now_ms - beaten_ms) / 1000, running)
        for id, beaten_ms, running in tx.all(_PROCESSES)
    ]
    return JobFigures(
        counts=views.counts(tx, None),
        endpoints=endpoints,
        paused=int(paused),
        failing=int(failing),
        processes=processes,
        orphans=orphans,
        sweeps=sweeps,
        untold=untold,
    )
