"""Settle, for a whole batch: what calls met, the jobs' new states and outputs, what the calls say
about their endpoints, and the callbacks that tell how jobs ended: in one commit, and only under the
current claims."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Final

from dispatcher.health import Health
from dispatcher.jobs import health
from dispatcher.jobs.states import FINAL, JobState
from dispatcher.jobs.told import ERROR_BYTES_MAX
from dispatcher.jobs.values import JobSettlement, Output, SettledJob
from dispatcher.store.jobs import blobs, by_url, chunks, events, measures, rows, untold
from dispatcher.store.jobs.rows import queue_id
from dispatcher.store.jobs.tell import tell
from dispatcher.store.jobs.untold import Untold
from dispatcher.store.requests import JobEnd, Rules
from dispatcher.store.sealing import OUTPUTS
from dispatcher.store.tx import Row, Tx
from dispatcher.values import Submitted

_FORGET_UNMADE: Final = """
DELETE FROM job_attempts WHERE job = ? AND run = ? AND outcome = 'interrupted'
    AND n = (SELECT max(n) FROM job_attempts WHERE job = ? AND run = ?)
"""
_health_columns: Final = attrgetter(*(field.name for field in fields(Health)))
# The jobs, and what is known of their endpoints, where those are there still.
_HELD: Final = """
SELECT j.id, j.claim, j.state, j.process, j.callback, j.output_bytes,
       l.endpoint, l.queued, l.epoch, l.concurrency, l.adaptive, l."window", l.failures,
       l.failing_since_ms, l.openings, l.held_until_ms, l.held_reason, l.turned_away, l.threshold,
       j.event
