"""feeds.py and streams.py: what many follow is looked at once, what many calls bring is stored
together, and neither grows without bound."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from dispatcher.gateway.feeds import RECENT_BYTES, Feed, Feeds
from dispatcher.gateway.streams import Streams
from dispatcher.jobs.looks import Chunks, JobNews, Seen
from dispatcher.jobs.states import JobState
from dispatcher.jobs.values import NewChunks
from dispatcher.store.errors import StoreUnavailable
from tests.dispatcher.upstreams import claimed


class Jobs:
    """Jobs as a store would show them."""

    def __init__(self) -> None:
        self.values: dict[str, list[bytes]] = {}
        self.state: dict[str, JobState] = {}
        self.claim = 1
        self.looks: list[list[str]] = []
        self.away = False

    async def look(self, asked: Sequence[Seen], *, bytes_max: int) -> Mapping[str, JobNews]:
        self.looks.append([one.job for one in asked])
        if self.away:
            raise StoreUnavailable("gone")
        return {one.job: self._news(one, bytes_max) for one in asked if one.job in self.values}

    def _news(self, seen: Seen, bytes_max: int) -> JobNews:
        state = self.state.get(seen.job, "running")
        first = seen.chunks if seen.claim == self.claim else 0
        part: list[bytes] = []
        for value in self.values[seen.job][first:]:
            if sum(map(len, part)) >= bytes_max:
                break
            part.append(value)
        chunks = Chunks(
            state=state,
            run=1,
            claim=self.claim,
            first=first,
            values=tuple(part),
            total=len(self.values[seen.job]),
        )
        return JobNews(
            job=seen.job,
            state=state,
            run=1,
            claim=self.claim,
            chunks=chunks if state == "running" else None,
        )


async def until(feed: Feed, total: int) -> None:
    async with asyncio.timeout(20):
        while feed.total < total:
            await feed.wait(feed.version, 20)


async def test_what_many_follow_is_looked_at_once() -> None:
    """All jobs of which something is new in one look, however many follow them."""
    jobs = Jobs()
    feeds = Feeds(jobs.look, poll_s=60, gap_s=0.01)
    jobs.values = {"a": [b"1"], "b": [b"2"]}
    with feeds.follow("a") as a, feeds.follow("a") as again, feeds.follow("b") as b:
        assert a is again
        await until(a, 1)
        await until(b, 1)
        assert [sorted(one) for one in jobs.looks] == [["a", "b"]]
        jobs.values["a"].append(b"3")
        feeds.tell(["a", "nobody follows this"])
        await until(a, 2)
        assert jobs.looks[1:] == [["a"]]
        assert a.since(1, 0) == [b"1", b"3"]
        assert a.since(1, 1) == [b"3"]
        assert a.since(1, 2) == []
        assert a.since(0, 0) is None
        assert feeds.followed == 2
    assert feeds.followed == 0
    assert feeds._looking is None


async def test_what_all_who_follow_come_for_at_once_is_made_once() -> None:
    """Its end, say. Where that failed the next one makes it; and nothing is kept of what nobody
    follows."""
    feeds, made = Feeds(Jobs().look), 0
    go = asyncio.Event()

    async def make() -> int:
        nonlocal made
        made += 1
        await go.wait()
        if made == 1:
            raise StoreUnavailable("gone")
        return made

    with feeds.follow("a"):
        many = [asyncio.create_task(feeds.shared("a", "end", make)) for _ in range(50)]
        await asyncio.sleep(0)
        many[0].cancel()
        go.set()
        met = await asyncio.gather(*many, return_exceptions=True)
        assert {type(one) for one in met[1:]} == {StoreUnavailable}
        assert made == 1
        assert (
            await asyncio.gather(*(feeds.shared("a", "end", make) for _ in range(50))) == [2] * 50
        )
        for n in range(100):
            await feeds.shared("a", f"page {n}", make)
        with feeds.follow("a") as feed:
            assert len(feed.shared) < 20
    assert await feeds.shared("a", "end", make) == 103


def test_who_follows_is_told_in_turn() -> None:
    """However many are woken at once, a few are told at once, and the others one after another, so
    that other requests go between; who comes later, when nobody waits, waits for nobody."""
    feeds = Feeds(Jobs().look)
    waits = [feeds.take_turn(100.0) for _ in range(500)]
    at_once = waits.count(0.0)
    assert 5 <= at_once <= 10
    assert waits == sorted(waits)
    steps = [after - before for before, after in pairwise(waits[at_once:])]
    assert min(steps) == pytest.approx(max(steps))
    assert 0.05 < waits[-1] < 0.2
    assert feeds.take_turn(100.0 + waits[-1] + 1) == 0.0


async def test_what_nobody_could_tell_of_is_found_all_the_same() -> None:
    """Within a poll; also once the database is back."""
    jobs = Jobs()
    feeds = Feeds(jobs.look, poll_s=0.02, gap_s=0.0)
    jobs.values["a"] = []
    jobs.away = True
    with feeds.follow("a") as feed:
        while len(jobs.looks) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert feed.version == 0
        jobs.away = False
        jobs.values["a"].append(b"1")
        await until(feed, 1)
        jobs.state["a"] = "completed"
        while feed.news is None or feed.news.state != "completed":
            assert await feed.wait(feed.version, 20)
        del jobs.values["a"]
        while not feed.is_gone:
            assert await feed.wait(feed.version, 20)
        assert not await feed.wait(feed.version, 0.05)


async def test_a_feed_holds_so_much_at_most() -> None:
    """Whoever is behind that reads it from the store."""
    jobs = Jobs()
    feeds = Feeds(jobs.look, poll_s=0.01, gap_s=0.0)
    jobs.values["a"] = [b"x" * 1_000] * 2_000
    with feeds.follow("a") as feed:
        await until(feed, 2_000)
        assert feed.recent_bytes <= RECENT_BYTES + 100_000
        assert feed.since(1, 0) is None
        assert feed.since(1, 1_990) == jobs.values["a"][1_990:]
        jobs.claim, jobs.values["a"] = 2, [b"anew"]
        feeds.tell(["a"])
        while feed.claim != 2:
            assert await feed.wait(feed.version, 20)
        assert feed.since(2, 0) == [b"anew"]
        assert feed.since(1, 5) is None


class Table:
    """Stores chunks, as it is told to."""

    def __init__(self) -> None:
        self.puts: list[list[NewChunks]] = []
        self.current = True
        self.failures = 0

    async def put(self, given: Sequence[NewChunks]) -> Collection[tuple[str, int]]:
        await asyncio.sleep(0.01)
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("gone")
        self.puts.append(list(given))
        return {(one.job, one.claim) for one in given} if self.current else set()

    @property
    def stored(self) -> list[tuple[str, int, int]]:
        return [(one.job, one.n, one.size) for put in self.puts for one in put]


def brings(stream: Any, *values: bytes) -> None:
    for value in values:
        stream.joined.add(value)
    stream.added()


async def until_stored(streams: Streams) -> None:
    async with asyncio.timeout(20):
        while streams._storing is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_many_calls_bring_is_stored_together() -> None:
    """The first at once, then what has come meanwhile, of all calls in one operation."""
    table, told = Table(), []
    streams = Streams(
        table.put, on_output=lambda job, value: told.append((job.id, value)), every_s=0.05
    )
    calls = [streams.open(claimed(id=f"job{n}")) for n in range(3)]
    brings(calls[0], b"1")
    await asyncio.sleep(0)
    for call in calls:
        brings(call, b"2", b"3")
    await until_stored(streams)
    assert len(table.puts) == 2
    assert sorted(table.stored) == [
        ("job0", 0, 1), ("job0", 1, 2), ("job1", 0, 2), ("job2", 0, 2),
    ]  # fmt: skip
    assert told[0] == ("job0", b"1")
    assert sorted(told[1:]) == [("job0", b"3"), ("job1", b"3"), ("job2", b"3")]


async def test_what_cannot_be_stored_yet_is_stored_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, and in order."""
    monkeypatch.setattr("dispatcher.gateway.streams._AGAIN_S", 0.02)
    table = Table()
    table.failures = 2
    streams = Streams(table.put, every_s=0.01)
    call = streams.open(claimed(id="job"))
    brings(call, b"1")
    await asyncio.sleep(0.03)
    brings(call, b"2")
    await until_stored(streams)
    assert table.stored == [("job", 0, 2)]


