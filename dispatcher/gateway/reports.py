"""What upstreams report of jobs while they run: taken at once, kept in memory, and written together
twice a second at most.

A report counts while the claim is current that its call was made under: that is looked up, for all
at once that come in together. While the database is away it is taken to be so where the call is
open in this process.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from dispatcher.jobs.progress import METADATA_BYTES_MAX, STEP_CHARS_MAX, Progress
from dispatcher.jobs.tokens import Grant
from dispatcher.jobs.told import JSON_TYPE, spliced, to_json
from dispatcher.jobs.values import ClaimedJob, Output, Report
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs.store import JobStore
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms

_LOG: Final = log.get("dispatcher.gateway")
WRITE_MS: Final = 500
"""Between two writes there is as much at least."""
JOB_REPORTS_MAX: Final = 50
PEER_REPORTS_MAX: Final = 2_000
"""So many reports of one job, and from one address, are taken in a second."""
_PENDING_MAX: Final = 10_000
_SLICE: Final = 200


Claim = tuple[str, int]
"""A job's id, and its claim."""


class TooManyReports(Exception):
    """More in this second than are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One report: `progress`, also where it is a mere sign of life, and `output`, a piece of the
    job's output as JSON."""

    progress: Progress
    output: bytes | None = None


def metadata_of(raw: bytes) -> str | None:
    """Return a JSON object as it stands, None for what is none, is longer than it may be, or is not
    read alike by everybody: it is shown within other documents."""
    if not raw.startswith(b"{") or len(raw) > METADATA_BYTES_MAX:
        return None
    value = spliced(Output(body=raw, content_type=JSON_TYPE), METADATA_BYTES_MAX)
    return raw.decode() if value == raw else None


def heard(data: bytes, at_ms: int) -> Progress | None:
    """Return what an event of an upstream's says of its progress, None where it says nothing that
    can be kept."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        said = {"progress": said}
    percent, step, metadata = said.get("progress"), said.get("currentStep"), said.get("metadata")
    if not isinstance(percent, int | float) or isinstance(percent, bool) or not 0 <= percent <= 100:
        percent = None
    if not isinstance(step, str) or len(step) > STEP_CHARS_MAX or "\0" in step:
        step = None
    text = None
    if isinstance(metadata, dict):
        text = metadata_of(to_json(metadata).encode(errors="replace"))
    known = Progress(
        percent=None if percent is None else float(percent),
        step=step,
        metadata=text,
        since_ms=at_ms,
        at_ms=at_ms,
    )
    return None if known.is_empty else known


class Pieces(Protocol):
    """Takes what is reported beside progress, under a claim that is current."""

    async def take(self, grant: Grant, output: bytes) -> bool:
        """Take a piece of a job's output, as JSON; False where the claim is none any more."""


class NoPieces:
    """Takes none."""

    async def take(self, grant: Grant, output: bytes) -> bool:
        """Throw it away."""
        return True


