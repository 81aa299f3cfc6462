"""Saturation: a fixed number of callbacks between submit and arrival, each one's end starting the
next. Both sides of every comparison get the same number."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.bench.framing import Framed
from tests.bench.payload import Submits
from tests.bench.sink import Sink

_DRAIN_S = 60.0  # longer than any delivery takes: what is missing then is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What happened while it was measured. `others` are arrivals of what was not submitted here;
    CPU seconds are None where the system does not tell them."""

    seconds: float
    accepted: int
    delivered: int
    others: int
    dispatcher_cpu_s: float | None
    load_cpu_s: float

    @property
    def accepted_per_s(self) -> float:
        return self.accepted / self.seconds

    @property
    def delivered_per_s(self) -> float:
        return self.delivered / self.seconds

    @property
    def cpu_us(self) -> float | None:
        """The dispatcher's CPU time per delivery, in microseconds."""
        deliveries = self.delivered + self.others
        if self.dispatcher_cpu_s is None or not deliveries:
            return None
        return self.dispatcher_cpu_s / deliveries * 1e6


class ClosedLoop:
    """`in_flight` connections; each submits the next callback when its last one was both answered
    and delivered."""

    def __init__(
        self,
        submits: Submits,
        sink: Sink,
        numbers: Iterator[int],
        *,
        in_flight: int,
        others: Sequence[Submits] = (),
    ) -> None:
        self._submits = submits
        self._targets = [submits, *others]  # of several dispatchers, in turn
        self._sink = sink
        self._numbers = numbers
        self._in_flight = in_flight
        self._waiting: dict[int, _Client] = {}
        self._stopping = False
        self._running = 0
        self._ended = asyncio.Event()
        self.accepted = 0
        self.delivered = 0
        self.others = 0
        self.refusal: bytes | None = None

    async def measure(
        self, cpu_s: Callable[[], float | None], *, warm_up_s: float, seconds: float
    ) -> Window:
        """Run, warm up, measure, and wait for what is still on its way. Raises RuntimeError where
        a submit was refused or a delivery is missing."""
        clients = await self._connect()
        async with self._sink.hearing(self.arrived):
            for client in clients:
                self._running += 1
                client.go_on()
            await asyncio.sleep(warm_up_s)
            window = await self._watch(cpu_s, seconds)
            self._stopping = True
            await self._drain()
        for client in clients:
            client.transport.close()
        return window

    async def _connect(self) -> list[_Client]:
        loop = asyncio.get_running_loop()
        clients = []
        for n in range(self._in_flight):
            target = self._targets[n % len(self._targets)]
            _, client = await loop.create_connection(
                lambda: _Client(self), target.host, target.port
            )
            clients.append(client)
        return clients

    async def _watch(self, cpu_s: Callable[[], float | None], seconds: float) -> Window:
        before = (self.accepted, self.delivered, self.others)
        began, cpu, load_cpu = time.monotonic(), cpu_s(), time.process_time()
        await asyncio.sleep(seconds)
        ended, cpu_after = time.monotonic(), cpu_s()
        return Window(
            seconds=ended - began,
            accepted=self.accepted - before[0],
            delivered=self.delivered - before[1],
            others=self.others - before[2],
            dispatcher_cpu_s=None if cpu is None or cpu_after is None else cpu_after - cpu,
            load_cpu_s=time.process_time() - load_cpu,
        )

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(_DRAIN_S):
                await self._ended.wait()
        except TimeoutError:
            raise RuntimeError(f"{len(self._waiting)} deliveries never arrived") from None
        if self.refusal is not None:
            raise RuntimeError(f"a submit was refused: {self.refusal!r}")

    def arrived(self, number: int, _at_s: float) -> None:
        """A delivery reached the sink."""
        client = self._waiting.pop(number, None)
        if client is None:
            self.others += 1
        else:
            self.delivered += 1
            client.delivered()

    def next_request(self, client: _Client) -> bytes | None:
        """What this client submits next, or None when the run is over."""
        if self._stopping or self.refusal is not None:
            self._running -= 1
            if not self._running:
                self._ended.set()
            return None
        number = next(self._numbers)
        self._waiting[number] = client
        return self._submits.request(number, number % self._submits.destinations)


class _Client(Framed):
    length_name = b"\r\ncontent-length: "

    def __init__(self, run: ClosedLoop) -> None:
        super().__init__()
        self._run = run
        self._missing = 0

    def go_on(self) -> None:
        request = self._run.next_request(self)
        if request is not None:
            self._missing = 2  # the answer and the arrival, in whichever order
            self.transport.write(request)

    def delivered(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.go_on()

    def message(self, data: bytes, start: int, body: int, end: int) -> None:
        if data.startswith(b"HTTP/1.1 202", start):
            self._run.accepted += 1
            self.delivered()
        else:
            self._run.refusal = data[start:end]
            self._missing = 0
            self.go_on()
