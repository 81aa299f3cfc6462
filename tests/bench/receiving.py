"""Part 6: the receiver: how much it verifies and keeps beside a bare handler under the same
server, how long an answer takes, and what a flood of badly signed requests costs. Where there is a
PostgreSQL, the first two also with the inbox there."""

import asyncio
import itertools
import math
import os
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench import figures, messages, process
from tests.bench.bench import Bench
from tests.bench.closed import ClosedLoop, Window, since
from tests.bench.figures import Figures
from tests.bench.messages import Fresh, Messages, Repeated
from tests.bench.paced import Paced, Sample
from tests.bench.process import Child

RATE_PER_S: Final = 500
FLOOD_PER_S: Final = 2_000
FLOODERS: Final = 32  # connections of a flood that sends as fast as it is answered
_PROBE_S: Final = 0.5
_SPARE: Final = 1.2  # the bare handler's later rounds may be faster than the probe


@dataclass(slots=True, kw_only=True)
class _Seen:
    """Of all rounds. `kept` counts what the receiver said that it keeps."""

    durable: list[Window] = field(default_factory=list)
    bare: list[Window] = field(default_factory=list)
    steady: list[Figures] = field(default_factory=list)
    flooded: list[Figures] = field(default_factory=list)
    swamped: list[Figures] = field(default_factory=list)
    refused: list[Window] = field(default_factory=list)
    flood_bytes: list[float | None] = field(default_factory=list)
    files_changed: int = 0
    kept: int = 0
    signed_late: int = 0
    shared: list[Window] = field(default_factory=list)  # on PostgreSQL
    shared_steady: list[Figures] = field(default_factory=list)


class _Rounds:
    """Receivers and a bare handler on one core: all run all the time, one has work."""

    def __init__(
        self, bench: Bench, inbox: Child, bare: Child, quiet: Child, shared: Child | None
    ) -> None:
        self._bench = bench
        self._inbox = inbox
        self._bare = bare
        self._quiet = quiet
        self._shared = shared
        self._fresh = Fresh(inbox.url)
        self.seen = _Seen()

    async def saturate(self, count: int) -> None:
        """One round of the receiver, one of the bare handler, with the same messages."""
        requests = self._fresh.prepare(itertools.islice(self._bench.numbers, count))
        late = self._fresh.signed_late
        window, kept = await self._closed(self._inbox, self._fresh)
        self.seen.durable.append(window)
        self.seen.kept += kept
        self.seen.signed_late += self._fresh.signed_late - late
        window, _ = await self._closed(self._bare, Repeated(self._bare.url, requests))
        self.seen.bare.append(window)

    async def share(self, count: int) -> None:
        """One round of the receiver on PostgreSQL, where there is one."""
        if self._shared is None:
            return
        fresh = Fresh(self._shared.url)
        fresh.prepare(itertools.islice(self._bench.numbers, count))
        window, _ = await self._closed(self._shared, fresh)
        self.seen.shared.append(window)
        steady = await self._paced(fresh, self._bench.options.seconds)
        self.seen.shared_steady.append(figures.latency(steady))

    async def pace(self) -> None:
        """One round at a steady rate, alone and within floods of two kinds."""
        seconds = self._bench.options.seconds
        await self._steady(self._bench.options.warm_up)
        self.seen.steady.append(await self._steady(seconds))
        flood = Paced(messages.flood(self._inbox.url), self._bench.sink, self._bench.numbers)
        flooding = asyncio.create_task(flood.run(rate=FLOOD_PER_S, seconds=seconds))
        self.seen.flooded.append(await self._steady(seconds))
        await flooding
        swamp = asyncio.create_task(
            self._loop(messages.flood(self._inbox.url), FLOODERS).measure(
                lambda: None, warm_up_s=0, seconds=seconds / 2
            )
        )
        self.seen.swamped.append(await self._steady(seconds / 2))
        await swamp

    async def flood(self) -> None:
        """One round of nothing but badly signed requests. This receiver logs to nowhere, so that
        whatever its process writes is written for them."""
        files_before, before = self._files(), self._quiet.written_bytes()
        loop = self._loop(messages.flood(self._quiet.url))
        seconds = self._bench.options.seconds / 2
        window = await loop.measure(self._quiet.cpu_s, warm_up_s=0, seconds=seconds)
        self.seen.refused.append(window)
        self.seen.flood_bytes.append(since(before, self._quiet.written_bytes()))
        self.seen.files_changed += self._files() != files_before

    async def probe(self) -> float:
        """About how many requests a second the bare handler answers."""
        probe = self._loop(Repeated(self._bare.url, [messages.signed(0)]))
        window = await probe.measure(lambda: None, warm_up_s=0, seconds=_PROBE_S)
        return window.accepted_per_s

    async def _closed(self, child: Child, requests: Messages) -> tuple[Window, int]:
        loop, options = self._loop(requests), self._bench.options
        window = await loop.measure(child.cpu_s, warm_up_s=options.warm_up, seconds=options.seconds)
        return window, loop.accepted

    def _loop(self, requests: Messages, connections: int | None = None) -> ClosedLoop:
        in_flight = connections or self._bench.options.in_flight
        numbers = self._bench.numbers
        return ClosedLoop([requests], self._bench.sink, numbers, in_flight=in_flight)

    async def _steady(self, seconds: float) -> Figures:
        samples = await self._paced(self._fresh, seconds)
        self.seen.kept += len(samples)
        return figures.latency(samples)

    async def _paced(self, fresh: Fresh, seconds: float) -> list[Sample]:
        count = max(1, round(RATE_PER_S * seconds))
        fresh.prepare(itertools.islice(self._bench.numbers, count))
        paced = Paced(fresh, self._bench.sink, self._bench.numbers)
        return await paced.run(rate=RATE_PER_S, seconds=seconds)

    def _files(self) -> list[tuple[str, int, int]]:
        stats = ((path.name, path.stat()) for path in _files(self._bench, "quiet"))
        return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