FROM jobs j LEFT JOIN endpoint_load l ON l.endpoint = j.endpoint WHERE j.id
"""


@dataclass(frozen=True, slots=True)
class _Held:
    """A job as it stands under a claim."""

    state: JobState
    process: str | None
    callback: str | None
    output_bytes: int | None
    event: str | None


@dataclass(frozen=True, slots=True)
class _Load:
    """An endpoint as it stands: how many wait for it, and its health with what bounds that."""

    queued: int
    epoch: int
    concurrency: int
    adaptive: bool
    health: Health


Holds = Mapping[tuple[str, int], _Held]


def settle(tx: Tx, ends: Sequence[JobEnd], rules: Rules) -> list[SettledJob]:
    """Record the ends of calls and their verdicts, each only under its current claim.

    Whatever takes a job from its process grows its claim; so one under this claim that does not run
    was settled by this very settlement, in a commit whose reply was lost.
    """
    found = tx.all(_HELD + tx.job_statements.IN, tx.ids(end.settlement.job.id for end in ends))
    held = {(row[0], row[1]): _Held(row[2], row[3], row[4], row[5], row[-1]) for row in found}
    current: dict[str, JobEnd] = {}
    spooled = [id for end in ends if (id := _spooled(end.settlement)) is not None]
    there = blobs.written(tx, spooled) if spooled else set()
    for end in ends:
        job = end.settlement.job
        of_claim = held.get((job.id, job.claim))
        if of_claim is None or of_claim.state != "running" or _is_let_go(end, of_claim):
            continue
        if _spooled(end.settlement) not in (None, *there):
            continue  # called dead meanwhile: what it wrote goes, and its job is another's
        if tx.holds_endpoint(job.endpoint):
            current.setdefault(job.id, end)
    told: dict[str, Submitted] = {}
    if current:
        told = _record(tx, list(current.values()), held, _loads(found), rules)
    return [_result(end, current, held, told) for end in ends]


def _spooled(item: JobSettlement) -> str | None:
    """Return the id of what a settlement has an output name, None where it names nothing."""
    output = item.outcome.output
    if output is None or output.blob is None or item.verdict.state not in FINAL:
        return None
    return output.blob.id


def _is_let_go(end: JobEnd, held: _Held) -> bool:
    """Whether a job that its upstream is to end by URL was let go of before: in a commit whose
    reply was lost."""
    return end.settlement.verdict.state == "running" and held.process is None


def _loads(found: Sequence[Row]) -> dict[str, _Load]:
    loads: dict[str, _Load] = {}
    for row in found:
        if row[6] is not None and row[6] not in loads:
            queued, epoch, concurrency, adaptive = row[7:11]
            loads[row[6]] = _Load(queued, epoch, concurrency, bool(adaptive), Health(*row[11:-1]))
    return loads


def _result(
    end: JobEnd, current: Mapping[str, JobEnd], held: Holds, told: Mapping[str, Submitted]
) -> SettledJob:
    job, verdict = end.settlement.job, end.settlement.verdict
    if current.get(job.id) is end:
        callback = None if end.callback is None else end.callback.id
        submitted = None if callback is None else told.get(callback)
        delivery = None if submitted is None else submitted.delivery
        return SettledJob(recorded=True, state=verdict.state, callback=callback, delivery=delivery)
    before = held.get((job.id, job.claim))
    if before is None or (before.state == "running" and not _is_let_go(end, before)):
        return SettledJob(recorded=False, state=verdict.state)
    return SettledJob(recorded=True, state=before.state, callback=before.callback)


def _record(
    tx: Tx, ends: Sequence[JobEnd], held: Holds, loads: Mapping[str, _Load], rules: Rules
) -> dict[str, Submitted]:
    alone = _apply_to_health(tx, [end.settlement for end in ends], loads)
    on = [end.settlement for end in ends if end.settlement.verdict.state == "running"]
    if on:
        by_url.let_go(tx, on)
        ends = [end for end in ends if end.settlement.verdict.state != "running"]
        if not ends:
            return {}
    tx.bulk(
        tx.job_statements.SETTLE_JOBS,
        [_settled_row(tx, end, alone=end.settlement.job.id in alone) for end in ends],
    )
    attempts = [
        _attempt_row(end.settlement, held[end.settlement.job.id, end.settlement.job.claim].process)
        for end in ends
    ]
    _forget_unmade(tx, [end.settlement for end in ends])
    tx.bulk(tx.job_statements.INSERT_JOB_ATTEMPTS, attempts)
    _put_outputs(tx, [end.settlement for end in ends if end.settlement.verdict.state in FINAL])
    measures.settled(tx, [end.settlement for end in ends])
    joined = [end.settlement.job.id for end in ends if _is_joined(end.settlement)]
    if joined:
        chunks.drop(tx, joined)
    event_of = {
        end.settlement.job.id: held[end.settlement.job.id, end.settlement.job.claim].event
        for end in ends
    }
    under_way = events.forget(tx, event_of.values(), now_ms=ends[0].settlement.now_ms)
    for end in ends:
        job, state = end.settlement.job, end.settlement.verdict.state
        tx.changes.job_moved(job.tenant, "running", state)
        if state in FINAL:
            load = loads.get(job.endpoint)
            # Where nothing waits nothing is ready, whatever place is free now.
            if load is None or load.queued + tx.changes.more_waiting(job.endpoint) > 0:
                tx.changes.endpoints.add(job.endpoint)
            tx.changes.ended_jobs.append(job.id)
            output, before = end.settlement.outcome.output, held[job.id, job.claim].output_bytes
            tx.changes.output(job.tenant, (output.size if output else 0) - (before or 0))
        else:
            tx.changes.queued(job.endpoint, queue_id(job.endpoint, job.tenant), 1)
    unopened = [end for end in ends if end.settlement.job.unopened is not None]
    if unopened:
        untold.note(tx, [_untold(tx, end.settlement) for end in unopened if _is_untold(end)])
    requests = [
        events.end_of(
            end.callback, event_of[end.settlement.job.id], under_way, handover=end.handover
        )
        for end in ends
        if end.callback is not None
    ]
    return tell(tx, requests, rules, isolated=any(end.isolated for end in ends))


def _is_joined(item: JobSettlement) -> bool:
    """Whether what came in chunks is the output by now, or begins anew."""
    outcome, is_final = item.outcome, item.verdict.state in FINAL
    is_output = outcome.output is not None and outcome.output.blob is None
    return bool(outcome.chunks) and (is_output or not is_final)


def _is_untold(end: JobEnd) -> bool:
    """Whether a job has ended that no key of ours opens: where to tell it, too, is not known."""
    return end.callback is None and end.settlement.verdict.state in FINAL


def _untold(tx: Tx, item: JobSettlement) -> Untold:
    job, verdict = item.job, item.verdict
    began_ms, ended_ms = tx.at(job.started_ms), tx.at(item.now_ms)
    return Untold(job.id, job.run, verdict.state, verdict.reason, verdict.error, began_ms, ended_ms)


def _settled_row(tx: Tx, end: JobEnd, *, alone: bool) -> Row:
    item = end.settlement
    job, outcome, verdict = item.job, item.outcome, item.verdict
    is_final = verdict.state in FINAL
    output = outcome.output if is_final else None
    due_ms = verdict.due_ms or 0
    is_due = is_final or due_ms <= item.now_ms
    return (
        verdict.state,
        verdict.reason,
        job.calls + outcome.sent,
        job.tries + verdict.spent,
        job.turned_away + alone,
        0 if is_due else tx.at(due_ms),
        None if verdict.expires_ms is None else tx.at(verdict.expires_ms),
        tx.at(item.now_ms) if is_final else None,
        outcome.status_code,
        rows.fit_text(verdict.error),
        None if end.callback is None else end.callback.id,
        None if output is None else output.size,
        None if output is None else rows.fit_text(output.content_type),
        None if output is None or output.blob is not None else outcome.chunks,
        int(item.releasing),
        job.id,
    )


def _attempt_row(item: JobSettlement, process: str | None) -> Row:
    job, outcome = item.job, item.outcome
    return (
        job.id,
        job.run,
        job.claim,
        outcome.started_ms,
        outcome.duration_ms,
        outcome.kind,
        outcome.status_code,
        rows.fit_text(outcome.error),
        process,
    )


def _forget_unmade(tx: Tx, settled: Sequence[JobSettlement]) -> None:
    """Of calls in a row that we could not make ourselves the last is kept: while a key is missing,
    say, every job is tried again each minute or two."""
    jobs = [one.job for one in settled if one.outcome.lack is not None and not one.outcome.sent]
    if jobs:
        tx.many(_FORGET_UNMADE, [(job.id, job.run) * 2 for job in jobs])


def _put_outputs(tx: Tx, ended: Sequence[JobSettlement]) -> None:
    """Store the outputs of runs that ended; what an earlier run brought goes."""
    outputs = [
        _output_row(tx, item, item.outcome.output)
        for item in ended
        if item.outcome.output is not None
    ]
    again = [item.job.id for item in ended if item.outcome.output is not None and item.job.run > 1]
    blobs.doom_of(tx, again, "output")
    if outputs:
        tx.bulk(tx.job_statements.PUT_OUTPUTS, outputs)
    kept = [item.outcome.output.blob for item in ended if item.outcome.output is not None]
    if any(kept):
        blobs.keep(tx, [blob for blob in kept if blob is not None])
    without = [item.job.id for item in ended if item.outcome.output is None and item.job.run > 1]
    drop_outputs(tx, without)


def drop_outputs(tx: Tx, jobs: Sequence[str]) -> None:
    """Delete what these jobs brought."""
    if jobs:
        tx.run(f"DELETE FROM outputs WHERE job{tx.job_statements.IN}", tx.ids(jobs))
        blobs.doom_of(tx, jobs, "output")


def _output_row(tx: Tx, item: JobSettlement, output: Output) -> Row:
    job = item.job
    body = output.body
    if output.blob is not None:  # of a failure its beginning is what tells of it
        body = b"" if item.verdict.state == "completed" else body[:ERROR_BYTES_MAX]
    body, kid = rows.seal_body(tx, body, OUTPUTS.place(job.id, job.tenant))
    blob = None if output.blob is None else output.blob.id
    headers = json.dumps(output.headers) if output.headers else "[]"
    content_type = rows.fit_text(output.content_type)
    return (job.id, job.run, content_type, headers, body, kid, tx.at(item.now_ms), blob)


def _apply_to_health(
    tx: Tx, settled: Sequence[JobSettlement], loads: Mapping[str, _Load]
) -> set[str]:
    """Apply what the outcomes say about their endpoints. A call that began before its endpoint got
    another upstream or was resumed says nothing of what it is now. Returns the jobs that were
    turned away while others of their endpoints were answered."""
    now = {name: load.health for name, load in loads.items()}
    alone = set()
    for item in settled:
        name = item.job.endpoint
        load = loads.get(name)
        if load is None or load.epoch != item.job.epoch:
            continue
        if item.verdict.turned_away and now[name].answering:
            alone.add(item.job.id)
        outcome = item.outcome
        if tx.skew_ms:
            outcome = replace(outcome, started_ms=tx.at(outcome.started_ms))
        now[name] = health.after(
            now[name],
            outcome,
            turned_away=item.verdict.turned_away,
            now_ms=tx.at(item.now_ms),
            random=item.random,
            concurrency=load.concurrency,
            adaptive=load.adaptive,
        )
    at_ms = tx.at(settled[-1].now_ms)
    changed = [
        (*_health_columns(after), at_ms, name)
        for name, after in now.items()
        if after != loads[name].health
    ]
    if changed:
        tx.bulk(tx.job_statements.SET_ENDPOINT_HEALTH, changed)
    return alone
