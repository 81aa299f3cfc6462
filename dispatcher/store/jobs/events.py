"""Callbacks that tell what jobs do while they run: the latest alone, one at a time, and none once
they have ended: the end waits for the one that is under way. Portable."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Literal

from dispatcher.ids import parse_job_id
from dispatcher.store import callbacks, submit
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.requests import Rules, SubmitRequest
from dispatcher.store.tx import Tx
from dispatcher.values import NewCallback, Submitted

_RUNNING: Final = """
SELECT endpoint, lane, event, (SELECT state FROM callbacks WHERE id = jobs.event)
FROM jobs WHERE id = ? AND claim = ? AND state = 'running'
"""
_GO_OUT: Final = """
UPDATE callbacks SET due_ms = ?, not_before_ms = NULL
WHERE id = (SELECT callback FROM jobs WHERE id = ? AND event = ?)
    AND state || '' = 'pending' AND attempts = 0 AND not_before_ms IS NOT NULL
"""
EventTold = Literal["told", "later", "gone"]
"""What came of telling what a job does: `later` while what was told before is under way."""


def tell(
    tx: Tx, job: str, claim: int, new: NewCallback, touched: Touched, rules: Rules, *, now_ms: int
) -> EventTold:
    """Tell what a job does, if it still runs under this claim, in place of what was told before and
    has not gone out. Raises what keeps a callback from being taken."""
    row = tx.one(_RUNNING, job, claim)
    if row is None or not touched.may_change(tx, row[0], row[1]):
        return "gone"
    if row[3] == "sending":
        return "later"
    forget(tx, [row[2]], now_ms=now_ms)
    (result,) = submit.submit(tx, [SubmitRequest(new, handover=False)], rules)
    if not isinstance(result, Submitted):
        raise result
    tx.run("UPDATE jobs SET event = ? WHERE id = ?", new.id, job)
    return "told"


def forget(tx: Tx, events: Iterable[str | None], *, now_ms: int) -> dict[str, int]:
    """Send none of these any more. One that is under way is tried no second time: returns these,
    each with when that is over at the latest, by this process's clock."""
    ids = [one for one in events if one is not None]
    if not ids:
        return {}
    callbacks.finish(tx, ids, "cancelled", error=None, now_ms=tx.at(now_ms))
    leases = {id: callbacks.let_be_last(tx, id) for id in ids}
    return {id: tx.here(lease_ms) for id, lease_ms in leases.items() if lease_ms is not None}


def end_of(
    callback: NewCallback, event: str | None, under_way: Mapping[str, int], *, handover: bool
) -> SubmitRequest:
    """Return what is stored to tell an end: where an event is under way it goes out after that."""
    if event is None or event not in under_way:
        return SubmitRequest(callback, handover)
    return SubmitRequest(replace(callback, not_before_ms=under_way[event]), handover=False)


def over(tx: Tx, ended: Iterable[tuple[str, str]], *, at_ms: int) -> None:
    """Have the ends go out that have waited for these callbacks, each given with its job id: they
    were under way. `at_ms` is now, by the database's clock."""
    for event, job_id in ended:
        job = parse_job_id(job_id)
        if job is not None:
            tx.run(_GO_OUT, at_ms, job, event)
