"""What upstreams report of jobs while they run: taken at once, kept in memory, and written together
twice a second at most.

A report counts while the claim is current that its call was made under. Where the call is open in
this process that is known; else it is looked up, and known for a moment.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
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
_KNOWN_MS: Final = 500
_KNOWN_MAX: Final = 10_000


class TooManyReports(Exception):
    """More in this second than are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One report: `progress` where it says anything of that or is a mere sign of life, `output`, a
    piece of the job's output as JSON, and a line for its log."""

    progress: Progress
    output: bytes | None = None
    log: str | None = None


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

    async def take(self, grant: Grant, *, output: bytes | None, log: str | None) -> None:
        """Take a piece of a job's output, as JSON, and a line of its log, where they are there."""


class NoPieces:
    """Takes none."""

    async def take(self, grant: Grant, *, output: bytes | None, log: str | None) -> None:
        """Throw it away."""


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
        self._known: dict[tuple[str, int], int] = {}  # until when
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
        if said.output is not None or said.log is not None:
            await self.pieces.take(grant, output=said.output, log=said.log)
        self._add(Report(job=grant.job, claim=grant.claim, progress=said.progress))
        return True

    def progress(self, job: ClaimedJob, data: bytes) -> None:
        """Take what a running call's own answer said of its progress: a number, or an object as a
        report is one. What is neither, and whatever of it is out of bounds, is not heard."""
        known = heard(data, self._clock())
        if known is not None:
            self._add(Report(job=job.id, claim=job.claim, progress=known))

    async def flush(self) -> None:
        """Write what is left, at the end, as far as that can be done."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait({self._writing})
            self._writing = None
        if self._pending:
            await self._write()

    async def _is_current(self, grant: Grant) -> bool:
        if self._sign(grant.job, grant.claim):
            return True
        claim, at_ms = (grant.job, grant.claim), self._monotonic_ms()
        if self._known.get(claim, 0) > at_ms:
            return True
        self._known.pop(claim, None)
        if claim not in await self._store.current([claim]):
            return False
        if len(self._known) >= _KNOWN_MAX:
            self._known = {one: ms for one, ms in self._known.items() if ms > at_ms}
            if len(self._known) >= _KNOWN_MAX:
                return True
        self._known[claim] = at_ms + _KNOWN_MS
        return True

    def forget(self, jobs: Sequence[str]) -> None:
        """Look again whether these jobs run: they have ended, or changed hands."""
        if self._known:
            ended = set(jobs)
            self._known = {one: ms for one, ms in self._known.items() if one[0] not in ended}

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
            for one in part:
                del self._pending[one.job]
            try:
                current = await self._store.report(part)
            except StoreError as error:
                _LOG.warning("cannot write progress yet", reason=str(error))
                self._put_back(part)
                return
            except Exception as error:
                _LOG.exception("writing progress failed", error)
                return
            self._on_written([one for one in part if (one.job, one.claim) in current])

    def _put_back(self, part: Sequence[Report]) -> None:
        for one in part:
            later = self._pending.get(one.job)
            if later is None:
                self._pending[one.job] = one
            elif later.claim == one.claim:
                joined = one.progress.then(later.progress)
                self._pending[one.job] = Report(job=one.job, claim=one.claim, progress=joined)
