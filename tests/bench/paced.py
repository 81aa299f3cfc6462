"""A steady rate, whatever the answers do: every latency counts from the moment the submit was to
be sent, so that a stall is paid for by all that it held up (no coordinated omission)."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.bench.framing import Framed
from tests.bench.payload import Requests
from tests.bench.sink import Sink

_CONNECTIONS: Final = 64
_DRAIN_S: Final = 60.0
_LEAD_S: Final = 0.1  # from the decision to start to the first submit


@dataclass(slots=True, kw_only=True)
class Sample:
    """One callback; times in seconds, latencies from `due_s`, which counts from the run's start."""

    destination: int
    due_s: float
    late_s: float = 0.0  # how late the load generator itself was
    accept_s: float | None = None
    arrival_s: float | None = None


class Paced:
    """Sends at `rate` a second, to the destinations in turn. The `silent` ones are not waited
    for."""

    def __init__(
        self,
        submits: Requests,
        sink: Sink,
        numbers: Iterator[int],
        *,
        silent: Collection[int] = (),
        drain_s: float = _DRAIN_S,
    ) -> None:
        self._drain_s = drain_s
        self._submits = submits
        self._sink = sink
        self._numbers = numbers
        self._silent = silent
        self._idle: list[_Client] = []
        self._unsent: deque[tuple[bytes, Sample]] = deque()
        self._samples: dict[int, Sample] = {}
        self._began_s = 0.0
        self._left = 0
        self._ended = asyncio.Event()
        self.refusal: bytes | None = None

    async def run(self, *, rate: float, seconds: float) -> list[Sample]:
        """All samples, once every answer and every arrival is there. Raises RuntimeError where a
        submit was refused or a delivery is missing."""
        count = max(1, round(rate * seconds))
        loud = sum(self._is_loud(n % self._submits.destinations) for n in range(count))
        self._left = count + loud
        clients = await self._connect()
        self._idle = list(clients)
        self._began_s = time.monotonic() + _LEAD_S
        try:
            async with self._sink.hearing(self._arrived), self._ticking(count, rate):
                await self._drain(_LEAD_S + seconds + self._drain_s)
        finally:
            for client in clients:
                client.transport.close()
        return list(self._samples.values())

    @property
    def seen(self) -> Iterator[tuple[int, float, Sample]]:
        """Each job's number, the moment at which it was to be sent (`time.monotonic()`), and its
        sample."""
        for number, sample in self._samples.items():
            yield number, self._began_s + sample.due_s, sample

    def _is_loud(self, destination: int) -> bool:
        return self._submits.arrive and destination not in self._silent

    async def _connect(self) -> "list[_Client]":
        loop = asyncio.get_running_loop()
        clients = []
        for _ in range(_CONNECTIONS):
            _, client = await loop.create_connection(
                lambda: _Client(self, self._submits.accepted),
                self._submits.host,
                self._submits.port,
            )
            clients.append(client)
        return clients

    @asynccontextmanager
    async def _ticking(self, count: int, rate: float) -> AsyncIterator[None]:
        """A thread keeps the time: an event loop's timers are a millisecond coarse."""
        loop, stopped = asyncio.get_running_loop(), threading.Event()

        def tick() -> None:
            for n in range(count):
                wait_s = self._began_s + n / rate - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
                if stopped.is_set():
                    return
                loop.call_soon_threadsafe(self._submit, n, n / rate)

        thread = threading.Thread(target=tick, name="ticker")
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            await asyncio.to_thread(thread.join)

    def _submit(self, n: int, due_s: float) -> None:
        number, destination = next(self._numbers), n % self._submits.destinations
        sample = self._samples[number] = Sample(destination=destination, due_s=due_s)
        sample.late_s = self._since(sample, time.monotonic())
        request = self._submits.request(number, destination)
        if self._idle:
            self._idle.pop().send(request, sample)
        else:
            self._unsent.append((request, sample))

    def answered(self, client: "_Client", sample: Sample, refusal: bytes | None) -> None:
        """A submit was answered; the client is free for the next."""
        if refusal is not None:
            self.refusal = refusal
            self._ended.set()
            return
        sample.accept_s = self._since(sample, time.monotonic())
        if self._unsent:
            client.send(*self._unsent.popleft())
        else:
            self._idle.append(client)
        self._one_less()

    def _arrived(self, number: int, at_s: float) -> None:
        sample = self._samples.get(number)
        if sample is not None and sample.arrival_s is None:
            sample.arrival_s = self._since(sample, at_s)
            self._one_less()

    def _since(self, sample: Sample, at_s: float) -> float:
        return at_s - self._began_s - sample.due_s

    def _one_less(self) -> None:
        self._left -= 1
        if not self._left:
            self._ended.set()

    async def _drain(self, most_s: float) -> None:
        try:
            async with asyncio.timeout(most_s):
                await self._ended.wait()
        except TimeoutError:
            raise RuntimeError(f"{self._left} answers and deliveries never came") from None
        if self.refusal is not None:
            raise RuntimeError(f"a submit was refused: {self.refusal!r}")


class _Client(Framed):
    length_name = b"\r\ncontent-length: "

    def __init__(self, run: Paced, accepted: bytes) -> None:
        super().__init__()
        self._run = run
        self._accepted = accepted
        self._sample: Sample | None = None

    def send(self, request: bytes, sample: Sample) -> None:
        self._sample = sample
        self.transport.write(request)

    def message(self, data: bytes, start: int, body: int, end: int) -> None:
        sample, self._sample = self._sample, None
        if sample is None:
            raise RuntimeError(f"an answer without a question: {data[start:end]!r}")
        accepted = data.startswith(self._accepted, start)
        self._run.answered(self, sample, None if accepted else data[start:end])
