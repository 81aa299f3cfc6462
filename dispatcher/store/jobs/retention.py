"""Retention of jobs, by what their endpoints say: inputs and outputs go first, then the jobs with
their calls and tags. In slices that a commit does not notice: a reader finds what is due, and it is
deleted where it is as it was found. Portable.

A job that has an idempotency key stays as long as that holds, without anything else of it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.ids import id_floor
from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.estimates import DAYS
from dispatcher.jobs.states import JobState
from dispatcher.store import rows as texts
from dispatcher.store.errors import CannotUnseal
from dispatcher.store.jobs import blobs, chunks, measures, progress
from dispatcher.store.jobs.rows import ROW_BYTES
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.sealing import ENDPOINTS
from dispatcher.store.tx import Row, Tx

# `jobs.pruned`: what of a job is gone.
INPUT_GONE: Final = 1
OUTPUT_GONE: Final = 2
_ALL_BUT_KEY: Final = 7
USAGE_DAYS: Final = 400
"""For so long it is kept what customers used: a year, and what is looked at after its end."""
_SWEEPS_MS: Final = 30 * measures.DAY_MS
# Freeing long bodies takes its time: one slice frees no more of them, but for a single one.
_SLICE_BYTES: Final = 16 * 1024 * 1024
_KEEPS: Final = "SELECT name, rules FROM endpoints"
_NEXT_ENDPOINT: Final = (
    "SELECT endpoint FROM jobs WHERE ended_ms IS NOT NULL AND endpoint > ? "
    "ORDER BY endpoint LIMIT 1"
)
_DUE: Final = (
    "SELECT id, ended_ms, input_bytes, coalesce(output_bytes, 0) FROM jobs "
    "WHERE endpoint = ? AND pruned = ? AND ended_ms IS NOT NULL AND ended_ms < ? "
    "AND releasing = 0 ORDER BY ended_ms LIMIT ?"
)
# What signs a callback that could not be told yet stays until it is.
_LEFT: Final = "CASE WHEN EXISTS (SELECT 1 FROM job_untold WHERE job = jobs.id) THEN secret END"
_PARTS: Final = ("inputs", "outputs", "job_attempts", "job_tags", "job_untold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Jobs with when they had ended, at these endpoints: those whose `inputs` are due, whose
    `outputs` are, and those that are due as a whole."""

    endpoints: frozenset[str]
    inputs: Sequence[tuple[str, int]]
    outputs: Sequence[tuple[str, int]]
    jobs: Sequence[tuple[str, int]]

    @property
    def touched(self) -> Touched:
        """What deleting them touches."""
        return Touched(endpoints=self.endpoints)


class _Slice:
    """What is found for one slice, until it is full."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.bytes_left = _SLICE_BYTES

    def take(self, tx: Tx, endpoint: str, stages: Iterable[int], before_ms: int) -> list[Row]:
        taken: list[Row] = []
        for stage in stages:
            if self.left <= 0 or self.bytes_left <= 0:
                break
            for row in tx.all(_DUE, endpoint, stage, before_ms, self.left):
                taken.append((row[0], row[1]))
                self.left -= 1
                self.bytes_left -= row[2] + row[3]
                if self.bytes_left <= 0:
                    break
        return taken


def due(tx: Tx, *, now_ms: int, key_ms: int, limit: int) -> Due | None:
    """Return at most `limit` jobs of which something is due; None where nothing is. `now_ms` is by
    the database's clock."""
    keeps, unopened = _keeps(tx)
    found = _Slice(limit)
    inputs: list[Row] = []
    outputs: list[Row] = []
    jobs: list[Row] = []
    names = set()
    endpoint = ""
    while found.left > 0 and found.bytes_left > 0:
        row = tx.one(_NEXT_ENDPOINT, endpoint)
        if row is None:
            break
        endpoint = row[0]
        if endpoint in unopened:
            continue
        keep = keeps.get(endpoint, Keep())
        before = found.left
        job_ms = round(keep.job * 1000)
        jobs += found.take(tx, endpoint, (3, 1, 2, 0), now_ms - job_ms)
        jobs += found.take(tx, endpoint, (_ALL_BUT_KEY,), now_ms - max(job_ms, key_ms))
        inputs += found.take(tx, endpoint, (2, 0), now_ms - round(keep.input * 1000))
        outputs += found.take(tx, endpoint, (1, 0), now_ms - round(keep.output * 1000))
        if found.left < before:
            names.add(endpoint)
    if not names:
        return None
    return Due(endpoints=frozenset(names), inputs=inputs, outputs=outputs, jobs=jobs)


def _keeps(tx: Tx) -> tuple[dict[str, Keep], set[str]]:
    """Return what endpoints say, and those whose rules cannot be opened: nothing of theirs goes."""
    keeps, unopened = {}, set()
    for name, stored in tx.all(_KEEPS):
        try:
            keep = json.loads(texts.open_text(tx, stored, ENDPOINTS, name, "")).get("keep")
        except CannotUnseal:
            unopened.add(name)
        else:
            keeps[name] = Keep(**keep) if keep else Keep()
    return keeps, unopened


