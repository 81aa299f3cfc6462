"""Pieces of outputs that upstreams report by URL: chunks as those of an answer that comes in
chunks, each stored before the report is answered."""

from collections.abc import Callable

from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.jobs.chunks import CHUNK_BYTES_MAX, is_value, value_of
from dispatcher.jobs.tokens import Grant
from dispatcher.jobs.values import ClaimedJob
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs.store import JobStore


class StoredPieces:
    """Stores them (`reports.Pieces`). `job_of` returns a job whose call is open here, and
    `on_output` is told of what is stored. An upstream that reports pieces answers whole: both in
    one call would be in each other's way."""

    def __init__(
        self,
        store: JobStore,
        book: EndpointBook,
        job_of: Callable[[str, int], ClaimedJob | None],
        on_output: Callable[[ClaimedJob, bytes], None],
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._book = book
        self._job_of = job_of
        self._on_output = on_output
        self._clock = clock

    async def take(self, grant: Grant, output: bytes) -> bool:
        """Store a piece; False where the claim is none any more. Raises TooManyChunks, and what the
        database does."""
        value = output if is_value(output) else value_of(output)
        stored = await self._store.append_chunk(
            grant.job, grant.claim, value, bytes_max=CHUNK_BYTES_MAX
        )
        if stored:
            await self._tell(grant, value)
        return stored

    async def _tell(self, grant: Grant, value: bytes) -> None:
        job = self._job_of(grant.job, grant.claim)
        if job is None and any("output" in one.rules.callback.events for one in self._book.all()):
            try:
                found = await self._store.running(grant.job, grant.claim, now_ms=self._clock())
            except StoreError:  # it is stored; the next one is told of
                return
            job = None if found is None else found.job
        if job is not None:
            self._on_output(job, value)
