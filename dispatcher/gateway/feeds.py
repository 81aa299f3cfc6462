"""Jobs that somebody follows: how each stands, and what came of it lately, looked at once for all
who follow it. They are looked at when a commit, here or in another process, tells of something new,
no oftener than a few times a second, and now and then in any case.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from dispatcher.jobs.looks import JobNews, Seen
from dispatcher.store.errors import StoreError
from receiver.base import log

_LOG: Final = log.get("dispatcher.feeds")
_POLL_S: Final = 1.0  # for what nobody could tell of
_GAP_S: Final = 0.1  # between two looks
_TURN_S: Final = 0.0002  # for each who is told: it takes a quarter of that (measured)
_TURN_S_MIN: Final = 0.002  # for less nobody is made to wait
_ASKED_MAX: Final = 16  # jobs in one look
_LOOK_BYTES: Final = 64 * 1024  # of chunks, of one job in one look
_SHARED_MAX: Final = 8  # answers that are kept for all who follow a job
RECENT_BYTES: Final = 128 * 1024
"""Of chunks that are held for those who follow a job; who is behind them reads them himself."""
Look = Callable[[Sequence[Seen]], Awaitable[Mapping[str, JobNews]]]
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Feed:
    """A job that is followed. `version` grows with each change. `recent` are chunks of `claim`,
    those before number `total`, as far as they are held."""

    job: str
    news: JobNews | None = None
    version: int = 0
    claim: int = 0
    total: int = 0
    recent: deque[bytes] = field(default_factory=deque, repr=False)
    recent_bytes: int = 0
    followers: int = 0
    is_gone: bool = False
    shared: dict[str, asyncio.Future[Any]] = field(default_factory=dict, repr=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def wait(self, version: int, seconds: float) -> bool:
        """Wait until it is another than this version; False when the time is over."""
        if self.version != version:
            return True
        if seconds <= 0:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def since(self, claim: int, count: int) -> list[bytes] | None:
        """Return the chunks after the first `count` of a claim; None where they are not held: then
        the store has them."""
        behind = self.total - count
        if claim != self.claim or not 0 <= behind <= len(self.recent):
            return None
        return list(self.recent)[len(self.recent) - behind :] if behind else []

    def wake(self) -> None:
        """Have all who wait look again."""
        self.version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def take(self, news: JobNews | None) -> bool:
        """Note how the job stands now; None: it is gone. Return whether that was new, and who
        follows it was woken."""
        before, self.news = self.news, news
        if news is None:
            is_new, self.is_gone = not self.is_gone, True
            if is_new:
                self.wake()
            return is_new
        is_new = before is None or (news.state, news.run, news.claim, news.signs) != (
            before.state,
            before.run,
            before.claim,
            before.signs,
        )
        if news.chunks is not None:
            is_new |= self._take_chunks(news)
        if is_new:
            self.wake()
        return is_new

    def _take_chunks(self, news: JobNews) -> bool:
        chunks = news.chunks
        if chunks is None:
            return False
        if chunks.claim != self.claim:
            self.claim, self.total, self.recent_bytes = chunks.claim, 0, 0
            self.recent.clear()
        if chunks.first != self.total or not chunks.values:
            return False
        for value in chunks.values:
            self.recent.append(value)
            self.recent_bytes += len(value)
        self.total += len(chunks.values)
        while self.recent_bytes > RECENT_BYTES and len(self.recent) > len(chunks.values):
            self.recent_bytes -= len(self.recent.popleft())
        return True


class Feeds:
    """All jobs that are followed here. `look` says how they stand."""

    def __init__(
        self,
        look: Callable[..., Awaitable[Mapping[str, JobNews]]],
        *,
        poll_s: float = _POLL_S,
        gap_s: float = _GAP_S,
    ) -> None:
        self._look = look
        self._poll_s = poll_s
        self._gap_s = gap_s
        self._turn_s = 0.0  # when the last one's turn is over
        self._feeds: dict[str, Feed] = {}
        self._new: set[str] = set()
        self._told = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    @property
    def followed(self) -> int:
        """How many jobs are followed."""
        return len(self._feeds)

    @contextmanager
    def follow(self, job: str) -> Iterator[Feed]:
        """Follow a job for as long as the block lasts."""
        feed = self._feeds.get(job)
        if feed is None:
            feed = self._feeds[job] = Feed(job)
            self.tell((job,))
        feed.followers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._run(), name="follow-jobs")
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers:
                del self._feeds[job]
            if not self._feeds and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def shared(self, job: str, what: str, make: Callable[[], Awaitable[T]]) -> T:
        """Return what `make` does, made once for all who follow a job: what is the same for them
        and changes no more, as its end. They come for it all at once. Raises what `make` does."""
        feed = self._feeds.get(job)
        if feed is None:
            return await make()
        made = feed.shared.get(what)
        if made is None:
            made = feed.shared[what] = asyncio.ensure_future(make())
            if len(feed.shared) > _SHARED_MAX:
                del feed.shared[next(iter(feed.shared))]
        try:
            found: T = await asyncio.shield(made)
        except Exception:
            if feed.shared.get(what) is made:
                del feed.shared[what]
            raise
        return found

    def tell(self, jobs: Iterable[str]) -> None:
        """Note that there is something new of these."""
        if not self._feeds:
            return
        followed = [job for job in jobs if job in self._feeds]
        if followed:
            self._new.update(followed)
            self._told.set()

    async def turn(self) -> None:
        """Wait for one's turn to tell what is new: all who follow are woken at once, and would keep
        every other request waiting until all of them have."""
        wait_s = self.take_turn(asyncio.get_running_loop().time())
        if wait_s:
            await asyncio.sleep(wait_s)

    def take_turn(self, now_s: float) -> float:
        """Return how long the next one who is told waits for that."""
        self._turn_s = max(self._turn_s, now_s) + _TURN_S
        wait_s = self._turn_s - now_s
        return wait_s if wait_s >= _TURN_S_MIN else 0.0

    def stop(self) -> None:
        """Wake all: the process is about to stop."""
        for feed in self._feeds.values():
            feed.wake()

    async def _run(self) -> None:
        while True:
            jobs = await self._next()
            for at in range(0, len(jobs), _ASKED_MAX):
                try:
                    await self._take(jobs[at : at + _ASKED_MAX])
                except StoreError as error:
                    _LOG.debug("cannot look at jobs", reason=str(error))
                except Exception as error:
                    _LOG.exception("looking at jobs failed", error)
            await asyncio.sleep(self._gap_s)

    async def _next(self) -> list[str]:
        """Return the jobs to look at, once there are some, or all when it is time."""
        try:
            async with asyncio.timeout(self._poll_s):
                await self._told.wait()
        except TimeoutError:
            self._new = set(self._feeds)
        self._told.clear()
        jobs, self._new = [job for job in self._new if job in self._feeds], set()
        return jobs

    async def _take(self, jobs: Sequence[str]) -> None:
        feeds = [self._feeds[job] for job in jobs if job in self._feeds]
        asked = [Seen(feed.job, feed.claim, feed.total) for feed in feeds]
        if not asked:
            return
        found = await self._look(asked, bytes_max=_LOOK_BYTES)
        behind = []
        for feed in feeds:
            news = found.get(feed.job)
            is_new = feed.take(news)
            # who was woken goes first, and between them whoever asks for something else
            await asyncio.sleep(feed.followers * _TURN_S if is_new else 0)
            if news is not None and news.chunks is not None and not news.chunks.is_all:
                behind.append(feed.job)
        self.tell(behind)