def prune(tx: Tx, found: Due, *, now_ms: int, key_ms: int) -> int:
    """Delete what is due, where it is as it was found; return of how many jobs something went."""
    at_ms = tx.at(now_ms)
    jobs = _as_found(tx, found.jobs)
    held = [one for one in jobs if one.has_key and at_ms - one.created_ms <= key_ms]
    if held:
        _strip(tx, held)
    gone = [one for one in jobs if one not in held]
    delete(tx, gone)
    inputs = [one for one in _as_found(tx, found.inputs) if one.pruned in (0, OUTPUT_GONE)]
    if inputs:
        ids = tx.ids(one.id for one in inputs)
        tx.run(f"DELETE FROM inputs WHERE job{tx.job_statements.IN}", ids)
        blobs.doom_of(tx, [one.id for one in inputs], "input")
        sql = f"UPDATE jobs SET pruned = pruned + {INPUT_GONE}, secret = {_LEFT} WHERE id"
        tx.run(sql + tx.job_statements.IN, ids)
        for one in inputs:
            tx.changes.bytes[one.tenant] -= one.input_bytes
    outputs = [one for one in _as_found(tx, found.outputs) if one.pruned in (0, INPUT_GONE)]
    if outputs:
        ids = tx.ids(one.id for one in outputs)
        tx.run(f"DELETE FROM outputs WHERE job{tx.job_statements.IN}", ids)
        chunks.drop(tx, [one.id for one in outputs])
        blobs.doom_of(tx, [one.id for one in outputs], "output")
        sql = f"UPDATE jobs SET pruned = pruned + {OUTPUT_GONE}, output_bytes = NULL WHERE id"
        tx.run(sql + tx.job_statements.IN, ids)
        for one in outputs:
            tx.changes.output(one.tenant, -one.output_bytes)
    return len(jobs) + len(inputs) + len(outputs)


def prune_rest(tx: Tx, *, now_ms: int, limit: int) -> int:
    """Delete old durations and usage, and sweeps of long ago that ended; return how many rows."""
    day = tx.at(now_ms) // measures.DAY_MS
    pruned = measures.prune(
        tx,
        durations_before=day - DAYS,
        usage_before=day - USAGE_DAYS,
        limit=limit,
    )
    return pruned + tx.run(
        "DELETE FROM job_sweeps WHERE id IN (SELECT id FROM job_sweeps "
        "WHERE id < ? AND state <> 'running' ORDER BY id LIMIT ?)",
        id_floor("js", now_ms - _SWEEPS_MS),
        max(0, limit - pruned),
    )


# --- deleting ---


@dataclass(frozen=True, slots=True)
class Stored:
    """What a job takes up, and where it is counted."""

    id: str
    tenant: str
    endpoint: str
    queue: str
    state: JobState
    pruned: int
    input_bytes: int
    output_bytes: int
    has_key: int
    created_ms: int
    ended_ms: int | None
    present: int | None  # unless its queue was purged since it was queued

    @property
    def body_bytes(self) -> int:
        """What its input and its output take up."""
        return self.output_bytes + self.input_left

    @property
    def input_left(self) -> int:
        """What its input takes up."""
        return 0 if self.pruned & INPUT_GONE else self.input_bytes


def stored(tx: Tx, ids: Iterable[str]) -> list[Stored]:
    """Return those of these jobs that may be deleted now: no call of theirs is open, and nobody
    else can change them."""
    sql = (
        "SELECT id, tenant, endpoint, queue, state, pruned, input_bytes, "
        "coalesce(output_bytes, 0), key IS NOT NULL, created_ms, ended_ms, "
        "epoch >= (SELECT epoch FROM queues WHERE id = jobs.queue), "
        "(SELECT 1 FROM endpoint_load l WHERE l.endpoint = jobs.endpoint) "
        f"FROM jobs WHERE id{tx.job_statements.IN} AND releasing = 0 AND state <> 'running'"
    )
    found = []
    for *columns, exists in tx.all(sql, tx.ids(ids)):
        one = Stored(*columns)
        if exists is None or tx.holds_endpoint(one.endpoint):
            found.append(one)
    return found


def _as_found(tx: Tx, found: Sequence[tuple[str, int]]) -> list[Stored]:
    if not found:
        return []
    as_found = dict(found)
    return [one for one in stored(tx, as_found) if one.ended_ms == as_found[one.id]]


def within_bytes(jobs: Sequence[Stored]) -> list[Stored]:
    """Return the first of these jobs, as many as one slice may free the bodies of."""
    size = 0
    taken: list[Stored] = []
    for one in jobs:
        taken.append(one)
        size += one.body_bytes
        if size >= _SLICE_BYTES:
            break
    return taken


def delete(tx: Tx, jobs: Sequence[Stored]) -> None:
    """Delete these jobs with all their parts."""
    if not jobs:
        return
    ids = _delete_parts(tx, jobs)
    tx.run(f"DELETE FROM jobs WHERE id{tx.job_statements.IN}", ids)
    for one in jobs:
        tx.changes.job_moved(one.tenant, one.state, None)
        tx.changes.bytes[one.tenant] -= ROW_BYTES + one.input_left
        tx.changes.output(one.tenant, -one.output_bytes)
        if one.state == "queued" and one.present:
            tx.changes.queued(one.endpoint, one.queue, -1)


def _delete_parts(tx: Tx, jobs: Sequence[Stored]) -> object:
    """Delete what these jobs have in other tables; return their ids, as a parameter."""
    ids = tx.ids(one.id for one in jobs)
    chunks.drop(tx, [one.id for one in jobs])
    progress.drop(tx, [one.id for one in jobs])
    for part in _PARTS:
        tx.run(f"DELETE FROM {part} WHERE job{tx.job_statements.IN}", ids)
    blobs.doom_of(tx, [one.id for one in jobs])
    return ids


def _strip(tx: Tx, jobs: Sequence[Stored]) -> None:
    """Delete all of these jobs but what their keys are answered with."""
    ids = _delete_parts(tx, jobs)
    tx.run(
        f"UPDATE jobs SET pruned = {_ALL_BUT_KEY}, options = '{{}}', secret = NULL, "
        f"error = NULL, output_bytes = NULL WHERE id{tx.job_statements.IN}",
        ids,
    )
    for one in jobs:
        tx.changes.bytes[one.tenant] -= one.input_left
        tx.changes.output(one.tenant, -one.output_bytes)
