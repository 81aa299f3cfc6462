"""Where jobs end other than by the end of a call: cancelled, expired, purged, interrupted. In bulk,
each with its callback, in one commit. One whose options cannot be opened ends all the same: its end
is told once they can (`untold.py`)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from dispatcher.dialects.callbacks import callback_of
from dispatcher.ids import random_id
from dispatcher.jobs.states import FINAL, JobReason, JobState
from dispatcher.jobs.told import End
from dispatcher.jobs.values import Job
from dispatcher.store.errors import CannotUnseal
from dispatcher.store.jobs import events, measures, rows, untold
from dispatcher.store.jobs.settle import drop_outputs
from dispatcher.store.jobs.tell import tell
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.jobs.untold import Untold
from dispatcher.store.requests import Rules
from dispatcher.store.tx import Tx
from dispatcher.values import NewCallback, Unopened

_FOUND: Final = f"""
SELECT claim, interruptions, process, queue, lane, ends_ms, secret, event,
       epoch >= (SELECT epoch FROM queues WHERE id = jobs.queue),
       (SELECT stops FROM endpoint_load l WHERE l.endpoint = jobs.endpoint), {rows.JOB}
FROM jobs WHERE id
"""
# Of ends that nobody is told of: where to tell them is not read.
_FOUND_BARE: Final = _FOUND.replace(" secret,", " NULL,").replace(" options,", " '{}',")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A job as it stands in the running transaction; `present` unless its queue was purged since it
    was queued. `ends_ms` is when its time to live has passed, if it has one. `secret` is its
    callback's; `is_bare`: it had one, for whatever, that is gone. `untellable`: why its end cannot
    be told, where to or how it is signed. `event` is the callback that told last what it does.
    `stops`: its upstream is stopped, where it still works, before its place is free."""

    job: Job
    claim: int
    interruptions: int
    process: str | None
    queue: str
    ends_ms: int | None
    present: bool
    secret: str | None = field(default=None, repr=False)
    is_bare: bool = False
    untellable: Unopened | None = None
    event: str | None = None
    stops: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How jobs end. `releasing`: the calls of those that run are closed by who runs them, and take
    their places until then; where nobody does, but their upstreams are to be stopped (`stopping`),
    until that is done. `told` unless nobody is to hear of it."""

    state: JobState
    reason: JobReason
    error: str | None = None
    releasing: bool = False
    stopping: bool = False
    told: bool = True

    def keeps_place(self, one: Found) -> bool:
        """Whether a job takes its place still once it has ended so."""
        if one.job.state != "running":
            return False
        if self.releasing and one.process is not None:
            return True
        return (self.releasing or self.stopping) and one.stops


def find(tx: Tx, ids: Sequence[str], touched: Touched, *, told: bool = True) -> list[Found]:
    """Return those of these jobs that this transaction may change, in the order of `ids`: without
    their options where their ends are not `told`."""
    if not ids:
        return []
    found: dict[str, Found] = {}
    for (
        claim,
        interruptions,
        process,
        queue,
        lane,
        ends_ms,
        stored,
        event,
        present,
        stops,
        *row,
    ) in tx.all((_FOUND if told else _FOUND_BARE) + tx.job_statements.IN, tx.ids(ids)):
        job = rows.job(tx, tuple(row))
        secret, untellable = None, job.unopened
        try:
            secret = rows.callbacks_secret(tx, job, stored)
        except CannotUnseal as error:
            untellable = error.unopened
        if touched.may_change(tx, job.endpoint, lane):
            found[job.id] = Found(
                job=job,
                claim=claim,
                interruptions=interruptions,
                process=process,
                queue=queue,
                ends_ms=ends_ms,
                present=bool(present),
                secret=secret,
                is_bare=stored == rows.SECRET_GONE,
                untellable=untellable,
                event=event,
                stops=bool(stops),
            )
    return [found[id] for id in ids if id in found]


def end(
    tx: Tx, found: Iterable[Found], ending: Ending, rules: Rules, *, now_ms: int
) -> list[Found]:
    """End those of these jobs that have not; return them. `now_ms` is by this process's clock.

    Their claims grow, so that no late result returns.
    """
    ended = [one for one in found if one.job.state not in FINAL]
    if not ended:
        return []
    told = {
        one.job.id: callback
        for one in ended
        if ending.told
        and one.untellable is None
        and (callback := _callback(tx, one, ending, rules, now_ms)) is not None
    }
    values = []
    for one in ended:
        job, running = one.job, one.job.state == "running"
        telling = told.get(job.id)
        values.append(
            (
                ending.state,
                ending.reason,
                tx.at(now_ms),
                int(ending.keeps_place(one)),
                ending.error,
                job.callback if telling is None else telling.id,
                job.id,
            )
        )
        tx.changes.endpoints.add(job.endpoint)
        tx.changes.ended_jobs.append(job.id)
        tx.changes.job_moved(job.tenant, job.state, ending.state)
        tx.changes.output(job.tenant, -(job.output_bytes or 0))
        if not running and one.present:
            tx.changes.queued(job.endpoint, one.queue, -1)
    tx.bulk(tx.job_statements.END_JOBS, values)
    if ending.told:
        untellable = [one.job for one in ended if one.untellable is not None]
        untold.note(tx, [_untold(tx, job, ending, now_ms) for job in untellable])
    begun = [one.job for one in ended if one.job.state == "running"]
    measures.stopped(tx, begun, failed=ending.state != "completed", now_ms=now_ms)
    drop_outputs(tx, [one.job.id for one in ended if one.job.output_bytes is not None])
    under_way = events.forget(tx, [one.event for one in ended], now_ms=now_ms)
    requests = [
        events.end_of(told[one.job.id], one.event, under_way, handover=False)
        for one in ended
        if one.job.id in told
    ]
    tell(tx, requests, rules)
    return ended


def _untold(tx: Tx, job: Job, ending: Ending, now_ms: int) -> Untold:
    return Untold(
        job.id, job.run, ending.state, ending.reason, ending.error, job.started_ms, tx.at(now_ms)
    )


def _callback(
    tx: Tx, found: Found, ending: Ending, rules: Rules, now_ms: int
) -> NewCallback | None:
    job = found.job
    if tx.skew_ms:  # its times are the database's, and `now_ms` is ours
        started_ms = None if job.started_ms is None else tx.here(job.started_ms)
        job = replace(job, queued_ms=tx.here(job.queued_ms), started_ms=started_ms)
    return callback_of(
        job,
        End(state=ending.state, reason=ending.reason, error=ending.error),
        id=random_id("cb", now_ms),
        now_ms=now_ms,
        inline_max=rules.inline_max,
        public_url=rules.public_url,
        secret=found.secret,
    )
