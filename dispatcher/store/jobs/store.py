"""The verbs of jobs and endpoints, beside those of callbacks: on the same database, in the same
commits (`Store.jobs`).

Times are integer milliseconds by this process's clock, and always arguments. `process` is who runs
jobs. What a verb raises beside what is named are StoreUnavailable and StoreFull, as everywhere.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from dispatcher.audit import Entry
from dispatcher.jobs.blobs import NewBlob
from dispatcher.jobs.endpoint import Endpoint, EndpointLoad
from dispatcher.jobs.estimates import Histogram, What
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.looks import (
    Chunks,
    HandedOut,
    JobInput,
    JobNews,
    JobPage,
    JobSweep,
    JobUsage,
    JobWait,
    LinkedOutput,
    Seen,
    SweepCount,
    TenantLoad,
)
from dispatcher.jobs.states import JobReason, JobState
from dispatcher.jobs.values import (
    ChangedJob,
    ClaimedJob,
    HeldJob,
    Job,
    JobAttempt,
    JobByUrl,
    JobClaimRequest,
    JobSettlement,
    NewChunks,
    NewJob,
    Output,
    Report,
    SettledJob,
    SubmittedJob,
)
from dispatcher.store.database import PLATFORM
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs import (
    blobs,
    by_url,
    change,
    chunks,
    clocks,
    endpoint_secrets,
    endpoints,
    erase,
    events,
    expiry,
    link_keys,
    load,
    measures,
    processes,
    progress,
    purge,
    repair,
    retention,
    search,
    stops,
    sweeps,
    untold,
    views,
)
from dispatcher.store.jobs.purge import EndedSlice
from dispatcher.store.jobs.repair import Stale
from dispatcher.store.jobs.retention import Due
from dispatcher.store.jobs.sweeps import Bulk, Part
from dispatcher.store.jobs.touched import of_endpoint, of_endpoints, of_jobs
from dispatcher.store.lanes import Lanes, none, of_tenant
from dispatcher.store.requests import JobEnd, JobSubmitRequest, Rules
from dispatcher.store.tenants import Erasure
from dispatcher.store.tx import Tx
from dispatcher.values import LinkKey, NewCallback, SigningSecret
from receiver.base.db.readers import SERVICE, Reader

T = TypeVar("T")
_WATCH: Final = "watch upstreams"  # what the one process that does has acquired
_SLICE: Final = 200  # rows that hold a commit up for a few milliseconds
Read = Callable[[Callable[[Tx], Any], Reader], Awaitable[Any]]


class Write(Protocol):
    """How a verb gets to the database: as `Store.write`."""

    async def __call__(
        self,
        act: Callable[[Tx], T],
        *,
        lanes: Lanes = none,
        tenant: str | None = None,
        entries: Sequence[Entry] = (),
    ) -> T:
        """Return what `act` did, once it is durable."""


class Aside(Protocol):
    """`Database.aside`."""

    async def __call__(self, act: Callable[[Tx], T], *, synced: bool = False) -> T:
        """Return what `act` did."""


class JobStore:
    """The verbs. Of those that write, `touched` is what the operation is about."""

    def __init__(
        self,
        commit: Callable[[object, str | None], "asyncio.Future[Any]"],
        write: Write,
        read: Read,
        rules: Rules,
        skew_ms: Callable[[], int],
        aside: Aside,
        committed: Callable[[], int],
    ) -> None:
        """`skew_ms` is how far the database's clock was ahead of ours at the last commit, `aside`
        has what is large be written beside everyone's commits, and `committed` says how many
        operations those have held."""
        self._aside = aside
        self.committed = committed
        self._commit = commit
        self._write = write
        self._read = read
        self._rules = rules
        self._skew_ms = skew_ms

    # --- endpoints ---

    async def put_endpoint(
        self,
        new: Endpoint,
        *,
        create: bool,
        seen: Endpoint | None = None,
        secret: SigningSecret | None = None,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> Endpoint:
        """Make an endpoint (`create`), whose calls `secret` signs, or change the one that there is:
        its rules act on the backlog at once, and one with another URL or method forgets what was
        learned of the last. Of `new`, `text`, `created_ms` and `epoch` do not matter, nor does
        `paused` for a change. What was made of an endpoint that was `seen` is stored only if it is
        so still. Raises Conflict (the name is taken, or what waited for a removed one has not
        ended), its kind EndpointChanged (not as it was seen), and NotFound."""

        def put(tx: Tx) -> Endpoint:
            made = endpoints.put(tx, new, create=create, seen=seen, now_ms=now_ms)
            if create:
                endpoint_secrets.begin(tx, new.name, secret)
            return made

        return await self._write(put, lanes=of_endpoint(new.name), entries=entries)

    async def endpoint(self, name: str) -> Endpoint:
        """Raise NotFound."""
        found: Endpoint = await self._read(lambda tx: endpoints.get(tx, name), SERVICE)
        return found

    async def endpoints(self) -> Sequence[Endpoint]:
        """In the order of their names, without those that were removed."""
        found: Sequence[Endpoint] = await self._read(endpoints.endpoints, SERVICE)
        return found

    async def set_paused(
        self, name: str, *, paused: bool, now_ms: int, entries: Sequence[Entry] = ()
    ) -> Endpoint:
        """Start no more of its jobs, or go on, which ends holds and the circuit. Raises
        NotFound."""
        return await self._write(
            lambda tx: endpoints.set_paused(tx, name, paused=paused, now_ms=now_ms),
            lanes=of_endpoint(name),
            entries=entries,
        )

    async def set_health(self, name: str, *, well: bool, now_ms: int) -> bool:
        """Start nothing more at an endpoint whose health check fails, or go on: then its circuit is
        closed, too. Returns whether that is news."""
        return await self._write(
            lambda tx: endpoints.set_health(tx, name, well=well, now_ms=now_ms),
            lanes=of_endpoint(name),
        )

    async def remove_endpoint(
        self,
        name: str,
        *,
        managed: bool | None = None,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> None:
        """Take no more for it and start nothing; what runs goes on, and what waits is cancelled
        slice by slice. Its secrets are forgotten. Raises NotFound, and EndpointChanged for one that
        is `managed`, or not, other than said."""

        def remove(tx: Tx) -> None:
            endpoints.remove(tx, name, managed=managed, now_ms=now_ms)
            endpoint_secrets.forget(tx, name)

        await self._write(remove, lanes=of_endpoint(name), entries=entries)

    # --- what calls are signed with ---

    async def endpoint_secrets(self, endpoint: str) -> Sequence[SigningSecret]:
        """All that sign or signed its calls and have not been forgotten, newest first. Raises
        NotFound."""
        found: Sequence[SigningSecret] = await self._read(
            lambda tx: endpoint_secrets.secrets(tx, endpoint), SERVICE
        )
        return found

    async def ensure_endpoint_secret(self, new: SigningSecret) -> Sequence[SigningSecret]:
        """Have `new` sign the calls of its endpoint where nothing does; return all that sign or
        signed. Raises NotFound."""
        return await self._write(
            lambda tx: endpoint_secrets.ensure(tx, new), lanes=of_endpoint(new.endpoint or "")
        )

    async def rotate_endpoint_secret(
        self,
        new: SigningSecret,
        *,
        overlap_ms: int,
        force: bool,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> Sequence[SigningSecret]:
        """Sign the calls of its endpoint with `new`; the one before signs beside it until the
        overlap ends. Raises NotFound, and Conflict while an earlier overlap lasts unless `force`,
        which ends that one at once."""
        return await self._write(
            lambda tx: endpoint_secrets.rotate(
                tx, new, overlap_ms=overlap_ms, force=force, now_ms=now_ms
            ),
            lanes=of_endpoint(new.endpoint or ""),
            entries=entries,
        )

    async def mark_endpoint_secret_revealed(
        self, endpoint: str, secret: str, *, by: str, now_ms: int, entries: Sequence[Entry] = ()
    ) -> None:
        """Record that an admin key has seen a secret. Raises NotFound."""
        await self._write(
            lambda tx: endpoint_secrets.mark_revealed(tx, endpoint, secret, by=by, now_ms=now_ms),
            entries=entries,
        )

    async def purge(
        self,
        name: str,
        *,
        tenant: str | None,
        callbacks: bool = True,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> int:
        """Have nothing wait any more for an endpoint, of one tenant or of all (None); returns how
        many waited. Where very many tenants have some, nothing is started until all their queues
        are purged (`purge_on`). They are cancelled slice by slice (`end_purged`), and told of
        unless that is not wanted. Raises NotFound, and NotYet while an earlier purge of all goes
        on."""
        return await self._write(
            lambda tx: purge.purge(tx, name, tenant, callbacks=callbacks, now_ms=now_ms),
            lanes=of_endpoint(name),
            entries=entries,
        )

    async def purging(self) -> Sequence[str]:
        """Return the endpoints of which a purge of all goes on."""
        found: Sequence[str] = await self._read(purge.going_on, SERVICE)
        return found

    async def purge_on(self, name: str, *, now_ms: int) -> bool:
        """Go on with a purge of all that waits for an endpoint, some queues further; returns
        whether more follow."""
        return await self._write(
            lambda tx: purge.go_on(tx, name, now_ms=now_ms), lanes=of_endpoint(name)
        )

    # --- the path of a job ---

    def submit(
        self, new: NewJob, *, process: str | None = None, running_max: int | None = None
    ) -> "asyncio.Future[SubmittedJob]":
        """Store durably. With `process`, which has a place reserved for it, it is started in the
        commit if its endpoint is idle, has a place and no rate (`claimed`), fewer than
        `running_max` jobs of its tenant run, and nobody has called the process dead (see `beat`).
        The same key and content again is the same job, in its present state (`duplicate`). Raises
        NotFound (no such endpoint), KeyReused, JobQueueFull."""
        return self._commit(JobSubmitRequest(new, process, running_max), new.tenant)

    async def claim(self, request: JobClaimRequest) -> list[ClaimedJob]:
        """Start due jobs, at most `request.places`: endpoints in turn, none beyond its window and
        rate; at each its queues in turn, and of each its jobs by class and ticket; of tenants no
        more than `request.limits` let run. None for a process that is not known by its beats, or
        was called dead."""
        claimed: list[ClaimedJob] = await self._commit(request, None)
        return claimed

    async def settle(
        self,
        settlement: JobSettlement,
        *,
        callback: NewCallback | None = None,
        handover: bool = False,
    ) -> SettledJob:
        """Record the end of a call and its verdict: with the output, the `callback` that tells a
        final state, which may be leased with `handover`, and what the endpoint learns. Not
        `recorded`, and nothing is changed, where the claim is no longer current. Raises
        StoreUnavailable or StoreFull: try again until it is recorded."""
        end = JobEnd(settlement, callback, handover)
        try:
            settled: SettledJob = await self._commit(end, None)
        except StoreError:
            raise
        except Exception:
            if callback is None:
                raise
            # It may be the callback: now a savepoint is worth it, as it is not for all.
            settled = await self._commit(replace(end, isolated=True), None)
        return settled

    # --- what upstreams tell themselves ---

    async def report(self, reports: Sequence[Report]) -> Collection[tuple[str, int]]:
        """Note what was reported of jobs, each under its claim; returns the claims (a job's id and
        its claim) that are current: of others nothing is changed."""
        return await self._write(lambda tx: progress.report(tx, reports))

    async def signs(self, claims: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """Return how many reports came under each of these claims, where any did."""
        found: Mapping[tuple[str, int], int] = await self._read(
            lambda tx: progress.signs(tx, claims), SERVICE
        )
        return found

    async def running(self, job: str, claim: int, *, now_ms: int) -> JobByUrl | None:
        """Return a job that runs under this claim, without its input, whether a process holds it
        or its upstream is to end it by URL; None where none does."""
        # By a writer: times are by this process's clock.
        return await self._write(lambda tx: by_url.running(tx, job, claim, now_ms=now_ms))

    async def claim_of(self, job: str, run: int) -> int | None:
        """Return the claim that a job runs under, in this run of it; None where it does not."""
        claim: int | None = await self._read(lambda tx: by_url.claim_of(tx, job, run), SERVICE)
        return claim

    async def ended_under(self, job: str, claim: int) -> tuple[str, JobState] | None:
        """Return whose job it is that ended under this claim by an answer or by its upstream's
        word, and how; None where it did not."""
        found: tuple[str, JobState] | None = await self._read(
            lambda tx: by_url.ended_under(tx, job, claim), SERVICE
        )
        return found

    async def late_by_url(self, *, now_ms: int, limit: int) -> Sequence[JobByUrl]:
        """Return jobs that no process holds and that are to be looked at: their run limit is over,
        or they may have given no sign of life."""
        at_ms = now_ms + self._skew_ms()
        if not await self._read(lambda tx: by_url.any_late(tx, now_ms=at_ms), SERVICE):
            return []
        return await self._write(lambda tx: by_url.late(tx, now_ms=now_ms, limit=limit))

    async def look_later(self, job: str, claim: int, *, look_ms: int, now_ms: int) -> None:
        """Look at such a job later: it lives."""
        await self._write(lambda tx: by_url.look_later(tx, job, claim, look_ms, now_ms=now_ms))

    async def bring_calls_back(self, *, now_ms: int, signs: bool, limit: int) -> int:
        """Correct what a clock that ran ahead left in such jobs: their run limits, and what says
        when they are looked at. Found are those whose calls were made by it, and, if `signs`, all
        of which something was reported by it. Returns how many these were, at most `limit`."""
        at_ms = now_ms + self._skew_ms()
        ids: list[str] = await self._read(
            lambda tx: by_url.ahead(tx, now_ms=at_ms, signs=signs, limit=limit), SERVICE
        )
        if not ids:
            return 0
        return await self._write(
            lambda tx: by_url.bring_back(tx, ids, now_ms=tx.at(now_ms)), lanes=of_jobs(ids)
        )

    async def tell_event(
        self, job: str, claim: int, new: NewCallback, *, now_ms: int
    ) -> events.EventTold:
        """Tell what a job does, unless it does not run under this claim any more, in place of what
        was told of it before and has not gone out; not while that is under way. What ends the job
        keeps it from going out, or waits for it. Raises what keeps a callback from being taken."""
        touched = of_jobs([job])
        return await self._write(
            lambda tx: events.tell(tx, job, claim, new, touched, self._rules, now_ms=now_ms),
            lanes=touched,
        )

    # --- the keys of links ---

    async def ensure_link_key(self, new: LinkKey) -> Sequence[LinkKey]:
        """Return the keys of links and tokens that are good, the newest one first: `new`, where
        there was none."""
        found: Sequence[LinkKey] = await self._read(link_keys.keys, SERVICE)
        return found or await self._write(lambda tx: link_keys.ensure(tx, new))

    async def rotate_link_key(self, new: LinkKey, *, after: str) -> Sequence[LinkKey]:
        """Make links and tokens with `new`, unless another than the key `after` makes them by now;
        those of the key before it stay good. Returns both."""
        return await self._write(lambda tx: link_keys.rotate(tx, new, after))

    async def bring_link_key_back(self, key: str, *, now_ms: int) -> Sequence[LinkKey]:
        """Have a key that a clock ahead made be made now; returns those that are good."""
        return await self._write(lambda tx: link_keys.bring_back(tx, key, now_ms))

    # --- places ---

    async def freed(self, jobs: Sequence[ClaimedJob | HeldJob]) -> None:
        """Free the places of jobs that were ended while they ran, now that their calls have ended:
        as they were claimed, or as `held` tells of them."""
        touched = of_jobs([job.id for job in jobs])
        await self._write(lambda tx: expiry.freed(tx, jobs, touched), lanes=touched)

    async def take_stops(self, process: str, *, now_ms: int, limit: int) -> Sequence[ClaimedJob]:
        """Have a process take on some jobs that have ended and whose upstreams nobody stops yet:
        their places are free once it says so (`freed`)."""
        if not await self._read(stops.any_left, SERVICE):
            return []
        touched = stops.of_left(limit)
        return await self._write(
            lambda tx: stops.take(tx, process, touched, now_ms=now_ms, limit=limit), lanes=touched
        )

    async def release(self, jobs: Sequence[ClaimedJob | HeldJob], *, now_ms: int) -> int:
        """Hand running jobs back unspent, due at once, at shutdown; those that are called at most
        once, or that somebody waits for on the same connection, have failed (`interrupted`).
        Returns how many of them were still ours."""
        touched = of_jobs([job.id for job in jobs])
        return await self._write(
            lambda tx: expiry.release(tx, jobs, touched, self._rules, now_ms=now_ms),
            lanes=touched,
        )

    # --- what users do ---

    async def cancel(
        self,
        tenant: str,
        job: str,
        *,
        reason: JobReason = "user",
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> ChangedJob:
        """Cancel a job, told in the same commit. One that runs takes its place until its `process`
        says that the call has ended (`freed`). Not `changed` if it had ended: then the answer tells
        how. Raises NotFound."""
        touched = of_jobs([job])
        return await self._write(
            lambda tx: change.cancel(tx, tenant, job, reason, touched, self._rules, now_ms=now_ms),
            lanes=touched,
            tenant=tenant,
            entries=entries,
        )

    async def retry(
        self,
        tenant: str,
        job: str,
        *,
        force: bool = False,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> ChangedJob:
        """Queue a job that has ended again: the same id, the next run, all tries before it. Its
        output stays until that run has ended. Raises NotFound, InputGone, JobQueueFull, and
        Conflict while it is queued or runs, or its call has not ended; for a completed one too,
        unless that is forced."""
        touched = of_jobs([job])
        return await self._write(
            lambda tx: change.retry(tx, tenant, job, touched, force=force, now_ms=now_ms),
            lanes=touched,
            tenant=tenant,
            entries=entries,
        )

    # --- what comes in chunks ---

    async def put_chunks(self, given: Sequence[NewChunks]) -> Collection[tuple[str, int]]:
        """Store chunks of calls, each under its claim; return the claims (a job's id and its claim)
        that are current: of others nothing is stored. The same again is stored once."""
        touched = of_endpoints(one.endpoint for one in given)
        return await self._write(lambda tx: chunks.put(tx, given), lanes=touched)

    async def append_chunk(self, job: str, claim: int, value: bytes, *, bytes_max: int) -> bool:
        """Store one more chunk of a job that runs under this claim, of which all may have so many
        bytes; False where none does. Raises TooManyChunks."""
        touched = of_jobs([job])
        return await self._write(
            lambda tx: chunks.append(tx, job, claim, value, touched, bytes_max=bytes_max),
            lanes=touched,
        )

    async def chunks(
        self, tenant: str, job: str, *, seen: tuple[int, int], bytes_max: int
    ) -> Chunks:
        """Return chunks of a job's present call, or of the last one of its run: of about so many
        bytes, one at least, after those that were `seen`: a claim, and how many of it. Raises
        NotFound."""
        found: Chunks = await self._read(
            lambda tx: chunks.get(tx, tenant, job, seen=seen, bytes_max=bytes_max), Reader(tenant)
        )
        return found

    async def news(self, asked: Sequence[Seen], *, bytes_max: int) -> Mapping[str, JobNews]:
        """Return how these jobs stand, with what is new of the chunks of those that run; what is
        gone is left out."""
        found: Mapping[str, JobNews] = await self._read(
            lambda tx: chunks.news(tx, asked, bytes_max=bytes_max), SERVICE
        )
        return found

    async def has_chunks(self, tenant: str, job: str) -> bool:
        """Return whether `hand_out` has something to hand out, or an end to tell. Raises
        NotFound."""
        found: bool = await self._read(lambda tx: chunks.has_news(tx, tenant, job), Reader(tenant))
        return found

    async def hand_out(self, tenant: str, job: str, *, bytes_max: int) -> HandedOut:
        """Hand out what has come of a job in chunks, of about so many bytes, or the output of one
        that completed: each once, whoever asks. Raises NotFound."""
        touched = of_jobs([job])
        return await self._write(
            lambda tx: chunks.hand_out(tx, tenant, job, bytes_max=bytes_max),
            lanes=touched,
            tenant=tenant,
        )

    # --- looking ---

    async def get(self, tenant: str, job: str, *, output: bool = False) -> Job:
        """Return a job, with its `output` where that is asked for and there. Raises NotFound."""
        found: Job = await self._read(
            lambda tx: views.get(tx, tenant, job, output=output), Reader(tenant)
        )
        return found

    async def look(
        self, tenant: str, job: str, *, running_max: int | None = None, now_ms: int
    ) -> tuple[Job, JobWait | None]:
        """Return a job, with its output where that is there, and what it waits for, if it does,
        where `running_max` jobs of its tenant may run at once: in one read. Raises NotFound."""
        at_ms = now_ms + self._skew_ms()
        found: tuple[Job, JobWait | None] = await self._read(
            lambda tx: load.look(tx, tenant, job, running_max=running_max, now_ms=at_ms),
            Reader(tenant),
        )
        return found

    async def search(
        self, tenant: str, filter: JobFilter, *, after: str | None, limit: int
    ) -> JobPage:
        """Newest first, at most `limit`, after id `after`; less, with an id to go on after, where
        one look came no further. Raises StoreUnavailable when it takes longer than the read
        deadline."""
        found: JobPage = await self._read(
            lambda tx: search.page(tx, tenant, filter, after=after, limit=limit), Reader(tenant)
        )
        return found

    async def attempts(
        self, tenant: str, job: str, *, after: int = 0, limit: int = 500
    ) -> Sequence[JobAttempt]:
        """Return calls of all runs, oldest first, at most `limit`, those after number `after`.
        Raises NotFound."""
        found: Sequence[JobAttempt] = await self._read(
            lambda tx: views.attempts(tx, tenant, job, after=after, limit=limit), Reader(tenant)
        )
        return found

    async def input(self, tenant: str, job: str) -> JobInput:
        """Return what a job was submitted with. Raises NotFound, InputGone."""
        found: JobInput = await self._read(lambda tx: views.input(tx, tenant, job), Reader(tenant))
        return found

    async def output(self, tenant: str, job: str) -> Output:
        """Return what a job brought. Raises NotFound, also where there is none, and PayloadGone."""
        found: Output = await self._read(lambda tx: views.output(tx, tenant, job), Reader(tenant))
        return found

    async def linked_output(self, job: str, run: int) -> LinkedOutput | None:
        """Return what a run of a job brought, whosever that is; None where it is not there, or not
        any more."""
        found: LinkedOutput | None = await self._read(
            lambda tx: views.linked(tx, job, run), SERVICE
        )
        if found is None:
            return None
        return replace(found, ended_ms=found.ended_ms - self._skew_ms())

    async def output_sizes(self, tenant: str, endpoint: str, *, limit: int) -> Sequence[int]:
        """Return how many bytes the last outputs of a tenant's jobs at an endpoint have."""
        found: Sequence[int] = await self._read(
            lambda tx: views.output_sizes(tx, tenant, endpoint, limit), SERVICE
        )
        return found

    # --- what is kept outside of its row ---

    async def begin_blob(self, new: NewBlob) -> bool:
        """Note what is about to be kept, before its first byte; return whether its parts are to be
        sealed with its key."""
        return await self._write(lambda tx: blobs.begin(tx, new))

    async def loosen_blob(self, id: str) -> None:
        """Have what nothing names by now be deleted."""
        await self._write(lambda tx: blobs.loosen(tx, id))

    async def orphan_blobs(self, process: str) -> int:
        """Have what processes were writing that are gone be deleted; `process` is ours. Returns how
        much."""
        return await self._write(lambda tx: blobs.orphaned(tx, process))

    async def has_orphaned_blobs(self, process: str) -> bool:
        """Whether `orphan_blobs` would find some."""
        found: bool = await self._read(lambda tx: blobs.has_orphaned(tx, process), SERVICE)
        return found

    async def doomed_blobs(self, limit: int, *, after: str = "") -> Sequence[tuple[str, str]]:
        """Return at most `limit` that are to be deleted, by id, after this one, each with its
        place."""
        found: Sequence[tuple[str, str]] = await self._read(
            lambda tx: blobs.doomed(tx, after, limit), SERVICE
        )
        return found

    async def forget_blobs(self, ids: Sequence[str]) -> None:
        """Forget those whose bytes are gone."""
        await self._write(lambda tx: blobs.forget(tx, ids))

    async def put_blob_part(
        self, id: str, n: int, body: bytes | bytearray, *, synced: bool = False
    ) -> None:
        """Store a part; it is on disk once any later commit is, or, if `synced`, by then."""
        await self._aside(lambda tx: blobs.put_part(tx, id, n, body), synced=synced)

    async def blob_part(self, id: str, n: int) -> bytes | None:
        """Return a part as it is stored, None where it is not there."""
        found: bytes | None = await self._read(lambda tx: blobs.part(tx, id, n), SERVICE)
        return found

    async def drop_blob_parts(self, id: str, limit: int) -> bool:
        """Delete some parts; return whether there are more."""
        more: bool = await self._aside(lambda tx: blobs.drop_parts(tx, id, limit))
        return more

    async def load(self, endpoint: str) -> EndpointLoad:
        """Return what an endpoint has to do and may do now. Raises NotFound."""
        found: EndpointLoad = await self._read(lambda tx: load.load(tx, endpoint), SERVICE)
        return found

    async def loads(self, *, now_ms: int) -> Sequence[EndpointLoad]:
        """Return what all endpoints have to do and may do now, in the order of their names."""
        at_ms = now_ms + self._skew_ms()
        found: Sequence[EndpointLoad] = await self._read(
            lambda tx: load.loads(tx, now_ms=at_ms), SERVICE
        )
        return found

    async def watches_upstreams(self) -> bool:
        """Whether this process is the one that looks after upstreams: of several the first that
        asked, while it lives."""
        return await self._write(lambda tx: tx.acquire(_WATCH))

    async def tenant_load(self, tenant: str, endpoint: str) -> TenantLoad:
        """Return what a tenant has at an endpoint, and what came of it there."""
        found: TenantLoad = await self._read(
            lambda tx: load.of_tenant(tx, tenant, endpoint), Reader(tenant)
        )
        return found

    async def waiting(
        self, tenant: str, job: str, *, running_max: int | None = None, now_ms: int
    ) -> JobWait | None:
        """Return what a job waits for, and for how many others, where `running_max` jobs of its
        tenant may run at once; None unless it is queued. Raises NotFound."""
        at_ms = now_ms + self._skew_ms()
        found: JobWait | None = await self._read(
            lambda tx: load.waiting(tx, tenant, job, running_max=running_max, now_ms=at_ms),
            Reader(tenant),
        )
        return found

    async def ended(self, jobs: Sequence[str]) -> Collection[str]:
        """Return which of these jobs have ended, or are gone."""
        ended: Collection[str] = await self._read(lambda tx: views.ended(tx, jobs), SERVICE)
        return ended

    async def current(self, claims: Sequence[tuple[str, int]]) -> Collection[tuple[str, int]]:
        """Return which of these claims (a job's id and its claim) are the current ones of jobs that
        run."""
        current: Collection[tuple[str, int]] = await self._read(
            lambda tx: views.current(tx, claims), SERVICE
        )
        return current

    async def counts(self, tenant: str | None) -> Mapping[JobState, int]:
        """Return how many jobs are in each state, of one tenant or of all."""
        reader = PLATFORM if tenant is None else Reader(tenant)
        found: Mapping[JobState, int] = await self._read(
            lambda tx: views.counts(tx, tenant), reader
        )
        return found

    async def measured(self, endpoint: str, *, now_ms: int) -> Mapping[What, Histogram]:
        """Return what was measured of an endpoint's jobs: how long they waited and ran, and what
        they brought."""
        found: Mapping[What, Histogram] = await self._read(
            lambda tx: measures.measured(tx, endpoint, now_ms=now_ms + self._skew_ms()), SERVICE
        )
        return found

    async def usage(
        self,
        tenant: str,
        *,
        since_day: int,
        until_day: int,
        endpoint: str | None = None,
        after: tuple[str, int] | None = None,
        limit: int = 1_000,
    ) -> Sequence[JobUsage]:
        """Return what a tenant used, by endpoint and day (days since the Unix epoch, both
        included), at most `limit`, after this endpoint and day."""
        found: Sequence[JobUsage] = await self._read(
            lambda tx: measures.usage(
                tx,
                tenant,
                endpoint,
                since_day=since_day,
                until_day=until_day,
                after=after,
                limit=limit,
            ),
            Reader(tenant),
        )
        return found

    # --- bulk changes ---

    async def preview_sweep(
        self, tenant: str, what: Bulk, filter: JobFilter, *, sample: int, now_ms: int
    ) -> SweepCount:
        """Return how many jobs a bulk change would match, as far as that is counted, and some of
        them. Raises Conflict for a status that it cannot change."""
        at_ms = now_ms + self._skew_ms()
        found: SweepCount = await self._read(
            lambda tx: sweeps.count(tx, tenant, what, filter, made_ms=at_ms, sample=sample),
            Reader(tenant),
        )
        return found

    async def make_sweep(
        self,
        tenant: str,
        what: Bulk,
        filter: JobFilter,
        *,
        now_ms: int,
        entry: Entry | None = None,
    ) -> JobSweep:
        """Fix the set: what matches `filter` now and can be changed. Changes nothing yet
        (`step_sweep`). Raises Conflict for a status that it cannot change, and while as many run as
        may."""
        counted = await self.preview_sweep(tenant, what, filter, sample=0, now_ms=now_ms)
        sweep = sweeps.new(tenant, what, filter, counted, now_ms + self._skew_ms())
        return await self._write(
            lambda tx: sweeps.make(tx, sweep, entry), lanes=of_tenant(tenant), tenant=tenant
        )

    async def sweeps(
        self, tenant: str, *, after: str | None = None, limit: int = 100
    ) -> Sequence[JobSweep]:
        """Return bulk changes and purges, newest first, at most `limit`, after id `after`."""
        found: Sequence[JobSweep] = await self._read(
            lambda tx: sweeps.sweeps(tx, tenant, after=after, limit=limit), Reader(tenant)
        )
        return found

    async def get_sweep(self, tenant: str, sweep: str) -> JobSweep:
        """Raise NotFound."""
        found: JobSweep = await self._read(lambda tx: sweeps.get(tx, tenant, sweep), Reader(tenant))
        return found

    async def cancel_sweep(
        self, tenant: str, sweep: str, *, now_ms: int, entry: Entry | None = None
    ) -> JobSweep:
        """Change no more jobs; what was changed stays. Raises NotFound, Conflict (done)."""
        return await self._write(
            lambda tx: sweeps.cancel(tx, tenant, sweep, now_ms=now_ms, entry=entry), tenant=tenant
        )

    async def running_sweeps(self, *, limit: int = 1_000) -> Sequence[JobSweep]:
        """Return bulk changes that run, of every tenant, in the order of their ids."""
        found: Sequence[JobSweep] = await self._read(
            lambda tx: sweeps.running(tx, limit=limit), SERVICE
        )
        return found

    async def sweeps_jobs(self) -> bool:
        """Whether this process is the one that makes bulk changes: of several the first that asked,
        while it lives."""
        return await self._write(sweeps.acquire)

    async def step_sweep(
        self, tenant: str, sweep: str, *, now_ms: int, limit: int = _SLICE
    ) -> tuple[JobSweep, bool]:
        """Walk on in the set, to `limit` more jobs of it at most, each with its callback; cursor
        and rows move in one commit. Returns what became of it, and whether it came anywhere: a
        retry waits while queues are full. Raises NotFound, and Conflict in a process that is not
        the one that sweeps."""
        part: Part | None = await self._read(
            lambda tx: sweeps.upcoming(tx, sweep, limit=limit), Reader(tenant, upkeep=True)
        )
        if part is None:
            return await self.get_sweep(tenant, sweep), True
        touched = part.touched
        return await self._write(
            lambda tx: sweeps.step(tx, sweep, part, touched, self._rules, now_ms=now_ms),
            lanes=touched,
        )

    # --- what ends with time ---

    async def expire(self, *, now_ms: int, limit: int) -> int:
        """End queued jobs past their queue timeout or time to live, held or not; returns how
        many."""
        touched = expiry.of_expiring(now_ms, limit)
        return await self._write(
            lambda tx: expiry.expire(tx, touched, self._rules, now_ms=now_ms, limit=limit),
            lanes=touched,
        )

    async def end_purged(self, *, now_ms: int, limit: int) -> EndedSlice:
        """End a slice of what was purged, or waits for an endpoint that was removed, which goes
        when nothing waits or runs."""
        touched = purge.of_next(limit)
        return await self._write(
            lambda tx: purge.end_slice(tx, touched, self._rules, now_ms=now_ms, limit=limit),
            lanes=touched,
        )

    async def tell_untold(self, *, now_ms: int, limit: int) -> int:
        """Tell ends of jobs that could not be told, since no key here opened where to, and now
        one does; returns how many."""
        ends: Sequence[tuple[str, int]] = await self._read(
            lambda tx: untold.due(tx, limit), SERVICE
        )
        if not ends:
            return 0
        touched = untold.of_due(ends)
        return await self._write(
            lambda tx: untold.tell_due(tx, ends, touched, self._rules, now_ms=now_ms),
            lanes=touched,
        )

    async def bring_back(self, *, now_ms: int, retry_after_ms: int, limit: int) -> int:
        """Correct what a clock that ran ahead left in endpoints, as far as it would stop something;
        returns how many were ahead."""
        ahead = {"retry_after_ms": retry_after_ms, "limit": limit}
        # A reader does not know how far the database's clock is from ours.
        at_ms = now_ms + self._skew_ms()
        if not await self._read(lambda tx: clocks.ahead(tx, now_ms=at_ms, **ahead), SERVICE):
            return 0
        return await self._write(
            lambda tx: clocks.bring_back(tx, now_ms=tx.at(now_ms), **ahead),
            lanes=clocks.of_ahead(now_ms=now_ms, **ahead),
        )

    async def hasten(self, *, now_ms: int, wait_ms: int, limit: int) -> int:
        """Have jobs that wait to be run again, which a clock that ran ahead has put off, wait for
        no longer than `wait_ms` from now; returns how many waited longer, at most `limit`."""
        until_ms = now_ms + self._skew_ms() + wait_ms
        ids: list[str] = await self._read(
            lambda tx: clocks.late(tx, until_ms=until_ms, limit=limit), SERVICE
        )
        if not ids:
            return 0
        return await self._write(
            lambda tx: clocks.hasten(tx, ids, until_ms=tx.at(now_ms + wait_ms)),
            lanes=of_jobs(ids),
        )

    async def prune(self, *, now_ms: int, limit: int) -> int:
        """Remove up to `limit` inputs, outputs and jobs past what their endpoints keep, and as many
        old figures; returns how many, so that 0 means done. What waits or runs is never
        touched."""
        key_ms, at_ms = self._rules.key_ms, now_ms + self._skew_ms()
        due: Due | None = await self._read(
            lambda tx: retention.due(tx, now_ms=at_ms, key_ms=key_ms, limit=limit), SERVICE
        )
        if due is not None:
            pruned = await self._write(
                lambda tx: retention.prune(tx, due, now_ms=now_ms, key_ms=key_ms),
                lanes=due.touched,
            )
            if pruned:
                return pruned
        return await self._write(lambda tx: retention.prune_rest(tx, now_ms=now_ms, limit=limit))

    async def erase(self, tenant: str, *, now_ms: int, limit: int) -> Erasure:
        """Delete about `limit` more jobs of a tenant that is being erased, and cancel what runs.
        Those whose calls are being closed stay until that is done (`waiting`)."""
        touched = erase.of_tenant(tenant, limit)
        return await self._write(
            lambda tx: erase.erase(tx, tenant, touched, self._rules, now_ms=now_ms, limit=limit),
            lanes=touched,
        )

    async def repair(self, *, after: str, limit: int) -> tuple[int, str | None]:
        """Compare `limit` queues after id `after`, and their endpoints, with their jobs and repair
        them. Returns how many disagreed, and the id to go on after (None at the end)."""
        found: Stale = await self._read(lambda tx: repair.stale(tx, after, limit=limit), SERVICE)
        if not found.queues and not found.endpoints:
            return 0, found.next_id
        repaired = await self._write(lambda tx: repair.repair(tx, found), lanes=found.touched)
        return repaired, found.next_id

    # --- processes ---

    async def reclaim(self, process: str, beat: int, *, now_ms: int, limit: int = _SLICE) -> int:
        """Take what a process ran that is dead at this beat: nothing happens if it has beaten
        since. Its jobs are queued again, at most three times, or have failed (`crash_loop`, or
        `interrupted` where they are called at most once). Returns how many of them were; what is
        beyond `limit` is left to `reclaim_orphans`."""
        touched = expiry.of_process(process, limit)
        return await self._write(
            lambda tx: expiry.reclaim(
                tx, process, beat, touched, self._rules, now_ms=now_ms, limit=limit
            ),
            lanes=touched,
        )

    async def reclaim_orphans(self, *, beside: str, now_ms: int, limit: int = _SLICE) -> int:
        """Take up to `limit` jobs that no process runs which is known by its beats, nor `beside`:
        as `reclaim` does. At the start of a sole owner, whose predecessor left them, that is
        everything. Returns how many."""
        touched = expiry.of_orphans(beside, limit)
        return await self._write(
            lambda tx: expiry.reclaim_orphans(
                tx, beside, touched, self._rules, now_ms=now_ms, limit=limit
            ),
            lanes=touched,
        )

    async def beat(self, process: str, *, begins: bool, now_ms: int) -> Mapping[str, int] | None:
        """Count this process's beat up, or have it begin; return the beats of all others. None
        where its own is gone, since somebody has called it dead."""
        return await self._write(
            lambda tx: processes.beat(tx, process, begins=begins, now_ms=now_ms)
        )

    async def leave(self, process: str) -> None:
        """Have nobody watch this process any more: it runs nothing."""
        await self._write(lambda tx: processes.leave(tx, process))

    async def held(self, process: str) -> Sequence[HeldJob]:
        """Return what a process runs, and the calls that it has open of jobs that have ended."""
        held: Sequence[HeldJob] = await self._read(lambda tx: processes.held(tx, process), SERVICE)
        return held

    async def disown(self, jobs: Sequence[HeldJob], *, now_ms: int) -> None:
        """Let go of what a process was given and does not know, since the reply to a commit was
        lost: its jobs are handed back, and places of calls that it has not open are free."""
        running = [one for one in jobs if not one.releasing]
        if running:
            await self.release(running, now_ms=now_ms)
        ended = [one for one in jobs if one.releasing]
        if ended:
            await self.freed(ended)