class _Current:
    """Which claims are current: each look is for all that were asked about before it began."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._asked: dict[Claim, asyncio.Future[bool]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def has(self, claim: Claim) -> bool:
        """Whether this is the current claim of a job that runs. Raises what the database does."""
        found = self._asked.get(claim)
        if found is None:
            found = self._asked[claim] = asyncio.get_running_loop().create_future()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look-at-reported-claims")
        return await asyncio.shield(found)

    async def _look(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            claims = list(asked)
            for at in range(0, len(claims), _SLICE):
                part = claims[at : at + _SLICE]
                try:
                    current = await self._store.current(part)
                except Exception as error:
                    for claim in part:
                        asked[claim].set_exception(error)
                        asked[claim].exception()  # who asked may be gone
                else:
                    for claim in part:
                        asked[claim].set_result(claim in current)


class Reports:
    """Reports on their way into the database. `sign` notes a sign of life of a call that is open
    here under this claim, and says whether there is one; `on_written` is told of the jobs whose
    reports are in the database, with what was written of each."""

    def __init__(
        self,
        store: JobStore,
        sign: Callable[[str, int], bool],
        *,
        pieces: Pieces | None = None,
        on_written: Callable[[Sequence[Report]], None] = lambda _reports: None,
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self.pieces: Pieces = pieces or NoPieces()
        self._store = store
        self._sign = sign
        self._on_written = on_written
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._pending: dict[str, Report] = {}
        self._under_way: dict[str, asyncio.Future[None]] = {}  # until its write is over
        self._current = _Current(store)
        self._written_ms: int | None = None
        self._writing: asyncio.Task[None] | None = None
        self._second = 0
        self._counted = Counter[str]()

    def admit(self, job: str, peer: str) -> None:
        """Count one more report. Raises TooManyReports."""
        second = self._monotonic_ms() // 1000
        if second != self._second:
            self._second, self._counted = second, Counter()
        self._counted[job] += 1
        self._counted[f"@{peer}"] += 1
        if self._counted[job] > JOB_REPORTS_MAX or self._counted[f"@{peer}"] > PEER_REPORTS_MAX:
            raise TooManyReports

    async def take(self, grant: Grant, said: Said) -> bool:
        """Take a report; False, and nothing is changed, where its claim is not current any more.
        Raises TooManyReports, and what the database does where that has to be asked."""
        if len(self._pending) >= _PENDING_MAX and grant.job not in self._pending:
            raise TooManyReports
        if not await self._is_current(grant):
            return False
        if said.output is not None and not await self.pieces.take(grant, said.output):
            return False
        self._add(Report(job=grant.job, claim=grant.claim, progress=said.progress))
        return True

    def progress(self, job: ClaimedJob, data: bytes) -> None:
        """Take what a running call's own answer said of its progress: a number, or an object as a
        report is one. What is neither, and whatever of it is out of bounds, is not heard."""
        known = heard(data, self._clock())
        if known is not None:
            self._add(Report(job=job.id, claim=job.claim, progress=known))

    def write_now(self, job: str) -> Awaitable[None] | None:
        """Return what writes what is left of a job that is about to end, where there is any: after
        its end it would come too late."""
        if job not in self._pending and job not in self._under_way:
            return None
        return self._write_rest(job)

    async def _write_rest(self, job: str) -> None:
        under_way = self._under_way.get(job)
        if under_way is not None:
            await asyncio.wait((under_way,))
        one = self._pending.pop(job, None)
        try:
            if one is not None:
                await self._store.report([one])
        except StoreError as error:
            _LOG.debug("the last report of a job is not written", reason=str(error))
        except Exception as error:
            _LOG.exception("writing progress failed", error)

    async def flush(self) -> None:
        """Write what is left, at the end, as far as that can be done."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait({self._writing})
            self._writing = None
        if self._pending:
            await self._write()

    async def _is_current(self, grant: Grant) -> bool:
        is_open = self._sign(grant.job, grant.claim)
        try:
            return await self._current.has((grant.job, grant.claim))
        except StoreError:
            if is_open:
                return True
            raise

    def _add(self, report: Report) -> None:
        before = self._pending.get(report.job)
        if before is not None and before.claim > report.claim:
            return
        if before is not None and before.claim == report.claim:
            joined = before.progress.then(report.progress)
            report = Report(job=report.job, claim=report.claim, progress=joined)
        self._pending[report.job] = report
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_soon(), name="write-progress")

    async def _write_soon(self) -> None:
        while self._pending:
            if self._written_ms is not None:
                left_ms = self._written_ms + WRITE_MS - self._monotonic_ms()
                if left_ms > 0:
                    await asyncio.sleep(left_ms / 1000)
            self._written_ms = self._monotonic_ms()
            await self._write()

    async def _write(self) -> None:
        """Write all that is there, a slice in one commit; what cannot be written now stays."""
        count = len(self._pending)
        while count > 0 and self._pending:
            part = list(islice(self._pending.values(), min(count, _SLICE)))
            count -= len(part)
            over = asyncio.get_running_loop().create_future()
            for one in part:
                del self._pending[one.job]
                self._under_way[one.job] = over
            try:
                current = await self._store.report(part)
            except StoreError as error:
                _LOG.warning("cannot write progress yet", reason=str(error))
                self._put_back(part)
                return
            except Exception as error:
                _LOG.exception("writing progress failed", error)
                return
            finally:
                for one in part:
                    del self._under_way[one.job]
                over.set_result(None)
            self._on_written([one for one in part if (one.job, one.claim) in current])

    def _put_back(self, part: Sequence[Report]) -> None:
        for one in part:
            later = self._pending.get(one.job)
            if later is None:
                self._pending[one.job] = one
            elif later.claim == one.claim:
                joined = one.progress.then(later.progress)
                self._pending[one.job] = Report(job=one.job, claim=one.claim, progress=joined)
