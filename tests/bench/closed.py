"""Saturation: a fixed number of callbacks between submit and arrival, each one's end starting the
next. Both sides of every comparison get the same number."""

import asyncio
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.bench.framing import Framed
from tests.bench.payload import Requests
from tests.bench.sink import Sink

_DRAIN_S = 60.0  # longer than any delivery takes: what is missing then is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What happened while it was measured. `others` are arrivals of what was not submitted here;
    CPU seconds are None where the system does not tell them, or there is no such process."""

    seconds: float
    accepted: int
    delivered: int
    others: int
    dispatcher_cpu_s: float | None
    server_cpu_s: float | None
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
        return self._each_us(self.dispatcher_cpu_s)

    @property
    def server_cpu_us(self) -> float | None:
        """The database server's CPU time per delivery, in microseconds."""
        return self._each_us(self.server_cpu_s)

    def _each_us(self, cpu_s: float | None) -> float | None:
        deliveries = self.delivered + self.others
        return None if cpu_s is None or not deliveries else cpu_s / deliveries * 1e6


def since(before_s: float | None, after_s: float | None) -> float | None:
    """What was used between two readings, where there are both."""
    return None if before_s is None or after_s is None else after_s - before_s


class ClosedLoop:
    """`in_flight` connections, spread evenly over the servers; each sends the next request when
    its last one was both answered and, where it leads to one, delivered."""

    def __init__(
        self, requests: Sequence[Requests], sink: Sink, numbers: Iterator[int], *, in_flight: int
    ) -> None:
        self._requests = requests
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
        self,
        cpu_s: Callable[[], float | None],
        *,
        server_cpu_s: Callable[[], float | None] = lambda: None,
        warm_up_s: float,
        seconds: float,
        others: bool = False,
    ) -> Window:
        """Run, warm up, measure, and wait for what is still on its way. Measured for longer where
        no delivery (with `others`, none of theirs) fell into the time. Raises RuntimeError where
        a submit was refused or a delivery is missing."""
        clients = await self._connect()
        async with self._sink.hearing(self.arrived):
            for client in clients:
                self._running += 1
                client.go_on()
            await asyncio.sleep(warm_up_s)
            window = await self._watch(cpu_s, server_cpu_s, seconds, others)
            self._stopping = True
            await self._drain()
        for client in clients:
            client.transport.close()
        return window

    async def _connect(self) -> "list[_Client]":
        loop = asyncio.get_running_loop()
        clients = []
        for n in range(self._in_flight):
            requests = self._requests[n % len(self._requests)]
            _, client = await loop.create_connection(
                functools.partial(_Client, self, requests), requests.host, requests.port
            )
            clients.append(client)
        return clients

    async def _watch(
        self,
        cpu_s: Callable[[], float | None],
        server_cpu_s: Callable[[], float | None],
        seconds: float,
        others: bool,
    ) -> Window:
        cpu, server_cpu = cpu_s(), server_cpu_s()
        before = (self.accepted, self.delivered, self.others)
        began, load_cpu = time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while self.delivered == before[1] or (others and self.others == before[2]):  # noqa: ASYNC110
                    await asyncio.sleep(seconds / 10)
        ended, load_cpu_after = time.monotonic(), time.process_time()
        return Window(
            seconds=ended - began,
            accepted=self.accepted - before[0],
            delivered=self.delivered - before[1],
            others=self.others - before[2],
            dispatcher_cpu_s=since(cpu, cpu_s()),
            server_cpu_s=since(server_cpu, server_cpu_s()),
            load_cpu_s=load_cpu_after - load_cpu,
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

    def next_request(self, client: "_Client") -> bytes | None:
        """What this client submits next, or None when the run is over."""
        if self._stopping or self.refusal is not None:
            self._running -= 1
            if not self._running:
                self._ended.set()
            return None
        number, requests = next(self._numbers), client.requests
        if requests.arrive:
            self._waiting[number] = client
        return requests.request(number, number % requests.destinations)

    def answered(self, client: "_Client") -> None:
        """A request was answered as wanted."""
        self.accepted += 1
        if not client.requests.arrive:
            self.delivered += 1
        client.delivered()


class _Client(Framed):
    length_name = b"\r\ncontent-length: "

    def __init__(self, run: ClosedLoop, requests: Requests) -> None:
        super().__init__()
        self._run = run
        self.requests = requests
        self._missing = 0

    def go_on(self) -> None:
        request = self._run.next_request(self)
        if request is not None:
            # The answer and the arrival, in whichever order.
            self._missing = 2 if self.requests.arrive else 1
            self.transport.write(request)

    def delivered(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.go_on()

    def message(self, data: bytes, start: int, body: int, end: int) -> None:
        if data.startswith(self.requests.accepted, start):
            self._run.answered(self)
        else:
            self._run.refusal = data[start:end]
            self._missing = 0
            self.go_on()
