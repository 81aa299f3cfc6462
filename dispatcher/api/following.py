"""Following a job: what is new of it, in order, for as long as somebody reads that and it goes on.

Who follows a job has a place among the held requests, and who finds none is told how it stands and
no more. Nothing is held for one who reads slowly: he gets what there is when he comes to it.
"""

import re
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, get_args

from dispatcher.api.call import Call
from dispatcher.gateway.feeds import Feed
from dispatcher.jobs.looks import Chunks, JobNews, Seen
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.states import FINAL, JobState
from dispatcher.store.errors import NotFound

KEEP_ALIVE_S: Final = 15.0
"""So often at least who follows a job hears something."""
WAITING_S: Final = 2.0
"""So often who follows one that waits is told what for, where that has changed."""
_STEP_S_MIN: Final = 0.1
_READ_BYTES: Final = 256 * 1024
_CURSOR: Final = re.compile(r"(\d{1,9})\.(\d{1,15})\.(\d{1,6})\.(\d{1,9})\.([a-z]+)")


@dataclass(slots=True)
class Cursor:
    """How far somebody has followed a job: the run and state that he knows, and of a claim how many
    chunks and reports."""

    run: int = 0
    claim: int = 0
    chunks: int = 0
    signs: int = 0
    state: JobState | None = None

    def __str__(self) -> str:
        return f"{self.run}.{self.claim}.{self.chunks}.{self.signs}.{self.state or 'none'}"

    @property
    def is_end(self) -> bool:
        """Whether he knows that the job has ended."""
        return self.state in FINAL


def cursor(text: str) -> Cursor:
    """Return a cursor that was written as text. Raises ValueError."""
    parts = _CURSOR.fullmatch(text)
    if parts is None or parts[5] not in (*get_args(JobState), "none"):
        raise ValueError(text)
    run, claim, chunks, signs = (int(one) for one in parts.groups()[:4])
    state: JobState | None = next((one for one in get_args(JobState) if one == parts[5]), None)
    return Cursor(run, claim, chunks, signs, state)


@dataclass(frozen=True, slots=True)
class Change:
    """What is new. A `state` is told when it is entered, and of a job that `waits` again now and
    then; `progress` comes with what was told of it; a `chunk` has its number and its value; `quiet`
    is that nothing happened for long."""

    what: Literal["state", "waits", "progress", "chunk", "quiet"]
    state: JobState
    number: int = 0
    value: bytes = b""
    progress: Progress | None = None


async def changes(
    call: Call,
    job: str,
    at: Cursor,
    *,
    seconds: float,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> AsyncGenerator[Change, None]:
    """Yield what is new of a job since `at`, which moves along, until its end, for so many seconds
    at most; its end comes last, after its last chunk. Raises NotFound, and what the store does."""
    gateway = call.context.gateway
    with gateway.waiters.place(call.tenant) as has_place, gateway.feeds.follow(job) as feed:
        ends_s, told_s = time.monotonic() + seconds, time.monotonic()
        news: JobNews | None = await _look(call, job, at)
        while True:
            version = feed.version
            async for change in _new(call, job, at, feed, news):
                yield change
                told_s = time.monotonic()
            left_s = ends_s - time.monotonic()
            if at.is_end or not has_place or gateway.waiters.is_stopped or left_s <= 0:
                return
            step_s = WAITING_S if at.state == "queued" else keep_alive_s
            step_s = max(_STEP_S_MIN, min(step_s, keep_alive_s, left_s))
            if await feed.wait(version, step_s):
                await gateway.feeds.turn()
            elif at.state is not None:
                if at.state == "queued":
                    yield Change("waits", at.state)
                if time.monotonic() - told_s >= keep_alive_s:
                    yield Change("quiet", at.state)
                    told_s = time.monotonic()
            if feed.is_gone:
                raise NotFound(f"there is no job {job}")
            news = feed.news


async def _look(call: Call, job: str, at: Cursor) -> JobNews:
    """Return how a job stands now: whatever its followers were told last may be old."""
    asked = [Seen(job, at.claim, at.chunks)]
    found = await call.context.store.jobs.news(asked, bytes_max=0)
    if job not in found:
        raise NotFound(f"there is no job {job}")
    return found[job]


async def _new(
    call: Call, job: str, at: Cursor, feed: Feed, news: JobNews | None
) -> AsyncGenerator[Change, None]:
    """Yield what is new by these news."""
    if news is None or (news.run, news.claim) < (at.run, at.claim):
        return
    state = news.state
    if (news.run, state) != (at.run, at.state) and state not in FINAL:
        at.run, at.state = news.run, state
        yield Change("state", state)
    if state == "running" and news.claim != at.claim:
        at.claim, at.chunks, at.signs = news.claim, 0, 0
    if state != "queued":
        async for change in _chunks(call, job, at, feed, news):
            yield change
    if news.signs != at.signs and state == "running":
        at.signs = news.signs
        yield Change("progress", state, progress=news.progress)
    if state in FINAL and (news.run, state) != (at.run, at.state):
        at.run, at.state = news.run, state
        yield Change("state", state)


async def _chunks(
    call: Call, job: str, at: Cursor, feed: Feed, news: JobNews
) -> AsyncGenerator[Change, None]:
    state = news.state
    while True:
        values = feed.since(at.claim, at.chunks) if state == "running" else None
        if values is not None:
            for value in values:
                at.chunks += 1
                yield Change("chunk", state, at.chunks - 1, value)
            return
        found = await _read(call, job, at, news)
        if found.values and found.claim != at.claim:
            at.claim, at.chunks, at.signs = found.claim, 0, 0
        for value in found.values:
            at.chunks += 1
            yield Change("chunk", state, at.chunks - 1, value)
        if found.is_all or not found.values:
            return


async def _read(call: Call, job: str, at: Cursor, news: JobNews) -> Chunks:
    """Return the chunks behind a cursor. Once the job has ended all who follow it are there."""
    read = partial(
        call.context.store.jobs.chunks,
        call.tenant,
        job,
        seen=(at.claim, at.chunks),
        bytes_max=_READ_BYTES,
    )
    if news.state not in FINAL:
        return await read()
    what = f"chunks {call.tenant} {news.run} {at.claim} {at.chunks}"
    return await call.context.gateway.feeds.shared(job, what, read)