async def test_nothing_is_stored_under_a_claim_that_has_gone() -> None:
    table = Table()
    table.current = False
    streams = Streams(table.put, every_s=0.01)
    call = streams.open(claimed(id="job"))
    brings(call, b"1")
    await until_stored(streams)
    brings(call, b"2")
    assert call.is_gone
    await until_stored(streams)
    assert len(table.puts) == 1


async def test_the_last_ones_are_stored_before_an_end_that_has_no_output() -> None:
    """Once; with an output they come with that."""
    table = Table()
    streams = Streams(table.put, every_s=10)
    kept, left = streams.open(claimed(id="kept")), streams.open(claimed(id="left"))
    brings(kept, b"1")
    await asyncio.sleep(0.05)
    brings(kept, b"2")
    brings(left, b"3")
    await kept.end(is_kept=True)
    busy = streams.open(claimed(id="busy"))
    brings(busy, b"1")
    first = asyncio.create_task(streams.store([busy]))
    await asyncio.sleep(0)
    brings(busy, b"2")
    await busy.end(is_kept=True)  # what is being stored comes first
    assert await first
    await left.end(is_kept=False)
    assert table.stored == [("kept", 0, 1), ("kept", 1, 1), ("busy", 0, 1), ("busy", 1, 1)]
    await streams.stop()