async def measure(bench: Bench) -> Figures:
    """Rounds of everything in turn; then what was kept is counted in the file."""
    async with AsyncExitStack() as stack:
        inbox = await stack.enter_async_context(_running(bench, "inbox", "receiver"))
        bare = await stack.enter_async_context(_running(bench, "bare", "bare"))
        quiet = await stack.enter_async_context(_running(bench, "quiet", "receiver", logs=False))
        shared = None
        if bench.postgres is not None:
            url = bench.database_url("receiver", "postgres")
            running = _running(bench, "shared", "receiver", database_url=url)
            shared = await stack.enter_async_context(running)
        rounds = _Rounds(bench, inbox, bare, quiet, shared)
        seconds = bench.options.warm_up + bench.options.seconds
        count = math.ceil(await rounds.probe() * seconds * _SPARE)
        for _ in range(bench.options.rounds):
            await rounds.saturate(count)
            await rounds.pace()
            await rounds.flood()
            await rounds.share(count)
        written = inbox.written_bytes()
    return _figures(rounds.seen, _stored(bench), written)


def _running(
    bench: Bench, name: str, kind: str, *, logs: bool = True, database_url: str | None = None
) -> AbstractAsyncContextManager[Child]:
    return process.receiving(
        kind,
        bench.directory / f"{name}.log" if logs else Path(os.devnull),
        cores=bench.cores.dispatcher,
        secrets=messages.SECRET,
        database_url=database_url or f"sqlite:///{_path(bench, name)}",
        port=0,
        log_format="json",
        drain_grace=1,
    )


def _path(bench: Bench, name: str) -> Path:
    return bench.directory / f"{name}-receiver.db"


def _files(bench: Bench, name: str) -> Sequence[Path]:
    return list(bench.directory.glob(f"{_path(bench, name).name}*"))


def _stored(bench: Bench) -> int:
    uri = f"{_path(bench, 'inbox').as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as db:
        (stored,) = db.execute("SELECT count(*) FROM messages").fetchone()
        return int(stored)


def _figures(seen: _Seen, stored: int, written: int | None) -> Figures:
    durable, bare = figures.saturation(seen.durable), figures.saturation(seen.bare)
    steady, flooded, swamped = map(figures.medians, (seen.steady, seen.flooded, seen.swamped))
    return {
        "durable": durable,
        "shared": figures.saturation(seen.shared) if seen.shared else None,
        "sharedSteady": figures.medians(seen.shared_steady) if seen.shared_steady else None,
        "bare": bare,
        "durableToBare": figures.ratio(durable["acceptedPerSecond"], bare["acceptedPerSecond"]),
        "ratePerSecond": RATE_PER_S,
        "steady": steady,
        "flooded": flooded | {"floodPerSecond": FLOOD_PER_S},
        "swamped": swamped | {"floodConnections": FLOODERS},
        "floodedToSteady": figures.ratio(flooded["acceptP99Ms"], steady["acceptP99Ms"]),
        "swampedToSteady": figures.ratio(swamped["acceptP99Ms"], steady["acceptP99Ms"]),
        "flood": figures.saturation(seen.refused),
        "floodWrittenBytes": figures.total(seen.flood_bytes),
        "floodFilesChanged": seen.files_changed,
        "kept": seen.kept,
        "stored": stored,
        "writtenBytes": written,
        "signedLate": seen.signed_late,
    }
