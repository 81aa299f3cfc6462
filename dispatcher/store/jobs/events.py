"""Callbacks that tell what jobs do while they run: the latest alone, and none once they have ended.
Portable."""

from collections.abc import Iterable

from dispatcher.store import callbacks, submit
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.requests import Rules, SubmitRequest
from dispatcher.store.tx import Tx
from dispatcher.values import NewCallback, Submitted

_RUNNING = "SELECT endpoint, lane, event FROM jobs WHERE id = ? AND claim = ? AND state = 'running'"


def tell(
    tx: Tx, job: str, claim: int, new: NewCallback, touched: Touched, rules: Rules, *, now_ms: int
) -> bool:
    """Tell what a job does, if it still runs under this claim, in place of what was told before and
    has not gone out; return whether it was. Raises what keeps a callback from being taken."""
    row = tx.one(_RUNNING, job, claim)
    if row is None or not touched.may_change(tx, row[0], row[1]):
        return False
    forget(tx, [row[2]], now_ms=now_ms)
    (result,) = submit.submit(tx, [SubmitRequest(new, handover=False)], rules)
    if not isinstance(result, Submitted):
        raise result
    tx.run("UPDATE jobs SET event = ? WHERE id = ?", new.id, job)
    return True


def forget(tx: Tx, events: Iterable[str | None], *, now_ms: int) -> None:
    """Send none of these any more; one that is under way is tried no second time."""
    ids = [one for one in events if one is not None]
    if ids:
        callbacks.finish(tx, ids, "cancelled", error=None, now_ms=tx.at(now_ms))
        for id in ids:
            callbacks.let_be_last(tx, id)
